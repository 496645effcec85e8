//! Up to sixteen queries against the pages of one KV head.
//!
//! For scores, four lanes share two tokens of the page, each with every fourth column; for the sums of values, a
//! lane has one or two columns. Both read pages as the single-lane schedule lays them out, sixteen
//! neighbours at a time, every element once for all queries.

use super::LANES;
use crate::kernels::attention::Heads;
use crate::kernels::step::Step;
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_types::DType;
use q35_types::step::PAGE;

/// Queries of a task at most.
pub const ROWS: u32 = 16;
/// Lanes that share a token's score.
const SLICES: u32 = 4;

/// Queries in shared memory, side by side for each column, and scaled.
#[derive(Clone, Copy)]
pub struct Queries {
    pub mem: Mem,
    /// 4, 8 or 16.
    pub rows: u32,
}

impl Queries {
    /// Room for `queries` of `width` columns.
    pub fn new(b: &KernelBuilder, queries: u32, width: u32) -> Self {
        let rows = queries.next_power_of_two().max(4);
        assert!(rows <= ROWS, "no more queries than a task can have");
        Queries { mem: b.shared("queries", DType::F32, width * stride(rows)), rows }
    }

    pub fn at<'k>(&self, row: Expr<'k>, column: Expr<'k>) -> Expr<'k> {
        column * stride(self.rows) + row
    }

    /// Vectors of four queries.
    fn fours(&self) -> u32 {
        self.rows / 4
    }
}

/// From column to column, and from token to token: four more than queries, so that neighbours fall
/// into different banks.
const fn stride(rows: u32) -> u32 {
    rows + 4
}

/// What the queries may see.
pub struct Sight<'k> {
    pub seq: Expr<'k>,
    pub kv_head: Expr<'k>,
    /// Position of the first query, and what each further one adds.
    pub pos: Expr<'k>,
    pub pos_step: i32,
    /// Positions that have keys.
    pub context: Expr<'k>,
}

/// What is kept of the pages so far.
pub struct Running<'k> {
    rows: u32,
    /// Columns of a lane.
    columns: u32,
    /// For each round of columns and each of them, vectors of four queries' sums.
    acc: Vec<Expr<'k>>,
    pub m: Mem,
    pub l: Mem,
}

impl<'k> Running<'k> {
    /// `body(query, column, sum)` for the columns of this lane below `width`.
    pub fn each(
        &self,
        b: &'k KernelBuilder,
        width: u32,
        rows: Expr<'k>,
        body: impl Fn(Expr<'k>, Expr<'k>, Expr<'k>),
    ) {
        let fours = self.rows / 4;
        for (n, &four) in self.acc.iter().enumerate() {
            let (part, r4) = (n as u32 / fours, n as u32 % fours);
            let (round, i) = (part / self.columns, part % self.columns);
            let column = (b.lane() + round * LANES) * self.columns + i as i32;
            for r in 0..4u8 {
                let row = b.i((r4 * 4) as i32 + i32::from(r));
                let wanted = row.lt(rows).and(column.lt(width as i32));
                b.when(wanted, || body(row, column, four.extract(r)));
            }
        }
    }
}

/// Pages `first..end` for `queries`. Leaves `m` and `l` in shared memory and the sums in registers.
pub fn attend<'k>(
    b: &'k KernelBuilder,
    h: Heads,
    (keys, values): (Mem, Mem),
    step: &Step<'k>,
    queries: Queries,
    see: &Sight<'k>,
    (first, end): (Expr<'k>, Expr<'k>),
) -> Running<'k> {
    let (width, rows) = (h.pages.width, queries.rows);
    let shared = |name, len| b.shared(name, DType::F32, len);
    let scores = shared("scores", PAGE * stride(rows));
    let factor = shared("factor", rows);
    let (m, l) = (shared("m", rows), shared("l", rows));
    b.when(b.lane().lt(rows as i32), || {
        b.store(m, b.lane(), b.f(f32::NEG_INFINITY));
        b.store(l, b.lane(), b.f(0.0));
    });
    b.barrier();

    let columns = if width > LANES { 2 } else { 1 };
    let rounds = width.div_ceil(LANES * columns);
    let zeros = vec![b.f(0.0).splat(4); (rounds * columns * queries.fours()) as usize];
    let page_of = Page { b, h, queries, see, scores, factor, m, l };
    let acc = b.fold_vec(first, end, 1, zeros, |n, acc| {
        let page = step.page(see.seq, n);
        let filled = (see.context - n * PAGE).min(PAGE as i32);
        page_of.score(keys, page, n, filled);
        b.barrier();
        page_of.softmax();
        b.barrier();
        let next = page_of.sum(values, page, filled, columns, acc);
        b.barrier();
        next
    });
    Running { rows, columns, acc, m, l }
}

/// What the work on one page needs.
struct Page<'p, 'k> {
    b: &'k KernelBuilder,
    h: Heads,
    queries: Queries,
    see: &'p Sight<'k>,
    /// `[token][query]`, first scores, then weights.
    scores: Mem,
    factor: Mem,
    m: Mem,
    l: Mem,
}

impl<'k> Page<'_, 'k> {
    /// `scores[token][query] = query · key`, minus infinity where it may not look.
    fn score(&self, keys: Mem, page: Expr<'k>, n: Expr<'k>, filled: Expr<'k>) {
        let Page { b, h, queries, see, .. } = *self;
        let width = h.pages.width;
        let (token, slice) = (b.lane() / SLICES * 2, b.lane() % SLICES);
        let key = h.pages.key(h.pages.keys(page, see.kv_head), token, b.i(0));
        let end = token.lt(filled).select(width, 0);
        let none = vec![b.f(0.0).splat(2); queries.rows as usize];
        let sums = b.fold_vec(slice, end, SLICES, none, |c, sums| {
            let k = b.load_vec(keys, key + c * 16, 2);
            let at = |r4: u32| queries.at(b.n(r4 as usize * 4), c);
            let q: Vec<Expr> =
                (0..queries.fours()).map(|r4| b.load_vec(queries.mem, at(r4), 4)).collect();
            let each =
                |(r, sum): (usize, Expr<'k>)| b.mul_add(q[r / 4].extract((r % 4) as u8), k, sum);
            sums.into_iter().enumerate().map(each).collect()
        });
        let sums: Vec<Expr> =
            sums.into_iter().map(|s| b.cluster(ReduceOp::Sum, s, SLICES)).collect();
        for (r4, four) in sums.chunks(4).enumerate() {
            b.when(slice.eq(r4 as i32), || {
                for t in 0..2u8 {
                    let token = token + i32::from(t);
                    let masked: Vec<Expr> = (0..4)
                        .map(|r| {
                            let query = (r4 * 4 + r) as i32;
                            let limit = see.pos + query * see.pos_step - n * PAGE;
                            token.le(limit).select(four[r].extract(t), f32::NEG_INFINITY)
                        })
                        .collect();
                    let at = token * stride(queries.rows) + (r4 * 4) as i32;
                    b.store(self.scores, at, b.vector(&masked));
                }
            });
        }
    }

    /// Scores to weights. As many lanes a query as there are.
    fn softmax(&self) {
        let Page { b, queries, scores, m, l, .. } = *self;
        let each = LANES / queries.rows;
        let (query, first) = (b.lane() / each, b.lane() % each);
        let at = |i: u32| (first + i * each) * stride(queries.rows) + query;
        let mine: Vec<Expr> = (0..PAGE / each).map(|i| b.load(scores, at(i))).collect();
        let highest = mine.iter().copied().reduce(|a, b| a.max(b)).expect("some tokens");
        let highest = b.cluster(ReduceOp::Max, highest, each);
        let old = b.load(m, query);
        let new = old.max(highest);
        // A query that sees nothing yet keeps a maximum of minus infinity; its weights are zero.
        let base = new.max(-1e30);
        let weights: Vec<Expr> = mine.iter().map(|&s| (s - base).exp()).collect();
        let sum = weights.iter().copied().reduce(|a, b| a + b).expect("some tokens");
        let sum = b.cluster(ReduceOp::Sum, sum, each);
        let shrink = (old - base).exp();
        let before = b.load(l, query);
        b.barrier();
        for (i, &p) in weights.iter().enumerate() {
            b.store(scores, at(i as u32), p);
        }
        b.when(first.eq(0), || {
            b.store(m, query, new);
            b.store(l, query, before * shrink + sum);
            b.store(self.factor, query, shrink);
        });
    }

    /// The sums so far, shrunk, and the page's values by their weights.
    fn sum(
        &self,
        values: Mem,
        page: Expr<'k>,
        filled: Expr<'k>,
        columns: u32,
        acc: Vec<Expr<'k>>,
    ) -> Vec<Expr<'k>> {
        let Page { b, h, queries, see, .. } = *self;
        let fours = queries.fours();
        let each_four = |mem: Mem, at: Expr<'k>| -> Vec<Expr<'k>> {
            (0..fours).map(|r4| b.load_vec(mem, at + (r4 * 4) as i32, 4)).collect()
        };
        let factors = each_four(self.factor, b.i(0));
        let last = h.pages.width.next_multiple_of(columns) - columns;
        let value = h.pages.values(page, see.kv_head);
        let per_round = (columns * fours) as usize;
        let mut next = vec![];
        for (round, acc) in acc.chunks(per_round).enumerate() {
            let column = ((b.lane() + round as u32 * LANES) * columns).min(last as i32);
            let kept: Vec<Expr> =
                acc.iter().enumerate().map(|(i, &a)| a * factors[i % fours as usize]).collect();
            next.extend(b.fold_vec(0, filled, 1, kept, |j, sums| {
                let v = b.load_vec(values, h.pages.value(value, j, column), columns as u8);
                let weights = each_four(self.scores, j * stride(queries.rows));
                let each = |(i, sum): (usize, Expr<'k>)| {
                    let (column, four) = (i / fours as usize, i % fours as usize);
                    b.mul_add(v.extract(column as u8), weights[four], sum)
                };
                sums.into_iter().enumerate().map(each).collect()
            }));
        }
        next
    }
}
