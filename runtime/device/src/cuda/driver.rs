//! The driver: looked for when it is first wanted, so that programs start without one.

use super::CudaError;
use super::facts::{Facts, version};
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute as Attribute, CUresult};
use std::ffi::CStr;
use std::sync::OnceLock;

/// The oldest that has every call that is used.
const OLDEST: u32 = 12_000;

/// A driver that has been loaded and started.
#[derive(Clone, Copy)]
pub struct Driver {
    devices: usize,
    version: u32,
}

impl Driver {
    /// # Errors
    ///
    /// There is none, or it does not start or is too old; [`CudaError::NoDevice`].
    pub fn new() -> Result<Self, CudaError> {
        static PRESENT: OnceLock<bool> = OnceLock::new();
        // SAFETY: loading the library runs its initialisers, which are NVIDIA's.
        if !PRESENT.get_or_init(|| unsafe { sys::is_culib_present() }) {
            return Err(CudaError::Loader);
        }
        // SAFETY: the library is present, and has had these since the first version.
        let started = unsafe { sys::cuInit(0) };
        match started {
            CUresult::CUDA_SUCCESS => (),
            CUresult::CUDA_ERROR_NO_DEVICE => return Err(CudaError::NoDevice),
            failed => return Err(CudaError::Start { reason: said(failed) }),
        }
        let (mut version_of, mut devices) = (0, 0);
        // SAFETY: as above; both numbers are alive.
        let asked = unsafe {
            match sys::cuDriverGetVersion(&raw mut version_of) {
                CUresult::CUDA_SUCCESS => sys::cuDeviceGetCount(&raw mut devices),
                failed => failed,
            }
        };
        if asked != CUresult::CUDA_SUCCESS {
            return Err(CudaError::Start { reason: said(asked) });
        }
        let found = u32::try_from(version_of).unwrap_or(0);
        if found < OLDEST {
            return Err(CudaError::OldDriver { found: version(found) });
        }
        match usize::try_from(devices).unwrap_or(0) {
            0 => Err(CudaError::NoDevice),
            devices => Ok(Self { devices, version: found }),
        }
    }

    /// All devices, in the driver's order, which begins with the fastest.
    pub fn devices(self) -> Result<Vec<Facts>, CudaError> {
        (0..self.devices).map(|index| self.facts(index)).collect()
    }

    /// What there is to know about a device.
    pub fn facts(self, index: usize) -> Result<Facts, CudaError> {
        if index >= self.devices {
            return Err(CudaError::NoSuchDevice { index, last: self.devices - 1 });
        }
        let device = self.device(index)?;
        let title = format!("`{}:{index}`", super::NAME);
        let mut name = [0; 256];
        let mut memory = 0;
        // SAFETY: the device exists; the name's room and the number are alive, and the driver ends
        // the name with a zero.
        let name = unsafe {
            let room = name.len() as i32;
            check(
                &title,
                "cuDeviceGetName",
                sys::cuDeviceGetName(name.as_mut_ptr(), room, device),
            )?;
            let asked = sys::cuDeviceTotalMem_v2(&raw mut memory, device);
            check(&title, "cuDeviceTotalMem", asked)?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        let ask = |attribute| {
            let mut value = 0;
            // SAFETY: as above.
            let asked = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) };
            check(&title, "cuDeviceGetAttribute", asked)?;
            Ok::<_, CudaError>(u32::try_from(value).unwrap_or(0))
        };
        let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(Facts {
            index,
            name,
            capability: major * 10 + minor,
            units: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory: memory as u64,
            shared_memory: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            driver: self.version,
        })
    }

    /// The driver's handle of a device.
    pub fn device(self, index: usize) -> Result<CUdevice, CudaError> {
        let mut device = 0;
        // SAFETY: the driver has started, and the handle's place is alive.
        let asked = unsafe { sys::cuDeviceGet(&raw mut device, index as i32) };
        check(&format!("`{}:{index}`", super::NAME), "cuDeviceGet", asked)?;
        Ok(device)
    }
}

/// What came of a call.
pub fn check(device: &str, call: &'static str, result: CUresult) -> Result<(), CudaError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        failed => Err(CudaError::Call { device: device.into(), call, reason: said(failed) }),
    }
}

/// The driver's words for what went wrong.
pub fn said(result: CUresult) -> String {
    let text = |get: unsafe fn(CUresult, *mut *const std::ffi::c_char) -> CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: a result comes from a driver that is loaded; its texts end with a zero and live
        // as long as the driver.
        unsafe {
            (get(result, &raw mut text) == CUresult::CUDA_SUCCESS && !text.is_null())
                .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    match (text(sys::cuGetErrorName), text(sys::cuGetErrorString)) {
        (Some(name), Some(words)) => format!("{name}, {words}"),
        _ => format!("{result:?}"),
    }
}
