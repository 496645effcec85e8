//! The mixture of experts in two launches, for a few tokens and many lanes (spec 9); the router's logits and
//! the first half of the shared expert come before.
//!
//! ```text
//!            ┌─ up:    a task a pair of token and rank and a panel of its expert:
//! logits ────┤         choose, group, norm(x) · gate, up, silu      ─▶ [T, k, width], groups
//!            └─ down:  a task a panel of the result: every chosen expert, the shared one,
//!                      weights in order of rank, residual           ─▶ [T, hidden]
//! ```
//!
//! Choosing is little work, so every task of `up` does it for itself instead of waiting for a launch. Of
//! several pairs with one expert the first takes all their tokens, so an expert's weights are read once.
//! `down` keeps each pair's sums apart in shared memory and adds a token's in order of rank, whoever else
//! is in the step.

use super::elementwise::per_token;
use super::experts::{active, pair, start};
use super::gpu::LANES;
use super::gpu::product::{Product, Scratch};
use super::step::Step;
use super::{Norm, PANEL, Template, letter, padded};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// Sizes of a mixture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    pub experts: u32,
    /// Experts of a token.
    pub k: u32,
    pub hidden: u32,
    /// Columns between an expert's two products, and between the shared expert's two.
    pub width: u32,
    pub shared: u32,
    /// Columns of a row of logits, and the one of the shared expert's gate.
    pub logits: u32,
    pub gate: u32,
    /// Sequences of a step, and so tokens, at most.
    pub tokens: u32,
    pub dtype: DType,
    /// Of the experts' two matrices and of the shared expert's second.
    pub weights: [DType; 3],
}

impl Mixture {
    /// Whether a lane can have a pair of token and rank to itself.
    pub fn fits(&self) -> bool {
        self.pairs() <= LANES
    }

    fn pairs(&self) -> u32 {
        self.tokens * self.k
    }

    fn text(&self) -> String {
        let Mixture { experts, k, hidden, width, shared, tokens, .. } = self;
        let types = std::iter::once(self.dtype).chain(self.weights).map(letter);
        let types = String::from_iter(types);
        format!("{hidden}x{width}_{k}of{experts}_{shared}_{types}_t{tokens}")
    }
}

/// `silu(norm(x) · gateᵀ) · (norm(x) · upᵀ)` of the chosen experts.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureUp {
    pub of: Mixture,
    pub norm: Norm,
    /// Row of the weights at which up begins.
    pub up: u32,
}

/// `residual + Σᵣ softmaxᵣ(logits[ids]) · (x[r] · downᵀ) + sigmoid(logits[gate]) · (shared · downᵀ)`.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureDown {
    pub of: Mixture,
}

impl Template for MixtureUp {
    fn name(&self) -> String {
        format!("mixture_up_{}_{}", self.of.text(), self.norm.text())
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let of = &self.of;
        let step = Step::new(b, layout);
        let x = b.input("x", of.dtype);
        let norm = b.input("norm", self.norm.weight);
        let logits = b.input("logits", DType::F32);
        let experts = b.table("experts", of.weights[0]);
        let groups = b.output("groups", DType::I32);
        let out = b.output("out", of.dtype);

        let scratch = Scratch::new(b, of.hidden);
        let panels = self.panels();
        let (slot, panel) = (b.task() / panels, b.task() % panels);
        let choice = Choice::new(b, of, logits, step.count(Count::Tokens));
        b.when(b.task().eq(0), || choice.write(groups));
        let (expert, first, count) = choice.group(slot);
        b.when(count.gt(0), || {
            let product = Product {
                b,
                caps,
                x,
                weight: b.entry(experts, expert),
                n: of.width,
                k: of.hidden,
                norm: Some((norm, self.norm)),
                up: Some(self.up / PANEL as u32),
                begin: first,
                end: first + count,
            };
            let source = |n| choice.sorted(n) / of.k * of.hidden;
            let store = |n, col, v| b.store(out, choice.sorted(n) * of.width + col, v);
            product.split(scratch, (panel, 1), &source, &store);
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: self.of.k * self.panels(), times: Times::Step(Count::Tokens) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        let of = &self.of;
        let (hidden, panels) = (of.hidden as usize, self.panels() as usize);
        let panel = 2 * PANEL * hidden * of.weights[0].size() + self.norm.bytes(hidden);
        let (tasks, chosen) = (panels * of.k as usize, (of.k * of.width) as usize);
        let read = hidden * of.dtype.size() + of.experts as usize * 4;
        Cost {
            weights: Amount { per_expert: (panels * panel) as f64, ..Amount::default() },
            activations_read: per_token(tasks * read),
            activations_written: per_token(chosen * of.dtype.size()),
            flops: per_token(4 * hidden * chosen),
            ..Cost::default()
        }
    }
}

impl MixtureUp {
    /// Panels of an expert.
    fn panels(&self) -> u32 {
        (padded(self.of.width) / PANEL) as u32
    }
}

impl Template for MixtureDown {
    fn name(&self) -> String {
        format!("mixture_down_{}", self.of.text())
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        self.on_lanes(b, caps, layout);
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: (padded(self.of.hidden) / PANEL) as u32, times: Times::Once }
    }

    fn cost(&self, _: &Caps) -> Cost {
        let of = &self.of;
        let (hidden, tasks) = (of.hidden as usize, padded(of.hidden) / PANEL);
        let matrix =
            |width: u32, weight: DType| (padded(of.hidden) * width as usize * weight.size()) as f64;
        let between = (of.k * of.width + of.shared) as usize;
        // Each column of a panel looks at its token's logits twice over, each lane at every group.
        let k = of.k as usize;
        let words = PANEL * (2 * k + 2) + (4 * k + 1) * LANES as usize + k * (PANEL + 1);
        let read = tasks * (between * of.dtype.size() + words * 4) + hidden * of.dtype.size();
        Cost {
            weights: Amount {
                once: matrix(of.shared, of.weights[2]),
                per_expert: matrix(of.width, of.weights[1]),
                ..Amount::default()
            },
            activations_read: per_token(read),
            activations_written: per_token(hidden * of.dtype.size()),
            flops: per_token(2 * hidden * between),
            ..Cost::default()
        }
    }
}

impl MixtureDown {
    fn on_lanes<'k>(&self, b: &'k KernelBuilder, caps: &'k Caps, layout: &StepLayout) {
        let of = &self.of;
        let step = Step::new(b, layout);
        let x = b.input("x", of.dtype);
        let shared_x = b.input("shared_x", of.dtype);
        let logits = b.input("logits", DType::F32);
        let groups = b.input("groups", DType::I32);
        let [_, of_experts, of_shared] = of.weights;
        let experts = b.table("experts", of_experts);
        let shared = b.input("shared", of_shared);
        let residual = b.input("residual", of.dtype);
        let out = b.output("out", of.dtype);

        let scratch = Scratch::new(b, of.width.max(of.shared));
        let shared_of = |name, len| b.shared(name, DType::F32, len);
        let routed_sums = shared_of("routed_sums", of.pairs() * PANEL as u32);
        let shared_sums = shared_of("shared_sums", of.tokens * PANEL as u32);
        let ids = b.shared("ids", DType::I32, of.pairs());
        let tokens = step.count(Count::Tokens);
        let panel = b.task();
        let product = |x, weight, k, begin, end| Product {
            b,
            caps,
            x,
            weight,
            n: of.hidden,
            k,
            norm: None,
            up: None,
            begin,
            end,
        };
        b.range(0, b.load(groups, 0), 1, |slot| {
            let expert = b.load(groups, active(slot));
            let begin = b.load(groups, start(slot, of.experts));
            let end = b.load(groups, start(slot + 1, of.experts));
            let pair_of = |n| b.load(groups, pair(n, of.experts));
            let p = product(x, b.entry(experts, expert), of.width, begin, end);
            let source = |n| pair_of(n) * of.width;
            let store =
                |n, col: Expr<'_>, v| b.store(routed_sums, pair_of(n) * PANEL + col % PANEL, v);
            p.split(scratch, (panel, 1), &source, &store);
            b.range(begin + b.lane(), end, LANES, |n| b.store(ids, pair_of(n), expert));
        });
        let p = product(shared_x, shared, of.shared, b.i(0), tokens);
        let store =
            |t: Expr<'_>, col: Expr<'_>, v| b.store(shared_sums, t * PANEL + col % PANEL, v);
        p.split(scratch, (panel, 1), &|t| t * of.shared, &store);
        b.barrier();

        b.range(b.lane(), tokens * PANEL, LANES, |i| {
            let (token, column) = (i / PANEL, panel * PANEL + i % PANEL);
            b.when(column.lt(of.hidden as i32), || {
                let logit = |n: Expr<'k>| b.load(logits, token * of.logits + n);
                let of_rank = |r: Expr<'k>| logit(b.load(ids, token * of.k + r));
                // Ranks are in order, so the first logit is the largest.
                let highest = of_rank(b.i(0));
                let weight = |r| (of_rank(r) - highest).exp();
                let [total] = b.fold(0, of.k, 1, [b.f(0.0)], |r, [sum]| [sum + weight(r)]);
                let [sum] = b.fold(0, of.k, 1, [b.f(0.0)], |r, [sum]| {
                    let v = b.load(routed_sums, (token * of.k + r) * PANEL + i % PANEL);
                    [b.mul_add(v, weight(r) / total, sum)]
                });
                let gate = logit(b.i(of.gate as i32)).sigmoid();
                let sum = b.mul_add(b.load(shared_sums, i), gate, sum);
                let to = token * of.hidden + column;
                b.store(out, to, b.load(residual, to) + sum);
            });
        });
    }
}

/// Which experts the tokens of a step choose, a pair of token and rank a lane.
struct Choice<'k> {
    b: &'k KernelBuilder,
    experts: u32,
    pairs: Expr<'k>,
    /// Pairs, expert by expert, ascending in each.
    sorted: Mem,
    /// Of this lane's pair, if it has one: its expert, its place among the sorted, how many pairs have
    /// that expert, and whether it is the first of them.
    expert: Expr<'k>,
    place: Expr<'k>,
    count: Expr<'k>,
    first: Expr<'k>,
}

impl<'k> Choice<'k> {
    fn new(b: &'k KernelBuilder, of: &Mixture, logits: Mem, tokens: Expr<'k>) -> Self {
        let ids = b.shared("ids", DType::I32, of.pairs());
        let sorted = b.shared("sorted", DType::I32, of.pairs());
        b.range(0, tokens, LANES / CHOOSERS, |first| {
            let token = first + b.lane() / CHOOSERS;
            choose(b, of, (logits, ids), token, token.lt(tokens));
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
        Choice { b, experts: of.experts, pairs, sorted, expert, place, count, first }
    }

    /// The pair at that place.
    fn sorted(&self, place: Expr<'k>) -> Expr<'k> {
        self.b.load(self.sorted, place)
    }

    /// Of the expert of a pair: its number, the place of its first pair and how many it has; none if that
    /// pair is not the first.
    fn group(&self, pair: Expr<'k>) -> (Expr<'k>, Expr<'k>, Expr<'k>) {
        let b = self.b;
        let here = self.first.and(b.lane().eq(pair));
        let known = b.vector(&[self.expert, self.place, self.count, b.i(0)]);
        let told = b.group(ReduceOp::Max, here.select(known, 0));
        (told.extract(0), told.extract(1), told.extract(2))
    }

    /// As `expert_groups` has them.
    fn write(&self, groups: Mem) {
        let b = self.b;
        let firsts = b.shared("firsts", DType::I32, LANES);
        let none = self.experts as i32;
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
            b.store(groups, start(slot, self.experts), self.place);
        });
        b.range(b.lane(), self.pairs, LANES, |n| {
            b.store(groups, pair(n, self.experts), self.sorted(n));
        });
        b.when(b.lane().eq(0), || {
            b.store(groups, 0, chosen);
            b.store(groups, start(chosen, self.experts), self.pairs);
        });
    }
}

/// Lanes that choose for a token.
const CHOOSERS: u32 = 32;

/// The experts of a token, if there is such a token: the best that rank behind the one chosen before, as
/// often as it takes. A lane has every 32nd logit.
fn choose<'k>(
    b: &'k KernelBuilder,
    of: &Mixture,
    (logits, ids): (Mem, Mem),
    token: Expr<'k>,
    is_there: Expr<'k>,
) {
    let own = b.lane() % CHOOSERS;
    let mine: Vec<(Expr, Expr)> = (0..of.experts.div_ceil(CHOOSERS))
        .map(|i| {
            let expert = own + i * CHOOSERS;
            let load = || [b.load(logits, token * of.logits + expert)];
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
        b.when(first, || b.store(ids, token * of.k + rank, lowest));
        [highest, lowest]
    });
}
