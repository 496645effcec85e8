//! Up to sixteen queries against the pages of one KV head.
//!
//! For scores, a lane is a token of the page, for half of the queries; for the sums of values, a lane is
//! a column. Both read pages as the single-lane schedule lays them out: sixteen neighbours at a time.

use super::LANES;
use crate::kernels::attention::{Heads, Queries};
use crate::kernels::step::Step;
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_types::DType;
use q35_types::step::PAGE;

/// Queries of a task.
pub const ROWS: u32 = 16;

/// What is kept of the pages so far.
pub struct Running<'k> {
    /// For each round of columns, each query's sum.
    pub acc: Vec<Expr<'k>>,
    pub m: Mem,
    pub l: Mem,
}

impl<'k> Running<'k> {
    /// `body(query, column, sum)` for the columns of this lane.
    pub fn each(
        &self,
        b: &'k KernelBuilder,
        width: u32,
        rows: Expr<'k>,
        body: impl Fn(Expr<'k>, Expr<'k>, Expr<'k>),
    ) {
        for (n, &sum) in self.acc.iter().enumerate() {
            let (round, r) = (n as u32 / ROWS, (n as u32 % ROWS) as i32);
            let column = b.lane() + round * LANES;
            let wanted = b.i(r).lt(rows).and(column.lt(width as i32));
            b.when(wanted, || body(b.i(r), column, sum));
        }
    }
}

/// Pages `first..end` for `q.rows` queries, which lie from `q.q` on in a buffer of `h.dtype`.
/// Leaves `m` and `l` in shared memory and the sums in registers: of lane c, column `c + 128 round`, for query r at
/// `[round · 16 + r]`.
pub fn attend<'k>(
    b: &'k KernelBuilder,
    h: Heads,
    (keys, values): (Mem, Mem),
    step: &Step<'k>,
    q: &Queries<'k>,
    (first, end): (Expr<'k>, Expr<'k>),
) -> Running<'k> {
    let width = h.pages.width;
    let shared = |name, len| b.shared(name, DType::F32, len);
    let staged = shared("queries", ROWS * width);
    let scores = shared("scores", ROWS * PAGE);
    let factor = shared("factor", ROWS);
    let (m, l) = (shared("m", ROWS), shared("l", ROWS));

    b.range(0, ROWS, 1, |r| {
        let row = q.q.1 + r.min(q.rows - 1) * q.q_row;
        b.range(b.lane(), width, LANES, |c| {
            b.store(staged, r * width + c, b.load(q.q.0, row + c) * h.scale);
        });
    });
    b.when(b.lane().lt(ROWS as i32), || {
        b.store(m, b.lane(), b.f(f32::NEG_INFINITY));
        b.store(l, b.lane(), b.f(0.0));
    });
    b.barrier();

    let rounds = width.div_ceil(LANES) as usize;
    let zeros = vec![b.f(0.0); rounds * ROWS as usize];
    let (token, part) = (b.lane() % PAGE, b.lane() / PAGE);
    let half = ROWS / (LANES / PAGE);
    let acc = b.fold_vec(first, end, 1, zeros, |n, acc| {
        let page = step.page(q.seq, n);
        let filled = (q.context - n * PAGE).min(PAGE as i32);
        let key = h.pages.key(h.pages.keys(page, q.kv_head), token, b.i(0));
        let none = vec![b.f(0.0); half as usize];
        let sums = b.fold_vec(0, width, 1, none, |c, sums| {
            let k = b.load(keys, key + c * 16);
            let each = |(i, s): (usize, Expr<'k>)| {
                let query = part * half + i as i32;
                b.mul_add(b.load(staged, query * width + c), k, s)
            };
            sums.into_iter().enumerate().map(each).collect()
        });
        for (i, &sum) in sums.iter().enumerate() {
            let query = part * half + i as i32;
            let limit = q.pos + query * q.pos_step - n * PAGE;
            let seen = token.le(limit);
            b.store(scores, query * PAGE + token, seen.select(sum, f32::NEG_INFINITY));
        }
        b.barrier();

        // Eight lanes a query: each folds eight of its scores.
        let (query, eighth) = (b.lane() / 8, b.lane() % 8);
        let at = |i: i32| query * PAGE + eighth + i * 8;
        let mine: Vec<Expr> = (0..8).map(|i| b.load(scores, at(i))).collect();
        let highest = mine.iter().copied().reduce(|a, b| a.max(b)).expect("eight");
        let highest = b.cluster(ReduceOp::Max, highest, 8);
        let old = b.load(m, query);
        let new = old.max(highest);
        // A query that sees nothing yet keeps a maximum of minus infinity; its weights are zero.
        let base = new.max(-1e30);
        let weights: Vec<Expr> = mine.iter().map(|&s| (s - base).exp()).collect();
        let sum = weights.iter().copied().reduce(|a, b| a + b).expect("eight");
        let sum = b.cluster(ReduceOp::Sum, sum, 8);
        let shrink = (old - base).exp();
        let before = b.load(l, query);
        b.barrier();
        for (i, &p) in weights.iter().enumerate() {
            b.store(scores, at(i as i32), p);
        }
        b.when(eighth.eq(0), || {
            b.store(m, query, new);
            b.store(l, query, before * shrink + sum);
            b.store(factor, query, shrink);
        });
        b.barrier();

        let factors: Vec<Expr> = (0..ROWS as i32).map(|r| b.load(factor, r)).collect();
        let mut next = vec![];
        for round in 0..rounds {
            let column = (b.lane() + (round as u32 * LANES) as i32).min(width as i32 - 1);
            let value = h.pages.values(page, q.kv_head);
            let mine = acc[round * ROWS as usize..][..ROWS as usize].iter().zip(&factors);
            let kept: Vec<Expr> = mine.map(|(&a, &f)| a * f).collect();
            next.extend(b.fold_vec(0, filled, 1, kept, |j, sums| {
                let v = b.load(values, h.pages.value(value, j, column));
                let each = |(r, s): (usize, Expr<'k>)| {
                    b.mul_add(b.load(scores, j + r as u32 * PAGE), v, s)
                };
                sums.into_iter().enumerate().map(each).collect()
            }));
        }
        b.barrier();
        next
    });
    Running { acc, m, l }
}
