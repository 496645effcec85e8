//! The reference evaluator of graphs: each op as its definition in [`q35_graph::op`] says it.
//!
//! Everything is `f32`; sums, and functions that are not exact in `f32`, are computed in `f64` and rounded once, so
//! that what is left is the definition and not an order of additions. A node's result is rounded to
//! its type. What passes make is evaluated as the composition that its definition names, through the
//! same functions, without rounding in between.
//!
//! ```text
//! Session::step(prefill, ids)   runs a program on the next tokens of one sequence
//!     │
//!   block                       runs one graph on one layer's weights and state
//!     │
//!   ops, fused                  the definitions
//! ```
//!
//! Graphs must have passed the [verifier](q35_graph::verify()): here they are indexed without asking.

mod block;
mod experts;
mod fused;
mod ops;
mod sampling;
mod sequence;
mod session;
mod tensor;
mod weights;

pub use block::{EvalError, block};
pub use sequence::{Kv, Sequence};
pub use session::Session;
pub use tensor::Tensor;
pub use weights::{Checkpoint, WeightError, Weights};

#[cfg(test)]
mod tests;
