//! Schedules for many lanes, run by the definition of their kernels.

use q35_e2e::evaluator::{Evaluator, Text, gpu, gpu_with_units};
use q35_e2e::golden::{checkpoint, checkpoints, runs};
use q35_e2e::program::{outcome, q35c};
use q35_e2e::run::{Build, assert_float32, cpu, logits};
use q35_e2e::scratch::Scratch;
use q35_runtime::{LoadOptions, Model};
use q35_target::Caps;
use q35_types::DType;

fn model(name: &str, build: Build, subgroup: u32) -> Model {
    model_for(name, build, gpu(subgroup))
}

fn model_for(name: &str, build: Build, caps: Caps) -> Model {
    let device = Box::new(Evaluator::default());
    build.model_for(name, &Text::new(caps), device, LoadOptions::default())
}

#[test]
fn logits_are_those_of_transformers() {
    for name in checkpoints() {
        let mut model = model(&name, Build::FLOAT32, 32);
        let golden = runs(&name).remove(0);
        let chunks = [(None, golden.tokens.len()), (Some(1), 9)];
        assert_float32(&mut model, &golden, &chunks, "many lanes");
    }
}

#[test]
fn logits_with_subgroups_of_any_size_are_those_of_transformers() {
    for (name, subgroups) in [("moe-text-tied", &[4, 8, 16, 64][..]), ("dense-tied-odd", &[4, 64])]
    {
        let golden = runs(name).remove(0);
        for &subgroup in subgroups {
            let mut model = model(name, Build::FLOAT32, subgroup);
            let chunks = [(None, 20), (Some(1), 4)];
            assert_float32(&mut model, &golden, &chunks, &format!("subgroup {subgroup}"));
        }
    }
}

#[test]
fn logits_by_matrix_units_are_as_near_as_each_build_promises() {
    for (n, name) in checkpoints().iter().enumerate() {
        let golden = runs(name).remove(0);
        // Into a second page; and each checkpoint on one kind of machine.
        let tokens = &golden.tokens[..golden.tokens.len().min(72)];
        let caps = gpu_with_units([32, 64][n % 2]);
        for build in [Build::FLOAT32, Build::DEFAULT, Build::SIXTEEN] {
            let mut model = model_for(name, build, caps);
            let found = logits(&mut model, &[tokens], None).remove(0);
            let how = format!("matrix units, {build:?}");
            match (build.activations, build.kv) {
                (DType::F32, DType::F32) => golden.assert_float32(&found, &how),
                _ => golden.assert_sixteen_bit(&found, &how),
            }
        }
    }
}

#[test]
fn cuts_and_neighbours_change_no_bit_on_matrix_units() {
    for (name, build) in [("moe-ratio3-yarn", Build::DEFAULT), ("dense-tied-odd", Build::SIXTEEN)] {
        let tokens: Vec<u32> = (0..90).map(|n| n * 7 % 350).collect();
        let mut model = model_for(name, build, gpu_with_units(32));
        let whole = logits(&mut model, &[&tokens], None).remove(0);
        let prompts: [&[u32]; 3] = [&tokens[5..40], &tokens, &tokens[..1]];
        let together = logits(&mut model, &prompts, Some(64)).remove(1);
        let equal = whole.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(equal && whole.len() == together.len(), "{name}");
    }
}

#[test]
fn a_head_wider_than_a_group_is_like_on_one_lane() {
    let config = std::fs::read_to_string(checkpoint("dense-tied-odd").join("config.json"));
    let config = config.expect("a golden config");
    let wide = config.replace("\"linear_value_head_dim\": 36", "\"linear_value_head_dim\": 200");
    assert_ne!(config, wide, "the config has the key");
    let scratch = Scratch::new();
    let (file, weights) = (scratch.file("config.json", &wide), scratch.join("weights"));
    outcome(q35c().arg("synth").arg(file).arg("-o").arg(&weights)).text();

    let tokens: Vec<u32> = (0..70).map(|n| n * 7 % 500).collect();
    let run = |artifact, device, chunk| {
        let model = Model::load_on(device, &artifact, &weights, LoadOptions::default());
        logits(&mut model.expect("loads"), &[&tokens], chunk).remove(0)
    };
    let one = run(Build::FLOAT32.compile(&wide), cpu("sse2", 2), None);
    let largest = one.iter().fold(0f32, |m, v| m.max(v.abs()));
    for chunk in [None, Some(35)] {
        let many = Build::FLOAT32.compile_for(&wide, &Text::new(gpu(32)));
        let many = run(many, Box::<Evaluator>::default(), chunk);
        let apart = one.iter().zip(&many).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(apart < 1e-4 * largest, "chunk {chunk:?}: {apart} of {largest}");
    }
}
