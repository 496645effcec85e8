//! `q35c explain`: what a step moves and computes, kernel by kernel, beside the least it could.
//!
//! What kernels do is what their launches say of themselves ([`q35_artifact::Cost`]). The least
//! possible is computed from the weight manifest and the sequence state alone, so the two do
//! not share a mistake. A step is an entry point followed by `head`.
//!
//! Of code for NVIDIA's GPUs it also says what kernels take of a GPU ([`code`]), and of a GPU that is
//! named how long steps would take on it ([`predict`]).

mod chain;
mod choice;
mod code;
mod gpus;
mod json;
mod launches;
mod occupancy;
mod predict;
mod text;

use crate::ptxas::{Ptxas, PtxasError};
use crate::usage::{self, Usage};
use choice::Choice;
use code::Code;
use gpus::Gpu;
use predict::{Prediction, Scene};
use q35_artifact::{Arg, Artifact, Cost, Entry, Launch, Plan, State, Unit, Workload};
use q35_types::step::PAGE;
use std::iter::Sum;

pub use json::json;
pub use launches::Launches;
pub use text::text;

/// Which steps to look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// `NAME` or `NAME:VARIANT`; the first in the artifact without one.
    pub target: Option<&'a str>,
    /// Tokens that each sequence has before the step; 4096 without one, or as many as fit.
    pub depth: Option<u32>,
    /// Sequences of a decode step; 1, 64 and as many as fit without one.
    pub batch: Option<u32>,
    /// On which to predict how long the steps take.
    pub gpu: Option<&'a str>,
}

/// Sequences of a decode step that is looked at beside the smallest and the largest.
const MANY: u32 = 64;

/// A step that the artifact does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    #[error("artifact has no code for `{target}`, expected one of: {}", known.join(", "))]
    UnknownTarget { target: String, known: Vec<String> },
    #[error("gpu is `{gpu}`, expected one of: {}", known.join(", "))]
    UnknownGpu { gpu: String, known: Vec<&'static str> },
    #[error("gpu is `{gpu}`, but `{target}` is no code for it, expected target `ptx`")]
    NotForGpu { gpu: &'static str, target: String },
    #[error("gpu is `{gpu}` of compute capability {found}, but `{code}` needs at least {least}")]
    OlderGpu { gpu: &'static str, found: String, code: String, least: String },
    #[error("batch is {found}, expected 1 to {most}")]
    Batch { found: u32, most: u32 },
    #[error("depth is {found}, expected 0 to {most}")]
    Depth { found: u32, most: u32 },
}

/// The steps of one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub model_type: String,
    pub target: String,
    /// That steps are predicted for.
    pub gpu: Option<Gpu>,
    pub steps: Vec<Step>,
    /// Of the target that was asked for, or of all.
    pub launches: Vec<Launches>,
    /// Of PTX.
    pub code: Option<Code>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub entry: &'static str,
    pub tokens: u32,
    pub sequences: u32,
    /// Tokens of each sequence before the step.
    pub depth: u32,
    /// Distinct experts that are expected to be chosen in a layer.
    pub experts: Option<f64>,
    pub share_of: ShareOf,
    /// Largest share first.
    pub kernels: Vec<KernelRow>,
    pub total: Moved,
    pub least: Least,
    pub prediction: Option<Prediction>,
}

/// What the shares of kernels are shares of: what bounds the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareOf {
    Bytes,
    Flops,
}

/// All launches of one kernel in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelRow {
    pub name: String,
    pub launches: u64,
    pub moved: Moved,
    /// 0 to 1.
    pub share: f64,
}

/// Bytes and operations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moved {
    pub weights: f64,
    pub state_read: f64,
    pub state_written: f64,
    pub activations_read: f64,
    pub activations_written: f64,
    pub flops: f64,
}

/// Bytes that a step must move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Least {
    /// Each once, of experts those chosen, of the embedding the tokens' rows.
    pub weights: f64,
    /// State of sequences, read once and written once; of a ring, a row written and the others read.
    pub state: f64,
    /// Keys and values of earlier tokens read once, of the step's own written once.
    pub kv: f64,
}

/// Look at the steps that `options` ask for, and at PTX with `ptxas` if there is one.
///
/// # Errors
///
/// Asked for what the artifact does not have, or for a GPU that does not run it.
pub fn explain(
    artifact: &Artifact,
    options: Options<'_>,
    ptxas: &Result<Ptxas, PtxasError>,
) -> Result<Report, ExplainError> {
    let choice = Choice::of(artifact, options.target, options.gpu)?;
    let model = &artifact.model;
    if let Some(found) = options.batch.filter(|b| !(1..=model.max_batch).contains(b)) {
        return Err(ExplainError::Batch { found, most: model.max_batch });
    }
    let most = model.max_context - 1;
    if let Some(found) = options.depth.filter(|&d| d > most) {
        return Err(ExplainError::Depth { found, most });
    }

    let depth = options.depth.unwrap_or(4096);
    let mut batches = match options.batch {
        Some(batch) => vec![batch],
        None => vec![1, MANY.min(model.max_batch), model.max_batch],
    };
    batches.dedup();
    let chunk = model.max_chunk.min(model.max_context);
    let mut steps = vec![step(artifact, &choice, "prefill", chunk, 1, depth)];
    steps.extend(batches.iter().map(|&b| step(artifact, &choice, "decode", b, b, depth)));
    Ok(Report {
        model_type: model.model_type.clone(),
        target: choice.section.name.clone(),
        gpu: choice.gpu,
        steps,
        launches: launches::launches(artifact, options.target.map(|_| choice)),
        code: code::code(&choice, ptxas),
    })
}

fn step(
    artifact: &Artifact,
    choice: &Choice<'_>,
    name: &'static str,
    tokens: u32,
    sequences: u32,
    depth: u32,
) -> Step {
    let plan = &choice.section.plan;
    let entry = |name: &str| plan.entry(name).expect("a checked plan has it");
    let entries = [entry(name), entry("head")];
    let each = tokens / sequences;
    let depth = depth.min(artifact.model.max_context - each);
    let experts = artifact.model.experts.map(|e| e.distinct(tokens.into()));
    // Token i of a sequence attends to those before the step, to i of the step and to itself.
    let attended = f64::from(each) * (f64::from(depth) + (f64::from(each) + 1.0) / 2.0);
    let workload = Workload {
        tokens: tokens.into(),
        seqs: sequences.into(),
        rows: sequences.into(),
        context: f64::from(sequences) * attended,
        experts: experts.unwrap_or(0.0),
    };

    let share_of = match name {
        "decode" => ShareOf::Bytes,
        _ => ShareOf::Flops,
    };
    let mut kernels = rows(plan, &entries, workload);
    let total: Moved = kernels.iter().map(|k| k.moved).sum();
    for kernel in &mut kernels {
        let whole = total.of(share_of);
        kernel.share = if whole > 0.0 { kernel.moved.of(share_of) / whole } else { 0.0 };
    }
    kernels.sort_by(|a, b| b.share.total_cmp(&a.share));

    let usage = Usage::of(&artifact.manifest, &entries);
    let least = least(plan, &usage, workload, depth);
    let variant = choice.variant;
    let scene = Scene { artifact, plan, variant, entries: &entries, workload, depth };
    let prediction = choice.gpu.map(|gpu| predict::predict(&scene, &total, &least, gpu));
    Step {
        entry: name,
        tokens,
        sequences,
        depth,
        experts,
        share_of,
        kernels,
        total,
        least,
        prediction,
    }
}

/// Each kernel that is launched, in the order of the plan.
fn rows(plan: &Plan, entries: &[&Entry], workload: Workload) -> Vec<KernelRow> {
    let mut rows: Vec<_> = plan
        .kernels
        .iter()
        .map(|k| KernelRow {
            name: k.name.clone(),
            launches: 0,
            moved: Moved::default(),
            share: 0.0,
        })
        .collect();
    for (launch, _) in entries.iter().flat_map(|e| usage::launches(e)) {
        let row = &mut rows[launch.kernel as usize];
        row.launches += 1;
        row.moved = [row.moved, moved(plan, launch, workload)].into_iter().sum();
    }
    rows.retain(|r| r.launches > 0);
    rows
}

fn moved(plan: &Plan, launch: &Launch, workload: Workload) -> Moved {
    let Cost { weights, state, activations_read, activations_written, flops } = launch.cost;
    let written = written(plan, launch, workload);
    let state = state.at(workload);
    Moved {
        weights: weights.at(workload),
        state_read: state - written,
        state_written: written,
        activations_read: activations_read.at(workload),
        activations_written: activations_written.at(workload),
        flops: flops.at(workload),
    }
}

/// Bytes of state that a launch writes: of what it keeps for a sequence, which it reads and replaces, half; of
/// pages what it appends for each token, whatever it reads for each that came before; nothing if it only
/// reads.
fn written(plan: &Plan, launch: &Launch, workload: Workload) -> f64 {
    let params = &plan.kernels[launch.kernel as usize].params;
    let state = launch.cost.state;
    let bytes = |(arg, param): (&Arg, &q35_artifact::Param)| match *arg {
        Arg::State(i) if param.write => match plan.states[i as usize].unit {
            Unit::Slot => Some(0.5 * state.at(workload)),
            Unit::Page => Some(state.per_token * workload.tokens),
        },
        _ => None,
    };
    launch.args.iter().zip(params).find_map(bytes).unwrap_or(0.0)
}

fn least(plan: &Plan, usage: &Usage<'_>, workload: Workload, depth: u32) -> Least {
    let per = |unit: Unit| -> f64 {
        let states = usage.states.iter().map(|&i| &plan.states[i as usize]);
        let of_unit = states.filter(|s| s.unit == unit);
        let moved = |s: &State| match (s.unit, s.ring) {
            (Unit::Slot, false) => 2.0,
            (Unit::Slot, true) | (Unit::Page, _) => 1.0,
        };
        of_unit.map(|s| moved(s) * s.unit_bytes as f64 * s.layers.len() as f64).sum()
    };
    let cached = workload.seqs * f64::from(depth) + workload.tokens;
    Least {
        weights: usage.least_bytes(workload.tokens, workload.experts),
        state: workload.seqs * per(Unit::Slot),
        kv: cached * per(Unit::Page) / f64::from(PAGE),
    }
}

impl Moved {
    pub fn state(&self) -> f64 {
        self.state_read + self.state_written
    }

    pub fn activations(&self) -> f64 {
        self.activations_read + self.activations_written
    }

    pub fn read(&self) -> f64 {
        self.weights + self.state_read + self.activations_read
    }

    pub fn written(&self) -> f64 {
        self.state_written + self.activations_written
    }

    pub fn bytes(&self) -> f64 {
        self.read() + self.written()
    }

    fn of(&self, what: ShareOf) -> f64 {
        match what {
            ShareOf::Bytes => self.bytes(),
            ShareOf::Flops => self.flops,
        }
    }

    fn over(&self, n: f64) -> Moved {
        Moved {
            weights: self.weights / n,
            state_read: self.state_read / n,
            state_written: self.state_written / n,
            activations_read: self.activations_read / n,
            activations_written: self.activations_written / n,
            flops: self.flops / n,
        }
    }
}

impl Sum for Moved {
    fn sum<I: Iterator<Item = Moved>>(items: I) -> Moved {
        items.fold(Moved::default(), |a, b| Moved {
            weights: a.weights + b.weights,
            state_read: a.state_read + b.state_read,
            state_written: a.state_written + b.state_written,
            activations_read: a.activations_read + b.activations_read,
            activations_written: a.activations_written + b.activations_written,
            flops: a.flops + b.flops,
        })
    }
}

impl Least {
    pub fn bytes(&self) -> f64 {
        self.weights + self.state + self.kv
    }

    fn over(&self, n: f64) -> Least {
        Least { weights: self.weights / n, state: self.state / n, kv: self.kv / n }
    }
}

impl Step {
    /// Weights and state moved, as a multiple of the least possible.
    pub fn over_least(&self) -> f64 {
        (self.total.weights + self.total.state()) / self.least.bytes()
    }
}

#[cfg(test)]
mod tests;
