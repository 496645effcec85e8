//! An open device: its context and one stream, on which everything happens in order.

use super::CudaError;
use super::driver::{self, Driver};
use super::facts::Facts;
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUresult, CUstream, CUstream_flags};
use std::ptr::null_mut;

/// A device's context and stream.
pub struct Gpu {
    facts: Facts,
    /// For messages.
    named: String,
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
}

// SAFETY: contexts and streams belong to the process: any thread may use them, and the driver locks
// what it must. Each call makes the context current for its thread first.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    pub fn open(driver: Driver, facts: Facts) -> Result<Self, CudaError> {
        let device = driver.device(facts.index)?;
        let named = facts.named();
        let mut context = null_mut();
        // SAFETY: the device exists; the handle's place is alive.
        let retained = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        driver::check(&named, "cuDevicePrimaryCtxRetain", retained)?;
        // Dropped with what it has, should a later call fail.
        let mut gpu = Self { facts, named, device, context, stream: null_mut() };
        gpu.enter()?;
        let mut stream = null_mut();
        let apart = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; the handle's place is alive.
        gpu.check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut stream, apart) })?;
        gpu.stream = stream;
        Ok(gpu)
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn stream(&self) -> CUstream {
        self.stream
    }

    /// Make the context that of this thread, as calls expect it.
    pub fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained as long as `self` lives.
        self.check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Wait for all that was started. What kernels did wrong shows here.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        self.check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// Bytes that are free, and bytes in all.
    pub fn memory(&self) -> Result<(u64, u64), CudaError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is current; both numbers are alive.
        let asked = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        self.check("cuMemGetInfo", asked)?;
        Ok((free as u64, total as u64))
    }

    /// What came of a call.
    pub fn check(&self, call: &'static str, result: CUresult) -> Result<(), CudaError> {
        driver::check(&self.named, call, result)
    }

    /// What came of a call that takes memory.
    pub fn check_memory(
        &self,
        call: &'static str,
        bytes: u64,
        result: CUresult,
    ) -> Result<(), CudaError> {
        if result != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return self.check(call, result);
        }
        let free = match self.memory() {
            Ok((free, total)) => format!("{free} of {total} are free"),
            Err(_) => "more than there is".into(),
        };
        Err(CudaError::OutOfMemory { device: self.named.clone(), bytes, free })
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: all that lived in the context has been freed before; a null stream was never
        // made. Failures mean that the device is lost, and the context with it.
        unsafe {
            if !self.stream.is_null() && self.enter().is_ok() {
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}
