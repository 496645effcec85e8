//! The gated delta rule in chunks (spec 8.5), for many lanes, with the state in registers.
//!
//! Token by token, each token waits for the one before it and for its own way to memory. Here sixteen
//! come from memory at once, and what each needs of the state is a product with what the state was
//! before them; only the small triangular system between them is solved one by one.
//!
//! For products with the state a lane has four neighbouring columns, and of each sixteen rows four: an
//! element of a key or a query read from shared memory serves four columns, and four neighbouring
//! lanes add up what they have. For the triangular system a lane has one column, its own of the four.
//!
//! Where matrix units have the shape for it, they make the products with the state, see
//! [`delta_units`](super::delta_units); all else is the same.
//!
//! Chunks count from the start of a tile, and tokens that a short one lacks are zeros behind those it
//! has: nothing depends on how many tokens the step has.

use super::delta_units::{self as units, Units};
use super::{LANES, mma};
use crate::kernels::delta_rule::{Cx, DeltaShape};
use crate::kernels::step::{Step, Tile};
use crate::kernels::{PANEL, padded};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_target::Caps;
use q35_types::DType;

/// Columns of a lane, and lanes that share a column's rows.
pub const QUAD: u32 = 4;

/// Where things lie in shared memory.
#[derive(Clone, Copy)]
pub struct Layout {
    pub shape: DeltaShape,
    /// Tokens of a chunk.
    pub len: u32,
    /// Whether products with the state are made by matrix units.
    pub units: bool,
}

impl Layout {
    /// As many tokens as shared memory has room for, on matrix units if they can; none for heads too wide for
    /// any. `dtype` is that of keys and queries.
    pub fn of(shape: DeltaShape, dtype: DType, caps: &Caps) -> Option<Layout> {
        let units = Layout { shape, len: units::TOKENS, units: true };
        if units::usable(shape, dtype, caps) && units.bytes() <= caps.shared_bytes {
            return Some(units);
        }
        let lanes = [16, 8, 4].map(|len| Layout { shape, len, units: false });
        lanes.into_iter().find(|layout| layout.bytes() <= caps.shared_bytes)
    }

    /// Elements of a key or a query, zeros behind it.
    fn depth(&self) -> u32 {
        padded(self.shape.dk) as u32
    }

    /// Of keys and queries.
    fn dtype(&self) -> DType {
        if self.units { DType::Bf16 } else { DType::F32 }
    }

    /// From one key to the next, so that neighbouring keys fall into different banks.
    pub fn key_row(&self) -> u32 {
        self.depth() + if self.units { mma::PART } else { QUAD }
    }

    /// Times that the lanes, a column each, go over a row of values.
    fn rounds(&self) -> u32 {
        self.shape.dv.div_ceil(LANES)
    }

    /// From one row of values to the next: every lane has a place of its own.
    pub fn value_row(&self) -> u32 {
        self.rounds() * LANES + if self.units { mma::PART } else { 0 }
    }

    /// Rows of values: units leave those of keys and those of queries at once.
    fn value_rows(&self) -> u32 {
        if self.units { 2 * self.len } else { self.len }
    }

    fn bytes(&self) -> u32 {
        let keys = 2 * self.len * self.key_row() * self.dtype().size() as u32;
        let words = self.value_rows() * self.value_row() + 2 * self.len * self.len;
        // Arrays of a word for each token are rounded up to 64 bytes.
        keys + 4 * words + 4 * 64 + if self.units { units::bytes(self) } else { 0 }
    }
}

impl<'k> Cx<'k> {
    /// All tokens of a sequence, a chunk at a time.
    pub fn in_chunks(&self, step: &Step<'k>, seq: Expr<'k>, layout: Layout) {
        let (b, len) = (self.b, layout.len);
        let chunk = Chunk::new(self, layout);
        let slot = step.slot_of(seq);
        let (first, end) = step.tiles_of(seq);
        b.fold_vec(first, end, 1, chunk.read_state(slot), |n, state| {
            let tile = step.tile(n);
            let state = b.fold_vec(0, tile.len, len, state, |start, state| {
                let tokens = Tokens { first: tile.token + start, len: (tile.len - start).min(len) };
                chunk.run(&tokens, state)
            });
            chunk.write_state(&tile, &state);
            state
        });
    }
}

/// The tokens of one chunk.
pub struct Tokens<'k> {
    pub first: Expr<'k>,
    pub len: Expr<'k>,
}

pub struct Chunk<'c, 'k> {
    pub cx: &'c Cx<'k>,
    pub b: &'k KernelBuilder,
    pub layout: Layout,
    /// Keys and queries, a row a token.
    pub k: Mem,
    pub q: Mem,
    /// A row of values a token: in turn `K S`, results, and errors.
    pub rows: Mem,
    /// `-A` and `Q Kᵀ ∘ Γ`.
    kk: Mem,
    qk: Mem,
    /// `G`, summed from the chunk's start; `exp(G)`; `exp(G_C - G)`; beta.
    g: Mem,
    since: Mem,
    until: Mem,
    beta: Mem,
    /// Which of the four lanes that share columns this is.
    pub part: Expr<'k>,
    units: Option<Units<'k>>,
}

impl<'c, 'k> Chunk<'c, 'k> {
    fn new(cx: &'c Cx<'k>, layout: Layout) -> Self {
        let (b, len) = (cx.b, layout.len);
        let shared = |name, each: u32| b.shared(name, DType::F32, len * each);
        let keys = |name| b.shared(name, layout.dtype(), len * layout.key_row());
        let chunk = Chunk {
            cx,
            b,
            layout,
            k: keys("k"),
            q: keys("q"),
            rows: b.shared("rows", DType::F32, layout.value_rows() * layout.value_row()),
            kk: shared("kk", len),
            qk: shared("qk", len),
            g: shared("g", 1),
            since: shared("since", 1),
            until: shared("until", 1),
            beta: shared("beta", 1),
            part: b.lane() % QUAD,
            units: layout.units.then(|| Units::new(b, &layout, cx.caps)),
        };
        if layout.units && layout.shape.dv < LANES {
            // Lanes without a column find zeros, as units do not write there.
            b.when(b.lane().ge(layout.shape.dv as i32), || {
                for i in 0..layout.value_rows() {
                    b.store(chunk.rows, chunk.own(b.i(i as i32), 0), b.f(0.0));
                }
            });
        }
        chunk
    }

    /// One chunk: writes its results and gives the state after it.
    fn run(&self, tokens: &Tokens<'k>, state: Vec<Expr<'k>>) -> Vec<Expr<'k>> {
        let (b, len) = (self.b, self.layout.len);
        b.barrier();
        self.stage(tokens);
        let values = match &self.units {
            None => self.values(tokens),
            Some(units) => {
                units.stage_values(self, tokens);
                vec![]
            }
        };
        b.barrier();
        self.weigh(tokens);
        match &self.units {
            Some(units) => units.times_state(self, &state),
            None => b.range(0, tokens.len, 1, |i| {
                for (round, sum) in self.times_state(self.k, i, &state).into_iter().enumerate() {
                    b.store(self.rows, self.own(i, round), sum);
                }
            }),
        }
        b.barrier();

        let values = match &self.units {
            Some(units) => vec![units.values(self)],
            None => values,
        };
        let errors: Vec<Vec<Expr>> =
            values.iter().enumerate().map(|(round, v)| self.solve(v, round)).collect();
        // O = exp(G) Q S + (Q Kᵀ ∘ Γ) E
        b.range(0, tokens.len, 1, |i| {
            let sums = match &self.units {
                Some(_) => vec![b.load(self.rows, self.own(i + len, 0))],
                None => self.times_state(self.q, i, &state),
            };
            let decay = b.load(self.since, i);
            let weights = self.scalars(self.qk, i * len);
            for (round, (sum, errors)) in sums.into_iter().zip(&errors).enumerate() {
                let pairs = weights.iter().zip(errors);
                let out = pairs.fold(sum * decay, |sum, (&w, &e)| b.mul_add(w, e, sum));
                b.store(self.rows, self.own(i, round), out);
            }
        });
        b.barrier();
        self.finish(tokens);
        b.barrier();

        // S ← exp(G_C) S + Kᵀ (exp(G_C − G) E)
        let rest = self.scalars(self.until, b.i(0));
        for (round, errors) in errors.iter().enumerate() {
            for (i, (&e, &rest)) in errors.iter().zip(&rest).enumerate() {
                b.store(self.rows, self.own(b.n(i), round), e * rest);
            }
        }
        b.barrier();
        let decay = b.load(self.since, tokens.len - 1);
        let decayed = state.iter().map(|&s| s * decay).collect();
        b.fold_vec(0, tokens.len, 1, decayed, |i, state| self.add_outer(i, &state))
    }

    /// Keys, queries and gates of the chunk into shared memory; zeros where it has no token.
    fn stage(&self, tokens: &Tokens<'k>) {
        let (b, dk, len) = (self.b, self.layout.shape.dk, self.layout.len);
        let width = vector(dk);
        let each = self.layout.depth() / u32::from(width);
        let total = len * each;
        // All loads before the first store, so that they wait for memory together.
        let loaded: Vec<_> = (0..total.div_ceil(LANES))
            .map(|round| {
                let n = b.lane() + round * LANES;
                let (row, c) = (n / each, n % each * u32::from(width));
                let inside = row.lt(tokens.len).and(c.lt(dk as i32));
                let zero = b.f(0.0).splat(width);
                let vectors = b.choose(
                    inside,
                    || {
                        let [q, k, _] = self.cx.columns(tokens.first + row);
                        [q, k].map(|at| b.load_vec(self.cx.qkv, at + c, width))
                    },
                    || [zero, zero],
                );
                (n, row * self.layout.key_row() + c, vectors)
            })
            .collect();
        let [g, beta] = b.choose(
            b.lane().lt(tokens.len),
            || self.cx.gates(tokens.first + b.lane()).into(),
            || [b.f(0.0), b.f(0.0)],
        );
        for (n, to, [q, k]) in loaded {
            b.when(n.lt(total as i32), || {
                b.store(self.q, to, q);
                b.store(self.k, to, k);
            });
        }
        let total = b.group_scan(g);
        b.when(b.lane().lt(len as i32), || {
            b.store(self.g, b.lane(), total);
            b.store(self.since, b.lane(), total.exp());
            b.store(self.beta, b.lane(), beta);
        });
        b.range(tokens.len, len, 1, |i| {
            for round in 0..self.layout.rounds() as usize {
                b.store(self.rows, self.own(i, round), b.f(0.0));
            }
        });
    }

    /// For each round, this lane's column of the values. Where the chunk has no token, those of the last, which
    /// a beta of zero keeps out.
    fn values(&self, tokens: &Tokens<'k>) -> Vec<Vec<Expr<'k>>> {
        let (b, dv) = (self.b, self.layout.shape.dv as i32);
        let rounds = 0..self.layout.rounds();
        let column = |round: u32| {
            let column = (b.lane() + round * LANES).min(dv - 1);
            let value = |i: u32| {
                let [_, _, at] = self.cx.columns(tokens.first + b.i(i as i32).min(tokens.len - 1));
                b.load(self.cx.qkv, at + column)
            };
            (0..self.layout.len).map(value).collect()
        };
        rounds.map(column).collect()
    }

    /// `kk[i, j] ← -beta_i Γ_ij (k_i · k_j)` below the diagonal, `qk[i, j] ← Γ_ij (q_i · k_j)` up to it,
    /// zeros above. A lane has two of each, which share a row.
    fn weigh(&self, tokens: &Tokens<'k>) {
        let (b, len) = (self.b, self.layout.len);
        let half = len / 2;
        b.when(b.lane().lt((len * half) as i32), || {
            let (i, j) = (b.lane() / half, b.lane() % half);
            let columns = [j, j + half];
            let at = |row: Expr<'k>| row * self.layout.key_row();
            let sums = b.fold(0, self.layout.depth(), QUAD, [b.f(0.0).splat(4); 4], |c, sums| {
                let [k, q] = [self.k, self.q].map(|m| b.load_vec(m, at(i) + c, 4));
                let [first, second] = columns.map(|j| b.load_vec(self.k, at(j) + c, 4));
                let [k1, k2, q1, q2] = sums;
                let pairs = [(k, first, k1), (k, second, k2), (q, first, q1), (q, second, q2)];
                pairs.map(|(x, y, sum)| b.mul_add(x, y, sum))
            });
            let [k1, k2, q1, q2] = sums.map(Expr::sum);
            let (total, beta) = (b.load(self.g, i), b.load(self.beta, i));
            for (j, k, q) in [(columns[0], k1, q1), (columns[1], k2, q2)] {
                // Above the diagonal the difference may be too large for `exp`.
                let apart = j.le(i).select(total - b.load(self.g, j), f32::NEG_INFINITY);
                let gamma = apart.exp();
                b.store(self.qk, i * len + j, q * gamma);
                b.store(self.kk, i * len + j, j.lt(i).select(-(k * gamma * beta), 0.0));
            }
        });
        b.when(b.lane().lt(len as i32), || {
            let last = b.load(self.g, tokens.len - 1);
            b.store(self.until, b.lane(), (last - b.load(self.g, b.lane())).exp());
        });
    }

    /// `e_i = beta_i (v_i − exp(G_i) (K S)_i) − Σ_{j<i} A_ij e_j`, of this lane's column.
    fn solve(&self, values: &[Expr<'k>], round: usize) -> Vec<Expr<'k>> {
        let (b, len) = (self.b, self.layout.len);
        let [decay, beta] = [self.since, self.beta].map(|m| self.scalars(m, b.i(0)));
        let mut errors: Vec<Expr> = vec![];
        for (i, &v) in values.iter().enumerate() {
            let read = b.load(self.rows, self.own(b.n(i), round)) * decay[i];
            let weights = self.scalars(self.kk, b.n(i * len as usize));
            let pairs = weights.iter().zip(&errors);
            let e = pairs.fold((v - read) * beta[i], |sum, (&w, &e)| b.mul_add(w, e, sum));
            errors.push(e);
        }
        errors
    }

    /// Gated RMSNorm (spec 5.2) of all rows at once, a few lanes a row.
    fn finish(&self, tokens: &Tokens<'k>) {
        let (b, cx) = (self.b, self.cx);
        let DeltaShape { nv, dv, .. } = self.layout.shape;
        let lanes = LANES / self.layout.len;
        let (i, part) = (b.lane() / lanes, b.lane() % lanes);
        let width = vector(dv);
        let (start, round) = (part * u32::from(width), lanes * u32::from(width));
        let value = |c| b.load_vec(self.rows, i * self.layout.value_row() + c, width);
        let zero = b.f(0.0).splat(width);
        let [squares] = b.fold(start, dv, round, [zero], |c, [sum]| {
            let v = value(c);
            [b.mul_add(v, v, sum)]
        });
        let squares = b.cluster(ReduceOp::Sum, squares.sum(), lanes);
        let scale = b.f(1.0) / (squares / dv as f32 + cx.d.eps).sqrt();
        b.when(i.lt(tokens.len), || {
            let token = tokens.first + i;
            let z = token * cx.d.x_cols + cx.d.z + cx.head * dv;
            let to = (token * nv + cx.head) * dv;
            b.range(start, dv, round, |c| {
                let v = value(c) * scale * b.load_vec(cx.norm, c, width);
                b.store(cx.out, to + c, v * b.load_vec(cx.x, z + c, width).silu());
            });
        });
    }

    /// Row `i` of `x`, keys or queries, times the state: of each round, this lane's column.
    fn times_state(&self, x: Mem, i: Expr<'k>, state: &[Expr<'k>]) -> Vec<Expr<'k>> {
        let b = self.b;
        let factors = self.rows_of(x, i);
        let column = |state: &[Expr<'k>]| {
            // Two sums, so that a product need not wait for the one before.
            let mut sums: Vec<Expr> =
                factors.iter().zip(state).take(2).map(|(&f, &s)| s * f).collect();
            for (n, (&f, &s)) in factors.iter().zip(state).enumerate().skip(2) {
                sums[n % 2] = b.mul_add(f, s, sums[n % 2]);
            }
            let four = b.cluster(ReduceOp::Sum, sums[0] + sums[1], QUAD);
            let [first, second, third, fourth] = [0, 1, 2, 3].map(|c| four.extract(c));
            let low = self.part.eq(0).select(first, second);
            let high = self.part.eq(2).select(third, fourth);
            self.part.lt(2).select(low, high)
        };
        state.chunks(factors.len()).map(column).collect()
    }

    /// `S + k_iᵀ e_i`.
    fn add_outer(&self, i: Expr<'k>, state: &[Expr<'k>]) -> Vec<Expr<'k>> {
        let b = self.b;
        let keys = self.rows_of(self.k, i);
        let mut next = vec![];
        for (round, state) in state.chunks(keys.len()).enumerate() {
            let errors = b.load_vec(self.rows, self.own(i, round) - self.part, QUAD as u8);
            next.extend(keys.iter().zip(state).map(|(&k, &s)| b.mul_add(k, errors, s)));
        }
        next
    }

    /// Of row `i` of keys or queries what meets the rows of the state that this lane has.
    fn rows_of(&self, x: Mem, i: Expr<'k>) -> Vec<Expr<'k>> {
        let b = self.b;
        let at = i * self.layout.key_row() + self.part * QUAD;
        let vectors = (0..self.layout.depth() / PANEL as u32)
            .map(|n| b.load_vec(x, at + n * PANEL as u32, QUAD as u8));
        vectors.flat_map(|v| [0, 1, 2, 3].map(|r| v.extract(r))).collect()
    }

    /// A word for each token of the chunk, from `at` on.
    fn scalars(&self, mem: Mem, at: Expr<'k>) -> Vec<Expr<'k>> {
        let fours = (0..self.layout.len / 4).map(|n| self.b.load_vec(mem, at + n * 4, 4));
        fours.flat_map(|v| [0, 1, 2, 3].map(|i| v.extract(i))).collect()
    }

    /// This lane's place in the row of values of token `i`.
    fn own(&self, i: Expr<'k>, round: usize) -> Expr<'k> {
        i * self.layout.value_row() + self.b.lane() + round * LANES as usize
    }

    /// For each round, the rows that this lane has of its four columns; zeros for a new sequence.
    fn read_state(&self, slot: Expr<'k>) -> Vec<Expr<'k>> {
        let b = self.b;
        let zero = b.f(0.0).splat(QUAD as u8);
        let places = self.places();
        // A loop that goes round once or not at all: a branch that gives any number of values.
        let times = slot.ge(0).select(1, 0);
        b.fold_vec(0, times, 1, vec![zero; places.len()], |_, _| {
            let from = self.cx.state_at(slot);
            let read = |&(at, inside, _): &(Expr<'k>, Expr<'k>, Expr<'k>)| {
                let load = || [b.load_vec(self.cx.state, from + at, QUAD as u8)];
                let [v] = b.choose(inside, load, || [zero]);
                v
            };
            places.iter().map(read).collect()
        })
    }

    fn write_state(&self, tile: &Tile<'k>, state: &[Expr<'k>]) {
        let b = self.b;
        b.when(tile.slot.ge(0), || {
            let to = self.cx.state_at(tile.slot);
            for (&(at, inside, mine), &v) in self.places().iter().zip(state) {
                b.when(mine, || b.when(inside, || b.store(self.cx.state, to + at, v)));
            }
        });
    }

    /// Of each vector of the state: where it is in the head's, whether there is such a row, and whether
    /// the columns are this lane's. Lanes without columns read the last ones.
    fn places(&self) -> Vec<(Expr<'k>, Expr<'k>, Expr<'k>)> {
        let (b, Layout { shape, .. }) = (self.b, self.layout);
        let (dk, wide) = (shape.dk as usize, padded(shape.dv) as i32);
        let mut places = vec![];
        for round in 0..self.layout.rounds() {
            let column = b.lane() / QUAD * QUAD + round * LANES;
            let mine = match (round + 1) * LANES <= wide as u32 {
                true => b.bool(true),
                false => column.lt(wide),
            };
            let column = column.min(wide - QUAD as i32);
            let within = column / PANEL * (dk * PANEL) + column % PANEL;
            for n in 0..self.layout.depth() as usize / PANEL {
                for r in 0..QUAD as usize {
                    let row = self.part * QUAD + n * PANEL + r;
                    let whole = (n + 1) * PANEL <= dk;
                    let inside = if whole { b.bool(true) } else { row.lt(dk) };
                    places.push((within + row * PANEL, inside, mine));
                }
            }
        }
        places
    }
}

/// Elements of a vector that divides a row of `len`.
fn vector(len: u32) -> u8 {
    [4, 2].into_iter().find(|&w| len.is_multiple_of(u32::from(w))).unwrap_or(1)
}
