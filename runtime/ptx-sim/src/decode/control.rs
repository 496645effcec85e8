//! Branches, calls, barriers, and what has no effect on a host that runs one instruction after the other.

use super::names::{Entity, Scope};
use super::operand::operands;
use super::{Decoder, Known, Mods};
use crate::ast::{Inst, Operand, Param};
use crate::op::{Barrier, BarrierReduce, Guard, Op, ReduceKind};
use crate::types::Ty;

/// Calls within calls.
const DEEPEST: usize = 24;
/// Calls in all, each inlined: functions without code can multiply too.
const MOST_CALLS: usize = 1 << 16;

impl<'a> Decoder<'a> {
    /// Decodes what has a say in where to go on; None where the instruction is of another kind.
    pub(super) fn control(
        &mut self,
        inst: &Inst,
        mods: &mut Mods,
        guard: Option<Guard>,
    ) -> Known<Option<()>> {
        match mods.base() {
            "bra" => {
                mods.drop(&["uni"]);
                let [Operand::Name(name)] = operands(inst)? else {
                    return Err("expected a label".into());
                };
                let label = self.find_label(name)?;
                self.branch(label, guard, "bra")?;
            }
            "brx" => {
                mods.drop(&["idx", "uni"]);
                let [index, Operand::Name(table)] = operands(inst)? else {
                    return Err("expected targets".into());
                };
                let index = self.src::<u32>(index, Ty::U32)?;
                let Entity::Targets(labels) = self.lookup(table)? else {
                    return Err(format!("`{table}` are no targets"));
                };
                let at = self.code.len();
                let targets = vec![0; labels.len()].into_boxed_slice();
                self.fixups
                    .extend(labels.into_iter().enumerate().map(|(slot, label)| (at, slot, label)));
                self.push(Op::Table { index, targets }, "brx", guard)?;
            }
            "ret" => {
                mods.drop(&["uni"]);
                match self.returns.last() {
                    Some(&label) => self.branch(label, guard, "ret")?,
                    None => self.push(Op::Exit, "ret", guard)?,
                }
            }
            "exit" => self.push(Op::Exit, "exit", guard)?,
            "trap" | "brkpt" => self.push(Op::Trap, "trap", guard)?,
            "call" => {
                mods.drop(&["uni"]);
                let skip = self.label();
                if let Some(Guard { pred, negated }) = guard {
                    self.branch(skip, Some(Guard { pred, negated: !negated }), "call")?;
                }
                self.call(inst)?;
                self.labels[skip] = Some(self.here());
            }
            "bar" | "barrier" => return self.barrier(inst, mods, guard).map(Some),
            "membar" | "fence" | "nanosleep" | "griddepcontrol" | "setmaxnreg" | "prefetch"
            | "prefetchu" | "discard" | "applypriority" | "pmevent" => {
                let kind = mods.base().to_owned();
                self.push(Op::Nop, &kind, guard)?;
                return Ok(Some(()));
            }
            _ => return Ok(None),
        }
        match mods.left() {
            Some(left) => Err(format!("`.{left}` is not known in `{}`", inst.name)),
            None => Ok(Some(())),
        }
    }

    fn branch(&mut self, label: usize, guard: Option<Guard>, kind: &str) -> Known<()> {
        self.fixups.push((self.code.len(), 0, label));
        self.push(Op::Branch(0), kind, guard)
    }

    fn call(&mut self, inst: &Inst) -> Known<()> {
        let (returns, rest) = match &inst.operands[..] {
            [Operand::Group(returns), rest @ ..] => (&returns[..], rest),
            rest => (&[][..], rest),
        };
        let (name, given) = match rest {
            [Operand::Name(name)] => (name, &[][..]),
            [Operand::Name(name), Operand::Group(given)] => (name, &given[..]),
            _ => return Err("calls through a register".into()),
        };
        let function =
            self.ast.functions.iter().find(|f| !f.entry && f.name == *name && f.body.is_some());
        let Some(function) = function else {
            return Err(format!("`{name}` is not in this module, so it cannot be called"));
        };
        if self.calls.contains(name) || self.calls.len() > DEEPEST {
            return Err(format!("`{name}` calls itself"));
        }
        self.called += 1;
        if self.called > MOST_CALLS {
            return Err(format!(
                "more than {MOST_CALLS} calls, those in called functions included"
            ));
        }
        if returns.len() != function.returns.len() || given.len() != function.params.len() {
            return Err(format!(
                "`{name}` takes {} and returns {}",
                function.params.len(),
                function.returns.len()
            ));
        }
        let mut scope = Scope::function();
        let mut after = vec![];
        for (operand, param) in given.iter().zip(&function.params) {
            let entity = self.argument(operand, param)?;
            scope.bind(param.name.clone(), entity);
        }
        for (operand, param) in returns.iter().zip(&function.returns) {
            let entity = self.returned_in(operand, param, &mut after)?;
            scope.bind(param.name.clone(), entity);
        }
        let end = self.label();
        let line = self.line;
        self.scopes.push(scope);
        self.calls.push(name.clone());
        self.returns.push(end);
        self.block(function.body.as_deref().expect("chosen for its body"))?;
        self.returns.pop();
        self.calls.pop();
        self.scopes.pop();
        self.line = line;
        self.labels[end] = Some(self.here());
        after.iter().try_for_each(|inst| self.inst(inst))
    }

    /// What a parameter is in the function: the caller's own variable, or a copy of a value.
    fn argument(&mut self, operand: &Operand, param: &Param) -> Known<Entity> {
        if let Operand::Name(name) = operand
            && let Ok(entity @ Entity::LocalParam(_)) = self.lookup(name)
        {
            return Ok(entity);
        }
        let (target, entity) = match param.register {
            Some(ty) => {
                let name = self.fresh();
                let entity = Entity::Reg(self.register(ty)?);
                self.scope().bind(name.clone(), entity.clone());
                (format!("mov.{}", letters(param.bytes)?), (Operand::Name(name), entity))
            }
            None => {
                let name = self.fresh();
                let entity = Entity::LocalParam(self.local(param.bytes, param.align)?);
                self.scope().bind(name.clone(), entity.clone());
                (
                    format!("st.param.{}", letters(param.bytes)?),
                    (Operand::Address(Some(name), 0), entity),
                )
            }
        };
        let (to, entity) = entity;
        let copy = Inst {
            line: self.line,
            guard: None,
            name: target,
            operands: vec![to, operand.clone()],
        };
        self.inst(&copy)?;
        Ok(entity)
    }

    fn returned_in(
        &mut self,
        operand: &Operand,
        param: &Param,
        after: &mut Vec<Inst>,
    ) -> Known<Entity> {
        let Operand::Name(name) = operand else {
            return Err("expected a register or a parameter".into());
        };
        let caller = self.lookup(name)?;
        match (&caller, param.register) {
            (Entity::LocalParam(_), None) | (Entity::Reg(_), Some(_)) => Ok(caller),
            (Entity::Reg(_), None) => {
                let slot = self.fresh();
                let entity = Entity::LocalParam(self.local(param.bytes, param.align)?);
                self.scope().bind(slot.clone(), entity.clone());
                after.push(Inst {
                    line: self.line,
                    guard: None,
                    name: format!("ld.param.{}", letters(param.bytes)?),
                    operands: vec![operand.clone(), Operand::Address(Some(slot), 0)],
                });
                Ok(entity)
            }
            _ => Err(format!("`{name}` cannot take what the function returns")),
        }
    }

    /// A name that no text can have.
    fn fresh(&mut self) -> String {
        self.fresh += 1;
        format!("<{}>", self.fresh)
    }

    fn barrier(&mut self, inst: &Inst, mods: &mut Mods, guard: Option<Guard>) -> Known<()> {
        let aligned = mods.take("aligned") | (mods.base() == "bar");
        mods.drop(&["cta"]);
        if mods.take("warp") {
            mods.take("sync");
            let [members] = operands(inst)?;
            let members = self.src::<u32>(members, Ty::B32)?;
            return self.push(Op::WarpSync(members), "bar.warp.sync", guard);
        }
        let arrive = mods.take("arrive");
        let reduces = mods.take("red");
        if !arrive && !reduces && !mods.take("sync") {
            return Err(format!("unknown instruction `{}`", inst.name));
        }
        let mut rest = &inst.operands[..];
        let mut reduce = None;
        if reduces {
            let kind = mods.find(|p| match p {
                "popc" => Some(ReduceKind::Popc),
                "and" => Some(ReduceKind::And),
                "or" => Some(ReduceKind::Or),
                _ => None,
            });
            let kind = kind.ok_or("`bar.red` of what")?;
            mods.ty()?;
            let ([to, middle @ .., from], true) = (rest, rest.len() >= 3) else {
                return Err("`bar.red` with too few operands".into());
            };
            let to = self.target(to, if kind == ReduceKind::Popc { Ty::U32 } else { Ty::Pred })?;
            reduce = Some(BarrierReduce { kind, from: self.pred_source(from)?, to });
            rest = middle;
        }
        if let Some(left) = mods.left() {
            return Err(format!("`.{left}` is not known in `{}`", inst.name));
        }
        let (id, threads) = match rest {
            [id] => (id, None),
            [id, threads] => (id, Some(threads)),
            _ => return Err(format!("`{}` with {} operands", inst.name, rest.len())),
        };
        let id = self.any(id, Ty::U32)?;
        let threads = threads.map(|t| self.any(t, Ty::U32)).transpose()?;
        if arrive && threads.is_none() {
            return Err("`bar.arrive` without its count of threads".into());
        }
        self.partial_barriers |= threads.is_some();
        let kind = match (arrive, reduce) {
            (true, _) => "bar.arrive",
            (false, Some(_)) => "bar.red",
            (false, None) => "bar.sync",
        };
        self.push(
            Op::Barrier(Box::new(Barrier { id, threads, arrive, aligned, reduce })),
            kind,
            guard,
        )
    }
}

fn letters(bytes: u64) -> Known<&'static str> {
    Ok(match bytes {
        1 => "b8",
        2 => "b16",
        4 => "b32",
        8 => "b64",
        _ => return Err("a value of this size for a parameter".into()),
    })
}
