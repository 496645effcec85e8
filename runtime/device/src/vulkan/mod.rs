//! GPUs, through Vulkan 1.3: any driver, one that runs on the processor included.
//!
//! ```text
//! instance ─ facts ─▶ gpu ─┬─ memory ◀─ transfer      what the host writes and reads
//!            features      ├─ pipeline ◀─ code, cache  kernels
//!                          └─ record                   entries
//! ```
//!
//! Kernels know memory by its address (`bufferDeviceAddress`), so there are no descriptors, and
//! weights may lie in any number of buffers. An entry is one command buffer, submitted again for
//! every step. The loader is looked for at run time: without one, there are no devices.

mod cache;
mod code;
mod error;
mod facts;
mod features;
mod gpu;
mod instance;
mod memory;
mod pipeline;
mod record;
mod transfer;

pub use error::VulkanError;

use crate::{
    BoundLaunch, BufferId, Device, DeviceError, DeviceInfo, EntryId, KernelCode, KernelId, Limits,
    Mapped, Span, Usage, handle,
};
use ash::vk;
use cache::CacheFile;
use facts::ALIGNMENT;
use gpu::{Gpu, Queue};
use instance::{Instance, Physical};
use memory::Memory;
use pipeline::Pipelines;
use record::Draft;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use transfer::Transfer;

/// As in `--device vulkan` and `--device vulkan:N`.
pub const NAME: &str = "vulkan";

/// The target whose code it runs.
pub const TARGET: &str = "spirv";

/// The environment variable that caps buffers, so that tests can see weights spread over many.
pub const MAX_BUFFER_ENV: &str = "Q35_VULKAN_MAX_BUFFER";

/// How a device is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Pretend that buffers can have no more bytes: what can be split, is. One thing that is
    /// larger still gets its buffer, if the driver allows it.
    pub max_buffer: Option<u64>,
    /// Where compiled kernels are kept; nowhere if none.
    pub cache: Option<PathBuf>,
    /// Reach all memory by copies, even where the host could do so directly, as on a device whose
    /// memory is its own.
    pub copy_always: bool,
}

/// A Vulkan device and all that has been loaded into it.
pub struct Vulkan {
    info: DeviceInfo,
    variants: Vec<&'static str>,
    options: Options,
    warnings: Vec<String>,
    entries: Vec<vk::CommandBuffer>,
    // In the order in which they must go; before them, `drop` waits for the device.
    pipelines: Pipelines,
    transfer: Transfer,
    memory: Memory,
    queue: Queue,
    gpu: Arc<Gpu>,
}

/// Which device to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// By its number.
    Index(usize),
    /// The best, software if there is no other.
    Best,
    /// The best that is no software.
    Hardware,
}

impl Options {
    /// The user's cache folder, and what [`MAX_BUFFER_ENV`] says.
    ///
    /// # Errors
    ///
    /// [`VulkanError::MaxBuffer`].
    pub fn from_env() -> Result<Self, VulkanError> {
        let max_buffer = match std::env::var_os(MAX_BUFFER_ENV) {
            Some(value) => Some(bytes(&value.to_string_lossy())?),
            None => None,
        };
        Ok(Self { max_buffer, cache: cache::folder(), copy_always: false })
    }
}

impl Choice {
    /// `vulkan` or `vulkan:N`; none if the name is of something else.
    pub fn named(name: &str) -> Option<Self> {
        match name.strip_prefix(NAME)? {
            "" => Some(Self::Best),
            rest => rest.strip_prefix(':')?.parse().ok().map(Self::Index),
        }
    }
}

/// What there is to say about each device, best first: those that can be used before others, and
/// hardware before software.
///
/// # Errors
///
/// [`VulkanError::Loader`].
pub fn devices() -> Result<Vec<DeviceInfo>, VulkanError> {
    let mut devices = Instance::new()?.devices()?;
    devices.sort_by_key(rank);
    Ok(devices.iter().map(|device| device.facts.info()).collect())
}

/// Best first.
fn rank(device: &Physical) -> impl Ord + use<> {
    let facts = &device.facts;
    let kind = match facts.kind {
        vk::PhysicalDeviceType::DISCRETE_GPU => 0,
        vk::PhysicalDeviceType::VIRTUAL_GPU => 1,
        vk::PhysicalDeviceType::INTEGRATED_GPU => 2,
        vk::PhysicalDeviceType::CPU => 4,
        _ => 3,
    };
    (facts.check().is_err(), kind, facts.index)
}

impl Vulkan {
    /// Open a device.
    ///
    /// # Errors
    ///
    /// [`VulkanError`]: there is no loader or no such device, or it lacks what kernels need.
    pub fn open(choice: Choice, options: Options) -> Result<Self, VulkanError> {
        let instance = Instance::new()?;
        let physical = choose(instance.devices()?, choice)?;
        let gpu = Arc::new(Gpu::open(instance, physical)?);
        let mut queue = Queue::new(&gpu)?;
        let memory = Memory::new(&gpu, options.max_buffer, !options.copy_always);
        Ok(Self {
            info: gpu.facts().info(),
            variants: gpu.facts().variants(),
            warnings: Vec::new(),
            entries: Vec::new(),
            pipelines: Pipelines::new(&gpu)?,
            transfer: Transfer::new(&gpu, &mut queue, memory.most())?,
            memory,
            queue,
            gpu,
            options,
        })
    }

    fn add(&mut self, bytes: u64, usage: Usage) -> Result<BufferId, DeviceError> {
        let Self { memory, transfer, queue, .. } = self;
        memory.alloc(bytes, usage, &mut |place| transfer.clear(queue, place))
    }
}

/// The device that is meant.
fn choose(mut devices: Vec<Physical>, choice: Choice) -> Result<Physical, VulkanError> {
    let Some(last) = devices.len().checked_sub(1) else {
        return Err(VulkanError::NoDevice);
    };
    if let Choice::Index(index) = choice {
        let found = devices.into_iter().nth(index);
        return found.ok_or(VulkanError::NoSuchDevice { index, last });
    }
    devices.sort_by_key(rank);
    let hardware = devices.iter().position(|device| !device.facts.is_software());
    let best = match choice {
        Choice::Hardware => {
            hardware.ok_or_else(|| VulkanError::OnlySoftware { software: devices[0].facts.id() })?
        }
        Choice::Best | Choice::Index(_) => 0,
    };
    Ok(devices.swap_remove(best))
}

impl Device for Vulkan {
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
        Limits { max_buffer: self.memory.most(), alignment: ALIGNMENT }
    }

    fn free_memory(&self) -> Option<u64> {
        self.memory.free()
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn alloc(&mut self, bytes: u64, usage: Usage) -> Result<BufferId, DeviceError> {
        self.add(bytes, usage)
    }

    fn adopt(
        &mut self,
        file: &Arc<Mapped>,
        range: Range<usize>,
        _alignment: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        // Tensors in a file begin anywhere, and kernels want multiples of a cache line.
        file.part(&range).map(|_| None)
    }

    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError> {
        let place = self.memory.place(span)?;
        if span.bytes == 0 {
            write(&mut []);
        } else if self.memory.is_mapped(span.buffer) {
            // Kernels that still run would see it.
            self.queue.wait_all()?;
            write(self.memory.bytes_mut(span)?.expect("it is mapped"));
        } else {
            self.transfer.upload(&mut self.queue, place, write)?;
        }
        Ok(())
    }

    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        let place = self.memory.place(span)?;
        if span.bytes == 0 {
            look(&[]);
        } else if self.memory.is_mapped(span.buffer) {
            self.queue.wait_all()?;
            look(self.memory.bytes(span)?.expect("it is mapped"));
        } else {
            self.transfer.download(&mut self.queue, place, look)?;
        }
        Ok(())
    }

    fn load(
        &mut self,
        variant: &str,
        kernels: &[KernelCode<'_>],
    ) -> Result<Vec<KernelId>, DeviceError> {
        if !self.variants.contains(&variant) {
            return Err(DeviceError::no_variant(TARGET, &[variant], &self.variants));
        }
        let facts = self.gpu.facts();
        let file = self.options.cache.as_ref().map(|folder| {
            let codes = kernels.iter().map(|kernel| kernel.code);
            CacheFile::new(folder, &facts.identity, variant, codes)
        });
        let first = self.pipelines.len() as u32;
        let subgroup = facts.subgroup_of(variant);
        self.pipelines.load(kernels, subgroup, file.as_ref(), &mut self.warnings)?;
        Ok((first..self.pipelines.len() as u32).map(KernelId).collect())
    }

    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError> {
        let grid = self.gpu.facts().grid();
        let mut draft = Draft::new(&launches, &self.pipelines, &self.memory, grid)?;
        let bytes = draft.arguments.len() as u64;
        let arguments = Span::whole(self.add(bytes, Usage::Resident)?, bytes);
        let address = self.memory.address(arguments)?;
        draft.link(address);
        self.fill(arguments, &mut |bytes| bytes.copy_from_slice(&draft.arguments))?;

        let commands = self.queue.commands()?;
        let again = vk::CommandBufferUsageFlags::SIMULTANEOUS_USE;
        let layout = self.pipelines.layout;
        // SAFETY: the commands are new; pipelines and memory are freed only with the device, after
        // waiting for it. That kernels keep to their spans is q35c's promise, which whoever opens an
        // artifact trusts.
        unsafe {
            self.queue.record(commands, again, |gpu| {
                draft.add_to(commands, gpu, layout, address);
            })?;
        }
        self.entries.push(commands);
        Ok(EntryId(self.entries.len() as u32 - 1))
    }

    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError> {
        let commands = *handle::find("entry", &self.entries, entry.0)?;
        // SAFETY: it was recorded with this device's kernels and memory, which live as long.
        unsafe { self.queue.submit(commands)? };
        Ok(())
    }
}

impl Drop for Vulkan {
    fn drop(&mut self) {
        // Fails only if the device is lost, and then nothing runs any more.
        drop(self.queue.wait_all());
    }
}

/// `1048576`, `64KiB`, `1MiB` or `1GiB`, and not none.
fn bytes(text: &str) -> Result<u64, VulkanError> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let unit = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (number, unit) = unit.unwrap_or((text, 1u64));
    let bytes = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| VulkanError::MaxBuffer { found: text.into() })
}

#[cfg(test)]
mod tests;
