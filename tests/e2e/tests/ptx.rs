//! GPU code on the simulator of NVIDIA GPUs.

use q35_device::ptx_sim::PtxSim;
use q35_device::{BoundArg, Device, KernelCode, Repeat, Usage};
use q35_e2e::hand::{self, FLIP, WIDTH, alloc, flip, kernel, launch};

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
    let place = "out-of-bounds: kernel `flip`, line 37, block (0, 0, 0), thread (0, 0, 0): ";
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
    let greedy = kernel("flip", false, 300 << 10);
    let code = [KernelCode { kernel: &greedy, code: FLIP.as_bytes() }];
    let ids = device.load("sm_80", &code).expect("its text is good");
    let span = alloc(&mut device, WIDTH, Usage::Resident);
    let args = vec![BoundArg::Span(span), BoundArg::Span(span)];
    let entry = device.record(vec![launch(ids[0], 1, Repeat::Once, args)]).expect("it fits");
    let refused = device.run(entry).expect_err("no GPU has so much").to_string();
    assert!(refused.contains("kernel `flip`") && refused.contains("shared memory"), "{refused}");
}
