//! Integer arithmetic and bits.

use super::operand::operands;
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::{Inst, Operand};
use crate::op::Op;
use crate::regs::{LANES, Word, mask_where};
use crate::types::Ty;

/// One expression for all integer types.
macro_rules! each_int {
    ($cx:expr, $inst:expr, $ty:expr, |$a:ident| $e:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => $cx.un($inst, $ty, |$a: u32| {
                let $a = $a as u16;
                u32::from(($e) as u16)
            }),
            Ty::S16 => $cx.un($inst, $ty, |$a: u32| {
                let $a = $a as i16;
                u32::from(($e) as u16)
            }),
            Ty::U32 | Ty::B32 => $cx.un($inst, $ty, |$a: u32| ($e) as u32),
            Ty::S32 => $cx.un($inst, $ty, |$a: u32| {
                let $a = $a as i32;
                ($e) as u32
            }),
            Ty::U64 | Ty::B64 => $cx.un($inst, $ty, |$a: u64| ($e) as u64),
            Ty::S64 => $cx.un($inst, $ty, |$a: u64| {
                let $a = $a as i64;
                ($e) as u64
            }),
            _ => Err(format!("`{}` of this type", $inst.name)),
        }
    };
    ($cx:expr, $inst:expr, $ty:expr, |$a:ident, $b:ident| $e:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => $cx.bin($inst, [$ty; 2], |$a: u32, $b: u32| {
                let ($a, $b) = ($a as u16, $b as u16);
                u32::from(($e) as u16)
            }),
            Ty::S16 => $cx.bin($inst, [$ty; 2], |$a: u32, $b: u32| {
                let ($a, $b) = ($a as i16, $b as i16);
                u32::from(($e) as u16)
            }),
            Ty::U32 | Ty::B32 => $cx.bin($inst, [$ty; 2], |$a: u32, $b: u32| ($e) as u32),
            Ty::S32 => $cx.bin($inst, [$ty; 2], |$a: u32, $b: u32| {
                let ($a, $b) = ($a as i32, $b as i32);
                ($e) as u32
            }),
            Ty::U64 | Ty::B64 => $cx.bin($inst, [$ty; 2], |$a: u64, $b: u64| ($e) as u64),
            Ty::S64 => $cx.bin($inst, [$ty; 2], |$a: u64, $b: u64| {
                let ($a, $b) = ($a as i64, $b as i64);
                ($e) as u64
            }),
            _ => Err(format!("`{}` of this type", $inst.name)),
        }
    };
    ($cx:expr, $inst:expr, $ty:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => $cx.tern($inst, [$ty; 3], |$a: u32, $b: u32, $c: u32| {
                let ($a, $b, $c) = ($a as u16, $b as u16, $c as u16);
                u32::from(($e) as u16)
            }),
            Ty::S16 => $cx.tern($inst, [$ty; 3], |$a: u32, $b: u32, $c: u32| {
                let ($a, $b, $c) = ($a as i16, $b as i16, $c as i16);
                u32::from(($e) as u16)
            }),
            Ty::U32 | Ty::B32 => $cx.tern($inst, [$ty; 3], |$a: u32, $b: u32, $c: u32| ($e) as u32),
            Ty::S32 => $cx.tern($inst, [$ty; 3], |$a: u32, $b: u32, $c: u32| {
                let ($a, $b, $c) = ($a as i32, $b as i32, $c as i32);
                ($e) as u32
            }),
            Ty::U64 | Ty::B64 => $cx.tern($inst, [$ty; 3], |$a: u64, $b: u64, $c: u64| ($e) as u64),
            Ty::S64 => $cx.tern($inst, [$ty; 3], |$a: u64, $b: u64, $c: u64| {
                let ($a, $b, $c) = ($a as i64, $b as i64, $c as i64);
                ($e) as u64
            }),
            _ => Err(format!("`{}` of this type", $inst.name)),
        }
    };
}

impl Decoder<'_> {
    pub(super) fn integer(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        if mods.peek().is_none_or(|ty| ty.float()) {
            return Ok(None);
        }
        let base = mods.base().to_owned();
        let op = match base.as_str() {
            "add" | "sub" | "addc" | "subc" => self.sum(inst, mods, &base)?,
            "mul" | "mul24" => self.product(inst, mods, &base)?,
            "mad" | "mad24" | "madc" => self.mad(inst, mods, &base)?,
            "div" => {
                let ty = mods.ty()?;
                // Division by zero gives all ones, as the hardware does.
                each_int!(self, inst, ty, |a, b| if b == 0 { !b } else { a.wrapping_div(b) })?
            }
            "rem" => {
                let ty = mods.ty()?;
                each_int!(self, inst, ty, |a, b| if b == 0 { a } else { a.wrapping_rem(b) })?
            }
            "min" | "max" => {
                let (ty, relu) = (mods.ty()?, mods.take("relu"));
                if relu && ty != Ty::S32 {
                    return Err("`.relu` of other than s32".into());
                }
                match (base == "min", relu) {
                    (true, false) => each_int!(self, inst, ty, |a, b| a.min(b))?,
                    (false, false) => each_int!(self, inst, ty, |a, b| a.max(b))?,
                    (true, true) => self.bin(inst, [ty; 2], |a: u32, b: u32| {
                        (a as i32).min(b as i32).max(0) as u32
                    })?,
                    (false, true) => self.bin(inst, [ty; 2], |a: u32, b: u32| {
                        (a as i32).max(b as i32).max(0) as u32
                    })?,
                }
            }
            "abs" => match mods.ty()? {
                ty @ Ty::S16 => {
                    self.un(inst, ty, |a: u32| u32::from((a as i16).wrapping_abs() as u16))?
                }
                ty @ Ty::S32 => self.un(inst, ty, |a: u32| (a as i32).wrapping_abs() as u32)?,
                ty @ Ty::S64 => self.un(inst, ty, |a: u64| (a as i64).wrapping_abs() as u64)?,
                _ => return Err("`abs` of this type".into()),
            },
            "neg" => {
                let ty = mods.ty()?;
                each_int!(self, inst, ty, |a| a.wrapping_neg())?
            }
            "sad" => {
                let ty = mods.ty()?;
                each_int!(self, inst, ty, |a, b, c| c.wrapping_add(if a > b {
                    a.wrapping_sub(b)
                } else {
                    b.wrapping_sub(a)
                }))?
            }
            "and" | "or" | "xor" | "not" | "cnot" => self.logic(inst, mods, &base)?,
            "shl" | "shr" => self.shift(inst, mods, base == "shl")?,
            "shf" => self.funnel(inst, mods)?,
            "popc" => match mods.ty()? {
                ty if ty.bits() == 64 => self.un(inst, ty, |a: u64| a.count_ones())?,
                ty => self.un(inst, ty, |a: u32| a.count_ones())?,
            },
            "clz" => match mods.ty()? {
                ty if ty.bits() == 64 => self.un(inst, ty, |a: u64| a.leading_zeros())?,
                ty => self.un(inst, ty, |a: u32| a.leading_zeros())?,
            },
            "brev" => match mods.ty()? {
                ty if ty.bits() == 64 => self.un(inst, ty, |a: u64| a.reverse_bits())?,
                ty => self.un(inst, ty, |a: u32| a.reverse_bits())?,
            },
            "bfind" => self.find_bit(inst, mods)?,
            "bfe" => self.extract(inst, mods)?,
            "bfi" => match mods.ty()? {
                ty if ty.bits() == 64 => {
                    self.quad(inst, ty, |a: u64, b, at, len| insert(a, b, at, len, 64))?
                }
                ty => self.quad(inst, ty, |a: u32, b, at, len| {
                    insert(a.into(), b.into(), at, len, 32) as u32
                })?,
            },
            "bmsk" => {
                let clamp = mods.take("clamp");
                mods.drop(&["wrap"]);
                let ty = mods.ty()?;
                self.bin(inst, [ty; 2], move |a: u32, b: u32| {
                    let (a, b) = if clamp { (a, b) } else { (a & 31, b & 31) };
                    if a >= 32 { 0 } else { (ones(b.min(32)) as u32) << a }
                })?
            }
            "lop3" => self.lop3(inst, mods)?,
            "prmt" => self.permute(inst, mods)?,
            "dp4a" | "dp2a" => self.dot(inst, mods, base == "dp4a")?,
            _ => return Ok(None),
        };
        Ok(Some(op.into()))
    }

    fn sum(&mut self, inst: &Inst, mods: &mut Mods, base: &str) -> Known<Op> {
        let (sets, ty) = (mods.take("cc"), mods.ty()?);
        let takes = base.ends_with('c');
        let minus = base.starts_with("sub");
        if sets || takes {
            return match ty.bits() {
                64 => self.carried::<u64>(inst, ty, minus, takes, sets),
                32 => self.carried::<u32>(inst, ty, minus, takes, sets),
                _ => Err("carries of other than 32 and 64 bits".into()),
            };
        }
        if mods.take("sat") {
            return match (ty, minus) {
                (Ty::S32, false) => self.bin(inst, [ty; 2], |a: u32, b: u32| {
                    (a as i32).saturating_add(b as i32) as u32
                }),
                (Ty::S32, true) => self.bin(inst, [ty; 2], |a: u32, b: u32| {
                    (a as i32).saturating_sub(b as i32) as u32
                }),
                _ => Err("`.sat` of other than s32".into()),
            };
        }
        if minus {
            each_int!(self, inst, ty, |a, b| a.wrapping_sub(b))
        } else {
            each_int!(self, inst, ty, |a, b| a.wrapping_add(b))
        }
    }

    fn carried<T: Word>(
        &mut self,
        inst: &Inst,
        ty: Ty,
        minus: bool,
        takes: bool,
        sets: bool,
    ) -> Known<Op> {
        let [d, a, b] = operands(inst)?;
        let (a, b, d) = (self.src::<T>(a, ty)?, self.src::<T>(b, ty)?, self.dst::<T>(d)?);
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let carry = if takes { regs.carry } else { 0 };
            let (x, y) = (regs.get::<T>(a), regs.get::<T>(b));
            let mut wide = [0i128; LANES];
            for i in 0..LANES {
                let (x, y) = (x[i].bits() as i128, y[i].bits() as i128);
                let c = i128::from(carry >> i & 1);
                wide[i] = if minus { x - y - c } else { x + y + c };
            }
            let out = wide.map(|v| T::from_bits(v as u64));
            regs.put(d, mask, &out);
            if sets {
                let over = mask_where(|i| wide[i] < 0 || wide[i] >> T::BITS != 0);
                regs.carry = regs.carry & !mask | over & mask;
            }
        })))
    }

    fn product(&mut self, inst: &Inst, mods: &mut Mods, base: &str) -> Known<Op> {
        let part = mods.find(|p| ["lo", "hi", "wide"].contains(&p).then(|| p.to_owned()));
        let ty = mods.ty()?;
        let part = part.ok_or("`mul` of integers without .lo, .hi or .wide")?;
        if base == "mul24" {
            return self
                .bin(inst, [ty; 2], move |a: u32, b: u32| mul24(a, b, ty.signed(), part == "hi"));
        }
        match part.as_str() {
            "lo" => each_int!(self, inst, ty, |a, b| a.wrapping_mul(b)),
            "hi" => match ty {
                Ty::U16 => {
                    self.bin(inst, [ty; 2], |a: u32, b: u32| ((a & 0xffff) * (b & 0xffff)) >> 16)
                }
                Ty::S16 => self.bin(inst, [ty; 2], |a: u32, b: u32| {
                    (i32::from(a as i16) * i32::from(b as i16)) as u32 >> 16
                }),
                Ty::U32 => self.bin(inst, [ty; 2], |a: u32, b: u32| {
                    ((u64::from(a) * u64::from(b)) >> 32) as u32
                }),
                Ty::S32 => {
                    self.bin(inst, [ty; 2], |a: u32, b: u32| ((wide(a) * wide(b)) >> 32) as u32)
                }
                Ty::U64 => self.bin(inst, [ty; 2], high_unsigned),
                Ty::S64 => self.bin(inst, [ty; 2], high_signed),
                _ => Err("`mul.hi` of this type".into()),
            },
            _ => match ty {
                Ty::U16 => self.bin(inst, [ty; 2], |a: u32, b: u32| (a & 0xffff) * (b & 0xffff)),
                Ty::S16 => self.bin(inst, [ty; 2], |a: u32, b: u32| {
                    (i32::from(a as i16) * i32::from(b as i16)) as u32
                }),
                Ty::U32 => self.bin(inst, [ty; 2], |a: u32, b: u32| u64::from(a) * u64::from(b)),
                Ty::S32 => self.bin(inst, [ty; 2], |a: u32, b: u32| (wide(a) * wide(b)) as u64),
                _ => Err("`mul.wide` of this type".into()),
            },
        }
    }

    fn mad(&mut self, inst: &Inst, mods: &mut Mods, base: &str) -> Known<Op> {
        let part = mods.find(|p| ["lo", "hi", "wide"].contains(&p).then(|| p.to_owned()));
        let (sets, ty) = (mods.take("cc"), mods.ty()?);
        let part = part.ok_or("`mad` of integers without .lo, .hi or .wide")?;
        let takes = base == "madc";
        if sets || takes {
            return match ty.bits() {
                64 => self.mad_carried::<u64>(inst, ty, part == "hi", takes, sets),
                32 => self.mad_carried::<u32>(inst, ty, part == "hi", takes, sets),
                _ => Err("carries of other than 32 and 64 bits".into()),
            };
        }
        if base == "mad24" {
            return self.tern(inst, [ty; 3], move |a: u32, b: u32, c: u32| {
                mul24(a, b, ty.signed(), part == "hi").wrapping_add(c)
            });
        }
        match part.as_str() {
            "lo" => each_int!(self, inst, ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            "hi" => match ty {
                Ty::U32 => self.tern(inst, [ty; 3], |a: u32, b: u32, c: u32| {
                    (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
                }),
                Ty::S32 => self.tern(inst, [ty; 3], |a: u32, b: u32, c: u32| {
                    (((wide(a) * wide(b)) >> 32) as u32).wrapping_add(c)
                }),
                Ty::U64 => {
                    self.tern(inst, [ty; 3], |a, b, c: u64| high_unsigned(a, b).wrapping_add(c))
                }
                Ty::S64 => {
                    self.tern(inst, [ty; 3], |a, b, c: u64| high_signed(a, b).wrapping_add(c))
                }
                _ => Err("`mad.hi` of this type".into()),
            },
            _ => match ty {
                Ty::U16 => self.tern(inst, [ty, ty, Ty::U32], |a: u32, b: u32, c: u32| {
                    ((a & 0xffff) * (b & 0xffff)).wrapping_add(c)
                }),
                Ty::S16 => self.tern(inst, [ty, ty, Ty::S32], |a: u32, b: u32, c: u32| {
                    ((i32::from(a as i16) * i32::from(b as i16)) as u32).wrapping_add(c)
                }),
                Ty::U32 => self.tern(inst, [ty, ty, Ty::U64], |a: u32, b: u32, c: u64| {
                    (u64::from(a) * u64::from(b)).wrapping_add(c)
                }),
                Ty::S32 => self.tern(inst, [ty, ty, Ty::S64], |a: u32, b: u32, c: u64| {
                    ((wide(a) * wide(b)) as u64).wrapping_add(c)
                }),
                _ => Err("`mad.wide` of this type".into()),
            },
        }
    }

    fn mad_carried<T: Word>(
        &mut self,
        inst: &Inst,
        ty: Ty,
        high: bool,
        takes: bool,
        sets: bool,
    ) -> Known<Op> {
        let [d, a, b, c] = operands(inst)?;
        let (a, b, c) = (self.src::<T>(a, ty)?, self.src::<T>(b, ty)?, self.src::<T>(c, ty)?);
        let d = self.dst::<T>(d)?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let carry = if takes { regs.carry } else { 0 };
            let (x, y, z) = (regs.get::<T>(a), regs.get::<T>(b), regs.get::<T>(c));
            let mut sums = [0u128; LANES];
            for i in 0..LANES {
                let product = if ty.signed() {
                    (signed(x[i].bits(), T::BITS) * signed(y[i].bits(), T::BITS)) as u128
                } else {
                    u128::from(x[i].bits()) * u128::from(y[i].bits())
                };
                let part = if high { product >> T::BITS } else { product };
                let part = T::from_bits(part as u64).bits();
                sums[i] = u128::from(part) + u128::from(z[i].bits()) + u128::from(carry >> i & 1);
            }
            let out = sums.map(|v| T::from_bits(v as u64));
            regs.put(d, mask, &out);
            if sets {
                let over = mask_where(|i| sums[i] >> T::BITS != 0);
                regs.carry = regs.carry & !mask | over & mask;
            }
        })))
    }

    fn logic(&mut self, inst: &Inst, mods: &mut Mods, base: &str) -> Known<Op> {
        let ty = mods.ty()?;
        if ty == Ty::Pred {
            return self.logic_of_predicates(inst, base);
        }
        match base {
            "and" => each_int!(self, inst, ty, |a, b| a & b),
            "or" => each_int!(self, inst, ty, |a, b| a | b),
            "xor" => each_int!(self, inst, ty, |a, b| a ^ b),
            "not" => each_int!(self, inst, ty, |a| !a),
            _ => each_int!(self, inst, ty, |a| (a == 0) as u8),
        }
    }

    fn logic_of_predicates(&mut self, inst: &Inst, base: &str) -> Known<Op> {
        let flip = |negated: bool| if negated { u32::MAX } else { 0 };
        if base == "not" {
            let [d, a] = operands(inst)?;
            let (a, d) = (self.pred_source(a)?, self.pred(d)?);
            return Ok(Op::Alu(Box::new(move |regs, mask| {
                let value = !(regs.preds[a.pred] ^ flip(a.negated));
                regs.put_pred(d, mask, value);
            })));
        }
        let f: fn(u32, u32) -> u32 = match base {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            "xor" => |a, b| a ^ b,
            _ => return Err(format!("`{base}.pred`")),
        };
        let [d, a, b] = operands(inst)?;
        let (a, b, d) = (self.pred_source(a)?, self.pred_source(b)?, self.pred(d)?);
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let value =
                f(regs.preds[a.pred] ^ flip(a.negated), regs.preds[b.pred] ^ flip(b.negated));
            regs.put_pred(d, mask, value);
        })))
    }

    /// Shifts by the width or more give zeros, or the sign.
    fn shift(&mut self, inst: &Inst, mods: &mut Mods, left: bool) -> Known<Op> {
        let ty = mods.ty()?;
        let tys = [ty, Ty::U32];
        match (ty.bits(), left, ty.signed()) {
            (16, true, _) => {
                self.bin(inst, tys, |a: u32, n: u32| if n < 16 { a << n & 0xffff } else { 0 })
            }
            (16, false, false) => {
                self.bin(inst, tys, |a: u32, n: u32| if n < 16 { (a & 0xffff) >> n } else { 0 })
            }
            (16, false, true) => {
                self.bin(inst, tys, |a: u32, n: u32| u32::from((a as i16 >> n.min(15)) as u16))
            }
            (32, true, _) => {
                self.bin(inst, tys, |a: u32, n: u32| if n < 32 { a << (n & 31) } else { 0 })
            }
            (32, false, false) => {
                self.bin(inst, tys, |a: u32, n: u32| if n < 32 { a >> (n & 31) } else { 0 })
            }
            (32, false, true) => {
                self.bin(inst, tys, |a: u32, n: u32| (a as i32 >> n.min(31)) as u32)
            }
            (64, true, _) => {
                self.bin(inst, tys, |a: u64, n: u32| if n < 64 { a << (n & 63) } else { 0 })
            }
            (64, false, false) => {
                self.bin(inst, tys, |a: u64, n: u32| if n < 64 { a >> (n & 63) } else { 0 })
            }
            (64, false, true) => {
                self.bin(inst, tys, |a: u64, n: u32| (a as i64 >> n.min(63)) as u64)
            }
            _ => Err("a shift of this type".into()),
        }
    }

    fn funnel(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let left = mods.take("l");
        if !left && !mods.take("r") {
            return Err("`shf` without .l or .r".into());
        }
        let wrap = mods.take("wrap");
        mods.drop(&["clamp"]);
        let ty = mods.ty()?;
        self.tern(inst, [ty, ty, Ty::U32], move |low: u32, high: u32, n: u32| {
            let n = if wrap { n & 31 } else { n.min(32) };
            let both = u64::from(high) << 32 | u64::from(low);
            if left { (both << n >> 32) as u32 } else { (both >> n) as u32 }
        })
    }

    fn find_bit(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let (amount, ty) = (mods.take("shiftamt"), mods.ty()?);
        let found = move |zeros: u32| {
            let top = ty.bits() - 1;
            if zeros > top {
                u32::MAX
            } else if amount {
                zeros
            } else {
                top - zeros
            }
        };
        match ty {
            Ty::U32 => self.un(inst, ty, move |a: u32| found(a.leading_zeros())),
            Ty::S32 => self
                .un(inst, ty, move |a: u32| found((a ^ (a as i32 >> 31) as u32).leading_zeros())),
            Ty::U64 => self.un(inst, ty, move |a: u64| found(a.leading_zeros())),
            Ty::S64 => self
                .un(inst, ty, move |a: u64| found((a ^ (a as i64 >> 63) as u64).leading_zeros())),
            _ => Err("`bfind` of this type".into()),
        }
    }

    fn extract(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let ty = mods.ty()?;
        let field = move |a: u64, at: u32, len: u32| {
            let (at, len, bits) = (at & 255, len & 255, ty.bits());
            let value = if at >= bits { 0 } else { a >> at } & ones(len.min(64));
            if !ty.signed() || len == 0 {
                return value;
            }
            let top = (at + len - 1).min(bits - 1);
            let negative = a >> top & 1 == 1;
            let kept = (top + 1).saturating_sub(at);
            if negative { value | !ones(kept) } else { value }
        };
        let tys = [ty, Ty::U32, Ty::U32];
        match ty.bits() {
            32 => self
                .tern(inst, tys, move |a: u32, at: u32, len: u32| field(a.into(), at, len) as u32),
            64 => self.tern(inst, tys, move |a: u64, at: u32, len: u32| field(a, at, len)),
            _ => Err("`bfe` of this type".into()),
        }
    }

    fn lop3(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let ty = mods.ty()?;
        let Some((Operand::Int(table), first)) = inst.operands.split_last() else {
            return Err("`lop3` without its table".into());
        };
        let table = *table as u32;
        let inst = Inst { operands: first.to_vec(), ..inst.clone() };
        self.tern(&inst, [ty; 3], move |a: u32, b: u32, c: u32| {
            let mut out = 0;
            for row in 0..8u32 {
                let term = |v: u32, bit: u32| if row >> bit & 1 == 1 { v } else { !v };
                let take = if table >> row & 1 == 1 { u32::MAX } else { 0 };
                out |= take & term(a, 2) & term(b, 1) & term(c, 0);
            }
            out
        })
    }

    fn permute(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let ty = mods.ty()?;
        let modes = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
        let mode = mods.find(|p| modes.iter().position(|m| *m == p));
        self.tern(inst, [ty; 3], move |a: u32, b: u32, c: u32| {
            let bytes = u64::from(b) << 32 | u64::from(a);
            let mut out = 0;
            for i in 0..4u32 {
                let s = c & 3;
                let choice = match mode {
                    None => c >> (4 * i) & 15,
                    Some(0) => (s + i) & 7,
                    Some(1) => s.wrapping_sub(i) & 7,
                    Some(2) => s,
                    Some(3) => i.max(s),
                    Some(4) => i.min(s),
                    Some(_) => (s & 1) * 2 + (i & 1),
                };
                let byte = (bytes >> (8 * (choice & 7))) as u8;
                let byte = if choice & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 };
                out |= u32::from(byte) << (8 * i);
            }
            out
        })
    }

    fn dot(&mut self, inst: &Inst, mods: &mut Mods, four: bool) -> Known<Op> {
        let high = mods.take("hi");
        mods.drop(&["lo"]);
        let (ta, tb) = (mods.ty()?, mods.ty()?);
        let byte = |v: u32, i: u32, ty: Ty| {
            let byte = (v >> (8 * i)) as u8;
            if ty.signed() { i32::from(byte as i8) } else { i32::from(byte) }
        };
        self.tern(inst, [ta, tb, Ty::B32], move |a: u32, b: u32, c: u32| {
            let mut sum = c as i32;
            if four {
                for i in 0..4 {
                    sum = sum.wrapping_add(byte(a, i, ta) * byte(b, i, tb));
                }
            } else {
                for i in 0..2 {
                    let half = (a >> (16 * i)) as u16;
                    let half = if ta.signed() { i32::from(half as i16) } else { i32::from(half) };
                    sum = sum.wrapping_add(half.wrapping_mul(byte(b, i + 2 * u32::from(high), tb)));
                }
            }
            sum as u32
        })
    }
}

fn wide(v: u32) -> i64 {
    i64::from(v as i32)
}

fn signed(v: u64, bits: u32) -> i128 {
    if bits == 32 { i128::from(v as u32 as i32) } else { i128::from(v as i64) }
}

fn high_unsigned(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

fn high_signed(a: u64, b: u64) -> u64 {
    ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
}

fn mul24(a: u32, b: u32, signed: bool, high: bool) -> u32 {
    let narrow =
        |v: u32| if signed { i64::from((v << 8) as i32 >> 8) } else { i64::from(v & 0xff_ffff) };
    let product = narrow(a) * narrow(b);
    if high { (product >> 16) as u32 } else { product as u32 }
}

/// So many ones from the bottom, up to 64.
fn ones(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

fn insert(a: u64, b: u64, at: u32, len: u32, bits: u32) -> u64 {
    let (at, len) = (at & 255, len & 255);
    if at >= bits {
        return b;
    }
    let field = ones(len) << at;
    b & !field | a << at & field
}
