//! PTX does on a simulated GPU what the evaluator of kernels does, to the bit.

#[path = "../../../conformance/collectives.rs"]
mod collectives;
#[path = "../../../conformance/data.rs"]
mod data;
#[path = "../../../conformance/gpu.rs"]
mod gpu;
mod harness;
#[path = "../../../conformance/instructions.rs"]
mod instructions;
mod matrices;
#[path = "../../../conformance/memory.rs"]
mod memory;
mod modules;
#[path = "../../../conformance/programs.rs"]
mod programs;
mod ptxas;
