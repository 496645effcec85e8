//! What the lanes of a warp do together: shuffles, votes, matches, reductions.

use super::operand::operands;
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::{Inst, Operand};
use crate::op::{Op, Together};
use crate::regs::{FULL, LANES, lanes_of};
use crate::types::Ty;

#[derive(Clone, Copy)]
enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

impl Decoder<'_> {
    pub(super) fn warp(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        let base = mods.base().to_owned();
        if base == "activemask" {
            mods.ty()?;
            let [d] = operands(inst)?;
            let d = self.dst::<u32>(d)?;
            return Ok(Some(
                Op::Alu(Box::new(move |regs, mask| regs.put::<u32>(d, mask, &[mask; LANES])))
                    .into(),
            ));
        }
        if !["shfl", "vote", "match", "redux", "elect"].contains(&base.as_str()) {
            return Ok(None);
        }
        if !mods.take("sync") {
            return Err(format!("`{}` without .sync", inst.name));
        }
        let members = inst.operands.last().ok_or("too few operands")?;
        let members = self.src::<u32>(members, Ty::B32)?;
        let run = match base.as_str() {
            "shfl" => self.shuffle(inst, mods)?,
            "vote" => self.vote(inst, mods)?,
            "match" => self.matching(inst, mods)?,
            "redux" => self.redux(inst, mods)?,
            _ => self.elect(inst)?,
        };
        Ok(Some(Op::Together { members: Some(members), run }.into()))
    }

    fn shuffle(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Together> {
        let how = mods.find(|p| match p {
            "up" => Some(Shuffle::Up),
            "down" => Some(Shuffle::Down),
            "bfly" => Some(Shuffle::Butterfly),
            "idx" => Some(Shuffle::Index),
            _ => None,
        });
        let how = how.ok_or("`shfl` of which kind")?;
        mods.ty()?;
        let [to, a, b, c, _] = operands(inst)?;
        let (d, p) = match to {
            Operand::Pair(d, p) => (&**d, Some(self.pred(p)?)),
            d => (d, None),
        };
        let a = self.src::<u32>(a, Ty::B32)?;
        let (b, c) = (self.src::<u32>(b, Ty::U32)?, self.src::<u32>(c, Ty::U32)?);
        let d = self.dst::<u32>(d)?;
        Ok(Box::new(move |regs, mask| {
            let (x, by, limits) = (&regs.w32[a], &regs.w32[b], &regs.w32[c]);
            let mut out = [0; LANES];
            let mut within = 0;
            for lane in lanes_of(mask) {
                let (clamp, segment) = (limits[lane] & 31, limits[lane] >> 8 & 31);
                let me = lane as u32;
                let most = me & segment | clamp & !segment;
                let least = me & segment;
                let by = by[lane] & 31;
                let (from, ok) = match how {
                    Shuffle::Up => (me.wrapping_sub(by), me as i32 - by as i32 >= most as i32),
                    Shuffle::Down => (me + by, me + by <= most),
                    Shuffle::Butterfly => (me ^ by, me ^ by <= most),
                    Shuffle::Index => (least | by & !segment, least | by & !segment <= most),
                };
                let from = if ok { from & 31 } else { me };
                if mask >> from & 1 == 0 {
                    return Err((lane, format!("reads from lane {from}, which takes no part")));
                }
                within |= u32::from(ok) << lane;
                out[lane] = x[from as usize];
            }
            regs.put::<u32>(d, mask, &out);
            if let Some(p) = p {
                regs.put_pred(p, mask, within);
            }
            Ok(())
        }))
    }

    fn vote(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Together> {
        let how = mods.find(|p| ["all", "any", "uni", "ballot"].iter().position(|h| *h == p));
        let how = how.ok_or("`vote` of which kind")?;
        mods.ty()?;
        let [d, a, _] = operands(inst)?;
        let a = self.pred_source(a)?;
        let flip = if a.negated { FULL } else { 0 };
        if how == 3 {
            let d = self.dst::<u32>(d)?;
            return Ok(Box::new(move |regs, mask| {
                let votes = (regs.preds[a.pred] ^ flip) & mask;
                regs.put::<u32>(d, mask, &[votes; LANES]);
                Ok(())
            }));
        }
        let d = self.pred(d)?;
        Ok(Box::new(move |regs, mask| {
            let votes = (regs.preds[a.pred] ^ flip) & mask;
            let holds = match how {
                0 => votes == mask,
                1 => votes != 0,
                _ => votes == mask || votes == 0,
            };
            regs.put_pred(d, mask, if holds { FULL } else { 0 });
            Ok(())
        }))
    }

    fn matching(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Together> {
        let all = mods.take("all");
        if !all && !mods.take("any") {
            return Err("`match` of which kind".into());
        }
        let wide = mods.ty()?.bits() == 64;
        let [d, a, _] = operands(inst)?;
        let a = self.any(a, if wide { Ty::B64 } else { Ty::B32 })?;
        let (d, p) = match d {
            Operand::Pair(d, p) if all => (self.dst::<u32>(d)?, Some(self.pred(p)?)),
            d => (self.dst::<u32>(d)?, None),
        };
        Ok(Box::new(move |regs, mask| {
            let equal = |lane: usize| {
                let value = regs.lane(a, lane);
                lanes_of(mask)
                    .filter(|&other| regs.lane(a, other) == value)
                    .fold(0, |m, other| m | 1 << other)
            };
            let found: [u32; LANES] =
                std::array::from_fn(|i| if mask >> i & 1 == 1 { equal(i) } else { 0 });
            let same = lanes_of(mask).all(|i| found[i] == mask);
            let out = if all { [if same { mask } else { 0 }; LANES] } else { found };
            regs.put::<u32>(d, mask, &out);
            if let Some(p) = p {
                regs.put_pred(p, mask, if same { FULL } else { 0 });
            }
            Ok(())
        }))
    }

    fn redux(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Together> {
        let how =
            mods.find(|p| ["add", "min", "max", "and", "or", "xor"].iter().position(|h| *h == p));
        let how = how.ok_or("`redux` of which kind")?;
        let ty = mods.ty()?;
        if ty.bits() != 32 || ty.float() {
            return Err(format!("`{}`", inst.name));
        }
        let [d, a, _] = operands(inst)?;
        let (a, d) = (self.src::<u32>(a, ty)?, self.dst::<u32>(d)?);
        let f: fn(u32, u32) -> u32 = match (how, ty.signed()) {
            (0, _) => u32::wrapping_add,
            (1, false) => Ord::min,
            (2, false) => Ord::max,
            (1, true) => |a, b| (a as i32).min(b as i32) as u32,
            (2, true) => |a, b| (a as i32).max(b as i32) as u32,
            (3, _) => |a, b| a & b,
            (4, _) => |a, b| a | b,
            _ => |a, b| a ^ b,
        };
        Ok(Box::new(move |regs, mask| {
            let x = &regs.w32[a];
            let out = lanes_of(mask).map(|i| x[i]).reduce(f).unwrap_or_default();
            regs.put::<u32>(d, mask, &[out; LANES]);
            Ok(())
        }))
    }

    fn elect(&mut self, inst: &Inst) -> Known<Together> {
        let [to, _] = operands(inst)?;
        let Operand::Pair(d, p) = to else { return Err("`elect` without its predicate".into()) };
        let (d, p) = (self.dst::<u32>(d)?, self.pred(p)?);
        Ok(Box::new(move |regs, mask| {
            let leader = mask.trailing_zeros();
            regs.put::<u32>(d, mask, &[leader; LANES]);
            regs.put_pred(p, mask, 1u32.checked_shl(leader).unwrap_or(0));
            Ok(())
        }))
    }
}
