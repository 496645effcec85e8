//! Arithmetic, part by part.

use super::{Lowering, Parts, part_shape};
use crate::module::{Kind, Shape};
use q35_kernel::{BinaryOp, CompareOp, ReduceOp, Scalar, Type, UnaryOp, Value};
use rspirv::spirv::{GlslStd450Op as Glsl, Op, Word};

impl Lowering<'_> {
    pub fn unary(&mut self, op: UnaryOp, a: Value) -> Parts {
        let (_, n) = self.shape(a);
        let each = self.parts_of(a).to_vec().into_iter();
        each.map(|a| match op {
            UnaryOp::Neg => self.m.float(Op::FNegate, n, &[a]),
            UnaryOp::Abs => self.m.glsl(Glsl::FAbs, (Kind::F32, n), &[a]),
            UnaryOp::Sqrt => self.m.glsl(Glsl::Sqrt, (Kind::F32, n), &[a]),
            UnaryOp::Not => self.m.op(Op::LogicalNot, (Kind::Bool, n), &[a]),
            UnaryOp::IntToFloat => self.m.op(Op::ConvertSToF, (Kind::F32, n), &[a]),
            UnaryOp::FloatToInt => self.truncated(n, a),
            UnaryOp::BitsToFloat => self.m.bitcast((Kind::F32, n), a),
            UnaryOp::FloatToBits => self.m.bitcast((Kind::U32, n), a),
        })
        .collect()
    }

    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Result<Parts, String> {
        let shape = self.shape(a);
        let pairs = self.pairs(a, b).into_iter();
        match shape.0 {
            Kind::F32 => pairs.map(|(a, b)| self.binary_float(op, shape.1, a, b)).collect(),
            Kind::U32 => Ok(pairs.map(|(a, b)| self.binary_int(op, shape, a, b)).collect()),
            Kind::Bool => pairs.map(|(a, b)| self.binary_bool(op, shape, a, b)).collect(),
        }
    }

    fn binary_float(&mut self, op: BinaryOp, n: u8, a: Word, b: Word) -> Result<Word, String> {
        Ok(match op {
            BinaryOp::Add => self.m.float(Op::FAdd, n, &[a, b]),
            BinaryOp::Sub => self.m.float(Op::FSub, n, &[a, b]),
            BinaryOp::Mul => self.m.float(Op::FMul, n, &[a, b]),
            BinaryOp::Div => self.m.float(Op::FDiv, n, &[a, b]),
            // GLSL's own leave open what a NaN does.
            BinaryOp::Min => self.picked(Op::FOrdLessThan, n, a, b),
            BinaryOp::Max => self.picked(Op::FOrdGreaterThan, n, a, b),
            BinaryOp::Rem
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::Shl
            | BinaryOp::Shr => return Err(format!("`{op:?}` of floats")),
        })
    }

    /// `f32` to `i32`, toward zero. SPIR-V leaves open what becomes of numbers out of range.
    fn truncated(&mut self, n: u8, v: Word) -> Word {
        const END: f32 = 2_147_483_648.0;
        let [end, start, zero] = [END, -END, 0.0].map(|bound| self.m.f32s(bound, n));
        let above = self.m.op(Op::FOrdGreaterThanEqual, (Kind::Bool, n), &[v, end]);
        let below = self.m.op(Op::FOrdLessThan, (Kind::Bool, n), &[v, start]);
        let number = self.m.op(Op::FOrdEqual, (Kind::Bool, n), &[v, v]);
        let out = self.m.op(Op::LogicalOr, (Kind::Bool, n), &[above, below]);
        let within = self.m.op(Op::LogicalNotEqual, (Kind::Bool, n), &[number, out]);
        let tame = self.m.op(Op::Select, (Kind::F32, n), &[within, v, zero]);
        let int = self.m.op(Op::ConvertFToS, (Kind::U32, n), &[tame]);
        let [most, least] = [i32::MAX, i32::MIN].map(|bound| self.m.u32s(bound as u32, n));
        let int = self.m.op(Op::Select, (Kind::U32, n), &[above, most, int]);
        self.m.op(Op::Select, (Kind::U32, n), &[below, least, int])
    }

    fn picked(&mut self, compare: Op, n: u8, a: Word, b: Word) -> Word {
        let first = self.m.op(compare, (Kind::Bool, n), &[a, b]);
        self.m.op(Op::Select, (Kind::F32, n), &[first, a, b])
    }

    fn binary_int(&mut self, op: BinaryOp, shape: Shape, a: Word, b: Word) -> Word {
        let op = match op {
            BinaryOp::Add => Op::IAdd,
            BinaryOp::Sub => Op::ISub,
            BinaryOp::Mul => Op::IMul,
            BinaryOp::Div => Op::SDiv,
            BinaryOp::Rem => Op::SRem,
            BinaryOp::Min => return self.m.glsl(Glsl::SMin, shape, &[a, b]),
            BinaryOp::Max => return self.m.glsl(Glsl::SMax, shape, &[a, b]),
            BinaryOp::And => Op::BitwiseAnd,
            BinaryOp::Or => Op::BitwiseOr,
            BinaryOp::Xor => Op::BitwiseXor,
            BinaryOp::Shl => Op::ShiftLeftLogical,
            BinaryOp::Shr => Op::ShiftRightArithmetic,
        };
        self.m.op(op, shape, &[a, b])
    }

    fn binary_bool(
        &mut self,
        op: BinaryOp,
        shape: Shape,
        a: Word,
        b: Word,
    ) -> Result<Word, String> {
        let op = match op {
            BinaryOp::And => Op::LogicalAnd,
            BinaryOp::Or => Op::LogicalOr,
            BinaryOp::Xor => Op::LogicalNotEqual,
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
        Ok(self.m.op(op, shape, &[a, b]))
    }

    pub fn fma(&mut self, a: Value, b: Value, c: Value) -> Result<Parts, String> {
        if !self.profile.caps.fma {
            return Err("`fma`, but multiply-adds are not fused".into());
        }
        let shape = self.shape(a);
        let c = self.parts_of(c).to_vec();
        let pairs = self.pairs(a, b).into_iter().zip(c);
        Ok(pairs.map(|((a, b), c)| self.m.glsl(Glsl::Fma, shape, &[a, b, c])).collect())
    }

    pub fn compare(&mut self, op: CompareOp, a: Value, b: Value) -> Parts {
        let (kind, n) = self.shape(a);
        let float = kind == Kind::F32;
        let op = match (op, float) {
            (CompareOp::Eq, true) => Op::FOrdEqual,
            (CompareOp::Ne, true) => Op::FUnordNotEqual,
            (CompareOp::Lt, true) => Op::FOrdLessThan,
            (CompareOp::Le, true) => Op::FOrdLessThanEqual,
            (CompareOp::Gt, true) => Op::FOrdGreaterThan,
            (CompareOp::Ge, true) => Op::FOrdGreaterThanEqual,
            (CompareOp::Eq, false) => Op::IEqual,
            (CompareOp::Ne, false) => Op::INotEqual,
            (CompareOp::Lt, false) => Op::SLessThan,
            (CompareOp::Le, false) => Op::SLessThanEqual,
            (CompareOp::Gt, false) => Op::SGreaterThan,
            (CompareOp::Ge, false) => Op::SGreaterThanEqual,
        };
        self.pairs(a, b).into_iter().map(|(a, b)| self.m.op(op, (Kind::Bool, n), &[a, b])).collect()
    }

    pub fn select(&mut self, cond: Value, a: Value, b: Value) -> Parts {
        let shape = self.shape(a);
        let cond = self.parts_of(cond).to_vec();
        let whole = cond.len() == 1;
        let pairs = self.pairs(a, b).into_iter().enumerate();
        pairs
            .map(|(i, (a, b))| {
                let cond = if whole { cond[0] } else { cond[i] };
                self.m.op(Op::Select, shape, &[cond, a, b])
            })
            .collect()
    }

    pub fn splat(&mut self, v: Value, width: u8) -> Parts {
        let ty = Type { width, ..self.kernel.type_of(v) };
        let (shape, scalar) = (part_shape(ty), self.scalar(v));
        let part = match self.divisors.literal(v) {
            true => self.m.repeated(shape, scalar),
            false => self.m.vector(shape, &vec![scalar; usize::from(shape.1)]),
        };
        vec![part; super::part_count(ty)]
    }

    /// Scalars as one value.
    pub fn gather(&mut self, elements: &[Value]) -> Parts {
        let shape = (self.shape(elements[0]).0, elements.len().min(4) as u8);
        let scalars: Vec<Word> = elements.iter().map(|v| self.scalar(*v)).collect();
        scalars.chunks(usize::from(shape.1)).map(|part| self.m.vector(shape, part)).collect()
    }

    pub fn element(&mut self, v: Value, element: u8) -> Word {
        let shape = self.shape(v);
        let part = self.parts_of(v)[usize::from(element / 4)];
        self.m.element(shape, part, element % 4)
    }

    pub fn reduce(&mut self, op: ReduceOp, v: Value) -> Word {
        let (kind, mut n) = self.shape(v);
        let scalar = self.kernel.type_of(v).scalar;
        let mut parts = self.parts_of(v).to_vec();
        while parts.len() > 1 {
            let half = parts.len() / 2;
            parts =
                (0..half).map(|i| self.combine(op, scalar, n, parts[i], parts[i + half])).collect();
        }
        let mut folded = parts[0];
        while n > 1 {
            let half = n / 2;
            let [low, high] = [0, half].map(|from| match half {
                1 => self.m.element((kind, n), folded, from),
                _ => self.m.shuffle(kind, folded, folded, &[from, from + 1]),
            });
            folded = self.combine(op, scalar, half, low, high);
            n = half;
        }
        folded
    }

    /// One step of a fold, on vectors of `n`.
    pub fn combine(&mut self, op: ReduceOp, scalar: Scalar, n: u8, a: Word, b: Word) -> Word {
        match (op, scalar) {
            (ReduceOp::Sum, Scalar::F32) => self.m.float(Op::FAdd, n, &[a, b]),
            (ReduceOp::Min, Scalar::F32) => self.picked(Op::FOrdLessThan, n, a, b),
            (ReduceOp::Max, Scalar::F32) => self.picked(Op::FOrdGreaterThan, n, a, b),
            (ReduceOp::Sum, Scalar::I32) => self.m.op(Op::IAdd, (Kind::U32, n), &[a, b]),
            (ReduceOp::Min, Scalar::I32) => self.m.glsl(Glsl::SMin, (Kind::U32, n), &[a, b]),
            (ReduceOp::Max, Scalar::I32) => self.m.glsl(Glsl::SMax, (Kind::U32, n), &[a, b]),
            (ReduceOp::Sum | ReduceOp::Min | ReduceOp::Max, Scalar::Bool) => {
                unreachable!("verified: numbers are folded")
            }
        }
    }

    fn pairs(&self, a: Value, b: Value) -> Vec<(Word, Word)> {
        self.parts_of(a).iter().copied().zip(self.parts_of(b).iter().copied()).collect()
    }
}
