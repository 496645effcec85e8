//! Modules of every variant are valid, and do on a Vulkan device what the evaluator of kernels does.

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
mod models;
mod modules;
#[path = "../../../conformance/programs.rs"]
mod programs;
mod subgroups;
mod validator;
