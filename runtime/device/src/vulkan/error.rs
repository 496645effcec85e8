//! What can go wrong with Vulkan, each with the name of the device.

use super::MAX_BUFFER_ENV;
use ash::vk;

/// A Vulkan device cannot be had, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum VulkanError {
    /// No loader is installed, or it knows no driver.
    #[error("Vulkan cannot be used: {reason}")]
    Loader { reason: String },

    /// There are drivers, but nothing that they drive.
    #[error("Vulkan has no device here")]
    NoDevice,

    /// All devices are software, which is used only when named.
    #[error(
        "Vulkan has no hardware device here, expected one, or that `{software}` is asked for by name"
    )]
    OnlySoftware { software: String },

    /// A number beyond the last device.
    #[error("device `vulkan:{index}` is not there, expected `vulkan:0` to `vulkan:{last}`")]
    NoSuchDevice { index: usize, last: usize },

    /// A device of an older Vulkan.
    #[error("{device} has Vulkan {found}, expected at least 1.3")]
    Version { device: String, found: String },

    /// A device without something that all kernels need.
    #[error("{device} lacks {feature}, expected a device with it")]
    Feature { device: String, feature: String },

    /// `Q35_VULKAN_MAX_BUFFER` is not a size.
    #[error("`{MAX_BUFFER_ENV}` is `{found}`, expected bytes such as `1048576` or `1MiB`")]
    MaxBuffer { found: String },

    /// Memory of the device, or of the host on its behalf, is used up.
    #[error("{device} has no memory left for {what}: {bytes} bytes were asked for, {free}")]
    OutOfMemory {
        device: String,
        what: &'static str,
        bytes: u64,
        /// How much is thought to be free.
        free: String,
    },

    /// The device has stopped: it hung, was reset or unplugged. Nothing on it can be saved.
    #[error("{device} was lost during `{call}`: its driver has reset it, or a kernel hung")]
    Lost { device: String, call: &'static str },

    /// A call that failed otherwise.
    #[error("`{call}` failed on {device}: {result}")]
    Call { device: String, call: &'static str, result: vk::Result },
}
