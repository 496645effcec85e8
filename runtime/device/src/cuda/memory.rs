//! A CUDA device's buffers, and the copies that fill and show them.
//!
//! The driver packs small allocations together, so each buffer is one. The host reaches none of
//! them directly: two pieces of pinned memory take turns, and while the device fetches one, the
//! host fills the other. They are as large as what has been copied so far, up to [`LARGEST`]; what
//! is larger goes through in parts.

use super::CudaError;
use super::gpu::Gpu;
use crate::{BufferId, DeviceError, Span, handle};
use cudarc::driver::sys::{self, CUdeviceptr, CUevent, CUevent_flags};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

/// Bytes of the smallest and the largest piece of pinned memory.
const SMALLEST: usize = 64 << 10;
const LARGEST: usize = 64 << 20;

/// All buffers of a device. None is freed before all are.
pub struct Memory {
    gpu: Arc<Gpu>,
    buffers: Vec<Buffer>,
    slots: [Slot; 2],
    turn: usize,
    /// Parts of a copy are no larger.
    largest: usize,
}

struct Buffer {
    address: CUdeviceptr,
    bytes: u64,
}

/// Pinned memory, and the event that tells when the device has finished with it.
struct Slot {
    bytes: *mut u8,
    len: usize,
    event: CUevent,
    in_use: bool,
}

// SAFETY: the address is of pinned memory that the slot alone has; events belong to the process.
unsafe impl Send for Slot {}

impl Memory {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        let slot = || Slot { bytes: null_mut(), len: 0, event: null_mut(), in_use: false };
        let mut memory = Self {
            gpu: Arc::clone(gpu),
            buffers: Vec::new(),
            slots: [slot(), slot()],
            turn: 0,
            largest: LARGEST,
        };
        gpu.enter()?;
        for slot in &mut memory.slots {
            let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
            // SAFETY: the context is current; the handle's place is alive.
            let made = unsafe { sys::cuEventCreate(&raw mut slot.event, flags) };
            gpu.check("cuEventCreate", made)?;
        }
        Ok(memory)
    }

    /// Copy no more bytes at once, so that tests see copies in parts.
    pub fn cap(&mut self, largest: usize) {
        self.largest = largest.clamp(1, LARGEST);
    }

    /// A buffer of zeros.
    pub fn alloc(&mut self, bytes: u64) -> Result<BufferId, CudaError> {
        self.gpu.enter()?;
        // Never none, so that it has an address.
        let whole = bytes.max(1) as usize;
        let mut address = 0;
        // SAFETY: the context is current; the address's place is alive.
        let taken = unsafe { sys::cuMemAlloc_v2(&raw mut address, whole) };
        self.gpu.check_memory("cuMemAlloc", bytes, taken)?;
        self.buffers.push(Buffer { address, bytes });
        // SAFETY: so many bytes were allocated there.
        let cleared = unsafe { sys::cuMemsetD8Async(address, 0, whole, self.gpu.stream()) };
        self.gpu.check("cuMemsetD8Async", cleared)?;
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    /// Where a span lies.
    pub fn place(&self, span: Span) -> Result<CUdeviceptr, DeviceError> {
        let buffer = handle::find("buffer", &self.buffers, span.buffer.0)?;
        Ok(buffer.address + span.within(buffer.bytes)?.start)
    }

    /// Have `write` write all of a span, after all that was started before.
    pub fn upload(
        &mut self,
        span: Span,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), DeviceError> {
        let (to, bytes) = (self.place(span)?, span.bytes as usize);
        if bytes == 0 {
            write(&mut []);
        } else if bytes <= self.largest {
            self.upload_part(to, bytes, write)?;
        } else {
            let mut all = vec![0; bytes];
            write(&mut all);
            for (index, part) in all.chunks(self.largest).enumerate() {
                let to = to + (index * self.largest) as u64;
                self.upload_part(to, part.len(), &mut |bytes| bytes.copy_from_slice(part))?;
            }
        }
        Ok(())
    }

    /// Show a span to `look`, when all that was started has finished.
    pub fn download(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        let (from, bytes) = (self.place(span)?, span.bytes as usize);
        if bytes == 0 {
            look(&[]);
        } else if bytes <= self.largest {
            self.download_part(from, bytes, look)?;
        } else {
            let mut all = Vec::with_capacity(bytes);
            for at in (0..bytes).step_by(self.largest) {
                let some = self.largest.min(bytes - at);
                let from = from + at as u64;
                self.download_part(from, some, &mut |part| all.extend_from_slice(part))?;
            }
            look(&all);
        }
        Ok(())
    }

    fn upload_part(
        &mut self,
        to: CUdeviceptr,
        bytes: usize,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), CudaError> {
        let slot = self.slot(bytes)?;
        // SAFETY: the slot has so many bytes, initialised when it was made, which the device has
        // finished with, and `self` is borrowed meanwhile.
        write(unsafe { std::slice::from_raw_parts_mut(slot.bytes, bytes) });
        let (from, event) = (slot.bytes.cast::<c_void>().cast_const(), slot.event);
        slot.in_use = true;
        let (gpu, stream) = (&self.gpu, self.gpu.stream());
        // SAFETY: both places have so many bytes. The slot is not touched before the event.
        unsafe {
            let copied = sys::cuMemcpyHtoDAsync_v2(to, from, bytes, stream);
            gpu.check("cuMemcpyHtoDAsync", copied)?;
            gpu.check("cuEventRecord", sys::cuEventRecord(event, stream))
        }
    }

    fn download_part(
        &mut self,
        from: CUdeviceptr,
        bytes: usize,
        look: &mut dyn FnMut(&[u8]),
    ) -> Result<(), CudaError> {
        let to = self.slot(bytes)?.bytes;
        let (gpu, stream) = (&self.gpu, self.gpu.stream());
        // SAFETY: both places have so many bytes, and the host waits before it looks.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, stream) };
        gpu.check("cuMemcpyDtoHAsync", copied)?;
        gpu.wait()?;
        // SAFETY: as above, and `self` is borrowed meanwhile.
        look(unsafe { std::slice::from_raw_parts(to, bytes) });
        Ok(())
    }

    /// The slot whose turn it is, when it is free, with so many bytes.
    fn slot(&mut self, bytes: usize) -> Result<&mut Slot, CudaError> {
        self.gpu.enter()?;
        self.turn = (self.turn + 1) % self.slots.len();
        let slot = &mut self.slots[self.turn];
        if slot.in_use {
            // SAFETY: the event lives as long as the slot.
            let waited = unsafe { sys::cuEventSynchronize(slot.event) };
            self.gpu.check("cuEventSynchronize", waited)?;
            slot.in_use = false;
        }
        if slot.len < bytes {
            slot.free();
            let more = bytes.next_power_of_two().max(SMALLEST);
            let mut pinned = null_mut();
            // SAFETY: the context is current; the address's place is alive.
            let taken = unsafe { sys::cuMemAllocHost_v2(&raw mut pinned, more) };
            self.gpu.check("cuMemAllocHost", taken)?;
            // SAFETY: so many bytes were allocated there.
            unsafe { pinned.cast::<u8>().write_bytes(0, more) };
            (slot.bytes, slot.len) = (pinned.cast(), more);
        }
        Ok(slot)
    }
}

impl Slot {
    /// Give back the memory. The context is current, and the device has finished with it.
    fn free(&mut self) {
        if !self.bytes.is_null() {
            // SAFETY: it was allocated so, once, and is forgotten here. A failure is of a lost
            // device, whose memory is gone anyway.
            let _ = unsafe { sys::cuMemFreeHost(self.bytes.cast()) };
            (self.bytes, self.len) = (null_mut(), 0);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.gpu.wait().is_err() {
            // The device is lost. The context, which others may share, frees all with itself.
            return;
        }
        for slot in &mut self.slots {
            slot.free();
            if !slot.event.is_null() {
                // SAFETY: it was made so, and nothing waits for it.
                let _ = unsafe { sys::cuEventDestroy_v2(slot.event) };
            }
        }
        for buffer in &self.buffers {
            // SAFETY: it was allocated so, and nothing runs any more.
            let _ = unsafe { sys::cuMemFree_v2(buffer.address) };
        }
    }
}
