//! Queries and keys of attention: RMSNorm of each head, rotation, and the step's keys and values
//! into their pages.

use super::elementwise::per_token;
use super::page::Pages;
use super::step::Step;
use super::{Template, letter, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem};
use q35_target::Caps;
use q35_types::step::PAGE;
use q35_types::{Count, DType, StepLayout};

/// See [`q35_graph::Op::QkRope`].
#[derive(Debug, Clone, PartialEq)]
pub struct QkRope {
    pub heads: u32,
    pub pages: Pages,
    pub x_cols: u32,
    pub q: u32,
    pub k: u32,
    pub v: u32,
    /// Frequencies: pairs (i, i + n) are rotated.
    pub n: u32,
    pub dtype: DType,
    pub kv: DType,
    pub eps: f32,
}

impl Template for QkRope {
    fn name(&self) -> String {
        let QkRope { heads, pages: Pages { kv_heads, width }, x_cols, n, .. } = self;
        let types = [self.dtype, self.kv].map(letter);
        format!("qk_rope_{heads}_{kv_heads}_{width}_{n}_{x_cols}_{}", String::from_iter(types))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let x = b.input("x", self.dtype);
        let q_norm = b.input("q_norm", DType::F32);
        let k_norm = b.input("k_norm", DType::F32);
        let rope = b.input("rope", DType::F32);
        let keys = b.state("keys", self.kv);
        let values = b.state("values", self.kv);
        let out = b.output("out", self.dtype);

        let width = self.pages.width;
        let normed = b.shared("row", DType::F32, width);
        let each = self.heads + self.pages.kv_heads;
        let (token, head) = (b.task() / each, b.task() % each);

        let normalise_rotate = |at: Expr<'_>, norm: Mem| {
            let scale = row::inverse_rms(b, caps, width as usize, self.eps, (x, at));
            row::each(b, caps, width as usize, |i, w| {
                let v = b.load_vec(x, at + i, w) * scale * b.load_vec(norm, i, w);
                b.store(normed, i, v);
            });
            b.barrier();
            let angles = token * (2 * self.n);
            row::each(b, caps, self.n as usize, |i, w| {
                let cos = b.load_vec(rope, angles + i, w);
                let sin = b.load_vec(rope, angles + self.n + i, w);
                let (x, y) = (b.load_vec(normed, i, w), b.load_vec(normed, i + self.n, w));
                b.store(normed, i, x * cos - y * sin);
                b.store(normed, i + self.n, y * cos + x * sin);
            });
            b.barrier();
        };
        let row_at = token * self.x_cols;
        b.when_else(
            head.lt(self.heads as i32),
            || {
                normalise_rotate(row_at + self.q + head * (2 * width), q_norm);
                let to = (token * self.heads + head) * width;
                row::copy(b, caps, width as usize, (normed, b.i(0)), (out, to));
            },
            || {
                let head = head - self.heads as i32;
                normalise_rotate(row_at + self.k + head * width, k_norm);
                let tile = step.tile_of(token);
                let pos = tile.pos + (token - tile.token);
                let (page, within) = (step.page(tile.seq, pos / PAGE), pos % PAGE);
                let (k_at, v_at) = (self.pages.keys(page, head), self.pages.values(page, head));
                row::each_one(b, caps, width as usize, |c| {
                    b.store(keys, self.pages.key(k_at, within, c), b.load(normed, c));
                    let v = b.load(x, row_at + self.v + head * width + c);
                    b.store(values, self.pages.value(v_at, within, c), v);
                });
            },
        );
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: self.heads + self.pages.kv_heads, times: Times::Step(Count::Tokens) }
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let Pages { kv_heads, width } = self.pages;
        let row = ((self.heads + 2 * kv_heads) * width) as usize;
        // A group of lanes has one head; it reads the head's columns for their norm and once more, and
        // fetches norm and angles for itself.
        let normed = self.heads + kv_heads;
        let (weights, again) = match caps.lanes {
            1 => (Amount { once: f64::from(width * 8), ..Amount::default() }, 0),
            _ => {
                let again = normed * width * self.dtype.size() as u32 + normed * self.n * 8;
                (per_token((normed * width * 4) as usize), again as usize)
            }
        };
        Cost {
            weights,
            state: per_token((2 * kv_heads * width) as usize * self.kv.size()),
            activations_read: per_token(row * self.dtype.size() + again),
            activations_written: per_token((self.heads * width) as usize * self.dtype.size()),
            flops: per_token(row * 8),
        }
    }
}
