//! DeltaNet between its projections, for one token of each sequence: norms of queries and keys, and the gated
//! delta rule.
//!
//! ```text
//! delta_in:    norm, in-projections, convolution    ─▶ q, k, v and, untouched, z, b, a
//! delta_step:  a task a panel of a head's state     ─▶ o · norm · silu(z), sums of squares of o
//! delta_out:   heads to unit scale, out-projection, residual
//! ```
//!
//! A head's state is read and written once. Its panels are tasks of their own, so that a few heads keep a
//! whole GPU busy; what all columns of a head have in common, its root mean square, is left to the next launch.

use super::delta_rule::Cx;
use super::elementwise::per_token;
use super::gpu::LANES;
use super::step::Step;
use super::{DeltaRule, PANEL, Template, padded};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// [`DeltaRule`] on rows of `[q | k | v]` before their norms, with z, b and a behind them.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaStep {
    pub rule: DeltaRule,
    /// Of the l2 norms, and what queries are multiplied by (spec 8.3).
    pub l2_eps: f32,
    pub scale: f32,
}

/// Columns of a panel, each with this many lanes, which share its rows.
const WIDTH: u32 = PANEL as u32;
const PARTS: u32 = LANES / WIDTH;

impl DeltaStep {
    /// Panels of a head, and so sums of squares.
    pub fn panels(&self) -> u32 {
        (padded(self.rule.shape.dv) / PANEL) as u32
    }

    /// Columns of a row of the result.
    pub fn cols(&self) -> u32 {
        self.rule.shape.nv * self.rule.shape.dv
    }
}

impl Template for DeltaStep {
    fn name(&self) -> String {
        format!("delta_step_{}", self.rule.name().replace("delta_rule_", ""))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let x = b.input("x", self.rule.dtype);
        let [decay, dt_bias, norm] =
            ["decay", "dt_bias", "norm"].map(|name| b.input(name, DType::F32));
        let state = b.state("state", DType::F32);
        let squares = b.output("squares", DType::F32);
        let out = b.output("out", DType::F32);

        let (nv, panels) = (self.rule.shape.nv, self.panels());
        let (seq, rest) = (b.task() / (nv * panels), b.task() % (nv * panels));
        let (head, panel) = (rest / panels, rest % panels);
        let cx = Cx { b, caps, d: &self.rule, qkv: x, x, decay, dt_bias, norm, state, out, head };
        self.one(&cx, &step, seq, panel, squares);
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        let each = self.rule.shape.nv * self.panels();
        Tasks { each, times: Times::Step(Count::Seqs) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        let shape = self.rule.shape;
        let [dk, dv, nv] = [shape.dk, shape.dv, shape.nv].map(|n| n as usize);
        let (panels, lanes) = (self.panels() as usize, LANES as usize);
        let state = 2 * nv * shape.head_state() * 4;
        // Every lane fetches the gates, what they are made of and its column's value; sixteen fetch the rest.
        let weights = nv * panels * (2 * lanes + PANEL) * 4;
        let read = nv * panels * (2 * dk + 3 * lanes + PANEL);
        Cost {
            weights: Amount { per_seq: weights as f64, ..Amount::default() },
            state: Amount { per_seq: state as f64, ..Amount::default() },
            activations_read: per_token(read * self.rule.dtype.size()),
            activations_written: per_token((nv * dv + nv * panels) * 4),
            flops: per_token(nv * 7 * dk * dv),
        }
    }
}

impl DeltaStep {
    fn one<'k>(&self, cx: &Cx<'k>, step: &Step<'k>, seq: Expr<'k>, panel: Expr<'k>, squares: Mem) {
        let b = cx.b;
        let shape = self.rule.shape;
        let (dk, dv) = (shape.dk, shape.dv as i32);
        let tile = step.tile_of_seq(seq);
        let slot = step.slot_of(seq);
        let (column, part) = (b.lane() % WIDTH, b.lane() / WIDTH);
        let at = panel * WIDTH + column;
        let there = at.lt(dv);
        let at = at.min(dv - 1);

        // What is far away first.
        let within = panel * (dk * WIDTH) + column;
        let rows = Rows { b, dk, part };
        let (from, fresh) = (cx.state_at(slot.max(0)) + within, slot.lt(0));
        let old: Vec<Expr> = rows
            .each()
            .map(|(row, _)| fresh.select(0.0, b.load(cx.state, from + row * WIDTH)))
            .collect();
        let row = tile.token * self.rule.x_cols;
        let [q_at, k_at, v_at] = cx.columns_from(row);
        let value = b.load(cx.x, v_at + at);
        let (g, beta) = cx.gates(tile.token);
        let alpha = g.exp();

        let [q, k] = ["q", "k"].map(|name| b.shared(name, DType::F32, dk));
        let zero = b.f(0.0).splat(4);
        let [sums] = b.fold(b.lane(), dk, LANES, [zero], |i, [sums]| {
            let (u, v) = (b.load(cx.x, q_at + i), b.load(cx.x, k_at + i));
            b.store(q, i, u);
            b.store(k, i, v);
            [sums + b.vector(&[u * u, v * v, u * v, b.f(0.0)])]
        });
        let sums = b.group(ReduceOp::Sum, sums);
        b.barrier();
        let factor = |n, scale: f32| b.f(scale) / (sums.extract(n) + self.l2_eps).sqrt();
        let (q_scale, k_scale) = (factor(0, self.scale), factor(1, 1.0));

        // k · S and q · S, of each lane's rows and then of all.
        let dot = |mem: Mem| {
            let terms =
                rows.each().zip(&old).map(|((row, there), &s)| (rows.of(mem, row, there), s));
            terms.fold(b.f(0.0), |sum, (v, s)| b.mul_add(v, s, sum))
        };
        let partial = b.shared("partial", DType::F32, 2 * LANES);
        b.store(partial, b.lane(), dot(k));
        b.store(partial, b.lane() + LANES, dot(q));
        b.barrier();
        let total = |first: u32| {
            let parts = (0..PARTS).map(|n| b.load(partial, column + (first + n * WIDTH)));
            parts.reduce(|a, b| a + b).expect("there are parts")
        };
        let (read, result) = (total(0) * k_scale, total(LANES) * q_scale);
        let error = (value - read * alpha) * beta;
        let o = b.mul_add(sums.extract(2) * q_scale * k_scale, error, result * alpha);

        let error = error * k_scale;
        let to = cx.state_at(tile.slot.max(0)) + within;
        for ((row, there), &s) in rows.each().zip(&old) {
            let new = b.mul_add(b.load(k, row), error, s * alpha);
            let kept = tile.slot.ge(0);
            b.when(there.map_or(kept, |t| kept.and(t)), || {
                b.store(cx.state, to + row * WIDTH, new)
            });
        }
        // Columns that pad a panel hold what nobody asked for.
        let all = b.cluster(ReduceOp::Sum, there.select(o * o, 0.0), WIDTH);
        b.when(part.eq(0), || {
            let head = tile.token * shape.nv + cx.head;
            b.when(column.eq(0), || b.store(squares, head * self.panels() + panel, all));
            b.when(there, || {
                let gate = b.load(cx.x, row + self.rule.z + cx.head * dv + at).silu();
                b.store(cx.out, head * dv + at, o * b.load(cx.norm, at) * gate);
            });
        });
    }
}

/// Rows of the state that a lane has, every eighth, so that a round of all lanes is contiguous.
struct Rows<'k> {
    b: &'k KernelBuilder,
    dk: u32,
    part: Expr<'k>,
}

impl<'k> Rows<'k> {
    /// Each, and whether there is such a row where that is not certain; a row that is not is the last.
    fn each(&self) -> impl Iterator<Item = (Expr<'k>, Option<Expr<'k>>)> {
        let (dk, part) = (self.dk as i32, self.part);
        (0..self.dk.div_ceil(PARTS)).map(move |n| {
            let row = part + n * PARTS;
            match (n + 1) * PARTS <= dk as u32 {
                true => (row, None),
                false => (row.min(dk - 1), Some(row.lt(dk))),
            }
        })
    }

    fn of(&self, mem: Mem, row: Expr<'k>, there: Option<Expr<'k>>) -> Expr<'k> {
        let v = self.b.load(mem, row);
        there.map_or(v, |t| t.select(v, 0.0))
    }
}
