//! The random golden checkpoints, made again: by hand, when one is added or changed.

use crate::{command, done, target};
use std::fs;

/// Run `golden/make_checkpoints.py` in an environment of its own; for none, all checkpoints.
///
/// # Errors
///
/// Python or its packages cannot be had, or the script failed.
pub fn run(names: &[&str]) -> Result<(), String> {
    let tools = target().join("tools");
    fs::create_dir_all(&tools).map_err(|e| format!("cannot make `{}`: {e}", tools.display()))?;
    let folder = tools.join("python");
    let venv = folder.display().to_string();
    let python = folder.join("bin/python").display().to_string();
    if !folder.join("bin/python").exists() {
        done(command("python3", &["-m", "venv", &venv]))?;
    }
    let packages = ["torch", "transformers==5.23.*", "safetensors", "numpy"];
    let install = [&["-m", "pip", "install", "--quiet"], packages.as_slice()].concat();
    done(command(&python, &install))?;
    done(command(&python, &[&["golden/make_checkpoints.py"], names].concat()))
}
