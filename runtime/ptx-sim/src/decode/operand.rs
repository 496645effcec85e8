//! Operands to register indices, and the shapes that most arithmetic has.

use super::names::Entity;
use super::{Decoder, Known};
use crate::ast::{Inst, Operand};
use crate::op::{Guard, LaneMask, Op, Special};
use crate::regs::{LANES, Reg, Word};
use crate::types::Ty;

/// Where function parameters begin among the addresses of `.param`.
pub(crate) const PARAM_LOCAL: u64 = 1 << 20;

impl Decoder<'_> {
    /// A register to be read, or one that holds the immediate.
    pub(super) fn any(&mut self, operand: &Operand, ty: Ty) -> Known<Reg> {
        let wide = ty.bits() == 64;
        let reg = match operand {
            Operand::Name(name) => {
                if let Some(special) = special(name) {
                    if wide {
                        return Err(format!("`{name}` has 32 bits, expected 64"));
                    }
                    return Ok(Reg::W32(self.special(special)));
                }
                match self.lookup(name)? {
                    Entity::Reg(reg) => reg,
                    entity => return self.address_of(&entity, 0, wide),
                }
            }
            Operand::Sum(name, offset) => {
                let entity = self.lookup(name)?;
                if matches!(entity, Entity::Reg(_)) {
                    return Err("a sum of a register".into());
                }
                return self.address_of(&entity, *offset, wide);
            }
            _ => {
                let bits = immediate(operand, ty)?;
                return Ok(if wide {
                    Reg::W64(self.constant64(bits)?)
                } else {
                    Reg::W32(self.constant32(bits as u32)?)
                });
            }
        };
        self.read.insert(reg);
        Ok(reg)
    }

    fn address_of(&mut self, entity: &Entity, offset: i64, wide: bool) -> Known<Reg> {
        let at = match entity {
            Entity::Local(at) | Entity::Shared(at) | Entity::Param(at) | Entity::Global(_, at) => {
                *at
            }
            Entity::LocalParam(at) => at + PARAM_LOCAL,
            Entity::Reg(_) | Entity::Targets(_) => {
                return Err("expected an address or a value".into());
            }
        };
        let at = at.wrapping_add_signed(offset);
        Ok(if wide {
            Reg::W64(self.constant64(at)?)
        } else {
            Reg::W32(self.constant32(at as u32)?)
        })
    }

    pub(super) fn src<T: Word>(&mut self, operand: &Operand, ty: Ty) -> Known<usize> {
        let reg = self.any(operand, ty)?;
        T::index(reg).ok_or_else(|| mismatch(operand, T::BITS))
    }

    /// A register that is written; `_` is one that nobody reads.
    pub(super) fn target(&mut self, operand: &Operand, ty: Ty) -> Known<Reg> {
        match operand {
            Operand::Name(name) if name == "_" => self.register(ty),
            Operand::Name(name) if special(name).is_none() => match self.lookup(name)? {
                Entity::Reg(reg) => Ok(reg),
                _ => Err(format!("`{name}` is no register")),
            },
            _ => Err("expected a register to write".into()),
        }
    }

    pub(super) fn dst<T: Word>(&mut self, operand: &Operand) -> Known<usize> {
        let ty = if T::BITS == 64 { Ty::B64 } else { Ty::B32 };
        T::index(self.target(operand, ty)?).ok_or_else(|| mismatch(operand, T::BITS))
    }

    pub(super) fn pred(&mut self, operand: &Operand) -> Known<usize> {
        let Operand::Name(name) = operand else { return Err("expected a predicate".into()) };
        if name == "_" {
            let Reg::Pred(index) = self.register(Ty::Pred)? else { unreachable!("a predicate") };
            return Ok(index);
        }
        match self.lookup(name)? {
            Entity::Reg(Reg::Pred(index)) => Ok(index),
            _ => Err(format!("`{name}` is no predicate")),
        }
    }

    /// A predicate or its negation; immediates are constant predicates.
    pub(super) fn pred_source(&mut self, operand: &Operand) -> Known<Guard> {
        match operand {
            Operand::Not(name) => {
                Ok(Guard { pred: self.pred(&Operand::Name(name.clone()))?, negated: true })
            }
            Operand::Int(value) => {
                // A predicate that nobody writes is false.
                let Reg::Pred(pred) = self.register(Ty::Pred)? else { unreachable!("a predicate") };
                Ok(Guard { pred, negated: *value != 0 })
            }
            _ => Ok(Guard { pred: self.pred(operand)?, negated: false }),
        }
    }

    fn special(&mut self, special: Special) -> usize {
        if let Some(&at) = self.specials.get(&special) {
            return at;
        }
        let at = self.counts[0];
        self.counts[0] += 1;
        self.specials.insert(special, at);
        at
    }

    pub(super) fn constant32(&mut self, value: u32) -> Known<usize> {
        if let Some(&at) = self.constants32.get(&value) {
            return Ok(at);
        }
        let Reg::W32(at) = self.register(Ty::B32)? else { unreachable!("32 bits") };
        self.constants32.insert(value, at);
        Ok(at)
    }

    pub(super) fn constant64(&mut self, value: u64) -> Known<usize> {
        if let Some(&at) = self.constants64.get(&value) {
            return Ok(at);
        }
        let Reg::W64(at) = self.register(Ty::B64)? else { unreachable!("64 bits") };
        self.constants64.insert(value, at);
        Ok(at)
    }

    /// `d = f(a)`
    pub(super) fn un<A: Word, D: Word>(
        &mut self,
        inst: &Inst,
        ty: Ty,
        f: impl Fn(A) -> D + Send + Sync + 'static,
    ) -> Known<Op> {
        let [d, a] = operands(inst)?;
        let (a, d) = (self.src::<A>(a, ty)?, self.dst::<D>(d)?);
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let x = regs.get::<A>(a);
            let mut out = [D::default(); LANES];
            for i in 0..LANES {
                out[i] = f(x[i]);
            }
            regs.put(d, mask, &out);
        })))
    }

    /// `d = f(a, b)`, the operands of the types given
    pub(super) fn bin<A: Word, B: Word, D: Word>(
        &mut self,
        inst: &Inst,
        tys: [Ty; 2],
        f: impl Fn(A, B) -> D + Send + Sync + 'static,
    ) -> Known<Op> {
        let [d, a, b] = operands(inst)?;
        let (a, b) = (self.src::<A>(a, tys[0])?, self.src::<B>(b, tys[1])?);
        let d = self.dst::<D>(d)?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let (x, y) = (regs.get::<A>(a), regs.get::<B>(b));
            let mut out = [D::default(); LANES];
            for i in 0..LANES {
                out[i] = f(x[i], y[i]);
            }
            regs.put(d, mask, &out);
        })))
    }

    /// `d = f(a, b, c)`
    pub(super) fn tern<A: Word, B: Word, C: Word, D: Word>(
        &mut self,
        inst: &Inst,
        tys: [Ty; 3],
        f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
    ) -> Known<Op> {
        let [d, a, b, c] = operands(inst)?;
        let (a, b) = (self.src::<A>(a, tys[0])?, self.src::<B>(b, tys[1])?);
        let (c, d) = (self.src::<C>(c, tys[2])?, self.dst::<D>(d)?);
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let (x, y, z) = (regs.get::<A>(a), regs.get::<B>(b), regs.get::<C>(c));
            let mut out = [D::default(); LANES];
            for i in 0..LANES {
                out[i] = f(x[i], y[i], z[i]);
            }
            regs.put(d, mask, &out);
        })))
    }

    /// `d = f(a, b, c, e)`, the first two of one type, the others 32 bits
    pub(super) fn quad<A: Word>(
        &mut self,
        inst: &Inst,
        ty: Ty,
        f: impl Fn(A, A, u32, u32) -> A + Send + Sync + 'static,
    ) -> Known<Op> {
        let [d, a, b, c, e] = operands(inst)?;
        let (a, b) = (self.src::<A>(a, ty)?, self.src::<A>(b, ty)?);
        let (c, e) = (self.src::<u32>(c, Ty::U32)?, self.src::<u32>(e, Ty::U32)?);
        let d = self.dst::<A>(d)?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let (x, y) = (regs.get::<A>(a), regs.get::<A>(b));
            let (z, w) = (&regs.w32[c], &regs.w32[e]);
            let mut out = [A::default(); LANES];
            for i in 0..LANES {
                out[i] = f(x[i], y[i], z[i], w[i]);
            }
            regs.put(d, mask, &out);
        })))
    }
}

/// Exactly so many operands.
pub(super) fn operands<const N: usize>(inst: &Inst) -> Known<[&Operand; N]> {
    let found: Vec<&Operand> = inst.operands.iter().collect();
    let count = found.len();
    found.try_into().map_err(|_| format!("`{}` has {count} operands, expected {N}", inst.name))
}

fn mismatch(operand: &Operand, bits: u32) -> String {
    match operand {
        Operand::Name(name) => format!("`{name}` is no register of {bits} bits"),
        _ => format!("expected a register of {bits} bits"),
    }
}

/// The bits of an immediate of a type.
pub(super) fn immediate(operand: &Operand, ty: Ty) -> Known<u64> {
    let bits = match *operand {
        Operand::Int(value) => value as u64,
        Operand::F32(bits) if ty.bits() == 64 => f64::from(f32::from_bits(bits)).to_bits(),
        Operand::F32(bits) => bits.into(),
        Operand::F64(bits) if ty.bits() == 32 => (f64::from_bits(bits) as f32).to_bits().into(),
        Operand::F64(bits) if ty.bits() == 64 => bits,
        _ => return Err("expected a register or a value".into()),
    };
    Ok(match ty.bits() {
        8 => bits & 0xff,
        16 => bits & 0xffff,
        32 => bits & 0xffff_ffff,
        _ => bits,
    })
}

pub(super) fn special(name: &str) -> Option<Special> {
    let name = name.strip_prefix('%')?;
    let axis = |name: &str| match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((base, part)) = name.split_once('.') {
        let axis = axis(part)?;
        return Some(match base {
            "tid" => Special::Tid(axis),
            "ntid" => Special::Ntid(axis),
            "ctaid" | "clusterid" => Special::Ctaid(axis),
            "nctaid" | "nclusterid" => Special::Nctaid(axis),
            // Every block is a cluster of its own.
            "cluster_ctaid" => Special::Constant(0),
            "cluster_nctaid" => Special::Constant(1),
            _ => return None,
        });
    }
    Some(match name {
        "laneid" => Special::LaneId,
        "warpid" => Special::WarpId,
        "nwarpid" => Special::WarpCount,
        "smid" => Special::SmId,
        "nsmid" | "cluster_nctarank" => Special::Constant(1),
        "gridid" | "cluster_ctarank" | "is_explicit_cluster" => Special::Constant(0),
        "lanemask_eq" => Special::LaneMask(LaneMask::Eq),
        "lanemask_le" => Special::LaneMask(LaneMask::Le),
        "lanemask_lt" => Special::LaneMask(LaneMask::Lt),
        "lanemask_ge" => Special::LaneMask(LaneMask::Ge),
        "lanemask_gt" => Special::LaneMask(LaneMask::Gt),
        "dynamic_smem_size" => Special::DynamicShared,
        "total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}
