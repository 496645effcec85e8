//! Modules of every variant are valid, and do on a Vulkan device what the evaluator of kernels does.

mod collectives;
mod harness;
mod instructions;
mod matrices;
mod memory;
mod models;
mod modules;
mod programs;
mod validator;
