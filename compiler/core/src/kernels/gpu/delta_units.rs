//! Products of a chunk of the delta rule with the state, on matrix units: `K S`, `Q S` and `S + Kᵀ E`.
//!
//! The state stays in float32 in the lanes' registers. What units multiply is a sum of two numbers of `bf16` for each of
//! its elements, and for each error: sixteen bits, where keys and queries, which are the other factor, have eight. A
//! piece of the state at a time goes through shared memory.

use super::delta_chunks::{Chunk, Layout, QUAD};
use super::{LANES, mma};
use crate::kernels::delta_rule::DeltaShape;
use q35_kernel::{Acc, Expr, KernelBuilder, Mem, MmaArgs};
use q35_target::Caps;
use q35_types::DType;

/// Tokens of a chunk: as many as a product of the units has rows.
pub const TOKENS: u32 = 16;
/// Rows of the state in a piece, and of [`Chunk::rows`].
const PIECE: u32 = 2 * TOKENS;
/// Vectors of the state that a lane has in sixteen rows.
const VECTORS: usize = QUAD as usize;
/// Numbers of `bf16` for each of float32.
const TERMS: u32 = 2;
/// From one row of transposed keys to the next.
const ACROSS_ROW: u32 = TOKENS + mma::PART;

/// Whether the heads are of whole pieces, a column of values for each lane at most, and keys are of `bf16` anyway.
pub fn usable(shape: DeltaShape, dtype: DType, caps: &Caps) -> bool {
    let whole = shape.dk.is_multiple_of(PIECE) && shape.dv.is_multiple_of(32) && shape.dv <= LANES;
    mma::usable(caps) && dtype == DType::Bf16 && whole && columns(shape, caps).is_multiple_of(8)
}

/// Columns of a subgroup.
fn columns(shape: DeltaShape, caps: &Caps) -> u32 {
    shape.dv / (LANES / caps.subgroup)
}

/// From row to row of the state and of errors.
fn row(layout: &Layout) -> u32 {
    layout.shape.dv + mma::PART
}

/// Bytes of shared memory.
pub fn bytes(layout: &Layout) -> u32 {
    2 * (TERMS * (PIECE + TOKENS) * row(layout) + layout.shape.dk * ACROSS_ROW)
}

/// What the units work on.
pub struct Units<'k> {
    /// A piece of the state, and the errors of the chunk, in terms.
    state: Vec<Mem>,
    errors: Vec<Mem>,
    /// `Kᵀ`.
    across: Mem,
    /// `K S`, `Q S`, and a piece of `Kᵀ E`.
    read: Acc,
    asked: Acc,
    added: Acc,
    /// The subgroup's first column.
    right: Expr<'k>,
}

impl<'k> Units<'k> {
    pub fn new(b: &'k KernelBuilder, layout: &Layout, caps: &Caps) -> Self {
        let columns = columns(layout.shape, caps);
        let terms = |name: &str, rows: u32| {
            let term = |n| b.shared(&format!("{name}{n}"), DType::Bf16, rows * row(layout));
            (0..TERMS).map(term).collect()
        };
        Units {
            state: terms("state", PIECE),
            errors: terms("errors", TOKENS),
            across: b.shared("across", DType::Bf16, layout.shape.dk * ACROSS_ROW),
            read: b.accumulator("read", TOKENS, columns),
            asked: b.accumulator("asked", TOKENS, columns),
            added: b.accumulator("added", PIECE, columns),
            right: b.subgroup() * columns,
        }
    }

    /// Neighbours of the key of a token, from a column on.
    pub fn store_keys(
        &self,
        c: &Chunk<'_, 'k>,
        (token, column): (Expr<'k>, Expr<'k>),
        k: Expr<'k>,
    ) {
        for i in 0..k.ty().width {
            let at = (column + i32::from(i)) * ACROSS_ROW + token;
            c.b.store(self.across, at, k.extract(i));
        }
    }

    /// Of each token, this lane's column.
    pub fn store_errors(&self, c: &Chunk<'_, 'k>, errors: impl Iterator<Item = Expr<'k>>) {
        let b = c.b;
        b.when(b.lane().lt(c.layout.shape.dv as i32), || {
            for (i, e) in errors.enumerate() {
                for (&to, term) in self.errors.iter().zip(mma::split(e, TERMS)) {
                    b.store(to, b.lane() + i as u32 * row(&c.layout), term);
                }
            }
        });
    }

    /// `K S` to the first rows of values, `Q S` to those behind them.
    pub fn times_state(&self, c: &Chunk<'_, 'k>, state: &[Expr<'k>]) {
        let (b, layout) = (c.b, &c.layout);
        b.mma_zero(self.read);
        b.mma_zero(self.asked);
        for (piece, vectors) in state.chunks(2 * VECTORS).enumerate() {
            if piece > 0 {
                b.barrier();
            }
            self.store_piece(c, vectors);
            b.barrier();
            for (acc, x) in [(self.read, c.k), (self.asked, c.q)] {
                for &state in &self.state {
                    b.mma(MmaArgs {
                        acc,
                        a: b.at(x, b.n(piece * PIECE as usize)),
                        a_row: b.n(layout.key_row() as usize),
                        b: b.at(state, self.right),
                        b_row: b.n(row(layout) as usize),
                        b_columns: false,
                        k: PIECE,
                    });
                }
            }
        }
        let queries = TOKENS * layout.value_row();
        b.mma_store(self.read, b.at(c.rows, self.right), layout.value_row());
        b.mma_store(self.asked, b.at(c.rows, self.right + queries), layout.value_row());
    }

    fn store_piece(&self, c: &Chunk<'_, 'k>, vectors: &[Expr<'k>]) {
        let (b, layout) = (c.b, &c.layout);
        let store = || {
            for (place, &v) in vectors.iter().enumerate() {
                let at = within(c, place) * row(layout) + c.b.lane() / QUAD * QUAD;
                for (&to, term) in self.state.iter().zip(mma::split(v, TERMS)) {
                    b.store(to, at, term);
                }
            }
        };
        match layout.shape.dv {
            LANES => store(),
            dv => b.when(b.lane().lt(dv as i32), store),
        }
    }

    /// `decay · S + Kᵀ E`, through the rows of values.
    pub fn add_products(
        &self,
        c: &Chunk<'_, 'k>,
        state: &[Expr<'k>],
        decay: Expr<'k>,
    ) -> Vec<Expr<'k>> {
        let (b, layout) = (c.b, &c.layout);
        let column = (b.lane() / QUAD * QUAD).min((layout.shape.dv - QUAD) as i32);
        let mut next = Vec::with_capacity(state.len());
        for (piece, vectors) in state.chunks(2 * VECTORS).enumerate() {
            // The errors are there; what was in the rows before has been read.
            b.barrier();
            b.mma_zero(self.added);
            for &errors in &self.errors {
                b.mma(MmaArgs {
                    acc: self.added,
                    a: b.at(self.across, b.n(piece * (PIECE * ACROSS_ROW) as usize)),
                    a_row: b.n(ACROSS_ROW as usize),
                    b: b.at(errors, self.right),
                    b_row: b.n(row(layout) as usize),
                    b_columns: false,
                    k: TOKENS,
                });
            }
            b.mma_store(self.added, b.at(c.rows, self.right), layout.value_row());
            b.barrier();
            next.extend(vectors.iter().enumerate().map(|(place, &s)| {
                let at = within(c, place) * layout.value_row() + column;
                b.mul_add(s, decay, b.load_vec(c.rows, at, QUAD as u8))
            }));
        }
        next
    }
}

/// The row within a piece of a lane's vector number `place`.
fn within<'k>(c: &Chunk<'_, 'k>, place: usize) -> Expr<'k> {
    c.part * QUAD + (place / VECTORS * TOKENS as usize + place % VECTORS) as i32
}
