//! Tokens by expert, on many lanes: a lane counts and places the pairs of its own experts.
//!
//! Each lane looks at every pair, which all of them read together from shared memory; so pairs keep
//! their order, and no two lanes write to one place. Experts lie in rounds, one to a lane.

use super::LANES;
use crate::kernels::experts::{active, pair, start};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_types::DType;

/// Pairs that are staged at once.
const PIECE: u32 = 1024;
/// Pairs that a lane loads at once.
const FOUR: u32 = 4;

/// Count, make room, place.
pub fn sort<'k>(b: &'k KernelBuilder, experts: u32, pairs: Expr<'k>, [ids, groups]: [Mem; 2]) {
    let staged = b.shared("staged", DType::I32, PIECE);
    let mine: Vec<Expr> =
        (0..experts.div_ceil(LANES)).map(|round| b.lane() + round * LANES).collect();
    let scan = Scan { b, pairs, ids, staged };

    let none = vec![b.i(0).splat(FOUR as u8); mine.len()];
    let counts = scan.fold(none, |_, four, counts| {
        let one = |(&expert, count): (&Expr<'k>, Expr<'k>)| count + four.eq(expert).select(1, 0);
        mine.iter().zip(counts).map(one).collect()
    });

    let (mut slots, mut placed) = (b.i(0), b.i(0));
    let mut next = vec![];
    for (&expert, count) in mine.iter().zip(counts) {
        let count = count.sum();
        let any = count.gt(0);
        let both = b.vector(&[count, any.select(1, 0)]);
        let before = b.group_scan(both) - both;
        let total = b.group(ReduceOp::Sum, both);
        let (begin, slot) = (placed + before.extract(0), slots + before.extract(1));
        b.when(any, || {
            b.store(groups, active(slot), expert);
            b.store(groups, start(slot, experts), begin);
        });
        next.push(begin);
        (placed, slots) = (placed + total.extract(0), slots + total.extract(1));
    }
    b.when(b.lane().eq(0), || {
        b.store(groups, 0, slots);
        b.store(groups, start(slots, experts), pairs);
    });

    scan.fold(next, |first, four, mut next| {
        for n in 0..FOUR as u8 {
            for (&expert, at) in mine.iter().zip(&mut next) {
                let is_mine = four.extract(n).eq(expert);
                b.when(is_mine, || b.store(groups, pair(*at, experts), first + i32::from(n)));
                *at = *at + is_mine.select(1, 0);
            }
        }
        next
    });
}

/// The pairs in order.
struct Scan<'k> {
    b: &'k KernelBuilder,
    pairs: Expr<'k>,
    ids: Mem,
    staged: Mem,
}

impl<'k> Scan<'k> {
    /// What `body(first pair, experts of four pairs, values)` makes of `values`. Behind the last pair no expert
    /// is -1.
    fn fold(
        &self,
        values: Vec<Expr<'k>>,
        body: impl Fn(Expr<'k>, Expr<'k>, Vec<Expr<'k>>) -> Vec<Expr<'k>>,
    ) -> Vec<Expr<'k>> {
        let b = self.b;
        b.fold_vec(0, self.pairs, PIECE, values, |first, values| {
            let len = (self.pairs - first).min(PIECE);
            b.barrier();
            b.range(b.lane(), (len + (FOUR - 1)) / FOUR * FOUR, LANES, |i| {
                let load = || [b.load(self.ids, first + i)];
                let [id] = b.choose(i.lt(len), load, || [b.i(-1)]);
                b.store(self.staged, i, id);
            });
            b.barrier();
            b.fold_vec(0, len, FOUR, values, |i, values| {
                body(first + i, b.load_vec(self.staged, i, FOUR as u8), values)
            })
        })
    }
}
