//! `exp`, `log`, `sin`, `cos` and what is made of them, as instructions every target has.
//!
//! No target's own function is used: Cranelift has none, Vulkan bounds its own loosely, and
//! results should not depend on the machine. Errors are bounded against `f64` by the tests of
//! the evaluator, in units of the last place of `f32`, over the ranges that are stated.

use crate::builder::KernelBuilder;
use crate::expr::{Expr, Operand};
use crate::inst::*;

/// Adding this to `|x| < 2^22` leaves `x`, rounded to nearest, in the low bits.
const ROUND: f32 = 12_582_912.0;

impl<'k> Expr<'k> {
    /// `e^x`, within 1.5 units; 0 below -87.3, infinity above 88.7, NaN for NaN.
    pub fn exp(self) -> Expr<'k> {
        let k = self.k;
        // Clamped so that the exponent below stays in range; what the clamp cut off is put
        // right at the end. A NaN fails the first comparison and would become the bound.
        let x = self.max(-87.5).min(89.0);
        let shifted = k.mul_add(x, std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        // ln 2 in two parts: the first has few enough bits that its product with n is exact.
        let r = k.mul_add(n, -1.428_606_8e-6, k.mul_add(n, -0.693_145_75, x));
        let p = polynomial(
            r,
            &[
                1.0,
                1.0,
                0.5,
                0.166_666_65,
                0.041_665_795,
                0.008_333_452,
                0.001_394_397_6,
                1.988_098_2e-4,
            ],
        );
        // 2^n is multiplied in two steps, as 2^128 alone is no f32.
        let exponent = shifted.unary(UnaryOp::FloatToBits) - ROUND.to_bits() as i32;
        let half = exponent >> 1;
        let power = |e: Expr<'k>| ((e + 127) << 23).unary(UnaryOp::BitsToFloat);
        let y = p * power(half) * power(exponent - half);
        let y = self.lt(-87.336_54).select(0.0, y);
        let y = self.gt(88.722_83).select(f32::INFINITY, y);
        self.ne(self).select(self, y)
    }

    /// `ln x` for normal positive `x`, within 2 units, near 1 too.
    pub fn log(self) -> Expr<'k> {
        let k = self.k;
        // x = 2^e · m with m in [sqrt(1/2), sqrt(2)).
        let bits = self.unary(UnaryOp::FloatToBits);
        let e = (bits - 0x3f35_04f3) >> 23;
        let m = (bits - (e << 23)).unary(UnaryOp::BitsToFloat);
        // ln m = 2 atanh(s), s = (m - 1) / (m + 1).
        let f = m - 1.0;
        let s = f / (f + 2.0);
        let z = s * s;
        let series = polynomial(z, &[0.666_666_7, 0.399_999_95, 0.285_719_6, 0.221_655_5, 0.190_0]);
        let tail = s * z * series;
        let e = e.to_f32();
        let low = k.mul_add(e, 1.428_606_8e-6, tail);
        k.mul_add(e, 0.693_145_75, s + s + low)
    }

    /// `1 / (1 + e^-x)`, within 3 units from -87 up; 0 at the other end.
    pub fn sigmoid(self) -> Expr<'k> {
        let one = 1.0f32.operand(self.k).widened(self.ty().width);
        one / ((-self).exp() + 1.0)
    }

    /// `x · sigmoid(x)`, within 3 units from -87 up; NaN for negative infinity.
    pub fn silu(self) -> Expr<'k> {
        self / ((-self).exp() + 1.0)
    }

    /// `ln(1 + e^x)`, and `x` above 20 (spec 8.2); within 4 units from -87.3 up, 0 below.
    pub fn softplus(self) -> Expr<'k> {
        // ln(1 + e) loses what 1 + e rounds away; dividing by what was really added restores it.
        let e = self.exp();
        let u = e + 1.0;
        let added = u - 1.0;
        let exact = u.log() * (e / added.max(1e-30));
        let small = added.eq(0.0).select(e, exact);
        self.gt(20.0).select(self, small)
    }
}

impl KernelBuilder {
    /// `(sin x, cos x)` for `|x| <= 2^22`, absolute error below 2e-7.
    pub fn sin_cos<'k>(&'k self, x: Expr<'k>) -> (Expr<'k>, Expr<'k>) {
        // The quadrant n has up to 22 bits. Cut into two halves of 11, its products with 12-bit
        // pieces of pi/2 are exact, so no multiply-add is needed and nothing cancels wrongly.
        let shifted = x * std::f32::consts::FRAC_2_PI + ROUND;
        let n = shifted - ROUND;
        let quadrant = shifted.unary(UnaryOp::FloatToBits);
        const SPLIT: f32 = 2048.0 * ROUND;
        let high = (n + SPLIT) - SPLIT;
        let low = n - high;
        let mut r = x;
        for piece in pi_half_pieces() {
            r = r - high * piece;
            r = r - low * piece;
        }
        let z = r * r;
        let sin = polynomial(z, &[-0.166_666_67, 0.008_333_331, -1.984_091e-4, 2.752_55e-6]);
        let sin = self.mul_add(r * z, sin, r);
        let cos = polynomial(z, &[0.041_666_668, -0.001_388_888_7, 2.480_06e-5, -2.727_7e-7]);
        let cos = self.mul_add(z * z, cos, 1.0f32.operand(self) - z * 0.5);
        let one = self.i(1).widened(x.ty().width);
        let swap = quadrant.binary(BinaryOp::And, one).eq(1);
        let negative = |q: Expr<'k>| q.binary(BinaryOp::And, 2).eq(2);
        let s = swap.select(cos, sin);
        let c = swap.select(sin, cos);
        (negative(quadrant).select(-s, s), negative(quadrant + 1).select(-c, c))
    }
}

/// Coefficients in ascending powers, by Horner's rule.
fn polynomial<'k>(x: Expr<'k>, coefficients: &[f32]) -> Expr<'k> {
    let (last, rest) = coefficients.split_last().expect("a coefficient");
    let start = last.operand(x.k).widened(x.ty().width);
    rest.iter().rev().fold(start, |acc, &c| x.k.mul_add(acc, x, c))
}

impl<'k> Operand<'k> for &f32 {
    fn operand(self, k: &'k KernelBuilder) -> Expr<'k> {
        k.f(*self)
    }
}

/// pi/2 in pieces of 12 significant bits, together exact to 60 bits.
fn pi_half_pieces() -> [f32; 5] {
    let mut rest = std::f64::consts::FRAC_PI_2;
    let mut pieces = [0.0; 5];
    for piece in &mut pieces {
        *piece = f32::from_bits((rest as f32).to_bits() & 0xffff_f000);
        rest -= f64::from(*piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    #[test]
    fn pieces_of_pi_have_twelve_bits_and_make_up_pi() {
        let pieces = super::pi_half_pieces();
        let sum: f64 = pieces.iter().rev().map(|&p| f64::from(p)).sum();
        assert_eq!(sum, std::f64::consts::FRAC_PI_2);
        assert!(pieces.iter().all(|p| p.to_bits() & 0xfff == 0));
    }
}
