//! The model as tensors: one node an op, in the order of definition.
//!
//! A [`Graph`] is one *block*: the embedding, one kind of decoder layer, or the head. Layers
//! of a kind differ only in their weights and state, whose names carry `{layer}` in place
//! of the number; so a block is compiled once however deep the model is, and a
//! [`Program`] says in which order the blocks run.
//!
//! Start at [`ops`](op) for what there is, and at [`Graph`] for how it is held.

mod builder;
mod dot;
mod effect;
mod graph;
mod infer;
pub mod op;
pub mod rewrite;
pub mod text;
pub mod verify;

pub use dot::dot;
pub use graph::*;
pub use infer::TypeError;
pub use op::Op;
pub use rewrite::{Rewrite, Rewriter};
pub use text::ParseError;
pub use verify::{Finding, verify, verify_program};
