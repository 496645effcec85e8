//! The machines, and Cranelift run for one of them.

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::Function;
use cranelift_codegen::isa::{self, OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, ir::Endianness};
use q35_target::Variant;
use target_lexicon::triple;

/// What code is made for. `native` and `avx2` are the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    X64Baseline,
    X64Avx2,
    Aarch64,
}

impl Machine {
    pub fn of(variant: &Variant) -> Option<Machine> {
        match variant.name {
            "sse2" => Some(Machine::X64Baseline),
            "avx2" | "native" => Some(Machine::X64Avx2),
            "aarch64" => Some(Machine::Aarch64),
            _ => None,
        }
    }

    /// `e_machine` of its object files.
    pub fn elf(self) -> u16 {
        match self {
            Machine::X64Baseline | Machine::X64Avx2 => 62,
            Machine::Aarch64 => 183,
        }
    }

    /// Instruction sets beyond the architecture's baseline, which is what Cranelift assumes.
    fn features(self) -> &'static [&'static str] {
        match self {
            Machine::X64Baseline | Machine::Aarch64 => &[],
            Machine::X64Avx2 => &[
                "has_sse3",
                "has_ssse3",
                "has_sse41",
                "has_sse42",
                "has_popcnt",
                "has_avx",
                "has_avx2",
                "has_fma",
                "has_bmi1",
                "has_bmi2",
                "has_lzcnt",
            ],
        }
    }

    pub fn isa(self) -> OwnedTargetIsa {
        let triple = match self {
            Machine::X64Baseline | Machine::X64Avx2 => triple!("x86_64-unknown-none-elf"),
            Machine::Aarch64 => triple!("aarch64-unknown-none-elf"),
        };
        let mut flags = settings::builder();
        for (name, value) in [
            ("opt_level", "speed"),
            ("is_pic", "true"),
            // Frames are a few spilled registers; nothing unwinds through a kernel.
            ("enable_probestack", "false"),
            ("unwind_info", "false"),
            ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ] {
            flags.set(name, value).expect("a setting of Cranelift");
        }
        let mut builder =
            isa::lookup(triple).expect("an architecture that Cranelift is built with");
        for feature in self.features() {
            builder.enable(feature).expect("a feature of the architecture");
        }
        builder.finish(settings::Flags::new(flags)).expect("settings that fit together")
    }
}

/// Machine code, and as text if it was asked for.
pub struct Code {
    pub bytes: Vec<u8>,
    pub assembly: String,
}

/// Compile `function` to code that can be copied anywhere and run.
pub fn emit(function: Function, isa: &dyn TargetIsa, assembly: bool) -> Result<Code, String> {
    assert_eq!(isa.endianness(), Endianness::Little, "buffers are little-endian");
    let mut context = Context::for_function(function);
    context.set_disasm(assembly);
    let code =
        context.compile(isa, &mut ControlPlane::default()).map_err(|e| format!("{:?}", e.inner))?;
    // A relocation would be a call of a library that the runtime does not have; a trap would be a
    // division that no constant stands behind.
    if let Some(reloc) = code.buffer.relocs().first() {
        return Err(format!("needs a relocation: {:?}", reloc.target));
    }
    if let Some(trap) = code.buffer.traps().first() {
        return Err(format!("can trap: {}", trap.code));
    }
    Ok(Code {
        bytes: code.code_buffer().to_vec(),
        assembly: code.vcode.clone().unwrap_or_default(),
    })
}
