//! One launch: what a group of lanes does for one task.
//!
//! A kernel is an SSA program with structured control flow over buffers, values of one
//! to sixteen elements, and arrays that the lanes of a group share. Launching it runs
//! the body once for each task; tasks do not see one another. A CPU's kernels have one
//! lane and lean on wide values; a GPU's have many lanes and narrow values, and its matrix
//! units are used by a subgroup of lanes at once. Both are the same language, so one
//! evaluator defines them and one verifier checks them.
//!
//! ```text
//! template (shapes, dtypes, Caps) ─ KernelBuilder ─▶ Kernel ─┬─ text, verify
//!                                                            ├─ interp
//!                                                            └─ targets
//! ```
//!
//! Start at [`Inst`] for the language and at [`KernelBuilder`] for writing in it.

mod builder;
mod divisors;
mod expr;
mod inst;
mod math;
mod mma;
mod panel;
pub mod text;
pub mod verify;

pub use builder::{KernelBuilder, Machine};
pub use divisors::{Divisors, trailing_zeros};
pub use expr::{Expr, Operand};
pub use inst::*;
pub use mma::MmaArgs;
pub use panel::PanelArgs;
pub use text::ParseError;
pub use verify::{Finding, verify};
