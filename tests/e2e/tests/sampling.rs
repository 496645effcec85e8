//! Tokens that are chosen on the device are those that the host would choose, and come home alone.

use q35_artifact::Artifact;
use q35_device::Device;
use q35_e2e::evaluator::{Evaluator, Text, gpu};
use q35_e2e::golden::{checkpoint, runs};
use q35_e2e::run::Build;
use q35_e2e::spy::Spy;
use q35_e2e::vulkan;
use q35_runtime::sampling::SamplingParams;
use q35_runtime::{Engine, Event, LoadOptions, Model, Request};
use q35_target_spirv::Spirv;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A device with memory of its own, and whose code it runs.
#[derive(Debug, Clone, Copy)]
enum Far {
    /// The evaluator as a GPU.
    Evaluator,
    Vulkan,
}

impl Far {
    fn artifact(self, name: &str) -> Artifact {
        match self {
            Far::Evaluator => Build::FLOAT32.artifact_for(name, &Text::new(gpu(32))),
            Far::Vulkan => Build::FLOAT32.artifact_for(name, &Spirv::BASELINE),
        }
    }

    fn open(self) -> Option<Box<dyn Device>> {
        match self {
            Far::Evaluator => Some(Box::<Evaluator>::default()),
            Far::Vulkan => vulkan::device().map(|device| device as Box<dyn Device>),
        }
    }
}

/// An engine on a device that is watched, and the bytes that come home.
fn engine(artifact: &Artifact, name: &str, device: Box<dyn Device>) -> (Engine, Arc<AtomicU64>) {
    let spy = Spy::new(device);
    let read = spy.bytes_read();
    let model = Model::load_on(Box::new(spy), artifact, &checkpoint(name), LoadOptions::default());
    (Engine::new(model.expect("a golden checkpoint loads"), None), read)
}

/// The artifact of those who choose on the host.
fn without_choice(artifact: &Artifact) -> Artifact {
    let mut artifact = artifact.clone();
    let plan = &mut artifact.targets[0].plan;
    let before = plan.entries.len();
    plan.entries.retain(|e| ["prefill", "decode", "head"].contains(&e.name.as_str()));
    assert_eq!(before - plan.entries.len(), 2, "the entries that choose on the device");
    artifact
}

fn request(prompt: &[u32], tokens: u32, sampling: SamplingParams) -> Request {
    Request { prompt: prompt.to_vec(), max_tokens: Some(tokens), sampling, ..Request::default() }
}

/// The tokens of all requests, in the order of submission, and the bytes that came home a step.
fn run(
    (engine, read): &mut (Engine, Arc<AtomicU64>),
    requests: Vec<Request>,
) -> (Vec<Vec<u32>>, Vec<u64>) {
    let mut texts = BTreeMap::new();
    for request in requests {
        texts.insert(engine.submit(request).expect("there is room"), vec![]);
    }
    let mut bytes = vec![];
    while !engine.is_idle() {
        read.store(0, Ordering::Relaxed);
        for event in engine.step().expect("a step") {
            if let Event::Token { request, id, .. } = event {
                texts.get_mut(request).expect("a request").push(*id);
            }
        }
        bytes.push(read.load(Ordering::Relaxed));
    }
    (texts.into_values().collect(), bytes)
}

#[test]
fn a_greedy_step_sends_one_integer_home_and_it_is_the_goldens() {
    let name = "tiny-moe";
    let Some(device) = Far::Vulkan.open() else { return };
    let mut engine = engine(&Far::Vulkan.artifact(name), name, device);
    let golden = runs(name).into_iter().min_by_key(|g| g.tokens.len()).expect("a run");
    // In float32 every step of this model is clear.
    let tokens = golden.greedy.len() as u32;
    let (texts, bytes) =
        run(&mut engine, vec![request(&golden.tokens, tokens, SamplingParams::greedy())]);
    assert_eq!(texts, [golden.greedy]);
    assert_eq!(bytes, vec![4; tokens as usize]);
}

/// Three prompts under controls that look at one token, at a few, and at others of them.
fn mixed(name: &str, tokens: u32) -> Vec<Request> {
    let t = runs(name).remove(0).tokens;
    let seeded = SamplingParams { seed: Some(7), ..SamplingParams::default() };
    vec![
        request(&t[..9], tokens, SamplingParams::greedy()),
        request(&t[3..10], tokens, SamplingParams { top_k: 20, top_p: 0.95, ..seeded.clone() }),
        request(
            &t[..3],
            tokens,
            SamplingParams { top_k: 32, min_p: 0.01, temperature: 2.0, ..seeded },
        ),
    ]
}

fn greedy(name: &str, tokens: u32) -> Vec<Request> {
    let greedy = |request| Request { sampling: SamplingParams::greedy(), ..request };
    mixed(name, tokens).into_iter().map(greedy).collect()
}

#[test]
fn tokens_are_the_same_wherever_they_are_chosen() {
    let name = "dense-tied-odd";
    for (far, tokens) in [(Far::Evaluator, 3), (Far::Vulkan, 40)] {
        let Some(device) = far.open() else { continue };
        let artifact = far.artifact(name);
        let vocab = u64::from(artifact.targets[0].plan.vocab);
        let mut there = engine(&artifact, name, device);
        let likeliest = run(&mut there, greedy(name, tokens));
        let there = run(&mut there, mixed(name, tokens));
        assert_eq!(likeliest.1, vec![3 * 4; tokens as usize], "an id each");
        assert_eq!(there.1, vec![3 * 32 * 8; tokens as usize], "32 ids and logits each");

        let host = without_choice(&artifact);
        let mut here = engine(&host, name, far.open().expect("as before"));
        assert_eq!(run(&mut here, greedy(name, tokens)).0, likeliest.0, "{far:?}");
        let here = run(&mut here, mixed(name, tokens));
        assert_eq!(here.1, vec![3 * vocab * 4; tokens as usize], "all logits");
        assert_eq!(there.0, here.0, "{far:?}");
        assert!(here.0.iter().all(|text| text.len() == tokens as usize));
    }
}

#[test]
fn a_neighbour_that_needs_all_logits_changes_no_token() {
    let name = "dense-tied-odd";
    for (far, tokens) in [(Far::Evaluator, 4), (Far::Vulkan, 30)] {
        let Some(device) = far.open() else { continue };
        let mut engine = engine(&far.artifact(name), name, device);
        let (alone, _) = run(&mut engine, mixed(name, tokens));
        let penalised = SamplingParams { presence_penalty: 0.5, ..SamplingParams::greedy() };
        // It ends halfway: from then on less is taken.
        let neighbour = request(&runs(name)[0].tokens[..9], tokens / 2, penalised);
        let requests = [mixed(name, tokens), vec![neighbour]].concat();
        let (together, bytes) = run(&mut engine, requests);
        assert_eq!(together[..3], alone, "{far:?}");
        assert!(bytes[0] > bytes[tokens as usize - 1], "{far:?}: {bytes:?}");
    }
}
