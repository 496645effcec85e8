//! Bytes that GPU kernels ask for, counted by the evaluator on models of true shapes: beside the
//! least possible, and beside what `q35c explain` says.

use q35_artifact::{Artifact, TargetSection, Times, Workload};
use q35_core::kernels::{Act, Linear, Spec};
use q35_e2e::evaluator::{Text, gpu};
use q35_e2e::published::{self, MODELS, layers, least, narrow};
use q35_e2e::step::Step;
use q35_e2e::traffic::{Counted, add, count, count_alone};
use q35_interp::kernel::Traffic;
use q35_types::{Count, DType, StepLayout};

/// Tokens of the sequence before the step.
const DEPTH: u32 = 4096;
const DECODE: Step = Step { depth: DEPTH, tokens: 1 };

/// A published model cut to one layer of each kind, for the evaluator.
fn artifact(name: &str) -> Artifact {
    artifact_with(name, &[])
}

/// With these values in its config.
fn artifact_with(name: &str, values: &[(&str, u32)]) -> Artifact {
    published::compile(name, values, DType::F32, &Text::new(gpu(32)))
}

fn section(artifact: &Artifact) -> &TargetSection {
    artifact.target("interp").expect("code for the evaluator")
}

fn bytes(t: Traffic) -> f64 {
    (t.loaded + t.stored) as f64
}

/// What was counted, kernel by kernel.
fn listing(counted: &[&Counted]) -> String {
    let each = |c: &&Counted| {
        let of = |t: Traffic| format!("{}+{}", t.loaded, t.stored);
        let params = c.params.iter().map(|(name, t)| format!("{name} {}", of(*t)));
        format!("  {}: {}\n", c.kernel, params.collect::<Vec<_>>().join(", "))
    };
    counted.iter().map(each).collect()
}

#[test]
fn a_decode_step_moves_hardly_more_weights_and_state_than_it_must() {
    let mut over = String::new();
    for name in MODELS {
        let artifact = artifact(name);
        let counted = count(&artifact, "decode", DECODE);
        for block in layers(&section(&artifact).plan) {
            let counted: Vec<&Counted> = counted.iter().filter(|c| c.block == block.name).collect();
            let sum = |of: fn(&Counted) -> Traffic| {
                counted.iter().fold(Traffic::default(), |mut sum, c| {
                    add(&mut sum, of(c));
                    sum
                })
            };
            let moved = [sum(|c| c.weights), sum(|c| c.state)].map(bytes);
            let least = least(&artifact, &section(&artifact).plan, block, DEPTH);
            let activations = sum(|c| c.activations);
            eprintln!(
                "{name}, {}: {:.3} x the least of weights ({:.0}), {:.3} x of state ({:.0}); activations {} read, {} written",
                block.name,
                moved[0] / least[0],
                least[0],
                moved[1] / least[1],
                least[1],
                activations.loaded,
                activations.stored,
            );
            let times = [0, 1].map(|n| moved[n] / least[n]);
            assert!(times.iter().all(|&t| t > 0.99), "{name}, {}: all is read", block.name);
            if times.iter().any(|&t| t > 1.03) {
                let [weights, state] = times;
                over += &format!("{name}, {}: weights {weights:.3}, ", block.name);
                over += &format!("state {state:.3} x the least\n{}", listing(&counted));
            }
        }
    }
    assert!(over.is_empty(), "bytes read + written of each parameter:\n{over}");
}

#[test]
fn a_layer_is_a_handful_of_launches() {
    let mut over = String::new();
    for (name, delta, attention) in [("Qwen3.5-0.8B", 5, 6), ("Qwen3.5-35B-A3B", 6, 7)] {
        let artifact = artifact(name);
        let plan = &section(&artifact).plan;
        for (block, most) in layers(plan).into_iter().zip([delta, attention]) {
            let kernels: Vec<&str> = block
                .launches
                .iter()
                .map(|l| plan.kernels[l.kernel as usize].name.as_str())
                .collect();
            eprintln!("{name}, {}: {} launches", block.name, kernels.len());
            if kernels.len() > most {
                let n = kernels.len();
                over += &format!("{name}, {}: {n}, expected at most {most}: ", block.name);
                over += &format!("{}\n", kernels.join(", "));
            }
        }
    }
    assert!(over.is_empty(), "{over}");
}

/// How far what a launch says of its activations may be from what is counted: the step's header, the
/// ids of a group's pairs and numbers that every lane fetches for itself are not in its formula.
const ACTIVATIONS: f64 = 0.05;

/// Every launch of a step says of itself what it does; `unsaid` begin the names of kernels that do not say
/// how often they read activations again.
fn assert_said(artifact: &Artifact, entry: &str, step: Step, unsaid: &[&str]) {
    let tokens = f64::from(step.tokens);
    let workload = Workload {
        tokens,
        seqs: 1.0,
        rows: 1.0,
        context: tokens * (f64::from(step.depth) + (tokens + 1.0) / 2.0),
        // All that scores the same goes to the first.
        experts: artifact.model.experts.map_or(0.0, |e| e.chosen.into()),
    };
    let mut wrong = String::new();
    for counted in count(artifact, entry, step) {
        let cost = counted.cost;
        let Traffic { loaded, stored } = counted.activations;
        let unsaid = unsaid.iter().any(|u| counted.kernel.starts_with(u));
        let all = [
            ("weights", cost.weights, bytes(counted.weights), 0.01),
            ("state", cost.state, bytes(counted.state), 0.01),
            ("activations read", cost.activations_read, loaded as f64, ACTIVATIONS),
            ("activations written", cost.activations_written, stored as f64, ACTIVATIONS),
        ];
        for (what, said, found, most) in all {
            let said = said.at(workload);
            if what == "activations read" && unsaid {
                eprintln!("{}: {:.2} x the activations read", counted.kernel, found / said);
            } else if (said - found).abs() > most * found {
                wrong += &format!("  {}: {what}: says {said}, counted {found}\n", counted.kernel);
            }
        }
    }
    assert!(wrong.is_empty(), "{entry}, {step:?}:\n{wrong}");
}

/// Lanes that share a task's inputs each fetch them, and each task all of `x`: how often is the cache's
/// affair, and `explain` counts them once.
const AGAIN: [&str; 5] = ["linear_", "expert_", "attend_", "delta_", "qk_rope_"];

#[test]
fn kernels_of_decode_say_what_they_move() {
    for name in MODELS {
        let artifact = artifact(name);
        assert_said(&artifact, "decode", DECODE, &AGAIN);
        assert_said(&artifact, "head", DECODE, &AGAIN);
    }
}

#[test]
fn kernels_of_prefill_say_what_they_move() {
    // No expert has more tokens than a tile has rows.
    let step = Step { depth: 4096, tokens: 64 };
    for (name, sizes) in MODELS.into_iter().zip(narrow()) {
        // All lanes fetch the logits and ids of the experts.
        assert_said(
            &artifact_with(name, &sizes),
            "prefill",
            step,
            &["expert_groups_", "expert_combine_"],
        );
    }
}

#[test]
fn a_prefill_product_reads_weights_once_for_64_rows_and_rows_once_for_64_columns() {
    let layout = StepLayout { max_tokens: 512, max_seqs: 1, max_pages: 8 };
    let step = Step { depth: 0, tokens: 512 };
    // 0.8B: a quarter of the columns of an output projection, and of the rows of its MLP.
    for (n, k, act) in [(256, 2048, Act::None), (128, 1024, Act::SwiGlu { up: 128 })] {
        let spec = Spec::from(Linear {
            n,
            k,
            x: DType::F32,
            weight: DType::Bf16,
            out: DType::F32,
            norm: None,
            act,
            residual: false,
            rows: Count::Tokens,
            tile: 64,
        });
        let (caps, rows) = (gpu(32), step.tokens);
        let kernel = spec.build(&caps, &layout);
        let tasks = spec.template().tasks(&caps);
        assert_eq!(tasks.times, Times::Step(Count::Blocks));
        let parts = if act == Act::None { 1 } else { 2 };
        let [matrix, x, out] = [parts * n * k * 2, rows * k * 4, rows * n * 4];
        let sizes = [x, matrix, out].map(|bytes| bytes as usize);
        let counted = count_alone(&kernel, layout, step, tasks.each * rows / 64, &sizes);
        let [_, x_read, weights, written] = counted[..] else { panic!("four parameters") };
        let most = |bytes: u32, times: u32| u64::from(bytes) * u64::from(times);
        assert!(weights.loaded >= most(matrix, 1) && weights.loaded <= most(matrix, rows / 64));
        assert!(x_read.loaded >= most(x, 1) && x_read.loaded <= most(x, n / 64));
        assert_eq!(written, Traffic { loaded: 0, stored: out.into() });
    }
}
