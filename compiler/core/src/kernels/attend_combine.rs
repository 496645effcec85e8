//! The splits of a sequence's attention, joined: what [`AttendSplit`](super::AttendSplit) leaves of each head,
//! weighed by its maximum and divided by all sums.

use super::attention::{Heads, Split, partial_at};
use super::elementwise::per_token;
use super::gpu::LANES;
use super::step::{Step, Tile};
use super::{Template, row};
use q35_artifact::{Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// One lane joins a head; of many, a task has some columns of it.
#[derive(Debug, Clone, PartialEq)]
pub struct AttendCombine(pub Heads, pub Split);

/// Columns of a task of many lanes, and lanes that share the splits of each.
const WIDTH: u32 = 32;
const PARTS: u32 = LANES / WIDTH;

impl Template for AttendCombine {
    fn name(&self) -> String {
        format!("attend_combine_{}_{}", self.0.text(), self.1.text())
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let (h, split) = (self.0, self.1);
        let step = Step::new(b, layout);
        let partial = b.input("partial", DType::F32);
        let x = b.input("x", h.dtype);
        let out = b.output("out", h.dtype);

        let each = h.heads * self.columns(caps);
        let (seq, rest) = (b.task() / each, b.task() % each);
        let (head, columns) = (rest / self.columns(caps), rest % self.columns(caps));
        let tile = step.tile_of_seq(seq);
        let used = split.used(tile.pos / q35_types::step::PAGE + 1);
        let parts = Parts { b, h, split, partial, seq, head, used };
        if caps.lanes > 1 {
            parts.join_columns(columns * WIDTH, &tile, (x, out));
        } else {
            parts.join(caps, &tile, (x, out));
        }
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        Tasks { each: self.0.heads * self.columns(caps), times: Times::Step(Count::Seqs) }
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let q = self.0.q_cols() as usize * self.0.dtype.size();
        // Each lane looks at the parts' maxima, twice, and at their sums.
        let words = match caps.lanes {
            1 => self.0.wide() as u32 + 3,
            _ => self.0.pages.width + 2 * self.columns(caps),
        };
        Cost {
            activations_read: per_token(q).and(self.1.each(f64::from(self.0.heads * words * 4))),
            activations_written: per_token(q),
            flops: per_token(self.0.q_cols() as usize * 8),
            ..Cost::default()
        }
    }
}

impl AttendCombine {
    /// Tasks of a head.
    fn columns(&self, caps: &Caps) -> u32 {
        if caps.lanes > 1 { self.0.pages.width.div_ceil(WIDTH) } else { 1 }
    }
}

/// What the splits of a sequence have left of a head.
struct Parts<'k> {
    b: &'k KernelBuilder,
    h: Heads,
    split: Split,
    partial: Mem,
    seq: Expr<'k>,
    head: Expr<'k>,
    used: Expr<'k>,
}

impl<'k> Parts<'k> {
    fn at(&self, n: Expr<'k>) -> Expr<'k> {
        partial_at(&self.h, self.split, self.seq, self.head, n)
    }

    /// The maximum that split `n` found.
    fn highest(&self, n: Expr<'k>) -> Expr<'k> {
        self.b.load(self.partial, self.at(n) + self.h.wide())
    }

    fn sum(&self, n: Expr<'k>) -> Expr<'k> {
        self.b.load(self.partial, self.at(n) + (self.h.wide() + 1))
    }

    /// All columns on one lane.
    fn join(&self, caps: &Caps, tile: &Tile<'k>, (x, out): (Mem, Mem)) {
        let (b, wide) = (self.b, self.h.wide());
        let acc = b.shared("acc", DType::F32, wide as u32);
        let lowest = b.f(f32::NEG_INFINITY);
        let [highest] = b.fold(0, self.used, 1, [lowest], |n, [m]| [m.max(self.highest(n))]);
        row::each(b, caps, wide, |i, w| b.store(acc, i, b.f(0.0).splat(w)));
        let [total] = b.fold(0, self.used, 1, [b.f(0.0)], |n, [sum]| {
            let factor = (self.highest(n) - highest).exp();
            row::each(b, caps, wide, |i, w| {
                let part = b.load_vec(self.partial, self.at(n) + i, w);
                b.store(acc, i, b.mul_add(part, factor, b.load_vec(acc, i, w)));
            });
            [b.mul_add(self.sum(n), factor, sum)]
        });
        let token = (tile.token, self.head);
        self.h.finish(b, caps, (x, out), token, |i, w| b.load_vec(acc, i, w) / total);
    }

    /// The columns from `first` on, each split by one of the lanes that share a column.
    fn join_columns(&self, first: Expr<'k>, tile: &Tile<'k>, (x, out): (Mem, Mem)) {
        let (b, h) = (self.b, self.h);
        let factors = b.shared("factors", DType::F32, self.split.splits);
        let sums = b.shared("sums", DType::F32, LANES);
        let lowest = b.f(f32::NEG_INFINITY);
        let [highest] =
            b.fold(b.lane(), self.used, LANES, [lowest], |n, [m]| [m.max(self.highest(n))]);
        let highest = b.group(ReduceOp::Max, highest);
        let [total] = b.fold(b.lane(), self.used, LANES, [b.f(0.0)], |n, [total]| {
            let factor = (self.highest(n) - highest).exp();
            b.store(factors, n, factor);
            [b.mul_add(self.sum(n), factor, total)]
        });
        let total = b.group(ReduceOp::Sum, total);
        b.barrier();

        let (column, part) = (first + b.lane() % WIDTH, b.lane() / WIDTH);
        let there = column.lt(h.pages.width as i32);
        let within = column.min(h.pages.width as i32 - 1);
        let [sum] = b.fold(part, self.used, PARTS, [b.f(0.0)], |n, [sum]| {
            let v = b.load(self.partial, self.at(n) + within);
            [b.mul_add(v, b.load(factors, n), sum)]
        });
        b.store(sums, b.lane(), sum);
        b.barrier();
        b.when(part.eq(0).and(there), || {
            let shares = (0..PARTS).map(|n| b.load(sums, b.lane() + n * WIDTH));
            let sum = shares.reduce(|a, b| a + b).expect("there are parts");
            let gate = tile.token * h.x_cols + h.gate + self.head * (2 * h.pages.width) + column;
            let to = tile.token * h.q_cols() + self.head * h.pages.width + column;
            b.store(out, to, sum / total * b.load(x, gate).sigmoid());
        });
    }
}
