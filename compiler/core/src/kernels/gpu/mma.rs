//! What products and attention have in common on matrix units: operands, and who owns which sums.
//!
//! Operands are in shared arrays of `bf16`. A right one is four panels side by side: of a weight, of
//! keys or of values, as all of them lie in panels. A left one is a row of activations; one in float32 is
//! split into a sum of `bf16` numbers, which is exact for three of them, so that products are as exact as
//! in float32.
//!
//! Rows in shared memory are a little longer than what they hold: that much, that eight of them
//! begin in different banks, and each at a multiple of 16 bytes.

use super::LANES;
use crate::kernels::PANEL;
use q35_kernel::{BinaryOp, Expr, KernelBuilder, Mem, UnaryOp};
use q35_target::Caps;
use q35_types::DType;

/// Columns of a right operand, and of the sums of all subgroups together.
pub const COLUMNS: u32 = 64;
/// Elements from row to row of a right operand.
pub const ROW: u32 = COLUMNS + 8;
/// Elements from row to row of sums that were stored: four rows of eight fall into different banks.
pub const SUMS_ROW: u32 = COLUMNS + 8;
/// Elements that a lane moves at once.
pub const PART: u32 = 8;

/// Whether the matrix units are such that what is here can be divided among the subgroups: two or
/// four of them, by tiles of 16 x 16 or parts of it.
pub fn usable(caps: &Caps) -> bool {
    let divides = |size: u32| 16u32.is_multiple_of(size);
    let fits = caps.mma.is_some_and(|mma| [mma.m, mma.n, mma.k].into_iter().all(divides));
    fits && caps.lanes == LANES && matches!(caps.subgroup, 32 | 64)
}

/// Numbers of `bf16` that a number of this type is the sum of.
pub fn terms(dtype: DType) -> u32 {
    if dtype == DType::Bf16 { 1 } else { 3 }
}

/// `v` as a sum of `terms` numbers: each but the last has the highest eight bits of what is left of `v`.
/// The last of three has no more bits than that.
pub fn split<'k>(v: Expr<'k>, terms: u32) -> Vec<Expr<'k>> {
    let mut rest = v;
    let mut all = vec![];
    for _ in 1..terms {
        let high = rest.unary(UnaryOp::FloatToBits).binary(BinaryOp::And, !0xffff);
        let high = high.unary(UnaryOp::BitsToFloat);
        all.push(high);
        rest = rest - high;
    }
    all.push(rest);
    all
}

/// Eight neighbours of a row of `len` elements that begins at `row`, given to `put`: zero beyond the
/// end of the row, and all of them if not `there`. Columns are below `padded`.
pub fn eight<'k>(
    b: &'k KernelBuilder,
    (mem, row): (Mem, Expr<'k>),
    column: Expr<'k>,
    (len, padded): (u32, u32),
    there: Option<Expr<'k>>,
    put: impl Fn(Expr<'k>),
) {
    if len.is_multiple_of(PART) {
        let inside = (len < padded).then(|| column.lt(len as i32));
        return if_all(b, [there, inside], || b.load_vec(mem, row + column, PART as u8), put);
    }
    let element = |i: i32| {
        let column = column + i;
        let inside = column.lt(len as i32);
        let inside = there.map_or(inside, |there| there.and(inside));
        let [v] = b.choose(inside, || [b.load(mem, row + column)], || [b.f(0.0)]);
        v
    };
    put(b.vector(&(0..PART as i32).map(element).collect::<Vec<_>>()));
}

/// Panels, some rows of which become a right operand.
pub struct Panels<'k> {
    pub mem: Mem,
    /// Where the first begins, and elements from one to the next.
    pub first: Expr<'k>,
    pub stride: usize,
    /// How many rows there are and how many panels from the first on, where what is asked for may be
    /// more: the rest is zero.
    pub rows: Option<Expr<'k>>,
    pub panels: Option<Expr<'k>>,
}

impl<'k> Panels<'k> {
    /// Rows `row .. row + depth` of four panels, to `[depth][ROW]` from an element on; `depth` is a multiple of eight.
    pub fn stage(
        &self,
        b: &'k KernelBuilder,
        row: Expr<'k>,
        depth: u32,
        (to, start): (Mem, Expr<'k>),
    ) {
        // Of a panel, what lanes read together is in one piece.
        let each = depth * PANEL as u32 / PART;
        for first in (0..4 * each).step_by(LANES as usize) {
            let number = b.lane() + first as i32;
            let (panel, within) = (number / each, number % each);
            // Eight lanes at a time have the same half of eight rows, which begin in different banks.
            let (down, half) = (within / 16 * 8 + within % 8, within / 8 % 2 * PART);
            let at = self.first + panel * self.stride + (row + down) * PANEL + half;
            let inside = [
                self.rows.map(|rows| (row + down).lt(rows)),
                self.panels.map(|panels| panel.lt(panels)),
            ];
            let load = || b.load_vec(self.mem, at, PART as u8);
            let to_at = start + down * ROW + panel * PANEL + half;
            if_all(b, inside, load, |v| b.store(to, to_at, v));
        }
    }
}

/// `put` what is loaded, or zeros.
fn if_all<'k>(
    b: &'k KernelBuilder,
    conditions: [Option<Expr<'k>>; 2],
    load: impl Fn() -> Expr<'k>,
    put: impl Fn(Expr<'k>),
) {
    match conditions.into_iter().flatten().reduce(Expr::and) {
        None => put(load()),
        Some(all) => b.when_else(all, || put(load()), || put(b.f(0.0).splat(PART as u8))),
    }
}
