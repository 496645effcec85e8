//! Arithmetic on registers, which hold the bits of any scalar; `bool` is 0 or 1.
//!
//! Operations are chosen outside the loops, so that each loop is one that the compiler can make
//! vectors of.

use super::program::Slot;
use q35_kernel::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use std::cell::Cell;

type Registers = [Cell<u32>];

pub(super) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

pub(super) fn unary(r: &Registers, op: UnaryOp, d: Slot, a: Slot, n: usize) {
    match op {
        UnaryOp::Neg => map1(r, d, a, n, |a| (-f(a)).to_bits()),
        UnaryOp::Abs => map1(r, d, a, n, |a| f(a).abs().to_bits()),
        UnaryOp::Sqrt => map1(r, d, a, n, |a| f(a).sqrt().to_bits()),
        UnaryOp::Not => map1(r, d, a, n, |a| a ^ 1),
        UnaryOp::IntToFloat => map1(r, d, a, n, |a| (a as i32 as f32).to_bits()),
        UnaryOp::FloatToInt => map1(r, d, a, n, |a| f(a) as i32 as u32),
        UnaryOp::BitsToFloat | UnaryOp::FloatToBits => map1(r, d, a, n, |a| a),
    }
}

pub(super) fn float(r: &Registers, op: BinaryOp, d: Slot, a: Slot, b: Slot, n: usize) {
    match op {
        BinaryOp::Add => map2(r, d, a, b, n, |a, b| (f(a) + f(b)).to_bits()),
        BinaryOp::Sub => map2(r, d, a, b, n, |a, b| (f(a) - f(b)).to_bits()),
        BinaryOp::Mul => map2(r, d, a, b, n, |a, b| (f(a) * f(b)).to_bits()),
        BinaryOp::Div => map2(r, d, a, b, n, |a, b| (f(a) / f(b)).to_bits()),
        BinaryOp::Min => map2(r, d, a, b, n, |a, b| if f(a) < f(b) { a } else { b }),
        BinaryOp::Max => map2(r, d, a, b, n, |a, b| if f(a) > f(b) { a } else { b }),
        BinaryOp::Rem
        | BinaryOp::And
        | BinaryOp::Or
        | BinaryOp::Xor
        | BinaryOp::Shl
        | BinaryOp::Shr => unreachable!("verified: not of floats"),
    }
}

/// `i32`, and `bool` where the operation is bitwise.
pub(super) fn int(r: &Registers, op: BinaryOp, d: Slot, a: Slot, b: Slot, n: usize) {
    match op {
        BinaryOp::Add => map2(r, d, a, b, n, u32::wrapping_add),
        BinaryOp::Sub => map2(r, d, a, b, n, u32::wrapping_sub),
        BinaryOp::Mul => map2(r, d, a, b, n, u32::wrapping_mul),
        BinaryOp::Min => map2(r, d, a, b, n, |a, b| (a as i32).min(b as i32) as u32),
        BinaryOp::Max => map2(r, d, a, b, n, |a, b| (a as i32).max(b as i32) as u32),
        BinaryOp::And => map2(r, d, a, b, n, |a, b| a & b),
        BinaryOp::Or => map2(r, d, a, b, n, |a, b| a | b),
        BinaryOp::Xor => map2(r, d, a, b, n, |a, b| a ^ b),
        // Lanes that do not take part may shift by anything; their results are never read.
        BinaryOp::Shl => map2(r, d, a, b, n, u32::wrapping_shl),
        BinaryOp::Shr => map2(r, d, a, b, n, |a, b| (a as i32).wrapping_shr(b) as u32),
        BinaryOp::Div | BinaryOp::Rem => unreachable!("division is by a constant"),
    }
}

pub(super) fn compare<T: PartialOrd>(
    r: &Registers,
    op: CompareOp,
    (d, a, b, n): (Slot, Slot, Slot, usize),
    of: impl Fn(u32) -> T,
) {
    match op {
        CompareOp::Eq => map2(r, d, a, b, n, |a, b| u32::from(of(a) == of(b))),
        CompareOp::Ne => map2(r, d, a, b, n, |a, b| u32::from(of(a) != of(b))),
        CompareOp::Lt => map2(r, d, a, b, n, |a, b| u32::from(of(a) < of(b))),
        CompareOp::Le => map2(r, d, a, b, n, |a, b| u32::from(of(a) <= of(b))),
        CompareOp::Gt => map2(r, d, a, b, n, |a, b| u32::from(of(a) > of(b))),
        CompareOp::Ge => map2(r, d, a, b, n, |a, b| u32::from(of(a) >= of(b))),
    }
}

pub(super) fn map1(r: &Registers, d: Slot, a: Slot, n: usize, op: impl Fn(u32) -> u32) {
    if n == 1 {
        return r[d].set(op(r[a].get()));
    }
    let (d, a) = (&r[d..d + n], &r[a..a + n]);
    for i in 0..n {
        d[i].set(op(a[i].get()));
    }
}

pub(super) fn map2(
    r: &Registers,
    d: Slot,
    a: Slot,
    b: Slot,
    n: usize,
    op: impl Fn(u32, u32) -> u32,
) {
    if n == 1 {
        return r[d].set(op(r[a].get(), r[b].get()));
    }
    let (d, a, b) = (&r[d..d + n], &r[a..a + n], &r[b..b + n]);
    for i in 0..n {
        d[i].set(op(a[i].get(), b[i].get()));
    }
}

pub(super) fn combine(op: ReduceOp, float: bool, a: u32, b: u32) -> u32 {
    match (op, float) {
        (ReduceOp::Sum, true) => (f(a) + f(b)).to_bits(),
        (ReduceOp::Sum, false) => a.wrapping_add(b),
        (ReduceOp::Min, true) => {
            if f(a) < f(b) {
                a
            } else {
                b
            }
        }
        (ReduceOp::Min, false) => (a as i32).min(b as i32) as u32,
        (ReduceOp::Max, true) => {
            if f(a) > f(b) {
                a
            } else {
                b
            }
        }
        (ReduceOp::Max, false) => (a as i32).max(b as i32) as u32,
    }
}

/// Fold a power of two of elements in halves; the first becomes the result.
pub(super) fn fold(op: ReduceOp, float: bool, elements: &mut [u32]) {
    let mut n = elements.len();
    while n > 1 {
        n /= 2;
        for i in 0..n {
            elements[i] = combine(op, float, elements[i], elements[i + n]);
        }
    }
}
