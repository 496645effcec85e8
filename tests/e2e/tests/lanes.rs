//! Schedules for many lanes, run by the definition of their kernels.

use q35_e2e::evaluator::{Evaluator, Text, gpu};
use q35_e2e::golden::{checkpoint, checkpoints, runs};
use q35_e2e::run::{Build, logits};
use q35_runtime::{LoadOptions, Model};

fn model(name: &str, build: Build, subgroup: u32) -> Model {
    let artifact = build.artifact_for(name, &Text::new(gpu(subgroup)));
    let device = Box::new(Evaluator::default());
    Model::load_on(device, &artifact, &checkpoint(name), LoadOptions::default()).expect("loads")
}

#[test]
fn logits_are_those_of_transformers() {
    for name in checkpoints() {
        let mut model = model(&name, Build::FLOAT32, 32);
        let golden = runs(&name).remove(0);
        for (chunk, tokens) in [(None, golden.tokens.len()), (Some(1), 9)] {
            let tokens = &golden.tokens[..tokens];
            let found = logits(&mut model, &[tokens], chunk).remove(0);
            golden.assert_float32(&found, &format!("many lanes, chunk {chunk:?}"));
        }
    }
}
