//! Schedules for many lanes: the products, the delta rule, attention and the grouping of tokens by
//! expert. They compute what the single-lane ones beside them do, from the same packed weights and state.
//!
//! A panel's sixteen columns are neighbours in memory, so lanes that take neighbouring parts of a
//! panel read whole sectors, and `x` is read once for eight columns.

pub mod attention;
pub mod attention_mma;
pub mod delta_chunks;
pub mod delta_rule;
mod delta_units;
pub mod expert_groups;
mod mma;
pub mod product;
mod product_mma;

/// Lanes that the schedules here are written for.
pub const LANES: u32 = 128;
