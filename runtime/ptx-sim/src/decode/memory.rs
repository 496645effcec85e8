//! Loads, stores, atomics and copies. Caches have no say in results, so their modifiers are read over.

use super::names::Entity;
use super::operand::operands;
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::{Inst, Operand};
use crate::op::{Access, Address, Atom, AtomKind, Base, Copy, Op};
use crate::regs::Reg;
use crate::types::{Space, Ty};

const CACHES: &[&str] = &[
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "weak",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_first",
    "L2::evict_last",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

impl Decoder<'_> {
    pub(super) fn memory(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        let base = mods.base().to_owned();
        if !["ld", "ldu", "st", "atom", "red", "cp"].contains(&base.as_str()) {
            return Ok(None);
        }
        mods.drop(CACHES);
        // The policy is the last operand.
        let mut inst = inst.clone();
        if mods.take("L2::cache_hint") {
            inst.operands.pop();
        }
        let op = match base.as_str() {
            "ld" | "ldu" => self.load(&inst, mods)?,
            "st" => self.store(&inst, mods)?,
            "cp" => self.copy(&inst, mods)?,
            _ => self.atom(&inst, mods, base == "atom")?,
        };
        Ok(Some(op.into()))
    }

    fn load(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let strong = strong(mods);
        let space = mods.find(Space::parse).unwrap_or(Space::Generic);
        let (lanes, ty) = vector(mods)?;
        let [to, from] = operands(inst)?;
        let regs = match to {
            Operand::Vector(parts) => {
                parts.iter().map(|p| self.target(p, ty)).collect::<Known<Vec<_>>>()?
            }
            one => vec![self.target(one, ty)?],
        };
        check(&regs, lanes, ty)?;
        let at = self.address(from, space)?;
        if strong && matches!(at.space, Space::Global | Space::Generic) {
            self.ordered = true;
        }
        self.meets_shared(at.space, ty);
        Ok(Op::Load(Box::new(Access { at, ty, regs, strong })))
    }

    fn store(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        let strong = strong(mods);
        let space = mods.find(Space::parse).unwrap_or(Space::Generic);
        let (lanes, ty) = vector(mods)?;
        let [to, from] = operands(inst)?;
        let regs = match from {
            Operand::Vector(parts) => {
                parts.iter().map(|p| self.any(p, ty)).collect::<Known<Vec<_>>>()?
            }
            one => vec![self.any(one, ty)?],
        };
        check(&regs, lanes, ty)?;
        let at = self.address(to, space)?;
        if matches!(at.space, Space::Const) {
            return Err("a store to constants".into());
        }
        self.meets_shared(at.space, ty);
        Ok(Op::Store(Box::new(Access { at, ty, regs, strong })))
    }

    fn atom(&mut self, inst: &Inst, mods: &mut Mods, returns: bool) -> Known<Op> {
        strong(mods);
        mods.drop(&["acq_rel", "noftz"]);
        let space = mods.find(Space::parse).unwrap_or(Space::Generic);
        let kind = mods.find(|p| {
            Some(match p {
                "add" => AtomKind::Add,
                "and" => AtomKind::And,
                "or" => AtomKind::Or,
                "xor" => AtomKind::Xor,
                "min" => AtomKind::Min,
                "max" => AtomKind::Max,
                "inc" => AtomKind::Inc,
                "dec" => AtomKind::Dec,
                "exch" => AtomKind::Exch,
                "cas" => AtomKind::Cas,
                _ => return None,
            })
        });
        let kind = kind.ok_or_else(|| format!("`{}` without an operation", inst.name))?;
        let (lanes, ty) = vector(mods)?;
        if matches!(ty, Ty::B8 | Ty::U8 | Ty::S8 | Ty::Pred | Ty::Tf32 | Ty::B128) {
            return Err(format!("`{}`", inst.name));
        }
        if ty.float() && !matches!(kind, AtomKind::Add | AtomKind::Min | AtomKind::Max) {
            return Err(format!("`{}`", inst.name));
        }
        let mut rest = inst.operands.iter();
        let mut next =
            || rest.next().ok_or_else(|| format!("`{}` with too few operands", inst.name));
        let list = |o: &Operand| {
            if let Operand::Vector(parts) = o { parts.clone() } else { vec![o.clone()] }
        };
        let to = if returns { list(next()?) } else { vec![] };
        let at = next()?;
        let a = list(next()?);
        let b = if kind == AtomKind::Cas { Some(next()?.clone()) } else { None };
        if rest.next().is_some() {
            return Err(format!("`{}` with too many operands", inst.name));
        }
        let to = to.iter().map(|o| self.target(o, ty)).collect::<Known<Vec<_>>>()?;
        let a = a.iter().map(|o| self.any(o, ty)).collect::<Known<Vec<_>>>()?;
        let b = b.map(|o| self.any(&o, ty)).transpose()?;
        check(&a, lanes, ty)?;
        if returns {
            check(&to, lanes, ty)?;
        }
        let at = self.address(at, space)?;
        self.meets_shared(at.space, ty);
        match at.space {
            Space::Global | Space::Generic => {
                let commutes = !ty.float()
                    && ty.bits() == 32
                    && matches!(
                        kind,
                        AtomKind::Add
                            | AtomKind::And
                            | AtomKind::Or
                            | AtomKind::Xor
                            | AtomKind::Min
                            | AtomKind::Max
                    );
                self.ordered |= !commutes;
                self.returned.extend(&to);
            }
            Space::Shared => {}
            _ => return Err("an atomic outside of global and shared memory".into()),
        }
        Ok(Op::Atom(Box::new(Atom { at, ty, kind, to, a, b })))
    }

    fn copy(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Op> {
        if !mods.take("async") {
            return Err(format!("unknown instruction `{}`", inst.name));
        }
        if mods.take("commit_group") {
            let [] = operands(inst)?;
            return Ok(Op::CopyCommit);
        }
        if mods.take("wait_all") {
            let [] = operands(inst)?;
            return Ok(Op::CopyWait(u32::MAX));
        }
        if mods.take("wait_group") {
            let [Operand::Int(count)] = operands(inst)? else {
                return Err("expected a count of groups".into());
            };
            return Ok(Op::CopyWait((*count).clamp(0, 1 << 20) as u32));
        }
        let to = mods.find(Space::parse);
        let from = mods.find(Space::parse);
        if (to, from) != (Some(Space::Shared), Some(Space::Global)) {
            return Err(format!("unknown instruction `{}`", inst.name));
        }
        let [to, from, bytes, more @ ..] = &inst.operands[..] else {
            return Err(format!("`{}` with too few operands", inst.name));
        };
        let Operand::Int(bytes @ (4 | 8 | 16)) = *bytes else {
            return Err("copies of 4, 8 or 16 bytes".into());
        };
        let (mut given, mut ignore) = (None, None);
        for operand in more {
            let pred = match operand {
                Operand::Name(name) => matches!(self.lookup(name), Ok(Entity::Reg(Reg::Pred(_)))),
                Operand::Not(_) => true,
                _ => false,
            };
            if pred {
                ignore = Some(self.pred_source(operand)?);
            } else if given.is_none() {
                given = Some(self.any(operand, Ty::U32)?);
            } else {
                return Err(format!("`{}` with too many operands", inst.name));
            }
        }
        let to = self.address(to, Space::Shared)?;
        let from = self.address(from, Space::Global)?;
        Ok(Op::Copy(Box::new(Copy { to, from, bytes: bytes as u64, given, ignore })))
    }

    pub(super) fn address(&mut self, operand: &Operand, space: Space) -> Known<Address> {
        let Operand::Address(name, offset) = operand else {
            return Err("expected an address in brackets".into());
        };
        let offset = *offset as u64;
        let Some(name) = name else { return Ok(Address { space, base: Base::None, offset }) };
        let entity = self.lookup(name)?;
        let (found, at) = match entity {
            Entity::Reg(reg) => {
                let base = match reg {
                    Reg::W64(index) => Base::W64(index),
                    Reg::W32(index) if !matches!(space, Space::Global | Space::Generic) => {
                        Base::W32(index)
                    }
                    _ => return Err(format!("`{name}` is no address of 64 bits")),
                };
                self.read.insert(reg);
                return Ok(Address { space, base, offset });
            }
            Entity::Local(at) => (Space::Local, at),
            Entity::LocalParam(at) => (Space::Param, at),
            Entity::Param(at) => (Space::Param, at),
            Entity::Shared(at) => (Space::Shared, at),
            Entity::Global(space, at) => (space, at),
            Entity::Targets(_) => return Err(format!("`{name}` is no address")),
        };
        if space != Space::Generic && space != found {
            return Err(format!("`{name}` lies in another space"));
        }
        let space = if matches!(entity, Entity::LocalParam(_)) { Space::Local } else { found };
        Ok(Address { space, base: Base::None, offset: at.wrapping_add(offset) })
    }

    fn meets_shared(&mut self, space: Space, ty: Ty) {
        if matches!(space, Space::Shared | Space::Generic) {
            self.granule = self.granule.min(ty.bytes());
        }
    }
}

fn strong(mods: &mut Mods) -> bool {
    let names = ["volatile", "relaxed", "acquire", "release", "mmio"];
    names.iter().fold(false, |found, name| mods.take(name) | found)
}

fn vector(mods: &mut Mods) -> Known<(usize, Ty)> {
    let lanes =
        mods.find(|p| ["v2", "v4", "v8"].contains(&p).then(|| p[1..].parse().expect("a digit")));
    Ok((lanes.unwrap_or(1), mods.ty()?))
}

fn check(regs: &[Reg], lanes: usize, ty: Ty) -> Known<()> {
    if regs.len() != lanes {
        return Err(format!("{} registers for {lanes} elements", regs.len()));
    }
    if ty.bytes() == 0 || ty.bytes() > 8 || ty.bytes() * lanes as u64 > 32 {
        return Err("an access of this size".into());
    }
    let narrow = |reg: &Reg| match reg {
        Reg::W32(_) => ty.bytes() > 4,
        Reg::W64(_) => false,
        Reg::Pred(_) => true,
    };
    if regs.iter().any(narrow) {
        Err("a register narrower than what it holds".into())
    } else {
        Ok(())
    }
}
