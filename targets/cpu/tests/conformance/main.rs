//! The code does what the evaluator of kernels does, to the bit, in every variant: on this
//! machine, and for aarch64 in an emulator where there is one.

mod aarch64;
mod code;
#[path = "../../../conformance/data.rs"]
mod data;
mod harness;
mod instructions;
mod programs;
