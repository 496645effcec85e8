//! Buffers and shared arrays, every access checked.

use super::fault::{Accessor, Cause};
use super::program::{Memory, Program};
use q35_types::DType;
use std::cell::Cell;

/// What a launch binds to a parameter. Elements are little-endian; what is left over at the
/// end of the bytes and makes no element is out of bounds.
#[derive(Debug)]
pub enum Arg<'a> {
    /// A buffer that is only read.
    Read(&'a [u8]),
    /// A buffer, for parameters of any access.
    Write(&'a mut [u8]),
    /// The buffers of a table.
    Table(&'a [&'a [u8]]),
}

impl Arg<'_> {
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Arg::Read(_) => "a read-only buffer",
            Arg::Write(_) => "a buffer",
            Arg::Table(_) => "a table",
        }
    }

    /// The bytes to read from; `entry` of a table.
    fn bytes(&self, name: &str, entry: Option<i32>) -> Result<&[u8], Cause> {
        match (self, entry) {
            (Arg::Read(b), _) => Ok(b),
            (Arg::Write(b), _) => Ok(b),
            (Arg::Table(list), number) => {
                let number = number.expect("verified: a table is read by entry");
                let found = usize::try_from(number).ok().and_then(|n| list.get(n));
                found.copied().ok_or_else(|| Cause::NoEntry {
                    param: name.into(),
                    number,
                    len: list.len(),
                })
            }
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Arg::Write(b) => b,
            Arg::Read(_) | Arg::Table(_) => unreachable!("checked when the run began"),
        }
    }
}

/// Everything a launch can access.
pub(super) struct Memories<'m, 'a> {
    pub program: &'m Program,
    pub args: &'m mut [Arg<'a>],
    pub shared: Shared,
}

/// Elements from `index` on, and who wants them.
pub(super) struct Access {
    pub memory: Memory,
    pub dtype: DType,
    pub index: i64,
    /// Of a table.
    pub entry: Option<i32>,
    pub by: Accessor,
}

impl Memories<'_, '_> {
    pub(super) fn read(&mut self, from: &Access, to: &[Cell<u32>]) -> Result<(), Cause> {
        match from.memory {
            Memory::Shared { number, base, len } => {
                let name = &self.program.shared_names[number];
                let first = within(name, from.index, to.len(), len)?;
                for (i, c) in to.iter().enumerate() {
                    c.set(self.shared.read(name, base, first + i, from.by)?);
                }
            }
            Memory::Param(p) | Memory::Entry(p, _) => {
                let name = &self.program.params[p].name;
                let bytes = self.args[p].bytes(name, from.entry)?;
                let size = from.dtype.size();
                let first = within(name, from.index, to.len(), bytes.len() / size)?;
                widen(from.dtype, &bytes[first * size..][..to.len() * size], to);
            }
        }
        Ok(())
    }

    pub(super) fn write(&mut self, to: &Access, from: &[Cell<u32>]) -> Result<(), Cause> {
        match to.memory {
            Memory::Shared { number, base, len } => {
                let name = &self.program.shared_names[number];
                let first = within(name, to.index, from.len(), len)?;
                for (i, c) in from.iter().enumerate() {
                    let bits = rounded(to.dtype, c.get());
                    self.shared.write(name, base, first + i, to.by, bits)?;
                }
            }
            Memory::Param(p) | Memory::Entry(p, _) => {
                let name = &self.program.params[p].name;
                let bytes = self.args[p].bytes_mut();
                let size = to.dtype.size();
                let first = within(name, to.index, from.len(), bytes.len() / size)?;
                narrow(to.dtype, from, &mut bytes[first * size..][..from.len() * size]);
            }
        }
        Ok(())
    }
}

/// `index..index + width` if that lies within `len`.
fn within(name: &str, index: i64, width: usize, len: usize) -> Result<usize, Cause> {
    match usize::try_from(index) {
        Ok(at) if at <= len && width <= len - at => Ok(at),
        _ => Err(Cause::OutOfBounds { memory: name.into(), index, width, len }),
    }
}

/// Elements of `from`, widened, into registers.
fn widen(dtype: DType, from: &[u8], to: &[Cell<u32>]) {
    let elements = from.chunks_exact(dtype.size()).zip(to);
    match dtype {
        DType::F32 | DType::I32 => {
            elements.for_each(|(b, r)| r.set(u32::from_le_bytes(b.try_into().expect("four bytes"))))
        }
        DType::F16 => elements.for_each(|(b, r)| r.set(DType::F16.read_f32(b).to_bits())),
        DType::Bf16 => elements.for_each(|(b, r)| r.set(DType::Bf16.read_f32(b).to_bits())),
    }
}

/// Registers, rounded to the element type, into `to`.
fn narrow(dtype: DType, from: &[Cell<u32>], to: &mut [u8]) {
    let elements = from.iter().zip(to.chunks_exact_mut(dtype.size()));
    match dtype {
        DType::F32 | DType::I32 => {
            elements.for_each(|(r, b)| b.copy_from_slice(&r.get().to_le_bytes()));
        }
        DType::F16 | DType::Bf16 => {
            elements.for_each(|(r, b)| dtype.write_f32(f32::from_bits(r.get()), b));
        }
    }
}

/// What is read back of a register that is stored: of a narrow float, the nearest there is.
fn rounded(dtype: DType, bits: u32) -> u32 {
    match dtype {
        DType::F32 | DType::I32 => bits,
        DType::F16 | DType::Bf16 => {
            let mut narrow = [0; 2];
            dtype.write_f32(f32::from_bits(bits), &mut narrow);
            dtype.read_f32(&narrow).to_bits()
        }
    }
}

/// All shared arrays of a group, one after another, each element widened to a word.
pub(super) struct Shared {
    words: Vec<Word>,
    /// Counts barriers, so that a word knows whether its last access was before one.
    epoch: u64,
    /// What `epoch` was when the task began.
    began: u64,
}

#[derive(Clone, Copy)]
struct Word {
    bits: u32,
    writer: Accessor,
    /// Two different readers since the last barrier, as far as there were any.
    readers: [Accessor; 2],
    /// Epochs of the last write and the last read; 0 is never.
    written: u64,
    read: u64,
}

impl Shared {
    pub(super) fn new(words: usize) -> Shared {
        let nobody = Accessor::Lane(0);
        let word = Word { bits: 0, writer: nobody, readers: [nobody; 2], written: 0, read: 0 };
        Shared { words: vec![word; words], epoch: 0, began: 0 }
    }

    pub(super) fn begin_task(&mut self) {
        self.epoch += 1;
        self.began = self.epoch;
    }

    pub(super) fn barrier(&mut self) {
        self.epoch += 1;
    }

    /// The word at `base + at`; `at` is what messages say.
    pub(super) fn read(
        &mut self,
        name: &str,
        base: usize,
        at: usize,
        by: Accessor,
    ) -> Result<u32, Cause> {
        let (epoch, began) = (self.epoch, self.began);
        let word = &mut self.words[base + at];
        if word.written < began {
            return Err(Cause::Uninitialised { memory: name.into(), index: at });
        }
        if word.written == epoch && is_race(word.writer, by) {
            return Err(Cause::Race { memory: name.into(), index: at, other: word.writer });
        }
        if word.read != epoch {
            word.readers = [by; 2];
            word.read = epoch;
        } else if word.readers[0] == word.readers[1] {
            word.readers[1] = by;
        }
        Ok(word.bits)
    }

    pub(super) fn write(
        &mut self,
        name: &str,
        base: usize,
        at: usize,
        by: Accessor,
        bits: u32,
    ) -> Result<(), Cause> {
        let epoch = self.epoch;
        let word = &mut self.words[base + at];
        let race = |other| Err(Cause::Race { memory: name.into(), index: at, other });
        if word.written == epoch && is_race(word.writer, by) {
            return race(word.writer);
        }
        if word.read == epoch
            && let Some(&other) = word.readers.iter().find(|&&r| is_race(r, by))
        {
            return race(other);
        }
        *word = Word { bits, writer: by, written: epoch, ..*word };
        Ok(())
    }
}

/// Whether two accesses, one of them a write, may be of different lanes. Two of one subgroup are,
/// unless that is one lane, which calls itself so.
fn is_race(a: Accessor, b: Accessor) -> bool {
    a != b || matches!(a, Accessor::Subgroup(_))
}
