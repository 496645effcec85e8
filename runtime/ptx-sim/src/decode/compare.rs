//! Comparisons: `setp`, `set`, `testp`.

#![allow(
    clippy::double_comparisons,
    clippy::neg_cmp_op_on_partial_ord,
    reason = "with a NaN they are not what they would be simplified to"
)]

use super::operand::operands;
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::{Inst, Operand};
use crate::math::{bf16_value, f16_value, flush};
use crate::op::{Guard, Op};
use crate::regs::{Regs, Word, mask_where};
use crate::types::Ty;

/// The lanes where a comparison holds.
type Compare = Box<dyn Fn(&Regs) -> u32 + Send + Sync>;

#[derive(Clone, Copy, PartialEq)]
enum Join {
    And,
    Or,
    Xor,
}

impl Decoder<'_> {
    pub(super) fn compare(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        let op = match mods.base() {
            "setp" => self.setp(inst, mods)?,
            "set" => self.set(inst, mods)?,
            "testp" => self.testp(inst, mods)?,
            _ => return Ok(None),
        };
        Ok(Some(op.into()))
    }

    fn setp(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let (how, join, ty) = taken(mods)?;
        let ftz = mods.take("ftz");
        if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            return self.setp_pair(inst, &how, ty);
        }
        let (to, a, b, with) = match (&inst.operands[..], join) {
            ([to, a, b], None) => (to, a, b, None),
            ([to, a, b, with], Some(join)) => (to, a, b, Some((join, self.pred_source(with)?))),
            _ => return Err(format!("`{}` with {} operands", inst.name, inst.operands.len())),
        };
        let compare = self.comparison(&how, ty, a, b, ftz)?;
        let (p, q) = self.pair(to)?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let holds = compare(regs);
            regs.put_pred(p, mask, joined(regs, holds, with));
            if let Some(q) = q {
                regs.put_pred(q, mask, joined(regs, !holds, with));
            }
        })))
    }

    fn pair(&mut self, to: &Operand) -> Known<(usize, Option<usize>)> {
        match to {
            Operand::Pair(p, q) => Ok((self.pred(p)?, Some(self.pred(q)?))),
            p => Ok((self.pred(p)?, None)),
        }
    }

    /// `p|q` from the lower and the upper half.
    fn setp_pair(&mut self, inst: &Inst, how: &str, ty: Ty) -> Known<Op> {
        let [to, a, b] = operands(inst)?;
        let (a, b) = (self.src::<u32>(a, ty)?, self.src::<u32>(b, ty)?);
        let (p, q) = self.pair(to)?;
        let holds = float_test(how)?;
        let value = if ty == Ty::Bf16x2 { bf16_value } else { f16_value };
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let (x, y) = (&regs.w32[a], &regs.w32[b]);
            let low =
                mask_where(|i| holds(value(x[i] & 0xffff).into(), value(y[i] & 0xffff).into()));
            let high = mask_where(|i| holds(value(x[i] >> 16).into(), value(y[i] >> 16).into()));
            regs.put_pred(p, mask, low);
            if let Some(q) = q {
                regs.put_pred(q, mask, high);
            }
        })))
    }

    fn set(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let (how, join, to_ty) = taken(mods)?;
        let (ftz, ty) = (mods.take("ftz"), mods.ty()?);
        let (to, a, b, with) = match (&inst.operands[..], join) {
            ([to, a, b], None) => (to, a, b, None),
            ([to, a, b, with], Some(join)) => (to, a, b, Some((join, self.pred_source(with)?))),
            _ => return Err(format!("`{}` with {} operands", inst.name, inst.operands.len())),
        };
        let yes = match to_ty {
            Ty::U32 | Ty::S32 => u32::MAX,
            Ty::F32 => 1f32.to_bits(),
            _ => return Err("`set` to this type".into()),
        };
        let compare = self.comparison(&how, ty, a, b, ftz)?;
        let to = self.dst::<u32>(to)?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let holds = joined(regs, compare(regs), with);
            let out = std::array::from_fn(|i| if holds >> i & 1 == 1 { yes } else { 0 });
            regs.put::<u32>(to, mask, &out);
        })))
    }

    fn testp(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let kinds = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
        let kind = mods.find(|p| kinds.iter().position(|k| *k == p)).ok_or("`testp` of what")?;
        let ty = mods.ty()?;
        let [p, a] = operands(inst)?;
        let p = self.pred(p)?;
        let holds = move |v: f64, normal: bool, subnormal: bool| match kind {
            0 => v.is_finite(),
            1 => v.is_infinite(),
            2 => !v.is_nan(),
            3 => v.is_nan(),
            4 => normal,
            _ => subnormal,
        };
        if ty == Ty::F64 {
            let a = self.src::<u64>(a, ty)?;
            return Ok(Op::Alu(Box::new(move |regs, mask| {
                let v = regs.w64[a].map(f64::from_bits);
                let found = mask_where(|i| holds(v[i], v[i].is_normal(), v[i].is_subnormal()));
                regs.put_pred(p, mask, found);
            })));
        }
        let a = self.src::<u32>(a, ty)?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let v = regs.w32[a].map(f32::from_bits);
            let found = mask_where(|i| holds(v[i].into(), v[i].is_normal(), v[i].is_subnormal()));
            regs.put_pred(p, mask, found);
        })))
    }

    fn comparison(
        &mut self,
        how: &str,
        ty: Ty,
        a: &Operand,
        b: &Operand,
        ftz: bool,
    ) -> Known<Compare> {
        macro_rules! compare {
            ($word:ty, $to:expr, [$($name:pat => $test:expr),*]) => {{
                let (a, b) = (self.src::<$word>(a, ty)?, self.src::<$word>(b, ty)?);
                match how {
                    $($name => lanes::<$word>(a, b, move |x, y| { let (x, y) = ($to(x), $to(y)); $test(x, y) }),)*
                    _ => return Err(format!("comparison `.{how}` of this type")),
                }
            }};
        }
        // One closure for each pair of type and comparison, so that each is a loop of its own.
        macro_rules! whole {
            ($word:ty, $as:ty) => {
                compare!($word, |v| v as $as, [
                    "eq" => |x, y| x == y, "ne" => |x, y| x != y,
                    "lt" | "lo" => |x, y| x < y, "le" | "ls" => |x, y| x <= y,
                    "gt" | "hi" => |x, y| x > y, "ge" | "hs" => |x, y| x >= y
                ])
            };
        }
        macro_rules! real {
            ($word:ty, $to:expr) => {
                compare!($word, $to, [
                    "eq" => |x, y| x == y, "ne" => |x, y| x < y || x > y,
                    "lt" => |x, y| x < y, "le" => |x, y| x <= y,
                    "gt" => |x, y| x > y, "ge" => |x, y| x >= y,
                    "equ" => |x, y| !(x < y || x > y), "neu" => |x, y| x != y,
                    "ltu" => |x, y| !(x >= y), "leu" => |x, y| !(x > y),
                    "gtu" => |x, y| !(x <= y), "geu" => |x, y| !(x < y),
                    "num" => |x, y| x <= y || x > y, "nan" => |x, y| !(x <= y || x > y)
                ])
            };
        }
        Ok(match ty {
            Ty::U16 | Ty::B16 => whole!(u32, u16),
            Ty::S16 => whole!(u32, i16),
            Ty::U32 | Ty::B32 => whole!(u32, u32),
            Ty::S32 => whole!(u32, i32),
            Ty::U64 | Ty::B64 => whole!(u64, u64),
            Ty::S64 => whole!(u64, i64),
            Ty::F32 if ftz => real!(u32, |v| flush(f32::from_bits(v))),
            Ty::F32 => real!(u32, f32::from_bits),
            Ty::F64 => real!(u64, f64::from_bits),
            Ty::F16 => real!(u32, |v: u32| f16_value(v & 0xffff)),
            Ty::Bf16 => real!(u32, |v: u32| bf16_value(v & 0xffff)),
            _ => return Err("comparison of this type".into()),
        })
    }
}

fn lanes<T: Word>(
    a: usize,
    b: usize,
    holds: impl Fn(T, T) -> bool + Send + Sync + 'static,
) -> Compare {
    Box::new(move |regs| {
        let (x, y) = (regs.get::<T>(a), regs.get::<T>(b));
        mask_where(|i| holds(x[i], y[i]))
    })
}

fn joined(regs: &Regs, holds: u32, with: Option<(Join, Guard)>) -> u32 {
    let Some((join, Guard { pred, negated })) = with else { return holds };
    let other = regs.preds[pred] ^ if negated { u32::MAX } else { 0 };
    match join {
        Join::And => holds & other,
        Join::Or => holds | other,
        Join::Xor => holds ^ other,
    }
}

/// The comparison, what it is joined with, and the first type.
fn taken(mods: &mut Mods) -> Known<(String, Option<Join>, Ty)> {
    let how =
        mods.find(|p| HOW.contains(&p).then(|| p.to_owned())).ok_or("a comparison of what")?;
    let join = mods.find(|p| match p {
        "and" => Some(Join::And),
        "or" => Some(Join::Or),
        "xor" => Some(Join::Xor),
        _ => None,
    });
    Ok((how, join, mods.ty()?))
}

const HOW: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

fn float_test(how: &str) -> Known<fn(f64, f64) -> bool> {
    Ok(match how {
        "eq" => |x, y| x == y,
        "ne" => |x, y| x < y || x > y,
        "lt" => |x, y| x < y,
        "le" => |x, y| x <= y,
        "gt" => |x, y| x > y,
        "ge" => |x, y| x >= y,
        "equ" => |x, y| !(x < y || x > y),
        "neu" => |x, y| x != y,
        "ltu" => |x, y| !(x >= y),
        "leu" => |x, y| !(x > y),
        "gtu" => |x, y| !(x <= y),
        "geu" => |x, y| !(x < y),
        "num" => |x, y| x <= y || x > y,
        "nan" => |x, y| !(x <= y || x > y),
        _ => return Err(format!("comparison `.{how}` of floats")),
    })
}
