//! What the tests of this crate stand on: files, and a device that needs no compiled kernels.

mod device;
mod files;

pub use device::{Step, device, expected_logits, greedy, model, plan};
pub use files::{Folder, safetensors};
