//! The launches before and after [`DeltaStep`](super::DeltaStep): DeltaNet's projections, for one token of each
//! sequence.
//!
//! A row of the in-projection is a channel of the convolution, which looks back at that channel alone: the lane
//! that has the sum also has its history, and nobody else reads or writes it.

use super::elementwise::per_token;
use super::gpu::product::{Heads, Product, Scratch};
use super::step::{Step, Tile};
use super::{DeltaConv, Linear, Template};
use q35_artifact::{Amount, Cost, Tasks};
use q35_kernel::{Expr, KernelBuilder, Mem};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// `conv(norm(x) · weightᵀ)`, the convolution and its silu for the first channels only.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaIn {
    pub linear: Linear,
    pub conv: DeltaConv,
}

/// `heads(x) · weightᵀ + residual`, `x` float32 in heads of `width` columns, each divided by its root mean
/// square, of whose squares there are `parts` sums.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaOut {
    pub linear: Linear,
    pub width: u32,
    pub parts: u32,
    pub eps: f32,
}

impl Template for DeltaIn {
    fn name(&self) -> String {
        let DeltaConv { nk, dk, nv, dv, taps, .. } = self.conv;
        let linear = self.linear.name().replace("linear_", "");
        format!("delta_in_{nk}x{dk}_{nv}x{dv}_{taps}_{linear}")
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let (linear, conv) = (&self.linear, &self.conv);
        let x = b.input("x", linear.x);
        let norm = linear.norm.map(|n| b.input("norm", n.weight));
        let weight = b.input("weight", linear.weight);
        let taps = b.input("taps", DType::F32);
        let history = b.state("history", DType::F32);
        let out = b.output("out", linear.out);

        let seqs = step.count(Count::Seqs);
        let product = linear.product(b, caps, (x, norm, weight), seqs);
        let source = |seq| step.tile_of_seq(seq).token * linear.k;
        let store = |seq, col: Expr<'_>, v| {
            let tile = step.tile_of_seq(seq);
            let to = tile.token * linear.n + col;
            b.when_else(
                col.lt(conv.channels() as i32),
                || {
                    let slot = step.slot_of(seq);
                    let channel = Channel { b, conv, taps, history, tile, slot, col };
                    b.store(out, to, channel.next(v));
                },
                || b.store(out, to, v),
            );
        };
        product.split(Scratch::new(b, linear.k), linear.panels(b.task()), &source, &store);
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        self.linear.tasks(caps)
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let (channels, taps) = (self.conv.channels() as usize, self.conv.taps as usize);
        let bytes = |n: usize| Amount { per_seq: (n * 4) as f64, ..Amount::default() };
        self.linear.cost(caps).and(Cost {
            weights: bytes(taps * channels),
            // All rows that are looked back at, and a new one.
            state: bytes(taps * channels),
            flops: per_token(2 * taps * channels),
            ..Cost::default()
        })
    }
}

/// A channel of a sequence.
struct Channel<'s, 'k> {
    b: &'k KernelBuilder,
    conv: &'s DeltaConv,
    taps: Mem,
    history: Mem,
    tile: Tile<'k>,
    /// Where its state is read from.
    slot: Expr<'k>,
    col: Expr<'k>,
}

impl<'k> Channel<'_, 'k> {
    /// What the convolution gives for `input`, which is kept; in another slot than the sequence's own, with
    /// those before.
    fn next(&self, input: Expr<'k>) -> Expr<'k> {
        let (b, conv, taps) = (self.b, self.conv, self.conv.taps);
        let (tile, slot) = (self.tile, self.slot);
        let at = |slot, back: u32| conv.ring(slot, tile.pos - back) + self.col;
        let past: Vec<Expr> = (1..taps)
            .rev()
            .map(|back| {
                let none = slot.lt(0).or(tile.pos.lt(back as i32));
                let [v] = b.choose(none, || [b.f(0.0)], || [b.load(self.history, at(slot, back))]);
                v
            })
            .collect();
        let tap = |j: usize| b.load(self.taps, self.col + j as u32 * conv.channels());
        let inputs = past.iter().chain([&input]).enumerate();
        let sum = inputs.fold(b.f(0.0), |sum, (j, &v)| b.mul_add(v, tap(j), sum));
        b.when(tile.slot.ge(0), || {
            b.store(self.history, at(tile.slot, 0), input);
            b.when(tile.slot.ne(slot), || {
                for (back, &v) in (1..taps).rev().zip(&past) {
                    b.when(tile.pos.ge(back as i32), || {
                        b.store(self.history, at(tile.slot, back), v)
                    });
                }
            });
        });
        sum.silu()
    }
}

impl Template for DeltaOut {
    fn name(&self) -> String {
        let linear = self.linear.name().replace("linear_", "");
        format!("delta_out_{}x{}_{linear}", self.linear.k / self.width, self.width)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let linear = &self.linear;
        let x = b.input("x", DType::F32);
        let squares = b.input("squares", DType::F32);
        let weight = b.input("weight", linear.weight);
        let residual = b.input("residual", linear.out);
        let out = b.output("out", linear.out);

        let heads = Heads { squares, width: self.width, parts: self.parts, eps: self.eps };
        let rows = step.count(linear.rows);
        let product =
            Product { heads: Some(heads), ..linear.product(b, caps, (x, None, weight), rows) };
        let scratch = || Scratch::new(b, linear.k);
        linear.on_lanes(&product, b.task(), scratch, Some(residual), out);
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        self.linear.tasks(caps)
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let linear = self.linear.cost(caps);
        // Each vector of a row comes with its head's sums.
        let sums = self.tasks(caps).each * self.linear.k / 4 * self.parts * 4;
        linear.and(Cost { activations_read: per_token(sums as usize), ..Cost::default() })
    }
}
