//! GPU code on whatever Vulkan driver is here: in CI, one that runs on the CPU.

use q35_device::Device;
use q35_device::vulkan::Options;
use q35_e2e::golden::{checkpoint, checkpoints, longest, runs};
use q35_e2e::guarantees::{self, Prompt, same};
use q35_e2e::run::{Build, assert_float32, assert_greedy, logits};
use q35_e2e::vulkan::{device, open, skip};
use q35_runtime::{LoadOptions, Model};
use q35_target::Target as _;
use q35_target_spirv::Spirv;
use std::process::Command;

fn model(name: &str, build: Build, shuffle: Option<u64>) -> Option<Model> {
    Some(model_on(device()?, name, build, shuffle))
}

fn model_on(device: Box<dyn Device>, name: &str, build: Build, shuffle: Option<u64>) -> Model {
    let options = LoadOptions { shuffle, ..LoadOptions::default() };
    build.model_for(name, &Spirv::BASELINE, device, options)
}

#[test]
fn float32_logits_and_greedy_tokens_are_those_of_transformers() {
    for name in checkpoints() {
        let Some(mut model) = model(&name, Build::FLOAT32, None) else { return };
        for golden in runs(&name) {
            let all = golden.tokens.len();
            let chunks = [(None, all), (Some(64), all), (Some(7), 30), (Some(1), 12)];
            assert_float32(&mut model, &golden, &chunks, "vulkan");
            assert_greedy(&mut model, &golden, "vulkan");
        }
    }
}

#[test]
fn default_logits_and_greedy_tokens_are_as_near_as_the_librarys_own_16_bit_run() {
    for name in ["tiny-moe", "dense-text-f32"] {
        let Some(mut model) = model(name, Build::DEFAULT, None) else { return };
        for golden in runs(name) {
            let found = logits(&mut model, &[&golden.tokens], None).remove(0);
            golden.assert_sixteen_bit(&found, "vulkan");
            assert_greedy(&mut model, &golden, "vulkan");
        }
    }
}

#[test]
fn logits_with_16_bit_activations_are_as_near_as_the_librarys_own_16_bit_run() {
    for name in ["tiny-moe", "dense-tied-odd", "moe-sharded-extras"] {
        let Some(mut model) = model(name, Build::SIXTEEN, None) else { return };
        for golden in runs(name) {
            for (chunk, tokens) in [(None, golden.tokens.len()), (Some(1), 12)] {
                let tokens = &golden.tokens[..tokens];
                let found = logits(&mut model, &[tokens], chunk).remove(0);
                golden.assert_sixteen_bit(&found, &format!("vulkan, chunk {chunk:?}"));
            }
        }
    }
}

/// Checkpoints that between them have every kind of kernel, and how many tokens.
const GUARANTEED: [(&str, usize); 2] = [("moe-ratio3-yarn", 211), ("dense-text-f32", 150)];

fn each_model(check: impl Fn(&mut Model, Prompt<'_>, &dyn Fn(Option<u64>) -> Model)) {
    for (name, tokens) in GUARANTEED {
        let golden = longest(name);
        let prompt = Prompt { tokens: &golden.tokens[..tokens], title: &golden.title() };
        let Some(mut plain) = model(name, Build::DEFAULT, None) else { return };
        let another = |shuffle| model(name, Build::DEFAULT, shuffle).expect("a device");
        check(&mut plain, prompt, &another);
    }
}

#[test]
fn cuts_at_multiples_of_64_change_nothing() {
    each_model(|model, prompt, _| {
        guarantees::cuts_at_multiples_of_64_change_nothing(model, prompt);
    });
}

#[test]
fn neighbours_in_the_batch_change_nothing() {
    each_model(|model, prompt, _| {
        guarantees::neighbours_change_nothing(model, prompt, &[None, Some(64)]);
        let few = Prompt { tokens: &prompt.tokens[..40], ..prompt };
        guarantees::neighbours_change_nothing(model, few, &[Some(1)]);
    });
}

#[test]
fn a_slot_reused_after_a_long_sequence_leaves_no_trace() {
    each_model(|model, prompt, another| {
        guarantees::a_used_slot_leaves_no_trace(model, &|| another(None), prompt);
    });
}

#[test]
fn which_slots_and_pages_a_sequence_gets_changes_nothing() {
    each_model(|model, prompt, another| {
        guarantees::slots_and_pages_change_nothing(model, &mut another(Some(3)), prompt);
    });
}

#[test]
fn decoding_beside_others_that_come_and_go_changes_nothing() {
    each_model(|model, prompt, _| {
        guarantees::decoding_beside_others_that_come_and_go_changes_nothing(model, prompt);
    });
}

#[test]
fn weights_spread_over_many_buffers_and_shuffled_pages_change_nothing() {
    // The dense checkpoint is smaller than a megabyte.
    for (name, most, tokens) in [("tiny-moe", 1 << 20, 100), ("dense-tied-odd", 64 << 10, 40)] {
        let golden = longest(name);
        let tokens = &golden.tokens[..tokens];
        let run = |max_buffer: Option<u64>, shuffle| {
            let device = open(Options { max_buffer, ..Options::default() })?;
            let limit = device.limits().max_buffer;
            let mut model = model_on(device, name, Build::DEFAULT, shuffle);
            if let Some(most) = max_buffer {
                let packed = model.memory_use().weights_packed;
                assert!(limit == most && packed > 5 * most, "{name}: {packed} bytes of weights");
            }
            let mut rows = logits(&mut model, &[tokens, &tokens[3..30]], None).concat();
            rows.extend(logits(&mut model, &[&tokens[..5]], Some(1)).concat());
            Some(rows)
        };
        let Some(plain) = run(None, None) else { return };
        same(&plain, &run(Some(most), Some(5)).expect("a device"), name);
    }
}

/// Set for a process that runs under the validation layer.
const UNDER_LAYER: &str = "Q35_TEST_VULKAN_UNDER_LAYER";

/// Prefill, decode and head, under the Khronos validation layer in a process of its own: whatever
/// is done wrongly is a message.
#[test]
fn the_validation_layer_has_nothing_to_say() {
    let Some(device) = device() else { return };
    if std::env::var_os(UNDER_LAYER).is_some() {
        let mut model = model_on(device, "tiny-moe", Build::DEFAULT, None);
        let golden = longest("tiny-moe");
        logits(&mut model, &[&golden.tokens[..70], &golden.tokens[..3]], None);
        logits(&mut model, &[&golden.tokens[..4]], Some(1));
        return;
    }
    drop(device);
    let name = "VK_LAYER_KHRONOS_validation";
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["the_validation_layer_has_nothing_to_say", "--exact", "--nocapture"])
        .env(UNDER_LAYER, "1")
        .env("VK_INSTANCE_LAYERS", name)
        .env("VK_LAYER_ENABLES", "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT")
        // The loader says which layers it uses: silence of one that is not there means nothing.
        .env("VK_LOADER_DEBUG", "layer")
        .output()
        .expect("this test runs again");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{text}");
    if !text.lines().any(|l| l.contains("Insert instance layer") && l.contains(name)) {
        return skip::<()>("the validation layer is not installed").unwrap_or_default();
    }
    let said = |l: &&str| {
        ["Validation Error", "Validation Warning", "VUID-", "UNASSIGNED-"]
            .iter()
            .any(|m| l.contains(m))
    };
    assert_eq!(text.lines().filter(said).collect::<Vec<_>>(), [""; 0]);
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
