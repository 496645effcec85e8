//! The random golden checkpoints, made again: by hand, when one is added or changed.

use crate::{command, done, tools};

/// Run `golden/make_checkpoints.py` in an environment of its own; for none, all checkpoints.
///
/// # Errors
///
/// Python or its packages cannot be had, or the script failed.
pub fn run(names: &[&str]) -> Result<(), String> {
    let packages = ["torch", "transformers==5.23.*", "safetensors", "numpy"];
    let python = tools::python("python", &packages)?;
    done(command(&python, &[&["golden/make_checkpoints.py"], names].concat()))
}
