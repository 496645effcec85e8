//! DeltaNet between its projections, for one token of each sequence, in one launch: the convolution with
//! the norms of queries and keys, and the gated delta rule.
//!
//! A task of many lanes is one value head of one sequence. Value heads that share a key head each make its
//! query and key again; the first of them keeps their inputs. Nobody reads what it writes: a new
//! row of the history takes the place of one that no token looks back at any more.

use super::delta_rule::Cx;
use super::elementwise::per_token;
use super::gpu::LANES;
use super::gpu::delta_rule::{add_up, columns_of, widths};
use super::step::{Step, Tile};
use super::{DeltaConv, DeltaRule, Template, row};
use q35_artifact::{Amount, Cost, Tasks};
use q35_kernel::{Expr, KernelBuilder, Mem};
use q35_target::Caps;
use q35_types::{DType, StepLayout};

/// `rule(conv(x))`, token by token.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaStep {
    pub conv: DeltaConv,
    pub rule: DeltaRule,
}

impl Template for DeltaStep {
    fn name(&self) -> String {
        format!("delta_step_{}_{}", self.conv.taps, self.rule.name().replace("delta_rule_", ""))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let x = b.input("x", self.conv.x);
        let taps = b.input("taps", DType::F32);
        let [decay, dt_bias, norm] =
            ["decay", "dt_bias", "norm"].map(|name| b.input(name, DType::F32));
        let history = b.state("history", DType::F32);
        let state = b.state("state", DType::F32);
        let out = b.output("out", self.rule.dtype);

        let shape = self.rule.shape;
        let (seq, head) = (b.task() / shape.nv, b.task() % shape.nv);
        let token = Token {
            b,
            caps,
            conv: &self.conv,
            x,
            taps,
            history,
            tile: step.tile(step.tiles_of(seq).0),
            slot: step.slot_of(seq),
        };
        // Queries, keys and values are made here, not read.
        let qkv = x;
        let cx = Cx { b, caps, d: &self.rule, qkv, x, decay, dt_bias, norm, state, out, head };
        self.one(&token, &cx);
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        self.rule.tasks(caps)
    }

    fn cost(&self, _: &Caps) -> Cost {
        let DeltaConv { nk, dk, nv, dv, taps, .. } = self.conv;
        let [nk, dk, nv, dv, taps] = [nk, dk, nv, dv, taps].map(|n| n as usize);
        let channels = self.conv.channels() as usize;
        // Queries and keys are made for every value head.
        let made = channels + 2 * dk * (nv - nk);
        // Every lane fetches what the gates are made of.
        let weights = (taps * made + 2 * nv * LANES as usize + nv * dv) * 4;
        let history = ((taps - 1) * made + channels) * 4;
        let state = 2 * nv * self.rule.shape.head_state() * 4;
        // A token's inputs are read once more to be kept; then z, b and a.
        let read = made + channels + nv * dv + 2 * nv * LANES as usize;
        Cost {
            weights: Amount { once: weights as f64, ..Amount::default() },
            state: Amount { per_seq: (history + state) as f64, ..Amount::default() },
            activations_read: per_token(read * self.conv.x.size()),
            activations_written: per_token(nv * dv * self.rule.dtype.size()),
            flops: per_token(made * (2 * taps + 12) + nv * 7 * dk * dv),
        }
    }
}

impl DeltaStep {
    fn one<'k>(&self, token: &Token<'k>, cx: &Cx<'k>) {
        let (b, caps) = (token.b, token.caps);
        let DeltaConv { nk, dk, nv, dv, .. } = self.conv;
        let [q, k, o] =
            [("q", dk), ("k", dk), ("o", dv)].map(|(n, len)| b.shared(n, DType::F32, len));
        let key_head = cx.head / (nv / nk);
        let first = (cx.head % (nv / nk)).eq(0);
        let scales = [(q, b.i(0), self.conv.scale), (k, b.n((nk * dk) as usize), 1.0)];
        for (mem, part, scale) in scales {
            let col = part + key_head * dk;
            let squares = row::sum(b, caps, dk as usize, |i, w| {
                let u = token.convolve(col + i, w);
                b.store(mem, i, u);
                u * u
            });
            let factor = b.f(scale) / (squares + self.conv.eps).sqrt();
            row::each(b, caps, dk as usize, |i, w| {
                b.store(mem, i, b.load_vec(mem, i, w) * factor);
            });
            b.when(first, || token.keep(col, dk));
        }
        b.barrier();

        let (g, beta) = cx.gates(token.tile.token);
        let alpha = g.exp();
        let values = cx.head * dv + 2 * nk * dk;
        let widths = widths(dk as usize);
        let part = |m, &(at, w): &(usize, u8)| b.load_vec(m, at, w);
        let dot = |m, state: &[Expr<'k>]| {
            add_up(widths.iter().zip(state).map(|(p, &s)| part(m, p) * s).collect())
        };
        for (column, mine) in columns_of(b, dv) {
            let from = cx.column_at(token.slot.max(0), column);
            let state = cx.read_column(from, token.slot.lt(0), &widths);
            let v = token.convolve(values + column, 1);
            let error = (v - dot(k, &state) * alpha) * beta;
            let rows = widths.iter().zip(&state);
            let new: Vec<Expr> =
                rows.map(|(p, &s)| b.mul_add(part(k, p), error, s * alpha)).collect();
            b.when(mine, || b.store(o, column, dot(q, &new)));
            b.when(token.tile.slot.ge(0).and(mine), || {
                cx.write_column(cx.column_at(token.tile.slot, column), &widths, &new);
            });
        }
        token.keep(values, dv);
        b.barrier();
        cx.finish(o, b.i(0), token.tile.token);
    }
}

/// One sequence's token and what came before it.
struct Token<'k> {
    b: &'k KernelBuilder,
    caps: &'k Caps,
    conv: &'k DeltaConv,
    x: Mem,
    taps: Mem,
    history: Mem,
    tile: Tile<'k>,
    slot: Expr<'k>,
}

impl<'k> Token<'k> {
    fn input(&self, c: Expr<'k>, w: u8) -> Expr<'k> {
        self.b.load_vec(self.x, self.tile.token * self.conv.x_cols + c, w)
    }

    /// The inputs of the token `back` places before.
    fn past(&self, back: u32, c: Expr<'k>, w: u8) -> Expr<'k> {
        let b = self.b;
        let position = self.tile.pos - back;
        let [v] = b.choose(
            self.slot.lt(0).or(position.lt(0)),
            || [b.f(0.0).splat(w)],
            || [b.load_vec(self.history, self.conv.ring(self.slot, position) + c, w)],
        );
        v
    }

    /// Convolution and silu of `w` channels.
    fn convolve(&self, c: Expr<'k>, w: u8) -> Expr<'k> {
        let (b, taps) = (self.b, self.conv.taps);
        let tap = |j: u32| b.load_vec(self.taps, c + j * self.conv.channels(), w);
        let row = |j: u32| match taps - 1 - j {
            0 => self.input(c, w),
            back => self.past(back, c, w),
        };
        let first = row(0) * tap(0);
        (1..taps).fold(first, |sum, j| b.mul_add(row(j), tap(j), sum)).silu()
    }

    /// Keep `len` columns from `col` on; in another slot than the token's own, with those before.
    fn keep(&self, col: Expr<'k>, len: u32) {
        let (b, to) = (self.b, self.tile.slot);
        b.when(to.ge(0), || {
            let elsewhere = to.ne(self.slot);
            row::each(b, self.caps, len as usize, |i, w| {
                let c = col + i;
                b.store(self.history, self.conv.ring(to, self.tile.pos) + c, self.input(c, w));
                b.when(elsewhere, || {
                    for back in 1..self.conv.taps {
                        let position = self.tile.pos - back;
                        b.when(position.ge(0), || {
                            let at = self.conv.ring(to, position) + c;
                            b.store(self.history, at, self.past(back, c, w));
                        });
                    }
                });
            });
        });
    }
}
