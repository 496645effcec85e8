//! Loops over a row of neighbouring elements.
//!
//! One lane takes vectors as wide as the machine likes, and what is left in ever narrower ones.
//! Many lanes take neighbouring vectors, round by round; a lane meets the same elements in every loop
//! over the same length, so what it leaves in shared memory for itself needs no barrier.

use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_target::Caps;

/// `body(index, width)` so that every element of `0..len` is in one vector.
pub fn each<'k>(b: &'k KernelBuilder, caps: &Caps, len: usize, body: impl Fn(Expr<'k>, u8)) {
    if caps.lanes > 1 {
        let (start, round, width) = lanes(b, caps, len);
        b.range(start, len, round, |i| body(i, width));
        return;
    }
    let wide = usize::from(caps.vector);
    let full = len / wide * wide;
    if full > 0 {
        b.range(0, full, wide as u32, |i| body(i, caps.vector));
    }
    for (at, width) in rest(full, len, caps.vector) {
        body(b.n(at), width);
    }
}

/// [`each`], one element at a time.
pub fn each_one<'k>(b: &'k KernelBuilder, caps: &Caps, len: usize, body: impl Fn(Expr<'k>)) {
    b.range(b.lane(), len, caps.lanes, body);
}

/// Sum over `0..len` of the vectors that `term(index, width)` gives, in an order that
/// only `len` and the machine decide. Every lane gets it; uniform control only.
pub fn sum<'k>(
    b: &'k KernelBuilder,
    caps: &Caps,
    len: usize,
    term: impl Fn(Expr<'k>, u8) -> Expr<'k>,
) -> Expr<'k> {
    let zero = b.f(0.0);
    if caps.lanes > 1 {
        let (start, round, width) = lanes(b, caps, len);
        let [sums] = b.fold(start, len, round, [zero.splat(width)], |i, [s]| [s + term(i, width)]);
        return b.group(ReduceOp::Sum, sums.sum());
    }
    let wide = usize::from(caps.vector);
    let full = len / wide * wide;
    let mut total = zero;
    if full > 0 {
        let [sums] = b.fold(0, full, wide as u32, [zero.splat(caps.vector)], |i, [s]| {
            [s + term(i, caps.vector)]
        });
        total = sums.sum();
    }
    for (at, width) in rest(full, len, caps.vector) {
        total = total + term(b.n(at), width).sum();
    }
    total
}

/// Copies `len` elements, converting between types.
pub fn copy<'k>(
    b: &'k KernelBuilder,
    caps: &Caps,
    len: usize,
    (from, from_at): (Mem, Expr<'k>),
    (to, to_at): (Mem, Expr<'k>),
) {
    each(b, caps, len, |i, w| b.store(to, to_at + i, b.load_vec(from, from_at + i, w)));
}

/// `1 / sqrt(mean(x²) + eps)` of `len` elements.
pub fn inverse_rms<'k>(
    b: &'k KernelBuilder,
    caps: &Caps,
    len: usize,
    eps: f32,
    (x, at): (Mem, Expr<'k>),
) -> Expr<'k> {
    let squares = sum(b, caps, len, |i, w| {
        let v = b.load_vec(x, at + i, w);
        v * v
    });
    b.f(1.0) / (squares / len as f32 + eps).sqrt()
}

/// Where this lane begins, how far a round of all lanes reaches, and elements of a vector.
fn lanes<'k>(b: &'k KernelBuilder, caps: &Caps, len: usize) -> (Expr<'k>, u32, u8) {
    let fits = |w: &u8| len.is_multiple_of(usize::from(*w)) && *w <= caps.vector;
    let width = [4, 2].into_iter().find(fits).unwrap_or(1);
    (b.lane() * u32::from(width), caps.lanes * u32::from(width), width)
}

fn rest(from: usize, len: usize, vector: u8) -> Vec<(usize, u8)> {
    let mut at = from;
    let mut parts = vec![];
    for width in [8u8, 4, 2, 1].into_iter().filter(|&w| w < vector.max(2)) {
        while len - at >= usize::from(width) {
            parts.push((at, width));
            at += usize::from(width);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::rest;

    #[test]
    fn what_is_left_is_covered_once() {
        assert_eq!(rest(8, 15, 8), [(8, 4), (12, 2), (14, 1)]);
        assert_eq!(rest(0, 3, 1), [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(rest(16, 16, 16), []);
    }
}
