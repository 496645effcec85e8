//! From a config to graphs: what every entry point computes (spec sections 5 to 10).
//!
//! ```text
//! prefill, decode:      embed ── layer 0 ── layer 1 ── … ── layer n-1
//! head:                 head
//! greedy, candidates:   head ── likeliest
//! ```
//!
//! Layers of a kind share one block, so a program has as many blocks for four layers as for
//! sixty. `head` is an entry of its own because logits are wanted for a few rows only, after
//! the last chunk of a prompt. `greedy` and `candidates` are `head` for those who want less than all
//! logits: on a device with memory of its own the way home is long.

use super::build_layer;
use super::build_weights::{Weights, values};
use super::config::{Config, LayerKind};
use super::tensors::Role;
use q35_graph::{Entry, Graph, Op, Port, Program, State, StateId, Type, Value, Weight};
use q35_types::pack::Transform;
use q35_types::{DType, Dim, Layout};

/// What a user may choose of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// Of what passes from op to op: `F32` or `Bf16`. Router, gates, states and logits are float32
    /// with either.
    pub activations: DType,
    /// Of keys and values in the cache: `F32` or `Bf16`.
    pub kv: DType,
}

/// The programs of a model, one an entry point, in primitive ops.
pub fn programs(config: &Config, options: &Options) -> Vec<Program> {
    let mut kinds: Vec<LayerKind> = Vec::new();
    for &kind in &config.layers {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let layer = |&kind: &LayerKind| build_layer::layer(config, kind, options);
    let blocks: Vec<Graph> =
        std::iter::once(embed(config, options)).chain(kinds.iter().map(layer)).collect();

    let block = |kind: &LayerKind| 1 + kinds.iter().position(|k| k == kind).expect("just listed");
    let layers = config.layers.iter().zip(0..).map(|(kind, n)| (block(kind), Some(n)));
    let sequence: Vec<_> = std::iter::once((0, None)).chain(layers).collect();

    let prefill = Program { entry: Entry::Prefill, blocks, sequence };
    let decode = Program { entry: Entry::Decode, ..prefill.clone() };
    let head = Program {
        entry: Entry::Head,
        blocks: vec![head(config, options)],
        sequence: vec![(0, None)],
    };
    vec![prefill, decode, head]
}

/// How many likeliest tokens `candidates` gives: the published settings of sampling want 20.
const CANDIDATES: u32 = 32;

/// [`programs`] that choose among the logits where they are, for machines of many lanes. One lane takes
/// as long as the host would, whose memory it shares.
pub fn sampling(config: &Config, options: &Options) -> Vec<Program> {
    let program = |entry, k| Program {
        entry,
        blocks: vec![head(config, options), likeliest(config, options, k)],
        sequence: vec![(0, None), (1, None)],
    };
    vec![program(Entry::Greedy, 1), program(Entry::Candidates, CANDIDATES)]
}

/// Rows of the table, and the step's cosines and sines for every attention layer.
fn embed(config: &Config, options: &Options) -> Graph {
    let mut b = Block::top("embed", config, options);
    let ids = b.input(Port::Ids, DType::I32, &[Dim::Tokens]);
    let table = b.embed_tokens();
    let hidden = b.push(Op::Embed { dtype: options.activations }, &[ids, table]);

    let positions = b.input(Port::Positions, DType::I32, &[Dim::Fixed(3), Dim::Tokens]);
    let (frequencies, scale) = config.rope.frequencies();
    let frequencies = b.weight(values("rope.frequencies", &frequencies));
    let [_, h, w] = config.rope.sections;
    let rope = b.push(Op::RopeTable { h, w, scale }, &[positions, frequencies]);

    b.output(Port::Hidden, hidden);
    b.output(Port::Rope, rope);
    b.finish()
}

/// Final norm and logits of the wanted rows (spec 5.4), float32 from the gather on.
fn head(config: &Config, options: &Options) -> Graph {
    let mut b = Block::top("head", config, options);
    let x = b.hidden();
    let rows = b.input(Port::Rows, DType::I32, &[Dim::Rows]);
    let x = b.push(Op::Gather {}, &[x, rows]);
    let x = b.norm(x, Role::Norm);
    let logits = if config.tied {
        let table = b.embed_tokens();
        b.push(Op::MatMul { dtype: DType::F32 }, &[x, table])
    } else {
        b.linear_f32(x, Role::LmHead)
    };
    b.output(Port::Logits, logits);
    b.finish()
}

/// The `k` likeliest tokens of each row; more than one come with their logits.
fn likeliest(config: &Config, options: &Options, k: u32) -> Graph {
    let mut b = Block::top("likeliest", config, options);
    let logits = b.input(Port::Logits, DType::F32, &[Dim::Rows, Dim::Fixed(config.vocab_size)]);
    let valid = b.input(Port::ValidIds, DType::I32, &[Dim::Fixed(1)]);
    let ids = b.push(Op::Likeliest { k }, &[logits, valid]);
    if k == 1 {
        b.output(Port::Likeliest, ids);
    } else {
        let values = b.push(Op::LogitsAt {}, &[logits, ids]);
        b.output(Port::Candidates, ids);
        b.output(Port::CandidateLogits, values);
    }
    b.finish()
}

/// A block in the making, with the config that says how large everything is.
pub(super) struct Block<'a> {
    pub config: &'a Config,
    pub options: &'a Options,
    weights: Weights<'a>,
    graph: Graph,
}

impl<'a> Block<'a> {
    fn top(name: &str, config: &'a Config, options: &'a Options) -> Self {
        Block { config, options, weights: Weights::top(config), graph: Graph::new(name) }
    }

    pub fn layer(name: &str, config: &'a Config, kind: LayerKind, options: &'a Options) -> Self {
        let weights = Weights::layer(config, kind);
        Block { config, options, weights, graph: Graph::new(name) }
    }

    pub fn push(&mut self, op: Op, operands: &[Value]) -> Value {
        self.graph.push(op, operands.iter().copied())
    }

    fn input(&mut self, port: Port, dtype: DType, shape: &[Dim]) -> Value {
        self.graph.input(port, Type::new(dtype, shape.iter().copied()))
    }

    /// The residual stream.
    pub fn hidden(&mut self) -> Value {
        let shape = [Dim::Tokens, Dim::Fixed(self.config.hidden_size)];
        self.input(Port::Hidden, self.options.activations, &shape)
    }

    /// The step's cosines and sines.
    pub fn rope(&mut self) -> Value {
        let shape = [Dim::Tokens, Dim::Fixed(2), Dim::Fixed(self.config.rope.width / 2)];
        self.input(Port::Rope, DType::F32, &shape)
    }

    pub fn state(&mut self, state: State) -> StateId {
        self.graph.add_state(state)
    }

    fn weight(&mut self, weight: Weight) -> Value {
        let id = self.graph.add_weight(weight);
        self.graph.weight_value(id)
    }

    /// The embedding matrix. Where it is the head too, it lies as matrix products read it, and the
    /// embedding, which takes single rows, follows.
    fn embed_tokens(&mut self) -> Value {
        let layout = if self.config.tied { Layout::Panels } else { Layout::Rows };
        let table = Weight { layout, ..self.weights.matrix(Role::EmbedTokens) };
        self.weight(table)
    }

    /// `x · Wᵀ` as activations.
    pub fn linear(&mut self, x: Value, role: Role) -> Value {
        let weight = self.weights.matrix(role);
        let weight = self.weight(weight);
        self.push(Op::MatMul { dtype: self.options.activations }, &[x, weight])
    }

    /// `x · Wᵀ` in float32: what is compared, or enters an exponential.
    pub fn linear_f32(&mut self, x: Value, role: Role) -> Value {
        let weight = self.weights.matrix(role);
        let weight = self.weight(weight);
        self.push(Op::MatMul { dtype: DType::F32 }, &[x, weight])
    }

    pub fn experts(&mut self, fused: Role, apart: &[Role]) -> Value {
        let weight = self.weights.experts(fused, apart);
        self.weight(weight)
    }

    pub fn taps(&mut self) -> Value {
        let weight = self.weights.taps();
        self.weight(weight)
    }

    pub fn vector(&mut self, role: Role, transform: Transform) -> Value {
        let weight = self.weights.vector(role, transform);
        self.weight(weight)
    }

    /// A zero-centred norm of rows (spec 5.1).
    pub fn norm(&mut self, x: Value, role: Role) -> Value {
        let weight = self.weights.row(role);
        let weight = self.weight(weight);
        self.push(Op::RmsNorm { eps: self.config.rms_norm_eps, zero_centred: true }, &[x, weight])
    }

    /// A norm of each head, by what `transform` makes of the checkpoint's weight.
    pub fn head_norm(&mut self, x: Value, role: Role, transform: Transform) -> Value {
        let weight = self.vector(role, transform);
        self.push(Op::RmsNorm { eps: self.config.rms_norm_eps, zero_centred: false }, &[x, weight])
    }

    pub fn output(&mut self, port: Port, value: Value) {
        self.graph.output(port, value);
    }

    pub fn finish(self) -> Graph {
        self.graph
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
