//! GPU code on the simulator of NVIDIA GPUs.

use q35_device::ptx_sim::PtxSim;
use q35_device::{Device, KernelCode, Usage};
use q35_e2e::golden::{checkpoints, longest, runs, shortest};
use q35_e2e::guarantees::{self, Prompt};
use q35_e2e::hand::{self, FLIP, WIDE, WIDTH, alloc, flip, kernel};
use q35_e2e::run::{Build, assert_float32, assert_greedy, logits};
use q35_runtime::{LoadOptions, Model};
use q35_target_ptx::Ptx;

fn simulator(threads: usize) -> PtxSim {
    PtxSim::open(Some(threads)).expect("it needs nothing")
}

#[test]
fn hand_written_kernels_do_what_devices_promise() {
    for (what, check) in hand::CHECKS {
        eprintln!("{what}");
        check(&mut simulator(2));
    }
}

#[test]
fn counters_are_kept_for_each_kernel_and_do_not_depend_on_threads() {
    const TASKS: usize = 40;
    let counted = |threads| {
        let mut device = simulator(threads);
        let [kernel, ..] = hand::load(&mut device);
        let [to, from] = [(); 2].map(|()| alloc(&mut device, TASKS * WIDTH, Usage::Resident));
        let entry = device.record(vec![flip(kernel, TASKS as u32, to, from)]).expect("it fits");
        device.run(entry).expect("it runs");
        device.run(entry).expect("it runs");
        let counted: Vec<_> = device
            .counters()
            .map(|c| (c.kernel.to_owned(), c.launches, c.counters.clone()))
            .collect();
        let read = device.address(from.buffer).expect("its own");
        device.reset_counters();
        assert!(device.counters().all(|c| c.launches == 0 && c.counters.instructions == 0));
        (counted, read)
    };
    let (one, read) = counted(1);
    let (name, launches, counters) = &one[0];
    assert_eq!((name.as_str(), *launches), ("flip", 2));
    // A task loads 32 words, which are four sectors, backwards or not.
    let tasks = 2 * TASKS as u64;
    assert_eq!(counters.global_load.requests, tasks);
    assert_eq!(counters.global_load.sectors, 4 * tasks);
    assert_eq!(counters.global_store.bytes, 128 * tasks);
    let buffer = counters.buffers.iter().find(|b| b.address == read).expect("it was read");
    assert_eq!((buffer.loads.bytes, buffer.stores.bytes), (128 * tasks, 0));
    assert!(one[1..].iter().all(|(_, launches, _)| *launches == 0), "nothing else ran");
    assert_eq!(counted(3).0, one);
}

#[test]
fn a_fault_says_where() {
    let mut device = simulator(2);
    let [kernel, ..] = hand::load(&mut device);
    let to = alloc(&mut device, 4 * WIDTH, Usage::Resident);
    let short = alloc(&mut device, 3 * WIDTH, Usage::Resident);
    let entry = device.record(vec![flip(kernel, 4, to, short)]).expect("nobody knows yet");
    let fault = device.run(entry).expect_err("it reads beyond").to_string();
    let place = "out-of-bounds: kernel `flip`, line 39, block (0, 0, 0), thread (0, 0, 0): ";
    assert!(fault.starts_with(place) && fault.lines().count() == 1, "{fault}");
}

#[test]
fn a_kernel_with_other_parameters_is_refused() {
    let mut device = simulator(1);
    let mut three = kernel("flip", false, 0);
    three.params.push(three.params[1].clone());
    let refused = device.load("sm_80", &[KernelCode { kernel: &three, code: FLIP.as_bytes() }]);
    assert_eq!(
        refused.expect_err("it takes two").to_string(),
        "the code of `flip` cannot be loaded: it has 4 parameters of 28 bytes, expected 5 of 36"
    );
}

#[test]
fn shared_memory_beyond_any_gpu_is_refused() {
    let mut device = simulator(1);
    let greedy = kernel("wide", false, 300 << 10);
    let code = [KernelCode { kernel: &greedy, code: WIDE.as_bytes() }];
    let ids = device.load("sm_80", &code).expect("its text is good");
    let span = alloc(&mut device, WIDTH, Usage::Resident);
    let entry = device.record(vec![flip(ids[0], 1, span, span)]).expect("it fits");
    let refused = device.run(entry).expect_err("no GPU has so much").to_string();
    assert!(refused.contains("kernel `wide`: 307200 bytes of shared memory"), "{refused}");
}

fn model(name: &str, build: Build, shuffle: Option<u64>) -> Model {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = LoadOptions { shuffle, ..LoadOptions::default() };
    build.model_for(name, &Ptx::SM_80, Box::new(simulator(threads)), options)
}

#[test]
fn float32_logits_and_greedy_tokens_are_those_of_transformers() {
    for name in checkpoints() {
        let mut model = model(&name, Build::FLOAT32, None);
        for golden in runs(&name) {
            let chunks = [(None, golden.tokens.len()), (Some(7), 20), (Some(1), 8)];
            assert_float32(&mut model, &golden, &chunks, "ptx-sim");
            assert_greedy(&mut model, &golden, "ptx-sim");
        }
    }
}

#[test]
fn logits_of_16_bit_builds_are_as_near_as_the_librarys_own_16_bit_run() {
    for (name, build) in [
        ("tiny-moe", Build::DEFAULT),
        ("dense-text-f32", Build::DEFAULT),
        ("dense-tied-odd", Build::SIXTEEN),
        ("moe-sharded-extras", Build::SIXTEEN),
    ] {
        let mut model = model(name, build, None);
        let golden = shortest(name);
        let found = logits(&mut model, &[&golden.tokens], None).remove(0);
        golden.assert_sixteen_bit(&found, "ptx-sim");
    }
}

/// Checkpoints that between them have every kind of kernel, and how many tokens.
const GUARANTEED: [(&str, usize); 2] = [("moe-ratio3-yarn", 150), ("dense-text-f32", 135)];

fn each_model(check: impl Fn(&mut Model, Prompt<'_>, &dyn Fn(Option<u64>) -> Model)) {
    for (name, tokens) in GUARANTEED {
        let golden = longest(name);
        let prompt = Prompt { tokens: &golden.tokens[..tokens], title: &golden.title() };
        let mut plain = model(name, Build::DEFAULT, None);
        check(&mut plain, prompt, &|shuffle| model(name, Build::DEFAULT, shuffle));
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
        guarantees::neighbours_change_nothing(model, prompt, &[None]);
        let few = Prompt { tokens: &prompt.tokens[..40], ..prompt };
        guarantees::neighbours_change_nothing(model, few, &[Some(1)]);
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
