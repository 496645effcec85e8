//! What every stage speaks of: element types, dimensions, the layout of packed
//! weights, and the step-parameter buffer that each launch reads.
//!
//! Nothing here decides or does IO. [`pack`] is the one piece of arithmetic: it
//! turns checkpoint tensors into the bytes a kernel reads, and is shared by the
//! runtime, the reference evaluator and the tools, so that they cannot disagree.

mod dim;
mod dtype;
pub mod pack;
pub mod step;

pub use dim::{Dim, Shape, Sizes};
pub use dtype::DType;
pub use pack::Layout;
pub use step::{Count, StepLayout};
