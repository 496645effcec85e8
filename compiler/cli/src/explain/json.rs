//! The report for programs.

use super::code::Code;
use super::predict::{Prediction, assumptions_json};
use super::{KernelRow, Launches, Moved, Report, ShareOf, Step};
use serde_json::{Value, json};

/// Bytes and operations are numbers of the step unless a key says that
/// they are per token.
pub fn json(report: &Report) -> Value {
    json!({
        "model_type": report.model_type,
        "target": report.target,
        "gpu": report.gpu.map(assumptions_json),
        "steps": report.steps.iter().map(step_json).collect::<Vec<_>>(),
        "decode_launches": report.launches.iter().map(Launches::json).collect::<Vec<_>>(),
        "code": report.code.as_ref().map(Code::json),
    })
}

fn step_json(step: &Step) -> Value {
    let kernel = |k: &KernelRow| {
        let mut value = json!({ "name": k.name, "launches": k.launches, "share": k.share });
        let fields = value.as_object_mut().expect("an object");
        if let Value::Object(moved) = moved_json(&k.moved) {
            fields.extend(moved);
        }
        value
    };
    let tokens = f64::from(step.tokens);
    let least = step.least.over(tokens);
    json!({
        "entry": step.entry,
        "tokens": step.tokens,
        "sequences": step.sequences,
        "depth": step.depth,
        "distinct_experts": step.experts,
        "launches": step.kernels.iter().map(|k| k.launches).sum::<u64>(),
        "share_of": match step.share_of { ShareOf::Bytes => "bytes", ShareOf::Flops => "flops" },
        "kernels": step.kernels.iter().map(kernel).collect::<Vec<_>>(),
        "total": moved_json(&step.total),
        "per_token": moved_json(&step.total.over(tokens)),
        "least_per_token": {
            "weights": least.weights,
            "state": least.state,
            "kv": least.kv,
            "bytes": least.bytes(),
        },
        "weights_and_state_over_least": step.over_least(),
        "prediction": step.prediction.as_ref().map(Prediction::json),
    })
}

fn moved_json(m: &Moved) -> Value {
    json!({
        "weights": m.weights,
        "state_read": m.state_read,
        "state_written": m.state_written,
        "activations_read": m.activations_read,
        "activations_written": m.activations_written,
        "read": m.read(),
        "written": m.written(),
        "bytes": m.bytes(),
        "flops": m.flops,
    })
}
