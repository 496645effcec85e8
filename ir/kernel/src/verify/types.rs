//! Every statement against the values, types and memories it names.

use super::{Finding, MAX_DEPTH, MAX_MMA_K, Problem, divides};
use crate::inst::*;
use crate::text::headline;
use q35_types::DType;

/// Needs a header without findings.
pub(super) fn check(kernel: &Kernel) -> Vec<Finding> {
    let count = kernel.types.len();
    let mut checker = Checker {
        kernel,
        findings: vec![],
        stmt: None,
        defined: vec![false; count],
        visible: vec![false; count],
        scope: vec![],
        ints: vec![None; count],
    };
    checker.block(&kernel.body, 0, &[]);
    let missing = checker.defined.iter().position(|defined| !defined);
    if let (true, Some(number)) = (checker.findings.is_empty(), missing) {
        checker.report(Problem::NeverDefined { value: Value(number as u32) });
    }
    checker.findings
}

struct Checker<'k> {
    kernel: &'k Kernel,
    findings: Vec<Finding>,
    /// What is being checked; none is the end of the body.
    stmt: Option<&'k Stmt>,
    defined: Vec<bool>,
    visible: Vec<bool>,
    /// All that is visible, in order of definition.
    scope: Vec<Value>,
    /// Integer constants, and vectors of one.
    ints: Vec<Option<i32>>,
}

impl<'k> Checker<'k> {
    /// A block that yields `yields`.
    fn block(&mut self, block: &'k Block, depth: usize, yields: &[Type]) {
        if depth > MAX_DEPTH {
            return self.report(Problem::Depth);
        }
        let (outer, before) = (self.stmt, self.scope.len());
        for stmt in &block.stmts {
            self.stmt = Some(stmt);
            self.statement(stmt, depth);
        }
        self.stmt = outer;
        self.count("yields", block.yields.len(), yields.len());
        for (&v, &ty) in block.yields.iter().zip(yields) {
            self.expect("a yield", v, ty);
        }
        for v in self.scope.drain(before..) {
            self.visible[v.0 as usize] = false;
        }
    }

    fn statement(&mut self, stmt: &'k Stmt, depth: usize) {
        match &stmt.inst {
            Inst::Store { at, value } => {
                self.count("results", stmt.results.len(), 0);
                if let (Some(dtype), Some(ty)) =
                    (self.place(at, Access::Write), self.operand("the value", *value))
                {
                    self.same("the value", ty, ty.with(scalar_of(dtype)));
                }
            }
            Inst::PanelDot(dot) => {
                self.count("results", stmt.results.len(), 0);
                self.panel_dot(dot);
            }
            Inst::MmaZero(acc) => {
                self.count("results", stmt.results.len(), 0);
                self.accumulator(*acc);
            }
            Inst::Mma(mma) => {
                self.count("results", stmt.results.len(), 0);
                self.mma(mma);
            }
            Inst::MmaLoad { acc, at, row } => {
                self.count("results", stmt.results.len(), 0);
                self.matrix(*acc, at, *row, Access::Read);
            }
            Inst::MmaStore { acc, at, row } => {
                self.count("results", stmt.results.len(), 0);
                self.matrix(*acc, at, *row, Access::Write);
            }
            Inst::Barrier => self.count("results", stmt.results.len(), 0),
            Inst::For { start, end, step, var, init, carried, body } => {
                self.expect("the start", *start, Type::I32);
                self.expect("the end", *end, Type::I32);
                if *step == 0 {
                    self.report(Problem::Step);
                }
                let types: Vec<Option<Type>> =
                    init.iter().map(|&v| self.operand("an initial value", v)).collect();
                self.count("carried values", carried.len(), init.len());
                let before = self.scope.len();
                self.define("the loop variable", *var, Some(Type::I32));
                carried
                    .iter()
                    .zip(&types)
                    .for_each(|(&v, &ty)| self.define("a carried value", v, ty));
                let known: Vec<Type> = types.iter().copied().flatten().collect();
                if known.len() == init.len() {
                    self.block(body, depth + 1, &known);
                }
                for v in self.scope.drain(before..) {
                    self.visible[v.0 as usize] = false;
                }
                self.results(stmt, &types);
            }
            Inst::If { cond, then, otherwise } => {
                self.expect("the condition", *cond, Type::BOOL);
                // What the branches yield is what the results say they are.
                let kernel = self.kernel;
                let known = stmt.results.iter().filter_map(|v| kernel.types.get(v.0 as usize));
                let types: Vec<Type> = known.copied().collect();
                self.block(then, depth + 1, &types);
                self.block(otherwise, depth + 1, &types);
                stmt.results.iter().for_each(|&v| self.define("a result", v, None));
            }
            Inst::Const(_)
            | Inst::Task
            | Inst::Lane
            | Inst::Unary(..)
            | Inst::Binary(..)
            | Inst::Fma(..)
            | Inst::Compare(..)
            | Inst::Select(..)
            | Inst::Splat(..)
            | Inst::Extract(..)
            | Inst::Reduce(..)
            | Inst::Load { .. }
            | Inst::Subgroup
            | Inst::Vector(_)
            | Inst::Cluster { .. }
            | Inst::GroupScan(..) => {
                let ty = self.value(&stmt.inst);
                self.results(stmt, &[ty]);
                if let &[result] = &stmt.results[..] {
                    let int = match stmt.inst {
                        Inst::Const(Literal::I32(v)) => Some(v),
                        Inst::Splat(a, _) => self.int(a),
                        _ => None,
                    };
                    if let Some(slot) = self.ints.get_mut(result.0 as usize) {
                        *slot = int;
                    }
                }
            }
        }
    }

    /// The type of what an instruction with one result makes, if its operands allow.
    fn value(&mut self, inst: &'k Inst) -> Option<Type> {
        match *inst {
            Inst::Const(Literal::F32(_)) => Some(Type::F32),
            Inst::Const(Literal::I32(_)) | Inst::Task | Inst::Lane | Inst::Subgroup => {
                Some(Type::I32)
            }
            Inst::Const(Literal::Bool(_)) => Some(Type::BOOL),
            Inst::Unary(op, a) => {
                let (from, to) = match op {
                    UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sqrt => (Scalar::F32, Scalar::F32),
                    UnaryOp::Not => (Scalar::Bool, Scalar::Bool),
                    UnaryOp::IntToFloat | UnaryOp::BitsToFloat => (Scalar::I32, Scalar::F32),
                    UnaryOp::FloatToInt | UnaryOp::FloatToBits => (Scalar::F32, Scalar::I32),
                };
                let a = self.one_of("the operand", a, &[from])?;
                Some(a.with(to))
            }
            Inst::Binary(op, a, b) => self.binary(op, a, b),
            Inst::Fma(a, b, c) => {
                let ty = self.one_of("the first factor", a, &[Scalar::F32])?;
                self.expect("the second factor", b, ty);
                self.expect("the summand", c, ty);
                Some(ty)
            }
            Inst::Compare(_, a, b) => {
                let ty = self.one_of("the left operand", a, &[Scalar::F32, Scalar::I32])?;
                self.expect("the right operand", b, ty);
                Some(ty.with(Scalar::Bool))
            }
            Inst::Select(cond, a, b) => {
                let cond = self.one_of("the condition", cond, &[Scalar::Bool]);
                let ty = self.operand("the first choice", a)?;
                self.expect("the second choice", b, ty);
                if let Some(cond) = cond.filter(|cond| cond.width != 1) {
                    self.same("the condition", cond, ty.with(Scalar::Bool));
                }
                Some(ty)
            }
            Inst::Splat(a, width) => {
                let ty = self.operand("the operand", a)?;
                self.same("the operand", ty, Type { width: 1, ..ty });
                Some(Type { width, ..ty })
            }
            Inst::Vector(ref elements) => self.vector(elements),
            Inst::Extract(a, found) => {
                let ty = self.operand("the vector", a)?;
                if found >= ty.width {
                    self.report(Problem::NoElement { found, width: ty.width });
                }
                Some(Type { width: 1, ..ty })
            }
            Inst::Reduce(_, a) => {
                let ty = self.one_of("the operand", a, &[Scalar::F32, Scalar::I32])?;
                Some(Type { width: 1, ..ty })
            }
            Inst::Load { ref at, width } => {
                let dtype = self.place(at, Access::Read)?;
                Some(Type { scalar: scalar_of(dtype), width })
            }
            Inst::Cluster { op: _, value, size } => {
                let lanes = self.kernel.lanes;
                if !divides(size, lanes) {
                    self.report(Problem::Cluster { found: size, lanes });
                }
                self.one_of("the operand", value, &[Scalar::F32, Scalar::I32])
            }
            Inst::GroupScan(a) => self.one_of("the operand", a, &[Scalar::F32, Scalar::I32]),
            Inst::Store { .. }
            | Inst::PanelDot(_)
            | Inst::MmaZero(_)
            | Inst::Mma(_)
            | Inst::MmaLoad { .. }
            | Inst::MmaStore { .. }
            | Inst::Barrier
            | Inst::For { .. }
            | Inst::If { .. } => unreachable!("not of one result"),
        }
    }

    fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Option<Type> {
        let allowed: &[Scalar] = match op {
            BinaryOp::Add
            | BinaryOp::Sub
            | BinaryOp::Mul
            | BinaryOp::Div
            | BinaryOp::Min
            | BinaryOp::Max => &[Scalar::F32, Scalar::I32],
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => &[Scalar::I32, Scalar::Bool],
            BinaryOp::Rem | BinaryOp::Shl | BinaryOp::Shr => &[Scalar::I32],
        };
        let ty = self.one_of("the left operand", a, allowed)?;
        self.expect("the right operand", b, ty);
        match (op, self.int(b)) {
            (BinaryOp::Div | BinaryOp::Rem, Some(1..)) => {}
            (BinaryOp::Div | BinaryOp::Rem, _) if ty.scalar == Scalar::I32 => {
                self.report(Problem::Divisor);
            }
            (BinaryOp::Shl | BinaryOp::Shr, Some(found)) if !(0..=31).contains(&found) => {
                self.report(Problem::Shift { found });
            }
            _ => {}
        }
        Some(ty)
    }

    fn vector(&mut self, elements: &[Value]) -> Option<Type> {
        let found = elements.len();
        if !matches!(found, 2 | 4 | 8 | 16) {
            self.report(Problem::Elements { found });
            return None;
        }
        let first = self.operand("an element", elements[0])?;
        let one = Type { width: 1, ..first };
        self.same("an element", first, one);
        elements[1..].iter().for_each(|&v| self.expect("an element", v, one));
        Some(Type { width: found as u8, ..first })
    }

    fn mma(&mut self, mma: &Mma) {
        self.accumulator(mma.acc);
        let types = [("`a`", &mma.a), ("`b`", &mma.b)].map(|(what, place)| {
            if !matches!(place.mem, Mem::Shared(_)) {
                self.report(Problem::NotShared { what });
            }
            let found = self.place(place, Access::Read)?;
            if !matches!(found, DType::F16 | DType::Bf16) {
                self.report(Problem::Element { what, found, expected: "bf16 or f16" });
            }
            Some(found)
        });
        if let [Some(a), Some(found)] = types
            && a != found
        {
            self.report(Problem::Element { what: "`b`", found, expected: "what `a` is in" });
        }
        self.expect("the stride of `a`", mma.a_row, Type::I32);
        self.expect("the stride of `b`", mma.b_row, Type::I32);
        if mma.k == 0 || mma.k > MAX_MMA_K || !mma.k.is_multiple_of(MMA_K) {
            self.report(Problem::MmaK { found: mma.k });
        }
    }

    fn matrix(&mut self, acc: Acc, at: &Place, row: Value, access: Access) {
        self.accumulator(acc);
        if let Some(found) = self.place(at, access).filter(|&found| found != DType::F32) {
            self.report(Problem::Element { what: "the matrix", found, expected: "f32" });
        }
        self.expect("the stride", row, Type::I32);
    }

    fn accumulator(&mut self, acc: Acc) {
        if acc.0 as usize >= self.kernel.accumulators.len() {
            self.report(Problem::NoAccumulator(acc));
        }
    }

    fn panel_dot(&mut self, dot: &PanelDot) {
        if self.kernel.lanes != 1 {
            self.report(Problem::PanelLanes { lanes: self.kernel.lanes });
        }
        let out = if dot.accumulate { Access::ReadWrite } else { Access::Write };
        for (what, place, access) in
            [("`x`", &dot.x, Access::Read), ("`w`", &dot.w, Access::Read), ("`out`", &dot.out, out)]
        {
            let Some(found) = self.place(place, access) else {
                continue;
            };
            let (fits, expected) = match what {
                "`w`" => (found.is_float(), "a float"),
                _ => (found == DType::F32, "f32"),
            };
            if !fits {
                self.report(Problem::Element { what, found, expected });
            }
        }
        for (what, v) in [
            ("the stride of `x` by row", dot.x_row),
            ("the stride of `x` by k", dot.x_k),
            ("the stride of `w`", dot.w_panel),
            ("the stride of `out`", dot.out_row),
            ("rows", dot.rows),
            ("panels", dot.panels),
            ("k", dot.k),
        ] {
            self.expect(what, v, Type::I32);
        }
    }

    /// The element type of a place that may be accessed so.
    fn place(&mut self, place: &Place, access: Access) -> Option<DType> {
        self.expect("the index", place.index, Type::I32);
        let kernel = self.kernel;
        let param = match place.mem {
            Mem::Shared(a) => {
                let array = kernel.shared.get(a as usize);
                if array.is_none() {
                    self.report(Problem::NoMemory(place.mem));
                }
                return array.map(|a| a.dtype);
            }
            Mem::Param(p) | Mem::Entry(p, _) => kernel.params.get(p as usize),
        };
        let Some(param) = param else {
            self.report(Problem::NoMemory(place.mem));
            return None;
        };
        let name = param.name.clone();
        match (place.mem, param.table) {
            (Mem::Entry(_, entry), true) => self.expect("the entry", entry, Type::I32),
            (Mem::Entry(..), false) => self.report(Problem::NotATable { name: name.clone() }),
            (_, true) => self.report(Problem::NoEntry { name: name.clone() }),
            (_, false) => {}
        }
        let allowed = match param.access {
            Access::ReadWrite => true,
            only => only == access,
        };
        if !allowed {
            self.report(Problem::Access { name, access: param.access });
        }
        Some(param.dtype)
    }

    /// Define the results, of these types where they are known.
    fn results(&mut self, stmt: &'k Stmt, types: &[Option<Type>]) {
        self.count("results", stmt.results.len(), types.len());
        stmt.results.iter().zip(types).for_each(|(&v, &ty)| self.define("the result", v, ty));
    }

    fn define(&mut self, what: &'static str, value: Value, ty: Option<Type>) {
        let index = value.0 as usize;
        let Some(&declared) = self.kernel.types.get(index) else {
            return self.report(Problem::NoType { value });
        };
        if self.defined[index] {
            return self.report(Problem::DefinedAgain { value });
        }
        self.defined[index] = true;
        self.visible[index] = true;
        self.scope.push(value);
        if let Some(ty) = ty {
            self.same(what, declared, ty);
        }
    }

    fn operand(&mut self, what: &'static str, value: Value) -> Option<Type> {
        if self.visible.get(value.0 as usize) == Some(&true) {
            return Some(self.kernel.type_of(value));
        }
        self.report(Problem::NotVisible { what, value });
        None
    }

    fn expect(&mut self, what: &'static str, value: Value, expected: Type) {
        if let Some(found) = self.operand(what, value) {
            self.same(what, found, expected);
        }
    }

    fn one_of(&mut self, what: &'static str, value: Value, scalars: &[Scalar]) -> Option<Type> {
        let found = self.operand(what, value)?;
        if scalars.contains(&found.scalar) {
            return Some(found);
        }
        let names: Vec<&str> = scalars.iter().map(|s| s.name()).collect();
        self.report(Problem::Type { what, found, expected: names.join(" or ") });
        None
    }

    fn same(&mut self, what: &'static str, found: Type, expected: Type) {
        if found != expected {
            self.report(Problem::Type { what, found, expected: expected.to_string() });
        }
    }

    fn count(&mut self, what: &'static str, found: usize, expected: usize) {
        if found != expected {
            self.report(Problem::Count { what, found, expected });
        }
    }

    fn int(&self, v: Value) -> Option<i32> {
        self.ints.get(v.0 as usize).copied().flatten()
    }

    fn report(&mut self, problem: Problem) {
        let at = match self.stmt {
            Some(stmt) => headline(self.kernel, stmt),
            None => format!("kernel {}", self.kernel.name),
        };
        self.findings.push(Finding { at, problem });
    }
}

fn scalar_of(dtype: DType) -> Scalar {
    match dtype {
        DType::F32 | DType::F16 | DType::Bf16 => Scalar::F32,
        DType::I32 => Scalar::I32,
    }
}
