//! What can go wrong with CUDA, each with the name of the device.

/// A CUDA device cannot be had, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// No driver is installed.
    #[error("CUDA cannot be used: cannot load `libcuda.so.1`, which comes with NVIDIA's driver")]
    Loader,

    /// There is a driver, but it does not start.
    #[error("CUDA cannot be used: the driver does not start: {reason}")]
    Start { reason: String },

    /// A driver without calls that are needed.
    #[error("CUDA cannot be used: the driver is of CUDA {found}, expected at least 12.0")]
    OldDriver { found: String },

    /// There is a driver, but nothing that it drives.
    #[error("CUDA has no device here")]
    NoDevice,

    /// A number beyond the last device.
    #[error("device `cuda:{index}` is not there, expected `cuda:0` to `cuda:{last}`")]
    NoSuchDevice { index: usize, last: usize },

    /// A device older than all code.
    #[error("{device} has compute capability {found}, expected at least {expected}")]
    Capability { device: String, found: String, expected: String },

    /// Memory of the device is used up.
    #[error("{device} has no memory left: {bytes} bytes were asked for, {free}")]
    OutOfMemory {
        device: String,
        bytes: u64,
        /// How much there is.
        free: String,
    },

    /// A call that failed. What a kernel did wrong shows in a call after it.
    #[error("`{call}` failed on {device}: {reason}")]
    Call { device: String, call: &'static str, reason: String },
}
