//! A second referee for the gated delta rule, by hand: fla-core's kernel, which Triton compiles without a GPU.

use crate::{cargo, command, done, target, tools};

/// Run `tests/referee/gated_delta_rule.py` in an environment of its own, which takes some gigabytes.
///
/// # Errors
///
/// Python or its packages cannot be had, or the two kernels differ.
pub fn run() -> Result<(), String> {
    done(cargo(&["build", "-p", "q35c", "-p", "q35-ptx-sim"]))?;
    // fla-core does not say that it needs the last two.
    let packages = ["torch", "fla-core==0.6.*", "numpy", "packaging", "einops"];
    let python = tools::python("referee", &packages)?;
    let built = |name: &str| target().join("debug").join(name).display().to_string();
    let folder = target().join("referee").display().to_string();
    done(command(
        &python,
        &[
            "tests/referee/gated_delta_rule.py",
            &built("ptx-sim"),
            &built("q35c"),
            "golden/configs/Qwen3.5-0.8B.json",
            &folder,
        ],
    ))
}
