//! Evaluators: what graphs and kernels mean, run on the host.

pub mod graph;
pub mod kernel;
