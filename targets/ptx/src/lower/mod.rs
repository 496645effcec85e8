//! Kernel IR to PTX: the frame, the task loop, statements.
//!
//! A value of the kernel is its elements, each a register or a constant. What a loop carries is in
//! registers that are set again.
//!
//! ```text
//! addresses of the parameters, n = each · times, lane
//! for task = block; task < n; task += blocks { body; barrier if there is shared memory }
//! ```

mod arith;
mod control;
mod group;
mod matrix;
mod memory;
mod narrow;
mod uses;

use crate::function::{Arg, Class, Function};
use q35_kernel::{Block, Divisors, Inst, Kernel, Literal, Stmt, Value};
use std::collections::HashMap;
use std::fmt::Write as _;
use uses::Uses;

/// The elements of a value.
pub type Elements = Vec<Arg>;

/// `kernel` as a module of the calling convention that the crate states, for a version of PTX and an
/// architecture.
pub fn module(kernel: &Kernel, (version, arch): (&str, &str)) -> Result<String, String> {
    let mut f = Function::default();
    let lane = f.read(Class::Word, "mov.u32", "%tid.x");
    let memory = memory::Memory::new(&mut f, kernel);
    let group = group::Group::new(&mut f, kernel, lane);
    let matrices = matrix::Matrices::new(&mut f, kernel, lane)?;
    let bytes = memory.shared_bytes + group.exchange_bytes;
    if bytes > crate::SHARED_BYTES {
        let most = crate::SHARED_BYTES;
        return Err(format!("needs {bytes} bytes of shared memory, expected at most {most}"));
    }
    let declared = memory.declared() + &group.declared();
    let mut lowering = Lowering {
        kernel,
        f,
        memory,
        group,
        matrices,
        task: Arg::Int(0),
        elements: vec![vec![]; kernel.types.len()],
        packed: HashMap::new(),
        copies: HashMap::new(),
        on_the_way: false,
        divisors: Divisors::new(kernel.types.len()),
        uses: Uses::of(kernel),
    };
    lowering.tasks()?;
    let body = lowering.f.finish();
    let params = parameters(kernel);
    let Kernel { name, lanes, .. } = kernel;
    // One block is enough: asked for nothing, ptxas spills registers to make room for another.
    Ok(format!(
        ".version {version}
.target {arch}
.address_size 64
{declared}
.visible .entry {name}(
{params}
)
.reqntid {lanes}, 1, 1
.minnctapersm 1
{{
{body}}}
"
    ))
}

fn parameters(kernel: &Kernel) -> String {
    let mut text = String::new();
    for i in 0..kernel.params.len() {
        writeln!(text, "    .param .u64 .ptr .global .align 64 p{i},")
            .expect("a string takes anything");
    }
    text + "    .param .u64 times,\n    .param .u32 each"
}

/// What is known while a kernel is lowered.
struct Lowering<'a> {
    kernel: &'a Kernel,
    f: Function,
    memory: memory::Memory,
    group: group::Group,
    matrices: matrix::Matrices,
    /// Number of the task.
    task: Arg,
    /// By number of the kernel's value.
    elements: Vec<Elements>,
    /// Words of those values of `bf16` that are kept two elements a word.
    packed: HashMap<Value, Elements>,
    /// Where those begin that go to shared memory past registers, until they are stored.
    copies: HashMap<Value, memory::Address>,
    /// Whether some may not have arrived.
    on_the_way: bool,
    divisors: Divisors,
    uses: Uses,
}

impl<'a> Lowering<'a> {
    /// The body, for every `G`th task from the number of this block on.
    fn tasks(&mut self) -> Result<(), String> {
        let count = self.task_count();
        let blocks = self.f.read(Class::Word, "mov.u32", "%nctaid.x");
        let task = self.f.read(Class::Word, "mov.u32", "%ctaid.x");
        let [next, done] = [(); 2].map(|()| self.f.label());
        let none = self.f.pred("setp.ge.u32", &[task, count]);
        self.f.jump_if(none, done);
        self.f.open(next);
        self.task = task;
        self.block(&self.kernel.body)?;
        if self.memory.shared_bytes > 0 {
            // The next task writes what a slower lane may still be reading for this one.
            self.barrier();
        }
        self.f.set(task, "add.s32", &[task, blocks]);
        let more = self.f.pred("setp.lt.u32", &[task, count]);
        self.f.jump_if(more, next);
        self.f.open(done);
        self.f.line(format_args!("ret"));
        Ok(())
    }

    /// `each`, times the count at the address `times` if that is not 0.
    fn task_count(&mut self) -> Arg {
        let times = self.f.read(Class::Long, "ld.param.u64", "[times]");
        let count = self.f.read(Class::Word, "ld.param.u32", "[each]");
        let once = self.f.label();
        let absent = self.f.pred("setp.eq.s64", &[times, Arg::Int(0)]);
        self.f.jump_if(absent, once);
        let repeats = self.f.read(Class::Word, "ld.global.u32", format_args!("[{times}]"));
        let repeats = self.f.word("max.s32", &[repeats, Arg::Int(0)]);
        self.f.set(count, "mul.lo.s32", &[count, repeats]);
        self.f.open(once);
        count
    }

    fn block(&mut self, block: &'a Block) -> Result<Elements, String> {
        self.memory.enter();
        for stmt in &block.stmts {
            self.stmt(stmt)?;
        }
        self.memory.leave();
        Ok(block.yields.iter().flat_map(|v| self.of(*v).to_vec()).collect())
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Result<(), String> {
        if let [result] = stmt.results[..] {
            self.divisors.note(self.kernel, result, &stmt.inst);
            if self.uses.is_part_of_addresses(result, &stmt.inst) {
                return Ok(());
            }
        }
        let result: Elements = match &stmt.inst {
            Inst::Const(literal) => vec![self.literal(*literal)],
            Inst::Task => vec![self.task],
            Inst::Lane => vec![self.group.lane],
            Inst::Subgroup => vec![self.subgroup()],
            Inst::Unary(op, a) => self.unary(*op, *a),
            Inst::Binary(op, a, b) => self.binary(*op, *a, *b)?,
            Inst::Fma(a, b, c) => self.fma(*a, *b, *c),
            Inst::Compare(op, a, b) => self.compare(*op, *a, *b),
            Inst::Select(c, a, b) => self.select(*c, *a, *b),
            Inst::Splat(v, width) => vec![self.scalar(*v); usize::from(*width)],
            Inst::Vector(elements) => elements.iter().map(|v| self.scalar(*v)).collect(),
            Inst::Extract(v, element) => vec![self.of(*v)[usize::from(*element)]],
            Inst::Reduce(op, v) => vec![self.reduce(*op, *v)],
            Inst::Load { at, width } => self.load(*at, *width, stmt.results[0]),
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
                self.mma_load(*acc, *at, *row);
                vec![]
            }
            Inst::MmaStore { acc, at, row } => {
                self.mma_store(*acc, *at, *row);
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

    fn literal(&mut self, literal: Literal) -> Arg {
        match literal {
            Literal::F32(v) => Arg::Float(v.to_bits()),
            Literal::I32(v) => Arg::Int(v),
            Literal::Bool(v) => self.f.pred("mov.pred", &[Arg::Int(i32::from(v))]),
        }
    }

    fn of(&self, v: Value) -> &[Arg] {
        &self.elements[v.0 as usize]
    }

    fn scalar(&self, v: Value) -> Arg {
        self.elements[v.0 as usize][0]
    }

    /// Hand `elements`, all one after another, to the values they make up.
    fn distribute(&mut self, values: &[Value], elements: &[Arg]) {
        let mut rest = elements;
        for v in values {
            let (own, others) = rest.split_at(self.width(*v).min(rest.len()));
            self.elements[v.0 as usize] = own.to_vec();
            rest = others;
        }
        assert!(rest.is_empty(), "as many elements as the values have");
    }

    fn width(&self, v: Value) -> usize {
        usize::from(self.kernel.type_of(v).width)
    }
}
