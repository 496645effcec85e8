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
//!   `vulkanMemoryModel`; shuffles in subgroups; for the `desktop` variants also
//!   `storageBuffer16BitAccess` and `shaderInt16`; for `desktop-coop`, cooperative matrices of a subgroup, 16 x 16 x 16 from
//!   `f16` or `bf16`, whichever a kernel has (`shaderFloat16`, or `VK_KHR_shader_bfloat16` with
//!   `shaderBFloat16CooperativeMatrix`), into `f32`.
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

/// The SPIR-V target.
#[derive(Debug, Clone, Copy)]
pub struct Spirv;

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
const COOPERATIVE: Caps = Caps { mma: Some(Mma { m: 16, n: 16, k: 16 }), ..DESKTOP };

const fn variant(name: &'static str, caps: Caps) -> Variant {
    Variant { name, extension: "spv", caps }
}

static VARIANTS: [Variant; 3] = [
    variant("baseline", BASELINE),
    variant("desktop", DESKTOP),
    variant("desktop-coop", COOPERATIVE),
];

impl Target for Spirv {
    fn name(&self) -> &'static str {
        "spirv"
    }

    fn variants(&self) -> &'static [Variant] {
        &VARIANTS
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
    let short_storage = match variant.name {
        "baseline" => false,
        "desktop" | "desktop-coop" => true,
        _ => return Err("no such variant".into()),
    };
    let caps = variant.caps;
    Ok(Profile { caps, shared_bytes: caps.shared_bytes + EXCHANGE, short_storage })
}
