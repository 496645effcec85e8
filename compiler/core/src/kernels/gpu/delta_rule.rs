//! The gated delta rule with a lane for each column of the state, which stays in registers.
//!
//! Token by token, every lane reads the same `k` and `q` and needs no other lane: in `prefill` the
//! state is read and written once for all of a sequence's tokens in the step.

use super::LANES;
use crate::kernels::PANEL;
use crate::kernels::delta_rule::Cx;
use crate::kernels::step::Step;
use q35_kernel::{Expr, KernelBuilder};
use q35_types::DType;

impl<'k> Cx<'k> {
    /// All tokens of a sequence. A head with more columns than there are lanes gives each lane several.
    pub fn by_columns(&self, step: &Step<'k>, seq: Expr<'k>) {
        let b = self.b;
        let shape = self.shape();
        let (dk, dv) = (shape.dk as usize, shape.dv);
        let q = b.shared("q", DType::F32, shape.dk);
        let k = b.shared("k", DType::F32, shape.dk);
        let o = b.shared("o", DType::F32, dv);
        let widths = widths(dk);

        let slot = step.slot_of(seq);
        let columns = columns_of(b, dv);
        let state = columns.iter().flat_map(|&(column, _)| {
            self.read_column(self.column_at(slot.max(0), column), slot.lt(0), &widths)
        });
        let state: Vec<Expr> = state.collect();

        let (first, end) = step.tiles_of(seq);
        b.fold_vec(first, end, 1, state, |n, state| {
            let tile = step.tile(n);
            let state = b.fold_vec(0, tile.len, 1, state, |i, state| {
                let token = tile.token + i;
                let [q_at, k_at, v_at] = self.columns(token);
                b.barrier();
                b.range(b.lane(), dk, LANES, |d| {
                    b.store(q, d, b.load(self.qkv, q_at + d));
                    b.store(k, d, b.load(self.qkv, k_at + d));
                });
                b.barrier();
                let (g, beta) = self.gates(token);
                let alpha = g.exp();
                let part = |m, &(at, w): &(usize, u8)| b.load_vec(m, at, w);
                let dot = |m, state: &[Expr<'k>]| {
                    let sums = widths.iter().zip(state).map(|(p, &s)| part(m, p) * s);
                    add_up(sums.collect())
                };
                let mut next: Vec<Expr> = vec![];
                for (&(column, mine), state) in columns.iter().zip(state.chunks(widths.len())) {
                    let read = dot(k, state) * alpha;
                    let error = (b.load(self.qkv, v_at + column) - read) * beta;
                    let rows = widths.iter().zip(state);
                    let new: Vec<Expr> =
                        rows.map(|(p, &s)| b.mul_add(part(k, p), error, s * alpha)).collect();
                    let out = dot(q, &new);
                    b.when(mine, || b.store(o, column, out));
                    next.extend(new);
                }
                b.barrier();
                self.finish(o, b.i(0), token);
                next
            });
            for (&(column, mine), state) in columns.iter().zip(state.chunks(widths.len())) {
                b.when(tile.slot.ge(0).and(mine), || {
                    self.write_column(self.column_at(tile.slot, column), &widths, state);
                });
            }
            state
        });
    }

    /// Where a column of the head's state in `slot` begins.
    fn column_at(&self, slot: Expr<'k>, column: Expr<'k>) -> Expr<'k> {
        let panel = self.shape().dk as usize * PANEL;
        self.state_at(slot) + column / PANEL * panel + column % PANEL
    }

    /// A column of the state that begins at `from`, or zeros: its rows in vectors of these widths.
    fn read_column(
        &self,
        from: Expr<'k>,
        fresh: Expr<'k>,
        widths: &[(usize, u8)],
    ) -> Vec<Expr<'k>> {
        let b = self.b;
        let row = |at: usize| b.load(self.state, from + at * PANEL);
        let vector = |&(at, w): &(usize, u8)| {
            let rows: Vec<Expr> = (at..at + usize::from(w)).map(row).collect();
            // What a fresh slot holds is read all the same: a branch for each row would cost more.
            fresh.select(0.0, b.vector(&rows))
        };
        widths.iter().map(vector).collect()
    }

    /// The other way.
    fn write_column(&self, to: Expr<'k>, widths: &[(usize, u8)], column: &[Expr<'k>]) {
        for (&(at, w), &rows) in widths.iter().zip(column) {
            for i in 0..w {
                let at = to + (at + usize::from(i)) * PANEL;
                self.b.store(self.state, at, rows.extract(i));
            }
        }
    }
}

/// The columns of a lane, one for each round of lanes, and whether there is such a column.
fn columns_of(b: &KernelBuilder, dv: u32) -> Vec<(Expr<'_>, Expr<'_>)> {
    let column = |round| {
        let column = b.lane() + round * LANES;
        (column.min(dv as i32 - 1), column.lt(dv as i32))
    };
    (0..dv.div_ceil(LANES)).map(column).collect()
}

/// Vectors of four, then of what is left.
fn widths(len: usize) -> Vec<(usize, u8)> {
    let mut parts: Vec<(usize, u8)> = (0..len / 4).map(|n| (n * 4, 4)).collect();
    let rest = len / 4 * 4;
    parts.extend((rest..len).map(|at| (at, 1)));
    parts
}

/// Sum of all elements: vectors of one width first, then their elements.
fn add_up(mut terms: Vec<Expr<'_>>) -> Expr<'_> {
    let narrow: Vec<Expr> = terms.iter().copied().filter(|t| t.ty().width == 1).collect();
    terms.retain(|t| t.ty().width > 1);
    // Pairs of pairs: a short chain of additions.
    while terms.len() > 1 {
        terms = terms.chunks(2).map(|c| if c.len() == 2 { c[0] + c[1] } else { c[0] }).collect();
    }
    let wide = terms.into_iter().map(Expr::sum);
    wide.chain(narrow).reduce(|a, b| a + b).expect("a head has rows")
}
