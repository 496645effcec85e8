//! Choosing tokens on a device allocates nothing. A program of its own: its allocator counts for all threads.

use q35_e2e::run::Build;
use q35_e2e::vulkan;
use q35_runtime::sampling::Take;
use q35_runtime::{LoadOptions, Model};
use q35_target_spirv::Spirv;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn choosing_on_the_device_allocates_nothing() {
    let Some(device) = vulkan::device() else { return };
    let name = "dense-tied-odd";
    let options = LoadOptions::default();
    let mut model = Build::DEFAULT.model_for(name, &Spirv::BASELINE, device, options);
    let ids = [3, 70].map(|length| {
        let prompt: Vec<u32> = (0..length).map(|n| n * 7 % 100).collect();
        let id = model.start().expect("a slot");
        model.feed(&[(id, &prompt)]).expect("a prompt");
        id
    });
    for take in [Take::Likeliest, Take::Candidates] {
        let step = |model: &mut Model, token: u32| {
            model.decode_for(&ids.map(|id| (id, token)), take).expect("a step");
            std::hint::black_box(model.latest(ids[0]).expect("what was taken"));
        };
        step(&mut model, 1);
        // The least of three times: now and then the test harness has something to say.
        let mut round = || {
            let region = Region::new(ALLOCATOR);
            (0..10).for_each(|n| step(&mut model, n));
            region.change()
        };
        let rounds = [round(), round(), round()];
        assert!(rounds.contains(&Stats::default()), "{take:?}: {rounds:?}");
    }
}
