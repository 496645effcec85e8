//! A block's shared memory, and who may touch it when.
//!
//! Two accesses of one place by two threads, one of them a write, are a race unless something orders them: a barrier
//! that both threads reach between them (`bar.sync`, `bar.red`; `bar.arrive` for what went before it), or for lanes of
//! one warp also `bar.warp.sync` and the other instructions that its lanes do together (`shfl`, `vote`, `match`,
//! `redux`, `elect`, `mma`; not `ldmatrix`, which is an access itself). What is no race: a write that leaves the value
//! as it is; two atomics, or two accesses that are `.volatile`, `.relaxed`, `.acquire` or `.release`.
//!
//! Time in a block is a count that every barrier moves on. A place remembers when and by whom it was last written and
//! since then read; a warp remembers up to when it has seen each other warp. An access is ordered behind an earlier one
//! if that was before what its warp has seen of the other's.
//!
//! A read of what nobody wrote is told when no other thread can write it any more without a barrier between: until
//! then the missing barrier, a race, would be the better explanation.

use crate::error::FaultKind;
use crate::regs::{Lanes, lanes_of};

/// Who: a thread of the block, and how.
const THREAD: u16 = 0x3ff;
const MANY: u16 = 0x7ff;
const STRONG: u16 = 1 << 15;
/// A copy is under way; with `FRESH` to a place that nobody had written.
const FLYING: u16 = 1 << 14;
const FRESH: u16 = 1 << 13;

#[derive(Clone, Copy, Default)]
struct Cell {
    written: u32,
    read: u32,
    /// Warps that read since `written`.
    readers: u32,
    writer: u16,
    reader: u16,
}

/// When an access is, for cells.
#[derive(Clone, Copy)]
struct Now {
    time: u32,
    start: u32,
    met: u32,
    /// When the lanes of the warp last met.
    own: u32,
    /// Barriers join all threads.
    simple: bool,
}

impl Cell {
    #[inline]
    fn written(time: u32, who: Who) -> Self {
        Self { written: time, writer: who.thread() | who.strength(), ..Self::default() }
    }

    /// Nobody has touched it since all last met: a write is in order.
    #[inline]
    fn rests(&self, met: u32) -> bool {
        (self.written < met) & (self.read < met) & (self.writer & FLYING == 0)
    }

    /// This block wrote it before all last met: a read is in order.
    #[inline]
    fn settled(&self, now: Now) -> bool {
        (self.written >= now.start) & (self.written < now.met) & (self.writer & FLYING == 0)
    }

    #[inline]
    fn read_by(&mut self, who: Who, now: Now) {
        let (me, strong, bit) = (who.thread(), who.strength(), 1 << who.warp);
        if self.read < now.met || self.read < now.own && self.readers == bit {
            self.readers = 0;
        }
        self.reader = if self.readers == 0 {
            me | strong
        } else {
            strong & self.reader | if self.reader & MANY == me { me } else { MANY }
        };
        self.readers |= bit;
        self.read = now.time;
    }
}

/// What went wrong, without its place: the lane is the caller's.
pub(crate) type Fault = (FaultKind, String);

/// A read of what nobody wrote, not told yet.
#[derive(Clone)]
pub(crate) struct Unwritten {
    pub thread: usize,
    pub pc: usize,
    pub message: String,
}

pub(crate) struct Shared {
    words: Vec<u32>,
    pub bytes: u64,
    cells: Vec<Cell>,
    /// Bytes of a cell are 1 << shift.
    shift: u32,
    warps: usize,
    /// Now.
    time: u32,
    /// When this block began.
    start: u32,
    /// When all threads last met.
    met: u32,
    /// For each warp and each other one: what was before is ordered.
    seen: Vec<u32>,
    /// For each cell and warp, when it was last read: kept where barriers do not join all threads.
    reads: Option<Vec<u32>>,
    pub unwritten: Option<Unwritten>,
}

/// Who accesses.
#[derive(Clone, Copy)]
pub(crate) struct Who {
    pub warp: usize,
    pub lane: usize,
    pub strong: bool,
    pub pc: usize,
}

impl Who {
    fn thread(self) -> u16 {
        (self.warp * 32 + self.lane) as u16
    }

    fn strength(self) -> u16 {
        if self.strong { STRONG } else { 0 }
    }
}

impl Shared {
    pub fn new(bytes: u64, granule: u64, warps: usize, partial: bool) -> Self {
        let shift = granule.max(1).trailing_zeros();
        let words = bytes.div_ceil(4) as usize;
        let cells = (words * 4) >> shift;
        Self {
            words: vec![0; words],
            bytes,
            cells: vec![Cell::default(); cells],
            shift,
            warps,
            time: 1,
            start: 1,
            met: 1,
            seen: vec![1; warps * warps],
            reads: partial.then(|| vec![0; cells * warps]),
            unwritten: None,
        }
    }

    /// For the next block. What lies there is from before its time, so nothing needs clearing.
    pub fn restart(&mut self) {
        if self.time > 1 << 31 {
            self.cells.fill(Cell::default());
            if let Some(reads) = &mut self.reads {
                reads.fill(0);
            }
            self.time = 0;
        }
        self.time += 1;
        self.start = self.time;
        self.met = self.time;
        self.seen.fill(self.time);
        self.unwritten = None;
    }

    /// Lanes of a warp read so many bytes each, at a multiple of the size of their elements and within bounds.
    #[inline]
    pub fn read(
        &mut self,
        addresses: &Lanes<u64>,
        lanes: impl Iterator<Item = usize>,
        bytes: u64,
        who: Who,
    ) -> Result<(), (usize, Fault)> {
        let now = self.now(who);
        for lane in lanes {
            let who = Who { lane, ..who };
            let (first, last) = self.cells_of(addresses[lane], bytes);
            if let [cell] = &mut self.cells[first..last]
                && now.simple
                && cell.settled(now)
            {
                cell.read_by(who, now);
            } else {
                self.note_reads(first, last, who, now).map_err(|fault| (lane, fault))?;
            }
        }
        Ok(())
    }

    /// An element of 1, 2, 4 or 8 bytes, at a multiple of its size and within bounds.
    #[inline]
    pub fn load(&mut self, at: u64, bytes: u64, who: Who) -> Result<u64, Fault> {
        let now = self.now(who);
        let (first, last) = self.cells_of(at, bytes);
        self.note_reads(first, last, who, now)?;
        Ok(self.peek(at, bytes))
    }

    /// Lanes of a warp write a word of each row, one behind the other, within bounds.
    pub fn write<const N: usize>(
        &mut self,
        addresses: &Lanes<u64>,
        on: u32,
        who: Who,
        rows: [&Lanes<u32>; N],
    ) -> Result<(), (usize, Fault)> {
        let by_words = self.shift == 2 && self.reads.is_none();
        for lane in lanes_of(on) {
            let who = Who { lane, ..who };
            let word = (addresses[lane] / 4) as usize;
            if by_words && self.cells[word..word + N].iter().all(|cell| cell.rests(self.met)) {
                self.cells[word..word + N].fill(Cell::written(self.time, who));
                for (word, row) in self.words[word..word + N].iter_mut().zip(rows) {
                    *word = row[lane];
                }
                continue;
            }
            for (e, row) in rows.iter().enumerate() {
                let at = addresses[lane] + 4 * e as u64;
                self.store(at, 4, row[lane].into(), who).map_err(|fault| (lane, fault))?;
            }
        }
        Ok(())
    }

    /// An element of 1, 2, 4 or 8 bytes, at a multiple of its size and within bounds.
    #[inline]
    pub fn store(&mut self, at: u64, bytes: u64, value: u64, who: Who) -> Result<(), Fault> {
        let (first, last) = self.cells_of(at, bytes);
        if self.reads.is_none() && self.cells[first..last].iter().all(|c| c.rests(self.met)) {
            self.cells[first..last].fill(Cell::written(self.time, who));
        } else {
            let same = self.peek(at, bytes) == value & u64::MAX >> (64 - 8 * bytes);
            for i in first..last {
                self.note_write(i, who, same, 0)?;
            }
        }
        self.poke(at, bytes, value);
        Ok(())
    }

    /// Reads and writes as one; `f` gives the new value.
    pub fn update(
        &mut self,
        at: u64,
        bytes: u64,
        who: Who,
        f: impl Fn(u64) -> u64,
    ) -> Result<u64, Fault> {
        let who = Who { strong: true, ..who };
        let (first, last) = self.cells_of(at, bytes);
        for i in first..last {
            if self.cells[i].written < self.start {
                self.note_read(i, who)?;
            }
            self.note_write(i, who, false, 0)?;
        }
        let old = self.peek(at, bytes);
        self.poke(at, bytes, f(old));
        Ok(old)
    }

    /// `cp.async` begins: nobody may touch the place until it is waited for.
    pub fn begin_copy(&mut self, at: u64, bytes: u64, who: Who) -> Result<(), Fault> {
        let (first, last) = self.cells_of(at, bytes);
        for i in first..last {
            let fresh = if self.cells[i].written < self.start { FRESH } else { 0 };
            self.note_write(i, who, false, FLYING | fresh)?;
        }
        Ok(())
    }

    pub fn finish_copy(&mut self, at: u64, data: &[u32], who: Who) {
        let (first, last) = self.cells_of(at, data.len() as u64 * 4);
        for cell in &mut self.cells[first..last] {
            *cell = Cell::written(self.time, who);
        }
        let word = (at / 4) as usize;
        self.words[word..word + data.len()].copy_from_slice(data);
    }

    /// What all accesses of one instruction have in common.
    #[inline]
    fn now(&self, who: Who) -> Now {
        Now {
            time: self.time,
            start: self.start,
            met: self.met,
            own: self.seen[who.warp * self.warps + who.warp],
            simple: self.reads.is_none(),
        }
    }

    #[inline]
    fn cells_of(&self, at: u64, bytes: u64) -> (usize, usize) {
        ((at >> self.shift) as usize, ((at + bytes + (1 << self.shift) - 1) >> self.shift) as usize)
    }

    #[inline]
    pub fn peek(&self, at: u64, bytes: u64) -> u64 {
        let word = (at / 4) as usize;
        let low = u64::from(self.words[word]);
        match bytes {
            4 => low,
            8 => low | u64::from(self.words[word + 1]) << 32,
            2 => low >> (at % 4 * 8) & 0xffff,
            _ => low >> (at % 4 * 8) & 0xff,
        }
    }

    #[inline]
    fn poke(&mut self, at: u64, bytes: u64, value: u64) {
        let word = (at / 4) as usize;
        match bytes {
            4 => self.words[word] = value as u32,
            8 => {
                self.words[word] = value as u32;
                self.words[word + 1] = (value >> 32) as u32;
            }
            _ => {
                let shift = at % 4 * 8;
                let mask = (if bytes == 2 { 0xffffu32 } else { 0xff }) << shift;
                self.words[word] = self.words[word] & !mask | (value << shift) as u32 & mask;
            }
        }
    }

    #[inline]
    fn note_reads(&mut self, first: usize, last: usize, who: Who, now: Now) -> Result<(), Fault> {
        let cells = &mut self.cells[first..last];
        if now.simple && cells.iter().all(|cell| cell.settled(now)) {
            cells.iter_mut().for_each(|cell| cell.read_by(who, now));
            return Ok(());
        }
        (first..last).try_for_each(|i| self.note_read(i, who))
    }

    fn note_read(&mut self, i: usize, who: Who) -> Result<(), Fault> {
        let me = who.thread();
        let cell = self.cells[i];
        if cell.written < self.start {
            self.never_written(i, who);
        } else if cell.writer & FLYING != 0 {
            return Err(self.in_flight(i, cell));
        } else if cell.writer & THREAD != me
            && cell.written
                >= self.seen[who.warp * self.warps + usize::from(cell.writer & THREAD) / 32]
            && !(who.strong && cell.writer & STRONG != 0)
        {
            return Err(self.race(i, "reads", cell.writer & THREAD, "wrote"));
        }
        let now = self.now(who);
        self.cells[i].read_by(who, now);
        if let Some(reads) = &mut self.reads {
            reads[i * self.warps + who.warp] = self.time;
        }
        Ok(())
    }

    fn note_write(&mut self, i: usize, who: Who, same: bool, flags: u16) -> Result<(), Fault> {
        let me = who.thread();
        let cell = self.cells[i];
        let known = cell.written >= self.start;
        if known && cell.writer & FLYING != 0 {
            return Err(self.in_flight(i, cell));
        }
        if !(same && known) {
            let writer = cell.writer & THREAD;
            if known
                && writer != me
                && cell.written >= self.seen[who.warp * self.warps + usize::from(writer) / 32]
                && !(who.strong && cell.writer & STRONG != 0)
            {
                return Err(self.race(i, "writes", writer, "wrote"));
            }
            if cell.read >= self.start
                && cell.readers != 0
                && !(who.strong && cell.reader & STRONG != 0)
                && let Some(reader) = self.unordered_reader(i, who)
            {
                return Err(self.race(i, "writes", reader, "read"));
            }
        }
        let cell = Cell::written(self.time, who);
        self.cells[i] = Cell { writer: cell.writer | flags, ..cell };
        if let Some(reads) = &mut self.reads {
            reads[i * self.warps..(i + 1) * self.warps].fill(0);
        }
        Ok(())
    }

    /// A thread that read the cell and that nothing orders before this one.
    fn unordered_reader(&self, i: usize, who: Who) -> Option<u16> {
        let cell = self.cells[i];
        for warp in lanes_of(cell.readers) {
            let seen = self.seen[who.warp * self.warps + warp];
            let read = match &self.reads {
                Some(reads) => reads[i * self.warps + warp],
                None => cell.read,
            };
            let mine = warp == who.warp && cell.reader & MANY == who.thread();
            if read >= seen && !mine {
                let reader = cell.reader & MANY;
                return Some(if reader == MANY { (warp * 32) as u16 | 1 << 12 } else { reader });
            }
        }
        None
    }

    #[cold]
    fn never_written(&mut self, i: usize, who: Who) {
        if self.unwritten.is_none() {
            self.unwritten = Some(Unwritten {
                thread: who.thread().into(),
                pc: who.pc,
                message: format!(
                    "reads shared memory at {}, which nobody has written",
                    self.place(i)
                ),
            });
        }
    }

    #[cold]
    fn in_flight(&self, i: usize, cell: Cell) -> Fault {
        let place = self.place(i);
        let thread = cell.writer & THREAD;
        if cell.writer & FRESH != 0 {
            let message = format!(
                "shared memory at {place} is not there yet: thread {thread} has not waited for its copy"
            );
            (FaultKind::Uninitialised, message)
        } else {
            let message = format!(
                "meets the copy to shared memory at {place} that thread {thread} has not waited for"
            );
            (FaultKind::Race, message)
        }
    }

    #[cold]
    fn race(&self, i: usize, does: &str, other: u16, did: &str) -> Fault {
        let place = self.place(i);
        let other = if other >> 12 & 1 == 1 && other & STRONG == 0 {
            format!("a thread of warp {}", (other & 0xfff) / 32)
        } else {
            format!("thread {}", other & THREAD)
        };
        (
            FaultKind::Race,
            format!("{does} shared memory at {place}, which {other} {did} with no barrier between"),
        )
    }

    fn place(&self, i: usize) -> String {
        format!("{:#x}", i << self.shift)
    }

    /// All threads meet.
    pub fn meet(&mut self) {
        self.time += 1;
        self.met = self.time;
        self.seen.fill(self.time);
    }

    /// The lanes of a warp meet.
    pub fn meet_in_warp(&mut self, warp: usize) {
        self.time += 1;
        self.seen[warp * self.warps + warp] = self.time;
    }

    /// What a warp has seen, and itself until now: what it brings to a barrier.
    pub fn arrive(&mut self, warp: usize, brought: &mut Vec<u32>) {
        self.time += 1;
        brought.resize(self.warps, 0);
        for (other, brought) in brought.iter_mut().enumerate() {
            let seen = if other == warp { self.time } else { self.seen[warp * self.warps + other] };
            *brought = seen.max(*brought);
        }
    }

    /// A warp goes on with what all brought.
    pub fn leave(&mut self, warp: usize, brought: &[u32]) {
        for (other, brought) in brought.iter().enumerate() {
            let seen = &mut self.seen[warp * self.warps + other];
            *seen = (*seen).max(*brought);
        }
    }
}
