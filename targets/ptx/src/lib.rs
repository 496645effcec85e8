//! GPU code for NVIDIA: PTX.
//!
//! ```text
//! Kernel ─ lower ─▶ one PTX module with one entry, of the kernel's name
//! ```
//!
//! Plain PTX that any driver's assembler takes: no calls, no local memory, nothing but what is written here.
//!
//! # Calling convention
//!
//! The other side of it is in `q35-device`, which cannot import this crate.
//!
//! A block is `lanes` x 1 x 1 threads and the grid `G` x 1 x 1, `G` as the device likes. Parameters, in order:
//!
//! | | | |
//! |---|---|---|
//! | `p0`, `p1`, ... | `u64` | address of each parameter; of a table parameter, of an array of addresses |
//! | `times` | `u64` | address of an `i32` that says how often the tasks are repeated, a negative one never; or 0: once |
//! | `each` | `u32` | tasks |
//!
//! - There are `n` = each · repeats of them, below 2^31. Block `b` does tasks `b`, `b + G`, ... below `n`.
//! - Buffers, and buffers of tables, begin at multiples of 64 bytes. Those that a kernel only reads, nobody
//!   writes while it runs.
//! - Shared arrays of more than 44 KiB together are `.extern .shared`, and the launch says how many bytes
//!   ([`Kernel::shared_bytes`]); fewer are static. What collectives exchange is static, and at most 4 KiB.
//!
//! The code of a kernel is its text. A zero byte and a cubin for the variant's architecture may follow
//! ([`with_cubin`]): a device that runs it as it is need not compile the text.
//!
//! # Variants
//!
//! One for each architecture that can be asked for ([`Ptx::SM_80`] and its like). They differ in the assembler's
//! `.target`; what they have is what `sm_80` has: subgroups of 32 lanes, matrix units for `m16n8k16`, 99 KiB of shared
//! memory.
//!
//! # Numbers
//!
//! Instructions give the bits that the evaluator gives, payloads of NaN and sums of matrix units aside.

mod function;
mod lower;

use q35_kernel::Kernel;
use q35_target::{Caps, LowerError, Mma, Target, Variant};

/// The PTX target, for one architecture.
#[derive(Debug, Clone, Copy)]
pub struct Ptx {
    variants: &'static [Variant],
}

/// What collectives may take for themselves: two values of four elements for each of 128 lanes.
const EXCHANGE: u32 = 4 << 10;

/// Shared arrays beyond this are dynamic: what may be static, less what collectives take.
const STATIC_BYTES: u32 = (48 << 10) - EXCHANGE;

/// The least that a block may have on any architecture from `sm_80` on.
const SHARED_BYTES: u32 = 99 << 10;

const CAPS: Caps = Caps {
    lanes: 128,
    subgroup: 32,
    vector: 4,
    shared_bytes: SHARED_BYTES - EXCHANGE,
    fma: true,
    panel_dot: false,
    mma: Some(Mma { m: 16, n: 8, k: 16 }),
};

/// The code of a kernel, from its text and what an assembler made of that.
pub fn with_cubin(text: &[u8], cubin: &[u8]) -> Vec<u8> {
    [text, b"\0", cubin].concat()
}

/// The text in the code of a kernel.
pub fn text(code: &[u8]) -> &[u8] {
    let end = code.iter().position(|byte| *byte == 0);
    &code[..end.unwrap_or(code.len())]
}

const fn variant(name: &'static str) -> Variant {
    Variant { name, extension: "ptx", caps: CAPS }
}

static VARIANTS: [Variant; 5] =
    [variant("sm_80"), variant("sm_89"), variant("sm_90"), variant("sm_100"), variant("sm_120")];

/// The version of PTX that knows an architecture, by number of the variant.
const VERSIONS: [&str; 5] = ["8.0", "8.0", "8.0", "8.6", "8.7"];

impl Ptx {
    /// Each architecture by itself, oldest first; code for an older one runs on newer ones.
    pub const SM_80: Ptx = Ptx::of(0);
    pub const SM_89: Ptx = Ptx::of(1);
    pub const SM_90: Ptx = Ptx::of(2);
    pub const SM_100: Ptx = Ptx::of(3);
    pub const SM_120: Ptx = Ptx::of(4);
    /// All of them: to look into artifacts, and for tests.
    pub const ALL: Ptx = Ptx { variants: &VARIANTS };

    const fn of(number: usize) -> Ptx {
        Ptx { variants: VARIANTS.split_at(number).1.split_at(1).0 }
    }
}

impl Target for Ptx {
    fn name(&self) -> &'static str {
        "ptx"
    }

    fn variants(&self) -> &'static [Variant] {
        self.variants
    }

    fn lower(&self, variant: &Variant, kernel: &Kernel) -> Result<Vec<u8>, LowerError> {
        let known = VARIANTS.iter().position(|v| v.name == variant.name);
        let lowered = match known {
            Some(number) => lower::module(kernel, (VERSIONS[number], variant.name)),
            None => Err("no such variant".into()),
        };
        lowered.map(String::into_bytes).map_err(|why| LowerError {
            kernel: kernel.name.clone(),
            variant: variant.name.into(),
            why,
        })
    }

    fn file(&self, _: &Variant, _: &str, code: &[u8]) -> Vec<u8> {
        text(code).to_vec()
    }

    /// The kernel as a comment before its code, so that it is PTX still.
    fn listing(&self, variant: &Variant, kernel: &Kernel) -> Result<String, LowerError> {
        let code = String::from_utf8(self.lower(variant, kernel)?).expect("PTX is text");
        let kernel: String = kernel.to_string().lines().map(|l| format!("// {l}\n")).collect();
        Ok(format!("{kernel}\n{code}"))
    }
}
