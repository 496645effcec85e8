//! Addresses.
//!
//! An index is `i32`, an address 64 bits, and sign extension stands in the way of everything an
//! optimiser could do between them. So an index is read back as a sum of products,
//! `Σ coefficient · atom + constant`, and the sum is made anew in 64 bits: the constant becomes
//! the displacement of the instruction, and atoms are added from the outermost loop inwards, so
//! that what does not change in a loop leaves it. In the inner loop of a matrix product what
//! remains is one shift for the weights and one addressing mode for each row.
//!
//! The two ways to count agree wherever the index, as an integer, fits in 32 bits; an index that
//! does not is in no buffer.

use super::Lowering;
use super::memory::flags;
use cranelift_codegen::ir::{self, InstBuilder, types};
use q35_kernel::{BinaryOp, Inst, Literal, Mem, Place, Value};

/// `Σ coefficient · atom + constant`, each atom once.
#[derive(Debug, Clone, Default)]
pub struct Linear {
    terms: Vec<(Value, i64)>,
    constant: i64,
}

impl Linear {
    fn atom(v: Value) -> Linear {
        Linear { terms: vec![(v, 1)], constant: 0 }
    }

    /// `self + other * factor`, unless a number grows beyond reason.
    fn add(&self, other: &Linear, factor: i64) -> Option<Linear> {
        let mut sum = self.clone();
        let bounded = |v: i64| (v.unsigned_abs() < 1 << 40).then_some(v);
        for &(atom, coefficient) in &other.terms {
            let scaled = bounded(coefficient.checked_mul(factor)?)?;
            match sum.terms.iter_mut().find(|(a, _)| *a == atom) {
                Some((_, c)) => *c = bounded(*c + scaled)?,
                None => sum.terms.push((atom, scaled)),
            }
        }
        sum.constant = bounded(sum.constant + bounded(other.constant.checked_mul(factor)?)?)?;
        sum.terms.retain(|(_, c)| *c != 0);
        Some(sum)
    }

    fn as_constant(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }
}

impl Lowering<'_> {
    /// Base and displacement of an element.
    pub fn address(&mut self, at: Place) -> (ir::Value, i32) {
        let size = self.kernel.dtype_of(at.mem).size() as i64;
        let (base, offset) = match at.mem {
            Mem::Param(p) => (self.params[p as usize], 0),
            Mem::Entry(p, number) => {
                let (entry, offset) = self.element_of(self.params[p as usize], 0, number, 8);
                // Not `constant()`: the number may be good only under the condition it is read under.
                (self.f.ins().load(types::I64, flags(), entry, offset), 0)
            }
            Mem::Shared(a) => (self.scratch, self.shared_offset(a)),
        };
        self.element_of(base, offset, at.index, size)
    }

    fn element_of(
        &mut self,
        base: ir::Value,
        offset: i64,
        index: Value,
        size: i64,
    ) -> (ir::Value, i32) {
        let index = self.linear(index);
        let address = self.sum(base, &index, size);
        let offset = offset + index.constant * size;
        // The displacement leaves room for the parts of a wide value.
        match i32::try_from(offset).ok().filter(|o| *o < i32::MAX - 64) {
            Some(offset) => (address, offset),
            None => (self.f.ins().iadd_imm_s(address, offset), 0),
        }
    }

    /// Bytes before shared array `a`.
    fn shared_offset(&self, a: u32) -> i64 {
        let before = &self.kernel.shared[..a as usize];
        before.iter().map(|a| (i64::from(a.len) * a.dtype.size() as i64 + 63) & !63).sum()
    }

    /// `base` and the terms of `index`, times `size`; its constant is left to the caller.
    fn sum(&mut self, base: ir::Value, index: &Linear, size: i64) -> ir::Value {
        let mut terms = index.terms.clone();
        terms.sort_by_key(|(atom, _)| self.depth_of(*atom));
        terms.into_iter().fold(base, |sum, (atom, coefficient)| {
            let wide = self.wide_atom(atom);
            let bytes = coefficient * size;
            let scaled = match bytes {
                1 => wide,
                n if n > 0 && n & (n - 1) == 0 => {
                    self.f.ins().ishl_imm_u(wide, i64::from(n.trailing_zeros()))
                }
                n => self.f.ins().imul_imm_s(wide, n),
            };
            self.f.ins().iadd(sum, scaled)
        })
    }

    /// An `i32` read back as a sum of products.
    fn linear(&mut self, v: Value) -> Linear {
        if let Some(known) = self.linear.get(&v) {
            return known.clone();
        }
        let linear = self.linear_uncached(v).unwrap_or_else(|| Linear::atom(v));
        self.linear.insert(v, linear.clone());
        linear
    }

    fn linear_uncached(&mut self, v: Value) -> Option<Linear> {
        match *self.defined[v.0 as usize]? {
            Inst::Const(Literal::I32(c)) => Some(Linear { terms: vec![], constant: i64::from(c) }),
            Inst::Binary(op, a, b) => {
                let (x, y) = (self.linear(a), self.linear(b));
                match op {
                    BinaryOp::Add => x.add(&y, 1),
                    BinaryOp::Sub => x.add(&y, -1),
                    BinaryOp::Mul => match (x.as_constant(), y.as_constant()) {
                        (Some(c), _) => Linear::default().add(&y, c),
                        (None, Some(c)) => Linear::default().add(&x, c),
                        (None, None) => None,
                    },
                    BinaryOp::Shl => Linear::default()
                        .add(&x, 1 << y.as_constant().filter(|s| (0..31).contains(s))?),
                    BinaryOp::Div
                    | BinaryOp::Rem
                    | BinaryOp::Min
                    | BinaryOp::Max
                    | BinaryOp::And
                    | BinaryOp::Or
                    | BinaryOp::Xor
                    | BinaryOp::Shr => None,
                }
            }
            _ => None,
        }
    }

    /// In how many loops an atom changes.
    fn depth_of(&self, atom: Value) -> u32 {
        match self.product(atom) {
            Some((a, b)) => self.depth_of(a).max(self.depth_of(b)),
            None => self.depth[atom.0 as usize],
        }
    }

    /// The factors, if the atom is a product of two values that vary.
    fn product(&self, atom: Value) -> Option<(Value, Value)> {
        match self.defined[atom.0 as usize] {
            Some(Inst::Binary(BinaryOp::Mul, a, b)) => Some((*a, *b)),
            _ => None,
        }
    }

    fn wide_atom(&mut self, atom: Value) -> ir::Value {
        match self.product(atom) {
            Some((a, b)) => {
                let (a, b) = (self.wide_factor(a), self.wide_factor(b));
                self.f.ins().imul(a, b)
            }
            None => self.sign_extended(atom),
        }
    }

    fn wide_factor(&mut self, v: Value) -> ir::Value {
        let linear = self.linear(v);
        let start = self.f.ins().iconst(types::I64, linear.constant);
        self.sum(start, &linear, 1)
    }
}
