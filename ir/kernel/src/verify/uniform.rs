//! What lanes do together stands where all of them are.
//!
//! A value *differs* within a group or within a subgroup if two of its lanes may see different ones.
//! That starts at the lane's number (within a subgroup), at the number of the subgroup (within the
//! group only), at scans, and at loads from memory that this launch can write; everything
//! computed from such a value differs as far, but for what a cluster gives to all its lanes. A load from
//! memory that is only read differs as far as its index. It is decided for all values first, loops until
//! nothing changes, and errs to the safe side: what is loaded from a shared array is the same for
//! all lanes if they load the same element after a barrier, but a kernel that branches on it around a
//! barrier has to say so, with a cluster of all lanes.
//!
//! Control is uniform outside of branches and loops, and within those whose conditions and bounds are
//! uniform and which stand where control is: over the group, as barriers, clusters and scans want it, or
//! over each subgroup, as matrix instructions do. These want their operands to be the same, too.

use super::{Finding, Problem};
use crate::inst::*;
use crate::text::headline;

/// Needs a kernel whose types are right.
pub(super) fn check(kernel: &Kernel) -> Vec<Finding> {
    if kernel.lanes == 1 {
        return vec![];
    }
    let mut marker =
        Marker { kernel, values: vec![Differs::Nowhere; kernel.types.len()], changed: true };
    while std::mem::take(&mut marker.changed) {
        marker.block(&kernel.body);
    }
    let mut control = Control { kernel, values: marker.values, findings: vec![] };
    control.block(&kernel.body, Differs::Nowhere);
    control.findings
}

/// Between which lanes a value may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Differs {
    Nowhere,
    /// Between subgroups, and not within one.
    InGroup,
    /// Between any two lanes.
    InSubgroup,
}

impl Differs {
    /// Between neighbouring sets of `size` lanes, and not within one.
    fn between(size: u32, kernel: &Kernel) -> Differs {
        if size == kernel.lanes {
            Differs::Nowhere
        } else if size >= kernel.subgroup {
            Differs::InGroup
        } else {
            Differs::InSubgroup
        }
    }
}

struct Marker<'k> {
    kernel: &'k Kernel,
    values: Vec<Differs>,
    changed: bool,
}

impl Marker<'_> {
    fn block(&mut self, block: &Block) {
        for stmt in &block.stmts {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        let kernel = self.kernel;
        let lane = Differs::between(1, kernel);
        let differs = match &stmt.inst {
            Inst::Const(_) | Inst::Task => Differs::Nowhere,
            Inst::Lane | Inst::GroupScan(_) => lane,
            Inst::Subgroup => Differs::between(kernel.subgroup, kernel),
            Inst::Cluster { op: _, value, size } => {
                self.any(&[*value]).min(Differs::between(*size, kernel))
            }
            Inst::Unary(_, a) | Inst::Splat(a, _) | Inst::Extract(a, _) | Inst::Reduce(_, a) => {
                self.any(&[*a])
            }
            Inst::Vector(elements) => self.any(elements),
            Inst::Binary(_, a, b) | Inst::Compare(_, a, b) => self.any(&[*a, *b]),
            Inst::Fma(a, b, c) | Inst::Select(a, b, c) => self.any(&[*a, *b, *c]),
            Inst::Load { at, .. } => match at.mem {
                Mem::Param(p) => match kernel.params[p as usize].access {
                    Access::Read => self.any(&[at.index]),
                    Access::Write | Access::ReadWrite => lane,
                },
                Mem::Entry(_, entry) => self.any(&[entry, at.index]),
                Mem::Shared(_) => lane,
            },
            Inst::Store { .. }
            | Inst::PanelDot(_)
            | Inst::MmaZero(_)
            | Inst::Mma(_)
            | Inst::MmaLoad { .. }
            | Inst::MmaStore { .. }
            | Inst::Barrier => return,
            Inst::For { start, end, step: _, var, init, carried, body } => {
                self.mark(*var, self.any(&[*start]));
                for ((&carried, &init), &next) in carried.iter().zip(init).zip(&body.yields) {
                    self.mark(carried, self.any(&[init, next]));
                }
                self.block(body);
                // Lanes that go round a different number of times leave with different values.
                let rounds = self.any(&[*start, *end]);
                for (&result, &carried) in stmt.results.iter().zip(carried) {
                    self.mark(result, rounds.max(self.any(&[carried])));
                }
                return;
            }
            Inst::If { cond, then, otherwise } => {
                self.block(then);
                self.block(otherwise);
                let yields = then.yields.iter().zip(&otherwise.yields);
                for (&result, (&a, &b)) in stmt.results.iter().zip(yields) {
                    self.mark(result, self.any(&[*cond, a, b]));
                }
                return;
            }
        };
        stmt.results.iter().for_each(|&v| self.mark(v, differs));
    }

    fn any(&self, values: &[Value]) -> Differs {
        furthest(&self.values, values)
    }

    fn mark(&mut self, v: Value, differs: Differs) {
        let slot = &mut self.values[v.0 as usize];
        self.changed |= differs > *slot;
        *slot = differs.max(*slot);
    }
}

struct Control<'k> {
    kernel: &'k Kernel,
    values: Vec<Differs>,
    findings: Vec<Finding>,
}

impl Control<'_> {
    /// A block that lanes reach or not, which `differs` so.
    fn block(&mut self, block: &Block, differs: Differs) {
        for stmt in &block.stmts {
            match &stmt.inst {
                Inst::Cluster { .. } | Inst::GroupScan(_) | Inst::Barrier => {
                    if differs > Differs::Nowhere {
                        self.report(stmt, Problem::NotUniform);
                    }
                }
                Inst::MmaZero(_) => self.subgroup(stmt, differs, &[]),
                Inst::Mma(mma) => {
                    let operands = [
                        ("the index of `a`", mma.a.index),
                        ("the stride of `a`", mma.a_row),
                        ("the index of `b`", mma.b.index),
                        ("the stride of `b`", mma.b_row),
                    ];
                    self.subgroup(stmt, differs, &operands);
                }
                Inst::MmaLoad { acc: _, at, row } | Inst::MmaStore { acc: _, at, row } => {
                    let mut operands = vec![("the index", at.index), ("the stride", *row)];
                    if let Mem::Entry(_, entry) = at.mem {
                        operands.push(("the entry", entry));
                    }
                    self.subgroup(stmt, differs, &operands);
                }
                Inst::For { start, end, body, .. } => {
                    let differs = differs.max(furthest(&self.values, &[*start, *end]));
                    self.block(body, differs);
                }
                Inst::If { cond, then, otherwise } => {
                    let differs = differs.max(furthest(&self.values, &[*cond]));
                    self.block(then, differs);
                    self.block(otherwise, differs);
                }
                Inst::Const(_)
                | Inst::Task
                | Inst::Lane
                | Inst::Subgroup
                | Inst::Unary(..)
                | Inst::Binary(..)
                | Inst::Fma(..)
                | Inst::Compare(..)
                | Inst::Select(..)
                | Inst::Splat(..)
                | Inst::Vector(_)
                | Inst::Extract(..)
                | Inst::Reduce(..)
                | Inst::Load { .. }
                | Inst::Store { .. }
                | Inst::PanelDot(_) => {}
            }
        }
    }

    fn subgroup(&mut self, stmt: &Stmt, differs: Differs, operands: &[(&'static str, Value)]) {
        if differs > Differs::InGroup {
            self.report(stmt, Problem::SubgroupNotUniform);
        }
        for &(what, value) in operands {
            if self.values[value.0 as usize] > Differs::InGroup {
                self.report(stmt, Problem::Differs { what, value });
            }
        }
    }

    fn report(&mut self, stmt: &Stmt, problem: Problem) {
        let at = headline(self.kernel, stmt);
        self.findings.push(Finding { at, problem });
    }
}

fn furthest(differs: &[Differs], values: &[Value]) -> Differs {
    values.iter().map(|v| differs[v.0 as usize]).max().unwrap_or(Differs::Nowhere)
}
