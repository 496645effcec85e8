//! Copies between the host and memory that it cannot reach.
//!
//! Two pieces of staging memory take turns: while the device fetches one, the host fills the
//! other. They are as large as what has been copied so far, up to [`LARGEST`]; what is larger goes
//! through in parts.

use super::VulkanError;
use super::gpu::{ANYTHING, COPIES, Gpu, HOST, Queue, Ticket};
use super::memory::{Block, Place, STAGING};
use ash::vk;
use std::sync::Arc;

/// Bytes of the smallest and the largest piece of staging memory.
const SMALLEST: u64 = 64 << 10;
const LARGEST: u64 = 64 << 20;

const ONCE: vk::CommandBufferUsageFlags = vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT;

/// Moves bytes.
pub struct Transfer {
    gpu: Arc<Gpu>,
    slots: [Slot; 2],
    turn: usize,
    largest: u64,
}

struct Slot {
    commands: vk::CommandBuffer,
    block: Option<Block>,
    /// What it was last used for.
    ticket: Ticket,
}

impl Transfer {
    pub fn new(gpu: &Arc<Gpu>, queue: &mut Queue, most: u64) -> Result<Self, VulkanError> {
        let mut slot =
            || Ok::<_, VulkanError>(Slot { commands: queue.commands()?, block: None, ticket: 0 });
        let slots = [slot()?, slot()?];
        Ok(Self { gpu: Arc::clone(gpu), slots, turn: 0, largest: LARGEST.min(most) })
    }

    /// Fill a place with zeros, some time before what is submitted next.
    pub fn clear(&mut self, queue: &mut Queue, place: Place) -> Result<(), VulkanError> {
        let slot = self.slot(queue, 0)?;
        // SAFETY: the slot's commands have finished. Places lie in blocks, which outlive the queue's
        // work, and begin and end at multiples of 4 when they are whole blocks, as here.
        slot.ticket = unsafe {
            queue.record(slot.commands, ONCE, |gpu| {
                gpu.barrier(slot.commands, ANYTHING, COPIES);
                let Place { buffer, offset, bytes } = place;
                gpu.raw().cmd_fill_buffer(slot.commands, buffer, offset, bytes, 0);
            })?;
            queue.submit(slot.commands)?
        };
        Ok(())
    }

    /// Have `write` write all of a place.
    pub fn upload(
        &mut self,
        queue: &mut Queue,
        place: Place,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), VulkanError> {
        if place.bytes <= self.largest {
            return self.upload_part(queue, &place, write);
        }
        let mut all = vec![0; place.bytes as usize];
        write(&mut all);
        for (part, at) in
            all.chunks(self.largest as usize).zip((0..).step_by(self.largest as usize))
        {
            let place = Place { offset: place.offset + at, bytes: part.len() as u64, ..place };
            self.upload_part(queue, &place, &mut |bytes| bytes.copy_from_slice(part))?;
        }
        Ok(())
    }

    /// Show a place to `look`, when all that was submitted has finished.
    pub fn download(
        &mut self,
        queue: &mut Queue,
        place: Place,
        look: &mut dyn FnMut(&[u8]),
    ) -> Result<(), VulkanError> {
        if place.bytes <= self.largest {
            return self.download_part(queue, &place, look);
        }
        let mut all = Vec::with_capacity(place.bytes as usize);
        for at in (0..place.bytes).step_by(self.largest as usize) {
            let bytes = self.largest.min(place.bytes - at);
            let place = Place { offset: place.offset + at, bytes, ..place };
            self.download_part(queue, &place, &mut |part| all.extend_from_slice(part))?;
        }
        look(&all);
        Ok(())
    }

    fn upload_part(
        &mut self,
        queue: &mut Queue,
        place: &Place,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), VulkanError> {
        let slot = self.slot(queue, place.bytes)?;
        let block = slot.block.as_mut().expect("the slot has memory");
        write(block.bytes_mut(0, place.bytes).expect("staging memory is mapped"));
        let staged = block.buffer;
        let region =
            [vk::BufferCopy { src_offset: 0, dst_offset: place.offset, size: place.bytes }];
        // SAFETY: the slot's commands have finished; both ranges are in their buffers, which
        // outlive the queue's work: staging memory is exchanged only when it is not in use.
        slot.ticket = unsafe {
            queue.record(slot.commands, ONCE, |gpu| {
                gpu.barrier(slot.commands, ANYTHING, COPIES);
                gpu.raw().cmd_copy_buffer(slot.commands, staged, place.buffer, &region);
            })?;
            queue.submit(slot.commands)?
        };
        Ok(())
    }

    fn download_part(
        &mut self,
        queue: &mut Queue,
        place: &Place,
        look: &mut dyn FnMut(&[u8]),
    ) -> Result<(), VulkanError> {
        let slot = self.slot(queue, place.bytes)?;
        let block = slot.block.as_ref().expect("the slot has memory");
        let region =
            [vk::BufferCopy { src_offset: place.offset, dst_offset: 0, size: place.bytes }];
        // SAFETY: as for uploading.
        slot.ticket = unsafe {
            queue.record(slot.commands, ONCE, |gpu| {
                gpu.barrier(slot.commands, ANYTHING, COPIES);
                gpu.raw().cmd_copy_buffer(slot.commands, place.buffer, block.buffer, &region);
                gpu.barrier(slot.commands, COPIES, HOST);
            })?;
            queue.submit(slot.commands)?
        };
        queue.wait(slot.ticket)?;
        look(block.bytes(0, place.bytes).expect("staging memory is mapped"));
        Ok(())
    }

    /// The slot whose turn it is, when it is free, with memory for so many bytes.
    fn slot(&mut self, queue: &Queue, bytes: u64) -> Result<&mut Slot, VulkanError> {
        self.turn = (self.turn + 1) % self.slots.len();
        let slot = &mut self.slots[self.turn];
        queue.wait(slot.ticket)?;
        let has = slot.block.as_ref().map_or(0, |block| block.bytes);
        if has < bytes {
            let more = bytes.next_power_of_two().clamp(SMALLEST.min(self.largest), self.largest);
            // The old one first: it is not in use, and both together may not fit.
            slot.block = None;
            slot.block = Some(Block::new(&self.gpu, more, STAGING)?);
        }
        Ok(slot)
    }
}
