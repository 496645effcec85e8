//! What the end-to-end tests share.

pub mod counters;
pub mod evaluator;
pub mod files;
pub mod golden;
pub mod guarantees;
pub mod hand;
pub mod ledger;
pub mod libcuda;
pub mod program;
pub mod published;
pub mod run;
pub mod scratch;
pub mod spy;
pub mod step;
pub mod tensors;
pub mod traffic;
pub mod vulkan;
pub mod witness;
