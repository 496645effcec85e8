//! GPU code on whatever Vulkan driver is here: in CI, one that runs on the CPU.

use q35_device::Device as _;
use q35_e2e::golden::{Golden, checkpoint, checkpoints, runs};
use q35_e2e::run::{Build, logits};
use q35_e2e::vulkan::device;
use q35_runtime::{LoadOptions, Model};
use q35_target::Target as _;
use q35_target_spirv::Spirv;

fn model(name: &str, build: Build, shuffle: Option<u64>) -> Option<Model> {
    let device = device()?;
    let artifact = build.artifact_for(name, &Spirv::BASELINE);
    let options = LoadOptions { shuffle, ..LoadOptions::default() };
    Some(
        Model::load_on(device, &artifact, &checkpoint(name), options)
            .expect("a golden checkpoint loads"),
    )
}

fn longest(name: &str) -> Golden {
    runs(name).into_iter().max_by_key(|g| g.tokens.len()).expect("a run")
}

#[test]
fn float32_logits_are_those_of_transformers() {
    for name in checkpoints() {
        let Some(mut model) = model(&name, Build::FLOAT32, None) else { return };
        for golden in runs(&name) {
            for (chunk, tokens) in [
                (None, golden.tokens.len()),
                (Some(64), golden.tokens.len()),
                (Some(7), 30),
                (Some(1), 12),
            ] {
                let tokens = &golden.tokens[..tokens.min(golden.tokens.len())];
                let found = logits(&mut model, &[tokens], chunk).remove(0);
                golden.assert_float32(&found, &format!("vulkan, chunk {chunk:?}"));
            }
        }
    }
}

#[test]
fn default_logits_are_as_near_as_the_librarys_own_16_bit_run() {
    let Some(mut model) = model("tiny-moe", Build::DEFAULT, None) else { return };
    for golden in runs("tiny-moe") {
        let found = logits(&mut model, &[&golden.tokens], None).remove(0);
        golden.assert_sixteen_bit(&found, "vulkan");
    }
}

#[test]
fn neighbours_cuts_slots_and_pages_change_nothing() {
    let golden = longest("moe-ratio3-yarn");
    let t = &golden.tokens;
    let Some(mut plain) = model("moe-ratio3-yarn", Build::DEFAULT, None) else { return };
    let mut shuffled = model("moe-ratio3-yarn", Build::DEFAULT, Some(3)).expect("a device");
    let prompts: [&[u32]; 3] = [t, &t[5..40], &t[..1]];
    for chunk in [None, Some(64)] {
        let together = logits(&mut shuffled, &prompts, chunk);
        for (n, prompt) in prompts.iter().enumerate() {
            let alone = logits(&mut plain, &[prompt], None).remove(0);
            let equal = alone.iter().zip(&together[n]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(equal, "prompt {n}, chunk {chunk:?}");
        }
    }
}

#[test]
fn desktop_code_runs_or_the_device_says_what_it_lacks() {
    let name = "dense-text-f32";
    for profile in [Spirv::DESKTOP, Spirv::DESKTOP_64] {
        let Some(device) = device() else { return };
        let artifact = Build::FLOAT32.artifact_for(name, &profile);
        let plainest = profile.variants()[0].name;
        let (lacks, runs) = (device.lacks(plainest), device.variants().contains(&plainest));
        let loaded = Model::load_on(device, &artifact, &checkpoint(name), LoadOptions::default());
        match lacks {
            Some(lacks) => {
                let refused = loaded.map(|_| ()).expect_err("it lacks something");
                let said = refused.to_string();
                let expected =
                    format!(" lacks {lacks}, expected by the artifact's variant `{plainest}`");
                assert!(
                    !runs && said.starts_with("`vulkan:0` (") && said.ends_with(&expected),
                    "{said}"
                );
                assert!(refused.advice().is_some_and(|advice| advice.contains("`spirv`")));
            }
            None => {
                let mut model = loaded.expect("it lacks nothing");
                let golden = longest(name);
                let found = logits(&mut model, &[&golden.tokens], None).remove(0);
                golden.assert_sixteen_bit(&found, "vulkan, desktop");
            }
        }
    }
}
