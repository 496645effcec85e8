//! Rows one by one: embedding, gather, RMSNorm, and the table of rotations.

use super::step::Step;
use super::{Norm, Template, letter, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::KernelBuilder;
use q35_target::Caps;
use q35_types::{Count, DType, Layout, StepLayout};

/// `out[t] = table[ids[t]]`, from a table of rows, or of panels when the head shares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    pub hidden: u32,
    pub table: DType,
    pub layout: Layout,
    pub out: DType,
}

impl Template for Embed {
    fn name(&self) -> String {
        let layout = if self.layout == Layout::Panels { "panels" } else { "rows" };
        format!("embed_{}_{}{}_{layout}", self.hidden, letter(self.table), letter(self.out))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let table = b.input("table", self.table);
        let out = b.output("out", self.out);
        let token = b.task();
        let id = step.id(token);
        let to = token * self.hidden;
        match self.layout {
            Layout::Rows => {
                row::copy(b, caps, self.hidden as usize, (table, id * self.hidden), (out, to))
            }
            Layout::Panels => {
                let from = id / 16 * (16 * self.hidden) + id % 16;
                row::each_one(b, caps, self.hidden as usize, |c| {
                    b.store(out, to + c, b.load(table, from + c * 16));
                });
            }
            Layout::Columns => panic!("an embedding is read by rows"),
        }
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Step(Count::Tokens) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        Cost {
            weights: per_token(self.hidden as usize * self.table.size()),
            activations_written: per_token(self.hidden as usize * self.out.size()),
            ..Cost::default()
        }
    }
}

/// `out[r] = x[rows[r]]`, as f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Gather {
    pub hidden: u32,
    pub x: DType,
}

impl Template for Gather {
    fn name(&self) -> String {
        format!("gather_{}_{}", self.hidden, letter(self.x))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let x = b.input("x", self.x);
        let out = b.output("out", DType::F32);
        let r = b.task();
        let from = step.row(r) * self.hidden;
        row::copy(b, caps, self.hidden as usize, (x, from), (out, r * self.hidden));
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Step(Count::Rows) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        Cost {
            activations_read: per_row(self.hidden as usize * self.x.size()),
            activations_written: per_row(self.hidden as usize * 4),
            ..Cost::default()
        }
    }
}

/// The norm of each row. The row is read twice, the second time
/// from cache.
#[derive(Debug, Clone, PartialEq)]
pub struct RmsNorm {
    pub cols: u32,
    pub x: DType,
    pub out: DType,
    pub norm: Norm,
    /// What its rows are counted by.
    pub rows: Count,
}

impl Template for RmsNorm {
    fn name(&self) -> String {
        let rows = if self.rows == Count::Rows { "rows" } else { "tokens" };
        let types = [self.x, self.out].map(letter);
        let types = String::from_iter(types);
        format!("rms_{}_{}_{types}_{rows}", self.norm.text(), self.cols)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let _ = Step::new(b, layout);
        let x = b.input("x", self.x);
        let weight = b.input("weight", self.norm.weight);
        let out = b.output("out", self.out);
        let (cols, at) = (self.cols as usize, b.task() * self.cols);
        let scale = row::inverse_rms(b, caps, cols, self.norm.eps, (x, at));
        row::each(b, caps, cols, |i, w| {
            let v = b.load_vec(x, at + i, w) * scale * self.norm.factor(b, weight, i, w);
            b.store(out, at + i, v);
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Step(self.rows) }
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let amount = |n: usize| match self.rows {
            Count::Rows => per_row(n),
            _ => per_token(n),
        };
        let cols = self.cols as usize;
        let norm = self.norm.bytes(cols);
        // What a CPU finds in its first cache for the next row, other groups of a GPU fetch again.
        let (weights, reads) = match caps.lanes {
            1 => (Amount { once: norm as f64, ..Amount::default() }, 1),
            _ => (amount(norm), 2),
        };
        Cost {
            weights,
            activations_read: amount(reads * cols * self.x.size()),
            activations_written: amount(cols * self.out.size()),
            flops: amount(cols * 4),
            ..Cost::default()
        }
    }
}

/// Cosines, then sines, of each token's angles (spec 6.2). Once a step, for all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Frequencies.
    pub n: u32,
    /// Frequencies of the axes H and W.
    pub h: u32,
    pub w: u32,
    pub scale: f32,
}

impl Template for RopeTable {
    fn name(&self) -> String {
        format!("rope_table_{}", self.n)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let freqs = b.input("freqs", DType::F32);
        let out = b.output("out", DType::F32);
        let token = b.task();
        row::each_one(b, caps, self.n as usize, |j| {
            let is = |axis: i32, sections: u32| (j % 3).eq(axis).and(j.lt(3 * sections));
            let axis = is(1, self.h).select(1, is(2, self.w).select(2, 0));
            let angle = step.position(axis, token).to_f32() * b.load(freqs, j);
            let (sin, cos) = b.sin_cos(angle);
            let at = token * (2 * self.n) + j;
            b.store(out, at, cos * self.scale);
            b.store(out, at + self.n, sin * self.scale);
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Step(Count::Tokens) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        Cost {
            weights: per_token(self.n as usize * 4),
            activations_written: per_token(self.n as usize * 8),
            flops: per_token(self.n as usize * 40),
            ..Cost::default()
        }
    }
}

pub(super) fn per_token(n: usize) -> Amount {
    Amount { per_token: n as f64, ..Amount::default() }
}

pub(super) fn per_row(n: usize) -> Amount {
    Amount { per_row: n as f64, ..Amount::default() }
}
