//! Products with panels: for a few rows, split over the lanes along `k`; for many, in tiles through
//! shared memory.

use super::LANES;
use crate::kernels::{PANEL, row};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_target::Caps;
use q35_types::DType;

/// One product and how its rows are found.
pub struct Product<'k> {
    pub b: &'k KernelBuilder,
    pub caps: &'k Caps,
    pub x: Mem,
    pub weight: Mem,
    pub n: u32,
    pub k: u32,
    /// Weight and eps of an RMSNorm of `x`; only for a few rows.
    pub norm: Option<(Mem, f32)>,
    /// Panel of the second factor of a SwiGLU.
    pub up: Option<u32>,
    /// Rows that are wanted.
    pub begin: Expr<'k>,
    pub end: Expr<'k>,
}

/// Columns that a lane takes of a panel.
const PART: u32 = 8;
/// Lanes that share a column of `k`, and so how many ways `k` is split.
const SPLIT: u32 = LANES / 2;
/// Rows and columns of a tile, and how much of `k` is staged at once.
pub const TILE: u32 = 64;
const DEPTH: u32 = 16;

impl<'k> Product<'k> {
    /// One panel, all rows, a few at a time: `store(row, column, value)` for every element.
    /// `source(row)` is where the row's `x` begins.
    pub fn split(
        &self,
        panel: Expr<'k>,
        source: &dyn Fn(Expr<'k>) -> Expr<'k>,
        store: &dyn Fn(Expr<'k>, Expr<'k>, Expr<'k>),
    ) {
        let b = self.b;
        let partial = b.shared("partial", DType::F32, SPLIT * (PANEL as u32 + 1));
        let mut at = self.begin;
        for rows in [8, 4, 2, 1] {
            let whole = at + (self.end - at) / rows * rows;
            b.range(at, whole, rows as u32, |first| {
                self.split_rows(rows, first, panel, partial, source, store);
            });
            at = whole;
        }
    }

    fn split_rows(
        &self,
        rows: i32,
        first: Expr<'k>,
        panel: Expr<'k>,
        partial: Mem,
        source: &dyn Fn(Expr<'k>) -> Expr<'k>,
        store: &dyn Fn(Expr<'k>, Expr<'k>, Expr<'k>),
    ) {
        let b = self.b;
        let k = self.k as usize;
        let from: Vec<Expr> = (0..rows).map(|r| source(first + r)).collect();
        let scale: Vec<Option<Expr>> = from
            .iter()
            .map(|&at| {
                self.norm.map(|(_, eps)| row::inverse_rms(b, self.caps, k, eps, (self.x, at)))
            })
            .collect();

        let (slice, half) = (b.lane() / 2, b.lane() % 2);
        let weights = |panel: Expr<'k>, j: Expr<'k>| {
            let at = panel * (k * PANEL) + j * PANEL + half * PART;
            b.load_vec(self.weight, at, PART as u8)
        };
        let parts = if self.up.is_some() { 2 } else { 1 };
        let zeros = vec![b.f(0.0).splat(PART as u8); rows as usize * parts];
        let sums = b.fold_vec(slice, k, SPLIT, zeros, |j, sums| {
            let norm = self.norm.map(|(weight, _)| b.load(weight, j));
            let first = weights(panel, j);
            let second = self.up.map(|up| weights(panel + up as i32, j));
            let mut next = Vec::with_capacity(sums.len());
            for (r, &at) in from.iter().enumerate() {
                let x = b.load(self.x, at + j);
                let x = norm.map_or(x, |n| x * n);
                next.push(b.mul_add(x, first, sums[r * parts]));
                next.extend(second.map(|w| b.mul_add(x, w, sums[r * parts + 1])));
            }
            next
        });

        for r in 0..rows as usize {
            let total = |sum: Expr<'k>| {
                let total = self.join(partial, sum, slice, half);
                scale[r].map_or(total, |s| total * s)
            };
            let value = total(sums[r * parts]);
            let value = match self.up {
                None => value,
                Some(_) => value.silu() * total(sums[r * parts + 1]),
            };
            let (column, part) = (b.lane() / PART, b.lane() % PART);
            let col = panel * PANEL + column;
            b.when(part.eq(0).and(col.lt(self.n as i32)), || store(first + r as i32, col, value));
        }
    }

    /// Sums of a panel's columns over all slices: lane `8 c + i` gets column c's.
    fn join(&self, partial: Mem, sum: Expr<'k>, slice: Expr<'k>, half: Expr<'k>) -> Expr<'k> {
        let b = self.b;
        // A row is one longer than a panel, so that columns fall into different banks.
        let stride = PANEL as u32 + 1;
        b.barrier();
        for i in 0..PART as u8 {
            let at = slice * stride + half * PART + i32::from(i);
            b.store(partial, at, sum.extract(i));
        }
        b.barrier();
        let (column, part) = (b.lane() / PART, b.lane() % PART);
        let [total] = b.fold(0, SPLIT / PART, 1, [b.f(0.0)], |q, [total]| {
            [total + b.load(partial, (q * PART + part) * stride + column)]
        });
        b.cluster(ReduceOp::Sum, total, PART)
    }

    /// A tile of 64 rows by four panels, sums in ascending `k`: `store(row, column, values, width)`.
    pub fn tile(
        &self,
        first_row: Expr<'k>,
        first_panel: Expr<'k>,
        source: &dyn Fn(Expr<'k>) -> Expr<'k>,
        store: &dyn Fn(Expr<'k>, Expr<'k>, Expr<'k>, u8),
    ) {
        assert!(self.norm.is_none(), "many rows are normalised before");
        let b = self.b;
        let parts = if self.up.is_some() { 2 } else { 1 };
        let xs = b.shared("xs", DType::F32, DEPTH * TILE);
        let ws: Vec<Mem> =
            ["ws", "us"][..parts].iter().map(|n| b.shared(n, DType::F32, DEPTH * TILE)).collect();
        let (rows, columns) = (b.lane() / 8, b.lane() % 8);
        let zeros = vec![b.f(0.0).splat(PART as u8); 4 * parts];

        // Which row this lane stages, and which part of which panel.
        let staged = first_row + b.lane() / 2;
        let from = source(staged.min(self.end - 1));
        let k = self.k as i32;
        let sums = b.fold_vec(0, self.k, DEPTH, zeros, |j, sums| {
            b.barrier();
            for i in 0..DEPTH as i32 / 2 {
                let within = b.lane() % 2 * (DEPTH / 2) + i;
                let inside = staged.lt(self.end).and((j + within).lt(k));
                let [v] = b.choose(inside, || [b.load(self.x, from + j + within)], || [b.f(0.0)]);
                b.store(xs, within * TILE + b.lane() / 2, v);
            }
            for (part, &ws) in ws.iter().enumerate() {
                let (depth, panel) = (j + rows, first_panel + columns / 2);
                let inside = depth.lt(k).and((panel * PANEL).lt(self.n as i32));
                let panel = panel + [0, self.up.unwrap_or(0) as i32][part];
                let at = panel * (self.k as usize * PANEL) + depth * PANEL + columns % 2 * PART;
                let [v] = b.choose(
                    inside,
                    || [b.load_vec(self.weight, at, PART as u8)],
                    || [b.f(0.0).splat(PART as u8)],
                );
                b.store(ws, rows * TILE + columns * PART, v);
            }
            b.barrier();
            b.fold_vec(0, DEPTH, 1, sums, |d, mut sums| {
                let x = b.load_vec(xs, d * TILE + rows * 4, 4);
                for (part, &ws) in ws.iter().enumerate() {
                    let w = b.load_vec(ws, d * TILE + columns * PART, PART as u8);
                    for r in 0..4 {
                        let sum = &mut sums[part * 4 + r];
                        *sum = b.mul_add(x.extract(r as u8), w, *sum);
                    }
                }
                sums
            })
        });

        let col = first_panel * PANEL + columns * PART;
        for r in 0..4usize {
            let row = first_row + rows * 4 + r as i32;
            let value = match self.up {
                None => sums[r],
                Some(_) => sums[r].silu() * sums[4 + r],
            };
            b.when(row.lt(self.end), || {
                if self.n.is_multiple_of(PART) {
                    b.when(col.lt(self.n as i32), || store(row, col, value, PART as u8));
                } else {
                    for i in 0..PART as u8 {
                        let col = col + i32::from(i);
                        b.when(col.lt(self.n as i32), || store(row, col, value.extract(i), 1));
                    }
                }
            });
        }
    }
}
