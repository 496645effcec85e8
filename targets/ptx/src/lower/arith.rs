//! Arithmetic, element by element. Rounding is said of each operation, so none is contracted.

use super::{Elements, Lowering};
use crate::function::{Arg, Class, Function};
use q35_kernel::{BinaryOp, CompareOp, ReduceOp, Scalar, UnaryOp, Value};

impl Lowering<'_> {
    pub fn unary(&mut self, op: UnaryOp, a: Value) -> Elements {
        let each = self.of(a).to_vec().into_iter();
        each.map(|a| match op {
            UnaryOp::Neg => self.f.word("neg.f32", &[a]),
            UnaryOp::Abs => self.f.word("abs.f32", &[a]),
            UnaryOp::Sqrt => self.f.word("sqrt.rn.f32", &[a]),
            UnaryOp::Not => self.f.pred("not.pred", &[a]),
            UnaryOp::IntToFloat => self.f.word("cvt.rn.f32.s32", &[a]),
            // Beyond the range of `i32` it is the nearest, and NaN is 0.
            UnaryOp::FloatToInt => self.f.word("cvt.rzi.s32.f32", &[a]),
            UnaryOp::BitsToFloat => match a {
                Arg::Int(v) => Arg::Float(v as u32),
                _ => a,
            },
            UnaryOp::FloatToBits => match a {
                Arg::Float(bits) => Arg::Int(bits as i32),
                _ => a,
            },
        })
        .collect()
    }

    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Result<Elements, String> {
        let scalar = self.kernel.type_of(a).scalar;
        let pairs = self.pairs(a, b).into_iter();
        match scalar {
            Scalar::F32 => pairs.map(|(a, b)| self.binary_float(op, a, b)).collect(),
            Scalar::I32 => Ok(pairs.map(|(a, b)| self.binary_int(op, a, b)).collect()),
            Scalar::Bool => pairs.map(|(a, b)| self.binary_bool(op, a, b)).collect(),
        }
    }

    fn binary_float(&mut self, op: BinaryOp, a: Arg, b: Arg) -> Result<Arg, String> {
        Ok(match op {
            BinaryOp::Add => self.f.word("add.rn.f32", &[a, b]),
            BinaryOp::Sub => self.f.word("sub.rn.f32", &[a, b]),
            BinaryOp::Mul => self.f.word("mul.rn.f32", &[a, b]),
            BinaryOp::Div => self.f.word("div.rn.f32", &[a, b]),
            // PTX's own prefer a number to a NaN.
            BinaryOp::Min => picked(&mut self.f, "setp.lt.f32", a, b),
            BinaryOp::Max => picked(&mut self.f, "setp.gt.f32", a, b),
            BinaryOp::Rem
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::Shl
            | BinaryOp::Shr => return Err(format!("`{op:?}` of floats")),
        })
    }

    fn binary_int(&mut self, op: BinaryOp, a: Arg, b: Arg) -> Arg {
        let op = match op {
            BinaryOp::Add => "add.s32",
            BinaryOp::Sub => "sub.s32",
            BinaryOp::Mul => "mul.lo.s32",
            BinaryOp::Div => "div.s32",
            BinaryOp::Rem => "rem.s32",
            BinaryOp::Min => "min.s32",
            BinaryOp::Max => "max.s32",
            BinaryOp::And => "and.b32",
            BinaryOp::Or => "or.b32",
            BinaryOp::Xor => "xor.b32",
            BinaryOp::Shl => "shl.b32",
            BinaryOp::Shr => "shr.s32",
        };
        self.f.word(op, &[a, b])
    }

    fn binary_bool(&mut self, op: BinaryOp, a: Arg, b: Arg) -> Result<Arg, String> {
        let op = match op {
            BinaryOp::And => "and.pred",
            BinaryOp::Or => "or.pred",
            BinaryOp::Xor => "xor.pred",
            BinaryOp::Add
            | BinaryOp::Sub
            | BinaryOp::Mul
            | BinaryOp::Div
            | BinaryOp::Rem
            | BinaryOp::Min
            | BinaryOp::Max
            | BinaryOp::Shl
            | BinaryOp::Shr => return Err(format!("`{op:?}` of bools")),
        };
        Ok(self.f.pred(op, &[a, b]))
    }

    pub fn fma(&mut self, a: Value, b: Value, c: Value) -> Elements {
        let c = self.of(c).to_vec();
        let terms = self.pairs(a, b).into_iter().zip(c);
        terms.map(|((a, b), c)| self.f.word("fma.rn.f32", &[a, b, c])).collect()
    }

    pub fn compare(&mut self, op: CompareOp, a: Value, b: Value) -> Elements {
        let float = self.kernel.type_of(a).scalar == Scalar::F32;
        let op = match (op, float) {
            (CompareOp::Eq, true) => "setp.eq.f32",
            (CompareOp::Ne, true) => "setp.neu.f32",
            (CompareOp::Lt, true) => "setp.lt.f32",
            (CompareOp::Le, true) => "setp.le.f32",
            (CompareOp::Gt, true) => "setp.gt.f32",
            (CompareOp::Ge, true) => "setp.ge.f32",
            (CompareOp::Eq, false) => "setp.eq.s32",
            (CompareOp::Ne, false) => "setp.ne.s32",
            (CompareOp::Lt, false) => "setp.lt.s32",
            (CompareOp::Le, false) => "setp.le.s32",
            (CompareOp::Gt, false) => "setp.gt.s32",
            (CompareOp::Ge, false) => "setp.ge.s32",
        };
        self.pairs(a, b).into_iter().map(|(a, b)| self.f.pred(op, &[a, b])).collect()
    }

    pub fn select(&mut self, cond: Value, a: Value, b: Value) -> Elements {
        let scalar = self.kernel.type_of(a).scalar;
        let cond = self.of(cond).to_vec();
        let pairs = self.pairs(a, b).into_iter().enumerate();
        pairs
            .map(|(i, (a, b))| {
                let cond = if cond.len() == 1 { cond[0] } else { cond[i] };
                chosen(&mut self.f, scalar, cond, a, b)
            })
            .collect()
    }

    pub fn reduce(&mut self, op: ReduceOp, v: Value) -> Arg {
        let scalar = self.kernel.type_of(v).scalar;
        let mut elements = self.of(v).to_vec();
        while elements.len() > 1 {
            let high = elements.split_off(elements.len() / 2);
            let pairs = elements.iter().zip(&high);
            elements = pairs.map(|(a, b)| combine(&mut self.f, op, scalar, *a, *b)).collect();
        }
        elements[0]
    }

    fn pairs(&self, a: Value, b: Value) -> Vec<(Arg, Arg)> {
        self.of(a).iter().copied().zip(self.of(b).iter().copied()).collect()
    }
}

/// One step of a fold.
pub fn combine(f: &mut Function, op: ReduceOp, scalar: Scalar, a: Arg, b: Arg) -> Arg {
    match (op, scalar) {
        (ReduceOp::Sum, Scalar::F32) => f.word("add.rn.f32", &[a, b]),
        (ReduceOp::Min, Scalar::F32) => picked(f, "setp.lt.f32", a, b),
        (ReduceOp::Max, Scalar::F32) => picked(f, "setp.gt.f32", a, b),
        (ReduceOp::Sum, Scalar::I32) => f.word("add.s32", &[a, b]),
        (ReduceOp::Min, Scalar::I32) => f.word("min.s32", &[a, b]),
        (ReduceOp::Max, Scalar::I32) => f.word("max.s32", &[a, b]),
        (ReduceOp::Sum | ReduceOp::Min | ReduceOp::Max, Scalar::Bool) => {
            unreachable!("verified: numbers are folded")
        }
    }
}

/// `a` or `b`.
pub fn chosen(f: &mut Function, scalar: Scalar, cond: Arg, a: Arg, b: Arg) -> Arg {
    match scalar {
        Scalar::F32 => f.op(Class::Word, "selp.f32", &[a, b, cond]),
        Scalar::I32 => f.op(Class::Word, "selp.b32", &[a, b, cond]),
        Scalar::Bool => {
            let yes = f.pred("and.pred", &[cond, a]);
            let not = f.pred("not.pred", &[cond]);
            let no = f.pred("and.pred", &[not, b]);
            f.pred("or.pred", &[yes, no])
        }
    }
}

fn picked(f: &mut Function, compare: &str, a: Arg, b: Arg) -> Arg {
    let first = f.pred(compare, &[a, b]);
    f.word("selp.f32", &[a, b, first])
}
