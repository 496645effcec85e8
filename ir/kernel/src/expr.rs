//! Values with operators.
//!
//! A scalar meets a vector by being repeated; a Rust literal becomes a constant. Integer
//! arithmetic on constants is done at once, and additions of zero and products with one
//! vanish, so that templates need no special cases for sizes that happen to be 1.

use crate::builder::KernelBuilder;
use crate::inst::*;
use std::ops;

/// A value of the kernel being built.
#[derive(Clone, Copy)]
pub struct Expr<'k> {
    pub(crate) k: &'k KernelBuilder,
    pub value: Value,
}

/// What can stand where a value is wanted.
pub trait Operand<'k> {
    fn operand(self, k: &'k KernelBuilder) -> Expr<'k>;
}

impl<'k> Operand<'k> for Expr<'k> {
    fn operand(self, _: &'k KernelBuilder) -> Expr<'k> {
        self
    }
}
impl<'k> Operand<'k> for f32 {
    fn operand(self, k: &'k KernelBuilder) -> Expr<'k> {
        k.f(self)
    }
}
impl<'k> Operand<'k> for i32 {
    fn operand(self, k: &'k KernelBuilder) -> Expr<'k> {
        k.i(self)
    }
}
impl<'k> Operand<'k> for u32 {
    fn operand(self, k: &'k KernelBuilder) -> Expr<'k> {
        k.n(self as usize)
    }
}
impl<'k> Operand<'k> for usize {
    fn operand(self, k: &'k KernelBuilder) -> Expr<'k> {
        k.n(self)
    }
}

impl<'k> Expr<'k> {
    pub fn ty(self) -> Type {
        self.k.type_of(self.value)
    }

    pub fn unary(self, op: UnaryOp) -> Expr<'k> {
        let (from, to) = match op {
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sqrt => (Scalar::F32, Scalar::F32),
            UnaryOp::Not => (Scalar::Bool, Scalar::Bool),
            UnaryOp::IntToFloat | UnaryOp::BitsToFloat => (Scalar::I32, Scalar::F32),
            UnaryOp::FloatToInt | UnaryOp::FloatToBits => (Scalar::F32, Scalar::I32),
        };
        assert_eq!(self.ty().scalar, from, "operand of {op:?}");
        self.k.emit(Inst::Unary(op, self.value), self.ty().with(to))
    }

    pub fn binary(self, op: BinaryOp, other: impl Operand<'k>) -> Expr<'k> {
        let other = other.operand(self.k);
        let width = self.ty().width.max(other.ty().width);
        let scalar = self.ty().scalar;
        assert_eq!(scalar, other.ty().scalar, "operands of {op:?}");
        if scalar == Scalar::I32
            && width == 1
            && let Some(known) = self.fold(op, other)
        {
            return known;
        }
        let (a, b) = (self.widened(width), other.widened(width));
        self.k.emit(Inst::Binary(op, a.value, b.value), Type { scalar, width })
    }

    fn fold(self, op: BinaryOp, other: Expr<'k>) -> Option<Expr<'k>> {
        let int = |e: Expr<'k>| match self.k.literal_of(e.value) {
            Some(Literal::I32(v)) => Some(v),
            _ => None,
        };
        match (op, int(self), int(other)) {
            (BinaryOp::Add, Some(a), Some(b)) => Some(self.k.i(a.checked_add(b)?)),
            (BinaryOp::Sub, Some(a), Some(b)) => Some(self.k.i(a.checked_sub(b)?)),
            (BinaryOp::Mul, Some(a), Some(b)) => Some(self.k.i(a.checked_mul(b)?)),
            (BinaryOp::Div, Some(a), Some(b)) if b > 0 => Some(self.k.i(a / b)),
            (BinaryOp::Rem, Some(a), Some(b)) if b > 0 => Some(self.k.i(a % b)),
            (BinaryOp::Min, Some(a), Some(b)) => Some(self.k.i(a.min(b))),
            (BinaryOp::Max, Some(a), Some(b)) => Some(self.k.i(a.max(b))),
            (BinaryOp::Add, Some(0), _) | (BinaryOp::Mul, Some(1), _) => Some(other),
            (BinaryOp::Add | BinaryOp::Sub, _, Some(0)) => Some(self),
            (BinaryOp::Mul | BinaryOp::Div, _, Some(1)) => Some(self),
            (BinaryOp::Mul, _, Some(0)) | (BinaryOp::Mul, Some(0), _) => Some(self.k.i(0)),
            (BinaryOp::Rem, _, Some(1)) => Some(self.k.i(0)),
            _ => None,
        }
    }

    pub fn compare(self, op: CompareOp, other: impl Operand<'k>) -> Expr<'k> {
        let other = other.operand(self.k);
        let width = self.ty().width.max(other.ty().width);
        assert_eq!(self.ty().scalar, other.ty().scalar, "operands of {op:?}");
        let (a, b) = (self.widened(width), other.widened(width));
        if let (Some(Literal::I32(a)), Some(Literal::I32(b))) =
            (self.k.literal_of(a.value), self.k.literal_of(b.value))
        {
            return self.k.bool(match op {
                CompareOp::Eq => a == b,
                CompareOp::Ne => a != b,
                CompareOp::Lt => a < b,
                CompareOp::Le => a <= b,
                CompareOp::Gt => a > b,
                CompareOp::Ge => a >= b,
            });
        }
        self.k.emit(Inst::Compare(op, a.value, b.value), Type::vector(Scalar::Bool, width))
    }

    pub fn eq(self, other: impl Operand<'k>) -> Expr<'k> {
        self.compare(CompareOp::Eq, other)
    }
    pub fn ne(self, other: impl Operand<'k>) -> Expr<'k> {
        self.compare(CompareOp::Ne, other)
    }
    pub fn lt(self, other: impl Operand<'k>) -> Expr<'k> {
        self.compare(CompareOp::Lt, other)
    }
    pub fn le(self, other: impl Operand<'k>) -> Expr<'k> {
        self.compare(CompareOp::Le, other)
    }
    pub fn gt(self, other: impl Operand<'k>) -> Expr<'k> {
        self.compare(CompareOp::Gt, other)
    }
    pub fn ge(self, other: impl Operand<'k>) -> Expr<'k> {
        self.compare(CompareOp::Ge, other)
    }
    pub fn and(self, other: Expr<'k>) -> Expr<'k> {
        self.binary(BinaryOp::And, other)
    }
    pub fn or(self, other: Expr<'k>) -> Expr<'k> {
        self.binary(BinaryOp::Or, other)
    }
    pub fn min(self, other: impl Operand<'k>) -> Expr<'k> {
        self.binary(BinaryOp::Min, other)
    }
    pub fn max(self, other: impl Operand<'k>) -> Expr<'k> {
        self.binary(BinaryOp::Max, other)
    }

    /// `if self { a } else { b }`, both computed.
    pub fn select(self, a: impl Operand<'k>, b: impl Operand<'k>) -> Expr<'k> {
        let (a, b) = (a.operand(self.k), b.operand(self.k));
        let width = self.ty().width.max(a.ty().width).max(b.ty().width);
        let (c, a, b) = (self.widened(width), a.widened(width), b.widened(width));
        assert_eq!((self.ty().scalar, a.ty()), (Scalar::Bool, b.ty()), "select of equal types");
        self.k.emit(Inst::Select(c.value, a.value, b.value), a.ty())
    }

    pub fn sqrt(self) -> Expr<'k> {
        self.unary(UnaryOp::Sqrt)
    }
    pub fn abs(self) -> Expr<'k> {
        self.unary(UnaryOp::Abs)
    }
    pub fn to_f32(self) -> Expr<'k> {
        self.unary(UnaryOp::IntToFloat)
    }

    /// Toward zero, the nearest `i32` beyond its range, 0 for NaN.
    pub fn to_i32(self) -> Expr<'k> {
        self.unary(UnaryOp::FloatToInt)
    }

    /// The scalar in every element.
    pub fn splat(self, width: u8) -> Expr<'k> {
        assert_eq!(self.ty().width, 1, "only a scalar is repeated");
        if width == 1 {
            return self;
        }
        self.k.emit(Inst::Splat(self.value, width), Type { width, ..self.ty() })
    }

    pub(crate) fn widened(self, width: u8) -> Expr<'k> {
        if self.ty().width == width { self } else { self.splat(width) }
    }

    pub fn extract(self, element: u8) -> Expr<'k> {
        assert!(element < self.ty().width, "an element of the vector");
        if self.ty().width == 1 {
            return self;
        }
        self.k.emit(Inst::Extract(self.value, element), Type { width: 1, ..self.ty() })
    }

    /// Sum of the elements, in halves.
    pub fn sum(self) -> Expr<'k> {
        self.reduce(ReduceOp::Sum)
    }

    /// Largest element.
    pub fn largest(self) -> Expr<'k> {
        self.reduce(ReduceOp::Max)
    }

    /// Smallest element.
    pub fn smallest(self) -> Expr<'k> {
        self.reduce(ReduceOp::Min)
    }

    fn reduce(self, op: ReduceOp) -> Expr<'k> {
        if self.ty().width == 1 {
            return self;
        }
        self.k.emit(Inst::Reduce(op, self.value), Type { width: 1, ..self.ty() })
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        impl<'k, O: Operand<'k>> ops::$trait<O> for Expr<'k> {
            type Output = Expr<'k>;
            fn $method(self, other: O) -> Expr<'k> {
                self.binary(BinaryOp::$op, other)
            }
        }
    )*};
}
operators! {
    Add add Add;
    Sub sub Sub;
    Mul mul Mul;
    Div div Div;
    Rem rem Rem;
    Shl shl Shl;
    Shr shr Shr;
}

impl<'k> ops::Neg for Expr<'k> {
    type Output = Expr<'k>;
    fn neg(self) -> Expr<'k> {
        self.unary(UnaryOp::Neg)
    }
}
