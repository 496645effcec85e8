//! The plan: every index leads somewhere, every argument fits its parameter, and the sizes that a
//! runtime computes from it do not overflow.

use super::*;
use crate::{
    Amount, Arg, Block, CANDIDATES, Entry, Kernel, LIKELIEST, LOGITS, Launch, Manifest, Param,
    Tasks, Times,
};
use q35_types::step::HEADER;
use q35_types::{Count, StepLayout};
use std::collections::BTreeSet;

/// No step has more launches, all layers together.
const MAX_LAUNCHES: u64 = 1 << 20;
/// No kernel has more shared memory.
const MAX_SHARED: u64 = 1 << 26;
/// No row has more candidates: the runtime keeps as many for every sequence.
const MAX_CANDIDATES: u64 = 1 << 12;
/// The entry points that a text model has.
const ENTRIES: [&str; 3] = ["prefill", "decode", "head"];

pub(super) fn check(plan: &Plan, manifest: &Manifest, model: &ModelFacts) -> Checked {
    same("vocab", plan.vocab, model.vocab_size)?;
    same("max_context", plan.max_context, model.max_context)?;
    step(&plan.step, model).map_err(|f| f.within("step"))?;
    kernels(&plan.kernels)?;
    memory(plan, model)?;

    names("entries", plan.entries.iter().map(|e| e.name.as_str()))?;
    for name in ENTRIES {
        if plan.entry(name).is_none() {
            return Err(flaw(format_args!("entries.{name}"), Fault::Missing));
        }
    }
    sampling(plan)?;
    let scope = Scope { plan, manifest, layers: &BTreeSet::new() };
    each("entries", &plan.entries, |e| entry(e, scope, model))
}

/// The words of the buffer are `i32` indices, and computed in `u32`.
fn step(s: &StepLayout, model: &ModelFacts) -> Checked {
    let chunk = u64::from(model.max_chunk.max(model.max_batch));
    range("max_tokens", s.max_tokens, chunk, MAX_COUNT)?;
    same("max_seqs", s.max_seqs, model.max_batch)?;
    let pages = u64::from(model.max_context).div_ceil(u64::from(PAGE));
    range("max_pages", s.max_pages, pages, MAX_COUNT)?;

    let [tokens, seqs, pages] = [s.max_tokens, s.max_seqs, s.max_pages].map(u64::from);
    let tiles = tokens.min(tokens / u64::from(PAGE) + 2 * seqs);
    let words = u64::from(HEADER) + 5 * tokens + 5 * tiles + 3 * seqs + 1 + seqs * pages;
    range("words", words, 0, MAX_COUNT)
}

fn kernels(kernels: &[Kernel]) -> Checked {
    names("kernels", kernels.iter().map(|k| k.name.as_str()))?;
    each("kernels", kernels, |k| {
        range("shared_bytes", k.shared_bytes, 0, MAX_SHARED)?;
        each("params", &k.params, |p| match p.name.len() {
            1..=128 => Ok(()),
            _ => Err(flaw("name", Fault::Name { found: p.name.chars().take(128).collect() })),
        })
    })
}

fn memory(plan: &Plan, model: &ModelFacts) -> Checked {
    range("arena_bytes", plan.arena_bytes, 0, MAX_BYTES)?;
    let mut total = plan.arena_bytes;
    names("buffers", plan.buffers.iter().map(|b| b.name.as_str()))?;
    each("buffers", &plan.buffers, |b| {
        range("bytes", b.bytes, 1, MAX_BYTES)?;
        total = total.saturating_add(b.bytes);
        range("bytes", total, 1, MAX_TOTAL)
    })?;
    result(plan, LOGITS, 4 * u64::from(plan.step.max_seqs) * u64::from(plan.vocab))?;

    names("states", plan.states.iter().map(|s| s.name.as_str()))?;
    let mut total = 0u64;
    each("states", &plan.states, |s| {
        range("unit_bytes", s.unit_bytes, 1, MAX_BYTES)?;
        layers("layers", &s.layers, model)?;
        if s.layers.is_empty() {
            return Err(flaw("layers", Fault::Empty));
        }
        total = total.saturating_add(s.unit_bytes * s.layers.len() as u64);
        range("unit_bytes", total, 1, MAX_TOTAL)
    })
}

/// What the host reads of the entries that not every plan has.
fn sampling(plan: &Plan) -> Checked {
    let row = 4 * u64::from(plan.step.max_seqs);
    if plan.entry("greedy").is_some() {
        result(plan, LIKELIEST, row)?;
    }
    if plan.entry("candidates").is_some() {
        for name in CANDIDATES {
            let buffer = result(plan, name, row)?;
            let (place, bytes) = (format!("buffers[{buffer}].bytes"), plan.buffers[buffer].bytes);
            range(&place, bytes, row, row * MAX_CANDIDATES)?;
            same(&place, bytes, bytes / row * row)?;
        }
        let [ids, logits] = CANDIDATES.map(|name| plan.buffer(name).expect("looked at above"));
        let place = format!("buffers[{logits}].bytes");
        same(&place, plan.buffers[logits].bytes, plan.buffers[ids].bytes)?;
    }
    Ok(())
}

/// The buffer of that name, which has so many bytes at least.
fn result(plan: &Plan, name: &str, least: u64) -> Result<usize, Flaw> {
    let Some(buffer) = plan.buffer(name) else {
        return Err(flaw(format_args!("buffers.{name}"), Fault::Missing));
    };
    range(&format!("buffers[{buffer}].bytes"), plan.buffers[buffer].bytes, least, MAX_BYTES)?;
    Ok(buffer)
}

/// What a launch may name.
#[derive(Clone, Copy)]
struct Scope<'a> {
    plan: &'a Plan,
    manifest: &'a Manifest,
    /// The layers that the block runs for.
    layers: &'a BTreeSet<Option<u32>>,
}

fn entry(e: &Entry, scope: Scope<'_>, model: &ModelFacts) -> Checked {
    range("max_tokens", e.max_tokens, 1, u64::from(scope.plan.step.max_tokens))?;
    let mut runs = vec![BTreeSet::new(); e.blocks.len()];
    let mut launches = 0;
    each("sequence", &e.sequence, |&(block, layer)| {
        let len = e.blocks.len();
        let Some(block_runs) = runs.get_mut(block as usize) else {
            return Err(flaw("", Fault::Index { index: block, len, into: "blocks" }));
        };
        if let Some(layer) = layer {
            layers("", &[layer], model)?;
        }
        block_runs.insert(layer);
        launches += e.blocks[block as usize].launches.len() as u64;
        range("", launches, 0, MAX_LAUNCHES)
    })?;
    for (i, (block, layers)) in e.blocks.iter().zip(&runs).enumerate() {
        let scope = Scope { layers, ..scope };
        self::block(block, scope).map_err(|f| f.within(format_args!("blocks[{i}]")))?;
    }
    Ok(())
}

fn block(b: &Block, scope: Scope<'_>) -> Checked {
    each("launches", &b.launches, |l| {
        let kernels = &scope.plan.kernels;
        let Some(kernel) = kernels.get(l.kernel as usize) else {
            let fault = Fault::Index { index: l.kernel, len: kernels.len(), into: "kernels" };
            return Err(flaw("kernel", fault));
        };
        same("args.len", l.args.len(), kernel.params.len())?;
        for (i, (arg, param)) in l.args.iter().zip(&kernel.params).enumerate() {
            argument(arg, param, scope).map_err(|f| f.within(format_args!("args[{i}]")))?;
        }
        tasks(l, kernel, scope.plan).map_err(|f| f.within("tasks"))?;
        cost(l)
    })
}

fn argument(arg: &Arg, param: &Param, scope: Scope<'_>) -> Checked {
    let unfit = |found, expected| {
        Err(flaw("", Fault::Argument { found, param: param.name.clone(), expected }))
    };
    let lost = |index, len, into| Err(flaw("", Fault::Index { index, len, into }));
    if param.table && !matches!(arg, Arg::Weight(_)) {
        return unfit("one buffer", "a table of buffers");
    }
    match *arg {
        Arg::Step => match (param.dtype, param.write) {
            (DType::I32, false) => Ok(()),
            (_, true) => unfit("the step-parameter buffer", "written"),
            _ => unfit("the step-parameter buffer", "not i32"),
        },
        Arg::Arena { offset, bytes } => {
            let arena = scope.plan.arena_bytes;
            let inside = offset.checked_add(bytes).is_some_and(|end| end <= arena);
            if !inside || bytes == 0 {
                return Err(flaw("", Fault::Arena { offset, bytes, arena }));
            }
            let size = param.dtype.size() as u64;
            same("offset", offset, offset / size * size)
        }
        Arg::Buffer(i) => match scope.plan.buffers.get(i as usize) {
            Some(_) => Ok(()),
            None => lost(i, scope.plan.buffers.len(), "buffers"),
        },
        Arg::Weight(i) => {
            let weights = &scope.manifest.weights;
            let Some(w) = weights.get(i as usize) else {
                return lost(i, weights.len(), "weights");
            };
            if param.write {
                return unfit("a weight", "written");
            }
            match (w.experts, param.table) {
                (Some(_), false) => return unfit("a table of weights", "one buffer"),
                (None, true) => return unfit("one weight", "a table of buffers"),
                _ => {}
            }
            same("dtype", w.dtype, param.dtype)?;
            if w.layers.is_empty() {
                return Ok(());
            }
            instances(&w.name, &w.layers, scope)
        }
        Arg::State(i) => match scope.plan.states.get(i as usize) {
            Some(s) => instances(&s.name, &s.layers, scope),
            None => lost(i, scope.plan.states.len(), "states"),
        },
    }
}

/// There is one of `layers` for each layer that the block runs for.
fn instances(name: &str, layers: &[u32], scope: Scope<'_>) -> Checked {
    let has = |l: &Option<u32>| l.is_some_and(|l| layers.binary_search(&l).is_ok());
    match scope.layers.iter().find(|l| !has(l)) {
        None => Ok(()),
        Some(&layer) => Err(flaw("", Fault::Layer { name: name.into(), layer })),
    }
}

/// The number of tasks is computed in `u32`.
fn tasks(l: &Launch, kernel: &Kernel, plan: &Plan) -> Checked {
    let Tasks { each, times } = l.tasks;
    let most = match times {
        Times::Once => 1,
        Times::Step(Count::Tokens) => plan.step.max_tokens,
        Times::Step(Count::Tiles) => plan.step.max_tiles(),
        Times::Step(Count::Seqs | Count::Rows) => plan.step.max_seqs,
        Times::Step(Count::ValidIds) => plan.vocab,
        Times::Step(Count::Blocks) => plan.step.max_tokens.div_ceil(PAGE),
        Times::Word { arg } => {
            let Some(bound) = l.args.get(arg as usize) else {
                let fault = Fault::Index { index: arg, len: l.args.len(), into: "args" };
                return Err(flaw("times", fault));
            };
            let wide = match *bound {
                Arg::Arena { bytes, .. } => bytes >= 4,
                // Checked to be there.
                Arg::Buffer(i) => plan.buffers[i as usize].bytes >= 4,
                Arg::Step | Arg::Weight(_) | Arg::State(_) => false,
            };
            let param = &kernel.params[arg as usize];
            if !wide || param.dtype != DType::I32 {
                let fault = Fault::Argument {
                    found: "a number of tasks",
                    param: param.name.clone(),
                    expected: "no i32 in the arena or a buffer",
                };
                return Err(flaw("times", fault));
            }
            1
        }
    };
    range("each", u64::from(each) * u64::from(most), 0, u64::from(u32::MAX))
}

fn cost(l: &Launch) -> Checked {
    let c = &l.cost;
    let amounts = [c.weights, c.state, c.activations_read, c.activations_written, c.flops];
    let sound = |a: &Amount| {
        let terms = [a.once, a.per_token, a.per_seq, a.per_row, a.per_context, a.per_expert];
        terms.iter().all(|t| t.is_finite() && *t >= 0.0)
    };
    if amounts.iter().all(sound) { Ok(()) } else { Err(flaw("cost", Fault::Cost)) }
}
