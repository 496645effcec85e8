//! From a Qwen3.5 `config.json` to an artifact.
//!
//! ```text
//! config.json
//!     │  frontend   read the config, write the model as graphs of primitive ops
//!     ▼
//! Programs          one an entry point; a block a kind of layer
//!     │  passes     fuse, choose layouts
//!     ▼
//! Programs
//!     │  schedule   a kernel template for each node, a place for each tensor
//!     ▼
//! Schedule          launches, weights, state; kernels as specs
//!     │  link       build each kernel for each variant of each target, and lower it
//!     ▼
//! Artifact          bytes for the runtime
//! ```
//!
//! Everything here turns values into values: no files, no clock, no environment, no device.
//! The `q35c` binary reads and writes. To follow one op down, start at [`frontend::build`] and read to the
//! end of [`passes::PIPELINE`], then [`schedule`], then [`kernels`].

pub mod frontend;
pub mod kernels;
pub mod link;
pub mod passes;
pub mod schedule;

pub use frontend::build::Options;
pub use frontend::config::Config;
pub use link::{CompileError, Request, compile, emit, stages};
pub use schedule::Limits;
