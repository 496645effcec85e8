//! Which nodes are computed by launches of others, when decoding on many lanes.
//!
//! ```text
//! norm_matmul, delta_conv, …, matmul_add        three launches
//! qk_rope, gated_attention                      one launch, and one that joins its splits
//! rms_norm, router, top_k, …, expert_combine    three launches
//! ```
//!
//! There a launch costs about what it takes to read a few megabytes, so what is little work is done
//! again by every task that needs it, instead of once for all of them. A CPU's launches are cheap, and in
//! `prefill` there is much to do in each: both keep a launch a node.

use crate::kernels::{AttendStep, Heads, Mixture};
use q35_graph::{Graph, Op, Value};
use std::collections::{HashMap, HashSet};

/// What the launches of a node compute besides it.
#[derive(Debug, Clone, Copy)]
pub enum Fused {
    /// `matmul_add` of a `delta_rule` and all from the in-projection on.
    Delta { input: Value, conv: Value, rule: Value },
    /// `gated_attention` and this `qk_rope`.
    Attention { rope: Value },
    /// `expert_combine` and all from the norm on.
    Mixture(Parts),
}

/// The nodes of a mixture.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// The input and its norm's weight.
    pub x: Value,
    pub norm: Value,
    pub eps: f32,
    pub zero_centred: bool,
    pub router: Value,
    pub groups: Value,
    pub up: Value,
    pub down: Value,
    pub shared_up: Value,
    pub shared_down: Value,
}

/// Fusions of a block.
#[derive(Debug, Default)]
pub struct Fusions {
    roots: HashMap<Value, Fused>,
    inner: HashSet<Value>,
}

impl Fusions {
    /// All there are. `fits` says whether attention and mixtures of such sizes can be fused.
    pub fn find(
        graph: &Graph,
        heads: impl Fn(Value) -> Heads,
        mixture: impl Fn(Value, &Parts) -> Mixture,
    ) -> Self {
        let look = Look { graph, uses: graph.uses() };
        let mut all = Fusions::default();
        for v in graph.values() {
            if let Some([input, conv, rule]) = look.delta(v) {
                all.add(v, Fused::Delta { input, conv, rule }, &[input, conv, rule]);
            }
            if let Some(rope) = look.attention(v)
                && AttendStep::fits(&heads(v))
            {
                all.add(v, Fused::Attention { rope }, &[rope]);
            }
            if let Some((parts, inner)) = look.mixture(v)
                && mixture(v, &parts).fits()
            {
                all.add(v, Fused::Mixture(parts), &inner);
            }
        }
        all
    }

    fn add(&mut self, root: Value, fused: Fused, inner: &[Value]) {
        self.roots.insert(root, fused);
        self.inner.extend(inner);
    }

    /// What the launches of `v` compute besides it, if anything.
    pub fn at(&self, v: Value) -> Option<Fused> {
        self.roots.get(&v).copied()
    }

    /// Whether another node's launches compute `v`.
    pub fn is_inner(&self, v: Value) -> bool {
        self.inner.contains(&v)
    }
}

struct Look<'g> {
    graph: &'g Graph,
    uses: Vec<u32>,
}

impl Look<'_> {
    fn at(&self, v: Value) -> (Op, &[Value]) {
        let node = self.graph.node(v);
        (node.op, &node.operands)
    }

    fn used(&self, v: Value, times: u32) -> bool {
        self.uses[v.0 as usize] == times
    }

    fn delta(&self, root: Value) -> Option<[Value; 3]> {
        let (Op::MatMulAdd {}, &[rule, ..]) = self.at(root) else { return None };
        let (Op::DeltaRule { .. }, &[conv, input, ..]) = self.at(rule) else { return None };
        let (Op::DeltaConv { .. }, &[input2, _]) = self.at(conv) else { return None };
        let (Op::NormMatMul { .. }, _) = self.at(input) else { return None };
        let private = self.used(rule, 1) && self.used(conv, 1) && self.used(input, 2);
        (input == input2 && private).then_some([input, conv, rule])
    }

    fn attention(&self, root: Value) -> Option<Value> {
        let (Op::GatedAttention { .. }, &[rope, x]) = self.at(root) else { return None };
        let (Op::QkRope { .. }, &[x2, ..]) = self.at(rope) else { return None };
        (x == x2 && self.used(rope, 1)).then_some(rope)
    }

    fn mixture(&self, root: Value) -> Option<(Parts, [Value; 8])> {
        let (Op::ExpertCombine { .. }, &[down, router, ids, shared_down, _]) = self.at(root) else {
            return None;
        };
        let (Op::ExpertLinear {}, &[up, _, groups]) = self.at(down) else { return None };
        let (Op::ExpertSwiGlu { .. }, &[normed, _, groups2]) = self.at(up) else { return None };
        let (Op::ExpertGroups { .. }, &[ids2]) = self.at(groups) else { return None };
        let (Op::TopK { .. }, &[router2]) = self.at(ids) else { return None };
        let (Op::MatMul { .. }, &[normed2, _]) = self.at(router) else { return None };
        let (Op::MatMul { .. }, &[shared_up, _]) = self.at(shared_down) else { return None };
        let (Op::SwiGlu { .. }, &[normed3, _]) = self.at(shared_up) else { return None };
        let (Op::RmsNorm { eps, zero_centred }, &[x, norm]) = self.at(normed) else { return None };

        let one = groups == groups2 && ids == ids2 && router == router2;
        let one_input = normed == normed2 && normed == normed3;
        let inner = [normed, router, ids, groups, up, down, shared_up, shared_down];
        let readers = [3, 2, 2, 2, 1, 1, 1, 1];
        let private = inner.iter().zip(readers).all(|(&v, times)| self.used(v, times));
        let parts =
            Parts { x, norm, eps, zero_centred, router, groups, up, down, shared_up, shared_down };
        (one && one_input && private).then_some((parts, inner))
    }
}
