//! Mixture of experts (spec 9), all of it on the device.
//!
//! ```text
//! logits ─ top_k ─▶ ids ─ expert_groups ─▶ which experts, and whose tokens
//!                                              │ a task per chosen expert and group of panels
//!                        x ─ expert swiglu ────┴──▶ [T, k, width] ─ expert linear ─▶ [T, k, hidden] ─ combine ─▶
//! ```
//!
//! A task loops over its expert's tokens, so an expert's weights are read once however many tokens chose it.

use super::elementwise::per_token;
use super::gpu::expert_groups;
use super::gpu::product::{Product, Scratch, TILE};
use super::linear::Act;
use super::panels::{Grid, Panels};
use super::step::Step;
use super::{PANEL, Template, letter, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp, UnaryOp};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// See [`q35_graph::Op::TopK`].
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    pub experts: u32,
    pub k: u32,
    /// Columns of a row of logits.
    pub cols: u32,
}

impl Template for TopK {
    fn name(&self) -> String {
        format!("top_{}_of_{}_{}", self.k, self.experts, self.cols)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let _ = Step::new(b, layout);
        let logits = b.input("logits", DType::F32);
        let ids = b.output("ids", DType::I32);
        let left = b.shared("left", DType::F32, self.experts);
        let token = b.task();
        row::copy(b, caps, self.experts as usize, (logits, token * self.cols), (left, b.i(0)));
        if caps.lanes > 1 {
            self.on_lanes(b, left, ids);
            return;
        }
        b.range(0, self.k, 1, |r| {
            let start = [b.f(f32::NEG_INFINITY), b.i(0)];
            let [_, best] = b.fold(0, self.experts, 1, start, |e, [high, best]| {
                let v = b.load(left, e);
                let higher = v.gt(high);
                [higher.select(v, high), higher.select(e, best)]
            });
            b.store(left, best, b.f(f32::NEG_INFINITY));
            b.store(ids, token * self.k + r, best);
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Step(Count::Tokens) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        Cost {
            activations_read: per_token(self.experts as usize * 4),
            activations_written: per_token(self.k as usize * 4),
            flops: per_token((self.experts * self.k) as usize),
            ..Cost::default()
        }
    }
}

impl TopK {
    /// Each lane knows the best of its own; of equals the lowest, by the largest negative.
    fn on_lanes(&self, b: &KernelBuilder, left: Mem, ids: Mem) {
        let lanes = b.machine().lanes;
        b.range(0, self.k, 1, |r| {
            b.barrier();
            let none = [b.f(f32::NEG_INFINITY), b.lane()];
            let [high, best] = b.fold(b.lane(), self.experts, lanes, none, |e, [high, best]| {
                let v = b.load(left, e);
                let higher = v.gt(high);
                [higher.select(v, high), higher.select(e, best)]
            });
            let highest = b.group(ReduceOp::Max, high);
            let has = high.eq(highest).and(best.lt(self.experts as i32));
            let lowest = has.select(-best.to_f32(), f32::NEG_INFINITY);
            let lowest = b.group(ReduceOp::Max, lowest).max(-(self.experts as f32 - 1.0));
            let chosen = (-lowest).unary(UnaryOp::FloatToInt);
            b.barrier();
            b.when(b.lane().eq(0), || {
                b.store(left, chosen, b.f(f32::NEG_INFINITY));
                b.store(ids, b.task() * self.k + r, chosen);
            });
        });
    }
}

/// Words of the buffer of groups; see [`q35_graph::Op::ExpertGroups`].
pub(super) fn active(slot: Expr<'_>) -> Expr<'_> {
    slot + 1
}
pub(super) fn start(slot: Expr<'_>, experts: u32) -> Expr<'_> {
    slot + (1 + experts) as i32
}
pub(super) fn pair(n: Expr<'_>, experts: u32) -> Expr<'_> {
    n + (2 + 2 * experts) as i32
}

/// See [`q35_graph::Op::ExpertGroups`]. One task: counting sort of the pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertGroups {
    pub experts: u32,
    pub k: u32,
}

impl Template for ExpertGroups {
    fn name(&self) -> String {
        format!("expert_groups_{}_{}", self.experts, self.k)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let ids = b.input("ids", DType::I32);
        let groups = b.output("groups", DType::I32);
        let pairs = step.count(Count::Tokens) * self.k;
        if caps.lanes > 1 {
            expert_groups::sort(b, self.experts, pairs, [ids, groups]);
            return;
        }
        let next = b.shared("next", DType::I32, self.experts);
        self.sort(b, pairs, [ids, groups, next]);
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Once }
    }

    fn cost(&self, _: &Caps) -> Cost {
        Cost {
            activations_read: per_token(2 * self.k as usize * 4),
            activations_written: per_token(self.k as usize * 4),
            flops: per_token(2 * self.k as usize),
            ..Cost::default()
        }
    }
}

impl ExpertGroups {
    /// Count, make room, place.
    fn sort<'k>(&self, b: &'k KernelBuilder, pairs: Expr<'k>, [ids, groups, next]: [Mem; 3]) {
        b.range(0, self.experts, 1, |e| b.store(next, e, b.i(0)));
        b.range(0, pairs, 1, |n| {
            let id = b.load(ids, n);
            b.store(next, id, b.load(next, id) + 1);
        });
        let [chosen, _] = b.fold(0, self.experts, 1, [b.i(0), b.i(0)], |e, [slot, before]| {
            let count = b.load(next, e);
            let any = count.gt(0);
            b.when(any, || {
                b.store(groups, active(slot), e);
                b.store(groups, start(slot, self.experts), before);
            });
            b.store(next, e, before);
            [slot + any.select(1, 0), before + count]
        });
        b.store(groups, 0, chosen);
        b.store(groups, start(chosen, self.experts), pairs);
        b.range(0, pairs, 1, |n| {
            let id = b.load(ids, n);
            let at = b.load(next, id);
            b.store(next, id, at + 1);
            b.store(groups, pair(at, self.experts), n);
        });
    }
}

/// A product with the matrix of each chosen expert: [`q35_graph::Op::ExpertSwiGlu`] and
/// [`q35_graph::Op::ExpertLinear`].
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertLinear {
    pub experts: u32,
    /// Experts of a token.
    pub k: u32,
    /// Columns of the result and of `x`.
    pub n: u32,
    pub cols: u32,
    pub dtype: DType,
    pub weight: DType,
    pub act: Act,
    /// Whether `x` has a row for each token; else for each pair of token and rank.
    pub shared_x: bool,
    /// Rows of a tile.
    pub tile: u32,
}

impl ExpertLinear {
    fn grid(&self) -> Grid {
        Grid { n: self.n, k: self.cols, weight: self.weight }
    }
}

impl Template for ExpertLinear {
    fn name(&self) -> String {
        let ExpertLinear { experts, k, n, cols, tile, .. } = self;
        let types = [self.dtype, self.weight].map(letter);
        let act = if self.act == Act::None { "" } else { "_swiglu" };
        let rows = if self.shared_x { "token" } else { "pair" };
        format!("expert_{n}x{cols}_{k}of{experts}_{}{act}_{rows}_t{tile}", String::from_iter(types))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let _ = Step::new(b, layout);
        let x = b.input("x", self.dtype);
        let weight = b.table("weight", self.weight);
        let groups = b.input("groups", DType::I32);
        let out = b.output("out", self.dtype);

        if caps.lanes > 1 {
            self.on_lanes(b, caps, [x, weight, groups, out]);
            return;
        }
        let cols = self.cols as usize;
        let rows_of = b.shared("rows", DType::F32, self.tile * self.cols);
        let groups_each = self.grid().groups();
        let (slot, group) = (b.task() / groups_each, b.task() % groups_each);
        let expert = b.load(groups, active(slot));
        let weight = b.entry(weight, expert);
        let begin = b.load(groups, start(slot, self.experts));
        let end = b.load(groups, start(slot + 1, self.experts));
        let panels = Panels::new(b, self.grid(), self.act, self.tile, weight, group);
        b.range(begin, end, self.tile, |t| {
            let rows = (end - t).min(self.tile);
            b.range(0, rows, 1, |r| {
                let pair = b.load(groups, pair(t + r, self.experts));
                let from = if self.shared_x { pair / self.k } else { pair };
                row::copy(b, caps, cols, (x, from * cols), (rows_of, r * cols));
            });
            let row = |r| b.load(groups, pair(t + r, self.experts)) * self.n;
            panels.multiply(b.at(rows_of, 0), rows, row, |to, v| b.store(out, to, v));
        });
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        // `groups` is the fourth parameter: step, x, weight, groups, out.
        let each = match (caps.lanes, self.tiled()) {
            (1, _) => self.grid().groups() as u32,
            (_, false) => self.grid().panels() as u32,
            (_, true) => self.n.div_ceil(TILE),
        };
        Tasks { each, times: Times::Word { arg: 3 } }
    }

    /// An expert that more than `TILE` tokens of a step choose is read again for each further tile of
    /// them, which is not counted.
    fn cost(&self, caps: &Caps) -> Cost {
        let parts = if self.act == Act::None { 1 } else { 2 };
        let (n, cols, k) = (self.n as usize, self.cols as usize, self.k as usize);
        let rows = match (caps.lanes > 1 && self.tiled(), self.shared_x) {
            (true, _) => k * self.n.div_ceil(TILE) as usize,
            (false, true) => 1,
            (false, false) => k,
        };
        let matrix = parts * n * cols;
        Cost {
            weights: Amount {
                per_expert: (matrix * self.weight.size()) as f64,
                ..Amount::default()
            },
            activations_read: per_token(rows * cols * self.dtype.size()),
            activations_written: per_token(k * n * self.dtype.size()),
            flops: per_token(2 * matrix * k),
            ..Cost::default()
        }
    }
}

impl ExpertLinear {
    fn tiled(&self) -> bool {
        self.tile >= TILE
    }

    fn on_lanes<'k>(
        &self,
        b: &'k KernelBuilder,
        caps: &'k Caps,
        [x, weight, groups, out]: [Mem; 4],
    ) {
        let each = if self.tiled() { self.n.div_ceil(TILE) } else { self.grid().panels() as u32 };
        let (slot, column) = (b.task() / each, b.task() % each);
        let expert = b.load(groups, active(slot));
        let weight = b.entry(weight, expert);
        let begin = b.load(groups, start(slot, self.experts));
        let end = b.load(groups, start(slot + 1, self.experts));
        let product = Product {
            up: self.act.up_panel(),
            ..Product::new((b, caps), (x, weight), (self.n, self.cols), (begin, end))
        };
        let pair_of = |n: Expr<'k>| b.load(groups, pair(n, self.experts));
        let source = |n: Expr<'k>| {
            let pair = pair_of(n);
            if self.shared_x { pair / self.k * self.cols } else { pair * self.cols }
        };
        let put = |n: Expr<'k>, col: Expr<'k>, v: Expr<'k>, _: u8| {
            b.store(out, pair_of(n) * self.n + col, v);
        };
        if self.tiled() {
            b.range(product.begin, product.end, TILE, |first| {
                product.tile(first, column * (TILE / PANEL as u32), &source, &put);
            });
        } else {
            let scratch = Scratch::new(b, self.cols);
            product.split(scratch, (column, 1), &source, &|n, col, v| put(n, col, v, 1));
        }
    }
}

/// See [`q35_graph::Op::ExpertCombine`].
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertCombine {
    pub hidden: u32,
    pub k: u32,
    /// Columns of a row of logits, and the one of the shared expert's gate.
    pub cols: u32,
    pub gate: u32,
    pub dtype: DType,
}

impl Template for ExpertCombine {
    fn name(&self) -> String {
        format!("expert_combine_{}_{}_{}_{}", self.hidden, self.k, self.cols, letter(self.dtype))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let _ = Step::new(b, layout);
        let x = b.input("x", self.dtype);
        let logits = b.input("logits", DType::F32);
        let ids = b.input("ids", DType::I32);
        let shared = b.input("shared", self.dtype);
        let residual = b.input("residual", self.dtype);
        let out = b.output("out", self.dtype);
        let weights = b.shared("weights", DType::F32, self.k);

        let token = b.task();
        let at = |r| b.load(logits, token * self.cols + b.load(ids, token * self.k + r));
        // Ranks are in order, so the first logit is the largest.
        let highest = at(b.i(0));
        row::each_one(b, caps, self.k as usize, |r| b.store(weights, r, (at(r) - highest).exp()));
        b.barrier();
        let [total] = b.fold(0, self.k, 1, [b.f(0.0)], |r, [sum]| [sum + b.load(weights, r)]);
        let gate = b.load(logits, token * self.cols + self.gate).sigmoid();
        let row = token * self.hidden;
        row::each(b, caps, self.hidden as usize, |i, w| {
            let zero = b.f(0.0).splat(w);
            let [sum] = b.fold(0, self.k, 1, [zero], |r, [sum]| {
                let v = b.load_vec(x, (token * self.k + r) * self.hidden + i, w);
                [b.mul_add(v, b.load(weights, r) / total, sum)]
            });
            let sum = b.mul_add(b.load_vec(shared, row + i, w), gate, sum);
            b.store(out, row + i, b.load_vec(residual, row + i, w) + sum);
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Step(Count::Tokens) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        let hidden = self.hidden as usize;
        Cost {
            activations_read: per_token((self.k as usize + 2) * hidden * self.dtype.size()),
            activations_written: per_token(hidden * self.dtype.size()),
            flops: per_token(2 * (self.k as usize + 2) * hidden),
            ..Cost::default()
        }
    }
}
