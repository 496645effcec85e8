//! The gated delta rule, its gates and its gated norm: token by token in `decode`, in chunks
//! of 64 tokens in `prefill`, or of 16 on many lanes.
//!
//! A task is one value head of one sequence. The state of a head is a matrix `[dk, dv]`, kept in panels
//! of sixteen columns, `[dv / 16][dk][16]`, so that every product of the chunked form is a panel product.
//! Chunks are the step's tiles, which count from position 0, so that how a prompt is cut does not
//! show.

use super::elementwise::per_token;
use super::gpu::delta_chunks::Layout;
use super::step::{Step, Tile};
use super::{PANEL, Template, letter, padded, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, PanelArgs, Place};
use q35_target::Caps;
use q35_types::step::PAGE;
use q35_types::{Count, DType, StepLayout};

/// Heads of the delta rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaShape {
    pub nk: u32,
    pub dk: u32,
    pub nv: u32,
    pub dv: u32,
}

impl DeltaShape {
    pub fn channels(&self) -> u32 {
        2 * self.nk * self.dk + self.nv * self.dv
    }

    /// Elements of one head's state.
    pub fn head_state(&self) -> usize {
        self.dk as usize * padded(self.dv)
    }
}

/// See [`q35_graph::Op::DeltaRule`].
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaRule {
    pub shape: DeltaShape,
    /// Columns of a row of `x`, and of it z, b and a.
    pub x_cols: u32,
    pub z: u32,
    pub b: u32,
    pub a: u32,
    pub dtype: DType,
    pub eps: f32,
    /// In chunks, not token by token.
    pub chunked: bool,
}

const CHUNK: usize = PAGE as usize;

/// What every part of the kernel reads.
pub(super) struct Cx<'k> {
    pub b: &'k KernelBuilder,
    pub caps: &'k Caps,
    pub d: &'k DeltaRule,
    pub qkv: Mem,
    pub x: Mem,
    pub decay: Mem,
    pub dt_bias: Mem,
    pub norm: Mem,
    pub state: Mem,
    pub out: Mem,
    /// Value head.
    pub head: Expr<'k>,
}

impl Template for DeltaRule {
    fn name(&self) -> String {
        let DeltaShape { nk, dk, nv, dv } = self.shape;
        let form = if self.chunked { "chunked" } else { "recurrent" };
        format!("delta_rule_{nk}x{dk}_{nv}x{dv}_{}_{}_{form}", self.x_cols, letter(self.dtype))
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let cx = Cx {
            b,
            caps,
            d: self,
            qkv: b.input("qkv", self.dtype),
            x: b.input("x", self.dtype),
            decay: b.input("decay", DType::F32),
            dt_bias: b.input("dt_bias", DType::F32),
            norm: b.input("norm", DType::F32),
            state: b.state("state", DType::F32),
            out: b.output("out", self.dtype),
            head: b.task() % self.shape.nv,
        };
        let seq = b.task() / self.shape.nv;
        match (self.chunked, caps.lanes) {
            (true, 1) => cx.chunked(&step, seq),
            (false, 1) => cx.recurrent(&step, seq),
            (true, _) => match self.layout(caps) {
                Some(layout) => cx.in_chunks(&step, seq, layout),
                None => cx.by_columns(&step, seq),
            },
            (false, _) => cx.by_columns(&step, seq),
        }
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: self.shape.nv, times: Times::Step(Count::Seqs) }
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let DeltaShape { nk: _, dk, nv, dv } = self.shape;
        let (weights, state, columns) = self.reads(caps);
        let head = (dk * dv) as usize;
        let chunk = match (self.chunked, caps.lanes) {
            (false, _) => None,
            (true, 1) => Some(CHUNK),
            (true, _) => self.layout(caps).map(|layout| layout.len as usize),
        };
        let flops = match chunk {
            None => 7 * head,
            Some(len) => 6 * head + 2 * len * (2 * dk + 2 * dv) as usize,
        };
        Cost {
            weights,
            state: Amount { per_seq: state as f64, ..Amount::default() },
            activations_read: per_token(columns as usize * self.dtype.size()),
            activations_written: per_token((nv * dv) as usize * self.dtype.size()),
            flops: per_token(nv as usize * flops),
        }
    }
}

impl DeltaRule {
    /// Of a chunk on many lanes.
    fn layout(&self, caps: &Caps) -> Option<Layout> {
        Layout::of(self.shape, self.dtype, caps)
    }

    /// Weights, bytes of state moved for a sequence, columns of activations read for a token.
    fn reads(&self, caps: &Caps) -> (Amount, usize, u32) {
        let DeltaShape { nk: _, dk, nv, dv } = self.shape;
        if caps.lanes == 1 {
            let weights = Amount { once: f64::from((2 * nv + dv) * 4), ..Amount::default() };
            let state = 2 * nv as usize * self.shape.head_state() * 4;
            return (weights, state, self.shape.channels() + nv * dv + 2 * nv);
        }
        if self.chunked && self.layout(caps).is_some() {
            let state = 2 * nv as usize * self.shape.head_state() * 4;
            return (per_token((nv * (dv + 2)) as usize * 4), state, nv * 2 * (dk + dv + 1));
        }
        // Every lane fetches the gates of a token, and the last column if it has none of its own.
        let columns = dv.next_multiple_of(caps.lanes);
        let weights = per_token((nv * (2 * caps.lanes + dv)) as usize * 4);
        let state = (nv * dk * (columns + dv)) as usize * 4;
        (weights, state, nv * (2 * dk + columns + dv + 2 * caps.lanes))
    }
}

impl<'k> Cx<'k> {
    pub fn shape(&self) -> DeltaShape {
        self.d.shape
    }

    /// Where the head's state begins in `slot`.
    pub fn state_at(&self, slot: Expr<'k>) -> Expr<'k> {
        (slot * self.shape().nv + self.head) * self.shape().head_state()
    }

    /// Where the token's queries, keys and values of this head begin.
    pub fn columns(&self, token: Expr<'k>) -> [Expr<'k>; 3] {
        self.columns_from(token * self.shape().channels())
    }

    /// The same in a row that begins at `row`.
    pub fn columns_from(&self, row: Expr<'k>) -> [Expr<'k>; 3] {
        let DeltaShape { nk, dk, nv, dv } = self.shape();
        let key_head = self.head / (nv / nk);
        let q = row + key_head * dk;
        [q, q + nk * dk, row + 2 * nk * dk + self.head * dv]
    }

    /// `(g, beta)` of the token (spec 8.2).
    pub fn gates(&self, token: Expr<'k>) -> (Expr<'k>, Expr<'k>) {
        let row = token * self.d.x_cols + self.head;
        let a = self.b.load(self.x, row + self.d.a);
        let b = self.b.load(self.x, row + self.d.b);
        let dt = (a + self.b.load(self.dt_bias, self.head)).softplus();
        (self.b.load(self.decay, self.head) * dt, b.sigmoid())
    }

    /// Gated RMSNorm (spec 5.2) of `o[at..]` into the result.
    pub fn finish(&self, o: Mem, at: Expr<'k>, token: Expr<'k>) {
        let (b, dv) = (self.b, self.shape().dv);
        let scale = row::inverse_rms(b, self.caps, dv as usize, self.d.eps, (o, at));
        let z = token * self.d.x_cols + self.d.z + self.head * dv;
        let to = (token * self.shape().nv + self.head) * dv;
        row::each(b, self.caps, dv as usize, |i, w| {
            let v = b.load_vec(o, at + i, w) * scale * b.load_vec(self.norm, i, w);
            b.store(self.out, to + i, v * b.load_vec(self.x, z + i, w).silu());
        });
    }

    fn recurrent(&self, step: &Step<'k>, seq: Expr<'k>) {
        let (b, DeltaShape { dk, dv, .. }) = (self.b, self.shape());
        let q = b.shared("q", DType::F32, dk);
        let k = b.shared("k", DType::F32, dk);
        let v = b.shared("v", DType::F32, padded(dv) as u32);
        let o = b.shared("o", DType::F32, padded(dv) as u32);

        let (first_tile, _) = step.tiles_of(seq);
        let tile = step.tile(first_tile);
        let slot = step.slot_of(seq);
        let [q_at, k_at, v_at] = self.columns(tile.token);
        row::copy(b, self.caps, dk as usize, (self.qkv, q_at), (q, b.i(0)));
        row::copy(b, self.caps, dk as usize, (self.qkv, k_at), (k, b.i(0)));
        self.pad_tail(v, b.i(0));
        row::copy(b, self.caps, dv as usize, (self.qkv, v_at), (v, b.i(0)));
        let (g, beta) = self.gates(tile.token);
        let alpha = g.exp();

        let zero = b.f(0.0).splat(16);
        b.range(0, padded(dv) / PANEL, 1, |p| {
            let panel = p * (dk as usize * PANEL);
            let values = b.load_vec(v, p * PANEL, 16);
            // Both passes over a panel of the state; what it was costs nothing if it is new.
            let update = |old: &dyn Fn(Expr<'k>) -> Option<Expr<'k>>| {
                let [read] = b.fold(0, dk, 1, [zero], |i, [sum]| {
                    [old(i).map_or(sum, |s| b.mul_add(b.load(k, i), s, sum))]
                });
                let error = (values - read * alpha) * beta;
                let to = self.state_at(tile.slot.max(0)) + panel;
                let [result] = b.fold(0, dk, 1, [zero], |i, [sum]| {
                    let kept = old(i).map_or(zero, |s| s * alpha);
                    let new = b.mul_add(b.load(k, i), error, kept);
                    b.when(tile.slot.ge(0), || b.store(self.state, to + i * PANEL, new));
                    [b.mul_add(b.load(q, i), new, sum)]
                });
                b.store(o, p * PANEL, result);
            };
            b.when_else(
                slot.lt(0),
                || update(&|_| None),
                || {
                    let from = self.state_at(slot) + panel;
                    update(&|i| Some(b.load_vec(self.state, from + i * PANEL, 16)));
                },
            );
        });
        self.finish(o, b.i(0), tile.token);
    }

    /// Zeros in the columns that pad a row of values.
    fn pad_tail(&self, row: Mem, at: Expr<'k>) {
        let dv = self.shape().dv as usize;
        if !dv.is_multiple_of(PANEL) {
            self.b.store(row, at + (padded(self.shape().dv) - PANEL), self.b.f(0.0).splat(16));
        }
    }

    fn chunked(&self, step: &Step<'k>, seq: Expr<'k>) {
        let b = self.b;
        let DeltaShape { dk, dv, .. } = self.shape();
        let (dk, dv) = (dk as usize, dv as usize);
        let wide = padded(dv as u32);
        let shared = |name, len: usize| b.shared(name, DType::F32, len as u32);
        let s = shared("s", self.shape().head_state());
        let q = shared("q", CHUNK * dk);
        let k = shared("k", CHUNK * dk);
        let k_panels = shared("k_panels", CHUNK * dk);
        let kk = shared("kk", CHUNK * CHUNK);
        let qk = shared("qk", CHUNK * CHUNK);
        let o = shared("o", CHUNK * wide);
        let e_row = shared("e_row", wide);
        let e = shared("e", CHUNK * wide);
        let g = shared("g", CHUNK);
        let beta = shared("beta", CHUNK);

        let slot = step.slot_of(seq);
        let len = self.shape().head_state();
        b.when_else(
            slot.lt(0),
            || row::each(b, self.caps, len, |i, w| b.store(s, i, b.f(0.0).splat(w))),
            || row::copy(b, self.caps, len, (self.state, self.state_at(slot)), (s, b.i(0))),
        );
        // Tokens beyond a short chunk would be read as columns of K.
        row::each(b, self.caps, CHUNK * dk, |i, w| b.store(k_panels, i, b.f(0.0).splat(w)));

        let (first, end) = step.tiles_of(seq);
        b.range(first, end, 1, |n| {
            let tile = step.tile(n);
            self.load_chunk(&tile, [q, k, k_panels, g, beta]);

            let against_keys = |x: Mem, out: Mem| {
                b.panel_dot(PanelArgs {
                    x: b.at(x, 0),
                    x_row: b.n(dk),
                    x_k: b.i(1),
                    w: b.at(k_panels, 0),
                    w_panel: b.n(dk * PANEL),
                    out: b.at(out, 0),
                    out_row: b.n(CHUNK),
                    rows: tile.len,
                    panels: b.n(CHUNK / PANEL),
                    k: b.n(dk),
                    accumulate: false,
                });
            };
            let against_state = |x: Mem| {
                b.panel_dot(PanelArgs {
                    x: b.at(x, 0),
                    x_row: b.n(dk),
                    x_k: b.i(1),
                    w: b.at(s, 0),
                    w_panel: b.n(dk * PANEL),
                    out: b.at(o, 0),
                    out_row: b.n(wide),
                    rows: tile.len,
                    panels: b.n(wide / PANEL),
                    k: b.n(dk),
                    accumulate: false,
                });
            };
            against_keys(k, kk);
            against_keys(q, qk);
            self.weigh(tile.len, kk, qk, g, beta);
            against_state(k);
            self.solve(&tile, [o, kk, e, e_row, g, beta]);

            // O = exp(G) Q S + (Q Kᵀ ∘ Γ) E
            against_state(q);
            b.range(0, tile.len, 1, |i| {
                let factor = b.load(g, i).exp();
                row::each(b, self.caps, wide, |c, w| {
                    b.store(o, i * wide + c, b.load_vec(o, i * wide + c, w) * factor);
                });
            });
            b.panel_dot(PanelArgs {
                out: b.at(o, 0),
                out_row: b.n(wide),
                rows: tile.len,
                panels: b.n(wide / PANEL),
                ..self.times_errors(b.at(qk, 0), (b.n(CHUNK), b.i(1)), e, tile.len)
            });
            self.advance(tile.len, [s, k, e, g]);
            b.range(0, tile.len, 1, |i| self.finish(o, i * wide, tile.token + i));
            b.when(tile.slot.ge(0), || {
                let to = self.state_at(tile.slot);
                row::copy(b, self.caps, len, (s, b.i(0)), (self.state, to));
            });
        });
    }

    /// The chunk's rows, its keys also as panels of tokens, `G` (summed from the chunk's start) and beta.
    fn load_chunk(&self, tile: &Tile<'k>, [q, k, k_panels, g, beta]: [Mem; 5]) {
        let (b, dk) = (self.b, self.shape().dk as usize);
        b.fold(0, tile.len, 1, [b.f(0.0)], |i, [total]| {
            let token = tile.token + i;
            let [q_at, k_at, _] = self.columns(token);
            row::copy(b, self.caps, dk, (self.qkv, q_at), (q, i * dk));
            row::copy(b, self.caps, dk, (self.qkv, k_at), (k, i * dk));
            let column = i / PANEL * (dk * PANEL) + i % PANEL;
            b.range(0, dk, 1, |c| {
                b.store(k_panels, column + c * PANEL, b.load(k, i * dk + c));
            });
            let (step, rate) = self.gates(token);
            let total = total + step;
            b.store(g, i, total);
            b.store(beta, i, rate);
            [total]
        });
    }

    /// `kk[i, j] ← beta_i Γ_ij (k_i · k_j)` below the diagonal, `qk[i, j] ← Γ_ij (q_i · k_j)` up to it,
    /// zeros above.
    fn weigh(&self, len: Expr<'k>, kk: Mem, qk: Mem, g: Mem, beta: Mem) {
        let b = self.b;
        b.range(0, len, 1, |i| {
            let (total, rate) = (b.load(g, i), b.load(beta, i));
            b.range(0, i + 1, 1, |j| {
                let at = i * CHUNK + j;
                let gamma = (total - b.load(g, j)).exp();
                b.store(qk, at, b.load(qk, at) * gamma);
                b.store(kk, at, b.load(kk, at) * gamma * rate);
            });
            b.range(i + 1, CHUNK, 1, |j| b.store(qk, i * CHUNK + j, b.f(0.0)));
        });
    }

    /// Row by row, `e_i = beta_i (v_i − exp(G_i) (K S)_i) − Σ_{j<i} A_ij e_j` (spec 8.5), into panels.
    fn solve(&self, tile: &Tile<'k>, [o, a, e, e_row, g, beta]: [Mem; 6]) {
        let (b, dv) = (self.b, self.shape().dv as usize);
        let wide = padded(self.shape().dv);
        b.range(0, tile.len, 1, |i| {
            b.panel_dot(PanelArgs {
                out: b.at(e_row, 0),
                out_row: b.n(wide),
                rows: b.i(1),
                panels: b.n(wide / PANEL),
                accumulate: false,
                ..self.times_errors(b.at(a, i * CHUNK), (b.n(CHUNK), b.i(1)), e, i)
            });
            let (decayed, rate) = (b.load(g, i).exp(), b.load(beta, i));
            let [_, _, v_at] = self.columns(tile.token + i);
            let put = |c: Expr<'k>, v: Expr<'k>| {
                b.store(e, c / PANEL * (CHUNK * PANEL) + i * PANEL + c % PANEL, v);
            };
            row::each(b, &Caps { vector: self.caps.vector.min(16), ..*self.caps }, dv, |c, w| {
                let read = b.load_vec(o, i * wide + c, w) * decayed;
                let v = (b.load_vec(self.qkv, v_at + c, w) - read) * rate;
                put(c, v - b.load_vec(e_row, c, w));
            });
            b.range(dv, wide, 1, |c| put(c, b.f(0.0)));
        });
    }

    /// `S ← exp(G_C) S + (exp(G_C − G) K)ᵀ E`; scales the rows of `k` on the way.
    fn advance(&self, len: Expr<'k>, [s, k, e, g]: [Mem; 4]) {
        let (b, dk) = (self.b, self.shape().dk as usize);
        let last = b.load(g, len - 1);
        let decayed = last.exp();
        row::each(b, self.caps, self.shape().head_state(), |i, w| {
            b.store(s, i, b.load_vec(s, i, w) * decayed);
        });
        b.range(0, len, 1, |j| {
            let factor = (last - b.load(g, j)).exp();
            row::each(b, self.caps, dk, |c, w| {
                b.store(k, j * dk + c, b.load_vec(k, j * dk + c, w) * factor);
            });
        });
        b.range(0, padded(self.shape().dv) / PANEL, 1, |p| {
            let errors = self.times_errors(b.at(k, 0), (b.i(1), b.n(dk)), e, len);
            b.panel_dot(PanelArgs {
                w: b.at(e, p * (CHUNK * PANEL)),
                out: b.at(s, p * (dk * PANEL)),
                out_row: b.n(PANEL),
                rows: b.n(dk),
                panels: b.i(1),
                ..errors
            });
        });
    }

    /// A product with the error vectors of the first `k` tokens, added to what is there.
    fn times_errors(
        &self,
        x: Place,
        (x_row, x_k): (Expr<'k>, Expr<'k>),
        e: Mem,
        k: Expr<'k>,
    ) -> PanelArgs<'k> {
        let b = self.b;
        PanelArgs {
            x,
            x_row,
            x_k,
            w: b.at(e, 0),
            w_panel: b.n(CHUNK * PANEL),
            out: x,
            out_row: b.i(0),
            rows: b.i(0),
            panels: b.i(0),
            k,
            accumulate: true,
        }
    }
}
