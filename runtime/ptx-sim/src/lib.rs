//! Runs NVIDIA's PTX on the host, warp by warp, and counts what it does.
//!
//! ```text
//! PTX text
//!    │  lex, parse     directives, functions, instructions as words
//!    ▼
//!  Module
//!    │  load           its variables get their place in a Memory
//!    ▼
//!  Program
//!    │  decode         once a kernel: registers numbered, calls inlined, a closure an instruction
//!    ▼
//!  Kernel
//!    │  launch         blocks on host threads ─ block: warps in turns ─ exec: 32 lanes in lockstep
//!    ▼
//! Counters, or the fault with its kernel, line, block and thread
//! ```
//!
//! The text may be ours or another compiler's. What is not known is refused by name and line, never guessed. What a
//! GPU would leave undefined is a fault here: see [`FaultKind`], and `shared` for what counts as a race.
//!
//! ```
//! use q35_ptx_sim::{Launch, Memory, Module};
//!
//! let text = ".version 8.0 .target sm_80 .address_size 64
//!     .visible .entry twice(.param .u64 at) {
//!         .reg .b32 %r<3>; .reg .b64 %rd<3>;
//!         ld.param.u64 %rd1, [at];
//!         mov.u32 %r1, %tid.x;
//!         mad.wide.u32 %rd2, %r1, 4, %rd1;
//!         ld.global.u32 %r2, [%rd2];
//!         add.s32 %r2, %r2, %r2;
//!         st.global.u32 [%rd2], %r2;
//!         ret;
//!     }";
//! let mut memory = Memory::new();
//! let program = Module::parse(text)?.load(&mut memory)?;
//! let buffer = memory.alloc(128)?;
//! memory.fill(buffer, 1, 128)?;
//! let params = buffer.to_le_bytes();
//! let launch = Launch { block: [32, 1, 1], params: &params, ..Launch::default() };
//! let counters = program.launch(&memory, "twice", &launch)?;
//! assert_eq!(counters.global_load.sectors, 4);
//! let mut word = [0; 4];
//! memory.read(buffer + 124, &mut word)?;
//! assert_eq!(word, [2; 4]);
//! # Ok::<(), q35_ptx_sim::Error>(())
//! ```

mod ast;
mod banks;
mod block;
mod counters;
mod decode;
mod error;
mod exec;
mod launch;
mod lex;
mod math;
mod memory;
mod op;
mod parse;
mod program;
mod regs;
mod shared;
mod types;

pub use counters::{Buffer, Counters, Traffic};
pub use error::{Error, Fault, FaultKind};
pub use launch::Launch;
pub use memory::Memory;
pub use program::{Module, Program};
