//! Every SPIR-V module in the artifacts of whole models, for every profile, as `spirv-val` sees it.
//!
//! The conformance suite of the target validates each instruction; here is what templates make of them
//! at the sizes of true models.

// One validator for both suites; neither crate's tests can import the other's.
#[path = "../../../targets/spirv/tests/conformance/validator.rs"]
mod validator;

use q35_e2e::golden;
use q35_e2e::run::Build;
use q35_target::Target as _;
use q35_target_spirv::Spirv;
use std::collections::HashSet;

/// Each module of the config's artifacts is valid, whatever the profile and the types.
fn valid(config: &str) {
    let mut seen = HashSet::new();
    for profile in [Spirv::BASELINE, Spirv::DESKTOP, Spirv::DESKTOP_64] {
        for build in [Build::DEFAULT, Build::SIXTEEN] {
            let artifact = build.compile_for(config, &profile);
            let section = artifact.target(profile.name()).expect("the one target");
            assert_eq!(section.variants.len(), profile.variants().len());
            for variant in &section.variants {
                for (kernel, code) in &variant.kernels {
                    if seen.insert(code.clone()) {
                        validator::validate(code, || format!("{}: {kernel}", variant.name));
                    }
                }
            }
        }
    }
    assert!(seen.len() > 20, "{} modules", seen.len());
}

fn published(name: &str) -> String {
    let file = golden::folder().join("configs").join(name);
    std::fs::read_to_string(file).expect("a published config")
}

#[test]
fn modules_of_a_small_model_are_valid() {
    let file = golden::checkpoint("tiny-moe").join("config.json");
    valid(&std::fs::read_to_string(file).expect("a golden config"));
}

#[test]
fn modules_of_a_dense_model_are_valid() {
    valid(&published("Qwen3.5-0.8B.json"));
}

#[test]
fn modules_of_a_model_with_experts_are_valid() {
    valid(&published("Qwen3.5-35B-A3B.json"));
}
