//! Writing kernels.
//!
//! The builder is shared by the [`Expr`]s it hands out, so that templates read like the
//! formulas they compute: `(q * scale + bias).exp()`. Types are checked as the program is
//! written: a template that mixes them is a bug and panics at the line that did it.

use crate::expr::{Expr, Operand};
use crate::inst::*;
use q35_types::DType;
use std::cell::RefCell;
use std::collections::HashMap;

/// What of a machine decides which instructions the builder writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Lanes of a group.
    pub lanes: u32,
    /// Lanes of a subgroup.
    pub subgroup: u32,
    /// Whether multiply-adds are fused: [`Inst::Fma`] or a multiplication and an addition.
    pub fma: bool,
    /// Whether there is a micro-kernel for [`Inst::PanelDot`].
    pub panel_dot: bool,
}

/// Builds one [`Kernel`].
pub struct KernelBuilder {
    state: RefCell<State>,
    machine: Machine,
}

struct State {
    kernel: Kernel,
    /// Constants stand before everything else, each once.
    constants: Vec<Stmt>,
    known: HashMap<(Scalar, u32), Value>,
    literals: HashMap<Value, Literal>,
    /// Open blocks, innermost last.
    open: Vec<Block>,
}

impl KernelBuilder {
    pub fn new(name: impl Into<String>, machine: Machine) -> Self {
        let kernel = Kernel {
            name: name.into(),
            lanes: machine.lanes,
            subgroup: machine.subgroup,
            params: vec![],
            shared: vec![],
            accumulators: vec![],
            types: vec![],
            body: Block::default(),
        };
        let state = State {
            kernel,
            constants: vec![],
            known: HashMap::new(),
            literals: HashMap::new(),
            open: vec![Block::default()],
        };
        KernelBuilder { state: RefCell::new(state), machine }
    }

    pub fn finish(self) -> Kernel {
        let mut state = self.state.into_inner();
        assert_eq!(state.open.len(), 1, "every block is closed");
        let body = state.open.pop().expect("the body");
        state.kernel.body.stmts = state.constants;
        state.kernel.body.stmts.extend(body.stmts);
        state.kernel
    }

    pub fn machine(&self) -> Machine {
        self.machine
    }

    // ---- memory ----

    pub fn param(&self, name: &str, dtype: DType, access: Access) -> Mem {
        self.add_param(name, dtype, access, false)
    }

    pub fn input(&self, name: &str, dtype: DType) -> Mem {
        self.param(name, dtype, Access::Read)
    }

    pub fn output(&self, name: &str, dtype: DType) -> Mem {
        self.param(name, dtype, Access::Write)
    }

    pub fn state(&self, name: &str, dtype: DType) -> Mem {
        self.param(name, dtype, Access::ReadWrite)
    }

    /// A list of buffers that are read; pick one with [`entry`](Self::entry).
    pub fn table(&self, name: &str, dtype: DType) -> Mem {
        self.add_param(name, dtype, Access::Read, true)
    }

    pub fn entry<'k>(&'k self, table: Mem, number: Expr<'k>) -> Mem {
        let Mem::Param(p) = table else { panic!("an entry of a table") };
        Mem::Entry(p, number.value)
    }

    /// An array the lanes of a group share.
    pub fn shared(&self, name: &str, dtype: DType, len: u32) -> Mem {
        let arrays = &mut self.state.borrow_mut().kernel.shared;
        arrays.push(Array { name: name.into(), dtype, len: len.max(1) });
        Mem::Shared(arrays.len() as u32 - 1)
    }

    /// Sums of [`mma`](Self::mma), `m` x `n` for each subgroup.
    pub fn accumulator(&self, name: &str, m: u32, n: u32) -> Acc {
        let accumulators = &mut self.state.borrow_mut().kernel.accumulators;
        accumulators.push(Accumulator { name: name.into(), m, n });
        Acc(accumulators.len() as u32 - 1)
    }

    fn add_param(&self, name: &str, dtype: DType, access: Access, table: bool) -> Mem {
        let params = &mut self.state.borrow_mut().kernel.params;
        params.push(Param { name: name.into(), dtype, access, table });
        Mem::Param(params.len() as u32 - 1)
    }

    /// Element type of a memory.
    pub fn dtype_of(&self, mem: Mem) -> DType {
        self.state.borrow().kernel.dtype_of(mem)
    }

    pub fn load<'k>(&'k self, mem: Mem, index: impl Operand<'k>) -> Expr<'k> {
        self.load_vec(mem, index, 1)
    }

    pub fn load_vec<'k>(&'k self, mem: Mem, index: impl Operand<'k>, width: u8) -> Expr<'k> {
        let index = index.operand(self).value;
        let dtype = self.dtype_of(mem);
        let scalar = if dtype.is_float() { Scalar::F32 } else { Scalar::I32 };
        self.emit(Inst::Load { at: Place { mem, index }, width }, Type { scalar, width })
    }

    /// Store all elements of `value` from `index` on.
    pub fn store<'k>(&'k self, mem: Mem, index: impl Operand<'k>, value: Expr<'k>) {
        let index = index.operand(self).value;
        self.push(Stmt {
            results: vec![],
            inst: Inst::Store { at: Place { mem, index }, value: value.value },
        });
    }

    pub fn at<'k>(&'k self, mem: Mem, index: impl Operand<'k>) -> Place {
        Place { mem, index: index.operand(self).value }
    }

    // ---- values ----

    pub fn task(&self) -> Expr<'_> {
        self.emit(Inst::Task, Type::I32)
    }

    pub fn lane(&self) -> Expr<'_> {
        self.emit(Inst::Lane, Type::I32)
    }

    /// Number of the lane's subgroup in the group.
    pub fn subgroup(&self) -> Expr<'_> {
        self.emit(Inst::Subgroup, Type::I32)
    }

    /// Scalars as one value; one of them is itself.
    pub fn vector<'k>(&'k self, elements: &[Expr<'k>]) -> Expr<'k> {
        if let &[one] = elements {
            return one;
        }
        assert!(matches!(elements.len(), 2 | 4 | 8 | 16), "1, 2, 4, 8 or 16 elements");
        let ty = elements[0].ty();
        assert!(ty.width == 1 && elements.iter().all(|e| e.ty() == ty), "scalars of one type");
        let ty = Type { width: elements.len() as u8, ..ty };
        self.emit(Inst::Vector(values(elements)), ty)
    }

    pub fn f(&self, v: f32) -> Expr<'_> {
        self.literal(Literal::F32(v))
    }

    pub fn i(&self, v: i32) -> Expr<'_> {
        self.literal(Literal::I32(v))
    }

    /// A size or an offset that is known.
    pub fn n(&self, v: usize) -> Expr<'_> {
        self.i(i32::try_from(v).expect("sizes fit in i32"))
    }

    pub fn bool(&self, v: bool) -> Expr<'_> {
        self.literal(Literal::Bool(v))
    }

    /// `a * b + c`, fused where the target's multiply-adds are.
    pub fn mul_add<'k>(
        &'k self,
        a: impl Operand<'k>,
        b: impl Operand<'k>,
        c: impl Operand<'k>,
    ) -> Expr<'k> {
        let (a, b, c) = (a.operand(self), b.operand(self), c.operand(self));
        if !self.machine.fma {
            return a * b + c;
        }
        let ty = [a, b, c].map(Expr::ty).into_iter().max_by_key(|t| t.width).expect("three");
        let [a, b, c] = [a, b, c].map(|e| e.widened(ty.width));
        assert_eq!(ty.scalar, Scalar::F32, "mul_add is of f32");
        self.emit(Inst::Fma(a.value, b.value, c.value), ty)
    }

    pub fn barrier(&self) {
        self.push(Stmt { results: vec![], inst: Inst::Barrier });
    }

    /// `v` folded over each aligned cluster of `size` lanes; see [`Inst::Cluster`].
    pub fn cluster<'k>(&'k self, op: ReduceOp, v: Expr<'k>, size: u32) -> Expr<'k> {
        let lanes = self.machine.lanes;
        assert!(size.is_power_of_two() && lanes.is_multiple_of(size), "{size} of {lanes} lanes");
        if size == 1 {
            return v;
        }
        self.emit(Inst::Cluster { op, value: v.value, size }, v.ty())
    }

    /// `v` folded over all lanes of the group, whose number is a power of two.
    pub fn group<'k>(&'k self, op: ReduceOp, v: Expr<'k>) -> Expr<'k> {
        self.cluster(op, v, self.machine.lanes)
    }

    /// Inclusive sum over the lanes up to this one; see [`Inst::GroupScan`].
    pub fn group_scan<'k>(&'k self, v: Expr<'k>) -> Expr<'k> {
        self.emit(Inst::GroupScan(v.value), v.ty())
    }

    // ---- control ----

    /// `for i in (start..end).step_by(step)`.
    pub fn range<'k>(
        &'k self,
        start: impl Operand<'k>,
        end: impl Operand<'k>,
        step: u32,
        body: impl FnOnce(Expr<'k>),
    ) {
        self.fold(start, end, step, [], |i, []| {
            body(i);
            []
        });
    }

    /// A loop that carries values: what `body` returns is what it gets the next time.
    pub fn fold<'k, const N: usize>(
        &'k self,
        start: impl Operand<'k>,
        end: impl Operand<'k>,
        step: u32,
        init: [Expr<'k>; N],
        body: impl FnOnce(Expr<'k>, [Expr<'k>; N]) -> [Expr<'k>; N],
    ) -> [Expr<'k>; N] {
        let out = self.fold_vec(start, end, step, init.to_vec(), |i, c| {
            body(i, c.try_into().unwrap_or_else(|_| unreachable!("as many as carried"))).to_vec()
        });
        out.try_into().unwrap_or_else(|_| unreachable!("as many as carried"))
    }

    /// [`fold`](Self::fold) over a number of values that the template computes.
    pub fn fold_vec<'k>(
        &'k self,
        start: impl Operand<'k>,
        end: impl Operand<'k>,
        step: u32,
        init: Vec<Expr<'k>>,
        body: impl FnOnce(Expr<'k>, Vec<Expr<'k>>) -> Vec<Expr<'k>>,
    ) -> Vec<Expr<'k>> {
        let (start, end) = (start.operand(self), end.operand(self));
        assert!(step > 0, "a loop moves on");
        let var = self.fresh(Type::I32);
        let types: Vec<Type> = init.iter().map(|e| e.ty()).collect();
        let carried: Vec<Expr> = types.iter().map(|&t| self.fresh(t)).collect();
        self.state.borrow_mut().open.push(Block::default());
        let next = body(var, carried.clone());
        let found: Vec<Type> = next.iter().map(|e| e.ty()).collect();
        assert_eq!(found, types, "a loop carries what it began with");
        let body = self.close(&next);
        let results: Vec<Expr> = types.iter().map(|&t| self.fresh(t)).collect();
        self.push(Stmt {
            results: values(&results),
            inst: Inst::For {
                start: start.value,
                end: end.value,
                step,
                var: var.value,
                init: values(&init),
                carried: values(&carried),
                body,
            },
        });
        results
    }

    pub fn when<'k>(&'k self, cond: Expr<'k>, then: impl FnOnce()) {
        self.choose(
            cond,
            || {
                then();
                []
            },
            || [],
        );
    }

    pub fn when_else<'k>(&'k self, cond: Expr<'k>, then: impl FnOnce(), otherwise: impl FnOnce()) {
        self.choose(
            cond,
            || {
                then();
                []
            },
            || {
                otherwise();
                []
            },
        );
    }

    /// The values of one branch or the other. Only the branch taken runs.
    pub fn choose<'k, const N: usize>(
        &'k self,
        cond: Expr<'k>,
        then: impl FnOnce() -> [Expr<'k>; N],
        otherwise: impl FnOnce() -> [Expr<'k>; N],
    ) -> [Expr<'k>; N] {
        assert_eq!(cond.ty(), Type::BOOL, "a branch is on one bool");
        match self.literal_of(cond.value) {
            Some(Literal::Bool(true)) => return then(),
            Some(Literal::Bool(false)) => return otherwise(),
            _ => {}
        }
        self.state.borrow_mut().open.push(Block::default());
        let a = then();
        let then = self.close(&a);
        self.state.borrow_mut().open.push(Block::default());
        let b = otherwise();
        let otherwise = self.close(&b);
        let results = a.map(|e| self.fresh(e.ty()));
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a.ty(), b.ty(), "both branches yield the same types");
        }
        self.push(Stmt {
            results: values(&results),
            inst: Inst::If { cond: cond.value, then, otherwise },
        });
        results
    }

    // ---- beneath ----

    pub(crate) fn literal(&self, literal: Literal) -> Expr<'_> {
        let (key, ty) = match literal {
            Literal::F32(v) => ((Scalar::F32, v.to_bits()), Type::F32),
            Literal::I32(v) => ((Scalar::I32, v as u32), Type::I32),
            Literal::Bool(v) => ((Scalar::Bool, v as u32), Type::BOOL),
        };
        if let Some(&value) = self.state.borrow().known.get(&key) {
            return Expr { k: self, value };
        }
        let e = self.fresh(ty);
        let mut state = self.state.borrow_mut();
        state.constants.push(Stmt { results: vec![e.value], inst: Inst::Const(literal) });
        state.known.insert(key, e.value);
        state.literals.insert(e.value, literal);
        e
    }

    pub(crate) fn literal_of(&self, v: Value) -> Option<Literal> {
        self.state.borrow().literals.get(&v).copied()
    }

    pub(crate) fn type_of(&self, v: Value) -> Type {
        self.state.borrow().kernel.type_of(v)
    }

    pub(crate) fn emit(&self, inst: Inst, ty: Type) -> Expr<'_> {
        let e = self.fresh(ty);
        self.push(Stmt { results: vec![e.value], inst });
        e
    }

    pub(crate) fn push(&self, stmt: Stmt) {
        self.state.borrow_mut().open.last_mut().expect("a block is open").stmts.push(stmt);
    }

    fn fresh(&self, ty: Type) -> Expr<'_> {
        let types = &mut self.state.borrow_mut().kernel.types;
        types.push(ty);
        Expr { k: self, value: Value(types.len() as u32 - 1) }
    }

    fn close(&self, yields: &[Expr<'_>]) -> Block {
        let mut block = self.state.borrow_mut().open.pop().expect("a block is open");
        block.yields = values(yields);
        block
    }
}

fn values(exprs: &[Expr<'_>]) -> Vec<Value> {
    exprs.iter().map(|e| e.value).collect()
}
