//! A kernel with every decision made that does not depend on data: registers have places,
//! operations know their types, constants are in.
//!
//! All lanes' elements of a value lie side by side, lane by lane, so that an operation that
//! only computes is one loop over a slice, whoever takes part: what it leaves in lanes that do not is
//! never read, because a value is visible only where its statement has run.

use super::exec::Machine;
use super::{Arg, Counters, Fault};
use q35_kernel::{
    Access, BinaryOp, Block, CompareOp, Inst, Kernel, Literal, Mem, PanelDot, ReduceOp, Scalar,
    Stmt, UnaryOp, Value, verify,
};
use q35_types::DType;
use std::ops::Range;

/// Words of registers: 256 MiB.
const MOST_WORDS: u64 = 1 << 26;

/// A kernel ready to run.
pub struct Program {
    pub(super) name: String,
    pub(super) lanes: usize,
    pub(super) params: Vec<Param>,
    pub(super) shared_words: usize,
    pub(super) shared_names: Vec<String>,
    pub(super) subgroup: usize,
    pub(super) accumulators: Vec<Accumulator>,
    /// Words of all accumulators of a subgroup.
    pub(super) accumulated: usize,
    /// Registers as they are before the first task: constants and lane numbers.
    pub(super) registers: Vec<u32>,
    pub(super) body: Code,
}

pub(super) struct Param {
    pub name: String,
    access: Access,
    table: bool,
}

pub(super) struct Accumulator {
    pub name: String,
    pub m: usize,
    pub n: usize,
    /// First word, of those of its subgroup.
    pub base: usize,
}

/// First register of a value.
pub(super) type Slot = usize;

pub(super) struct Code {
    pub ops: Vec<Op>,
    /// Of one lane that goes through once, nested blocks not counted.
    pub flops: u64,
}

/// `n` is registers, all lanes together; `w` is the width of one lane's value.
pub(super) enum Op {
    Task {
        d: Slot,
    },
    Unary {
        op: UnaryOp,
        d: Slot,
        a: Slot,
        n: usize,
    },
    Float {
        op: BinaryOp,
        d: Slot,
        a: Slot,
        b: Slot,
        n: usize,
    },
    Int {
        op: BinaryOp,
        d: Slot,
        a: Slot,
        b: Slot,
        n: usize,
    },
    /// `op` is `Div` or `Rem`.
    Divide {
        op: BinaryOp,
        d: Slot,
        a: Slot,
        by: i32,
        n: usize,
    },
    /// Stands before a shift by what is not known.
    CheckShift {
        by: Slot,
        w: usize,
    },
    Fma {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        n: usize,
    },
    CompareFloat {
        op: CompareOp,
        d: Slot,
        a: Slot,
        b: Slot,
        n: usize,
    },
    CompareInt {
        op: CompareOp,
        d: Slot,
        a: Slot,
        b: Slot,
        n: usize,
    },
    Select {
        d: Slot,
        cond: Slot,
        a: Slot,
        b: Slot,
        n: usize,
    },
    /// On one condition a lane.
    SelectWhole {
        d: Slot,
        cond: Slot,
        a: Slot,
        b: Slot,
        w: usize,
    },
    Splat {
        d: Slot,
        a: Slot,
        w: usize,
    },
    Extract {
        d: Slot,
        a: Slot,
        w: usize,
        element: usize,
    },
    Reduce {
        op: ReduceOp,
        float: bool,
        d: Slot,
        a: Slot,
        w: usize,
    },
    Load {
        d: Slot,
        at: Place,
        w: usize,
    },
    Store {
        at: Place,
        a: Slot,
        w: usize,
    },
    Panel(Box<Panel>),
    Vector {
        d: Slot,
        elements: Vec<Slot>,
    },
    Cluster {
        op: ReduceOp,
        float: bool,
        d: Slot,
        a: Slot,
        w: usize,
        size: usize,
    },
    Scan {
        float: bool,
        d: Slot,
        a: Slot,
        w: usize,
    },
    MmaZero {
        acc: usize,
    },
    Mma(Box<Mma>),
    MmaLoad {
        acc: usize,
        at: Place,
        row: Slot,
    },
    MmaStore {
        acc: usize,
        at: Place,
        row: Slot,
    },
    Barrier,
    For(Box<For>),
    If(Box<If>),
}

#[derive(Clone, Copy)]
pub(super) struct Place {
    pub memory: Memory,
    pub dtype: DType,
    pub index: Slot,
}

#[derive(Clone, Copy)]
pub(super) enum Memory {
    Param(usize),
    /// Parameter, and the register that says which entry.
    Entry(usize, Slot),
    Shared {
        number: usize,
        base: usize,
        len: usize,
    },
}

pub(super) struct Panel {
    pub x: Place,
    pub x_row: Slot,
    pub x_k: Slot,
    pub w: Place,
    pub w_panel: Slot,
    pub out: Place,
    pub out_row: Slot,
    pub rows: Slot,
    pub panels: Slot,
    pub k: Slot,
    pub accumulate: bool,
}

pub(super) struct Mma {
    pub acc: usize,
    pub a: Place,
    pub a_row: Slot,
    pub b: Place,
    /// From one row of `b` to the next, and from one column; none is 1.
    pub b_row: Option<Slot>,
    pub b_column: Option<Slot>,
    pub k: usize,
}

/// The results lie where the carried values do: they are what was carried last.
pub(super) struct For {
    pub start: Slot,
    pub end: Slot,
    pub step: u32,
    pub var: Slot,
    pub enter: Moves,
    pub next: Moves,
    pub body: Code,
}

pub(super) struct If {
    pub cond: Slot,
    pub then: Code,
    pub then_results: Moves,
    pub otherwise: Code,
    pub otherwise_results: Moves,
}

/// Copies of whole values, as if all at once.
pub(super) struct Moves {
    pub list: Vec<Move>,
    /// Whether a source is also a target, so that they really must be at once.
    pub tangled: bool,
}

pub(super) struct Move {
    pub from: Slot,
    pub to: Slot,
    pub w: usize,
}

impl Program {
    pub fn new(kernel: &Kernel) -> Result<Program, Fault> {
        verify(kernel)
            .map_err(|findings| Fault::Invalid { kernel: kernel.name.clone(), findings })?;
        let lanes = kernel.lanes as usize;
        let mut accumulated = 0;
        let mut accumulators = vec![];
        for a in &kernel.accumulators {
            let (name, m, n) = (a.name.clone(), a.m as usize, a.n as usize);
            accumulators.push(Accumulator { name, m, n, base: accumulated });
            accumulated += m * n;
        }
        let values: u64 = kernel.types.iter().map(|t| u64::from(t.width) * lanes as u64).sum();
        let words = values + u64::from(kernel.subgroups()) * accumulated as u64;
        if words > MOST_WORDS {
            let kernel = kernel.name.clone();
            return Err(Fault::TooLarge { kernel, words, most: MOST_WORDS });
        }
        let mut slots = Vec::with_capacity(kernel.types.len());
        let mut next = 0;
        for ty in &kernel.types {
            slots.push(next);
            next += usize::from(ty.width) * lanes;
        }
        let mut bases = vec![];
        let mut shared_words = 0;
        for array in &kernel.shared {
            bases.push(shared_words);
            shared_words += array.len as usize;
        }
        let mut compiler = Compiler {
            kernel,
            lanes,
            slots,
            bases,
            registers: vec![0; next],
            ints: vec![None; kernel.types.len()],
        };
        let body = compiler.block(&kernel.body);
        let params = kernel.params.iter().map(|p| Param {
            name: p.name.clone(),
            access: p.access,
            table: p.table,
        });
        Ok(Program {
            name: kernel.name.clone(),
            lanes,
            params: params.collect(),
            shared_words,
            shared_names: kernel.shared.iter().map(|a| a.name.clone()).collect(),
            subgroup: kernel.subgroup as usize,
            accumulators,
            accumulated,
            registers: compiler.registers,
            body,
        })
    }

    /// Run it for each task of `tasks`, in order.
    pub fn run(&self, args: &mut [Arg<'_>], tasks: Range<u32>) -> Result<Counters, Fault> {
        self.run_within(args, tasks, u64::MAX)
    }

    /// [`run`](Self::run), but stop with a fault when about `budget` operations are done: for kernels
    /// nobody vouches for.
    pub fn run_within(
        &self,
        args: &mut [Arg<'_>],
        tasks: Range<u32>,
        budget: u64,
    ) -> Result<Counters, Fault> {
        self.check(args)?;
        Machine::new(self, args, budget).run(tasks)
    }

    fn check(&self, args: &[Arg<'_>]) -> Result<(), Fault> {
        if args.len() != self.params.len() {
            let (found, expected) = (args.len(), self.params.len());
            return Err(Fault::ArgumentCount { kernel: self.name.clone(), found, expected });
        }
        for (param, arg) in self.params.iter().zip(args) {
            let expected = match (param.table, param.access, arg) {
                (true, _, Arg::Table(_)) => continue,
                (false, _, Arg::Write(_)) | (false, Access::Read, Arg::Read(_)) => continue,
                (true, _, _) => "a table",
                (false, Access::Read, _) => "a buffer",
                (false, _, _) => "a buffer that can be written",
            };
            let (kernel, param) = (self.name.clone(), param.name.clone());
            return Err(Fault::Argument { kernel, param, found: arg.describe(), expected });
        }
        Ok(())
    }
}

struct Compiler<'k> {
    kernel: &'k Kernel,
    lanes: usize,
    slots: Vec<Slot>,
    /// First word of each shared array.
    bases: Vec<usize>,
    registers: Vec<u32>,
    /// Integer constants, and vectors of one.
    ints: Vec<Option<i32>>,
}

impl Compiler<'_> {
    fn block(&mut self, block: &Block) -> Code {
        let mut code = Code { ops: vec![], flops: 0 };
        for stmt in &block.stmts {
            self.stmt(stmt, &mut code);
        }
        code
    }

    fn stmt(&mut self, stmt: &Stmt, code: &mut Code) {
        // Of statements with exactly one result.
        let result = stmt.results.first().copied();
        let d = result.map_or(0, |r| self.slot(r));
        let w = result.map_or(1, |r| self.width(r));
        let n = w * self.lanes;
        let op = match &stmt.inst {
            Inst::Const(literal) => {
                let bits = match *literal {
                    Literal::F32(v) => v.to_bits(),
                    Literal::I32(v) => v as u32,
                    Literal::Bool(v) => u32::from(v),
                };
                self.registers[d..d + n].fill(bits);
                if let (Literal::I32(v), Some(r)) = (literal, result) {
                    self.ints[r.0 as usize] = Some(*v);
                }
                return;
            }
            Inst::Lane => {
                (0..self.lanes).for_each(|lane| self.registers[d + lane] = lane as u32);
                return;
            }
            Inst::Subgroup => {
                let subgroup = self.kernel.subgroup;
                (0..self.lanes).for_each(|lane| self.registers[d + lane] = lane as u32 / subgroup);
                return;
            }
            Inst::Task => Op::Task { d },
            Inst::Unary(op, a) => {
                code.flops += match op {
                    UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sqrt => w as u64,
                    UnaryOp::Not
                    | UnaryOp::IntToFloat
                    | UnaryOp::FloatToInt
                    | UnaryOp::BitsToFloat
                    | UnaryOp::FloatToBits => 0,
                };
                Op::Unary { op: *op, d, a: self.slot(*a), n }
            }
            Inst::Binary(op, a, b) => self.binary(*op, *a, *b, d, code),
            Inst::Fma(a, b, c) => {
                code.flops += 2 * w as u64;
                Op::Fma { d, a: self.slot(*a), b: self.slot(*b), c: self.slot(*c), n }
            }
            Inst::Compare(op, a, b) => {
                let (op, float) = (*op, self.is_float(*a));
                let (a, b) = (self.slot(*a), self.slot(*b));
                match float {
                    true => Op::CompareFloat { op, d, a, b, n },
                    false => Op::CompareInt { op, d, a, b, n },
                }
            }
            Inst::Select(cond, a, b) => {
                let whole = self.width(*cond) != w;
                let (cond, a, b) = (self.slot(*cond), self.slot(*a), self.slot(*b));
                match whole {
                    true => Op::SelectWhole { d, cond, a, b, w },
                    false => Op::Select { d, cond, a, b, n },
                }
            }
            Inst::Splat(a, _) => {
                if let Some(r) = result {
                    self.ints[r.0 as usize] = self.ints[a.0 as usize];
                }
                Op::Splat { d, a: self.slot(*a), w }
            }
            Inst::Vector(elements) => {
                Op::Vector { d, elements: elements.iter().map(|&v| self.slot(v)).collect() }
            }
            Inst::Extract(a, element) => {
                let (w, element) = (self.width(*a), usize::from(*element));
                Op::Extract { d, a: self.slot(*a), w, element }
            }
            Inst::Reduce(op, a) => {
                let (w, float) = (self.width(*a), self.is_float(*a));
                code.flops += if float { w as u64 - 1 } else { 0 };
                Op::Reduce { op: *op, float, d, a: self.slot(*a), w }
            }
            Inst::Load { at, .. } => Op::Load { d, at: self.place(at), w },
            Inst::Store { at, value } => {
                Op::Store { at: self.place(at), a: self.slot(*value), w: self.width(*value) }
            }
            Inst::PanelDot(dot) => Op::Panel(Box::new(self.panel(dot))),
            Inst::Cluster { op, value, size } => {
                let (float, a) = (self.is_float(*value), self.slot(*value));
                Op::Cluster { op: *op, float, d, a, w, size: *size as usize }
            }
            Inst::GroupScan(a) => Op::Scan { float: self.is_float(*a), d, a: self.slot(*a), w },
            Inst::MmaZero(acc) => Op::MmaZero { acc: acc.0 as usize },
            Inst::Mma(mma) => Op::Mma(Box::new(self.mma(mma))),
            Inst::MmaLoad { acc, at, row } => {
                Op::MmaLoad { acc: acc.0 as usize, at: self.place(at), row: self.slot(*row) }
            }
            Inst::MmaStore { acc, at, row } => {
                Op::MmaStore { acc: acc.0 as usize, at: self.place(at), row: self.slot(*row) }
            }
            Inst::Barrier => Op::Barrier,
            Inst::For { start, end, step, var, init, carried, body } => {
                for (result, carried) in stmt.results.iter().zip(carried) {
                    self.slots[result.0 as usize] = self.slots[carried.0 as usize];
                }
                let code = self.block(body);
                Op::For(Box::new(For {
                    start: self.slot(*start),
                    end: self.slot(*end),
                    step: *step,
                    var: self.slot(*var),
                    enter: self.moves(init, carried),
                    next: self.moves(&body.yields, carried),
                    body: code,
                }))
            }
            Inst::If { cond, then, otherwise } => Op::If(Box::new(If {
                cond: self.slot(*cond),
                then: self.block(then),
                then_results: self.moves(&then.yields, &stmt.results),
                otherwise: self.block(otherwise),
                otherwise_results: self.moves(&otherwise.yields, &stmt.results),
            })),
        };
        code.ops.push(op);
    }

    fn binary(&self, op: BinaryOp, a: Value, b: Value, d: Slot, code: &mut Code) -> Op {
        let n = self.width(a) * self.lanes;
        let (left, right) = (self.slot(a), self.slot(b));
        if self.is_float(a) {
            code.flops += self.width(a) as u64;
            return Op::Float { op, d, a: left, b: right, n };
        }
        let known = self.ints[b.0 as usize];
        match (op, known) {
            (BinaryOp::Div | BinaryOp::Rem, known) => {
                let by = known.expect("verified: a constant divides");
                return Op::Divide { op, d, a: left, by, n };
            }
            (BinaryOp::Shl | BinaryOp::Shr, None) => {
                code.ops.push(Op::CheckShift { by: right, w: self.width(b) });
            }
            _ => {}
        }
        Op::Int { op, d, a: left, b: right, n }
    }

    fn panel(&self, dot: &PanelDot) -> Panel {
        Panel {
            x: self.place(&dot.x),
            x_row: self.slot(dot.x_row),
            x_k: self.slot(dot.x_k),
            w: self.place(&dot.w),
            w_panel: self.slot(dot.w_panel),
            out: self.place(&dot.out),
            out_row: self.slot(dot.out_row),
            rows: self.slot(dot.rows),
            panels: self.slot(dot.panels),
            k: self.slot(dot.k),
            accumulate: dot.accumulate,
        }
    }

    fn mma(&self, mma: &q35_kernel::Mma) -> Mma {
        let stride = Some(self.slot(mma.b_row));
        let (b_row, b_column) = if mma.b_columns { (None, stride) } else { (stride, None) };
        Mma {
            acc: mma.acc.0 as usize,
            a: self.place(&mma.a),
            a_row: self.slot(mma.a_row),
            b: self.place(&mma.b),
            b_row,
            b_column,
            k: mma.k as usize,
        }
    }

    fn place(&self, place: &q35_kernel::Place) -> Place {
        let memory = match place.mem {
            Mem::Param(p) => Memory::Param(p as usize),
            Mem::Entry(p, entry) => Memory::Entry(p as usize, self.slot(entry)),
            Mem::Shared(number) => {
                let number = number as usize;
                let len = self.kernel.shared[number].len as usize;
                Memory::Shared { number, base: self.bases[number], len }
            }
        };
        Place { memory, dtype: self.kernel.dtype_of(place.mem), index: self.slot(place.index) }
    }

    fn moves(&self, from: &[Value], to: &[Value]) -> Moves {
        let pairs = from.iter().zip(to).map(|(&f, &t)| Move {
            from: self.slot(f),
            to: self.slot(t),
            w: self.width(t),
        });
        let list: Vec<Move> = pairs.filter(|m| m.from != m.to).collect();
        let tangled = list.iter().any(|m| list.iter().any(|other| other.from == m.to));
        Moves { list, tangled }
    }

    fn slot(&self, v: Value) -> Slot {
        self.slots[v.0 as usize]
    }

    fn width(&self, v: Value) -> usize {
        usize::from(self.kernel.type_of(v).width)
    }

    fn is_float(&self, v: Value) -> bool {
        self.kernel.type_of(v).scalar == Scalar::F32
    }
}
