//! What the end-to-end tests share.

pub mod evaluator;
pub mod files;
pub mod golden;
pub mod run;
pub mod witness;
