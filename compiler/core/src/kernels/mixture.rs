//! The mixture of experts in two launches, for a few tokens and many lanes (spec 9); its
//! [router](super::MixtureRouter) comes before.
//!
//! ```text
//!            ┌─ up:    a task a panel of the shared expert: norm(x) · gate, up, silu  ─▶ [T, shared]
//!            │         a task a pair of token and rank and a panel of its expert:
//! logits ────┤         choose, group, norm(x) · gate, up, silu      ─▶ [T, k, width], groups, weights
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
use super::router::Choice;
use super::step::Step;
use super::{Norm, PANEL, Template, letter, padded};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder};
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
    /// Of the experts' two matrices and of the shared expert's.
    pub weights: [DType; 4],
    /// Before it.
    pub norm: Norm,
}

impl Mixture {
    /// Whether a lane can have a pair of token and rank to itself.
    pub fn fits(&self) -> bool {
        self.pairs() <= LANES
    }

    pub(super) fn pairs(&self) -> u32 {
        self.tokens * self.k
    }

    fn text(&self) -> String {
        let Mixture { experts, k, hidden, width, shared, tokens, .. } = self;
        let types = std::iter::once(self.dtype).chain(self.weights).map(letter);
        let types = String::from_iter(types);
        format!("{hidden}x{width}_{k}of{experts}_{shared}_{types}_t{tokens}")
    }
}

/// `silu(norm(x) · gateᵀ) · (norm(x) · upᵀ)` of the chosen experts and of the shared one.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureUp {
    pub of: Mixture,
    /// Row of an expert's weights at which up begins, and of the shared expert's.
    pub up: u32,
    pub shared_up: u32,
}

/// `residual + Σᵣ weightᵣ · (x[r] · downᵀ) + weightₖ · (shared · downᵀ)`.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureDown {
    pub of: Mixture,
}

impl Template for MixtureUp {
    fn name(&self) -> String {
        format!("mixture_up_{}_{}", self.of.text(), self.of.norm.text())
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let of = &self.of;
        let step = Step::new(b, layout);
        let x = b.input("x", of.dtype);
        let norm = b.input("norm", of.norm.weight);
        let logits = b.input("logits", DType::F32);
        let experts = b.table("experts", of.weights[0]);
        let shared = b.input("shared", of.weights[2]);
        let groups = b.output("groups", DType::I32);
        let weights = b.output("weights", DType::F32);
        let shared_out = b.output("shared_out", of.dtype);
        let out = b.output("out", of.dtype);

        let scratch = Scratch::new(b, of.hidden);
        let tokens = step.count(Count::Tokens);
        let product = |weight, (n, up): (u32, u32), rows| Product {
            norm: Some((norm, of.norm)),
            up: Some(up / PANEL as u32),
            ..Product::new((b, caps), (x, weight), (n, of.hidden), rows)
        };
        let (panels, shared_panels) = (self.panels(), self.shared_panels());
        let each = self.each();
        let (token, rest) = (b.task() / each, b.task() % each);
        let of_shared = || {
            // The first token's tasks do it for all.
            b.when(token.eq(0), || {
                let p = product(shared, (of.shared, self.shared_up), (b.i(0), tokens));
                let store = |token, col, v| b.store(shared_out, token * of.shared + col, v);
                p.split(scratch, (rest, 1), &|token| token * of.hidden, &store);
            });
        };
        let of_experts = || {
            let own = rest - shared_panels as i32;
            let choice = Choice::new(b, of, logits, tokens);
            b.when(token.eq(0).and(own.eq(0)), || choice.write(groups, weights));
            let (expert, first, count) = choice.group(token * of.k + own / panels);
            b.when(count.gt(0), || {
                let weight = b.entry(experts, expert);
                let p = product(weight, (of.width, self.up), (first, first + count));
                let source = |n| choice.sorted(n) / of.k * of.hidden;
                let store = |n, col, v| b.store(out, choice.sorted(n) * of.width + col, v);
                p.split(scratch, (own % panels, 1), &source, &store);
            });
        };
        b.when_else(rest.lt(shared_panels as i32), of_shared, of_experts);
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: self.each(), times: Times::Step(Count::Tokens) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        let of = &self.of;
        let hidden = of.hidden as usize;
        let panel =
            |dtype: DType| (2 * PANEL * hidden * dtype.size() + of.norm.bytes(hidden)) as f64;
        let [panels, shared] = [self.panels(), self.shared_panels()].map(f64::from);
        let (tasks, made) = (self.each() as usize, (of.k * of.width + of.shared) as usize);
        let choosing = (of.k * self.panels()) as usize * of.choosing_bytes();
        Cost {
            weights: Amount {
                once: shared * panel(of.weights[2]),
                per_expert: panels * panel(of.weights[0]),
                ..Amount::default()
            },
            activations_read: per_token(tasks * hidden * of.dtype.size() + choosing),
            activations_written: per_token(made * of.dtype.size()),
            flops: per_token(4 * hidden * made),
            ..Cost::default()
        }
    }
}

impl MixtureUp {
    /// Panels of an expert.
    fn panels(&self) -> u32 {
        (padded(self.of.width) / PANEL) as u32
    }

    fn shared_panels(&self) -> u32 {
        (padded(self.of.shared) / PANEL) as u32
    }

    /// Tasks for a token.
    fn each(&self) -> u32 {
        self.shared_panels() + self.of.k * self.panels()
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
        // Each column of a panel looks at its token's weights, each lane at every group.
        let k = of.k as usize;
        let words = PANEL * (k + 1) + (4 * k + 1) * LANES as usize + k * PANEL;
        let read = tasks * (between * of.dtype.size() + words * 4) + hidden * of.dtype.size();
        Cost {
            weights: Amount {
                once: matrix(of.shared, of.weights[3]),
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
        let groups = b.input("groups", DType::I32);
        let weights = b.input("weights", DType::F32);
        let [_, of_experts, _, of_shared] = of.weights;
        let experts = b.table("experts", of_experts);
        let shared = b.input("shared", of_shared);
        let residual = b.input("residual", of.dtype);
        let out = b.output("out", of.dtype);

        let scratch = Scratch::new(b, of.width.max(of.shared));
        let shared_of = |name, len| b.shared(name, DType::F32, len);
        let routed_sums = shared_of("routed_sums", of.pairs() * PANEL as u32);
        let shared_sums = shared_of("shared_sums", of.tokens * PANEL as u32);
        let tokens = step.count(Count::Tokens);
        let panel = b.task();
        let product =
            |x, weight, k, rows| Product::new((b, caps), (x, weight), (of.hidden, k), rows);
        b.range(0, b.load(groups, 0), 1, |slot| {
            let expert = b.load(groups, active(slot));
            let begin = b.load(groups, start(slot, of.experts));
            let end = b.load(groups, start(slot + 1, of.experts));
            let pair_of = |n| b.load(groups, pair(n, of.experts));
            let p = product(x, b.entry(experts, expert), of.width, (begin, end));
            let source = |n| pair_of(n) * of.width;
            let store =
                |n, col: Expr<'_>, v| b.store(routed_sums, pair_of(n) * PANEL + col % PANEL, v);
            p.split(scratch, (panel, 1), &source, &store);
        });
        let p = product(shared_x, shared, of.shared, (b.i(0), tokens));
        let store =
            |t: Expr<'_>, col: Expr<'_>, v| b.store(shared_sums, t * PANEL + col % PANEL, v);
        p.split(scratch, (panel, 1), &|t| t * of.shared, &store);
        b.barrier();

        b.range(b.lane(), tokens * PANEL, LANES, |i| {
            let (token, column) = (i / PANEL, panel * PANEL + i % PANEL);
            b.when(column.lt(of.hidden as i32), || {
                let weight = |r: Expr<'k>| b.load(weights, token * (of.k + 1) + r);
                let [sum] = b.fold(0, of.k, 1, [b.f(0.0)], |r, [sum]| {
                    let v = b.load(routed_sums, (token * of.k + r) * PANEL + i % PANEL);
                    [b.mul_add(v, weight(r), sum)]
                });
                let sum = b.mul_add(b.load(shared_sums, i), weight(b.i(of.k as i32)), sum);
                let to = token * of.hidden + column;
                b.store(out, to, b.load(residual, to) + sum);
            });
        });
    }
}
