//! Barriers and group operations stand where all lanes of a group are.
//!
//! A value is *varying* if two lanes of a group may see it differ. That starts at the lane's number,
//! at scans, and at loads from memory that this launch can write; everything computed from a
//! varying value varies, but for what a group operation gives to every lane. A load from memory that is
//! only read varies with its index. It is decided for all values first, loops until nothing changes,
//! and errs to the safe side: what is loaded from a shared array is the same for all lanes if they load the same
//! element after a barrier, but a kernel that branches on it around a barrier has to say so, with
//! `group max`.
//!
//! Control is uniform outside of branches and loops, and within those whose conditions and bounds
//! are uniform and which stand where control is.

use super::{Finding, Problem};
use crate::inst::*;
use crate::text::headline;

/// Needs a kernel whose types are right.
pub(super) fn check(kernel: &Kernel) -> Vec<Finding> {
    if kernel.lanes == 1 {
        return vec![];
    }
    let mut marker = Marker {
        kernel,
        varying: vec![false; kernel.types.len()],
        changed: true,
    };
    while std::mem::take(&mut marker.changed) {
        marker.block(&kernel.body);
    }
    let mut findings = vec![];
    control(kernel, &marker.varying, &kernel.body, true, &mut findings);
    findings
}

struct Marker<'k> {
    kernel: &'k Kernel,
    varying: Vec<bool>,
    changed: bool,
}

impl Marker<'_> {
    fn block(&mut self, block: &Block) {
        for stmt in &block.stmts {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        let varies = match &stmt.inst {
            Inst::Const(_) | Inst::Task | Inst::Group(..) => false,
            Inst::Lane | Inst::GroupScan(_) => true,
            Inst::Unary(_, a) | Inst::Splat(a, _) | Inst::Extract(a, _) | Inst::Reduce(_, a) => {
                self.any(&[*a])
            }
            Inst::Binary(_, a, b) | Inst::Compare(_, a, b) => self.any(&[*a, *b]),
            Inst::Fma(a, b, c) | Inst::Select(a, b, c) => self.any(&[*a, *b, *c]),
            Inst::Load { at, .. } => match at.mem {
                Mem::Param(p) => {
                    let access = self.kernel.params[p as usize].access;
                    access != Access::Read || self.any(&[at.index])
                }
                Mem::Entry(_, entry) => self.any(&[entry, at.index]),
                Mem::Shared(_) => true,
            },
            Inst::Store { .. } | Inst::PanelDot(_) | Inst::Barrier => return,
            Inst::For {
                start,
                end,
                step: _,
                var,
                init,
                carried,
                body,
            } => {
                self.mark(*var, self.any(&[*start]));
                for ((&carried, &init), &next) in carried.iter().zip(init).zip(&body.yields) {
                    self.mark(carried, self.any(&[init, next]));
                }
                self.block(body);
                // Lanes that go round a different number of times leave with different values.
                let rounds = self.any(&[*start, *end]);
                for (&result, &carried) in stmt.results.iter().zip(carried) {
                    self.mark(result, rounds || self.any(&[carried]));
                }
                return;
            }
            Inst::If {
                cond,
                then,
                otherwise,
            } => {
                self.block(then);
                self.block(otherwise);
                let yields = then.yields.iter().zip(&otherwise.yields);
                for (&result, (&a, &b)) in stmt.results.iter().zip(yields) {
                    self.mark(result, self.any(&[*cond, a, b]));
                }
                return;
            }
        };
        stmt.results.iter().for_each(|&v| self.mark(v, varies));
    }

    fn any(&self, values: &[Value]) -> bool {
        values.iter().any(|v| self.varying[v.0 as usize])
    }

    fn mark(&mut self, v: Value, varies: bool) {
        let slot = &mut self.varying[v.0 as usize];
        self.changed |= varies && !*slot;
        *slot |= varies;
    }
}

fn control(
    kernel: &Kernel,
    varying: &[bool],
    block: &Block,
    uniform: bool,
    findings: &mut Vec<Finding>,
) {
    let same = |v: &Value| !varying[v.0 as usize];
    for stmt in &block.stmts {
        match &stmt.inst {
            Inst::Group(..) | Inst::GroupScan(_) | Inst::Barrier if !uniform => {
                let at = headline(kernel, stmt);
                findings.push(Finding {
                    at,
                    problem: Problem::NotUniform,
                });
            }
            Inst::For {
                start, end, body, ..
            } => {
                let uniform = uniform && same(start) && same(end);
                control(kernel, varying, body, uniform, findings);
            }
            Inst::If {
                cond,
                then,
                otherwise,
            } => {
                control(kernel, varying, then, uniform && same(cond), findings);
                control(kernel, varying, otherwise, uniform && same(cond), findings);
            }
            _ => {}
        }
    }
}
