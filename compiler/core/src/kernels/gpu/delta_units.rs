//! Products of a chunk of the delta rule with the state, on matrix units: `K S` and `Q S`.
//!
//! The state stays in float32 in the lanes' registers. What units multiply is a sum of two numbers of `bf16` for each of
//! its elements: sixteen bits, where keys and queries, which are the other factor, have eight. A piece of the state at
//! a time goes through shared memory. `S + Kᵀ E` is left to the lanes, who have `S`: on units, with heads of 128, it would
//! take more registers than there are.

use super::delta_chunks::{Chunk, Layout, QUAD, Tokens};
use super::{LANES, mma};
use crate::kernels::PANEL;
use crate::kernels::delta_rule::DeltaShape;
use q35_kernel::{Acc, Expr, KernelBuilder, Mem, MmaArgs};
use q35_target::Caps;
use q35_types::DType;

/// Tokens of a chunk: as many as a product of the units has rows.
pub const TOKENS: u32 = 16;
/// Rows of the state in a piece.
const PIECE: u32 = 32;
/// Vectors of the state that a lane has in sixteen rows.
const VECTORS: usize = QUAD as usize;
/// Numbers of `bf16` for each of float32.
const TERMS: u32 = 2;

/// Whether the heads are of whole pieces and fill the units, have a column for each lane at most, and keys are of
/// `bf16` anyway.
pub fn usable(shape: DeltaShape, dtype: DType, caps: &Caps) -> bool {
    let DeltaShape { dk, dv, .. } = shape;
    let whole = dk.is_multiple_of(PIECE) && dv.is_multiple_of(32) && dv <= LANES;
    let fills = caps.mma.is_some_and(|mma| columns(shape, caps).is_multiple_of(mma.n));
    mma::usable(caps) && dtype == DType::Bf16 && whole && fills
}

/// Columns of a subgroup.
fn columns(shape: DeltaShape, caps: &Caps) -> u32 {
    shape.dv / (LANES / caps.subgroup)
}

/// From row to row of the state.
fn row(layout: &Layout) -> u32 {
    layout.shape.dv + mma::PART
}

/// Bytes of shared memory.
pub fn bytes(layout: &Layout) -> u32 {
    2 * (TERMS * PIECE * row(layout) + TOKENS * LANES)
}

/// What the units work on.
pub struct Units<'k> {
    /// A piece of the state, in terms.
    state: Vec<Mem>,
    /// Values, a row for each token. Registers are for the state and for sums.
    values: Mem,
    /// `K S` and `Q S`.
    read: Acc,
    asked: Acc,
    /// The subgroup's first column.
    right: Expr<'k>,
}

impl<'k> Units<'k> {
    pub fn new(b: &'k KernelBuilder, layout: &Layout, caps: &Caps) -> Self {
        let columns = columns(layout.shape, caps);
        let term = |n| b.shared(&format!("state{n}"), DType::Bf16, PIECE * row(layout));
        Units {
            state: (0..TERMS).map(term).collect(),
            values: b.shared("values", DType::Bf16, TOKENS * LANES),
            read: b.accumulator("read", TOKENS, columns),
            asked: b.accumulator("asked", TOKENS, columns),
            right: b.subgroup() * columns,
        }
    }

    /// Values of all tokens; where the chunk has none, those of the last, which a beta of zero keeps out.
    pub fn stage_values(&self, c: &Chunk<'_, 'k>, tokens: &Tokens<'k>) {
        let (b, each) = (c.b, c.layout.shape.dv / QUAD);
        for first in (0..TOKENS * each).step_by(LANES as usize) {
            let number = b.lane() + first;
            let (row, column) = (number / each, number % each * QUAD);
            let [_, _, at] = c.cx.columns(tokens.first + row.min(tokens.len - 1));
            let v = b.load_vec(c.cx.qkv, at + column, QUAD as u8);
            b.store(self.values, row * LANES + column, v);
        }
    }

    /// Of each token, this lane's column of the values.
    pub fn values(&self, c: &Chunk<'_, 'k>) -> Vec<Expr<'k>> {
        let column = c.b.lane().min(c.layout.shape.dv as i32 - 1);
        (0..TOKENS).map(|i| c.b.load(self.values, column + i * LANES)).collect()
    }

    /// `K S` to the first rows of values, `Q S` to those behind them.
    pub fn times_state(&self, c: &Chunk<'_, 'k>, state: &[Expr<'k>]) {
        let (b, layout) = (c.b, &c.layout);
        let products = [(self.read, c.k), (self.asked, c.q)];
        for (acc, _) in products {
            b.mma_zero(acc);
        }
        for (piece, vectors) in state.chunks(2 * VECTORS).enumerate() {
            if piece > 0 {
                b.barrier();
            }
            self.store_piece(c, vectors);
            b.barrier();
            for (acc, x) in products {
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
        for (number, (acc, _)) in products.into_iter().enumerate() {
            let to = self.right + number as u32 * TOKENS * layout.value_row();
            b.mma_store(acc, b.at(c.rows, to), layout.value_row());
        }
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
}

/// The row within a piece of a lane's vector number `place`.
fn within<'k>(c: &Chunk<'_, 'k>, place: usize) -> Expr<'k> {
    c.part * QUAD + (place / VECTORS * PANEL + place % VECTORS) as i32
}
