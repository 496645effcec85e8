//! What type rules ask of operands and attributes.

use super::TypeError;
use crate::graph::Type;
use crate::op::Op;
use q35_types::{DType, Dim, Shape};
use std::fmt::Display;

/// Binds attributes of the op that the table gives a rule to.
macro_rules! attributes {
    ($op:expr, Op::$name:ident { $($attr:ident),* }) => {
        let &Op::$name { $($attr,)* .. } = $op else {
            unreachable!("the table gives this rule to `{}` alone", stringify!($name))
        };
    };
}
pub(super) use attributes;

/// An op and the types of its operands, as many as it has.
pub(super) struct Args<'a> {
    pub op: &'a Op,
    pub types: &'a [&'a Type],
}

impl<'a> Args<'a> {
    pub fn mismatch(&self, i: usize, expected: impl Into<String>) -> TypeError {
        TypeError::Operand {
            op: self.op.name(),
            operand: self.op.operands()[i],
            found: self.types[i].clone(),
            expected: expected.into(),
        }
    }

    pub fn expect(
        &self,
        i: usize,
        fits: bool,
        expected: impl FnOnce() -> String,
    ) -> Result<(), TypeError> {
        if fits { Ok(()) } else { Err(self.mismatch(i, expected())) }
    }

    pub fn attribute(
        &self,
        attribute: &'static str,
        found: impl Display,
        fits: bool,
        expected: impl Display,
    ) -> Result<(), TypeError> {
        if fits {
            return Ok(());
        }
        let (found, expected) = (found.to_string(), expected.to_string());
        Err(TypeError::Attribute { op: self.op.name(), attribute, found, expected })
    }

    pub fn float(&self, i: usize) -> Result<(), TypeError> {
        self.expect(i, self.types[i].dtype.is_float(), || "floats".into())
    }

    /// The last axis of a float operand.
    pub fn last(&self, i: usize) -> Result<Dim, TypeError> {
        self.float(i)?;
        self.types[i].shape.last().copied().ok_or_else(|| self.mismatch(i, "at least one axis"))
    }

    /// The leading axes and the fixed last one of an operand, float or not.
    pub fn columns(&self, i: usize) -> Result<(&'a [Dim], u32), TypeError> {
        match *self.types[i].shape {
            [ref lead @ .., Dim::Fixed(n)] => Ok((lead, n)),
            _ => Err(self.mismatch(i, "a last axis of fixed size")),
        }
    }

    /// The axes of a float operand that has `N`.
    pub fn floats<const N: usize>(&self, i: usize, form: &str) -> Result<[Dim; N], TypeError> {
        let axes = <[Dim; N]>::try_from(&*self.types[i].shape).ok();
        let axes = axes.filter(|_| self.types[i].dtype.is_float());
        axes.ok_or_else(|| self.mismatch(i, form))
    }

    /// The axes of an integer operand that has `N`.
    pub fn ints<const N: usize>(&self, i: usize, form: &str) -> Result<[Dim; N], TypeError> {
        let axes = <[Dim; N]>::try_from(&*self.types[i].shape).ok();
        let axes = axes.filter(|_| !self.types[i].dtype.is_float());
        axes.ok_or_else(|| self.mismatch(i, form))
    }

    /// The size of an axis of operand `i` that must not depend on the step.
    pub fn fixed(&self, i: usize, axis: Dim) -> Result<u32, TypeError> {
        axis.fixed().ok_or_else(|| self.mismatch(i, "axes of fixed size after the first"))
    }

    /// That operand `i` is floats of that shape.
    pub fn matches(&self, i: usize, shape: &[Dim]) -> Result<(), TypeError> {
        let fits = self.types[i].dtype.is_float() && self.types[i].shape == shape;
        self.expect(i, fits, || format!("a float {}", axes(shape)))
    }

    /// That operand `i` is integers of that shape.
    pub fn matches_ints(&self, i: usize, shape: &[Dim]) -> Result<(), TypeError> {
        let fits = !self.types[i].dtype.is_float() && self.types[i].shape == shape;
        self.expect(i, fits, || format!("i32{}", axes(shape)))
    }

    /// The shape of operand `x` times the transpose of operand `weight`.
    pub fn product(&self, x: usize, weight: usize) -> Result<Shape, TypeError> {
        let k = self.last(x)?;
        let name = self.op.operands()[x];
        let [n, k2] = self.floats(weight, "a float [n, k]")?;
        self.expect(weight, k == k2, || format!("[n, {k}] to match `{name}` {}", self.types[x]))?;
        let lead = &self.types[x].shape[..self.types[x].shape.len() - 1];
        Ok(lead.iter().copied().chain([n]).collect())
    }

    /// That operand `weight` can be the weight of an RMS norm of operand `x`.
    pub fn norm(&self, x: usize, weight: usize, eps: f32) -> Result<(), TypeError> {
        let n = self.last(x)?;
        self.matches(weight, &[n])?;
        self.eps(eps)
    }

    /// That operand `i` is a RoPE table that fits heads of `width`.
    pub fn rope_table(&self, i: usize, t: Dim, width: u32) -> Result<(), TypeError> {
        let [t2, two, n] = self.floats(i, "a float [T, 2, n]")?;
        let n = self.fixed(i, n)?;
        let fits = t == t2 && two == Dim::Fixed(2) && 2 * u64::from(n) <= u64::from(width);
        self.expect(i, fits, || format!("[{t}, 2, n] with n at most {}", width / 2))
    }

    pub fn float_attribute(&self, name: &'static str, dtype: DType) -> Result<(), TypeError> {
        self.attribute(name, dtype, dtype.is_float(), "a float type")
    }

    pub fn eps(&self, eps: f32) -> Result<(), TypeError> {
        self.attribute("eps", eps, eps.is_finite() && eps >= 0.0, "a finite number from 0 on")
    }

    pub fn scale(&self, scale: f32) -> Result<(), TypeError> {
        self.attribute("scale", scale, scale.is_finite(), "a finite number")
    }

    /// That `few` of one attribute share out `many` of another.
    pub fn ratio(
        &self,
        (many_name, many): (&'static str, u32),
        (few_name, few): (&'static str, u32),
    ) -> Result<(), TypeError> {
        self.attribute(few_name, few, few > 0, "at least 1")?;
        let fits = many > 0 && many.is_multiple_of(few);
        self.attribute(many_name, many, fits, format!("a multiple of `{few_name}`, {few}"))
    }

    /// That the `len` columns or rows from attribute `start` on lie within `total`.
    pub fn range(
        &self,
        name: &'static str,
        start: u32,
        len: u64,
        total: u32,
    ) -> Result<(), TypeError> {
        let fits = u64::from(start).checked_add(len).is_some_and(|end| end <= u64::from(total));
        self.attribute(name, start, fits, format!("{len} from there on within {total}"))
    }
}

fn axes(shape: &[Dim]) -> String {
    let dims: Vec<_> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}
