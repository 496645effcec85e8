//! The CPU: kernels as machine code, called by a pool of threads.
//!
//! ```text
//! artifact ─ variant ─▶ code ─▶ launch ─▶ pool ─▶ kernels ─▶ micro
//!                               memory ──┘
//! ```
//!
//! Buffers are memory of this process, so weights are packed in place and mapped files are read
//! where they lie. An entry is one job of the pool: its threads go through all launches together
//! and meet after each.

mod code;
pub(crate) mod host;
mod launch;
pub mod measure;
mod memory;
pub mod micro;
pub mod pool;
pub mod variant;

use crate::{
    BoundLaunch, BufferId, Device, DeviceError, DeviceInfo, EntryId, KernelCode, KernelId, Limits,
    Mapped, Span, Usage, handle,
};
use code::Code;
use launch::{Loaded, Recorded};
use memory::Buffers;
use micro::MicroTable;
use pool::Pool;
use std::ops::Range;
use std::sync::Arc;

/// As in `--device`, and the target whose code it runs.
pub const NAME: &str = "cpu";

/// More threads than any machine has cores: beyond it is a mistake.
const MOST_THREADS: usize = 1024;

/// The CPU and all that has been loaded into it.
pub struct Cpu {
    info: DeviceInfo,
    variant: [&'static str; 1],
    micro: &'static MicroTable,
    pool: Pool,
    // Entries and kernels hold addresses into code and buffers, none of which is freed before all.
    entries: Vec<Recorded>,
    kernels: Vec<Loaded>,
    code: Vec<Code>,
    buffers: Buffers,
    /// For each thread, memory for the shared arrays of the neediest kernel.
    scratch: Scratch,
}

/// Memory that each thread has to itself.
struct Scratch {
    bytes: u64,
    threads: Vec<*mut u8>,
}

// SAFETY: the addresses are of buffers of the device that owns this, and are followed only while
// that device runs an entry.
unsafe impl Send for Scratch {}

/// So many host threads, or as many as the system says are worth having.
pub(crate) fn threads_or_all(threads: Option<usize>) -> Result<usize, DeviceError> {
    let threads = threads.unwrap_or_else(host::threads);
    match (1..=MOST_THREADS).contains(&threads) {
        true => Ok(threads),
        false => Err(DeviceError::Threads { found: threads, most: MOST_THREADS }),
    }
}

impl Cpu {
    /// The CPU with so many threads, or as many as the system says are worth having.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Variant`] if `Q35_CPU` asks for what this machine cannot run, or there is
    /// no code for its architecture; [`DeviceError::Threads`].
    pub fn open(threads: Option<usize>) -> Result<Self, DeviceError> {
        Self::with_variant(variant::choose()?, threads)
    }

    /// As [`open`](Self::open), with the variant of this name whatever `Q35_CPU` says.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_variant(name: &str, threads: Option<usize>) -> Result<Self, DeviceError> {
        Self::with_variant(variant::named(name)?, threads)
    }

    fn with_variant(variant: &'static str, threads: Option<usize>) -> Result<Self, DeviceError> {
        let threads = threads_or_all(threads)?;
        let mut info = Self::describe();
        info.units = threads;
        Ok(Self {
            info,
            variant: [variant],
            micro: micro::table(),
            pool: Pool::new(threads),
            entries: Vec::new(),
            kernels: Vec::new(),
            code: Vec::new(),
            buffers: Buffers::default(),
            scratch: Scratch { bytes: 0, threads: Vec::new() },
        })
    }

    /// What there is to say about it without starting threads.
    pub fn describe() -> DeviceInfo {
        let mut features = host::features();
        features.extend(variant::choose().ok().map(|name| format!("variant {name}")));
        DeviceInfo {
            id: NAME.into(),
            target: NAME,
            name: host::name(),
            units: host::threads(),
            features,
            memory: host::total_memory(),
        }
    }

    /// Have `bytes` of scratch memory for each thread.
    fn grow_scratch(&mut self, bytes: u64) -> Result<(), DeviceError> {
        if bytes <= self.scratch.bytes {
            return Ok(());
        }
        let mut threads = Vec::new();
        for _ in 0..self.pool.threads() {
            let buffer = self.buffers.alloc(bytes)?;
            threads.push(self.buffers.address_mut(Span::whole(buffer, bytes))?);
        }
        self.scratch = Scratch { bytes, threads };
        Ok(())
    }
}

impl Device for Cpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn variants(&self) -> &[&'static str] {
        &self.variant
    }

    fn limits(&self) -> Limits {
        Limits { max_buffer: isize::MAX as u64, alignment: memory::ALIGNMENT }
    }

    fn free_memory(&self) -> Option<u64> {
        host::free_memory()
    }

    fn alloc(&mut self, bytes: u64, _usage: Usage) -> Result<BufferId, DeviceError> {
        self.buffers.alloc(bytes)
    }

    fn adopt(
        &mut self,
        file: &Arc<Mapped>,
        range: Range<usize>,
        alignment: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        self.buffers.adopt(file, range, alignment)
    }

    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError> {
        write(self.buffers.bytes_mut(span)?);
        Ok(())
    }

    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        look(self.buffers.bytes(span)?);
        Ok(())
    }

    fn load(
        &mut self,
        variant: &str,
        kernels: &[KernelCode<'_>],
    ) -> Result<Vec<KernelId>, DeviceError> {
        if !self.variant.contains(&variant) {
            return Err(DeviceError::no_variant(NAME, &[variant], &self.variant));
        }
        let scratch = kernels.iter().map(|k| u64::from(k.kernel.shared_bytes)).max().unwrap_or(0);
        // Never none, so that the address is one.
        self.grow_scratch(scratch.max(1))?;

        let mut bytes = Vec::new();
        let mut offsets = Vec::new();
        for kernel in kernels {
            offsets.push(bytes.len());
            bytes.extend(kernel.code);
            bytes.resize(bytes.len().next_multiple_of(code::ALIGN), 0);
        }
        let code = Code::load(&bytes).map_err(|source| DeviceError::System {
            what: format!("{} bytes of executable memory", bytes.len()),
            source,
        })?;
        let first = self.kernels.len() as u32;
        for (kernel, offset) in kernels.iter().zip(offsets) {
            let run = code.entry(offset).ok_or_else(|| DeviceError::Code {
                kernel: kernel.kernel.name.clone(),
                reason: "there is none".into(),
            })?;
            self.kernels.push(Loaded { kernel: kernel.kernel.clone(), run });
        }
        self.code.push(code);
        Ok((first..self.kernels.len() as u32).map(KernelId).collect())
    }

    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError> {
        let recorded = Recorded::new(&launches, &self.kernels, &self.buffers)?;
        self.entries.push(recorded);
        Ok(EntryId(self.entries.len() as u32 - 1))
    }

    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError> {
        let recorded = handle::find("entry", &self.entries, entry.0)?;
        // SAFETY: the entry was recorded with this device's code and buffers, which are freed only
        // with it. `self` is borrowed mutably, so nobody else uses the buffers. `scratch` has one
        // place for each thread of the pool, of as many bytes as any kernel asks for. That kernels
        // keep to their spans is q35c's promise, which whoever opens an artifact trusts.
        unsafe { recorded.run(&mut self.pool, &self.scratch.threads, self.micro) };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
