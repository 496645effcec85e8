//! What is wanted of each value, known before anything is written.
//!
//! An index is often another one plus a constant, which goes into the address of the access and needs no
//! instruction. And what is loaded as `bf16` is often only stored as `bf16`: then it stays as it lies, two elements a
//! word; or, if it goes to shared memory, it is copied there and no register ever holds it.

use q35_kernel::{BinaryOp, Block, Inst, Kernel, Literal, Mem, Place, Stmt, Type, Value};
use q35_types::DType;

/// An index as `root + plus`, or `plus` alone.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    pub root: Option<Value>,
    pub plus: u32,
}

/// The largest constant, such that bytes are well within an `i32`.
///
/// None is negative: then `root` of an index within a buffer is a number that did not wrap, and the sum is the same
/// in 64 bits.
const MOST: u32 = 1 << 26;

pub struct Uses {
    sums: Vec<Sum>,
    /// Values whose elements are wanted in registers.
    wanted: Vec<bool>,
    /// How often values are stored as `bf16`: to shared memory, and elsewhere.
    stores: Vec<[u32; 2]>,
    /// Whether something may be copied to shared memory on its way past registers.
    pub copies: bool,
}

impl Uses {
    pub fn of(kernel: &Kernel) -> Uses {
        let values = (0..kernel.types.len() as u32).map(|v| Sum { root: Some(Value(v)), plus: 0 });
        let mut uses = Uses {
            sums: values.collect(),
            wanted: vec![false; kernel.types.len()],
            stores: vec![[0; 2]; kernel.types.len()],
            copies: false,
        };
        uses.add_up(kernel, &kernel.body);
        uses.mark_block(kernel, &kernel.body);
        // What an addend of a wanted sum is made of comes before it.
        let mut stmts = vec![];
        flatten(&kernel.body, &mut stmts);
        uses.copies = stmts.iter().any(|stmt| match stmt.inst {
            Inst::Load { .. } => uses.is_copied(stmt.results[0]),
            _ => false,
        });
        for stmt in stmts.into_iter().rev() {
            if let [result] = stmt.results[..]
                && uses.is_sum(result)
                && uses.wanted[result.0 as usize]
                && let Inst::Binary(_, a, b) = stmt.inst
            {
                uses.mark([a, b]);
            }
        }
        uses
    }

    /// The index as what an address is made of.
    pub fn sum(&self, index: Value) -> Sum {
        self.sums[index.0 as usize]
    }

    /// Whether the result of `inst` is never in a register, as it is only part of addresses.
    pub fn is_part_of_addresses(&self, result: Value, inst: &Inst) -> bool {
        matches!(inst, Inst::Binary(..)) && self.is_sum(result) && !self.is_wanted(result)
    }

    /// Whether the elements of `v` are wanted one by one.
    pub fn is_wanted(&self, v: Value) -> bool {
        self.wanted[v.0 as usize]
    }

    /// Whether all that becomes of `v` is one store as `bf16` in shared memory.
    pub fn is_copied(&self, v: Value) -> bool {
        !self.is_wanted(v) && self.stores[v.0 as usize] == [1, 0]
    }

    fn is_sum(&self, v: Value) -> bool {
        self.sum(v).root != Some(v)
    }

    fn add_up(&mut self, kernel: &Kernel, block: &Block) {
        for stmt in &block.stmts {
            match &stmt.inst {
                Inst::Const(Literal::I32(c)) if (0..=MOST as i32).contains(c) => {
                    self.sums[stmt.results[0].0 as usize] = Sum { root: None, plus: *c as u32 };
                }
                Inst::Binary(BinaryOp::Add, a, b) if kernel.type_of(*a) == Type::I32 => {
                    let (x, y) = (self.sum(*a), self.sum(*b));
                    let root = match (x.root, y.root) {
                        (root, None) | (None, root) => root,
                        (Some(_), Some(_)) => continue,
                    };
                    if x.plus + y.plus <= MOST {
                        self.sums[stmt.results[0].0 as usize] = Sum { root, plus: x.plus + y.plus };
                    }
                }
                inst => inst.blocks().for_each(|block| self.add_up(kernel, block)),
            }
        }
    }

    fn mark(&mut self, values: impl IntoIterator<Item = Value>) {
        for v in values {
            self.wanted[v.0 as usize] = true;
        }
    }

    fn mark_block(&mut self, kernel: &Kernel, block: &Block) {
        for stmt in &block.stmts {
            self.mark_stmt(kernel, stmt);
        }
        self.mark(block.yields.iter().copied());
    }

    fn mark_place(&mut self, place: Place) {
        self.mark(self.sum(place.index).root);
        if let Mem::Entry(_, number) = place.mem {
            self.mark([number]);
        }
    }

    fn mark_stmt(&mut self, kernel: &Kernel, stmt: &Stmt) {
        match &stmt.inst {
            Inst::Const(_) | Inst::Task | Inst::Lane | Inst::Subgroup => {}
            Inst::Binary(_, a, b) => {
                if stmt.results.iter().all(|v| !self.is_sum(*v)) {
                    self.mark([*a, *b]);
                }
            }
            Inst::Unary(_, a)
            | Inst::Splat(a, _)
            | Inst::Extract(a, _)
            | Inst::Reduce(_, a)
            | Inst::Cluster { value: a, .. }
            | Inst::GroupScan(a) => self.mark([*a]),
            Inst::Compare(_, a, b) => self.mark([*a, *b]),
            Inst::Fma(a, b, c) | Inst::Select(a, b, c) => self.mark([*a, *b, *c]),
            Inst::Vector(elements) => self.mark(elements.iter().copied()),
            Inst::Load { at, .. } => self.mark_place(*at),
            Inst::Store { at, value } => {
                self.mark_place(*at);
                if kernel.dtype_of(at.mem) == DType::Bf16 {
                    let elsewhere = !matches!(at.mem, Mem::Shared(_));
                    self.stores[value.0 as usize][usize::from(elsewhere)] += 1;
                } else {
                    self.mark([*value]);
                }
            }
            // Refused before anything is read.
            Inst::PanelDot(_) => {}
            Inst::MmaZero(_) | Inst::Barrier => {}
            Inst::Mma(mma) => {
                self.mark_place(mma.a);
                self.mark_place(mma.b);
                self.mark([mma.a_row, mma.b_row]);
            }
            Inst::MmaLoad { at, row, .. } | Inst::MmaStore { at, row, .. } => {
                self.mark_place(*at);
                self.mark([*row]);
            }
            Inst::For { start, end, init, body, .. } => {
                self.mark([*start, *end]);
                self.mark(init.iter().copied());
                self.mark_block(kernel, body);
            }
            Inst::If { cond, then, otherwise } => {
                self.mark([*cond]);
                self.mark_block(kernel, then);
                self.mark_block(kernel, otherwise);
            }
        }
    }
}

fn flatten<'a>(block: &'a Block, to: &mut Vec<&'a Stmt>) {
    for stmt in &block.stmts {
        to.push(stmt);
        stmt.inst.blocks().for_each(|block| flatten(block, to));
    }
}
