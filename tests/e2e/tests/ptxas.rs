//! Every kernel of whole models, for every architecture, as NVIDIA's assembler sees it: it takes them, finds registers
//! for all they have, and says what they take of a GPU.

// One assembler for both suites; neither crate's tests can import the other's.
#[path = "../../../targets/ptx/tests/conformance/ptxas.rs"]
mod ptxas;

use ptxas::{Used, assemble};
use q35_e2e::golden;
use q35_e2e::run::Build;
use q35_target::Target as _;
use q35_target_ptx::Ptx;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Each kernel of the config's artifacts is assembled, and has no local memory: its registers are enough. What it takes
/// is printed. Float32 activations are for comparisons, so one architecture of those will do.
fn assembled(config: &str) {
    let mut seen = HashSet::new();
    let mut jobs = vec![];
    for (build, target) in [(Build::SIXTEEN, &Ptx::ALL), (Build::DEFAULT, &Ptx::SM_80)] {
        let artifact = build.compile_for(config, target);
        for variant in &artifact.target(Ptx::ALL.name()).expect("the one target").variants {
            for (kernel, code) in &variant.kernels {
                let text = String::from_utf8(code.clone()).expect("PTX is text");
                if seen.insert(text.clone()) {
                    jobs.push((variant.name.clone(), kernel.clone(), text));
                }
            }
        }
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let work = || {
        while let Some((arch, kernel, text)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(used) = assemble(text, arch) else { return };
            done.lock().expect("nobody panicked").push((kernel, arch, used));
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        work();
        others.into_iter().for_each(|other| other.join().expect("it assembled"));
    });
    let mut done = done.into_inner().expect("nobody panicked");
    done.sort_by_key(|(kernel, arch, _)| (*kernel, *arch));
    let mut spilled = vec![];
    for (kernel, arch, Used { registers, shared, local }) in &done {
        println!("{arch} {kernel}: {registers} registers, {shared} bytes shared, {local} local");
        if *local > 0 {
            spilled.push(format!("{arch} {kernel}: {local} bytes"));
        }
    }
    assert!(spilled.is_empty(), "local memory:\n{}", spilled.join("\n"));
}

fn published(name: &str) -> String {
    let file = golden::folder().join("configs").join(name);
    std::fs::read_to_string(file).expect("a published config")
}

#[test]
fn kernels_of_a_small_model_are_assembled() {
    let file = golden::checkpoint("tiny-moe").join("config.json");
    assembled(&std::fs::read_to_string(file).expect("a golden config"));
}

#[test]
fn kernels_of_a_dense_model_are_assembled() {
    assembled(&published("Qwen3.5-0.8B.json"));
}

#[test]
fn kernels_of_a_model_with_experts_are_assembled() {
    assembled(&published("Qwen3.5-35B-A3B.json"));
}
