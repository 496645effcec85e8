//! What `q35c` writes and the runtime reads: one file that holds the code of a model, how to
//! run it and how to make its weights from a checkpoint. It holds no weights.
//!
//! ```text
//! metadata   format version, hash of every section
//! model      facts about the model        graph   text, for people and tools
//! manifest   packed weights and recipes   plan    launches of each entry point, per target
//! code       machine code per target and variant
//! ```
//!
//! [`Plan`] and [`Manifest`] are plain data; [`Artifact`] is the file.

mod check;
mod container;
mod manifest;
mod plan;
#[cfg(test)]
mod sample;

pub use check::{CheckError, Fault};
pub use container::*;
pub use manifest::*;
pub use plan::*;
