//! A Vulkan device's buffers.
//!
//! Some drivers allow no more than 4096 pieces of memory, so small buffers share one: a [`Block`]
//! is a piece of memory with one `VkBuffer` over all of it, and a buffer of the engine is a range
//! of a block. Large buffers have a block to themselves. None is ever freed before the device, so
//! a block is cleared once, and addresses stay good.
//!
//! Where the host can reach memory without loss it is mapped for good: that of integrated GPUs and
//! of software, and what the host writes before each step or reads after it. All other memory is
//! reached through [`transfer`](super::transfer): a GPU fetches weights faster by itself than a
//! processor pushes them across, even where it could.

use super::VulkanError;
use super::facts::{ALIGNMENT, GRAIN};
use super::gpu::Gpu;
use crate::{BufferId, DeviceError, Span, Usage, handle};
use ash::vk::{self, MemoryPropertyFlags as Property};
use std::ptr::NonNull;
use std::sync::Arc;

/// The first block for small buffers; each further one is twice as large, up to the largest.
const FIRST_BLOCK: u64 = 1 << 20;
const LARGEST_BLOCK: u64 = 64 << 20;

/// All buffers of a device.
pub struct Memory {
    gpu: Arc<Gpu>,
    blocks: Vec<Block>,
    buffers: Vec<Buffer>,
    /// For each usage, the block from which small buffers are cut.
    open: [Option<usize>; 3],
    /// Blocks are no larger, unless one buffer is.
    most: u64,
    /// Whether the host may reach any of it.
    map: bool,
    /// Bytes of all blocks.
    taken: u64,
}

/// A piece of memory and the buffer over it.
pub struct Block {
    gpu: Arc<Gpu>,
    pub buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    /// As kernels see it; a multiple of [`ALIGNMENT`].
    address: u64,
    pub bytes: u64,
    mapped: Option<NonNull<u8>>,
    used: u64,
}

// SAFETY: the pointer is to memory of the block itself, and is followed only through `&self` for
// reading and `&mut self` for writing.
unsafe impl Send for Block {}

struct Buffer {
    block: usize,
    offset: u64,
    bytes: u64,
    mapped: bool,
}

/// What a block is for: the kinds of memory to try, best first.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// For messages.
    pub what: &'static str,
    kinds: &'static [Property],
    /// Whether to map it.
    pub mapped: bool,
}

const HOST: Property =
    Property::from_raw(Property::HOST_VISIBLE.as_raw() | Property::HOST_COHERENT.as_raw());
const HOST_CACHED: Property = Property::from_raw(HOST.as_raw() | Property::HOST_CACHED.as_raw());
const SHARED: Property = Property::from_raw(HOST.as_raw() | Property::DEVICE_LOCAL.as_raw());
/// Memory that holds what kernels did not ask for.
const UNFIT: Property = Property::from_raw(
    Property::PROTECTED.as_raw()
        | Property::LAZILY_ALLOCATED.as_raw()
        | Property::DEVICE_COHERENT_AMD.as_raw()
        | Property::DEVICE_UNCACHED_AMD.as_raw(),
);

/// Memory for copies on their way.
pub const STAGING: Wanted = Wanted { what: "staging", kinds: &[HOST_CACHED, HOST], mapped: true };

#[cfg(test)]
impl Wanted {
    /// Memory of one kind.
    pub fn of(what: &'static str, kind: Property) -> Self {
        Self { what, kinds: Box::leak(Box::new([kind])), mapped: false }
    }
}

/// Where a span lies.
pub struct Place {
    pub buffer: vk::Buffer,
    pub offset: u64,
    pub bytes: u64,
}

impl Memory {
    /// No buffers yet. `most` caps the size of blocks; without `map`, all goes through staging.
    pub fn new(gpu: &Arc<Gpu>, most: Option<u64>, map: bool) -> Self {
        let largest = gpu.facts().largest_buffer();
        let most = most.map_or(largest, |most| (most / GRAIN * GRAIN).clamp(GRAIN, largest));
        Self {
            gpu: Arc::clone(gpu),
            blocks: Vec::new(),
            buffers: Vec::new(),
            open: [None; 3],
            most,
            map,
            taken: 0,
        }
    }

    /// Bytes of the largest buffer that should be asked for.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Bytes that could be had, as far as that is known.
    pub fn free(&self) -> Option<u64> {
        let facts = self.gpu.facts();
        let heap = facts.main_heap()?;
        let left = || facts.total_memory().saturating_sub(self.taken);
        Some(self.gpu.budget(heap).unwrap_or_else(left))
    }

    /// Cut a buffer from a block. One that is new is all zeros, by `clear` if it is not mapped.
    pub fn alloc(
        &mut self,
        bytes: u64,
        usage: Usage,
        clear: &mut dyn FnMut(Place) -> Result<(), VulkanError>,
    ) -> Result<BufferId, DeviceError> {
        let max = self.gpu.facts().largest_buffer();
        if bytes > max {
            return Err(DeviceError::TooLarge { bytes, max });
        }
        // Never none, so that it has an address.
        let whole = bytes.max(1).next_multiple_of(GRAIN);
        let wanted = self.wanted(usage);
        let block = self.room(whole, usage, wanted, clear)?;
        let offset = self.blocks[block].used;
        self.blocks[block].used += whole;
        let id = u32::try_from(self.buffers.len()).expect("buffers are counted in thousands");
        self.buffers.push(Buffer { block, offset, bytes, mapped: wanted.mapped });
        Ok(BufferId(id))
    }

    /// Where a span lies, for copies.
    pub fn place(&self, span: Span) -> Result<Place, DeviceError> {
        let (block, offset) = self.find(span)?;
        Ok(Place { buffer: block.buffer, offset, bytes: span.bytes })
    }

    /// Where a span lies, for kernels.
    pub fn address(&self, span: Span) -> Result<u64, DeviceError> {
        let (block, offset) = self.find(span)?;
        Ok(block.address + offset)
    }

    /// The bytes of a span, if they are mapped. The device must have finished with them.
    pub fn bytes(&self, span: Span) -> Result<Option<&[u8]>, DeviceError> {
        let (block, offset) = self.find(span)?;
        Ok(block.bytes(offset, span.bytes))
    }

    /// As [`bytes`](Self::bytes), to be written.
    pub fn bytes_mut(&mut self, span: Span) -> Result<Option<&mut [u8]>, DeviceError> {
        let (_, offset) = self.find(span)?;
        let block = self.buffers[span.buffer.0 as usize].block;
        Ok(self.blocks[block].bytes_mut(offset, span.bytes))
    }

    /// Whether the host reaches a buffer.
    pub fn is_mapped(&self, buffer: BufferId) -> bool {
        self.buffers.get(buffer.0 as usize).is_some_and(|b| b.mapped)
    }

    fn find(&self, span: Span) -> Result<(&Block, u64), DeviceError> {
        let buffer = handle::find("buffer", &self.buffers, span.buffer.0)?;
        let begin = span.within(buffer.bytes)?.start;
        Ok((&self.blocks[buffer.block], buffer.offset + begin))
    }

    /// The kind of memory for a usage, on this device.
    fn wanted(&self, usage: Usage) -> Wanted {
        const LOCAL: Property = Property::DEVICE_LOCAL;
        let own = |what| Wanted { what, kinds: &[LOCAL], mapped: false };
        let unified = self.gpu.facts().is_unified();
        let wanted = match usage {
            Usage::Resident if unified => {
                Wanted { what: "weights and state", kinds: &[SHARED], mapped: true }
            }
            Usage::Resident => own("weights and state"),
            Usage::HostWrites => {
                Wanted { what: "step parameters", kinds: &[SHARED, HOST], mapped: true }
            }
            Usage::HostReads => {
                Wanted { what: "results", kinds: &[HOST_CACHED, HOST], mapped: true }
            }
        };
        match self.map && self.has(wanted.kinds) {
            true => wanted,
            false => own(wanted.what),
        }
    }

    fn has(&self, kinds: &[Property]) -> bool {
        kinds.iter().any(|kind| kind_of_memory(&self.gpu, u32::MAX, *kind).is_some())
    }

    /// The block from which so many bytes are to be cut, which may be new.
    fn room(
        &mut self,
        bytes: u64,
        usage: Usage,
        wanted: Wanted,
        clear: &mut dyn FnMut(Place) -> Result<(), VulkanError>,
    ) -> Result<usize, DeviceError> {
        let open = &self.open[usage as usize];
        let last = open.map(|index| self.blocks[index].bytes);
        if let Some(index) = *open
            && self.blocks[index].bytes - self.blocks[index].used >= bytes
        {
            return Ok(index);
        }
        let next = last.map_or(FIRST_BLOCK, |last| (last * 2).min(LARGEST_BLOCK)).min(self.most);
        // A large one leaves the block of small ones open.
        let shared = bytes <= next / 4;
        let mut block = Block::new(&self.gpu, if shared { next } else { bytes }, wanted)
            .map_err(|error| self.out_of_memory(error))?;
        let all = block.bytes;
        match block.bytes_mut(0, all) {
            Some(bytes) => bytes.fill(0),
            None => clear(Place { buffer: block.buffer, offset: 0, bytes: all })?,
        }
        self.taken += all;
        self.blocks.push(block);
        let index = self.blocks.len() - 1;
        if shared {
            self.open[usage as usize] = Some(index);
        }
        Ok(index)
    }

    /// Add how much there is.
    fn out_of_memory(&self, mut error: VulkanError) -> VulkanError {
        if let VulkanError::OutOfMemory { free, .. } = &mut error {
            *free = format!("{} are in use", self.taken);
            if let Some(left) = self.free() {
                *free += &format!(", {left} of {} free", self.gpu.facts().total_memory());
            }
        }
        error
    }
}

impl Block {
    /// Take memory from the device. Its contents are undefined.
    pub fn new(gpu: &Arc<Gpu>, bytes: u64, wanted: Wanted) -> Result<Self, VulkanError> {
        let create = vk::BufferCreateInfo::default()
            .size(bytes)
            .usage(
                vk::BufferUsageFlags::STORAGE_BUFFER
                    | vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS
                    | vk::BufferUsageFlags::TRANSFER_SRC
                    | vk::BufferUsageFlags::TRANSFER_DST,
            )
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        let failed = |call, result| match result {
            vk::Result::ERROR_OUT_OF_DEVICE_MEMORY
            | vk::Result::ERROR_OUT_OF_HOST_MEMORY
            | vk::Result::ERROR_TOO_MANY_OBJECTS => VulkanError::OutOfMemory {
                device: gpu.facts().named(),
                what: wanted.what,
                bytes,
                free: "more than there is".into(),
            },
            result => gpu.failed(call, result),
        };
        // SAFETY: the size is neither none nor beyond the device's limit.
        let buffer = unsafe { gpu.raw().create_buffer(&create, None) };
        let buffer = buffer.map_err(|result| failed("vkCreateBuffer", result))?;
        // Dropped with what it has, should a later call fail.
        let mut block = Self {
            gpu: Arc::clone(gpu),
            buffer,
            memory: vk::DeviceMemory::null(),
            address: 0,
            bytes,
            mapped: None,
            used: 0,
        };
        // SAFETY: the buffer was made above.
        let needs = unsafe { gpu.raw().get_buffer_memory_requirements(buffer) };
        let kinds = wanted.kinds.iter();
        let mut kinds = kinds.filter_map(|kind| kind_of_memory(gpu, needs.memory_type_bits, *kind));
        let none = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
        let kind = kinds.next().ok_or_else(|| failed("vkAllocateMemory", none))?;
        let mut flags =
            vk::MemoryAllocateFlagsInfo::default().flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
        let allocate = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(kind)
            .push_next(&mut flags);
        // SAFETY: the kind is one of the device's, and it has `bufferDeviceAddress`.
        let memory = unsafe { gpu.raw().allocate_memory(&allocate, None) };
        block.memory = memory.map_err(|result| failed("vkAllocateMemory", result))?;
        // SAFETY: buffer and memory were made above for each other, and are bound once.
        let bound = unsafe { gpu.raw().bind_buffer_memory(buffer, block.memory, 0) };
        bound.map_err(|result| failed("vkBindBufferMemory", result))?;
        let of = vk::BufferDeviceAddressInfo::default().buffer(buffer);
        // SAFETY: the buffer is bound to memory, and made to have an address.
        block.address = unsafe { gpu.raw().get_buffer_device_address(&of) };
        assert!(block.address.is_multiple_of(ALIGNMENT), "drivers align memory to pages");
        if wanted.mapped {
            let (all, none) = (vk::WHOLE_SIZE, vk::MemoryMapFlags::empty());
            // SAFETY: the kind of memory is host-visible, and is mapped once.
            let mapped = unsafe { gpu.raw().map_memory(block.memory, 0, all, none) };
            let mapped = mapped.map_err(|result| failed("vkMapMemory", result))?;
            block.mapped = NonNull::new(mapped.cast());
        }
        Ok(block)
    }

    /// A range, if it is mapped. The device must have finished with it.
    pub fn bytes(&self, offset: u64, bytes: u64) -> Option<&[u8]> {
        assert!(offset + bytes <= self.bytes, "ranges are checked");
        let begin = self.mapped?;
        // SAFETY: the range is in the block, which is mapped as long as it lives, and the device has
        // finished with it. The driver got the memory from the system, so it is some bytes or
        // other even before it is written. Only `bytes_mut` writes, which borrows `self`.
        Some(unsafe {
            std::slice::from_raw_parts(begin.as_ptr().add(offset as usize), bytes as usize)
        })
    }

    /// As [`bytes`](Self::bytes), to be written.
    pub fn bytes_mut(&mut self, offset: u64, bytes: u64) -> Option<&mut [u8]> {
        assert!(offset + bytes <= self.bytes, "ranges are checked");
        let begin = self.mapped?;
        // SAFETY: as above, and `self` is borrowed for as long as the slice lives.
        Some(unsafe {
            std::slice::from_raw_parts_mut(begin.as_ptr().add(offset as usize), bytes as usize)
        })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the device has finished: blocks are dropped after waiting for all that used them.
        // Freeing unmaps. Either handle may be null, which is ignored.
        unsafe {
            self.gpu.raw().destroy_buffer(self.buffer, None);
            self.gpu.raw().free_memory(self.memory, None);
        }
    }
}

/// The first kind of memory among `allowed` that has the properties; drivers list those with the
/// fewest others first.
fn kind_of_memory(gpu: &Gpu, allowed: u32, properties: Property) -> Option<u32> {
    let kinds = gpu.facts().memory.memory_types_as_slice().iter().zip(0..);
    let mut kinds = kinds.filter(|(_, index)| allowed & (1 << index) != 0);
    kinds
        .find(|(kind, _)| {
            kind.property_flags.contains(properties) && !kind.property_flags.intersects(UNFIT)
        })
        .map(|(_, index)| index)
}
