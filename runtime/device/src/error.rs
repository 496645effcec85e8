//! What can go wrong on a device.

use crate::cpu::variant::VariantError;
use crate::cuda::CudaError;
use crate::vulkan::VulkanError;
use std::io;
use std::path::PathBuf;

/// A device cannot be had, or cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A file cannot be opened or mapped.
    #[error("cannot map `{}`: {source}", path.display())]
    Map { path: PathBuf, source: io::Error },

    /// A name for `--device` that stands for nothing.
    #[error("device `{name}` is not known, expected {known}")]
    UnknownDevice { name: String, known: String },

    /// The artifact has no code for the device that was asked for, or for any that is here.
    #[error("the artifact has code for {found}, expected code for {expected}")]
    NoCode { found: String, expected: String },

    /// None of the variants in the artifact runs on this machine.
    #[error("the artifact has the variants {found} of `{target}`, expected one of {expected}")]
    NoVariant { target: &'static str, found: String, expected: String },

    /// The device lacks what the most portable variant in the artifact takes.
    #[error("`{device}` ({name}) lacks {lacks}, expected by the artifact's variant `{variant}`")]
    Lacks { device: String, name: String, lacks: String, variant: String },

    /// `Q35_CPU` has a value that this machine cannot run, or nothing runs on this machine.
    #[error(transparent)]
    Variant(#[from] VariantError),

    /// There is no such Vulkan device, it will not do, or it has failed.
    #[error(transparent)]
    Vulkan(#[from] VulkanError),

    /// There is no such CUDA device, it will not do, or it has failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),

    /// A kernel did on the simulator what no kernel may do, or asked for what it does not have.
    #[error(transparent)]
    Simulated(#[from] q35_ptx_sim::Error),

    /// No threads, or more than any machine has.
    #[error("{found} threads were asked for, expected 1 to {most}")]
    Threads { found: usize, most: usize },

    /// Something that the system does not give.
    #[error("cannot get {what}: {source}")]
    System { what: String, source: io::Error },

    /// A buffer beyond the device's own limit.
    #[error("a buffer needs {bytes} bytes, expected at most {max}")]
    TooLarge { bytes: u64, max: u64 },

    /// A span that its buffer does not have.
    #[error("bytes {begin}..{end} of a buffer of {bytes} bytes were asked for")]
    OutOfRange { begin: u64, end: u64, bytes: u64 },

    /// An attempt to write into a mapped file.
    #[error("a mapped weight was to be written")]
    ReadOnly,

    /// A handle of another device.
    #[error("{what} {id} is not one of this device's {count}")]
    Handle { what: &'static str, id: u32, count: usize },

    /// A launch with too few or too many arguments.
    #[error("`{kernel}` was given {found} arguments, expected {expected}")]
    Arguments { kernel: String, found: usize, expected: usize },

    /// A list of buffers in place of one, or one in place of a list.
    #[error("parameter `{param}` of `{kernel}` was given {found}, expected {expected}")]
    Argument { kernel: String, param: String, found: &'static str, expected: &'static str },

    /// A span that begins within an element.
    #[error("parameter `{param}` of `{kernel}` was given an address that is no multiple of {size}")]
    Misaligned { kernel: String, param: String, size: usize },

    /// Code that this device does not take.
    #[error("the code of `{kernel}` cannot be loaded: {reason}")]
    Code { kernel: String, reason: String },
}

impl DeviceError {
    /// Variants `found` of a target, none of which is among those that are `expected`.
    pub fn no_variant(target: &'static str, found: &[&str], expected: &[&str]) -> Self {
        Self::NoVariant { target, found: quoted(found), expected: quoted(expected) }
    }
}

/// `a`, `b`
pub(crate) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
