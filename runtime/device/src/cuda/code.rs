//! Kernels: texts that the driver compiles while they are loaded, or machine code where it has some for
//! its device; one module each.

use super::CudaError;
use super::driver::said;
use super::gpu::Gpu;
use crate::ptx::{Code, refused};
use crate::{DeviceError, KernelCode};
use cudarc::driver::sys::{
    self, CUfunction, CUfunction_attribute as Attribute, CUjit_option as Option_, CUmodule,
    CUresult,
};
use q35_artifact::Kernel;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

/// Bytes for what the compiler has to say.
const LOG: usize = 8 << 10;

/// A kernel that can be launched.
pub struct Loaded {
    gpu: Arc<Gpu>,
    pub kernel: Kernel,
    module: CUmodule,
    pub function: CUfunction,
    pub block: u32,
    pub dynamic_shared: u32,
    /// Blocks that run at once: more would only wait.
    pub grid: u32,
}

// SAFETY: modules and functions belong to the context; any thread may use them.
unsafe impl Send for Loaded {}

impl Loaded {
    pub fn new(gpu: &Arc<Gpu>, variant: &str, code: KernelCode<'_>) -> Result<Self, DeviceError> {
        let KernelCode { kernel, code } = code;
        let Code { text, cubin, block, dynamic_shared } = Code::new(kernel, code)?;
        let most = gpu.facts().shared_memory;
        if kernel.shared_bytes > most {
            let needs = kernel.shared_bytes;
            let reason = format!("it needs {needs} bytes of shared memory, the device has {most}");
            return Err(refused(kernel, reason));
        }
        gpu.enter()?;
        let cubin = cubin.filter(|_| gpu.facts().runs_machine_code(variant)).and_then(assembled);
        let module = cubin.map_or_else(|| compiled(text), Ok);
        // Dropped with what it has, should a later call fail.
        let mut loaded = Self {
            gpu: Arc::clone(gpu),
            kernel: kernel.clone(),
            module: module.map_err(|reason| refused(kernel, reason))?,
            function: null_mut(),
            block,
            dynamic_shared,
            grid: 0,
        };
        let name = CString::new(kernel.name.as_str()).map_err(|_| refused(kernel, "its name"))?;
        // SAFETY: the module is loaded, the name ends with a zero, the handle's place is alive.
        let found = unsafe {
            sys::cuModuleGetFunction(&raw mut loaded.function, loaded.module, name.as_ptr())
        };
        if found != CUresult::CUDA_SUCCESS {
            return Err(refused(kernel, said(found)));
        }
        loaded.prepare()?;
        Ok(loaded)
    }

    /// Allow it its shared memory, and find out how many blocks run at once.
    fn prepare(&mut self) -> Result<(), CudaError> {
        let (function, shared) = (self.function, self.dynamic_shared);
        if shared > 0 {
            let what = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded, and the device has so much.
            let set = unsafe { sys::cuFuncSetAttribute(function, what, shared as i32) };
            self.gpu.check("cuFuncSetAttribute", set)?;
        }
        let mut blocks = 0;
        // SAFETY: the function is loaded; the number is alive.
        let asked = unsafe {
            let (block, shared) = (self.block as i32, shared as usize);
            let ask = sys::cuOccupancyMaxActiveBlocksPerMultiprocessor;
            ask(&raw mut blocks, function, block, shared)
        };
        self.gpu.check("cuOccupancyMaxActiveBlocksPerMultiprocessor", asked)?;
        self.grid = u32::try_from(blocks).unwrap_or(0).max(1) * self.gpu.facts().units.max(1);
        Ok(())
    }
}

/// The module of machine code; none if the driver does not take it, whose text is then compiled. The
/// context is current.
fn assembled(cubin: &[u8]) -> Option<CUmodule> {
    // An ELF file has words of eight bytes, and in an artifact it begins anywhere.
    let mut words = vec![0u64; cubin.len().div_ceil(8)];
    for (word, bytes) in words.iter_mut().zip(cubin.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    let mut module = null_mut();
    // SAFETY: no options are given. The file says how long it is, and is whole: whoever opens an
    // artifact trusts that q35c wrote it. The driver has finished with it when it returns.
    let loaded = unsafe {
        let image = words.as_ptr().cast();
        sys::cuModuleLoadDataEx(&raw mut module, image, 0, null_mut(), null_mut())
    };
    (loaded == CUresult::CUDA_SUCCESS).then_some(module)
}

/// The module of a text, or what the compiler has to say. The context is current.
fn compiled(text: &str) -> Result<CUmodule, String> {
    let text = CString::new(text).map_err(|_| "its text ends in the middle")?;
    let mut log = vec![0u8; LOG];
    let mut options =
        [Option_::CU_JIT_ERROR_LOG_BUFFER, Option_::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The driver takes a number in place of an address.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG)];
    let mut module = null_mut();
    // SAFETY: the text ends with a zero; the options are two, with a value each, and the log has as
    // many bytes as they say. The driver has finished with all of it when it returns.
    let loaded = unsafe {
        sys::cuModuleLoadDataEx(
            &raw mut module,
            text.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    if loaded == CUresult::CUDA_SUCCESS {
        return Ok(module);
    }
    Err(match first_line(&log) {
        Some(line) => format!("{}: {line}", said(loaded)),
        None => said(loaded),
    })
}

/// The first line of a log that says something.
fn first_line(log: &[u8]) -> Option<String> {
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: it was loaded so, and nothing of it runs any more.
            let _ = unsafe { sys::cuModuleUnload(self.module) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_first_line_is_told() {
        let log = b"\n  ptxas application ptx input, line 3; error : no\nptxas fatal : so\n\0\0??";
        assert_eq!(first_line(log).unwrap(), "ptxas application ptx input, line 3; error : no");
        assert_eq!((first_line(&[0; 9]), first_line(b"\n \n")), (None, None));
        assert_eq!(first_line(b"cut of").unwrap(), "cut of");
    }
}
