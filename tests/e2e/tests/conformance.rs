//! Every kernel of every golden model, on every variant, equals its definition to the bit.

use q35_e2e::golden::{checkpoints, runs};
use q35_e2e::run::{Build, cpu, logits, variants};
use q35_e2e::witness::Witness;
use q35_runtime::LoadOptions;

/// Small chunks, so that every kind of step occurs in few tokens.
fn builds() -> [Build; 3] {
    [Build::FLOAT32, Build::DEFAULT, Build::SIXTEEN].map(|b| Build {
        max_chunk: 128,
        max_batch: 3,
        ..b
    })
}

#[test]
fn kernels_equal_their_definition() {
    for name in checkpoints() {
        for build in builds() {
            for variant in variants() {
                let kernels = build.kernels(&name, variant);
                let witness = Witness::new(cpu(variant, 2), kernels.clone());
                let seen = witness.seen();
                let mut model = build.model_on(&name, Box::new(witness), LoadOptions::default());
                let golden = runs(&name).remove(0);
                let t = &golden.tokens;
                // Prompts that cross a page, one in a second step; then decoding, all side by side.
                let long = t.repeat(3);
                let prompts: [&[u32]; 3] = [&long[..75], &t[..1], &t[3..20]];
                logits(&mut model, &prompts, None);
                logits(&mut model, &prompts.map(|p| &p[..p.len().min(3)]), Some(1));
                let seen = seen.lock().expect("counted");
                let unseen: Vec<&str> = kernels
                    .iter()
                    .map(|k| k.name.as_str())
                    .filter(|k| !seen.contains_key(*k))
                    .collect();
                assert!(unseen.is_empty(), "{name}: never launched: {unseen:?}");
            }
        }
    }
}
