//! Atomics: lane after lane, the lowest first.

use super::access::parts;
use super::shared::{at_lane, within_shared};
use super::{Around, Outcome, Warp, trouble};
use crate::counters::Way;
use crate::error::FaultKind;
use crate::math::{Exact, Round, bf16_bits, bf16_value, bits32, bits64, f16_bits, f16_value};
use crate::memory::Allocation;
use crate::op::{Atom, AtomKind};
use crate::regs::{Lanes, Spread, lanes_of};
use crate::types::{Space, Ty};

impl Warp {
    pub(super) fn atom(&mut self, around: &mut Around<'_>, atom: &Atom, on: u32) -> Outcome<()> {
        if on == 0 {
            return Ok(());
        }
        let addresses = self.addresses(atom.at);
        for (space, addresses, on) in parts(atom.at.space, &addresses, on) {
            match space {
                Space::Global => self.atom_global(around, atom, &addresses, on)?,
                Space::Shared => self.atom_shared(around, atom, &addresses, on)?,
                _ => {
                    let lane = on.trailing_zeros() as usize;
                    return trouble(
                        FaultKind::OutOfBounds,
                        lane,
                        "an atomic outside of global and shared memory",
                    );
                }
            }
        }
        if !atom.to.is_empty() {
            self.poll(on, &atom.to);
        }
        Ok(())
    }

    fn atom_global(
        &mut self,
        around: &mut Around<'_>,
        atom: &Atom,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        let element = atom.ty.bytes();
        let bytes = element * atom.a.len() as u64;
        let found = around.locate(addresses, on, bytes)?;
        around.count(Way::Atomic, addresses, &found, on, bytes);
        for lane in lanes_of(on) {
            let allocation = &around.env.memory.allocations()[found[lane] as usize];
            let offset = addresses[lane] - allocation.base;
            if !allocation.is_written(offset, bytes) {
                let message = format!(
                    "an atomic on {bytes} bytes at {offset} of a buffer of {}, which nobody has written",
                    allocation.bytes
                );
                return trouble(FaultKind::Uninitialised, lane, message);
            }
            for e in 0..atom.a.len() {
                let (a, b) = self.atom_operands(atom, e, lane);
                let new = |old: u64| combined(atom.kind, atom.ty, old, a, b);
                let old = change(allocation, offset + e as u64 * element, element, new);
                self.progress += u64::from(new(old) != old);
                if let Some(&to) = atom.to.get(e) {
                    self.regs.set_lane(to, lane, old);
                }
            }
        }
        Ok(())
    }

    fn atom_shared(
        &mut self,
        around: &mut Around<'_>,
        atom: &Atom,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        let element = atom.ty.bytes();
        let bytes = element * atom.a.len() as u64;
        within_shared(around, addresses, on, bytes)?;
        around.count_shared(addresses, on, bytes, Spread::of(addresses, bytes));
        for lane in lanes_of(on) {
            for e in 0..atom.a.len() {
                let (a, b) = self.atom_operands(atom, e, lane);
                let new = |old: u64| combined(atom.kind, atom.ty, old, a, b);
                let (at, who) = (addresses[lane] + e as u64 * element, self.who(lane, true));
                let old = around
                    .shared
                    .update(at, element, who, new)
                    .or_else(|fault| at_lane(lane, fault))?;
                self.progress += u64::from(new(old) != old);
                if let Some(&to) = atom.to.get(e) {
                    self.regs.set_lane(to, lane, old);
                }
            }
        }
        Ok(())
    }

    fn atom_operands(&self, atom: &Atom, element: usize, lane: usize) -> (u64, u64) {
        (self.regs.lane(atom.a[element], lane), atom.b.map_or(0, |b| self.regs.lane(b, lane)))
    }
}

/// Words change as a whole. Others only in kernels whose blocks run one after the other.
fn change(allocation: &Allocation, offset: u64, bytes: u64, new: impl Fn(u64) -> u64) -> u64 {
    if bytes == 4 {
        return allocation.update(offset, |old| new(old.into()) as u32).into();
    }
    let old = allocation.load(offset, bytes);
    allocation.store(offset, bytes, new(old));
    old
}

fn combined(kind: AtomKind, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    let mask = u64::MAX >> (64 - ty.bits());
    let (a, b) = (a & mask, b & mask);
    if ty.float() {
        return float(kind, ty, old, a) & mask;
    }
    let sign = |v: u64| if ty.bits() == 32 { i64::from(v as i32) } else { v as i64 };
    let less = if ty.signed() { sign(a) < sign(old) } else { a < old };
    let new = match kind {
        AtomKind::Add => old.wrapping_add(a),
        AtomKind::And => old & a,
        AtomKind::Or => old | a,
        AtomKind::Xor => old ^ a,
        AtomKind::Min => {
            if less {
                a
            } else {
                old
            }
        }
        AtomKind::Max => {
            if less {
                old
            } else {
                a
            }
        }
        AtomKind::Inc => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        AtomKind::Dec => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
        AtomKind::Exch => a,
        AtomKind::Cas => {
            if old == a {
                b
            } else {
                old
            }
        }
    };
    new & mask
}

fn float(kind: AtomKind, ty: Ty, old: u64, a: u64) -> u64 {
    let half = |old: u64, a: u64, brain: bool| {
        let value = |v: u64| {
            f64::from(if brain {
                bf16_value(v as u32 & 0xffff)
            } else {
                f16_value(v as u32 & 0xffff)
            })
        };
        let new = joined(kind, value(old), value(a));
        u64::from(if brain {
            bf16_bits(new, Round::Nearest)
        } else {
            f16_bits(new, Round::Nearest)
        })
    };
    match ty {
        Ty::F32 => {
            let (x, y) = (f32::from_bits(old as u32), f32::from_bits(a as u32));
            bits32(match kind {
                AtomKind::Add => x + y,
                _ => joined(kind, x.into(), y.into()).near as f32,
            })
            .into()
        }
        Ty::F64 => bits64(joined(kind, f64::from_bits(old), f64::from_bits(a)).near),
        Ty::F16 | Ty::Bf16 => half(old, a, ty == Ty::Bf16),
        _ => half(old, a, ty == Ty::Bf16x2) | half(old >> 16, a >> 16, ty == Ty::Bf16x2) << 16,
    }
}

fn joined(kind: AtomKind, old: f64, a: f64) -> Exact {
    match kind {
        AtomKind::Min => Exact::of(old.min(a)),
        AtomKind::Max => Exact::of(old.max(a)),
        _ => Exact::add(old, a),
    }
}
