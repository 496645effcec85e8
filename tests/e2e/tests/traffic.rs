//! Bytes that GPU kernels ask for, counted by the evaluator on models of true shapes: beside the
//! least possible, and beside what `q35c explain` says.

use q35_artifact::{
    Arg, Artifact, Block, Part, Plan, TargetSection, Times, Unit, Weight, Workload,
};
use q35_core::kernels::{Act, Linear, Spec};
use q35_core::{Config, Limits, Options, Request};
use q35_e2e::evaluator::{Text, gpu};
use q35_e2e::golden;
use q35_e2e::traffic::{Counted, Step, add, count, count_alone};
use q35_interp::kernel::Traffic;
use q35_types::step::PAGE;
use q35_types::{Count, DType, StepLayout};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Published configs: a dense model and a mixture of experts.
const MODELS: [&str; 2] = ["Qwen3.5-0.8B", "Qwen3.5-35B-A3B"];
/// Tokens of the sequence before the step.
const DEPTH: u32 = 4096;
const DECODE: Step = Step { depth: DEPTH, tokens: 1 };

/// A published model cut to one layer of each kind and to a small vocabulary.
fn artifact(name: &str) -> Artifact {
    artifact_with(name, &[])
}

/// With these values in its config.
fn artifact_with(name: &str, values: &[(&str, u32)]) -> Artifact {
    let file = golden::folder().join("configs").join(format!("{name}.json"));
    let text = std::fs::read_to_string(file).expect("a published config");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    let text = &mut config["text_config"];
    text["num_hidden_layers"] = json!(2);
    text["layer_types"] = json!(["linear_attention", "full_attention"]);
    text["vocab_size"] = json!(512);
    text["eos_token_id"] = json!(0);
    for &(key, value) in values {
        assert!(!text[key].is_null(), "{key} is in the config");
        text[key] = json!(value);
    }
    let hidden = text["hidden_size"].clone();
    config["vision_config"]["out_hidden_size"] = hidden;
    compile(&config.to_string())
}

fn compile(text: &str) -> Artifact {
    let request = Request {
        text,
        config: &Config::parse(text).expect("a config of the family").config,
        options: Options { activations: DType::F32, kv: DType::Bf16 },
        limits: Limits { max_context: 8192, max_batch: 4, max_chunk: 512 },
        targets: &[&Text::new(gpu(32))],
    };
    q35_core::compile(&request).expect("a good config compiles")
}

fn section(artifact: &Artifact) -> &TargetSection {
    artifact.target("interp").expect("code for the evaluator")
}

/// The blocks of a step that are layers.
fn layers(plan: &Plan) -> Vec<&Block> {
    let decode = plan.entry("decode").expect("every plan has it");
    let numbers = decode.sequence.iter().filter(|(_, layer)| layer.is_some());
    numbers.map(|&(block, _)| &decode.blocks[block as usize]).collect()
}

/// Bytes that one layer cannot do without in a decode step of one token: of weights, and of
/// sequence state, in this order.
fn least(artifact: &Artifact, block: &Block) -> [f64; 2] {
    let args = || block.launches.iter().flat_map(|l| &l.args);
    let weights: BTreeSet<u32> =
        args().filter_map(|a| if let Arg::Weight(n) = a { Some(*n) } else { None }).collect();
    let states: BTreeSet<u32> =
        args().filter_map(|a| if let Arg::State(n) = a { Some(*n) } else { None }).collect();
    let chosen = artifact.model.experts.map_or(0, |e| e.chosen);
    let weight = |&n: &u32| {
        let w = &artifact.manifest.weights[n as usize];
        rows(w) * f64::from(w.cols) * w.dtype.size() as f64 * w.experts.map_or(1, |_| chosen) as f64
    };
    let state = |&n: &u32| {
        let state = &section(artifact).plan.states[n as usize];
        let bytes = state.unit_bytes as f64;
        match state.unit {
            // A ring of inputs: all but one row looked back at, and that one written.
            Unit::Slot if state.ring => bytes,
            // Read once and written once.
            Unit::Slot => 2.0 * bytes,
            // Of all tokens read, the step's own included, and of that one written.
            Unit::Page => f64::from(DEPTH + 2) * bytes / f64::from(PAGE),
        }
    };
    [weights.iter().map(weight).sum(), states.iter().map(state).sum()]
}

/// Rows that hold numbers.
fn rows(w: &Weight) -> f64 {
    let zeros = |p: &Part| if let Part::Zeros { rows } = p { *rows } else { 0 };
    f64::from(w.rows - w.recipes[0].iter().map(zeros).sum::<u32>())
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
            let least = least(&artifact, block);
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

/// True widths of heads, few of them.
const FEW: [(&str, u32); 5] = [
    ("hidden_size", 512),
    ("num_attention_heads", 2),
    ("num_key_value_heads", 1),
    ("linear_num_key_heads", 2),
    ("linear_num_value_heads", 4),
];

#[test]
fn kernels_of_prefill_say_what_they_move() {
    // No expert has more tokens than a tile has rows.
    let step = Step { depth: 4096, tokens: 64 };
    let dense = [&FEW[..], &[("intermediate_size", 320)]].concat();
    let experts = [&FEW[..], &[("num_experts", 16), ("num_experts_per_tok", 2)]].concat();
    for (name, sizes) in MODELS.into_iter().zip([dense, experts]) {
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
