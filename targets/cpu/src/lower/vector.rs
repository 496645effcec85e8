//! Arithmetic, part by part.

use super::{Lowering, Parts, part_types};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::V128Imm;
use cranelift_codegen::ir::{self, InstBuilder, MemFlagsData, types};
use q35_kernel::{BinaryOp, CompareOp, Literal, ReduceOp, Scalar, Type, UnaryOp, Value};

impl Lowering<'_> {
    pub fn unary(&mut self, op: UnaryOp, a: Value) -> Parts {
        self.parts_of(a).to_vec().into_iter().map(|a| self.unary_part(op, a)).collect()
    }

    fn unary_part(&mut self, op: UnaryOp, a: ir::Value) -> ir::Value {
        let vector = self.f.func.dfg.value_type(a).is_vector();
        let [float, int] =
            if vector { [types::F32X4, types::I32X4] } else { [types::F32, types::I32] };
        match op {
            UnaryOp::Neg => self.f.ins().fneg(a),
            UnaryOp::Abs => self.f.ins().fabs(a),
            UnaryOp::Sqrt => self.f.ins().sqrt(a),
            UnaryOp::Not if vector => self.f.ins().bnot(a),
            UnaryOp::Not => self.f.ins().bxor_imm_u(a, 1),
            UnaryOp::IntToFloat => self.f.ins().fcvt_from_sint(float, a),
            UnaryOp::FloatToInt => self.f.ins().fcvt_to_sint_sat(int, a),
            UnaryOp::BitsToFloat => self.f.ins().bitcast(float, MemFlagsData::new(), a),
            UnaryOp::FloatToBits => self.f.ins().bitcast(int, MemFlagsData::new(), a),
        }
    }

    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Result<Parts, String> {
        let scalar = self.kernel.type_of(a).scalar;
        let known = match self.constant_of(b) {
            Some(Literal::I32(n)) => Some(n),
            Some(Literal::F32(_) | Literal::Bool(_)) | None => None,
        };
        let pairs: Vec<_> =
            self.parts_of(a).iter().copied().zip(self.parts_of(b).iter().copied()).collect();
        pairs.into_iter().map(|(a, b)| self.binary_part(op, scalar, a, b, known)).collect()
    }

    /// `known` is what every element of `b` is, if that is a constant.
    fn binary_part(
        &mut self,
        op: BinaryOp,
        scalar: Scalar,
        a: ir::Value,
        b: ir::Value,
        known: Option<i32>,
    ) -> Result<ir::Value, String> {
        use BinaryOp::*;
        let divisor = || {
            known.filter(|d| *d > 0).map(i64::from).ok_or("a divisor that is no positive constant")
        };
        Ok(match (scalar, op) {
            (Scalar::F32, Add) => self.f.ins().fadd(a, b),
            (Scalar::F32, Sub) => self.f.ins().fsub(a, b),
            (Scalar::F32, Mul) => self.f.ins().fmul(a, b),
            (Scalar::F32, Div) => self.f.ins().fdiv(a, b),
            // In the form that Cranelift knows as one instruction of x86, which has this very rule for NaN.
            (Scalar::F32, Min) => self.float_choice(FloatCC::LessThan, a, b, a, b),
            (Scalar::F32, Max) => self.float_choice(FloatCC::LessThan, b, a, a, b),
            (Scalar::I32, Add) => self.f.ins().iadd(a, b),
            (Scalar::I32, Sub) => self.f.ins().isub(a, b),
            (Scalar::I32, Mul) => self.f.ins().imul(a, b),
            (Scalar::I32, Min) => self.f.ins().smin(a, b),
            (Scalar::I32, Max) => self.f.ins().smax(a, b),
            (Scalar::I32 | Scalar::Bool, And) => self.f.ins().band(a, b),
            (Scalar::I32 | Scalar::Bool, Or) => self.f.ins().bor(a, b),
            (Scalar::I32 | Scalar::Bool, Xor) => self.f.ins().bxor(a, b),
            (Scalar::I32, Div) => {
                let d = divisor()?;
                self.each_lane(a, b, |l, a, _| {
                    let d = l.f.ins().iconst(types::I32, d);
                    l.f.ins().sdiv(a, d)
                })
            }
            (Scalar::I32, Rem) => {
                let d = divisor()?;
                self.each_lane(a, b, |l, a, _| {
                    let d = l.f.ins().iconst(types::I32, d);
                    l.f.ins().srem(a, d)
                })
            }
            // A vector is shifted by one amount or, as in no template, element by element.
            (Scalar::I32, Shl) => match known {
                Some(n) => self.f.ins().ishl_imm_u(a, i64::from(n)),
                None => self.each_lane(a, b, |l, a, b| l.f.ins().ishl(a, b)),
            },
            (Scalar::I32, Shr) => match known {
                Some(n) => self.f.ins().sshr_imm_u(a, i64::from(n)),
                None => self.each_lane(a, b, |l, a, b| l.f.ins().sshr(a, b)),
            },
            (Scalar::F32, Rem | And | Or | Xor | Shl | Shr)
            | (Scalar::Bool, Add | Sub | Mul | Div | Rem | Min | Max | Shl | Shr) => {
                return Err(format!("`{op:?}` of {scalar:?}"));
            }
        })
    }

    fn float_choice(
        &mut self,
        cc: FloatCC,
        x: ir::Value,
        y: ir::Value,
        a: ir::Value,
        b: ir::Value,
    ) -> ir::Value {
        let cond = self.f.ins().fcmp(cc, x, y);
        match self.f.func.dfg.value_type(a).is_vector() {
            true => {
                let mask = self.f.ins().bitcast(types::F32X4, MemFlagsData::new(), cond);
                self.f.ins().bitselect(mask, a, b)
            }
            false => self.f.ins().select(cond, a, b),
        }
    }

    /// What the instruction set has for scalars only.
    fn each_lane(
        &mut self,
        a: ir::Value,
        b: ir::Value,
        op: impl Fn(&mut Self, ir::Value, ir::Value) -> ir::Value,
    ) -> ir::Value {
        if !self.f.func.dfg.value_type(a).is_vector() {
            return op(self, a, b);
        }
        (0..4).fold(a, |result, lane| {
            let [x, y] = [a, b].map(|v| self.f.ins().extractlane(v, lane));
            let one = op(self, x, y);
            self.f.ins().insertlane(result, one, lane)
        })
    }

    pub fn fma(&mut self, a: Value, b: Value, c: Value) -> Result<Parts, String> {
        if !self.caps.fma {
            return Err("`fma`, but the machine has none".into());
        }
        // Cranelift's instruction overwrites the first factor. A repeated scalar is a factor of every
        // part, so that it is the one to keep.
        let repeated = |v: Value| self.parts_of(v).iter().all(|p| *p == self.parts_of(v)[0]);
        let (a, b) = if repeated(a) { (b, a) } else { (a, b) };
        let count = self.parts_of(a).len();
        Ok((0..count)
            .map(|i| {
                let [a, b, c] = [a, b, c].map(|v| self.parts_of(v)[i]);
                self.f.ins().fma(a, b, c)
            })
            .collect())
    }

    pub fn compare(&mut self, op: CompareOp, a: Value, b: Value) -> Result<Parts, String> {
        let scalar = self.kernel.type_of(a).scalar;
        let pairs: Vec<_> =
            self.parts_of(a).iter().copied().zip(self.parts_of(b).iter().copied()).collect();
        let (float, int) = match op {
            CompareOp::Eq => (FloatCC::Equal, IntCC::Equal),
            CompareOp::Ne => (FloatCC::NotEqual, IntCC::NotEqual),
            CompareOp::Lt => (FloatCC::LessThan, IntCC::SignedLessThan),
            CompareOp::Le => (FloatCC::LessThanOrEqual, IntCC::SignedLessThanOrEqual),
            CompareOp::Gt => (FloatCC::GreaterThan, IntCC::SignedGreaterThan),
            CompareOp::Ge => (FloatCC::GreaterThanOrEqual, IntCC::SignedGreaterThanOrEqual),
        };
        let part = |(a, b)| match scalar {
            Scalar::F32 => Ok(self.f.ins().fcmp(float, a, b)),
            Scalar::I32 => Ok(self.f.ins().icmp(int, a, b)),
            Scalar::Bool => Err(format!("`{op:?}` of {scalar:?}")),
        };
        pairs.into_iter().map(part).collect()
    }

    pub fn select(&mut self, cond: Value, a: Value, b: Value) -> Parts {
        let conds = self.parts_of(cond).to_vec();
        let pairs: Vec<_> =
            self.parts_of(a).iter().copied().zip(self.parts_of(b).iter().copied()).collect();
        let one = conds.len() < pairs.len() || self.kernel.type_of(cond).width < 4;
        pairs
            .into_iter()
            .enumerate()
            .map(|(i, (a, b))| {
                let cond = conds[i.min(conds.len() - 1)];
                if one {
                    return self.f.ins().select(cond, a, b);
                }
                // As integers: only so does Cranelift see that a comparison's mask is all or nothing.
                let ty = self.f.func.dfg.value_type(a);
                let [a, b] = [a, b].map(|v| self.cast(types::I32X4, v));
                let chosen = self.f.ins().bitselect(cond, a, b);
                self.cast(ty, chosen)
            })
            .collect()
    }

    fn cast(&mut self, ty: ir::Type, v: ir::Value) -> ir::Value {
        if self.f.func.dfg.value_type(v) == ty {
            v
        } else {
            self.f.ins().bitcast(ty, MemFlagsData::new(), v)
        }
    }

    pub fn splat(&mut self, v: Value, width: u8) -> Parts {
        let scalar = self.parts_of(v)[0];
        let types: Vec<_> = part_types(Type { width, ..self.kernel.type_of(v) }).collect();
        let ty = types[0];
        let part = match (ty.is_vector(), self.constant_of(v)) {
            (false, _) => scalar,
            (true, Some(Literal::F32(c))) => self.vector_constant(ty, c.to_bits()),
            (true, Some(Literal::I32(c))) => self.vector_constant(ty, c as u32),
            (true, Some(Literal::Bool(c))) => {
                self.vector_constant(ty, if c { u32::MAX } else { 0 })
            }
            (true, None) => {
                let bool = self.kernel.type_of(v).scalar == Scalar::Bool;
                let scalar = if bool { self.f.ins().bmask(types::I32, scalar) } else { scalar };
                self.f.ins().splat(ty, scalar)
            }
        };
        vec![part; types.len()]
    }

    /// Scalars as one value.
    pub fn vector(&mut self, elements: &[Value]) -> Parts {
        let ty = self.kernel.type_of(elements[0]);
        let scalars: Parts = elements.iter().map(|v| self.parts_of(*v)[0]).collect();
        let part = part_types(Type { width: elements.len() as u8, ..ty }).next().expect("a part");
        if !part.is_vector() {
            return scalars;
        }
        let fours = scalars.chunks(4);
        let four = |four: &[ir::Value]| {
            let lanes = four.iter().map(|&v| match ty.scalar {
                Scalar::F32 | Scalar::I32 => v,
                Scalar::Bool => self.f.ins().bmask(types::I32, v),
            });
            let lanes: Parts = lanes.collect();
            let first = self.f.ins().splat(part, lanes[0]);
            (1..4).fold(first, |v, i| self.f.ins().insertlane(v, lanes[usize::from(i)], i))
        };
        fours.map(four).collect()
    }

    /// From the constants behind the code, one load, rather than through two registers.
    pub fn vector_constant(&mut self, ty: ir::Type, bits: u32) -> ir::Value {
        let bytes: Vec<u8> = [bits; 4].into_iter().flat_map(u32::to_le_bytes).collect();
        let constant = self.f.func.dfg.constants.insert(V128Imm::from(bytes.as_slice()).into());
        self.f.ins().vconst(ty, constant)
    }

    pub fn element(&mut self, v: Value, element: u8) -> ir::Value {
        let Type { scalar, width } = self.kernel.type_of(v);
        if width < 4 {
            return self.parts_of(v)[usize::from(element)];
        }
        let part = self.parts_of(v)[usize::from(element / 4)];
        let lane = self.f.ins().extractlane(part, element % 4);
        match scalar {
            Scalar::F32 | Scalar::I32 => lane,
            Scalar::Bool => self.f.ins().icmp_imm_u(IntCC::NotEqual, lane, 0),
        }
    }

    pub fn reduce(&mut self, op: ReduceOp, v: Value) -> Result<ir::Value, String> {
        let scalar = self.kernel.type_of(v).scalar;
        let op = match op {
            ReduceOp::Sum => BinaryOp::Add,
            ReduceOp::Min => BinaryOp::Min,
            ReduceOp::Max => BinaryOp::Max,
        };
        let vectors = self.halved(op, scalar, self.parts_of(v).to_vec())?;
        if !self.f.func.dfg.value_type(vectors).is_vector() {
            return Ok(vectors);
        }
        let lanes = (0..4).map(|i| self.f.ins().extractlane(vectors, i)).collect();
        self.halved(op, scalar, lanes)
    }

    /// `v[i] op v[i + n/2]`, until one is left.
    fn halved(
        &mut self,
        op: BinaryOp,
        scalar: Scalar,
        mut parts: Parts,
    ) -> Result<ir::Value, String> {
        while parts.len() > 1 {
            let (low, high) = parts.split_at(parts.len() / 2);
            let pairs = low.iter().zip(high);
            parts = pairs
                .map(|(a, b)| self.binary_part(op, scalar, *a, *b, None))
                .collect::<Result<_, _>>()?;
        }
        Ok(parts[0])
    }
}
