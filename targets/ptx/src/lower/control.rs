//! Loops and branches.

use super::{Elements, Lowering};
use crate::function::{Arg, Class};
use q35_kernel::{Block, Scalar, Value};

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

impl<'a> Lowering<'a> {
    /// The loop is left at its end, and what it carries is in the same registers throughout.
    pub fn repeat(&mut self, stmt: For<'a>) -> Result<Elements, String> {
        let (start, end) = (self.scalar(stmt.start), self.scalar(stmt.end));
        let step = Arg::Int(stmt.step as i32);
        let room = self.divisors.int(stmt.end).map(|end| i64::from(end) + i64::from(stmt.step));
        // Counting past the end must not wrap around to before it.
        let bounded = stmt.step == 1 || room.is_some_and(|last| last <= i64::from(i32::MAX));
        let counter = self.f.word("mov.b32", &[start]);
        let carried: Elements = stmt.init.iter().flat_map(|v| self.own(*v)).collect();

        let [body, done] = [(); 2].map(|()| self.f.label());
        let none = self.f.pred("setp.ge.s32", &[counter, end]);
        self.f.jump_if(none, done);
        self.f.open(body);
        let aligned = q35_kernel::trailing_zeros(stmt.step as i32);
        self.divisors.set(stmt.var, aligned.min(self.divisors.of(stmt.start)));
        self.elements[stmt.var.0 as usize] = vec![counter];
        self.distribute(stmt.carried, &carried);
        // What the last round has copied may be on the way in the next, and behind the loop.
        self.on_the_way |= self.uses.copies;
        let yields = self.block(stmt.body)?;
        self.on_the_way |= self.uses.copies;
        self.hand_over(&carried, &yields);
        let more = if bounded {
            self.f.set(counter, "add.s32", &[counter, step]);
            self.f.pred("setp.lt.s32", &[counter, end])
        } else {
            let left = self.f.word("sub.s32", &[end, counter]);
            self.f.set(counter, "add.s32", &[counter, step]);
            self.f.pred("setp.gt.u32", &[left, step])
        };
        self.f.jump_if(more, body);
        self.f.open(done);
        Ok(carried)
    }

    pub fn branch(
        &mut self,
        cond: Value,
        results: &[Value],
        then: &'a Block,
        otherwise: &'a Block,
    ) -> Result<Elements, String> {
        let cond = self.scalar(cond);
        let [other, done] = [(); 2].map(|()| self.f.label());
        let made: Elements = results.iter().flat_map(|v| self.fresh(*v)).collect();
        self.f.jump_unless(cond, other);
        let before = self.on_the_way;
        let yields = self.block(then)?;
        let after = std::mem::replace(&mut self.on_the_way, before);
        self.hand_over(&made, &yields);
        if otherwise.stmts.is_empty() && made.is_empty() {
            self.f.open(other);
            self.on_the_way |= after;
            return Ok(made);
        }
        self.f.jump(done);
        self.f.open(other);
        let yields = self.block(otherwise)?;
        self.on_the_way |= after;
        self.hand_over(&made, &yields);
        self.f.open(done);
        for (i, result) in results.iter().enumerate() {
            let divisor =
                self.divisors.of(then.yields[i]).min(self.divisors.of(otherwise.yields[i]));
            self.divisors.set(*result, divisor);
        }
        Ok(made)
    }

    /// Registers for the elements of `v`.
    fn fresh(&mut self, v: Value) -> Elements {
        let class = match self.kernel.type_of(v).scalar {
            Scalar::F32 | Scalar::I32 => Class::Word,
            Scalar::Bool => Class::Pred,
        };
        (0..self.width(v)).map(|_| self.f.fresh(class)).collect()
    }

    /// Registers that hold the elements of `v` and may be set again.
    fn own(&mut self, v: Value) -> Elements {
        let own = self.fresh(v);
        let from = self.of(v).to_vec();
        for (to, from) in own.iter().zip(from) {
            self.f.copy(*to, from);
        }
        own
    }

    /// Set each of `to`, all at once: what one of them held may be wanted for another.
    fn hand_over(&mut self, to: &[Arg], from: &[Arg]) {
        let mut moves: Vec<(Arg, Arg)> =
            to.iter().copied().zip(from.iter().copied()).filter(|(to, from)| to != from).collect();
        for (_, from) in &mut moves {
            if let Arg::Reg(class, _) = *from
                && to.contains(from)
            {
                let held = self.f.fresh(class);
                self.f.copy(held, *from);
                *from = held;
            }
        }
        for (to, from) in moves {
            self.f.copy(to, from);
        }
    }
}
