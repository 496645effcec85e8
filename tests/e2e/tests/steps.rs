//! Steps allocate nothing, on any thread, and a model does not grow while it runs.
//!
//! This program's allocator counts for all of its threads, so only one test at a time may run a
//! model.

use q35_e2e::run::{Build, cpu, variants};
use q35_runtime::{LoadOptions, Model, SeqId};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Checkpoints with every kind of layer, dense and with experts.
const MODELS: [&str; 2] = ["moe-sharded-extras", "dense-tied-odd"];

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `run` did to the heap.
fn heap(run: impl FnOnce()) -> Stats {
    let region = Region::new(ALLOCATOR);
    run();
    region.change()
}

/// The least that `run` did to the heap in three times: now and then the test harness has something to say.
fn quietest(mut run: impl FnMut()) -> Stats {
    let rounds = [(); 3].map(|()| heap(&mut run));
    let calls = |s: &Stats| s.allocations + s.deallocations + s.reallocations;
    rounds.into_iter().min_by_key(calls).expect("three rounds")
}

fn growth(stats: Stats) -> isize {
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}

/// Four sequences that have read prompts of different length.
fn four(model: &mut Model) -> [SeqId; 4] {
    [3, 64, 70, 130].map(|length| {
        let id = model.start().expect("a slot");
        model.feed(&[(id, &prompt(length))]).expect("a prompt");
        id
    })
}

/// Ids that every checkpoint has.
fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|n| n * 7 % 100).collect()
}

#[test]
fn the_allocator_counts_what_other_threads_do() {
    let _alone = alone();
    let stats = heap(|| {
        let thread = std::thread::spawn(|| drop(std::hint::black_box(vec![1u8; 1 << 20])));
        thread.join().expect("a thread");
    });
    assert!(stats.bytes_allocated >= 1 << 20 && stats.bytes_deallocated >= 1 << 20, "{stats:?}");
}

#[test]
fn a_decode_step_allocates_nothing_on_any_thread() {
    let _alone = alone();
    for name in MODELS {
        for variant in variants() {
            let mut model = Build::DEFAULT.model(name, variant, 3);
            let ids = four(&mut model);
            let step = |model: &mut Model, token: u32| {
                model.decode(&ids.map(|id| (id, token))).expect("a step");
                std::hint::black_box(model.logits(ids[0]).expect("logits"));
            };
            step(&mut model, 1);
            // Pages are crossed on the way.
            let stats = quietest(|| (0..80).for_each(|n| step(&mut model, n % 100)));
            assert_eq!(stats, Stats::default(), "{name}, {variant}");
        }
    }
}

#[test]
fn a_prefill_step_allocates_nothing_on_any_thread() {
    let _alone = alone();
    let prompts = [40, 1, 90].map(prompt);
    for name in MODELS {
        for variant in variants() {
            let mut model = Build { max_chunk: 64, ..Build::DEFAULT }.model(name, variant, 3);
            let mut round = |measured: bool| {
                let ids = [(); 3].map(|()| model.start().expect("a slot"));
                let mut fed = [0; 3];
                while fed.iter().zip(&prompts).any(|(&fed, prompt)| fed < prompt.len()) {
                    let rest = |n: usize| (ids[n], &prompts[n][fed[n]..]);
                    let inputs: Vec<_> = (0..3).map(rest).filter(|r| !r.1.is_empty()).collect();
                    let mut taken = [0; 3];
                    let stats = heap(|| {
                        let found = model.feed_step(&inputs).expect("a step");
                        taken[..found.len()].copy_from_slice(found);
                    });
                    assert!(!measured || stats == Stats::default(), "{name}, {variant}: {stats:?}");
                    for ((id, _), taken) in inputs.iter().zip(taken) {
                        let n = ids.iter().position(|i| i == id).expect("one of them");
                        fed[n] += taken as usize;
                    }
                }
                for id in ids {
                    model.finish(id).expect("a running sequence");
                }
            };
            round(false);
            round(true);
        }
    }
}

#[test]
fn sequences_that_come_and_go_leave_nothing_behind() {
    let _alone = alone();
    let variant = variants().pop().expect("a variant");
    let options = LoadOptions { kv_tokens: Some(1024), ..LoadOptions::default() };
    let mut model = Build::DEFAULT.model_on("dense-tied-odd", cpu(variant, 2), options);
    let (memory, pages) = (model.memory_use(), model.free_pages());
    let text = prompt(200);
    let generation = |model: &mut Model, number: usize| {
        let ids = [1, 20, 90].map(|length| {
            let id = model.start().expect("slots are given back");
            model.feed(&[(id, &text[number..][..length])]).expect("pages are given back");
            id
        });
        for step in 0..50 {
            model.decode(&ids.map(|id| (id, step))).expect("a step");
        }
        for id in ids {
            model.finish(id).expect("a running sequence");
        }
    };
    generation(&mut model, 0);
    // 6,000 tokens in 2,000 steps, far more than pages could hold all at once.
    let stats = heap(|| (1..41).for_each(|number| generation(&mut model, number)));
    assert_eq!(growth(stats), 0, "{stats:?}");
    assert_eq!((model.memory_use(), model.free_pages()), (memory, pages));
}
