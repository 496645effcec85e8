//! All that the compiler and a target know of each other.
//!
//! A target offers *variants*: the same schedule of launches, with code for different
//! machines. What a variant can do is plain data ([`Caps`]); kernel templates read it and
//! the compiler asks for nothing else. Lowering takes one kernel at a time.

use q35_kernel::Kernel;
use std::fmt;

/// What a machine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caps {
    /// Lanes of a group: 1 on a CPU, where wide values do what lanes do elsewhere.
    pub lanes: u32,
    /// Lanes of a subgroup, which owns the accumulators of `mma`; results do not depend on it.
    pub subgroup: u32,
    /// Elements that templates put into one value for element-wise work.
    pub vector: u8,
    /// Bytes of shared arrays that one group may use.
    pub shared_bytes: u32,
    /// Has fused multiply-add.
    pub fma: bool,
    /// Has a micro-kernel for `panel_dot`.
    pub panel_dot: bool,
    /// Has matrix units for 16-bit operands with float32 sums, of this shape.
    pub mma: Option<Mma>,
}

/// The shape of one matrix instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mma {
    pub m: u32,
    pub n: u32,
    pub k: u32,
}

impl Caps {
    /// A CPU, before what a variant adds. Values of eight elements are two registers: enough to hide
    /// latency in element-wise work, few enough that a formula's constants and temporaries stay in
    /// registers.
    pub const CPU: Caps = Caps {
        lanes: 1,
        subgroup: 1,
        vector: 8,
        shared_bytes: 16 << 20,
        fma: true,
        panel_dot: false,
        mma: None,
    };
}

/// Code for one kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// As in `Q35_CPU` and in the artifact's section names.
    pub name: &'static str,
    /// Ending of a file that holds one kernel's code, as other tools know it.
    pub extension: &'static str,
    pub caps: Caps,
}

/// Lowers kernels.
pub trait Target: Sync {
    /// As in `--target`.
    fn name(&self) -> &'static str;

    /// Every variant that an artifact gets, most portable first.
    fn variants(&self) -> &[Variant];

    /// The code of one kernel, as the device loads it.
    fn lower(&self, variant: &Variant, kernel: &Kernel) -> Result<Vec<u8>, LowerError>;

    /// `code` as a file that other tools read: an ELF object, a SPIR-V module, PTX text.
    fn file(&self, variant: &Variant, kernel: &str, code: &[u8]) -> Vec<u8>;

    /// `code` as text, for `--emit code` and for golden files.
    fn listing(&self, variant: &Variant, kernel: &Kernel) -> Result<String, LowerError>;
}

/// A kernel that a target cannot lower.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{kernel}` for `{variant}`: {why}")]
pub struct LowerError {
    pub kernel: String,
    pub variant: String,
    pub why: String,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
