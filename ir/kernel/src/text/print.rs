//! Printing. Total on any kernel, verified or not: a number that stands for nothing prints as `?number`.

use crate::inst::*;
use std::fmt::{self, Display, Write};

impl Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {} lanes {}", self.name, self.lanes)?;
        if self.subgroup != 1 {
            write!(f, " subgroup {}", self.subgroup)?;
        }
        f.write_str("\n")?;
        for param in &self.params {
            writeln!(f, "{param}")?;
        }
        for array in &self.shared {
            writeln!(f, "{array}")?;
        }
        for accumulator in &self.accumulators {
            writeln!(f, "{accumulator}")?;
        }
        Printer { kernel: self, out: f }.block(&self.body, 1)
    }
}

impl Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "param {}: {} {}", self.name, self.dtype, self.access.name())?;
        f.write_str(if self.table { " table" } else { "" })
    }
}

impl Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared {}: {}[{}]", self.name, self.dtype, self.len)
    }
}

impl Display for Accumulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accumulator {}: f32[{}, {}]", self.name, self.m, self.n)
    }
}

/// A statement without the blocks in it, for messages.
pub(crate) fn headline(kernel: &Kernel, stmt: &Stmt) -> String {
    let mut out = String::new();
    Printer { kernel, out: &mut out }.head(stmt).expect("a string takes any text");
    out
}

struct Printer<'a, W> {
    kernel: &'a Kernel,
    out: &'a mut W,
}

impl<W: Write> Printer<'_, W> {
    fn block(&mut self, block: &Block, depth: usize) -> fmt::Result {
        for stmt in &block.stmts {
            self.indent(depth)?;
            self.head(stmt)?;
            match &stmt.inst {
                Inst::For { body, .. } => self.braces(body, depth)?,
                Inst::If { then, otherwise, .. } => {
                    self.braces(then, depth)?;
                    if *otherwise != Block::default() {
                        self.out.write_str(" else")?;
                        self.braces(otherwise, depth)?;
                    }
                }
                _ => {}
            }
            self.out.write_str("\n")?;
        }
        if !block.yields.is_empty() {
            self.indent(depth)?;
            self.out.write_str("yield ")?;
            self.list(&block.yields, |p, v| write!(p.out, "{v}"))?;
            self.out.write_str("\n")?;
        }
        Ok(())
    }

    fn braces(&mut self, block: &Block, depth: usize) -> fmt::Result {
        self.out.write_str(" {\n")?;
        self.block(block, depth + 1)?;
        self.indent(depth)?;
        self.out.write_str("}")
    }

    fn head(&mut self, stmt: &Stmt) -> fmt::Result {
        if !stmt.results.is_empty() {
            self.list(&stmt.results, |p, &v| p.definition(v))?;
            self.out.write_str(" = ")?;
        }
        match &stmt.inst {
            Inst::Const(literal) => write!(self.out, "const {literal}"),
            Inst::Task => self.out.write_str("task"),
            Inst::Lane => self.out.write_str("lane"),
            Inst::Subgroup => self.out.write_str("subgroup"),
            Inst::Unary(op, a) => write!(self.out, "{} {a}", op.name()),
            Inst::Binary(op, a, b) => write!(self.out, "{} {a}, {b}", op.name()),
            Inst::Fma(a, b, c) => write!(self.out, "fma {a}, {b}, {c}"),
            Inst::Compare(op, a, b) => write!(self.out, "{} {a}, {b}", op.name()),
            Inst::Select(cond, a, b) => write!(self.out, "select {cond}, {a}, {b}"),
            Inst::Splat(a, _) => write!(self.out, "splat {a}"),
            Inst::Vector(elements) => {
                self.out.write_str("vector ")?;
                self.list(elements, |p, v| write!(p.out, "{v}"))
            }
            Inst::Extract(a, element) => write!(self.out, "extract {a}, {element}"),
            Inst::Reduce(op, a) => write!(self.out, "reduce {} {a}", op.name()),
            Inst::Load { at, .. } => {
                self.out.write_str("load ")?;
                self.place(at)
            }
            Inst::Store { at, value } => {
                self.out.write_str("store ")?;
                self.place(at)?;
                write!(self.out, ", {value}")
            }
            Inst::PanelDot(dot) => self.panel_dot(dot),
            Inst::Cluster { op, value, size } => {
                write!(self.out, "cluster {} {value}, {size}", op.name())
            }
            Inst::GroupScan(a) => write!(self.out, "group_scan {a}"),
            Inst::MmaZero(acc) => {
                self.out.write_str("mma_zero ")?;
                self.accumulator(*acc)
            }
            Inst::Mma(mma) => self.mma(mma),
            Inst::MmaLoad { acc, at, row } => self.matrix("mma_load", *acc, at, *row),
            Inst::MmaStore { acc, at, row } => self.matrix("mma_store", *acc, at, *row),
            Inst::Barrier => self.out.write_str("barrier"),
            Inst::For { start, end, step, var, init, carried, body: _ } => {
                self.out.write_str("for ")?;
                self.definition(*var)?;
                write!(self.out, " in {start}..{end} step {step}")?;
                if carried.is_empty() {
                    return Ok(());
                }
                self.out.write_str(" carry ")?;
                let pairs: Vec<_> = carried.iter().zip(init).collect();
                self.list(&pairs, |p, &(&carried, init)| {
                    p.definition(carried)?;
                    write!(p.out, " = {init}")
                })
            }
            Inst::If { cond, .. } => write!(self.out, "if {cond}"),
        }
    }

    fn panel_dot(&mut self, dot: &PanelDot) -> fmt::Result {
        self.out.write_str("panel_dot x = ")?;
        self.place(&dot.x)?;
        write!(self.out, " row {} k {}, w = ", dot.x_row, dot.x_k)?;
        self.place(&dot.w)?;
        write!(self.out, " panel {}, out = ", dot.w_panel)?;
        self.place(&dot.out)?;
        write!(self.out, " row {}", dot.out_row)?;
        write!(self.out, ", rows = {}, panels = {}, k = {}", dot.rows, dot.panels, dot.k)?;
        self.out.write_str(if dot.accumulate { ", accumulate" } else { "" })
    }

    fn mma(&mut self, mma: &Mma) -> fmt::Result {
        self.out.write_str("mma ")?;
        self.accumulator(mma.acc)?;
        self.out.write_str(", a = ")?;
        self.place(&mma.a)?;
        write!(self.out, " row {}, b = ", mma.a_row)?;
        self.place(&mma.b)?;
        let row = if mma.b_columns { "column" } else { "row" };
        write!(self.out, " {row} {}, k = {}", mma.b_row, mma.k)
    }

    fn matrix(&mut self, word: &str, acc: Acc, at: &Place, row: Value) -> fmt::Result {
        write!(self.out, "{word} ")?;
        self.accumulator(acc)?;
        self.out.write_str(", ")?;
        self.place(at)?;
        write!(self.out, " row {row}")
    }

    fn accumulator(&mut self, acc: Acc) -> fmt::Result {
        let found = self.kernel.accumulators.get(acc.0 as usize);
        self.named(found.map(|a| &*a.name), acc.0)
    }

    fn place(&mut self, place: &Place) -> fmt::Result {
        let (kernel, at) = (self.kernel, place.index);
        let param = |p: u32| kernel.params.get(p as usize).map(|param| &*param.name);
        match place.mem {
            Mem::Param(p) => self.named(param(p), p)?,
            Mem::Entry(p, entry) => {
                self.named(param(p), p)?;
                write!(self.out, "[{entry}]")?;
            }
            Mem::Shared(a) => self.named(kernel.shared.get(a as usize).map(|a| &*a.name), a)?,
        }
        write!(self.out, "[{at}]")
    }

    fn named(&mut self, name: Option<&str>, number: u32) -> fmt::Result {
        match name {
            Some(name) => self.out.write_str(name),
            None => write!(self.out, "?{number}"),
        }
    }

    fn definition(&mut self, v: Value) -> fmt::Result {
        match self.kernel.types.get(v.0 as usize) {
            Some(ty) => write!(self.out, "{v}: {ty}"),
            None => write!(self.out, "{v}: ?"),
        }
    }

    fn list<T>(
        &mut self,
        items: &[T],
        mut print: impl FnMut(&mut Self, &T) -> fmt::Result,
    ) -> fmt::Result {
        for (i, item) in items.iter().enumerate() {
            self.out.write_str(if i > 0 { ", " } else { "" })?;
            print(self, item)?;
        }
        Ok(())
    }

    fn indent(&mut self, depth: usize) -> fmt::Result {
        write!(self.out, "{:1$}", "", 2 * depth)
    }
}
