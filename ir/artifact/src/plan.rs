//! The plan: what to launch, in which order, on which memory.
//!
//! Layers of one kind share a block of launches; a launch names weights and state by
//! family, and the entry's sequence says for which layer a block runs next. Nothing in a plan depends on
//! how many tokens a step has: numbers of tasks are read from the step-parameter buffer
//! or from a buffer that an earlier launch wrote.

use q35_types::{Count, DType, StepLayout};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub step: StepLayout,
    /// Tokens of the longest sequence.
    pub max_context: u32,
    pub vocab: u32,
    /// Every kernel that a launch names.
    pub kernels: Vec<Kernel>,
    /// Memory that lives as long as a step; contents are undefined when it begins.
    pub arena_bytes: u64,
    /// Memory that lives from step to step.
    pub buffers: Vec<Buffer>,
    /// Sequence state; one instance for each of its layers.
    pub states: Vec<State>,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    pub name: String,
    /// Bytes of shared arrays.
    pub shared_bytes: u32,
    pub params: Vec<Param>,
}

/// What the code expects of one argument.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Param {
    pub name: String,
    pub dtype: DType,
    /// The launch writes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub write: bool,
    /// It is a list of buffers, one for each expert.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub table: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    pub name: String,
    pub bytes: u64,
}

/// The name of the buffer from which logits are read: `f32[rows, vocab]`.
pub const LOGITS: &str = "logits";

/// The buffer from which the result of the entry `greedy` is read, if the plan has that:
/// `i32[rows]`, the likeliest id, or -1 if no logit is a number.
pub const LIKELIEST: &str = "likeliest";

/// The buffers from which the result of the entry `candidates` is read, if the plan has that:
/// `i32[rows, k]`, the likeliest ids by rank and -1 where there are fewer, and `f32[rows, k]`,
/// their logits.
pub const CANDIDATES: [&str; 2] = ["candidates", "candidate_logits"];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub unit: Unit,
    /// Bytes of one unit in one layer.
    pub unit_bytes: u64,
    /// It is a ring of rows: a token takes the place of the oldest and looks at the others, so that a step
    /// moves a unit once, where it reads and replaces other units whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ring: bool,
    pub layers: Vec<u32>,
}

/// What sequence state is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// One for each sequence.
    Slot,
    /// One for each 64 tokens.
    Page,
}

/// An entry point: `prefill`, `decode`, `head`; on devices far from the host also `greedy` and
/// `candidates`, which are `head` and then choose among the logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    /// Tokens that a step of it may have.
    pub max_tokens: u32,
    pub blocks: Vec<Block>,
    /// Which block runs next, and for which layer.
    pub sequence: Vec<(u32, Option<u32>)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Block {
    pub name: String,
    pub launches: Vec<Launch>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Index into [`Plan::kernels`].
    pub kernel: u32,
    pub tasks: Tasks,
    /// One for each parameter of the kernel.
    pub args: Vec<Arg>,
    pub cost: Cost,
}

/// How many tasks a launch has: `each` times what the step decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks {
    pub each: u32,
    pub times: Times,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Times {
    Once,
    Step(Count),
    /// The `i32` at the start of this argument, which an earlier launch wrote.
    Word {
        arg: u32,
    },
}

/// What a parameter is bound to. Sizes are checked against the real memory when a plan is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// The step-parameter buffer.
    Step,
    Arena {
        offset: u64,
        bytes: u64,
    },
    /// Index into [`Plan::buffers`].
    Buffer(u32),
    /// Index into the manifest's weights; of the block's layer; the whole table if it has experts.
    Weight(u32),
    /// Index into [`Plan::states`]; of the block's layer.
    State(u32),
}

/// What a launch moves and computes. Weights of experts are counted per expert chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    pub weights: Amount,
    pub state: Amount,
    pub activations_read: Amount,
    pub activations_written: Amount,
    pub flops: Amount,
}

/// Bytes or operations, as a sum of terms that a step decides.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Amount {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub once: f64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub per_token: f64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub per_seq: f64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub per_row: f64,
    /// For each token times each token it attends to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub per_context: f64,
    /// For each expert that any token chose.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub per_expert: f64,
}

fn is_zero(v: &f64) -> bool {
    *v == 0.0
}

/// A step as far as costs depend on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    pub tokens: f64,
    pub seqs: f64,
    pub rows: f64,
    /// Sum over tokens of the tokens each attends to.
    pub context: f64,
    /// Distinct experts chosen in a layer.
    pub experts: f64,
}

impl Amount {
    /// Of two things together.
    #[must_use]
    pub fn and(self, other: Amount) -> Amount {
        Amount {
            once: self.once + other.once,
            per_token: self.per_token + other.per_token,
            per_seq: self.per_seq + other.per_seq,
            per_row: self.per_row + other.per_row,
            per_context: self.per_context + other.per_context,
            per_expert: self.per_expert + other.per_expert,
        }
    }

    pub fn at(&self, w: Workload) -> f64 {
        self.once
            + self.per_token * w.tokens
            + self.per_seq * w.seqs
            + self.per_row * w.rows
            + self.per_context * w.context
            + self.per_expert * w.experts
    }
}

impl Cost {
    /// Of two launches, or of one that does the work of both.
    #[must_use]
    pub fn and(self, other: Cost) -> Cost {
        Cost {
            weights: self.weights.and(other.weights),
            state: self.state.and(other.state),
            activations_read: self.activations_read.and(other.activations_read),
            activations_written: self.activations_written.and(other.activations_written),
            flops: self.flops.and(other.flops),
        }
    }
}

impl Plan {
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// Candidates of a row that the entry `candidates` gives; 0 if there is none.
    pub fn candidates(&self) -> u32 {
        let there = self.entry("candidates").and(self.buffer(CANDIDATES[0]));
        let words = there.map_or(0, |buffer| self.buffers[buffer].bytes / 4);
        u32::try_from(words / u64::from(self.step.max_seqs.max(1))).unwrap_or(0)
    }

    pub fn buffer(&self, name: &str) -> Option<usize> {
        self.buffers.iter().position(|b| b.name == name)
    }

    /// For people: JSON with line breaks, which serde reads back.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan is plain data") + "\n"
    }
}
