//! Bytes that GPU kernels ask for, counted by the evaluator on models of true shapes: beside the
//! least possible, and beside what `q35c explain` says.

use q35_artifact::{Arg, Artifact, Block, Part, Plan, TargetSection, Unit, Weight, Workload};
use q35_core::{Config, Limits, Options, Request};
use q35_e2e::evaluator::{Text, gpu};
use q35_e2e::golden;
use q35_e2e::traffic::{Counted, Step, add, count};
use q35_interp::kernel::Traffic;
use q35_types::DType;
use q35_types::step::PAGE;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Published configs: a dense model and a mixture of experts.
const MODELS: [&str; 2] = ["Qwen3.5-0.8B", "Qwen3.5-35B-A3B"];
/// Tokens of the sequence before the step.
const DEPTH: u32 = 4096;
const DECODE: Step = Step { depth: DEPTH, tokens: 1 };

/// A published model cut to one layer of each kind and to a small vocabulary.
fn artifact(name: &str) -> Artifact {
    let file = golden::folder().join("configs").join(format!("{name}.json"));
    let text = std::fs::read_to_string(file).expect("a published config");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["text_config"]["num_hidden_layers"] = json!(2);
    config["text_config"]["layer_types"] = json!(["linear_attention", "full_attention"]);
    config["text_config"]["vocab_size"] = json!(1024);
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
            for (what, moved, least) in
                [("weights", moved[0], least[0]), ("state", moved[1], least[1])]
            {
                assert!(moved > 0.99 * least, "{name}, {}: not all {what} are read", block.name);
                if moved > 1.05 * least {
                    let times = moved / least;
                    over += &format!("{name}, {}: {what} {times:.3} x the least\n", block.name);
                    over += &listing(&counted);
                }
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
