//! Arithmetic on halves: f16 and bf16, alone and in pairs. Each result is rounded once.

use super::float::pick;
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::Inst;
use crate::math::{Exact, Format, NAN16, Round, bf16_bits, bf16_value, exp2, f16_bits, f16_value};
use crate::op::Op;
use crate::types::Ty;

#[derive(Clone, Copy)]
struct Half {
    brain: bool,
    /// Negative results become zero.
    relu: bool,
    sat: bool,
    ftz: bool,
}

impl Half {
    fn value(self, bits: u32) -> f64 {
        let bits = bits & 0xffff;
        if self.ftz && bits & 0x7c00 == 0 {
            return if bits & 0x8000 == 0 { 0.0 } else { -0.0 };
        }
        f64::from(if self.brain { bf16_value(bits) } else { f16_value(bits) })
    }

    fn round(self, v: Exact) -> u32 {
        let v = match v.near {
            near if self.sat && (near.is_nan() || near <= 0.0) => Exact::of(0.0),
            near if self.sat && near > 1.0 => Exact::of(1.0),
            near if self.relu && near <= 0.0 => Exact::of(0.0),
            _ => v,
        };
        let bits =
            if self.brain { bf16_bits(v, Round::Nearest) } else { f16_bits(v, Round::Nearest) };
        u32::from(if self.ftz && bits & 0x7c00 == 0 { bits & 0x8000 } else { bits })
    }
}

impl Decoder<'_> {
    pub(super) fn packed(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        let Some(ty @ (Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2)) = mods.peek() else {
            return Ok(None);
        };
        let base = mods.base().to_owned();
        if !HALVES.contains(&base.as_str()) {
            return Ok(None);
        }
        mods.drop(&["rn", "approx"]);
        let half = Half {
            brain: matches!(ty, Ty::Bf16 | Ty::Bf16x2),
            relu: mods.take("relu"),
            sat: mods.take("sat"),
            ftz: mods.take("ftz") && matches!(ty, Ty::F16 | Ty::F16x2),
        };
        let nan = mods.take("NaN");
        mods.ty()?;
        let pair = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        let width = if pair { 2 } else { 1 };
        let h = half;
        let (op, flops) = match base.as_str() {
            "add" => (
                self.half2(inst, ty, pair, move |a, b| {
                    h.round(Exact::add(h.value(a), h.value(b)))
                })?,
                1,
            ),
            "sub" => (
                self.half2(inst, ty, pair, move |a, b| {
                    h.round(Exact::add(h.value(a), -h.value(b)))
                })?,
                1,
            ),
            "mul" => (
                self.half2(inst, ty, pair, move |a, b| {
                    h.round(Exact::mul(h.value(a), h.value(b)))
                })?,
                1,
            ),
            "fma" => {
                let fma = move |a: u32, b: u32, c: u32| {
                    h.round(Exact::fma(h.value(a), h.value(b), h.value(c)))
                };
                let op = if pair {
                    self.tern(inst, [ty; 3], move |a: u32, b: u32, c: u32| {
                        fma(a, b, c) | fma(a >> 16, b >> 16, c >> 16) << 16
                    })?
                } else {
                    self.tern(inst, [ty; 3], fma)?
                };
                (op, 2)
            }
            "min" | "max" => {
                let max = base == "max";
                let chosen = move |a: u32, b: u32| {
                    let v = pick(h.value(a) as f32, h.value(b) as f32, max, nan);
                    if v.is_nan() { NAN16.into() } else { h.round(Exact::of(v.into())) }
                };
                (self.half2(inst, ty, pair, chosen)?, 0)
            }
            "neg" | "abs" => {
                let sign = if pair { 0x8000_8000 } else { 0x8000 };
                let neg = base == "neg";
                (self.un(inst, ty, move |a: u32| if neg { a ^ sign } else { a & !sign })?, 0)
            }
            "ex2" | "tanh" => {
                let ex2 = base == "ex2";
                let one = move |a: u32| {
                    let v = h.value(a) as f32;
                    let v = if ex2 { exp2(v).into() } else { f64::from(v).tanh() };
                    h.round(Exact::of(v))
                };
                let op = if pair {
                    self.un(inst, ty, move |a: u32| one(a) | one(a >> 16) << 16)?
                } else {
                    self.un(inst, ty, one)?
                };
                (op, 1)
            }
            _ => return Ok(None),
        };
        Ok(Some(Decoded::flops(op, flops * width)))
    }

    fn half2(
        &mut self,
        inst: &Inst,
        ty: Ty,
        pair: bool,
        f: impl Fn(u32, u32) -> u32 + Send + Sync + 'static,
    ) -> Known<Op> {
        if pair {
            return self
                .bin(inst, [ty; 2], move |a: u32, b: u32| f(a, b) | f(a >> 16, b >> 16) << 16);
        }
        self.bin(inst, [ty; 2], f)
    }
}

const HALVES: &[&str] = &["add", "sub", "mul", "fma", "min", "max", "neg", "abs", "ex2", "tanh"];

/// The format of a half.
pub(super) fn format(ty: Ty) -> Option<Format> {
    match ty {
        Ty::F16 | Ty::F16x2 => Some(Format::F16),
        Ty::Bf16 | Ty::Bf16x2 => Some(Format::BF16),
        _ => None,
    }
}
