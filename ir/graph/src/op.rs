//! The table of ops. A row is all that the stages need to know of an op: its name in the
//! text, operands, attributes and type rule. The doc comment is its definition, which the
//! reference evaluator spells out.
//!
//! The first part is what the frontend speaks; the second is what passes make of it, each
//! defined as a composition of the first. `..` stands for any leading axes.

use crate::graph::{Port, StateId, Type, WeightId};
use crate::infer::{self, TypeError};
use std::collections::BTreeMap;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $text:literal ($($operand:ident),*) {$($attr:ident: $ty:ty),*} -> $infer:path;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $name { $($attr: $ty),* },)*
        }

        impl Op {
            /// Every name of the text format.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            pub fn name(&self) -> &'static str {
                match self { $(Op::$name { .. } => $text,)* }
            }

            /// Names of the operands, in order.
            pub fn operands(&self) -> &'static [&'static str] {
                match self { $(Op::$name { .. } => &[$(stringify!($operand)),*],)* }
            }

            /// Attributes in order, as text.
            pub fn attributes(&self) -> Vec<(&'static str, String)> {
                match self {
                    $(Op::$name { $($attr),* } => vec![$((stringify!($attr), $attr.print())),*],)*
                }
            }

            /// The op of that name with those attributes, or what is wrong with them.
            pub fn parse(name: &str, attributes: &BTreeMap<&str, &str>) -> Result<Op, String> {
                match name {
                    $($text => {
                        let known: &[&str] = &[$(stringify!($attr)),*];
                        if let Some(extra) = attributes.keys().find(|a| !known.contains(a)) {
                            return Err(format!("`{name}` has no attribute `{extra}`"));
                        }
                        Ok(Op::$name { $($attr: read(name, stringify!($attr), attributes)?),* })
                    })*
                    _ => Err(format!("there is no op `{name}`")),
                }
            }

            /// The type of the result. `Input` and `Weight` have the type they are declared with.
            pub(crate) fn infer(&self, operands: &[&Type]) -> Result<Type, TypeError> {
                match self { $(Op::$name { .. } => $infer(self, operands),)* }
            }
        }
    };
}

ops! {
    /// What the block is given.
    Input = "input" () {port: Port} -> infer::declared;

    /// A weight of the checkpoint.
    Weight = "weight" () {id: WeightId} -> infer::declared;

    /// `out[t] = table[ids[t]]`
    Embed = "embed" (ids, table) {dtype: q35_types::DType} -> infer::embed;

    /// `out[r] = x[rows[r]]`, as f32.
    Gather = "gather" (x, rows) {} -> infer::gather;

    /// `x / sqrt(mean(x²) + eps) · weight`, the mean over the last axis; `· (1 + weight)` if zero-centred, the sum in f32.
    RmsNorm = "rms_norm" (x, weight) {eps: f32, zero_centred: bool} -> infer::rms_norm;

    /// `x / sqrt(Σx² + eps) · scale` over the last axis.
    L2Norm = "l2_norm" (x) {eps: f32, scale: f32} -> infer::like_first;

    /// `out[.., n] = Σₖ x[.., k] · weight[n, k]`, as `dtype`.
    MatMul = "matmul" (x, weight) {dtype: q35_types::DType} -> infer::matmul;

    /// `len` columns of the last axis, from `start` on.
    Slice = "slice" (x) {start: u32, len: u32} -> infer::slice;

    /// `[.., heads · width]` as `[.., heads, width]`.
    Split = "split" (x) {heads: u32} -> infer::split;

    /// `[.., heads, width]` as `[.., heads · width]`.
    Join = "join" (x) {} -> infer::join;

    /// Element by element; an operand of lower rank, or with an axis of 1, is repeated.
    Add = "add" (a, b) {} -> infer::broadcast;
    Mul = "mul" (a, b) {} -> infer::broadcast;

    /// `x · sigmoid(x)`
    Silu = "silu" (x) {} -> infer::like_first;
    Sigmoid = "sigmoid" (x) {} -> infer::like_first;

    /// `ln(1 + eˣ)`
    Softplus = "softplus" (x) {} -> infer::float32;

    /// Depthwise and causal: `out[t, c] = Σⱼ weight[c, j] · x[t - taps + 1 + j, c]`, rows before the step's
    /// from the state.
    Conv = "conv" (x, weight) {state: StateId} -> infer::like_first;

    /// `out[t, 0, j] = scale · cos(p · freqs[j])`, `out[t, 1, j]` the sine, with p the position of t on
    /// the axis that frequency j uses (spec 6.2): H if j mod 3 = 1 and j < 3h, W if j mod 3 = 2 and j < 3w, else T.
    RopeTable = "rope_table" (positions, freqs) {h: u32, w: u32, scale: f32} -> infer::rope_table;

    /// Rotates pairs (i, i + n) of the first 2n of `x: [T, heads, width]` (spec 6.3).
    Rope = "rope" (x, table) {} -> infer::like_first;

    /// Causal softmax attention over the sequence's cache, this step's `k` and `v` (rounded as stored) included;
    /// query head i reads KV head `i / (heads / kv_heads)` (spec 7). All of `[T, heads, width]`.
    Attention = "attention" (q, k, v) {scale: f32, state: StateId} -> infer::like_first;

    /// The gated delta rule, token by token, on the matrix `S` of each value head (spec 8.4):
    /// `S ← exp(g)·S`, `e = β(v − Sᵀk)`, `S ← S + k·eᵀ`, `out = Sᵀq`, with `S` of [dk, dv].
    /// `q, k: [T, nk, dk]`, `v: [T, nv, dv]`, `g, beta: [T, nv]`; value head i uses key head `i / (nv / nk)`.
    GatedDelta = "gated_delta" (q, k, v, g, beta) {state: StateId} -> infer::gated_delta;

    /// The `k` largest of the first `experts` columns, largest first, the lower index first among equals.
    TopK = "top_k" (logits) {experts: u32, k: u32} -> infer::top_k;

    /// `softmax` over the logits at `ids`: the chosen experts' weights (spec 9).
    RouteWeights = "route_weights" (logits, ids) {} -> infer::route_weights;

    /// `out[t, r] = weight[ids[t, r]] · x[t]`, or `· x[t, r]` if `x` has that axis.
    ExpertMatMul = "expert_matmul" (x, weight, ids) {} -> infer::expert_matmul;

    /// `out[t] = Σᵣ weights[t, r] · x[t, r]`, in order of r.
    ExpertSum = "expert_sum" (x, weights) {} -> infer::expert_sum;

    /// Ids of the `k` largest of the first `valid[0]` logits of a row, largest first, the lower id first
    /// among equals, then -1. Negative infinity and what is no number are not among them.
    Likeliest = "likeliest" (logits, valid) {k: u32} -> infer::likeliest;

    /// `out[r, i] = logits[r, ids[r, i]]`, and negative infinity for an id of -1.
    LogitsAt = "logits_at" (logits, ids) {} -> infer::logits_at;

    // ---- what passes make ----

    /// `matmul(rms_norm(x, norm), weight)`
    NormMatMul = "norm_matmul" (x, norm, weight)
        {eps: f32, zero_centred: bool, dtype: q35_types::DType} -> infer::norm_matmul;

    /// `residual + matmul(x, weight)`
    MatMulAdd = "matmul_add" (x, weight, residual) {} -> infer::matmul_add;

    /// `silu(x · gateᵀ) · (x · upᵀ)`, `weight` being gate over up, each `width` rows, up beginning at row `up`.
    SwiGlu = "swiglu" (x, weight) {width: u32, up: u32} -> infer::swiglu;

    /// `swiglu(rms_norm(x, norm), weight)`
    NormSwiGlu = "norm_swiglu" (x, norm, weight)
        {eps: f32, zero_centred: bool, width: u32, up: u32} -> infer::norm_swiglu;

    /// From columns `[q | k | v]` at the start of `x`: convolution, silu, and on q and k the l2 norm of
    /// each head, q scaled (spec 8.1, 8.3). Gives those columns.
    DeltaConv = "delta_conv" (x, weight) {nk: u32, dk: u32, nv: u32, dv: u32, eps: f32, scale: f32, state: StateId}
        -> infer::delta_conv;

    /// The gated delta rule with its gates and its gated norm (spec 8.2, 8.4, 8.6): from `qkv` as
    /// `delta_conv` gives it, z, b and a at columns of `x`: `g = decay · softplus(a + dt_bias)`, `beta = sigmoid(b)`,
    /// out = `rms_norm(gated_delta(..), norm) · silu(z)`, as `[T, nv · dv]`.
    DeltaRule = "delta_rule" (qkv, x, decay, dt_bias, norm)
        {nk: u32, dk: u32, nv: u32, dv: u32, z: u32, b: u32, a: u32, eps: f32, state: StateId} -> infer::delta_rule;

    /// From columns of `x` (head i's query at `q + 2·i·width`, its gate right behind it; keys at `k`, values at `v`):
    /// RMSNorm and RoPE on queries and keys; keys and values go to the state; gives the queries, `[T, heads · width]`.
    QkRope = "qk_rope" (x, q_norm, k_norm, rope)
        {heads: u32, kv_heads: u32, width: u32, q: u32, k: u32, v: u32, eps: f32, state: StateId} -> infer::qk_rope;

    /// Attention of those queries over the state, times `sigmoid` of the gates in `x` (at `gate + 2·i·width`).
    GatedAttention = "gated_attention" (q, x)
        {heads: u32, kv_heads: u32, width: u32, gate: u32, scale: f32, state: StateId} -> infer::like_first;

    /// Tokens by expert. Words: `[0]` the number n of experts chosen by any token; from `1` the n experts, ascending; from
    /// `1 + E` n + 1 starts in the list of pairs; from `2 + 2E` the pairs `t·k + r`, expert by expert, ascending in each.
    ExpertGroups = "expert_groups" (ids) {experts: u32} -> infer::expert_groups;

    /// `swiglu` of each chosen expert on `x[t]`: `[T, k, width]`.
    ExpertSwiGlu = "expert_swiglu" (x, weight, groups) {k: u32, width: u32, up: u32} -> infer::expert_swiglu;

    /// `out[t, r] = weight[expert of (t, r)] · x[t, r]`
    ExpertLinear = "expert_linear" (x, weight, groups) {} -> infer::expert_linear;

    /// `residual + Σᵣ softmaxᵣ(logits[ids]) · x[t, r] + sigmoid(logits[t, gate]) · shared[t]`, added in that order
    /// but for the residual, which comes last.
    ExpertCombine = "expert_combine" (x, logits, ids, shared, residual) {gate: u32} -> infer::expert_combine;
}

/// An attribute's text.
trait Attribute: Sized {
    fn print(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

macro_rules! attributes {
    ($($ty:ty),*) => {$(
        impl Attribute for $ty {
            fn print(&self) -> String { self.to_string() }
            fn read(text: &str) -> Option<Self> { text.parse().ok() }
        }
    )*};
}
attributes!(u32, f32, bool, StateId, WeightId, q35_types::DType);

const PORTS: [(Port, &str); 10] = [
    (Port::Ids, "ids"),
    (Port::Positions, "positions"),
    (Port::Rows, "rows"),
    (Port::Hidden, "hidden"),
    (Port::Rope, "rope"),
    (Port::Logits, "logits"),
    (Port::ValidIds, "valid_ids"),
    (Port::Likeliest, "likeliest"),
    (Port::Candidates, "candidates"),
    (Port::CandidateLogits, "candidate_logits"),
];

impl Attribute for Port {
    fn print(&self) -> String {
        self.name().into()
    }
    fn read(text: &str) -> Option<Self> {
        PORTS.iter().find(|(_, name)| *name == text).map(|(port, _)| *port)
    }
}

impl Port {
    pub fn name(self) -> &'static str {
        PORTS[self as usize].1
    }
}

fn read<A: Attribute>(op: &str, name: &str, all: &BTreeMap<&str, &str>) -> Result<A, String> {
    let text = all.get(name).ok_or_else(|| format!("`{op}` needs the attribute `{name}`"))?;
    A::read(text).ok_or_else(|| format!("attribute `{name}` of `{op}` is {text}"))
}
