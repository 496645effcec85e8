//! Global memory: allocations above 2^32, a gap between any two, and a note of what has been written.
//!
//! Blocks on several host threads share it as relaxed atomic words, so no two of them can tear one. An address is never
//! given twice, so a use after a free is as much out of bounds as one past the end.

use crate::error::Error;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};

const FIRST: u64 = 1 << 33;
/// Between allocations: an index that is off by whole rows still meets nothing.
const GAP: u64 = 1 << 20;
/// CUDA aligns to 256 bytes and promises no more, nor do we.
const ALIGN: u64 = 256;

/// The memory of a simulated GPU.
#[derive(Default)]
pub struct Memory {
    /// By address.
    allocations: Vec<Allocation>,
    next: u64,
}

pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    words: Vec<AtomicU32>,
    /// Everything has been written.
    full: AtomicBool,
    /// Written bytes of each word, made when the first part is written.
    written: OnceLock<Vec<AtomicU8>>,
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that nobody has written yet.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Error> {
        let count = usize::try_from(bytes.div_ceil(4)).ok().filter(|count| *count <= 1 << 40);
        let mut words = Vec::new();
        let fits = count.filter(|count| words.try_reserve_exact(*count).is_ok());
        let Some(count) = fits else {
            return Err(Error::Launch(format!("no memory for a buffer of {bytes} bytes")));
        };
        words.resize_with(count, || AtomicU32::new(0));
        // An odd multiple of the alignment: nothing is aligned better by chance.
        let base = (FIRST + self.next).next_multiple_of(2 * ALIGN) + ALIGN;
        self.next = base + bytes + GAP - FIRST;
        let allocation = Allocation {
            base,
            bytes,
            words,
            full: AtomicBool::new(bytes == 0),
            written: OnceLock::new(),
        };
        self.allocations.push(allocation);
        Ok(base)
    }

    pub fn free(&mut self, address: u64) -> Result<(), Error> {
        match self.allocations.binary_search_by_key(&address, |a| a.base) {
            Ok(at) => {
                self.allocations.remove(at);
                Ok(())
            }
            Err(_) => Err(Error::Launch(format!("{address:#x} is no buffer that could be freed"))),
        }
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let (allocation, offset) = self.span(address, bytes.len() as u64)?;
        allocation.store_bytes(offset, bytes);
        Ok(())
    }

    pub fn fill(&self, address: u64, byte: u8, bytes: u64) -> Result<(), Error> {
        let (allocation, offset) = self.span(address, bytes)?;
        let chunk = [byte; 4096];
        let mut at = 0;
        while at < bytes {
            let some = (bytes - at).min(4096);
            allocation.put_bytes(offset + at, &chunk[..some as usize]);
            at += some;
        }
        allocation.mark(offset, bytes);
        Ok(())
    }

    /// What lies there; bytes that nobody has written are zeros.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let (allocation, offset) = self.span(address, bytes.len() as u64)?;
        allocation.load_bytes(offset, bytes);
        Ok(())
    }

    /// Copies between buffers, and what is unwritten stays so.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Error> {
        let (source, start) = self.span(from, bytes)?;
        let (target, offset) = self.span(to, bytes)?;
        let mut chunk = vec![0; bytes as usize];
        source.load_bytes(start, &mut chunk);
        target.put_bytes(offset, &chunk);
        if source.is_written(start, bytes) {
            target.mark(offset, bytes);
        } else {
            (0..bytes)
                .filter(|i| source.is_written(start + i, 1))
                .for_each(|i| target.mark(offset + i, 1));
        }
        Ok(())
    }

    fn span(&self, address: u64, bytes: u64) -> Result<(&Allocation, u64), Error> {
        let found = self.find(address, 0).map(|at| &self.allocations[at]);
        match found {
            Some(a) if bytes <= a.bytes - (address - a.base) => Ok((a, address - a.base)),
            _ => Err(Error::Launch(format!("{bytes} bytes at {address:#x} lie in no buffer"))),
        }
    }

    /// The allocation that an address lies in, tried first at `hint`.
    pub(crate) fn find(&self, address: u64, hint: usize) -> Option<usize> {
        let holds = |a: &Allocation| address.wrapping_sub(a.base) < a.bytes.max(1);
        if self.allocations.get(hint).is_some_and(holds) {
            return Some(hint);
        }
        let after = self.allocations.partition_point(|a| a.base <= address);
        let at = after.checked_sub(1)?;
        holds(&self.allocations[at]).then_some(at)
    }

    pub(crate) fn allocations(&self) -> &[Allocation] {
        &self.allocations
    }
}

impl Allocation {
    pub fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    pub fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    pub fn is_written(&self, offset: u64, bytes: u64) -> bool {
        if self.is_full() {
            return true;
        }
        let Some(written) = self.written.get() else { return bytes == 0 };
        let mut at = offset;
        while at < offset + bytes {
            let within = at % 4;
            let some = (4 - within).min(offset + bytes - at);
            let mask = ((1u8 << some) - 1) << within;
            if written[(at / 4) as usize].load(Relaxed) & mask != mask {
                return false;
            }
            at += some;
        }
        true
    }

    pub fn mark(&self, offset: u64, bytes: u64) {
        if self.is_full() {
            return;
        }
        if offset == 0 && bytes == self.bytes {
            self.full.store(true, Relaxed);
            return;
        }
        let written =
            self.written.get_or_init(|| (0..self.words.len()).map(|_| AtomicU8::new(0)).collect());
        let mut at = offset;
        while at < offset + bytes {
            let within = at % 4;
            let some = (4 - within).min(offset + bytes - at);
            let word = &written[(at / 4) as usize];
            if some == 4 {
                word.store(0xf, Relaxed);
            } else {
                let mask = ((1u8 << some) - 1) << within;
                if word.load(Relaxed) & mask != mask {
                    word.fetch_or(mask, Relaxed);
                }
            }
            at += some;
        }
    }

    /// An element of 1, 2, 4 or 8 bytes at a multiple of its size.
    #[inline]
    pub fn load(&self, offset: u64, bytes: u64) -> u64 {
        let at = (offset / 4) as usize;
        let word = u64::from(self.words[at].load(Relaxed));
        match bytes {
            4 => word,
            8 => word | u64::from(self.words[at + 1].load(Relaxed)) << 32,
            2 => word >> (offset % 4 * 8) & 0xffff,
            _ => word >> (offset % 4 * 8) & 0xff,
        }
    }

    #[inline]
    pub fn store(&self, offset: u64, bytes: u64, value: u64) {
        let at = (offset / 4) as usize;
        match bytes {
            4 => self.words[at].store(value as u32, Relaxed),
            8 => {
                self.words[at].store(value as u32, Relaxed);
                self.words[at + 1].store((value >> 32) as u32, Relaxed);
            }
            _ => {
                let shift = offset % 4 * 8;
                let mask = (if bytes == 2 { 0xffff } else { 0xff }) << shift;
                self.update(offset, |word| word & !mask | (value << shift) as u32 & mask);
            }
        }
    }

    /// Changes one word as a whole; gives what was there.
    pub fn update(&self, offset: u64, f: impl Fn(u32) -> u32) -> u32 {
        let word = &self.words[(offset / 4) as usize];
        word.fetch_update(Relaxed, Relaxed, |old| Some(f(old)))
            .expect("the function always gives a value")
    }

    fn store_bytes(&self, offset: u64, bytes: &[u8]) {
        self.put_bytes(offset, bytes);
        self.mark(offset, bytes.len() as u64);
    }

    fn put_bytes(&self, offset: u64, bytes: &[u8]) {
        let head = ((4 - offset % 4) % 4).min(bytes.len() as u64) as usize;
        let (head, rest) = bytes.split_at(head);
        for (i, byte) in head.iter().enumerate() {
            self.store(offset + i as u64, 1, (*byte).into());
        }
        let start = ((offset + head.len() as u64) / 4) as usize;
        let chunks = rest.chunks_exact(4);
        let tail = chunks.remainder();
        for (word, four) in self.words[start.min(self.words.len())..].iter().zip(chunks) {
            word.store(u32::from_le_bytes(four.try_into().expect("four bytes")), Relaxed);
        }
        let at = offset + (bytes.len() - tail.len()) as u64;
        for (i, byte) in tail.iter().enumerate() {
            self.store(at + i as u64, 1, (*byte).into());
        }
    }

    fn load_bytes(&self, offset: u64, bytes: &mut [u8]) {
        let head = ((4 - offset % 4) % 4).min(bytes.len() as u64) as usize;
        let (head, rest) = bytes.split_at_mut(head);
        for (i, byte) in head.iter_mut().enumerate() {
            *byte = self.load(offset + i as u64, 1) as u8;
        }
        let start = offset + head.len() as u64;
        for (i, some) in rest.chunks_mut(4).enumerate() {
            let word = self.words[(start / 4) as usize + i].load(Relaxed).to_le_bytes();
            some.copy_from_slice(&word[..some.len()]);
        }
    }
}
