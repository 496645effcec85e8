//! Published models, cut to one layer of each kind: all that a layer does at its true size.

use crate::golden;
use q35_artifact::{Arg, Artifact, Block, Part, Plan, Unit, Weight};
use q35_core::{Config, Limits, Options, Request};
use q35_target::Target;
use q35_types::DType;
use q35_types::step::PAGE;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Published configs: a dense model and a mixture of experts.
pub const MODELS: [&str; 2] = ["Qwen3.5-0.8B", "Qwen3.5-35B-A3B"];

/// Sizes for which a chunk of prefill takes little time, for each of [`MODELS`]: true widths of heads, few
/// of them, and few experts.
pub fn narrow() -> [Vec<(&'static str, u32)>; 2] {
    let heads = [
        ("hidden_size", 512),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("linear_num_key_heads", 2),
        ("linear_num_value_heads", 4),
    ];
    let experts = [("num_experts", 16), ("num_experts_per_tok", 2)];
    [[&heads[..], &[("intermediate_size", 320)]].concat(), [&heads[..], &experts].concat()]
}

/// One of them with one layer of each kind, a small vocabulary and these values in its config.
pub fn compile(
    name: &str,
    values: &[(&str, u32)],
    activations: DType,
    target: &dyn Target,
) -> Artifact {
    let text = &cut(name, values);
    let request = Request {
        text,
        config: &Config::parse(text).expect("a config of the family").config,
        options: Options { activations, kv: DType::Bf16 },
        limits: Limits { max_context: 8192, max_batch: 4, max_chunk: 512 },
        targets: &[target],
    };
    q35_core::compile(&request).expect("a good config compiles")
}

fn cut(name: &str, values: &[(&str, u32)]) -> String {
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
    config.to_string()
}

/// The blocks of a decode step that are layers.
pub fn layers(plan: &Plan) -> Vec<&Block> {
    let decode = plan.entry("decode").expect("every plan has it");
    let numbers = decode.sequence.iter().filter(|(_, layer)| layer.is_some());
    numbers.map(|&(block, _)| &decode.blocks[block as usize]).collect()
}

/// Bytes that one layer cannot do without in a decode step of one token after `depth` others: of
/// weights, and of sequence state, in this order.
pub fn least(artifact: &Artifact, plan: &Plan, block: &Block, depth: u32) -> [f64; 2] {
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
        let state = &plan.states[n as usize];
        let bytes = state.unit_bytes as f64;
        match state.unit {
            // A ring of inputs: all but one row looked back at, and that one written.
            Unit::Slot if state.ring => bytes,
            // Read once and written once.
            Unit::Slot => 2.0 * bytes,
            // Of all tokens read, the step's own included, and of that one written.
            Unit::Page => f64::from(depth + 2) * bytes / f64::from(PAGE),
        }
    };
    [weights.iter().map(weight).sum(), states.iter().map(state).sum()]
}

/// Rows that hold numbers.
fn rows(w: &Weight) -> f64 {
    let zeros = |p: &Part| if let Part::Zeros { rows } = p { *rows } else { 0 };
    f64::from(w.rows - w.recipes[0].iter().map(zeros).sum::<u32>())
}
