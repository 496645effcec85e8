//! From a config to what is to be built.
//!
//! [`config`] reads and checks a `config.json`; [`tensors`] lists the checkpoint's tensors, the
//! one home of their names; [`count`] adds them up. [`build`] writes the model as graphs.

pub mod build;
mod build_layer;
mod build_weights;
pub mod config;
mod config_error;
mod config_read;
mod config_rope;
pub mod count;
pub mod span;
pub mod tensors;

pub use config_rope::{Rope, Yarn};
