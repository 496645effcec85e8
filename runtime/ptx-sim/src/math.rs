//! Arithmetic as PTX rounds it, where Rust's own does not do.
//!
//! Directed rounding works on an exact sum of two float64: the nearest value and the sign of what is left over.

use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

impl Round {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "rn" => Self::Nearest,
            "rna" => Self::Away,
            "rz" => Self::Zero,
            "rm" => Self::Down,
            "rp" => Self::Up,
            _ => return None,
        })
    }
}

/// PTX's one NaN of float32.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
pub(crate) const NAN16: u16 = 0x7fff;
const NAN64: u64 = 0x7fff_ffff_ffff_ffff;

#[inline(always)]
pub(crate) fn bits32(v: f32) -> u32 {
    if v.is_nan() { NAN32 } else { v.to_bits() }
}

#[inline(always)]
pub(crate) fn bits64(v: f64) -> u64 {
    // The hardware keeps payloads of float64, but which operand's is not said.
    if v.is_nan() { NAN64 } else { v.to_bits() }
}

#[inline(always)]
pub(crate) fn flush(v: f32) -> f32 {
    if v.to_bits() & 0x7f80_0000 == 0 { f32::from_bits(v.to_bits() & 0x8000_0000) } else { v }
}

/// To [0, 1], NaN to 0.
#[inline(always)]
pub(crate) fn saturate(v: f32) -> f32 {
    if v > 0.0 { if v < 1.0 { v } else { 1.0 } } else { 0.0 }
}

/// A value that is not a float64: the nearest one, and the rest.
#[derive(Clone, Copy)]
pub(crate) struct Exact {
    pub near: f64,
    pub rest: f64,
}

impl Exact {
    pub fn of(near: f64) -> Self {
        Self { near, rest: 0.0 }
    }

    pub fn add(a: f64, b: f64) -> Self {
        let near = a + b;
        let back = near - a;
        let rest = (a - (near - back)) + (b - back);
        Self { near, rest: if rest.is_finite() { rest } else { 0.0 } }
    }

    pub fn mul(a: f64, b: f64) -> Self {
        let near = a * b;
        let rest = a.mul_add(b, -near);
        Self { near, rest: if rest.is_finite() { rest } else { 0.0 } }
    }

    pub fn fma(a: f64, b: f64, c: f64) -> Self {
        let near = a.mul_add(b, c);
        let product = Self::mul(a, b);
        let sum = Self::add(product.near, c);
        let rest = (sum.near - near) + (sum.rest + product.rest);
        Self { near, rest: if rest.is_finite() { rest } else { 0.0 } }
    }

    pub fn div(a: f64, b: f64) -> Self {
        let near = a / b;
        let left = (-near).mul_add(b, a);
        let rest = if left == 0.0 || !left.is_finite() { 0.0 } else { left * b.signum() };
        Self { near, rest }
    }

    pub fn sqrt(a: f64) -> Self {
        let near = a.sqrt();
        let left = (-near).mul_add(near, a);
        Self { near, rest: if left.is_finite() { left } else { 0.0 } }
    }

    /// Of this magnitude or more, seen from `v`: -1 below, 0 equal, 1 above.
    fn beside(self, v: f64) -> f64 {
        if v == self.near {
            if self.rest == 0.0 { 0.0 } else { -self.rest.signum() }
        } else if v > self.near {
            1.0
        } else {
            -1.0
        }
    }

    pub fn to_f64(self, round: Round) -> f64 {
        let v = self.near;
        if v.is_nan() || v == 0.0 && self.rest == 0.0 {
            return v;
        }
        let side = self.beside(v);
        match round {
            Round::Down if side > 0.0 => v.next_down(),
            Round::Up if side < 0.0 => v.next_up(),
            Round::Zero if side > 0.0 && v > 0.0 => v.next_down(),
            Round::Zero if side < 0.0 && v < 0.0 => v.next_up(),
            _ => v,
        }
    }

    pub fn to_f32(self, round: Round) -> f32 {
        let v = self.near;
        // Infinite or NaN here was so before rounding.
        if !v.is_finite() || v == 0.0 && self.rest == 0.0 {
            return v as f32;
        }
        self.to_format(Format::F32, round) as f32
    }

    /// To a smaller float, which a float64 holds exactly.
    pub fn to_format(self, format: Format, round: Round) -> f64 {
        let v = self.near;
        if !v.is_finite() || v == 0.0 {
            return v;
        }
        let mut exponent = exponent(v).max(format.least);
        // Just inside a power of two, steps are half as wide.
        let inside = self.rest != 0.0 && (self.rest > 0.0) != (v > 0.0);
        if inside && exponent > format.least && v.abs() == power(exponent) {
            exponent -= 1;
        }
        let unit = power(exponent - format.precision + 1);
        // Exact: a power of two, and the quotient is not below 1 where it matters.
        let scaled = v / unit;
        let whole = scaled.floor();
        let below = scaled - whole;
        let rest = self.rest;
        let up = match round {
            Round::Down => below == 0.0 && rest < 0.0,
            Round::Up => below > 0.0 || rest > 0.0,
            Round::Zero => v < 0.0 && (below > 0.0 || rest > 0.0),
            Round::Nearest => {
                below > 0.5 || below == 0.5 && (rest > 0.0 || rest == 0.0 && whole % 2.0 != 0.0)
            }
            Round::Away => below > 0.5 || below == 0.5 && (rest > 0.0 || rest == 0.0 && v > 0.0),
        };
        // Just under a representable value, the floor is one step too high.
        let under =
            below == 0.0 && rest < 0.0 && (round == Round::Down || round == Round::Zero && v > 0.0);
        let whole = match (under, up) {
            (true, _) => whole - 1.0,
            (false, true) => whole + 1.0,
            (false, false) => whole,
        };
        let out = (whole * unit).copysign(v);
        if out.abs() <= format.most {
            return out;
        }
        let stays = match round {
            Round::Zero => true,
            Round::Down => v > 0.0,
            Round::Up => v < 0.0,
            Round::Nearest | Round::Away => false,
        };
        if stays { format.most.copysign(v) } else { f64::INFINITY.copysign(v) }
    }
}

/// A binary float by its bits of precision, its least exponent of a normal value and its largest value.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    precision: i32,
    least: i32,
    pub most: f64,
}

impl Format {
    pub const F32: Self = Self { precision: 24, least: -126, most: f32::MAX as f64 };
    pub const F16: Self = Self { precision: 11, least: -14, most: 65504.0 };
    pub const BF16: Self = Self { precision: 8, least: -126, most: 3.389_531_389_251_535_5e38 };
    pub const TF32: Self = Self { precision: 11, least: -126, most: 3.401_162_134_214_653_5e38 };
}

fn exponent(v: f64) -> i32 {
    let biased = (v.to_bits() >> 52 & 0x7ff) as i32;
    if biased == 0 { -1074 } else { biased - 1023 }
}

fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).max(1) as u64) << 52)
}

pub(crate) fn f16_bits(v: Exact, round: Round) -> u16 {
    let v = v.to_format(Format::F16, round);
    if v.is_nan() { NAN16 } else { f16::from_f64(v).to_bits() }
}

pub(crate) fn bf16_bits(v: Exact, round: Round) -> u16 {
    let v = v.to_format(Format::BF16, round);
    if v.is_nan() { NAN16 } else { bf16::from_f64(v).to_bits() }
}

/// float32 to bfloat16, to nearest.
#[inline(always)]
pub(crate) fn bf16_nearest(v: u32) -> u32 {
    let rounded = v.wrapping_add(0x7fff + (v >> 16 & 1)) >> 16;
    if v & 0x7fff_ffff > 0x7f80_0000 { NAN16.into() } else { rounded }
}

#[inline(always)]
pub(crate) fn f16_value(bits: u32) -> f32 {
    f16::from_bits(bits as u16).to_f32()
}

#[inline(always)]
pub(crate) fn bf16_value(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// `2^v` within float32's precision: a polynomial in float64, the same on every host.
#[inline(always)]
pub(crate) fn exp2(v: f32) -> f32 {
    const SHIFT: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: adding it rounds to an integer
    const LN2: f64 = std::f64::consts::LN_2;
    let x = f64::from(v);
    // NaN passes both comparisons by.
    let x = if x > 200.0 { 200.0 } else { x };
    let x = if x < -200.0 { -200.0 } else { x };
    let shifted = x + SHIFT;
    let whole = shifted - SHIFT;
    let t = (x - whole) * LN2;
    let mut sum = 1.0 / 3_628_800.0;
    for term in [
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * t + term;
    }
    // The low bits of the shifted value are the integer.
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    (sum * scale) as f32
}
