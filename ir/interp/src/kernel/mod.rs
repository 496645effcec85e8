//! What a kernel means: the evaluator that defines the language.
//!
//! The lanes of a group run in lockstep, statement by statement; where control diverges,
//! a mask says who takes part. Targets need no lockstep: a program whose result would
//! depend on it has a race, and races on shared arrays are found here.
//!
//! What [`q35_kernel::Inst`] leaves to this definition:
//!
//! - `mma` adds to each sum one product after another, `j` ascending, each rounded once. A machine may
//!   add those of one step in another order, so here its results agree within bounds.
//! - A multiply-add of `panel_dot` is fused; the sum of a column starts from zero, or from `out`, and
//!   `x` and `w` are read before any of that row's sixteen sums is written.
//! - A shift by less than 0 or more than 31 is a fault, as is every access beyond a buffer.
//! - Only a barrier orders accesses of different lanes to a shared array: a write and another access
//!   to one element by two lanes between two barriers is a fault, and so is reading what this task
//!   has not written. A matrix instruction accesses all its elements by all lanes of its subgroup, as
//!   which of them takes which is the machine's: so between what a lane stored and the `mma` that reads
//!   it there is a barrier, even within a subgroup. Races on buffers are not looked for.
//! - An accumulator that its subgroup has not set in this task, by `mma_zero` or `mma_load`, cannot be used.

mod arith;
mod exec;
mod fault;
mod memory;
mod mma;
mod program;

pub use fault::{Accessor, Cause, Fault};
pub use memory::Arg;
pub use program::Program;

use q35_kernel::Kernel;
use std::ops::Range;

/// Run `kernel` for each task of `tasks`, on one argument for each parameter.
///
/// To run one kernel many times, make its [`Program`] once.
pub fn run(kernel: &Kernel, args: &mut [Arg<'_>], tasks: Range<u32>) -> Result<Counters, Fault> {
    Program::new(kernel)?.run(args, tasks)
}

/// What a run did, all tasks and lanes together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of each parameter, in order.
    pub params: Vec<Traffic>,
    /// Of all shared arrays.
    pub shared: Traffic,
    /// `f32` operations: a multiply-add is two, a fold of `n` is `n - 1`, a comparison is none.
    pub flops: u64,
    /// `f32` operations of matrix units, `2 m n k` an `mma`; not among `flops`.
    pub mma_flops: u64,
    /// Barriers that a group passed.
    pub barriers: u64,
}

/// Bytes asked for; an element read twice counts twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub loaded: u64,
    pub stored: u64,
}
