//! Graphs as text that people read and tests read back, exactly.
//!
//! ```text
//! program prefill
//! run embed
//! run attention_dense {layer: 0}
//!
//! block attention_dense
//! w0: bf16[64] rows "layers.{layer}.input_layernorm"
//!   recipe
//!     rows "model.layers.{layer}.input_layernorm.weight" [64] {first: 0, rows: 1, per_expert: 0, transform: none}
//! s0: kv {dtype: bf16, heads: 2, head_dim: 32}
//! %0: bf16[T, 64] = input {port: hidden}
//! %1: bf16[64] = weight {id: w0}
//! %2: bf16[T, 64] = rms_norm %0, %1 {eps: 0.000001, zero_centred: true}
//! return hidden %2
//! ```
//!
//! Reading is total: any text gives a graph or an error with its line. What the graph means is not
//! looked at; that is what [`verify`](crate::verify()) is for.

mod cursor;
mod parse;
mod print;

pub use parse::{ParseError, Problem, graph, program};

#[cfg(test)]
mod tests;
