//! What is known of an index without running the kernel: a power of two that divides it.
//!
//! Buffers and shared arrays begin at multiples of 64 bytes, so a divisor of the index is an
//! alignment of the address. That decides how wide an access may be, and whether two 16-bit elements
//! are the two halves of one word. Divisors are kept as logarithms; they survive wrapping, since
//! they are of powers of two.
//!
//! Of a float, it is what divides its bits: with 2^16, it is a number of `bf16`, and need not be rounded
//! to be stored as one. So what is copied from memory to matrix units is copied.

use crate::inst::{BinaryOp, Inst, Kernel, Literal, Scalar, UnaryOp, Value};
use q35_types::DType;

/// As much as anything can use: the half of a word that `bf16` has not.
const ENOUGH: u8 = 16;

/// Of each value of a kernel; [`note`](Self::note) takes them in order.
pub struct Divisors {
    known: Vec<u8>,
    ints: Vec<Option<i32>>,
    literals: Vec<bool>,
}

impl Divisors {
    pub fn new(values: usize) -> Divisors {
        Divisors { known: vec![0; values], ints: vec![None; values], literals: vec![false; values] }
    }

    /// The logarithm of a power of two that divides `v`.
    pub fn of(&self, v: Value) -> u8 {
        self.known[v.0 as usize]
    }

    /// The constant that `v` is, or that each of its elements is.
    pub fn int(&self, v: Value) -> Option<i32> {
        self.ints[v.0 as usize]
    }

    /// Whether `v` is a scalar constant.
    pub fn literal(&self, v: Value) -> bool {
        self.literals[v.0 as usize]
    }

    /// For what no instruction makes: the counters of loops and the results of branches.
    pub fn set(&mut self, v: Value, divisor: u8) {
        self.known[v.0 as usize] = divisor.min(ENOUGH);
    }

    /// Whether each element of a float is one of `bf16`.
    pub fn is_bf16(&self, v: Value) -> bool {
        self.of(v) == ENOUGH
    }

    /// Take note of what `inst` makes.
    pub fn note(&mut self, kernel: &Kernel, result: Value, inst: &Inst) {
        self.literals[result.0 as usize] = matches!(inst, Inst::Const(_));
        let divisor = match *inst {
            Inst::Const(Literal::I32(c)) => {
                self.ints[result.0 as usize] = Some(c);
                trailing_zeros(c)
            }
            Inst::Const(Literal::F32(c)) => trailing_zeros(c.to_bits() as i32),
            Inst::Load { at, .. } if kernel.dtype_of(at.mem) == DType::Bf16 => ENOUGH,
            Inst::Unary(UnaryOp::BitsToFloat | UnaryOp::FloatToBits, a) => self.of(a),
            Inst::Splat(a, _) => {
                self.ints[result.0 as usize] = self.int(a);
                self.of(a)
            }
            Inst::Extract(a, _) => self.of(a),
            Inst::Select(_, a, b) => self.of(a).min(self.of(b)),
            Inst::Binary(op, a, b) if kernel.type_of(a).scalar == Scalar::I32 => {
                self.binary(op, a, b)
            }
            _ => 0,
        };
        self.set(result, divisor);
    }

    fn binary(&self, op: BinaryOp, a: Value, b: Value) -> u8 {
        let (x, y) = (self.of(a), self.of(b));
        match op {
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Min | BinaryOp::Max => x.min(y),
            BinaryOp::Or | BinaryOp::Xor | BinaryOp::Rem => x.min(y),
            BinaryOp::Mul => x.saturating_add(y),
            BinaryOp::And => x.max(y),
            BinaryOp::Shl => match self.int(b) {
                Some(by @ 0..=31) => x.saturating_add(by as u8),
                _ => x,
            },
            // Exact where the divisor divides.
            BinaryOp::Shr => match self.int(b) {
                Some(by @ 0..=31) => x.saturating_sub(by as u8),
                _ => 0,
            },
            BinaryOp::Div => match self.int(b) {
                Some(by) if by > 0 && by & (by - 1) == 0 => {
                    x.saturating_sub(by.trailing_zeros() as u8)
                }
                _ => 0,
            },
        }
    }
}

/// The logarithm of the largest power of two that divides `c`, as far as anything can use it.
pub fn trailing_zeros(c: i32) -> u8 {
    (c.trailing_zeros() as u8).min(ENOUGH)
}
