//! Writing for matrix units.
//!
//! An accumulator is a thing with a name and not a value, because what a machine keeps of it in
//! which lane is nobody else's business: it is set, added to and stored, always as a whole and
//! by a whole subgroup. What else is to be done with the sums is done in the memory they were
//! stored to.

use crate::builder::KernelBuilder;
use crate::expr::{Expr, Operand};
use crate::inst::*;

/// What an `mma` reads and adds to; see [`Mma`] for what each stride means.
pub struct MmaArgs<'k> {
    pub acc: Acc,
    pub a: Place,
    pub a_row: Expr<'k>,
    pub b: Place,
    pub b_row: Expr<'k>,
    pub b_columns: bool,
    pub k: u32,
}

impl KernelBuilder {
    pub fn mma_zero(&self, acc: Acc) {
        self.effect(Inst::MmaZero(acc));
    }

    /// `acc[i, n] += Σⱼ a[i, j] · b[j, n]`; see [`Inst::Mma`].
    pub fn mma(&self, args: MmaArgs<'_>) {
        self.effect(Inst::Mma(Mma {
            acc: args.acc,
            a: args.a,
            a_row: args.a_row.value,
            b: args.b,
            b_row: args.b_row.value,
            b_columns: args.b_columns,
            k: args.k,
        }));
    }

    /// `acc[i, n]` from `at + i * row + n`.
    pub fn mma_load<'k>(&'k self, acc: Acc, at: Place, row: impl Operand<'k>) {
        let row = row.operand(self).value;
        self.effect(Inst::MmaLoad { acc, at, row });
    }

    /// `acc[i, n]` to `at + i * row + n`.
    pub fn mma_store<'k>(&'k self, acc: Acc, at: Place, row: impl Operand<'k>) {
        let row = row.operand(self).value;
        self.effect(Inst::MmaStore { acc, at, row });
    }

    fn effect(&self, inst: Inst) {
        self.push(Stmt { results: vec![], inst });
    }
}
