//! GPU code for any Vulkan 1.3 driver: SPIR-V.
//!
//! ```text
//! Kernel ─ lower ─▶ one SPIR-V 1.6 module with one entry point, `main`
//! ```
//!
//! A module asks only for the capabilities that its kernel uses. Memory is reached by address,
//! arithmetic is `NoContraction`, the memory model is Vulkan's.
//!
//! # Calling convention
//!
//! The other side of it is `q35-device`'s `vulkan`, which cannot import this crate.
//!
//! The workgroup is `lanes` x 1 x 1 and the grid `G` x 1 x 1, `G` as the device likes. There are no
//! descriptors and no specialisation constants. The push constants are 24 bytes, little-endian:
//!
//! | bytes | | |
//! |---|---|---|
//! | 0 | `u64` | address of the arguments, a multiple of 8 |
//! | 8 | `u64` | address of an `i32` that says how often the tasks are repeated, a negative one never; or 0: once |
//! | 16 | `u32` | tasks |
//! | 20 | `u32` | 0 |
//!
//! - The arguments are `u64[params]`: the address of each parameter; of a table parameter, the address
//!   of an array of addresses. They are read when a group starts and must not change during a launch.
//! - There are `n` = tasks · repeats of them, below 2^31. Group `b` does tasks `b`, `b + G`, ... below `n`.
//! - Buffers, and buffers of tables, begin at multiples of 64 bytes and may be accessed up to the next
//!   multiple of 4 beyond their end: 16-bit elements are accessed two at a time, and what is beyond the
//!   end is written back unchanged.
//! - All subgroups are full (`REQUIRE_FULL_SUBGROUPS`) in groups of a multiple of 64 lanes, and have 4 to 64
//!   lanes. Subgroups must have [`Caps::subgroup`] lanes in kernels with accumulators; in others any size
//!   gives the same bits.
//! - The driver offers `shaderSignedZeroInfNanPreserveFloat32` and the features `bufferDeviceAddress` and
//!   `vulkanMemoryModel`; shuffles in subgroups; and what the variant takes beyond that.
//!
//! # Profiles and variants
//!
//! What differs between drivers is fixed when a model is compiled, by a profile ([`Spirv`]); all of its
//! variants are in the artifact, and the device runs the best that it can.
//!
//! | profile | variant | subgroup | shared memory | takes, beyond the above |
//! |---|---|---|---|---|
//! | `baseline` | `baseline` | 4 to 64 | 32 KiB | nothing: it runs on every device of Vulkan 1.3 |
//! | `desktop` | `desktop` | 32 | 48 KiB | `storageBuffer16BitAccess`, `storageBuffer8BitAccess`, `shaderInt16` |
//! | | `desktop-coop` | 32 | 48 KiB | and cooperative matrices |
//! | `desktop`, 64 lanes | `desktop-64` | 64 | 48 KiB | as `desktop` |
//! | | `desktop-64-coop` | 64 | 48 KiB | as `desktop-coop` |
//!
//! Cooperative matrices are those of a subgroup, 16 x 16 x 16 from `f16` or `bf16`, whichever a kernel has
//! (`shaderFloat16`, or `VK_KHR_shader_bfloat16` with `shaderBFloat16CooperativeMatrix`), into `f32`.
//!
//! # Numbers
//!
//! Instructions give the bits that the evaluator gives, with these exceptions, which Vulkan makes:
//! division and square root are within 2.5 and 3 units in the last place, subnormal numbers may be
//! taken for zero, the payload of a NaN is anything, and `fma` may be rounded twice.

mod lower;
mod module;

use q35_kernel::Kernel;
use q35_target::{Caps, LowerError, Mma, Target, Variant};
use rspirv::binary::Disassemble;

/// The SPIR-V target, for one profile.
#[derive(Debug, Clone, Copy)]
pub struct Spirv {
    variants: &'static [Variant],
}

/// What lowering knows of a variant beyond what templates do.
struct Profile {
    caps: Caps,
    /// All the shared memory there is, what collectives take for themselves included.
    shared_bytes: u32,
    /// Whether buffers can be accessed by 16 bits.
    short_storage: bool,
}

/// What collectives may take: two values of four elements for each of 128 lanes.
const EXCHANGE: u32 = 4 << 10;

const BASELINE: Caps = Caps {
    lanes: 128,
    subgroup: 32,
    vector: 4,
    shared_bytes: (32 << 10) - EXCHANGE,
    fma: false,
    panel_dot: false,
    mma: None,
};
const DESKTOP: Caps = Caps { shared_bytes: (48 << 10) - EXCHANGE, fma: true, ..BASELINE };
const DESKTOP_64: Caps = Caps { subgroup: 64, ..DESKTOP };

const fn cooperative(caps: Caps) -> Caps {
    Caps { mma: Some(Mma { m: 16, n: 16, k: 16 }), ..caps }
}

const fn variant(name: &'static str, caps: Caps) -> Variant {
    Variant { name, extension: "spv", caps }
}

static VARIANTS: [Variant; 5] = [
    variant("baseline", BASELINE),
    variant("desktop", DESKTOP),
    variant("desktop-coop", cooperative(DESKTOP)),
    variant("desktop-64", DESKTOP_64),
    variant("desktop-64-coop", cooperative(DESKTOP_64)),
];

impl Spirv {
    /// For every device of Vulkan 1.3.
    pub const BASELINE: Spirv = Spirv { variants: VARIANTS.split_at(1).0 };
    /// For GPUs with 16-bit storage and subgroups of 32 lanes, with and without matrix units.
    pub const DESKTOP: Spirv = Spirv { variants: VARIANTS.split_at(1).1.split_at(2).0 };
    /// As [`DESKTOP`](Self::DESKTOP), with subgroups of 64 lanes.
    pub const DESKTOP_64: Spirv = Spirv { variants: VARIANTS.split_at(3).1 };
    /// The variants of all profiles: to look into artifacts, and for tests.
    pub const ALL: Spirv = Spirv { variants: &VARIANTS };
}

impl Target for Spirv {
    fn name(&self) -> &'static str {
        "spirv"
    }

    fn variants(&self) -> &'static [Variant] {
        self.variants
    }

    fn lower(&self, variant: &Variant, kernel: &Kernel) -> Result<Vec<u8>, LowerError> {
        let lowered = || lower::module(kernel, &profile(variant)?);
        lowered().map_err(|why: String| LowerError {
            kernel: kernel.name.clone(),
            variant: variant.name.into(),
            why,
        })
    }

    fn file(&self, _: &Variant, _: &str, code: &[u8]) -> Vec<u8> {
        code.to_vec()
    }

    fn listing(&self, variant: &Variant, kernel: &Kernel) -> Result<String, LowerError> {
        let code = self.lower(variant, kernel)?;
        let module = rspirv::dr::load_bytes(code).expect("a module that was just written");
        Ok(format!("{kernel}\n{}\n", module.disassemble()))
    }
}

fn profile(variant: &Variant) -> Result<Profile, String> {
    if VARIANTS.iter().all(|v| v.name != variant.name) {
        return Err("no such variant".into());
    }
    let caps = variant.caps;
    let short_storage = variant.name != "baseline";
    Ok(Profile { caps, shared_bytes: caps.shared_bytes + EXCHANGE, short_storage })
}
