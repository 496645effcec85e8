//! `cvt`: between integers and floats of all sizes, with all roundings.

use super::operand::operands;
use super::packed::format;
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::Inst;
use crate::math::{
    Exact, Format, Round, bf16_bits, bf16_nearest, bf16_value, bits32, bits64, f16_bits, f16_value,
    flush, saturate,
};
use crate::op::Op;
use crate::regs::lanes_of;
use crate::types::Ty;

/// How to round to an integer.
fn whole(name: &str) -> Option<Round> {
    Round::parse(name.strip_suffix('i')?)
}

/// Everything about a conversion but its operands.
#[derive(Clone, Copy)]
struct Convert {
    from: Ty,
    to: Ty,
    round: Round,
    /// A float stays a float, but becomes a whole number.
    integral: Option<Round>,
    ftz: bool,
    sat: bool,
    relu: bool,
    /// Too large is the largest, not infinite.
    finite: bool,
}

impl Decoder<'_> {
    pub(super) fn convert(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        if mods.base() != "cvt" {
            return Ok(None);
        }
        let integral = mods.find(whole);
        let round = mods.find(Round::parse);
        let (ftz, sat) = (mods.take("ftz"), mods.take("sat"));
        let (relu, finite) = (mods.take("relu"), mods.take("satfinite"));
        let (to, from) = (mods.ty()?, mods.ty()?);
        let convert = Convert {
            from,
            to,
            round: round.unwrap_or(Round::Nearest),
            integral,
            ftz,
            sat,
            relu,
            finite,
        };
        let op = match inst.operands.len() {
            3 => self.convert_pair(inst, convert)?,
            _ => self.convert_one(inst, convert)?,
        };
        Ok(Some(op.into()))
    }

    /// Two float32 to a pair of halves: the first operand is the upper half.
    fn convert_pair(&mut self, inst: &Inst, c: Convert) -> Known<Op> {
        let format = format(c.to).filter(|_| c.from == Ty::F32 && c.to.bits() == 32);
        let format = format.ok_or_else(|| format!("`{}`", inst.name))?;
        if c.to == Ty::Bf16x2 && c.round == Round::Nearest && !c.relu && !c.finite {
            return self
                .bin(inst, [Ty::F32; 2], |a: u32, b: u32| bf16_nearest(a) << 16 | bf16_nearest(b));
        }
        let one = move |v: u32| c.half(f64::from(f32::from_bits(v)), format);
        self.bin(inst, [Ty::F32; 2], move |a: u32, b: u32| one(a) << 16 | one(b))
    }

    fn convert_one(&mut self, inst: &Inst, c: Convert) -> Known<Op> {
        let plain = !c.ftz && !c.sat && !c.relu && !c.finite && c.integral.is_none();
        let near = c.round == Round::Nearest;
        if plain
            && near
            && let Some(op) = self.common(inst, c)?
        {
            return Ok(op);
        }
        if matches!(c.to, Ty::F16x2 | Ty::Bf16x2 | Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::Pred)
            || matches!(
                c.from,
                Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32 | Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::Pred
            )
        {
            return Err(format!("`{}`", inst.name));
        }
        if c.from.float() && !c.to.float() && c.integral.is_none() {
            return Err(format!("`{}` without a rounding to integers", inst.name));
        }
        let [d, a] = operands(inst)?;
        let (from, to) = (self.any(a, c.from)?, self.target(d, c.to)?);
        Ok(Op::Alu(Box::new(move |regs, mask| {
            for lane in lanes_of(mask) {
                let bits = c.apply(regs.lane(from, lane));
                regs.set_lane(to, lane, bits);
            }
        })))
    }

    /// What kernels do most, as loops that the compiler makes vectors of.
    fn common(&mut self, inst: &Inst, c: Convert) -> Known<Option<Op>> {
        let [d, a] = operands(inst)?;
        let (from, to) = (self.any(a, c.from)?, self.target(d, c.to)?);
        use crate::regs::Reg::{W32, W64};
        let from_ty = c.from;
        Ok(Some(match (c.from, c.to, from, to) {
            (Ty::Bf16, Ty::F32, W32(_), W32(_)) => self.un(inst, from_ty, |a: u32| a << 16)?,
            (Ty::F32, Ty::Bf16, W32(_), W32(_)) => self.un(inst, from_ty, bf16_nearest)?,
            (Ty::F16, Ty::F32, W32(_), W32(_)) => {
                self.un(inst, from_ty, |a: u32| bits32(f16_value(a & 0xffff)))?
            }
            (Ty::S32, Ty::F32, W32(_), W32(_)) => {
                self.un(inst, from_ty, |a: u32| (a as i32 as f32).to_bits())?
            }
            (Ty::U32, Ty::F32, W32(_), W32(_)) => {
                self.un(inst, from_ty, |a: u32| (a as f32).to_bits())?
            }
            (Ty::S32, Ty::S64 | Ty::U64, W32(_), W64(_)) => {
                self.un(inst, from_ty, |a: u32| i64::from(a as i32) as u64)?
            }
            (Ty::U32, Ty::S64 | Ty::U64, W32(_), W64(_)) => {
                self.un(inst, from_ty, |a: u32| u64::from(a))?
            }
            (Ty::U64 | Ty::S64, Ty::U32 | Ty::S32, W64(_), W32(_)) => {
                self.un(inst, from_ty, |a: u64| a as u32)?
            }
            (Ty::U16, Ty::U32 | Ty::S32, W32(_), W32(_)) => {
                self.un(inst, from_ty, |a: u32| a & 0xffff)?
            }
            (Ty::S16, Ty::U32 | Ty::S32, W32(_), W32(_)) => {
                self.un(inst, from_ty, |a: u32| a as i16 as u32)?
            }
            (Ty::U32 | Ty::S32, Ty::U16 | Ty::S16, W32(_), W32(_)) => {
                self.un(inst, from_ty, |a: u32| a & 0xffff)?
            }
            (Ty::F32, Ty::F64, W32(_), W64(_)) => {
                self.un(inst, from_ty, |a: u32| bits64(f32::from_bits(a).into()))?
            }
            (Ty::F64, Ty::F32, W64(_), W32(_)) => {
                self.un(inst, from_ty, |a: u64| bits32(f64::from_bits(a) as f32))?
            }
            _ => return Ok(None),
        }))
    }
}

impl Convert {
    fn apply(self, bits: u64) -> u64 {
        match (self.from.float(), self.to.float()) {
            (false, false) => {
                let value = integer(bits, self.from);
                narrow(if self.sat { clamp(value, self.to) } else { value }, self.to)
            }
            (false, true) => {
                let value = integer(bits, self.from);
                let near = value as f64;
                let rest = value - near as i128;
                self.float(Exact { near, rest: rest as f64 })
            }
            (true, false) => {
                let value = self.taken(bits);
                if value.is_nan() {
                    // NaN is 0 for 32 bits and fewer; for 64 the hardware gives the top bit.
                    return if self.to.bits() == 64 { 1 << 63 } else { 0 };
                }
                let whole = round_whole(value, self.integral.expect("checked when decoded"));
                narrow(clamp(whole as i128, self.to), self.to)
            }
            (true, true) => {
                let value = self.taken(bits);
                let value = self.integral.map_or(value, |round| round_whole(value, round));
                self.float(Exact::of(value))
            }
        }
    }

    fn taken(self, bits: u64) -> f64 {
        match self.from {
            Ty::F16 => f16_value(bits as u32 & 0xffff).into(),
            Ty::Bf16 => bf16_value(bits as u32 & 0xffff).into(),
            Ty::F32 if self.ftz => flush(f32::from_bits(bits as u32)).into(),
            Ty::F32 => f32::from_bits(bits as u32).into(),
            _ => f64::from_bits(bits),
        }
    }

    fn float(self, value: Exact) -> u64 {
        let value = if self.sat { saturated(value) } else { value };
        match self.to {
            Ty::F64 => bits64(value.to_f64(self.round)),
            Ty::F32 => {
                let out = value.to_f32(self.round);
                let out = if self.ftz { flush(out) } else { out };
                bits32(if self.sat { saturate(out) } else { out }).into()
            }
            Ty::Tf32 => {
                let near = if self.relu && value.near < 0.0 { Exact::of(0.0) } else { value };
                bits32(near.to_format(Format::TF32, self.round) as f32).into()
            }
            _ => self.half(value.near, format(self.to).expect("the floats that are left")).into(),
        }
    }

    fn half(self, value: f64, format: Format) -> u32 {
        let value = if self.relu && value <= 0.0 { 0.0 } else { value };
        let limit = self.finite && value.abs() > format.most;
        let value = Exact::of(if limit { format.most.copysign(value) } else { value });
        let brain = matches!(self.to, Ty::Bf16 | Ty::Bf16x2);
        u32::from(if brain { bf16_bits(value, self.round) } else { f16_bits(value, self.round) })
    }
}

fn saturated(value: Exact) -> Exact {
    if value.near > 1.0 {
        Exact::of(1.0)
    } else if value.near > 0.0 {
        value
    } else {
        Exact::of(0.0)
    }
}

fn round_whole(v: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => v.round_ties_even(),
        Round::Away => v.round(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}

fn integer(bits: u64, ty: Ty) -> i128 {
    match ty {
        Ty::S8 => (bits as i8).into(),
        Ty::S16 => (bits as i16).into(),
        Ty::S32 => (bits as i32).into(),
        Ty::S64 => (bits as i64).into(),
        Ty::U8 => (bits as u8).into(),
        Ty::U16 => (bits as u16).into(),
        Ty::U32 => (bits as u32).into(),
        _ => bits.into(),
    }
}

fn clamp(value: i128, ty: Ty) -> i128 {
    let bits = ty.bits();
    if ty.signed() {
        value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        value.clamp(0, (1 << bits) - 1)
    }
}

/// The bits in a register, extended by the type's sign.
fn narrow(value: i128, ty: Ty) -> u64 {
    match ty {
        Ty::S8 => value as i8 as u64,
        Ty::S16 => value as i16 as u64,
        Ty::S32 => value as i32 as u64,
        Ty::U8 => value as u8 as u64,
        Ty::U16 => value as u16 as u64,
        Ty::U32 => value as u32 as u64,
        _ => value as u64,
    }
}
