//! Moves, packing and unpacking, selection, and addresses from one space to another.

use super::operand::{operands, special};
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::{Inst, Operand};
use crate::launch::window;
use crate::op::Op;
use crate::regs::{BIT, LANES, Reg, Word};
use crate::types::{Space, Ty};

impl Decoder<'_> {
    pub(super) fn moves(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        let op = match mods.base() {
            "mov" => {
                let ty = mods.ty()?;
                self.mov(inst, ty)?
            }
            "selp" => match mods.ty()? {
                ty if ty.bits() == 64 => self.select::<u64>(inst, ty)?,
                ty => self.select::<u32>(inst, ty)?,
            },
            "slct" => self.slct(inst, mods)?,
            "cvta" => {
                let to = mods.take("to");
                let space = mods.find(Space::parse).ok_or("`cvta` without a space")?;
                if mods.ty()?.bits() != 64 {
                    return Err("addresses of other than 64 bits".into());
                }
                let base = window(space).unwrap_or(0);
                let add = if to { base.wrapping_neg() } else { base };
                self.un::<u64, u64>(inst, Ty::U64, move |a| a.wrapping_add(add))?
            }
            "isspacep" => self.isspacep(inst, mods)?,
            _ => return Ok(None),
        };
        Ok(Some(op.into()))
    }

    fn mov(&mut self, inst: &Inst, ty: Ty) -> Known<Op> {
        let [d, a] = operands(inst)?;
        match (d, a) {
            (Operand::Vector(parts), _) => return self.unpack(parts, a, ty),
            (_, Operand::Vector(parts)) => return self.pack(d, parts, ty),
            (_, Operand::Name(name))
                if matches!(
                    name.as_str(),
                    "%clock"
                        | "%clock_hi"
                        | "%clock64"
                        | "%globaltimer"
                        | "%globaltimer_lo"
                        | "%globaltimer_hi"
                ) =>
            {
                return Ok(Op::Clock(self.target(d, ty)?));
            }
            _ => {}
        }
        if ty == Ty::Pred {
            let (from, to) = (self.pred_source(a)?, self.pred(d)?);
            return Ok(Op::Alu(Box::new(move |regs, mask| {
                let value = regs.preds[from.pred] ^ if from.negated { u32::MAX } else { 0 };
                regs.put_pred(to, mask, value);
            })));
        }
        if ty.bits() == 64 {
            // %clock and its kin are the only special registers of 64 bits; others are widened.
            if let Operand::Name(name) = a
                && special(name).is_some()
            {
                return self.un::<u32, u64>(inst, Ty::U32, u64::from);
            }
            return self.un::<u64, u64>(inst, ty, |a| a);
        }
        if ty.bits() == 16 {
            self.un::<u32, u32>(inst, ty, |a| a & 0xffff)
        } else {
            self.un::<u32, u32>(inst, ty, |a| a)
        }
    }

    fn unpack(&mut self, parts: &[Operand], from: &Operand, ty: Ty) -> Known<Op> {
        let bits = part_bits(ty, parts.len())?;
        let part = if bits == 64 { Ty::B64 } else { Ty::B32 };
        let from = self.any(from, ty)?;
        let to = parts.iter().map(|p| self.target(p, part)).collect::<Known<Vec<_>>>()?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            for lane in crate::regs::lanes_of(mask) {
                let value = regs.lane(from, lane);
                for (i, &to) in to.iter().enumerate() {
                    let piece = value >> (i as u32 * bits) & (u64::MAX >> (64 - bits));
                    regs.set_lane(to, lane, piece);
                }
            }
        })))
    }

    fn pack(&mut self, to: &Operand, parts: &[Operand], ty: Ty) -> Known<Op> {
        let bits = part_bits(ty, parts.len())?;
        let part = if bits == 16 { Ty::B16 } else { Ty::B32 };
        let from = parts.iter().map(|p| self.any(p, part)).collect::<Known<Vec<_>>>()?;
        if let ([Reg::W32(low), Reg::W32(high)], 32) = (&from[..], bits) {
            let (low, high, to) = (*low, *high, self.dst::<u64>(to)?);
            return Ok(Op::Alu(Box::new(move |regs, mask| {
                let (low, high) = (&regs.w32[low], &regs.w32[high]);
                let out = std::array::from_fn(|i| u64::from(low[i]) | u64::from(high[i]) << 32);
                regs.put::<u64>(to, mask, &out);
            })));
        }
        let to = self.target(to, ty)?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            for lane in crate::regs::lanes_of(mask) {
                let mut value = 0;
                for (i, &from) in from.iter().enumerate() {
                    value |=
                        (regs.lane(from, lane) & (u64::MAX >> (64 - bits))) << (i as u32 * bits);
                }
                regs.set_lane(to, lane, value);
            }
        })))
    }

    fn select<T: Word>(&mut self, inst: &Inst, ty: Ty) -> Known<Op> {
        let [d, a, b, p] = operands(inst)?;
        let (a, b) = (self.src::<T>(a, ty)?, self.src::<T>(b, ty)?);
        let (p, d) = (self.pred_source(p)?, self.dst::<T>(d)?);
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let chosen = regs.preds[p.pred] ^ if p.negated { u32::MAX } else { 0 };
            let (x, y) = (regs.get::<T>(a), regs.get::<T>(b));
            let mut out = [T::default(); LANES];
            for i in 0..LANES {
                out[i] = if chosen & BIT[i] != 0 { x[i] } else { y[i] };
            }
            regs.put(d, mask, &out);
        })))
    }

    /// `c >= 0 ? a : b`
    fn slct(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        mods.take("ftz");
        let ty = mods.ty()?;
        let by = mods.ty()?;
        let chooses =
            move |c: u32| if by == Ty::F32 { f32::from_bits(c) >= 0.0 } else { c as i32 >= 0 };
        if by.bits() != 32 {
            return Err("`slct` by other than 32 bits".into());
        }
        if ty.bits() == 64 {
            return self.tern(
                inst,
                [ty, ty, by],
                move |a: u64, b: u64, c: u32| if chooses(c) { a } else { b },
            );
        }
        self.tern(inst, [ty, ty, by], move |a: u32, b: u32, c: u32| if chooses(c) { a } else { b })
    }

    fn isspacep(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let space = mods.find(Space::parse).ok_or("`isspacep` without a space")?;
        let [d, a] = operands(inst)?;
        let (a, d) = (self.src::<u64>(a, Ty::U64)?, self.pred(d)?);
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let x = &regs.w64[a];
            let within = crate::regs::mask_where(|i| crate::launch::space_of(x[i]).0 == space);
            regs.put_pred(d, mask, within);
        })))
    }
}

fn part_bits(ty: Ty, parts: usize) -> Known<u32> {
    match (ty.bits(), parts) {
        (64, 2) => Ok(32),
        (64, 4) | (32, 2) => Ok(16),
        (32, 4) | (16, 2) => Ok(8),
        (bits, parts) => Err(format!("{bits} bits in {parts} parts")),
    }
}
