//! Products with panels: for a few rows, split over the lanes along `k`; for many, in tiles through
//! shared memory.

use super::LANES;
use crate::kernels::{Norm, PANEL};
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
    /// An RMSNorm of `x`, and its weight; only for a few rows.
    pub norm: Option<(Mem, Norm)>,
    /// For a few rows: `x` in heads that are still to be normalised.
    pub heads: Option<Heads>,
    /// For a few rows: only these columns of `x`, from one on. Sums of slices are added up elsewhere, and only
    /// then normalised: those of squares are stored as one more column.
    pub slice: Option<(Expr<'k>, u32)>,
    /// Panel of the second factor of a SwiGLU.
    pub up: Option<u32>,
    /// Rows that are wanted.
    pub begin: Expr<'k>,
    pub end: Expr<'k>,
}

/// Rows in heads of so many columns, each to be divided by its root mean square. Whoever made them has left
/// `parts` sums of squares for each head.
#[derive(Clone, Copy)]
pub struct Heads {
    pub squares: Mem,
    pub width: u32,
    pub parts: u32,
    pub eps: f32,
}

impl Heads {
    /// What the head with the element at `at` is multiplied by.
    fn scale<'k>(&self, b: &'k KernelBuilder, at: Expr<'k>) -> Expr<'k> {
        let first = at / self.width * self.parts;
        let width = if self.parts.is_multiple_of(4) { 4 } else { 1 };
        let sums = (0..self.parts / width)
            .map(|n| b.load_vec(self.squares, first + n * width, width as u8));
        let squares = sums.reduce(|a, b| a + b).expect("a head has parts").sum();
        b.f(1.0) / (squares / self.width as f32 + self.eps).sqrt()
    }
}

/// Columns that a lane takes of a panel.
const PART: u32 = 8;
/// Lanes that share a column of `k`, and so how many ways `k` is split.
const SPLIT: u32 = LANES / 2;
/// Rows that are multiplied together with one read of a weight: as many as leave room in registers. More
/// rows find the panel in a cache.
const ROWS: u32 = 4;
/// Numbers of `x` that are staged at once, all rows together: 16 KiB.
const STAGED: u32 = 4096;
/// Sums that lanes hand each other at once: of two rows, two panels each.
const JOINED: u32 = 4;
/// Numbers of one of them: a row for each slice, in which the two halves of a panel alternate, see [`place`].
const PARTIAL: u32 = SPLIT * STRIDE + CLUSTER * STRIDE;
const STRIDE: u32 = PANEL as u32 + 2;
/// Lanes that sum up a column, a quarter of the slices each; no subgroup has fewer.
const CLUSTER: u32 = 4;
const QUARTER: u32 = SPLIT / CLUSTER;
/// Rows and columns of a tile, and how much of `k` is staged at once.
pub const TILE: u32 = 64;
const DEPTH: u32 = 16;

/// The shared array of products with a few rows, one after another: first rows of `x`, times the
/// norm's weight, then sums of each slice of `k`.
#[derive(Clone, Copy)]
pub struct Scratch(Mem);

impl Scratch {
    /// For products of up to `k` columns of `x`.
    pub fn new(b: &KernelBuilder, k: u32) -> Self {
        Scratch(b.shared("scratch", DType::F32, STAGED.min(ROWS * k).max(JOINED * PARTIAL)))
    }
}

/// What a task carries from one piece of `k` to the next.
struct Sums<'k> {
    /// Of each row, each panel's.
    products: Vec<Expr<'k>>,
    /// Of each row, of the squares of `x`.
    squares: Vec<Expr<'k>>,
}

/// Where the row of a slice begins: of a quarter of the slices, and its number in it. The lanes of a subgroup write
/// sixteen rows of one quarter, two numbers of each, and read one row of each quarter, every other number; both fall into
/// different banks.
fn place<'k>(quarter: Expr<'k>, slice: Expr<'k>) -> Expr<'k> {
    quarter * (QUARTER * STRIDE + 16) + quarter / 2 + slice * STRIDE
}

impl<'k> Product<'k> {
    /// The rows from `begin` to `end` of `x · weightᵀ`, `[n, k]`, and nothing before or after.
    pub fn new(
        (b, caps): (&'k KernelBuilder, &'k Caps),
        (x, weight): (Mem, Mem),
        (n, k): (u32, u32),
        (begin, end): (Expr<'k>, Expr<'k>),
    ) -> Self {
        Product {
            b,
            caps,
            x,
            weight,
            n,
            k,
            norm: None,
            heads: None,
            slice: None,
            up: None,
            begin,
            end,
        }
    }

    /// `count` panels from `first` on, as far as there are, for all rows, a few at a time:
    /// `store(row, column, value)` for every element. `source(row)` is where the row's `x` begins.
    ///
    /// `x` goes through shared memory, so a task reads it and the norm's weight once. The order of
    /// sums follows from `k` alone: pieces of `k` are whole rounds of all lanes.
    pub fn split(
        &self,
        scratch: Scratch,
        (first, count): (Expr<'k>, u32),
        source: &dyn Fn(Expr<'k>) -> Expr<'k>,
        store: &dyn Fn(Expr<'k>, Expr<'k>, Expr<'k>),
    ) {
        let b = self.b;
        let panels = (first, count);
        b.when_else(
            (self.end - self.begin).eq(1),
            || self.split_rows(scratch, self.begin, 1, panels, source, store),
            || {
                b.range(self.begin, self.end, ROWS, |row| {
                    self.split_rows(scratch, row, ROWS, panels, source, store);
                });
            },
        );
    }

    /// `rows` rows from `row` on; those beyond the end repeat the last and are not stored.
    fn split_rows(
        &self,
        scratch: Scratch,
        row: Expr<'k>,
        rows: u32,
        (first, count): (Expr<'k>, u32),
        source: &dyn Fn(Expr<'k>) -> Expr<'k>,
        store: &dyn Fn(Expr<'k>, Expr<'k>, Expr<'k>),
    ) {
        let b = self.b;
        let from: Vec<Expr> = (0..rows).map(|r| source((row + r).min(self.end - 1))).collect();
        let last = self.n.div_ceil(PANEL as u32) as i32 - 1;
        let panels: Vec<Expr> = match self.up {
            Some(up) => vec![first, first + up],
            None => (0..count).map(|i| (first + i).min(last)).collect(),
        };
        let (begin, len) = self.columns();
        let piece = self.staged(rows);
        let zero = |width| b.f(0.0).splat(width);
        let products = vec![zero(PART as u8); from.len() * panels.len()];
        let squares = vec![zero(self.width()); from.len()];
        let sums = if piece == len {
            let sums = Sums { products, squares };
            self.piece(scratch, &from, &panels, (begin, b.n(len as usize)), sums)
        } else {
            let carried = [products, squares].concat();
            let products = from.len() * panels.len();
            let end = begin + len as i32;
            let mut sums = b.fold_vec(begin, end, piece, carried, |start, mut carried| {
                let len = (end - start).min(piece as i32);
                let squares = carried.split_off(products);
                let sums = Sums { products: carried, squares };
                let Sums { products, squares } =
                    self.piece(scratch, &from, &panels, (start, len), sums);
                [products, squares].concat()
            });
            let squares = sums.split_off(products);
            Sums { products: sums, squares }
        };
        let totals = self.totals(scratch, &sums.squares);
        let scales: Vec<Expr> = match (self.norm, self.slice) {
            (Some((_, Norm { eps, .. })), None) => {
                let scale = |&total: &Expr<'k>| b.f(1.0) / (total / self.k as f32 + eps).sqrt();
                totals.iter().map(scale).collect()
            }
            _ => vec![],
        };
        if self.slice.is_some() {
            b.when(first.eq(0).and(b.lane().eq(0)), || {
                for (r, &total) in totals.iter().enumerate() {
                    let here = row + r as i32;
                    b.when(here.lt(self.end), || store(here, b.i(self.n as i32), total));
                }
            });
        }

        // Two rows at a time, half of the lanes each.
        let (half, column) = (b.lane() / (LANES / 2), b.lane() % (LANES / 2) / CLUSTER);
        let mine = (b.lane() % CLUSTER).eq(0);
        for (pair, sums) in sums.products.chunks(2 * panels.len()).enumerate() {
            let totals = self.join(scratch, sums, panels.len());
            let here = row + 2 * pair + half;
            let inside = if sums.len() > panels.len() { here.lt(self.end) } else { half.eq(0) };
            let scale = |v: Expr<'k>| {
                let scales = scales.iter().skip(2 * pair).take(2).copied();
                scales.reduce(|a, other| half.eq(0).select(a, other)).map_or(v, |s| v * s)
            };
            let put = |panel: Expr<'k>, value: Expr<'k>| {
                let col = panel * PANEL + column;
                let wanted = mine.and(inside).and(col.lt(self.n as i32));
                b.when(wanted, || store(here, col, value));
            };
            if self.up.is_some() {
                put(first, scale(totals[0]).silu() * scale(totals[1]));
            } else {
                for (i, &total) in totals.iter().enumerate() {
                    put(first + i as i32, scale(total));
                }
            }
        }
    }

    /// The columns of `x` that are summed: where they begin, and how many.
    fn columns(&self) -> (Expr<'k>, u32) {
        self.slice.unwrap_or((self.b.i(0), self.k))
    }

    /// How many of them are staged at once, of so many rows.
    fn staged(&self, rows: u32) -> u32 {
        (STAGED / rows).min(self.columns().1)
    }

    /// Of each row, the sum of all lanes' squares; nothing without a norm.
    fn totals(&self, scratch: Scratch, squares: &[Expr<'k>]) -> Vec<Expr<'k>> {
        let (b, rows) = (self.b, squares.len());
        if self.norm.is_none() {
            return vec![];
        }
        let Scratch(mem) = scratch;
        let own: Vec<Expr> = squares.iter().map(|s| s.sum()).collect();
        let own = b.cluster(ReduceOp::Sum, b.vector(&own), CLUSTER);
        b.barrier();
        let at = b.lane() / CLUSTER * rows;
        b.when((b.lane() % CLUSTER).eq(0), || b.store(mem, at, own));
        b.barrier();
        let zero = b.f(0.0).splat(rows as u8);
        let [total] = b.fold(0, LANES / CLUSTER, 1, [zero], |i, [total]| {
            [total + b.load_vec(mem, i * rows, rows as u8)]
        });
        (0..rows).map(|r| total.extract(r as u8)).collect()
    }

    /// Adds the products of `len` columns of `x` from `start` on.
    fn piece(
        &self,
        scratch: Scratch,
        from: &[Expr<'k>],
        panels: &[Expr<'k>],
        (start, len): (Expr<'k>, Expr<'k>),
        sums: Sums<'k>,
    ) -> Sums<'k> {
        let (b, width) = (self.b, self.width());
        let Scratch(mem) = scratch;
        let stride = self.staged(from.len() as u32) as i32;
        // Others may still read what was staged before.
        b.barrier();
        let round = LANES * u32::from(width);
        let lane = b.lane() * u32::from(width);
        let squares = b.fold_vec(lane, len, round, sums.squares, |i, mut squares| {
            let norm = self.norm.map(|(weight, n)| n.factor(b, weight, start + i, width));
            for (r, (&at, square)) in from.iter().zip(&mut squares).enumerate() {
                let x = b.load_vec(self.x, at + start + i, width);
                if self.norm.is_some() {
                    *square = b.mul_add(x, x, *square);
                }
                let x = norm.map_or(x, |n| x * n);
                let x = self.heads.map_or(x, |h| x * h.scale(b, at + start + i));
                b.store(mem, i + r as i32 * stride, x);
            }
            squares
        });
        b.barrier();
        let (slice, half) = (b.lane() / 2, b.lane() % 2);
        let products = b.fold_vec(slice, len, SPLIT, sums.products, |j, sums| {
            let weights: Vec<Expr> = panels
                .iter()
                .map(|&panel| {
                    let within = (start + j) * PANEL + half * PART;
                    let at = panel * (self.k as usize * PANEL) + within;
                    b.load_vec(self.weight, at, PART as u8)
                })
                .collect();
            let mut next = Vec::with_capacity(sums.len());
            for (r, sums) in sums.chunks(panels.len()).enumerate() {
                let x = b.load(mem, j + r as i32 * stride);
                next.extend(weights.iter().zip(sums).map(|(&w, &sum)| b.mul_add(x, w, sum)));
            }
            next
        });
        Sums { products, squares }
    }

    /// Elements of `x` that a lane stages at once.
    fn width(&self) -> u8 {
        let heads = self.heads.map_or(self.k, |h| h.width);
        let fits = |w: &u8| {
            let w = u32::from(*w);
            let whole = [self.k, heads, self.columns().1].iter().all(|len| len.is_multiple_of(w));
            whole && w <= u32::from(self.caps.vector)
        };
        [4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// Sums over all slices of one row or two, of each of `panels`: of the first row in the lower half of the
    /// lanes, of the second in the upper, where `CLUSTER` lanes each get a column's.
    fn join(&self, scratch: Scratch, sums: &[Expr<'k>], panels: usize) -> Vec<Expr<'k>> {
        let b = self.b;
        let Scratch(mem) = scratch;
        let (slice, part) = (b.lane() / 2, b.lane() % 2);
        b.barrier();
        for (n, sum) in sums.iter().enumerate() {
            for i in 0..PART as u8 {
                let at = place(slice / QUARTER, slice % QUARTER) + part + 2 * i32::from(i);
                b.store(mem, at + n as u32 * PARTIAL, sum.extract(i));
            }
        }
        b.barrier();
        let half = if sums.len() > panels { b.lane() / (LANES / 2) } else { b.i(0) };
        let (column, quarter) = (b.lane() % (LANES / 2) / CLUSTER, b.lane() % CLUSTER);
        let first = place(quarter, b.i(0)) + column % PART * 2 + column / PART;
        let total = |p: usize| {
            let from = (half * panels + p) * PARTIAL + first;
            let [total] = b.fold(0, QUARTER, 1, [b.f(0.0)], |slice, [total]| {
                [total + b.load(mem, from + slice * STRIDE)]
            });
            b.cluster(ReduceOp::Sum, total, CLUSTER)
        };
        (0..panels).map(total).collect()
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
        if self.has_units() {
            return self.tile_on_units(first_row, first_panel, source, store);
        }
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
            let value = match self.up {
                None => sums[r],
                Some(_) => sums[r].silu() * sums[4 + r],
            };
            self.put(first_row + rows * 4 + r as i32, col, value, store);
        }
    }

    /// Eight neighbours of a row, but for what is beyond the rows and columns that are wanted.
    pub(super) fn put(
        &self,
        row: Expr<'k>,
        col: Expr<'k>,
        value: Expr<'k>,
        store: &dyn Fn(Expr<'k>, Expr<'k>, Expr<'k>, u8),
    ) {
        let b = self.b;
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
