//! The convolution in front of the gated delta rule, with the norms of queries and keys.
//!
//! A task is one head's columns of one sequence, so that the head's l2 norm stays inside and the
//! history, which a sequence may read and write in the same place, has one owner.
//!
//! The history is a ring: of as many rows as there are taps, the inputs of the token at position p are in row
//! p mod taps. One row more than is looked back at, so that a new row overwrites none that is still read.

use super::elementwise::per_token;
use super::step::Step;
use super::{Template, letter, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// `[q | k | v]` columns: causal convolution, silu, l2 norm of each q and k head, q scaled
/// (spec 8.1, 8.3).
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaConv {
    pub nk: u32,
    pub dk: u32,
    pub nv: u32,
    pub dv: u32,
    pub taps: u32,
    /// Columns of a row of `x`.
    pub x_cols: u32,
    pub x: DType,
    pub out: DType,
    pub eps: f32,
    pub scale: f32,
}

impl DeltaConv {
    pub(super) fn channels(&self) -> u32 {
        2 * self.nk * self.dk + self.nv * self.dv
    }

    /// Where in the history the inputs of the token at `position` begin.
    pub(super) fn ring<'k>(&self, slot: Expr<'k>, position: Expr<'k>) -> Expr<'k> {
        (slot * self.taps + position % self.taps) * self.channels()
    }
}

impl Template for DeltaConv {
    fn name(&self) -> String {
        let DeltaConv { nk, dk, nv, dv, taps, x_cols, .. } = self;
        let types = [self.x, self.out].map(letter);
        format!("delta_conv_{nk}x{dk}_{nv}x{dv}_{taps}_{x_cols}_{}", String::from_iter(types))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let x = b.input("x", self.x);
        let weight = b.input("weight", DType::F32);
        let history = b.state("history", DType::F32);
        let out = b.output("out", self.out);
        let head_row = b.shared("head", DType::F32, self.dk);

        let channels = self.channels();
        let heads = 2 * self.nk + self.nv;
        let (seq, head) = (b.task() / heads, b.task() % heads);
        let (first, end) = step.tiles_of(seq);
        let last = step.tile(end - 1);
        let begin = step.tile(first);
        let cx = Cx {
            b,
            caps,
            d: self,
            x,
            weight,
            history,
            slot: step.slot_of(seq),
            start: begin.token,
            pos: begin.pos,
            end: last.token + last.len,
        };
        b.when_else(
            head.lt((2 * self.nk) as i32),
            || {
                let col = head * self.dk;
                let scale = head.lt(self.nk as i32).select(self.scale, 1.0);
                cx.each_token(|t, direct| {
                    let squares = row::sum(b, caps, self.dk as usize, |i, w| {
                        let u = cx.convolve(t, col + i, w, direct);
                        b.store(head_row, i, u);
                        u * u
                    });
                    let factor = scale / (squares + self.eps).sqrt();
                    row::each(b, caps, self.dk as usize, |i, w| {
                        let v = b.load_vec(head_row, i, w) * factor;
                        b.store(out, t * channels + col + i, v);
                    });
                });
                cx.keep(&step, (first, end), col, self.dk);
            },
            || {
                let col = (head - (2 * self.nk) as i32) * self.dv + 2 * self.nk * self.dk;
                cx.each_token(|t, direct| {
                    row::each(b, caps, self.dv as usize, |i, w| {
                        let u = cx.convolve(t, col + i, w, direct);
                        b.store(out, t * channels + col + i, u);
                    });
                });
                cx.keep(&step, (first, end), col, self.dv);
            },
        );
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 2 * self.nk + self.nv, times: Times::Step(Count::Seqs) }
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let (channels, taps) = (self.channels() as usize, self.taps as usize);
        let before = taps - 1;
        let weights = taps * channels * 4;
        // A CPU keeps a head's columns in its first cache from token to token; it replaces at least one row. A GPU fetches what each
        // tap of a token needs: of the history, all rows for the first token, one less for the next.
        let (weights, rows, x_reads) = match caps.lanes {
            1 => (Amount { once: weights as f64, ..Amount::default() }, taps, 1),
            _ => (per_token(weights), before * (before + 1) / 2 + before, taps),
        };
        Cost {
            weights,
            state: Amount { per_seq: (rows * channels * 4) as f64, ..Amount::default() },
            activations_read: per_token(x_reads * channels * self.x.size()),
            activations_written: per_token(channels * self.out.size()),
            flops: per_token(channels * (2 * self.taps as usize + 12)),
        }
    }
}

/// One sequence's inputs: this step's rows `start..end` of `x`, and before them its history.
struct Cx<'k> {
    b: &'k KernelBuilder,
    caps: &'k Caps,
    d: &'k DeltaConv,
    x: Mem,
    weight: Mem,
    history: Mem,
    slot: Expr<'k>,
    /// The step's first row, and its position in the sequence.
    start: Expr<'k>,
    pos: Expr<'k>,
    end: Expr<'k>,
}

impl<'k> Cx<'k> {
    /// Rows that a token looks back at.
    fn before(&self) -> i32 {
        self.d.taps as i32 - 1
    }

    fn row(&self, t: Expr<'k>, c: Expr<'k>, w: u8) -> Expr<'k> {
        self.b.load_vec(self.x, t * self.d.x_cols + c, w)
    }

    /// Row `t`, which may lie before the step.
    fn row_or_history(&self, t: Expr<'k>, c: Expr<'k>, w: u8) -> Expr<'k> {
        let b = self.b;
        let past = || {
            let position = self.pos + (t - self.start);
            b.choose(
                self.slot.lt(0).or(position.lt(0)),
                || [b.f(0.0).splat(w)],
                || [b.load_vec(self.history, self.d.ring(self.slot, position) + c, w)],
            )
        };
        let [v] = b.choose(t.ge(self.start), || [self.row(t, c, w)], past);
        v
    }

    /// Convolution and silu of `w` channels. `direct`: no row lies before the step.
    fn convolve(&self, t: Expr<'k>, c: Expr<'k>, w: u8, direct: bool) -> Expr<'k> {
        let b = self.b;
        let tap = |j: u32| {
            let from = t - self.before() + j as i32;
            let v = match direct {
                true => self.row(from, c, w),
                false => self.row_or_history(from, c, w),
            };
            (v, b.load_vec(self.weight, c + j * self.d.channels(), w))
        };
        let (v, u) = tap(0);
        let sum = (1..self.d.taps).fold(v * u, |sum, j| {
            let (v, u) = tap(j);
            b.mul_add(v, u, sum)
        });
        sum.silu()
    }

    /// `body(token, direct)`: only the first tokens of the step reach into the history.
    fn each_token(&self, body: impl Fn(Expr<'k>, bool)) {
        let bridge = (self.start + self.before()).min(self.end);
        self.b.range(self.start, bridge, 1, |t| body(t, false));
        self.b.range(bridge, self.end, 1, |t| body(t, true));
    }

    /// Keep the last rows of `len` columns where the step says so.
    fn keep(&self, step: &Step<'k>, (first, end): (Expr<'k>, Expr<'k>), col: Expr<'k>, len: u32) {
        let b = self.b;
        b.range(first, end, 1, |n| {
            let tile = step.tile(n);
            b.when(tile.slot.ge(0), || {
                // From the first row there is; in its own slot, older ones are there already.
                let there = tile.slot.eq(self.slot).select(self.pos, 0) - tile.pos;
                b.range((tile.len - self.before()).max(there), tile.len, 1, |i| {
                    let to = self.d.ring(tile.slot, tile.pos + i) + col;
                    row::each(b, self.caps, len as usize, |c, w| {
                        let v = self.row_or_history(tile.token + i, col + c, w);
                        b.store(self.history, to + c, v);
                    });
                });
            });
        });
    }
}
