//! Kernel IR to SPIR-V: the frame, the task loop, statements.
//!
//! A value of the kernel is a list of SPIR-V values, its *parts*: vectors of four elements where it
//! has more than four, one vector or scalar otherwise. Loops carry their values in phis.
//!
//! ```text
//! entry:  addresses of the arguments, n = each · times, lane
//!   for task = workgroup; task < n; task += workgroups { body; barrier if there is shared memory }
//! ```

mod arith;
mod control;
mod group;
mod matrix;
mod memory;
mod narrow;

use crate::Profile;
use crate::module::{Kind, Module, Shape};
use q35_kernel::{Block, Divisors, Inst, Kernel, Literal, Scalar, Stmt, Type, Value};
use rspirv::spirv::{BuiltIn, Op, Word};

pub type Parts = Vec<Word>;

/// `kernel` as a module of the calling convention that the crate states.
pub fn module(kernel: &Kernel, profile: &Profile) -> Result<Vec<u8>, String> {
    let mut m = Module::new();
    let main = m.begin(&kernel.name);
    let matrices = matrix::Matrices::new(&mut m, kernel, profile.caps.mma)?;
    let memory = memory::Memory::new(&mut m, kernel);
    let group = group::Group::new(&mut m, kernel);
    let bytes = 4 * (memory.shared_words + group.scratch_words);
    if bytes > profile.shared_bytes {
        return Err(format!(
            "needs {bytes} bytes of shared memory, expected at most {}",
            profile.shared_bytes
        ));
    }
    let arguments = memory.arguments(&mut m, kernel);
    let mut lowering = Lowering {
        kernel,
        profile,
        m,
        memory,
        group,
        matrices,
        params: arguments.params,
        task: 0,
        parts: vec![vec![]; kernel.types.len()],
        divisors: Divisors::new(kernel.types.len()),
    };
    lowering.tasks(arguments.tasks)?;
    Ok(lowering.m.finish(main, kernel.lanes))
}

/// What is known while a kernel is lowered.
struct Lowering<'a> {
    kernel: &'a Kernel,
    profile: &'a Profile,
    m: Module,
    memory: memory::Memory,
    group: group::Group,
    matrices: matrix::Matrices,
    /// Addresses of the parameters.
    params: Vec<Word>,
    /// Number of the task.
    task: Word,
    /// By number of the kernel's value.
    parts: Vec<Parts>,
    divisors: Divisors,
}

impl<'a> Lowering<'a> {
    /// The body, for every `G`th task of `count` from the number of this group on.
    fn tasks(&mut self, count: Word) -> Result<(), String> {
        let first = self.m.builtin(BuiltIn::WorkgroupId, 3);
        let groups = self.m.builtin(BuiltIn::NumWorkgroups, 3);
        let [body, next, done] = [(); 3].map(|()| self.m.label());
        let head = self.loop_head();
        let task = self.m.label();
        let more = self.m.op(Op::ULessThan, (Kind::Bool, 1), &[task, count]);
        self.m.repeat(more, body, next, done);
        self.m.open(body);
        self.task = task;
        self.block(&self.kernel.body)?;
        if self.memory.shared_words > 0 {
            // The next task writes what a slower lane may still be reading for this one.
            self.barrier();
        }
        self.m.branch(next);
        self.m.open(next);
        let following = self.m.op(Op::IAdd, (Kind::U32, 1), &[task, groups]);
        self.m.branch(head.label);
        let ty = self.m.ty((Kind::U32, 1));
        let from = [(first, head.before), (following, next)];
        self.m.later_phi(head.place, 0, (task, ty), from);
        self.m.open(done);
        Ok(())
    }

    fn block(&mut self, block: &'a Block) -> Result<Parts, String> {
        for stmt in &block.stmts {
            self.stmt(stmt)?;
        }
        Ok(block.yields.iter().flat_map(|v| self.parts_of(*v).to_vec()).collect())
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Result<(), String> {
        if let [result] = stmt.results[..] {
            self.divisors.note(self.kernel, result, &stmt.inst);
        }
        let result: Parts = match &stmt.inst {
            Inst::Const(literal) => vec![self.literal(*literal)],
            Inst::Task => vec![self.task],
            Inst::Lane => vec![self.group.lane],
            Inst::Subgroup => vec![self.subgroup()],
            Inst::Unary(op, a) => self.unary(*op, *a),
            Inst::Binary(op, a, b) => self.binary(*op, *a, *b)?,
            Inst::Fma(a, b, c) => self.fma(*a, *b, *c)?,
            Inst::Compare(op, a, b) => self.compare(*op, *a, *b),
            Inst::Select(c, a, b) => self.select(*c, *a, *b),
            Inst::Splat(v, width) => self.splat(*v, *width),
            Inst::Vector(elements) => self.gather(elements),
            Inst::Extract(v, element) => vec![self.element(*v, *element)],
            Inst::Reduce(op, v) => vec![self.reduce(*op, *v)],
            Inst::Load { at, width } => self.load(*at, *width),
            Inst::Store { at, value } => {
                self.store(*at, *value);
                vec![]
            }
            Inst::PanelDot(_) => return Err("`panel_dot`, which is for kernels of a CPU".into()),
            Inst::Cluster { op, value, size } => self.cluster(*op, *value, *size),
            Inst::GroupScan(v) => self.scan(*v),
            Inst::MmaZero(acc) => {
                self.mma_zero(*acc);
                vec![]
            }
            Inst::Mma(mma) => {
                self.mma(mma)?;
                vec![]
            }
            Inst::MmaLoad { acc, at, row } => {
                self.mma_load(*acc, *at, *row)?;
                vec![]
            }
            Inst::MmaStore { acc, at, row } => {
                self.mma_store(*acc, *at, *row)?;
                vec![]
            }
            Inst::Barrier => {
                self.barrier();
                vec![]
            }
            Inst::For { start, end, step, var, init, carried, body } => {
                self.repeat(control::For {
                    start: *start,
                    end: *end,
                    step: *step,
                    var: *var,
                    init,
                    carried,
                    body,
                })?
            }
            Inst::If { cond, then, otherwise } => {
                self.branch(*cond, &stmt.results, then, otherwise)?
            }
        };
        self.distribute(&stmt.results, &result);
        Ok(())
    }

    fn literal(&mut self, literal: Literal) -> Word {
        match literal {
            Literal::F32(v) => self.m.f32(v),
            Literal::I32(v) => self.m.u32(v as u32),
            Literal::Bool(v) => self.m.bool(v),
        }
    }

    fn parts_of(&self, v: Value) -> &[Word] {
        &self.parts[v.0 as usize]
    }

    /// The one part of a scalar.
    fn scalar(&self, v: Value) -> Word {
        self.parts[v.0 as usize][0]
    }

    /// Hand `parts`, all one after another, to the values they make up.
    fn distribute(&mut self, values: &[Value], parts: &[Word]) {
        let mut parts = parts.iter();
        for v in values {
            let count = part_count(self.kernel.type_of(*v));
            self.parts[v.0 as usize] = parts.by_ref().take(count).copied().collect();
        }
        assert_eq!(parts.len(), 0, "as many parts as the values have");
    }

    /// Of each part of `v`.
    fn shape(&self, v: Value) -> Shape {
        part_shape(self.kernel.type_of(v))
    }
}

pub fn part_shape(ty: Type) -> Shape {
    let kind = match ty.scalar {
        Scalar::F32 => Kind::F32,
        Scalar::I32 => Kind::U32,
        Scalar::Bool => Kind::Bool,
    };
    (kind, ty.width.min(4))
}

pub fn part_count(ty: Type) -> usize {
    usize::from(ty.width.div_ceil(4))
}
