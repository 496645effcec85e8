//! A `libcuda.so.1` that needs no GPU: those calls of CUDA's driver that the runtime makes, over ptx-sim.
//!
//! Put the built library as `libcuda.so` and `libcuda.so.1` into a folder, and the folder into `LD_LIBRARY_PATH`. It is
//! for tests of the code that calls the driver, so it is as unkind as a driver may be: what is put on a stream happens
//! only when somebody waits for it, nodes of a graph run in the order that edges allow and that is least like the one
//! in which they were added, and whatever is not known to be right is refused.
//!
//! `Q35_LIBCUDA` says what it plays, as in `devices:2,capability:86,memory:1048576,driver:12040`: see [`config`].
//!
//! The calls are here, and all that touches the caller's memory; [`driver`] is what they do.

#![allow(unsafe_code, reason = "a C interface, of which this is the other side")]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![allow(non_snake_case, reason = "the names are CUDA's")]
// One reason serves all calls: what a call is given is what CUDA's reference says it must be given. An address is of as
// many values as the call takes or gives there, alive during the call; texts end with a zero. Null is refused where it
// is no value. Nothing is kept beyond the call but addresses of pinned memory, which this library has allocated.
#![allow(clippy::missing_safety_doc, reason = "it stands above, for all")]

mod config;
mod driver;
mod pinned;

use driver::{Driver, Failure, Node, with, with_context};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

/// Values of `CUresult`.
mod result {
    pub const SUCCESS: i32 = 0;
    pub const INVALID_VALUE: i32 = 1;
    pub const OUT_OF_MEMORY: i32 = 2;
    pub const NOT_INITIALIZED: i32 = 3;
    pub const NO_DEVICE: i32 = 100;
    pub const INVALID_DEVICE: i32 = 101;
    pub const INVALID_CONTEXT: i32 = 201;
    pub const NO_BINARY_FOR_GPU: i32 = 209;
    pub const INVALID_PTX: i32 = 218;
    pub const INVALID_HANDLE: i32 = 400;
    pub const NOT_FOUND: i32 = 500;
    pub const LAUNCH_FAILED: i32 = 719;
}

/// What the driver has to say about a failed launch, for `cuGetErrorString`.
static FAULT: Mutex<Option<CString>> = Mutex::new(None);

fn code(done: Result<(), Failure>) -> c_int {
    let Err(Failure { code, text }) = done else { return result::SUCCESS };
    if let Some(text) = text {
        let mut fault = FAULT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Callers keep the text's address.
        fault.get_or_insert_with(|| CString::new(text).unwrap_or_default());
    }
    code
}

/// Write what a call gives.
fn give<T>(to: *mut T, value: Result<T, Failure>) -> c_int {
    code(value.and_then(|value| match to.is_null() {
        true => Err(result::INVALID_VALUE.into()),
        false => {
            // SAFETY: the caller's place for it.
            unsafe { to.write(value) };
            Ok(())
        }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> c_int {
    code(driver::start())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    give(version, with(|driver| Ok(driver.config().driver as c_int)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    give(count, with(|driver| Ok(driver.config().devices as c_int)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    give(device, with(|driver| driver.device(ordinal).map(|()| ordinal)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> c_int {
    code(with(|driver| {
        driver.device(device)?;
        let text = b"ptx-sim as a GPU\0";
        if name.is_null() || (len as usize) < text.len() {
            return Err(result::INVALID_VALUE.into());
        }
        // SAFETY: the caller's place has `len` bytes.
        unsafe { name.copy_from_nonoverlapping(text.as_ptr().cast(), text.len()) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> c_int {
    let total =
        |driver: &mut Driver| driver.device(device).map(|()| driver.config().memory as usize);
    give(bytes, with(total))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    device: c_int,
) -> c_int {
    let ask = |driver: &mut Driver| {
        driver.device(device)?;
        driver.attribute(attribute)
    };
    give(value, with(ask))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) -> c_int {
    let retain = |driver: &mut Driver| {
        driver.device(device)?;
        Ok(driver::context_of(device))
    };
    give(context, with(retain))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    code(with(|driver| driver.device(device)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: usize) -> c_int {
    code(driver::set_current(context))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(error: c_int, text: *mut *const c_char) -> c_int {
    let name = match error {
        result::SUCCESS => c"CUDA_SUCCESS",
        result::INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        result::OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        result::NOT_INITIALIZED => c"CUDA_ERROR_NOT_INITIALIZED",
        result::NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        result::INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        result::INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT",
        result::NO_BINARY_FOR_GPU => c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        result::INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        result::INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        result::NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        result::LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        _ => return result::INVALID_VALUE,
    };
    give(text, Ok(name.as_ptr()))
}

/// Of a failed launch it is what ptx-sim said, which a driver does not know.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int {
    let fault = FAULT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let words = match (error, &*fault) {
        (result::LAUNCH_FAILED, Some(text)) => text.as_ptr(),
        (result::NO_DEVICE, _) => c"no CUDA-capable device is detected".as_ptr(),
        (result::OUT_OF_MEMORY, _) => c"out of memory".as_ptr(),
        (result::INVALID_PTX, _) => c"a PTX JIT compilation failed".as_ptr(),
        (result::NOT_FOUND, _) => c"named symbol not found".as_ptr(),
        _ => c"the call was not as it should be".as_ptr(),
    };
    give(text, Ok(words))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    match give(free, with_context(|driver| Ok(driver.free() as usize))) {
        result::SUCCESS => give(total, with(|driver| Ok(driver.config().memory as usize))),
        failed => failed,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    give(address, with_context(|driver| driver.alloc(bytes as u64)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    code(with_context(|driver| driver.free_memory(address)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(address: *mut usize, bytes: usize) -> c_int {
    give(address, with_context(|driver| driver.pinned.alloc(bytes)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: usize) -> c_int {
    code(with_context(|driver| driver.pinned.free(address)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, byte: u8, bytes: usize, stream: usize) -> c_int {
    code(with_context(|driver| driver.set(to, byte, bytes as u64, stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: usize, bytes: usize, stream: usize) -> c_int {
    code(with_context(|driver| driver.copy_to_device(to, from, bytes, stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: usize, from: u64, bytes: usize, stream: usize) -> c_int {
    code(with_context(|driver| driver.copy_to_host(to, from, bytes, stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: *mut usize, _flags: c_uint) -> c_int {
    give(stream, with_context(Driver::stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: usize) -> c_int {
    code(with_context(|driver| driver.destroy_stream(stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: usize) -> c_int {
    code(with_context(|driver| driver.finish(stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: *mut usize, _flags: c_uint) -> c_int {
    give(event, with_context(Driver::event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: usize) -> c_int {
    code(with_context(|driver| driver.destroy_event(event)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: usize, stream: usize) -> c_int {
    code(with_context(|driver| driver.record(event, stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: usize) -> c_int {
    code(with_context(|driver| driver.finish_event(event)))
}

/// Options of `cuModuleLoadDataEx` that are heeded.
const ERROR_LOG_BUFFER: c_int = 5;
const ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut usize,
    image: *const c_char,
    count: c_uint,
    options: *const c_int,
    values: *const *mut c_void,
) -> c_int {
    let (mut log, mut room) = (std::ptr::null_mut(), 0);
    for index in 0..count as usize {
        // SAFETY: there are so many of both.
        let (option, value) = unsafe { (options.add(index).read(), values.add(index).read()) };
        match option {
            ERROR_LOG_BUFFER => log = value.cast::<u8>(),
            // A number in place of an address.
            ERROR_LOG_BUFFER_SIZE_BYTES => room = value.addr(),
            _ => return result::INVALID_VALUE,
        }
    }
    // SAFETY: a text, or an ELF file, which has a zero in its first sixteen bytes.
    let image = unsafe { CStr::from_ptr(image) };
    if image.to_bytes().starts_with(b"\x7fELF") {
        // There is nothing here that runs machine code.
        return result::NO_BINARY_FOR_GPU;
    }
    let Ok(text) = image.to_str() else { return result::INVALID_PTX };
    let loaded = with_context(|driver| driver.module(text));
    if let Err(Failure { code: result::INVALID_PTX, text: Some(said) }) = &loaded {
        let line = format!("ptxas application ptx input; error   : {said}\n\0");
        if !log.is_null() && line.len() <= room {
            // SAFETY: the caller's buffer has `room` bytes.
            unsafe { log.copy_from_nonoverlapping(line.as_ptr(), line.len()) };
        }
        return result::INVALID_PTX;
    }
    give(module, loaded)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut usize,
    module: usize,
    name: *const c_char,
) -> c_int {
    // SAFETY: a text.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    give(function, with_context(|driver| driver.function(module, &name)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: usize) -> c_int {
    code(with_context(|driver| driver.unload(module)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) -> c_int {
    code(with_context(|driver| driver.allow_shared(function, attribute, value)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: usize,
    block: c_int,
    shared: usize,
) -> c_int {
    give(blocks, with_context(|driver| driver.occupancy(function, block, shared)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphCreate(graph: *mut usize, _flags: c_uint) -> c_int {
    give(graph, with_context(Driver::graph))
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
pub struct KernelNodeParams {
    function: usize,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    params: *const *const c_void,
    extra: *const *const c_void,
    kernel: usize,
    context: usize,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode_v2(
    node: *mut usize,
    graph: usize,
    waits: *const usize,
    count: usize,
    params: *const KernelNodeParams,
) -> c_int {
    let add = |driver: &mut Driver| {
        // SAFETY: the caller's parameters.
        let given = unsafe { &*params };
        if given.params.is_null() || !given.extra.is_null() || given.kernel != 0 {
            return Err(result::INVALID_VALUE.into());
        }
        let waits = match count {
            0 => vec![],
            // SAFETY: there are so many.
            _ => unsafe { std::slice::from_raw_parts(waits, count) }.to_vec(),
        };
        let layout = driver.parameters(given.function)?;
        let size = layout.iter().map(|(offset, bytes)| offset + bytes).max().unwrap_or(0);
        let mut bytes = vec![0; size as usize];
        for (index, (offset, size)) in layout.into_iter().enumerate() {
            let (at, size) = (offset as usize, size as usize);
            // SAFETY: an address for each parameter, of a value of its size.
            let value = unsafe {
                std::slice::from_raw_parts(given.params.add(index).read().cast::<u8>(), size)
            };
            bytes[at..at + size].copy_from_slice(value);
        }
        let KernelNodeParams { function, grid, block, shared, .. } = *given;
        driver.add(graph, Node { function, grid, block, shared, params: bytes, waits })
    };
    give(node, with_context(add))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(
    exec: *mut usize,
    graph: usize,
    _flags: u64,
) -> c_int {
    give(exec, with_context(|driver| driver.instantiate(graph)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(exec: usize, stream: usize) -> c_int {
    code(with_context(|driver| driver.upload(exec, stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(exec: usize, stream: usize) -> c_int {
    code(with_context(|driver| driver.launch(exec, stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: usize) -> c_int {
    code(with_context(|driver| driver.destroy_graph(graph)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(exec: usize) -> c_int {
    code(with_context(|driver| driver.destroy_exec(exec)))
}
