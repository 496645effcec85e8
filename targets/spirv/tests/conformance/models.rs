//! The kernels of whole models for machines with matrix units. No driver here has them, so modules are
//! checked and not run.

use crate::validator::validate;
use q35_core::{Config, Limits, Options, Request, link};
use q35_kernel::Kernel;
use q35_target::{Target, Variant};
use q35_target_spirv::Spirv;
use q35_types::DType;
use std::path::Path;

/// The kernels of a config below `golden/` for a variant of a profile.
fn kernels(config: &str, activations: DType, profile: &Spirv, variant: &Variant) -> Vec<Kernel> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(config);
    let text = std::fs::read_to_string(file).expect("a golden config");
    let config = Config::parse(&text).expect("a config of the family").config;
    let request = Request {
        text: &text,
        config: &config,
        options: Options { activations, kv: DType::Bf16 },
        limits: Limits { max_context: 4096, max_batch: 8, max_chunk: 512 },
        targets: &[profile],
    };
    link::kernels(&request, variant)
}

/// A prefill product, one of experts, or attention of a prompt.
fn is_for_units(kernel: &Kernel) -> bool {
    let name = &kernel.name;
    let product = name.starts_with("linear_") || name.starts_with("expert_");
    product && name.ends_with("_t64") || name.starts_with("attend_prefill_")
}

#[test]
fn prompts_are_read_on_matrix_units_where_there_are() {
    let mut seen = [0; 3];
    let with_units = |p: &'static Spirv| {
        p.variants().iter().filter(|v| v.caps.mma.is_some()).map(move |v| (p, v))
    };
    let profiles = [&Spirv::DESKTOP, &Spirv::DESKTOP_64];
    for (profile, variant) in profiles.into_iter().flat_map(with_units) {
        for (config, activations) in [
            ("configs/Qwen3.5-0.8B.json", DType::Bf16),
            ("configs/Qwen3.5-35B-A3B.json", DType::F32),
            // Sizes that are multiples of nothing.
            ("checkpoints/moe-text-tied/config.json", DType::F32),
        ] {
            for kernel in kernels(config, activations, profile, variant) {
                let code = profile.lower(variant, &kernel).expect("a kernel of the model lowers");
                let listing = || profile.listing(variant, &kernel).expect("it was lowered before");
                validate(&code, listing);
                if !is_for_units(&kernel) {
                    assert!(kernel.accumulators.is_empty(), "{}", kernel.name);
                    continue;
                }
                assert!(listing().contains("= OpCooperativeMatrixMulAddKHR"), "{}", kernel.name);
                let kinds = ["linear_", "expert_", "attend_prefill_"];
                let kind = kinds.iter().position(|kind| kernel.name.starts_with(kind));
                seen[kind.expect("one of those")] += 1;
            }
        }
    }
    assert!(seen.iter().all(|&count| count > 0), "linear, experts, attention: {seen:?}");
}
