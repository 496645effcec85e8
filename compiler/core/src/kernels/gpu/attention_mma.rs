//! Up to sixteen queries against the pages of one KV head, on matrix units.
//!
//! ```text
//! scores [16 × 64]     queries · Kᵀ     a piece of the width at a time
//! p      [16 × 64]     a lane has eight neighbours of a query's row, and its m and l in registers
//! sums   [16 × width]  p · V            64 columns at a time
//! ```
//!
//! The sums of all pages stay in registers of the lanes; what the matrix units give for a page is added
//! to them. Queries and `p` are split where activations are in float32; where they are not, a
//! query is one number of `bf16`, and `p`, which never was in memory, is two.

use super::LANES;
use super::attention::ROWS;
use super::mma::{self, COLUMNS, PART, Panels, ROW, SUMS_ROW};
use crate::kernels::attention::{Heads, Queries};
use crate::kernels::step::Step;
use crate::kernels::{PANEL, padded};
use q35_kernel::{Acc, Expr, KernelBuilder, Mem, MmaArgs, ReduceOp};
use q35_target::Caps;
use q35_types::DType;
use q35_types::step::PAGE;

/// Queries whose sums a lane has, all of one column in 64.
const SHARE: u32 = ROWS * COLUMNS / LANES;

/// What is kept of the pages so far.
pub struct Running<'k> {
    /// For each 64 columns, the sums of this lane's queries.
    acc: Vec<Expr<'k>>,
    pub l: Mem,
}

impl<'k> Running<'k> {
    /// `body(query, column, sum)` for the queries and columns of this lane.
    pub fn each(
        &self,
        b: &'k KernelBuilder,
        width: u32,
        rows: Expr<'k>,
        body: impl Fn(Expr<'k>, Expr<'k>, Expr<'k>),
    ) {
        for (n, &sum) in self.acc.iter().enumerate() {
            let (query, column) = owned(b, n as u32);
            let wanted = query.lt(rows).and(column.lt(width as i32));
            b.when(wanted, || body(query, column, sum));
        }
    }
}

/// Query and column of the lane's sum `n`.
fn owned(b: &KernelBuilder, n: u32) -> (Expr<'_>, Expr<'_>) {
    let query = b.lane() / COLUMNS * SHARE + (n % SHARE) as i32;
    (query, b.lane() % COLUMNS + (n / SHARE * COLUMNS) as i32)
}

/// Sizes that follow from the types and the width of a head.
#[derive(Clone, Copy)]
struct Sizes {
    /// `bf16` numbers of an element of a query and of `p`.
    q_terms: u32,
    p_terms: u32,
    /// Rows of keys or values that are staged at once.
    depth: u32,
    /// Width of a head, padded to that, and elements from row to row of queries.
    width: u32,
    q_row: u32,
}

impl Sizes {
    fn of(h: &Heads) -> Sizes {
        let q_terms = mma::terms(h.dtype);
        let depth = if q_terms == 1 { PAGE } else { PAGE / 2 };
        let width = h.pages.width.next_multiple_of(depth);
        Sizes { q_terms, p_terms: q_terms.max(2), depth, width, q_row: width + 8 }
    }

    /// Bytes of all that [`attend`] shares.
    fn shared(&self) -> u32 {
        let narrow = self.q_terms * ROWS * self.q_row + self.p_terms * ROWS * ROW;
        2 * (narrow + self.depth * ROW) + 4 * (ROWS * SUMS_ROW + 2 * ROWS)
    }
}

/// Whether matrix units can do it: keys and values are read as they are stored.
pub fn usable(caps: &Caps, h: &Heads) -> bool {
    mma::usable(caps) && h.kv == DType::Bf16 && Sizes::of(h).shared() <= caps.shared_bytes
}

/// One group at work.
struct Attend<'k> {
    b: &'k KernelBuilder,
    h: Heads,
    sizes: Sizes,
    queries: Vec<Mem>,
    p: Vec<Mem>,
    /// A piece of keys or values.
    kv: Mem,
    /// Scores, and sums of a page.
    sums: Mem,
    factor: Mem,
    acc: Acc,
    /// The first column of this subgroup.
    right: Expr<'k>,
}

/// As [`super::attention::attend`], of all pages below `end`.
pub fn attend<'k>(
    b: &'k KernelBuilder,
    caps: &Caps,
    h: Heads,
    (keys, values): (Mem, Mem),
    step: &Step<'k>,
    q: &Queries<'k>,
    end: Expr<'k>,
) -> Running<'k> {
    let sizes = Sizes::of(&h);
    let narrow = |name: &str, n: u32, len: u32| -> Vec<Mem> {
        (0..n).map(|i| b.shared(&format!("{name}{i}"), DType::Bf16, len)).collect()
    };
    let columns = COLUMNS / (LANES / caps.subgroup);
    let group = Attend {
        b,
        h,
        sizes,
        queries: narrow("queries", sizes.q_terms, ROWS * sizes.q_row),
        p: narrow("p", sizes.p_terms, ROWS * ROW),
        kv: b.shared("kv", DType::Bf16, sizes.depth * ROW),
        sums: b.shared("sums", DType::F32, ROWS * SUMS_ROW),
        factor: b.shared("factor", DType::F32, ROWS),
        acc: b.accumulator("page", ROWS, columns),
        right: b.subgroup() * columns,
    };
    let l = b.shared("l", DType::F32, ROWS);
    group.stage_queries(q);

    let rounds = h.pages.width.div_ceil(COLUMNS);
    let mut init = vec![b.f(f32::NEG_INFINITY), b.f(0.0)];
    init.extend(vec![b.f(0.0); (rounds * SHARE) as usize]);
    let mut kept = b.fold_vec(0, end, 1, init, |n, kept| {
        let page = step.page(q.seq, n);
        let filled = (q.context - n * PAGE).min(PAGE as i32);
        group.scores(keys, h.pages.keys(page, q.kv_head));
        let mut next = group.softmax(q, n, (kept[0], kept[1])).to_vec();
        for (round, before) in (0u32..).zip(kept[2..].chunks(SHARE as usize)) {
            let first = h.pages.values(page, q.kv_head);
            next.extend(group.values(values, first, filled, round, before));
        }
        next
    });
    let acc = kept.split_off(2);
    b.when((b.lane() % PART).eq(0), || b.store(l, b.lane() / PART, kept[1]));
    b.barrier();
    Running { acc, l }
}

impl<'k> Attend<'k> {
    /// Rows beyond the last repeat it.
    fn stage_queries(&self, q: &Queries<'k>) {
        let (b, Sizes { width, q_row, q_terms, .. }) = (self.b, self.sizes);
        b.range(b.lane(), ROWS * width / PART, LANES, |n| {
            let (r, column) = (n / (width / PART), n % (width / PART) * PART);
            let from = q.q.1 + r.min(q.rows - 1) * q.q_row;
            mma::eight(b, (q.q.0, from), column, (self.h.pages.width, width), None, |v| {
                for (&to, term) in self.queries.iter().zip(mma::split(v, q_terms)) {
                    b.store(to, r * q_row + column, term);
                }
            });
        });
    }

    /// Of a page whose keys begin at `first`: to `sums`, before they are scaled.
    fn scores(&self, keys: Mem, first: Expr<'k>) {
        let (b, Sizes { depth, width, q_row, .. }) = (self.b, self.sizes);
        let real = self.h.pages.width;
        let panels = Panels {
            mem: keys,
            first,
            stride: PANEL * real as usize,
            rows: (real < width).then(|| b.i(real as i32)),
            panels: None,
        };
        b.mma_zero(self.acc);
        b.range(0, width, depth, |c| {
            panels.stage(b, c, depth, (self.kv, b.i(0)));
            b.barrier();
            for &queries in &self.queries {
                self.multiply((queries, c), q_row);
            }
            b.barrier();
        });
        b.mma_store(self.acc, b.at(self.sums, self.right), SUMS_ROW);
        b.barrier();
    }

    /// Scores of page `n` to `p` and `factor`; the new maximum and sum of the lane's query.
    fn softmax(&self, q: &Queries<'k>, n: Expr<'k>, (m, l): (Expr<'k>, Expr<'k>)) -> [Expr<'k>; 2] {
        let b = self.b;
        let (query, first) = (b.lane() / PART, b.lane() % PART * PART);
        let scores = b.load_vec(self.sums, query * SUMS_ROW + first, PART as u8) * self.h.scale;
        let limit = q.pos + query * q.pos_step - n * PAGE - first;
        let columns: Vec<Expr> = (0..PART as i32).map(|i| b.i(i)).collect();
        let seen = b.vector(&columns).le(limit);
        let scores = seen.select(scores, f32::NEG_INFINITY);
        let new = m.max(b.cluster(ReduceOp::Max, scores.largest(), PART));
        // A query that sees nothing yet keeps a maximum of minus infinity; its weights are zero.
        let base = new.max(-1e30);
        let weights = (scores - base).exp();
        let shrink = (m - base).exp();
        let sum = b.cluster(ReduceOp::Sum, weights.sum(), PART);
        for (&to, term) in self.p.iter().zip(mma::split(weights, self.sizes.p_terms)) {
            b.store(to, query * ROW + first, term);
        }
        b.when(first.eq(0), || b.store(self.factor, query, shrink));
        [new, l * shrink + sum]
    }

    /// The lane's sums of 64 columns with those of a page whose values begin at `first`.
    fn values(
        &self,
        values: Mem,
        first: Expr<'k>,
        filled: Expr<'k>,
        round: u32,
        before: &[Expr<'k>],
    ) -> Vec<Expr<'k>> {
        let (b, depth) = (self.b, self.sizes.depth);
        let each = COLUMNS / PANEL as u32;
        let left = padded(self.h.pages.width) as u32 / PANEL as u32 - round * each;
        let stride = PANEL * PAGE as usize;
        let panels = Panels {
            mem: values,
            first: first + (round * each) as usize * stride,
            stride,
            // What is stored beyond may be infinite, and a weight of zero does not help then.
            rows: Some(filled),
            panels: (left < each).then(|| b.i(left as i32)),
        };
        b.mma_zero(self.acc);
        b.range(0, filled, depth, |j| {
            panels.stage(b, j, depth, (self.kv, b.i(0)));
            b.barrier();
            for &p in &self.p {
                self.multiply((p, j), ROW);
            }
            b.barrier();
        });
        b.mma_store(self.acc, b.at(self.sums, self.right), SUMS_ROW);
        b.barrier();
        let add = |(i, &sum): (usize, &Expr<'k>)| {
            let (query, column) = owned(b, i as u32);
            let new = b.load(self.sums, query * SUMS_ROW + column);
            b.mul_add(sum, b.load(self.factor, query), new)
        };
        before.iter().enumerate().map(add).collect()
    }

    /// Sixteen rows of `a`, from a column on, with what is staged.
    fn multiply(&self, (a, column): (Mem, Expr<'k>), a_row: u32) {
        let b = self.b;
        b.mma(MmaArgs {
            acc: self.acc,
            a: b.at(a, column),
            a_row: b.i(a_row as i32),
            b: b.at(self.kv, self.right),
            b_row: b.i(ROW as i32),
            b_columns: false,
            k: self.sizes.depth,
        });
    }
}
