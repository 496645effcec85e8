//! The likeliest tokens of each row of logits, so that few numbers go home instead of all logits.
//!
//! ```text
//! logits ─ slice_likeliest ─▶ the k best of each slice ─ merge_likeliest ─▶ ids ─ logits_at ─▶ logits
//!          a task a slice                                 a task a row
//! ```
//!
//! Both search alike: every lane knows the best of its own entries, the group takes the best of those,
//! and the lane it came from looks for the next one, k times. Nothing is struck off: the next one is
//! the best of what ranks behind the one just taken. So nothing is staged, and one token costs one pass.
//!
//! Ranks are compared as integers: whatever a device thinks of NaN, of zeros with a sign and of
//! subnormal numbers, it finds what the host would. A *key* is the logit's bits, for a
//! negative one the magnitude negated: it orders as the numbers do, and both zeros are 0.

use super::Template;
use super::elementwise::per_row;
use super::step::Step;
use q35_artifact::{Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, ReduceOp, UnaryOp};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// Logits of a slice: sixteen for each of 128 lanes.
const SLICE: u32 = 2048;

/// Below every key.
const NONE: i32 = i32::MIN;
/// Positive infinity's key; negative infinity's is its negative, and NaN lies beyond either.
const INFINITY: i32 = 0x7f80_0000;

/// The first half of [`q35_graph::Op::Likeliest`]: for each row and slice `k` keys, best first, and
/// their ids: `i32[R, 2, slices · k]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceLikeliest {
    pub vocab: u32,
    pub k: u32,
}

impl SliceLikeliest {
    pub fn bytes(&self, rows: u32) -> u64 {
        u64::from(rows) * 2 * u64::from(entries(self.vocab, self.k)) * 4
    }
}

impl Template for SliceLikeliest {
    fn name(&self) -> String {
        format!("slice_likeliest_{}_{}", self.vocab, self.k)
    }

    fn build(&self, b: &KernelBuilder, _: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let logits = b.input("logits", DType::F32);
        let lists = b.output("lists", DType::I32);
        let slices = slices(self.vocab);
        let (row, slice) = (b.task() / slices, b.task() % slices);
        let begin = slice * SLICE;
        let end = (begin + SLICE).min(self.vocab).min(step.count(Count::ValidIds));
        let at = row * self.vocab;
        let entry = |id| Ranked { key: key(b, b.load(logits, at + id)), id };
        let (keys, ids) = halves(row, self.vocab, self.k);
        best(b, self.k, (begin, end), entry, |rank, found| {
            b.store(lists, keys + slice * self.k + rank, found.key);
            b.store(lists, ids + slice * self.k + rank, found.id);
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: slices(self.vocab), times: Times::Step(Count::Rows) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        Cost {
            activations_read: per_row(self.vocab as usize * 4),
            activations_written: per_row(self.bytes(1) as usize),
            flops: per_row(self.vocab as usize),
            ..Cost::default()
        }
    }
}

/// The second half of [`q35_graph::Op::Likeliest`].
#[derive(Debug, Clone, PartialEq)]
pub struct MergeLikeliest {
    pub vocab: u32,
    pub k: u32,
}

impl Template for MergeLikeliest {
    fn name(&self) -> String {
        format!("merge_likeliest_{}_{}", self.vocab, self.k)
    }

    fn build(&self, b: &KernelBuilder, _: &Caps, layout: &StepLayout) {
        let _ = Step::new(b, layout);
        let lists = b.input("lists", DType::I32);
        let out = b.output("ids", DType::I32);
        let row = b.task();
        let (keys, ids) = halves(row, self.vocab, self.k);
        let entry = |n| Ranked { key: b.load(lists, keys + n), id: b.load(lists, ids + n) };
        let all = (b.i(0), b.n(entries(self.vocab, self.k) as usize));
        best(b, self.k, all, entry, |rank, found| {
            let id = found.key.gt(NONE).select(found.id, -1);
            b.store(out, row * self.k + rank, id);
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Step(Count::Rows) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        let entries = entries(self.vocab, self.k) as usize;
        Cost {
            activations_read: per_row(2 * entries * 4),
            activations_written: per_row(self.k as usize * 4),
            flops: per_row(entries),
            ..Cost::default()
        }
    }
}

/// See [`q35_graph::Op::LogitsAt`].
#[derive(Debug, Clone, PartialEq)]
pub struct LogitsAt {
    pub vocab: u32,
    pub k: u32,
}

impl Template for LogitsAt {
    fn name(&self) -> String {
        format!("logits_at_{}_{}", self.vocab, self.k)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let _ = Step::new(b, layout);
        let logits = b.input("logits", DType::F32);
        let ids = b.input("ids", DType::I32);
        let out = b.output("out", DType::F32);
        let row = b.task();
        b.range(b.lane(), self.k, caps.lanes, |rank| {
            let id = b.load(ids, row * self.k + rank);
            let there = b.load(logits, row * self.vocab + id.max(0));
            b.store(out, row * self.k + rank, id.ge(0).select(there, f32::NEG_INFINITY));
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        Tasks { each: 1, times: Times::Step(Count::Rows) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        Cost {
            activations_read: per_row(2 * self.k as usize * 4),
            activations_written: per_row(self.k as usize * 4),
            ..Cost::default()
        }
    }
}

fn slices(vocab: u32) -> u32 {
    vocab.div_ceil(SLICE)
}

/// Entries of the lists of one row.
fn entries(vocab: u32, k: u32) -> u32 {
    slices(vocab) * k
}

/// Where the keys of a row's lists begin, and where their ids.
fn halves(row: Expr<'_>, vocab: u32, k: u32) -> (Expr<'_>, Expr<'_>) {
    let n = entries(vocab, k);
    let keys = row * (2 * n);
    (keys, keys + n)
}

/// A token by its rank: the larger key first, of equals the lower id.
#[derive(Clone, Copy)]
struct Ranked<'k> {
    key: Expr<'k>,
    id: Expr<'k>,
}

impl<'k> Ranked<'k> {
    /// What ranks behind every token.
    fn none(b: &'k KernelBuilder) -> Self {
        Ranked { key: b.i(NONE), id: b.i(i32::MAX) }
    }

    fn before(self, other: Ranked<'k>) -> Expr<'k> {
        let lower = self.key.eq(other.key).and(self.id.lt(other.id));
        self.key.gt(other.key).or(lower)
    }

    fn same(self, other: Ranked<'k>) -> Expr<'k> {
        self.key.eq(other.key).and(self.id.eq(other.id))
    }
}

/// The key of a logit, [`NONE`] if it is not in play.
fn key<'k>(b: &'k KernelBuilder, logit: Expr<'k>) -> Expr<'k> {
    let bits = logit.unary(UnaryOp::FloatToBits);
    // The magnitude of a negative number is its bits less those of -0, which are `i32::MIN`.
    let key = bits.lt(0).select(b.i(i32::MIN) - bits, bits);
    let in_play = key.gt(-INFINITY).and(key.le(INFINITY));
    in_play.select(key, NONE)
}

/// Hand `put` the `k` best of the entries in a range, by rank, and [`Ranked::none`] for those there are
/// not; on one lane of the group. Uniform control only.
fn best<'k>(
    b: &'k KernelBuilder,
    k: u32,
    (begin, end): (Expr<'k>, Expr<'k>),
    entry: impl Fn(Expr<'k>) -> Ranked<'k>,
    put: impl Fn(Expr<'k>, Ranked<'k>),
) {
    let lanes = b.machine().lanes;
    // The best of this lane's entries that are behind `taken`, if any was.
    let own = |taken: Option<Ranked<'k>>| {
        let none = Ranked::none(b);
        let start = [none.key, none.id];
        b.fold(begin + b.lane(), end, lanes, start, |n, [key, id]| {
            let (found, known) = (entry(n), Ranked { key, id });
            let better = found.before(known);
            let better = taken.map_or(better, |taken| better.and(taken.before(found)));
            [better.select(found.key, key), better.select(found.id, id)]
        })
    };
    b.fold(0, k, 1, own(None), |rank, [key, id]| {
        let mine = Ranked { key, id };
        let highest = b.group(ReduceOp::Max, key);
        let lowest = b.group(ReduceOp::Min, key.eq(highest).select(id, i32::MAX));
        let found = Ranked { key: highest, id: lowest };
        b.when(b.lane().eq(0), || put(rank, found));
        if k == 1 {
            return [key, id];
        }
        let next = mine.same(found).and(highest.gt(NONE));
        b.choose(next, || own(Some(found)), || [key, id])
    });
}
