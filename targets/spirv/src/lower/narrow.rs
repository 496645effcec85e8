//! 16-bit floats, by integer arithmetic.
//!
//! No driver need know `f16` or `bf16`, and none may flush the subnormal numbers of `f16`, which are
//! ordinary ones of `f32`. All rounding is to nearest, ties to even; what is not a number stays so.

use super::Lowering;
use crate::module::Kind;
use q35_types::DType;
use rspirv::spirv::{Op, Word};

impl Lowering<'_> {
    /// `n` words to their elements: the lower halves and the upper ones in turn, each over zeros, in
    /// vectors of up to four.
    pub fn unzip(&mut self, words: Word, n: u8) -> Vec<Word> {
        let low = self.shifted(Op::ShiftLeftLogical, words, 16, n);
        let high = self.masked(words, 0xffff_0000, n);
        match n {
            1 => vec![self.m.vector((Kind::U32, 2), &[low, high])],
            2 => vec![self.m.shuffle(Kind::U32, low, high, &[0, 2, 1, 3])],
            _ => [[0, 4, 1, 5], [2, 6, 3, 7]]
                .map(|order| self.m.shuffle(Kind::U32, low, high, &order))
                .to_vec(),
        }
    }

    /// One part of elements of 16 bits, or two of four, to `n` words.
    pub fn zip_all(&mut self, parts: &[Word], n: u8) -> Word {
        let each = n / parts.len() as u8;
        let words: Vec<Word> = parts.iter().map(|p| self.zip(*p, 2 * each)).collect();
        self.m.vector((Kind::U32, n), &words)
    }

    /// `n` elements of 16 bits, 2 or 4, to words.
    fn zip(&mut self, bits: Word, n: u8) -> Word {
        let shape = (Kind::U32, n);
        let [low, high] = match n {
            2 => [0, 1].map(|i| self.m.element(shape, bits, i)),
            _ => [[0, 2], [1, 3]].map(|i| self.m.shuffle(Kind::U32, bits, bits, &i)),
        };
        let high = self.shifted(Op::ShiftLeftLogical, high, 16, n / 2);
        self.m.op(Op::BitwiseOr, (Kind::U32, n / 2), &[low, high])
    }

    /// `f32` from 16 bits over zeros.
    pub fn widen(&mut self, dtype: DType, n: u8, bits: Word) -> Word {
        if dtype == DType::Bf16 {
            return self.m.bitcast((Kind::F32, n), bits);
        }
        let sign = self.masked(bits, 0x8000_0000, n);
        let magnitude = self.masked(bits, 0x7fff_ffff, n);
        // Exponent and mantissa, moved to where f32 has them, with the difference of the biases.
        let moved = self.shifted(Op::ShiftRightLogical, magnitude, 3, n);
        let normal = self.added(moved, 112 << 23, n);
        // Infinity and NaN have the largest exponent in both.
        let special = self.joined(moved, 0x7f80_0000, n);
        // Below, the mantissa counts units of 2^-24.
        let units = self.shifted(Op::ShiftRightLogical, magnitude, 16, n);
        let units = self.m.op(Op::ConvertUToF, (Kind::F32, n), &[units]);
        let unit = self.m.f32s(f32::from_bits((127 - 24) << 23), n);
        let small = self.m.float(Op::FMul, n, &[units, unit]);
        let small = self.m.bitcast((Kind::U32, n), small);
        let is_small = self.below(magnitude, 0x0400_0000, n);
        let finite = self.pick(is_small, small, normal, n);
        let is_finite = self.below(magnitude, 0x7c00_0000, n);
        let widened = self.pick(is_finite, finite, special, n);
        let signed = self.m.op(Op::BitwiseOr, (Kind::U32, n), &[widened, sign]);
        self.m.bitcast((Kind::F32, n), signed)
    }

    /// The 16 bits of `f32` that is a number of `bf16`.
    pub fn cut(&mut self, n: u8, value: Word) -> Word {
        let bits = self.m.bitcast((Kind::U32, n), value);
        self.shifted(Op::ShiftRightLogical, bits, 16, n)
    }

    /// The 16 bits of `f32` rounded.
    pub fn round(&mut self, dtype: DType, n: u8, value: Word) -> Word {
        let bits = self.m.bitcast((Kind::U32, n), value);
        let magnitude = self.masked(bits, 0x7fff_ffff, n);
        let is_number = self.below(magnitude, 0x7f80_0001, n);
        if dtype == DType::Bf16 {
            let rounded = self.rounded(bits, 16, 0, n);
            let quiet = self.joined(bits, 0x0040_0000, n);
            let quiet = self.shifted(Op::ShiftRightLogical, quiet, 16, n);
            return self.pick(is_number, rounded, quiet, n);
        }
        // Normal results: the bias of the exponent is 112 less.
        let normal = self.rounded(magnitude, 13, 112 << 23, n);
        // Subnormal ones: adding 0.5 puts the last place of f16 into that of f32, which rounds.
        let float = self.m.bitcast((Kind::F32, n), magnitude);
        let half = self.m.f32s(0.5, n);
        let sum = self.m.float(Op::FAdd, n, &[float, half]);
        let sum = self.m.bitcast((Kind::U32, n), sum);
        let small = self.added(sum, 0.5f32.to_bits().wrapping_neg(), n);
        let is_small = self.below(magnitude, (127 - 14) << 23, n);
        let finite = self.pick(is_small, small, normal, n);
        // What rounds up to 2^16 has become infinity; what is larger has not.
        let is_bounded = self.below(magnitude, (127 + 16) << 23, n);
        let infinity = self.m.u32s(0x7c00, n);
        let number = self.pick(is_bounded, finite, infinity, n);
        let payload = self.shifted(Op::ShiftRightLogical, magnitude, 13, n);
        let payload = self.masked(payload, 0x3ff, n);
        let quiet = self.joined(payload, 0x7e00, n);
        let unsigned = self.pick(is_number, number, quiet, n);
        let sign = self.shifted(Op::ShiftRightLogical, bits, 16, n);
        let sign = self.masked(sign, 0x8000, n);
        self.m.op(Op::BitwiseOr, (Kind::U32, n), &[unsigned, sign])
    }

    /// `(v - less)` without its lowest `by` bits, to nearest, ties to even.
    fn rounded(&mut self, v: Word, by: u32, less: u32, n: u8) -> Word {
        let odd = self.shifted(Op::ShiftRightLogical, v, by, n);
        let odd = self.masked(odd, 1, n);
        let biased = self.added(v, ((1 << (by - 1)) - 1u32).wrapping_sub(less), n);
        let biased = self.m.op(Op::IAdd, (Kind::U32, n), &[biased, odd]);
        self.shifted(Op::ShiftRightLogical, biased, by, n)
    }

    pub fn shifted(&mut self, op: Op, v: Word, by: u32, n: u8) -> Word {
        let by = self.m.u32s(by, n);
        self.m.op(op, (Kind::U32, n), &[v, by])
    }

    fn masked(&mut self, v: Word, mask: u32, n: u8) -> Word {
        let mask = self.m.u32s(mask, n);
        self.m.op(Op::BitwiseAnd, (Kind::U32, n), &[v, mask])
    }

    fn joined(&mut self, v: Word, bits: u32, n: u8) -> Word {
        let bits = self.m.u32s(bits, n);
        self.m.op(Op::BitwiseOr, (Kind::U32, n), &[v, bits])
    }

    fn added(&mut self, v: Word, to: u32, n: u8) -> Word {
        let to = self.m.u32s(to, n);
        self.m.op(Op::IAdd, (Kind::U32, n), &[v, to])
    }

    fn below(&mut self, v: Word, bound: u32, n: u8) -> Word {
        let bound = self.m.u32s(bound, n);
        self.m.op(Op::ULessThan, (Kind::Bool, n), &[v, bound])
    }

    fn pick(&mut self, cond: Word, a: Word, b: Word, n: u8) -> Word {
        self.m.op(Op::Select, (Kind::U32, n), &[cond, a, b])
    }
}
