//! The tiles of a product on matrix units.
//!
//! Each subgroup has 32 rows and its share of the columns. `x` and the weight go through shared
//! memory, a piece of `k` at a time, if there is room while the one before is multiplied; all of `k` is added up in
//! the accumulators, in ascending order.
//! The results leave through shared memory, half of the rows at a time.

use super::LANES;
use super::mma::{self, COLUMNS, PART, Panels, SUMS_ROW};
use super::product::{Product, TILE};
use crate::kernels::PANEL;
use q35_kernel::{Acc, Expr, Mem, MmaArgs};
use q35_types::DType;

/// How much of `k` is staged at once.
const DEPTH: u32 = 32;
/// Elements from row to row of staged `x`.
const X_ROW: u32 = DEPTH + 8;
/// Rows of a subgroup.
const ROWS: u32 = TILE / 2;

impl<'k> Product<'k> {
    /// Whether matrix units can make a tile. A weight in float32 would have to be split as `x` is, with
    /// nine products for one; and terms of `f16` have not the range of float32.
    pub(super) fn has_units(&self) -> bool {
        mma::usable(self.caps)
            && self.b.dtype_of(self.weight) == DType::Bf16
            && self.shared(1) <= self.caps.shared_bytes
    }

    /// Bytes of shared memory with room for so many pieces.
    fn shared(&self, pieces: u32) -> u32 {
        let narrow = self.terms() * TILE * X_ROW + self.parts() * DEPTH * mma::ROW;
        2 * pieces * narrow + 4 * ROWS * SUMS_ROW
    }

    /// Numbers of `bf16` that an element of `x` is.
    fn terms(&self) -> u32 {
        mma::terms(self.b.dtype_of(self.x))
    }

    fn parts(&self) -> u32 {
        if self.up.is_some() { 2 } else { 1 }
    }

    /// As [`tile`](Self::tile).
    pub(super) fn tile_on_units(
        &self,
        first_row: Expr<'k>,
        first_panel: Expr<'k>,
        source: &dyn Fn(Expr<'k>) -> Expr<'k>,
        store: &dyn Fn(Expr<'k>, Expr<'k>, Expr<'k>, u8),
    ) {
        let b = self.b;
        let (terms, parts) = (self.terms(), self.parts() as usize);
        let pieces = if self.shared(2) <= self.caps.shared_bytes { 2 } else { 1 };
        let staged = |name: &str, len: u32| b.shared(name, DType::Bf16, pieces * len);
        let xs: Vec<Mem> =
            (0..terms).map(|term| staged(&format!("x{term}"), TILE * X_ROW)).collect();
        let ws: Vec<Mem> =
            ["ws", "us"][..parts].iter().map(|n| staged(n, DEPTH * mma::ROW)).collect();
        let across = LANES / self.caps.subgroup / (TILE / ROWS);
        let columns = COLUMNS / across;
        let sums: Vec<Acc> =
            ["sums", "ups"][..parts].iter().map(|n| b.accumulator(n, ROWS, columns)).collect();
        let down = b.subgroup() / across;
        let right = b.subgroup() % across * columns;

        let mut panels = vec![];
        for up in [Some(0), self.up].into_iter().flatten() {
            let all = self.n.div_ceil(PANEL as u32);
            panels.push(Panels {
                mem: self.weight,
                first: (first_panel + up as i32) * (self.k as usize * PANEL),
                stride: self.k as usize * PANEL,
                rows: (!self.k.is_multiple_of(DEPTH)).then(|| b.i(self.k as i32)),
                panels: (!self.n.is_multiple_of(TILE)).then(|| b.i(all as i32) - first_panel),
            });
        }
        let rows = self.rows_of_lane(first_row, source);
        for &sums in &sums {
            b.mma_zero(sums);
        }
        // The piece from column `j` on, to the place that is its turn.
        let turn = |j: Expr<'k>| j / DEPTH % pieces;
        let stage = |j: Expr<'k>| {
            let (x_at, w_at) = (turn(j) * (TILE * X_ROW), turn(j) * (DEPTH * mma::ROW));
            for &(row, from, there) in &rows {
                let within = b.lane() / 8 % (DEPTH / PART) * PART;
                let padded = self.k.next_multiple_of(DEPTH);
                let put = |v: Expr<'k>| {
                    for (&xs, term) in xs.iter().zip(mma::split(v, terms)) {
                        b.store(xs, x_at + row * X_ROW + within, term);
                    }
                };
                mma::eight(b, (self.x, from), j + within, (self.k, padded), Some(there), put);
            }
            for (panels, &ws) in panels.iter().zip(&ws) {
                panels.stage(b, j, DEPTH, (ws, w_at));
            }
        };
        let multiply = |j: Expr<'k>| {
            let (x_at, w_at) = (turn(j) * (TILE * X_ROW), turn(j) * (DEPTH * mma::ROW));
            // Where only the first few rows are wanted, half of the subgroups have nothing to do.
            b.when((first_row + down * ROWS).lt(self.end), || {
                for (&acc, &ws) in sums.iter().zip(&ws) {
                    for &xs in &xs {
                        b.mma(MmaArgs {
                            acc,
                            a: b.at(xs, x_at + down * (ROWS * X_ROW)),
                            a_row: b.i(X_ROW as i32),
                            b: b.at(ws, w_at + right),
                            b_row: b.i(mma::ROW as i32),
                            b_columns: false,
                            k: DEPTH,
                        });
                    }
                }
            });
        };
        if pieces == 2 {
            stage(b.i(0));
        }
        b.range(0, self.k, DEPTH, |j| {
            // Nobody reads the place of the next piece any more, and the one of this is there.
            b.barrier();
            if pieces == 2 {
                let next = j + DEPTH as i32;
                b.when(next.lt(self.k as i32), || stage(next));
            } else {
                stage(j);
                b.barrier();
            }
            multiply(j);
        });
        self.leave(&sums, (down, right), (first_row, first_panel), store);
    }

    /// The rows that this lane stages: which of the tile, where its `x` begins, whether it is wanted. Eight lanes
    /// at a time have the same columns of eight rows, which begin in different banks.
    fn rows_of_lane(
        &self,
        first_row: Expr<'k>,
        source: &dyn Fn(Expr<'k>) -> Expr<'k>,
    ) -> Vec<(Expr<'k>, Expr<'k>, Expr<'k>)> {
        let at_once = LANES / (DEPTH / PART);
        let rows = (0..TILE).step_by(at_once as usize).map(|first| {
            let lane = self.b.lane();
            let row = lane / (8 * DEPTH / PART) * 8 + lane % 8 + first as i32;
            let number = first_row + row;
            (row, source(number.min(self.end - 1)), number.lt(self.end))
        });
        rows.collect()
    }

    /// From accumulators to `store`.
    fn leave(
        &self,
        sums: &[Acc],
        (down, right): (Expr<'k>, Expr<'k>),
        (first_row, first_panel): (Expr<'k>, Expr<'k>),
        store: &dyn Fn(Expr<'k>, Expr<'k>, Expr<'k>, u8),
    ) {
        let b = self.b;
        let result = b.shared("result", DType::F32, ROWS * SUMS_ROW);
        let (row, column) = (b.lane() / (COLUMNS / PART), b.lane() % (COLUMNS / PART) * PART);
        let at_once = LANES / (COLUMNS / PART);
        for half in 0..TILE / ROWS {
            let mut values = vec![];
            for &sums in sums {
                b.when(down.eq(half as i32), || b.mma_store(sums, b.at(result, right), SUMS_ROW));
                b.barrier();
                let mine = (0..ROWS).step_by(at_once as usize).map(|first| {
                    b.load_vec(result, (row + first as i32) * SUMS_ROW + column, PART as u8)
                });
                values.push(mine.collect::<Vec<_>>());
                b.barrier();
            }
            for (i, &sum) in values[0].iter().enumerate() {
                let row = first_row + row + (half * ROWS + i as u32 * at_once) as i32;
                let value = values.get(1).map_or(sum, |ups| sum.silu() * ups[i]);
                self.put(row, first_panel * PANEL + column, value, store);
            }
        }
    }
}
