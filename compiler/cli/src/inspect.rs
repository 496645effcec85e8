//! `q35c inspect`: what is in an artifact and what it needs to run.

use crate::units::{bytes, count, table};
use crate::usage::{Usage, launches};
use q35_artifact::{Artifact, Entry, LayerKind, ModelFacts, TargetSection, Unit};
use q35_types::step::PAGE;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What the number of active parameters is, wherever it is shown.
const ACTIVE: &str = "weights of the text model that one token reads, of the routed experts the \
                      chosen ones; the head, not the embedding, where a token looks up one row";

const KINDS: [LayerKind; 2] = [LayerKind::LinearAttention, LayerKind::FullAttention];

/// What a target's plan needs.
struct Needs {
    /// Packed weights, padding included.
    weights: u64,
    arena: u64,
    buffers: u64,
    step: u64,
    /// State that a sequence has whatever its length.
    sequence: u64,
    /// State that each 1,000 tokens of context have; pages of 64 tokens in proportion.
    thousand_tokens: u64,
}

impl Needs {
    fn of(target: &TargetSection, artifact: &Artifact) -> Needs {
        let plan = &target.plan;
        let entries: Vec<&Entry> = plan.entries.iter().collect();
        let state = |unit: Unit| -> u64 {
            let states = plan.states.iter().filter(|s| s.unit == unit);
            states.map(|s| s.unit_bytes * s.layers.len() as u64).sum()
        };
        Needs {
            weights: Usage::of(&artifact.manifest, &entries).packed_bytes(),
            arena: plan.arena_bytes,
            buffers: plan.buffers.iter().map(|b| b.bytes).sum(),
            step: u64::from(plan.step.words()) * 4,
            sequence: state(Unit::Slot),
            thousand_tokens: state(Unit::Page) * 1000 / u64::from(PAGE),
        }
    }
}

fn layers(model: &ModelFacts, kind: LayerKind) -> usize {
    model.layers.iter().filter(|&&k| k == kind).count()
}

fn distinct_kernels(entry: &Entry) -> usize {
    launches(entry).map(|(l, _)| l.kernel).collect::<BTreeSet<_>>().len()
}

/// For people.
pub fn text(artifact: &Artifact) -> String {
    let mut out = model(&artifact.model);
    for target in &artifact.targets {
        out += &format!("\n{}", self::target(target, artifact));
    }
    out + &format!("\n{}", sections(artifact))
}

fn model(m: &ModelFacts) -> String {
    let kinds = KINDS.map(|k| format!("{} {k}", layers(m, k))).join(", ");
    let experts = match m.experts {
        Some(e) => format!("; {} of {} experts chosen for each token", e.chosen, e.count),
        None => String::new(),
    };
    let head = if m.tied { "is the embedding" } else { "is apart from the embedding" };
    let p = &m.parameters;
    let parts = [
        ("the text model", p.text),
        ("the vision tower, not compiled", p.vision),
        ("multi-token prediction, not compiled", p.mtp),
    ];
    let mut parameters: Vec<_> = parts
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(part, n)| vec![format!("parameters of {part}"), count(*n)])
        .collect();
    parameters.push(vec!["parameters in total".into(), count(p.total())]);
    parameters.push(vec!["parameters active per token".into(), count(p.active)]);
    format!(
        "model         {}: {} layers ({kinds}), hidden size {}{experts}\n\
         vocabulary    {} rows; the head {head}\n\
         checkpoint    {}, made for {} tokens of context\n\
         compiled for  {} tokens of context, {} sequences at once, chunks of {} tokens; keys and values {}\n\
         \n{}  active: {ACTIVE}\n",
        m.model_type,
        m.layers.len(),
        m.hidden_size,
        count(m.vocab_size.into()),
        m.dtype,
        count(m.context.into()),
        count(m.max_context.into()),
        count(m.max_batch.into()),
        count(m.max_chunk.into()),
        m.kv,
        table("", &parameters),
    )
}

fn target(target: &TargetSection, artifact: &Artifact) -> String {
    let needs = Needs::of(target, artifact);
    let variants: Vec<_> = target.variants.iter().map(|v| v.name.as_str()).collect();
    let mut entries = vec![
        ["entry point", "launches a step", "kernels", "tokens at most"].map(String::from).to_vec(),
    ];
    entries.extend(target.plan.entries.iter().map(|e| {
        vec![
            e.name.clone(),
            count(launches(e).count() as u64),
            count(distinct_kernels(e) as u64),
            count(e.max_tokens.into()),
        ]
    }));
    let memory = [
        ("weights, packed", needs.weights),
        ("arena", needs.arena),
        ("buffers", needs.buffers),
        ("step parameters", needs.step),
        ("state of a sequence", needs.sequence),
        ("state of 1,000 tokens of context", needs.thousand_tokens),
    ];
    let memory = memory.map(|(what, n)| vec![what.into(), count(n), bytes(n as f64)]);
    format!(
        "target {}: activations {}; code for {}\n{}\n{}",
        target.name,
        target.activations,
        variants.join(", "),
        table("  ", &entries),
        table("  ", &memory),
    )
}

fn sections(artifact: &Artifact) -> String {
    let sections = artifact.sections();
    let width = sections.iter().map(|s| s.name.len()).max().unwrap_or(0);
    let mut out = format!("{} bytes, of which\n", count(artifact.to_bytes().len() as u64));
    for s in sections {
        out += &format!("  {:<width$}  {:>11}  {}\n", s.name, count(s.bytes), s.blake3);
    }
    out
}

/// For programs.
pub fn json(artifact: &Artifact) -> Value {
    let m = &artifact.model;
    let p = &m.parameters;
    let kinds = KINDS.map(|k| (k.to_string(), json!(layers(m, k))));
    json!({
        "model_type": m.model_type,
        "layers": m.layers.len(),
        "layer_kinds": serde_json::Map::from_iter(kinds),
        "hidden_size": m.hidden_size,
        "vocab_size": m.vocab_size,
        "context": m.context,
        "experts": m.experts.map(|e| json!({ "count": e.count, "chosen": e.chosen })),
        "dtype": m.dtype.name(),
        "tied": m.tied,
        "eos": m.eos,
        "parameters": {
            "text": p.text,
            "vision": p.vision,
            "mtp": p.mtp,
            "total": p.total(),
            "active_per_token": p.active,
            "active_counts": ACTIVE,
        },
        "kv": m.kv.name(),
        "max_batch": m.max_batch,
        "max_chunk": m.max_chunk,
        "max_context": m.max_context,
        "targets": artifact.targets.iter().map(|t| target_json(t, artifact)).collect::<Vec<_>>(),
        "bytes": artifact.to_bytes().len(),
        "sections": artifact.sections().iter().map(|s| json!({
            "name": s.name,
            "bytes": s.bytes,
            "blake3": s.blake3,
        })).collect::<Vec<_>>(),
    })
}

fn target_json(target: &TargetSection, artifact: &Artifact) -> Value {
    let needs = Needs::of(target, artifact);
    json!({
        "name": target.name,
        "activations": target.activations.name(),
        "variants": target.variants.iter().map(|v| json!({
            "name": v.name,
            "extension": v.extension,
            "kernels": v.kernels.len(),
            "code_bytes": v.kernels.iter().map(|(_, code)| code.len()).sum::<usize>(),
        })).collect::<Vec<_>>(),
        "entry_points": target.plan.entries.iter().map(|e| json!({
            "name": e.name,
            "launches": launches(e).count(),
            "kernels": distinct_kernels(e),
            "max_tokens": e.max_tokens,
        })).collect::<Vec<_>>(),
        "weights_bytes": needs.weights,
        "arena_bytes": needs.arena,
        "buffer_bytes": needs.buffers,
        "step_bytes": needs.step,
        "state_bytes_per_sequence": needs.sequence,
        "state_bytes_per_1000_tokens": needs.thousand_tokens,
    })
}

#[cfg(test)]
mod tests;
