//! The router of a mixture (spec 9), for a few tokens and many lanes: its logits, and what follows from them.
//!
//! A router's matrix is small, and a task a panel would leave most of a GPU idle: so its product is also cut
//! along `k`, and who wants a logit adds up its slices, always in the same order. With the products come the
//! slices' sums of squares of `x`, for the norm.

use super::elementwise::per_token;
use super::experts::{active, pair, start};
use super::gpu::LANES;
use super::gpu::product::{Product, Scratch};
use super::step::Step;
use super::{Mixture, PANEL, Template, letter, padded};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// `x · norm · weightᵀ` and Σx² of each slice, `[slices, T, logits + 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureRouter {
    pub of: Mixture,
    pub weight: DType,
}

impl Mixture {
    /// Slices of the router's product, of sixteen columns or more each.
    fn slices(&self) -> u32 {
        let fits = |&n: &u32| self.hidden.is_multiple_of(4 * n) && self.hidden / n >= 16;
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// Bytes that a task reads to choose the experts of a token: a lane's logits, and what they are scaled by.
    pub(super) fn choosing_bytes(&self) -> usize {
        ((self.experts + CHOOSERS) * self.slices() * 4) as usize
    }

    /// Bytes of the logits' slices.
    pub fn logits_bytes(&self) -> u64 {
        u64::from(self.slices() * self.tokens * (self.logits + 1)) * 4
    }

    /// Bytes of the weights of each token's experts, the shared expert's last.
    pub fn weights_bytes(&self) -> u64 {
        u64::from(self.tokens * (self.k + 1)) * 4
    }
}

impl Template for MixtureRouter {
    fn name(&self) -> String {
        let of = &self.of;
        let types = String::from_iter([of.dtype, self.weight].map(letter));
        let (n, k, slices) = (of.logits, of.hidden, of.slices());
        format!("mixture_router_{n}x{k}_{slices}_{types}_{}_t{}", of.norm.text(), of.tokens)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let of = &self.of;
        let step = Step::new(b, layout);
        let x = b.input("x", of.dtype);
        let norm = b.input("norm", of.norm.weight);
        let weight = b.input("weight", self.weight);
        let out = b.output("out", DType::F32);

        let (panels, len) = (self.panels(), of.hidden / of.slices());
        let (slice, panel) = (b.task() / panels, b.task() % panels);
        let shape = (of.logits, of.hidden);
        let product = Product {
            norm: Some((norm, of.norm)),
            slice: Some((slice * len, len)),
            ..Product::new((b, caps), (x, weight), shape, (b.i(0), step.count(Count::Tokens)))
        };
        let logits = Logits { b, of, mem: out };
        let source = |token| token * of.hidden;
        let store = |token, n, v| b.store(out, logits.at(slice, token, n), v);
        product.split(Scratch::new(b, len), (panel, 1), &source, &store);
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: self.panels() * self.of.slices(), times: Times::Once }
    }

    fn cost(&self, _: &Caps) -> Cost {
        let of = &self.of;
        let (hidden, panels) = (of.hidden as usize, self.panels() as usize);
        let weights = panels * (PANEL * hidden * self.weight.size() + of.norm.bytes(hidden));
        let written = of.slices() * (of.logits + 1) * 4;
        Cost {
            weights: Amount { once: weights as f64, ..Amount::default() },
            activations_read: per_token(panels * hidden * of.dtype.size()),
            activations_written: per_token(written as usize),
            flops: per_token(2 * hidden * of.logits as usize),
            ..Cost::default()
        }
    }
}

impl MixtureRouter {
    fn panels(&self) -> u32 {
        (padded(self.of.logits) / PANEL) as u32
    }
}

/// What the router has left.
#[derive(Clone, Copy)]
struct Logits<'o, 'k> {
    b: &'k KernelBuilder,
    of: &'o Mixture,
    mem: Mem,
}

impl<'k> Logits<'_, 'k> {
    fn at(&self, slice: Expr<'k>, token: Expr<'k>, n: Expr<'k>) -> Expr<'k> {
        (slice * self.of.tokens + token) * (self.of.logits + 1) + n
    }

    fn sum(&self, token: Expr<'k>, n: Expr<'k>) -> Expr<'k> {
        let slices = 0..self.of.slices() as i32;
        let parts = slices.map(|s| self.b.load(self.mem, self.at(self.b.i(s), token, n)));
        parts.reduce(|a, b| a + b).expect("there is a slice")
    }

    /// What the token's logits are multiplied by: its norm.
    fn scale(&self, token: Expr<'k>) -> Expr<'k> {
        let squares = self.sum(token, self.b.i(self.of.logits as i32));
        self.b.f(1.0) / (squares / self.of.hidden as f32 + self.of.norm.eps).sqrt()
    }
}

/// Which experts the tokens of a step choose, a pair of token and rank a lane.
pub(super) struct Choice<'o, 'k> {
    b: &'k KernelBuilder,
    logits: Logits<'o, 'k>,
    tokens: Expr<'k>,
    pairs: Expr<'k>,
    /// Logits of the chosen, by pair.
    scores: Mem,
    /// Pairs, expert by expert, ascending in each.
    sorted: Mem,
    /// Of this lane's pair, if it has one: its expert, its place among the sorted, how many pairs have
    /// that expert, and whether it is the first of them.
    expert: Expr<'k>,
    place: Expr<'k>,
    count: Expr<'k>,
    first: Expr<'k>,
}

impl<'o, 'k> Choice<'o, 'k> {
    pub fn new(b: &'k KernelBuilder, of: &'o Mixture, logits: Mem, tokens: Expr<'k>) -> Self {
        let logits = Logits { b, of, mem: logits };
        let ids = b.shared("ids", DType::I32, of.pairs());
        let scores = b.shared("scores", DType::F32, of.pairs());
        let sorted = b.shared("sorted", DType::I32, of.pairs());
        b.range(0, tokens, LANES / CHOOSERS, |first| {
            let token = first + b.lane() / CHOOSERS;
            choose(&logits, (ids, scores), token, token.lt(tokens));
        });
        b.barrier();
        let pairs = tokens * of.k;
        let mine = b.lane().lt(pairs);
        let lane = b.lane().min(pairs - 1);
        let expert = b.load(ids, lane);
        let init = [b.i(0), b.i(0), b.i(0)];
        let [place, count, before] = b.fold(0, pairs, 1, init, |p, [place, count, before]| {
            let other = b.load(ids, p);
            let (same, earlier) = (other.eq(expert), p.lt(lane));
            let ahead = other.lt(expert).or(same.and(earlier));
            let one = |c: Expr<'k>| c.select(1, 0);
            [place + one(ahead), count + one(same), before + one(same.and(earlier))]
        });
        b.when(mine, || b.store(sorted, place, lane));
        b.barrier();
        let first = mine.and(before.eq(0));
        Choice { b, logits, tokens, pairs, scores, sorted, expert, place, count, first }
    }

    /// The pair at that place.
    pub fn sorted(&self, place: Expr<'k>) -> Expr<'k> {
        self.b.load(self.sorted, place)
    }

    /// Of the expert of a pair: its number, the place of its first pair and how many it has; none if that
    /// pair is not the first.
    pub fn group(&self, pair: Expr<'k>) -> (Expr<'k>, Expr<'k>, Expr<'k>) {
        let b = self.b;
        let here = self.first.and(b.lane().eq(pair));
        let known = b.vector(&[self.expert, self.place, self.count, b.i(0)]);
        let told = b.group(ReduceOp::Max, here.select(known, 0));
        (told.extract(0), told.extract(1), told.extract(2))
    }

    /// Groups as `expert_groups` has them, and of each token the weights of its experts, the shared
    /// expert's last.
    pub fn write(&self, groups: Mem, weights: Mem) {
        self.write_groups(groups);
        let (b, of) = (self.b, self.logits.of);
        let each = of.k + 1;
        b.range(b.lane(), self.tokens * each, LANES, |i| {
            let (token, rank) = (i / each, i % each);
            let routed = || {
                let score = |r: Expr<'k>| b.load(self.scores, token * of.k + r);
                // Ranks are in order, so the first is the largest.
                let part = |r| (score(r) - score(b.i(0))).exp();
                let [total] = b.fold(0, of.k, 1, [b.f(0.0)], |r, [sum]| [sum + part(r)]);
                [part(rank) / total]
            };
            let shared = || {
                let gate = self.logits.sum(token, b.i(of.gate as i32));
                [(gate * self.logits.scale(token)).sigmoid()]
            };
            let [v] = b.choose(rank.lt(of.k as i32), routed, shared);
            b.store(weights, i, v);
        });
    }

    fn write_groups(&self, groups: Mem) {
        let (b, experts) = (self.b, self.logits.of.experts);
        let firsts = b.shared("firsts", DType::I32, LANES);
        let none = experts as i32;
        b.store(firsts, b.lane(), self.first.select(self.expert, none));
        b.barrier();
        // Experts that have pairs, and how many of them come before.
        let [chosen, slot] = b.fold(0, self.pairs, 1, [b.i(0), b.i(0)], |p, [chosen, slot]| {
            let other = b.load(firsts, p);
            let one = |c: Expr<'k>| c.select(1, 0);
            [chosen + one(other.lt(none)), slot + one(other.lt(self.expert))]
        });
        b.when(self.first, || {
            b.store(groups, active(slot), self.expert);
            b.store(groups, start(slot, experts), self.place);
        });
        b.range(b.lane(), self.pairs, LANES, |n| {
            b.store(groups, pair(n, experts), self.sorted(n));
        });
        b.when(b.lane().eq(0), || {
            b.store(groups, 0, chosen);
            b.store(groups, start(chosen, experts), self.pairs);
        });
    }
}

/// Lanes that choose for a token.
const CHOOSERS: u32 = 32;

/// The experts of a token, if there is such a token: the best that rank behind the one chosen before, as
/// often as it takes. A lane has every 32nd logit.
fn choose<'k>(
    logits: &Logits<'_, 'k>,
    (ids, scores): (Mem, Mem),
    token: Expr<'k>,
    is_there: Expr<'k>,
) {
    let (b, of) = (logits.b, logits.of);
    let own = b.lane() % CHOOSERS;
    let [scale] = b.choose(is_there, || [logits.scale(token)], || [b.f(0.0)]);
    let mine: Vec<(Expr, Expr)> = (0..of.experts.div_ceil(CHOOSERS))
        .map(|i| {
            let expert = own + i * CHOOSERS;
            let load = || [logits.sum(token, expert) * scale];
            let known = is_there.and(expert.lt(of.experts as i32));
            let [v] = b.choose(known, load, || [b.f(f32::NEG_INFINITY)]);
            // What is no number is below all that are.
            (v.eq(v).select(v, f32::NEG_INFINITY), expert)
        })
        .collect();
    let nobody = b.i(i32::MAX);
    let start = [b.f(f32::INFINITY), b.i(-1)];
    b.fold(0, of.k, 1, start, |rank, [last, chosen]| {
        let none = (b.f(f32::NEG_INFINITY), nobody);
        let best = mine.iter().fold(none, |(high, best), &(v, e)| {
            let behind = v.lt(last).or(v.eq(last).and(e.gt(chosen)));
            let better = behind.and(v.gt(high).or(v.eq(high).and(e.lt(best))));
            (better.select(v, high), better.select(e, best))
        });
        let highest = b.cluster(ReduceOp::Max, best.0, CHOOSERS);
        let lowest = best.0.eq(highest).select(best.1, nobody);
        let lowest = b.cluster(ReduceOp::Min, lowest, CHOOSERS);
        let first = own.eq(0).and(is_there);
        b.when(first, || {
            b.store(ids, token * of.k + rank, lowest);
            b.store(scores, token * of.k + rank, highest);
        });
        [highest, lowest]
    });
}
