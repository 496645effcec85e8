//! NVIDIA's GPUs, through CUDA's driver.
//!
//! ```text
//! driver ─ facts ─▶ gpu ─┬─ memory           buffers, what the host writes and reads
//!                        ├─ code ◀─ ptx      kernels
//!                        └─ graph ◀─ draft   entries
//! ```
//!
//! The driver is looked for at run time: without one, there are no devices. It compiles PTX for its
//! device, so code for one architecture runs on all later ones; machine code beside the PTX is taken
//! where it fits. Everything happens on one stream,
//! in order; an entry is a graph, started again for every step.

mod code;
mod driver;
mod error;
mod facts;
mod gpu;
mod graph;
mod memory;

pub use error::CudaError;

use crate::ptx::{ALIGNMENT, Draft, TARGET};
use crate::{
    BoundLaunch, BufferId, Device, DeviceError, DeviceInfo, EntryId, KernelCode, KernelId, Limits,
    Mapped, Span, Usage, handle,
};
use code::Loaded;
use driver::Driver;
use gpu::Gpu;
use graph::Graph;
use memory::Memory;
use std::ops::Range;
use std::sync::Arc;

/// As in `--device cuda` and `--device cuda:N`.
pub const NAME: &str = "cuda";

/// A CUDA device and all that has been loaded into it.
pub struct Cuda {
    info: DeviceInfo,
    variants: Vec<&'static str>,
    // In the order in which they must go; before them, `drop` waits for the device.
    entries: Vec<Graph>,
    kernels: Vec<Loaded>,
    memory: Memory,
    gpu: Arc<Gpu>,
}

/// The number of the device that `cuda` or `cuda:N` names; none if the name is of something else.
pub fn named(name: &str) -> Option<usize> {
    match name.strip_prefix(NAME)? {
        // The driver tells the fastest first.
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}

/// What there is to say about each device, best first.
///
/// # Errors
///
/// [`CudaError`]: there is no driver, or it does not start.
pub fn devices() -> Result<Vec<DeviceInfo>, CudaError> {
    Ok(Driver::new()?.devices()?.iter().map(facts::Facts::info).collect())
}

impl Cuda {
    /// Open the device of that number.
    ///
    /// # Errors
    ///
    /// [`CudaError`]: there is no driver or no such device, or it is older than all code.
    pub fn open(index: usize) -> Result<Self, CudaError> {
        let driver = Driver::new()?;
        let facts = driver.facts(index)?;
        facts.check()?;
        let gpu = Arc::new(Gpu::open(driver, facts)?);
        Ok(Self {
            info: gpu.facts().info(),
            variants: gpu.facts().variants(),
            entries: Vec::new(),
            kernels: Vec::new(),
            memory: Memory::new(&gpu)?,
            gpu,
        })
    }

    /// Copy no more bytes at once than these, so that tests see copies in parts.
    pub fn copy_at_most(&mut self, bytes: usize) {
        self.memory.cap(bytes);
    }
}

impl Device for Cuda {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn variants(&self) -> &[&'static str] {
        &self.variants
    }

    fn lacks(&self, variant: &str) -> Option<String> {
        self.gpu.facts().lacks(variant)
    }

    fn limits(&self) -> Limits {
        Limits { max_buffer: self.gpu.facts().memory, alignment: ALIGNMENT }
    }

    fn free_memory(&self) -> Option<u64> {
        self.gpu.memory().ok().map(|(free, _)| free)
    }

    fn alloc(&mut self, bytes: u64, _usage: Usage) -> Result<BufferId, DeviceError> {
        let max = self.gpu.facts().memory;
        match bytes <= max {
            true => Ok(self.memory.alloc(bytes)?),
            false => Err(DeviceError::TooLarge { bytes, max }),
        }
    }

    fn adopt(
        &mut self,
        file: &Arc<Mapped>,
        range: Range<usize>,
        _alignment: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        file.part(&range).map(|_| None)
    }

    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError> {
        self.memory.upload(span, write)
    }

    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        self.memory.download(span, look)
    }

    fn load(
        &mut self,
        variant: &str,
        kernels: &[KernelCode<'_>],
    ) -> Result<Vec<KernelId>, DeviceError> {
        if !self.variants.contains(&variant) {
            return Err(DeviceError::no_variant(TARGET, &[variant], &self.variants));
        }
        let first = self.kernels.len() as u32;
        for code in kernels {
            self.kernels.push(Loaded::new(&self.gpu, variant, *code)?);
        }
        Ok((first..self.kernels.len() as u32).map(KernelId).collect())
    }

    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError> {
        let kernel = |id| handle::find("kernel", &self.kernels, id).map(|loaded| &loaded.kernel);
        let mut draft = Draft::new(&launches, &kernel, &|span| self.memory.place(span))?;
        if !draft.lists.is_empty() {
            let bytes = draft.lists.len() as u64;
            let lists = Span::whole(self.memory.alloc(bytes)?, bytes);
            draft.link(self.memory.place(lists)?);
            self.fill(lists, &mut |bytes| bytes.copy_from_slice(&draft.lists))?;
        }
        // SAFETY: kernels and memory are freed only with the device, after its graphs. That kernels
        // keep to their spans is q35c's promise, which whoever opens an artifact trusts.
        let graph = unsafe { Graph::new(&self.gpu, &draft, &self.kernels)? };
        self.entries.push(graph);
        Ok(EntryId(self.entries.len() as u32 - 1))
    }

    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError> {
        Ok(handle::find("entry", &self.entries, entry.0)?.launch()?)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Fails only if the device is lost, and then nothing runs any more.
        drop(self.gpu.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_its_number_and_the_first_by_none() {
        assert_eq!(
            (named("cuda"), named("cuda:0"), named("cuda:12")),
            (Some(0), Some(0), Some(12))
        );
        for name in ["cuda:", "cuda:x", "cuda:-1", "cuda0", "CUDA", "cpu"] {
            assert_eq!(named(name), None, "{name}");
        }
    }
}
