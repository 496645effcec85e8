//! Loops and branches.
//!
//! SPIR-V wants them structured and so are the kernel's: each names the block where its ways meet.

use super::{Lowering, Parts, part_count, part_shape};
use crate::module::Kind;
use q35_kernel::{Block, Value};
use rspirv::spirv::{Op, Word};

/// [`Inst::For`](q35_kernel::Inst::For).
pub struct For<'a> {
    pub start: Value,
    pub end: Value,
    pub step: u32,
    pub var: Value,
    pub init: &'a [Value],
    pub carried: &'a [Value],
    pub body: &'a Block,
}

/// The block that a loop comes back to.
pub struct Head {
    pub label: Word,
    /// The block before it.
    pub before: Word,
    /// Where its phis go, once what they need is known.
    pub place: usize,
}

impl<'a> Lowering<'a> {
    pub fn loop_head(&mut self) -> Head {
        let (before, label) = (self.m.block, self.m.label());
        self.m.branch(label);
        self.m.open(label);
        Head { label, before, place: self.m.place() }
    }

    /// The loop is left at its head, so what it carries there is what it results in.
    pub fn repeat(&mut self, stmt: For<'a>) -> Result<Parts, String> {
        let (start, end) = (self.scalar(stmt.start), self.scalar(stmt.end));
        let step = self.m.u32(stmt.step);
        let room = self.divisors.int(stmt.end).map(|end| i64::from(end) + i64::from(stmt.step));
        // Counting past the end must not wrap around to before it.
        let bounded = stmt.step == 1 || room.is_some_and(|last| last <= i64::from(i32::MAX));
        let entered = match bounded {
            true => None,
            false => Some(self.m.op(Op::SLessThan, (Kind::Bool, 1), &[start, end])),
        };
        let init: Parts = stmt.init.iter().flat_map(|v| self.parts_of(*v).to_vec()).collect();
        let types: Vec<Word> = stmt.init.iter().flat_map(|v| self.part_types(*v)).collect();

        let [body, next, done] = [(); 3].map(|()| self.m.label());
        let head = self.loop_head();
        let counter = self.m.label();
        let carried: Parts = init.iter().map(|_| self.m.label()).collect();
        let more = match entered {
            None => self.m.op(Op::SLessThan, (Kind::Bool, 1), &[counter, end]),
            Some(_) => self.m.label(),
        };
        self.m.repeat(more, body, next, done);

        self.m.open(body);
        let aligned = divisible_step(stmt.step).min(self.divisors.of(stmt.start));
        self.divisors.set(stmt.var, aligned);
        self.parts[stmt.var.0 as usize] = vec![counter];
        self.distribute(stmt.carried, &carried);
        let yields = self.block(stmt.body)?;
        self.m.branch(next);

        self.m.open(next);
        let following = self.m.op(Op::IAdd, (Kind::U32, 1), &[counter, step]);
        let left = match entered {
            None => None,
            Some(_) => {
                let left = self.m.op(Op::ISub, (Kind::U32, 1), &[end, counter]);
                Some(self.m.op(Op::UGreaterThan, (Kind::Bool, 1), &[left, step]))
            }
        };
        self.m.branch(head.label);

        let mut phis = vec![(counter, self.m.ty((Kind::U32, 1)), start, following)];
        if let (Some(entered), Some(left)) = (entered, left) {
            phis.push((more, self.m.ty((Kind::Bool, 1)), entered, left));
        }
        for i in 0..init.len() {
            phis.push((carried[i], types[i], init[i], yields[i]));
        }
        for (number, (id, ty, first, later)) in phis.into_iter().enumerate() {
            let from = [(first, head.before), (later, next)];
            self.m.later_phi(head.place, number, (id, ty), from);
        }
        self.m.open(done);
        Ok(carried)
    }

    pub fn branch(
        &mut self,
        cond: Value,
        results: &[Value],
        then: &'a Block,
        otherwise: &'a Block,
    ) -> Result<Parts, String> {
        let cond = self.scalar(cond);
        let types: Vec<Word> = results.iter().flat_map(|v| self.part_types(*v)).collect();
        let [on_true, on_false, done] = [(); 3].map(|()| self.m.label());
        self.m.choose(cond, on_true, on_false, done);
        let mut ways = vec![];
        for (at, block) in [(on_true, then), (on_false, otherwise)] {
            self.m.open(at);
            let yields = self.block(block)?;
            ways.push((yields, self.m.block));
            self.m.branch(done);
        }
        self.m.open(done);
        for (i, result) in results.iter().enumerate() {
            let divisor =
                self.divisors.of(then.yields[i]).min(self.divisors.of(otherwise.yields[i]));
            self.divisors.set(*result, divisor);
        }
        let phis = types.into_iter().enumerate().map(|(i, ty)| {
            let from = [(ways[0].0[i], ways[0].1), (ways[1].0[i], ways[1].1)];
            self.m.phi(ty, from)
        });
        Ok(phis.collect())
    }

    /// Of each part of `v`.
    fn part_types(&mut self, v: Value) -> Vec<Word> {
        let ty = self.kernel.type_of(v);
        vec![self.m.ty(part_shape(ty)); part_count(ty)]
    }
}

fn divisible_step(step: u32) -> u8 {
    q35_kernel::trailing_zeros(step as i32)
}
