//! CPU code, through Cranelift.
//!
//! ```text
//! Kernel ─ lower ─▶ CLIF ─ Cranelift ─▶ flat code: no relocations, no calls but to micro-kernels
//! ```
//!
//! Code is made when the artifact is, for several machines at once, and the runtime only maps
//! it: so nothing here may depend on the machine that compiles. Cranelift's vectors have 128
//! bits; what needs wider ones is a micro-kernel of the runtime, reached by [`Inst::PanelDot`]
//! in the variant that has them.
//!
//! # Calling convention
//!
//! The other side of it is `q35-device`'s `cpu::code`, which cannot import this crate.
//!
//! ```text
//! extern fn(buffers: *const *const u8, scratch: *mut u8, begin: u64, end: u64, micro: *const MicroTable)
//! ```
//!
//! System V on x86-64, AAPCS64 on aarch64, whatever the operating system. The code begins at
//! its first byte and may lie at any multiple of 64 bytes. It runs tasks `begin..end`, one after
//! another.
//!
//! - `buffers[i]` is the address of parameter `i`; of a table parameter, the address of an array
//!   of addresses.
//! - `scratch` holds the shared arrays in order, each aligned to 64 bytes
//!   ([`Kernel::shared_bytes`]); no two calls that run at once may share it.
//! - `micro` is an array of three addresses, the micro-kernels for weights of `f32`, `f16` and
//!   `bf16`, in this order; it is not read in variants without `panel_dot`. Each is
//!
//! ```text
//! extern fn(x: *const f32, x_row: i64, x_k: i64, w: *const u8, w_panel: i64, out: *mut f32, out_row: i64,
//!           rows: i64, panels: i64, k: i64, accumulate: i64)
//! ```
//!
//! with strides in elements, as in [`PanelDot`](q35_kernel::PanelDot); `accumulate` is 0 or 1.
//!
//! # Numbers
//!
//! Every instruction gives the bits that the evaluator gives, except the payload of a NaN.

mod elf;
mod isa;
mod lower;

use isa::Machine;
#[cfg(doc)]
use q35_kernel::Inst;
use q35_kernel::Kernel;
use q35_target::{Caps, LowerError, Target, Variant};

/// The CPU target.
#[derive(Debug, Clone, Copy)]
pub struct Cpu;

const fn variant(name: &'static str, caps: Caps) -> Variant {
    Variant { name, extension: "o", caps }
}

static VARIANTS: [Variant; 4] = [
    variant("sse2", Caps { fma: false, ..Caps::CPU }),
    variant("avx2", Caps::CPU),
    variant("native", Caps { panel_dot: true, ..Caps::CPU }),
    variant("aarch64", Caps::CPU),
];

impl Target for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn variants(&self) -> &'static [Variant] {
        &VARIANTS
    }

    fn lower(&self, variant: &Variant, kernel: &Kernel) -> Result<Vec<u8>, LowerError> {
        compile(variant, kernel, false).map(|c| c.bytes)
    }

    fn file(&self, variant: &Variant, kernel: &str, code: &[u8]) -> Vec<u8> {
        let machine = Machine::of(variant).expect("a variant of this target");
        elf::object(machine.elf(), kernel, code)
    }

    fn listing(&self, variant: &Variant, kernel: &Kernel) -> Result<String, LowerError> {
        let code = compile(variant, kernel, true)?;
        Ok(format!("{kernel}\n{}", code.assembly))
    }
}

fn compile(variant: &Variant, kernel: &Kernel, assembly: bool) -> Result<isa::Code, LowerError> {
    let lowered = || {
        let machine = Machine::of(variant).ok_or("no such variant")?;
        let isa = machine.isa();
        let function = lower::function(kernel, &variant.caps, &*isa)?;
        isa::emit(function, &*isa, assembly)
    };
    lowered().map_err(|why: String| LowerError {
        kernel: kernel.name.clone(),
        variant: variant.name.into(),
        why,
    })
}
