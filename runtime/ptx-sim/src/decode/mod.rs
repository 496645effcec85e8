//! A kernel's text to what the simulator runs: names to registers and addresses, labels to places, calls inlined.
//!
//! Inlining keeps warps simple: a call is code like any other, so lanes diverge and meet again in functions as they do
//! elsewhere. Recursion, which has no place in that, is refused by name and line like all that is not known.

mod compare;
mod control;
mod convert;
mod float;
mod integer;
mod memory;
mod moves;
mod names;
mod operand;
mod packed;
mod tensor;
mod warp;

use crate::ast::{Ast, Function, Inst, Operand, Stmt, Variable};
use crate::error::Error;
use crate::op::{Code, Guard, Kernel, Op, Special};
use crate::regs::Reg;
use crate::types::{Space, Ty};
use names::{Entity, Scope};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// More than any kernel has, and few enough that nested calls cannot fill the memory.
const MOST_CODE: usize = 1 << 20;

/// What the driver takes.
const MOST_PARAMETERS: u64 = 32764;

/// Where a module's own variables lie in global memory.
pub(crate) use operand::PARAM_LOCAL;

pub(crate) type Symbols = HashMap<String, (Space, u64)>;

/// What is not known, without its place.
pub(crate) type Known<T> = Result<T, String>;

pub(crate) fn kernel(ast: &Ast, symbols: &Symbols, name: &str) -> Result<Kernel, Error> {
    let entry = ast.functions.iter().find(|f| f.entry && f.name == name && f.body.is_some());
    let Some(entry) = entry else {
        let known: Vec<&str> = ast
            .functions
            .iter()
            .filter(|f| f.entry && f.body.is_some())
            .map(|f| f.name.as_str())
            .collect();
        let known = if known.is_empty() {
            "it has none".into()
        } else {
            format!("it has {}", known.join(", "))
        };
        return Err(Error::Launch(format!("the module has no entry `{name}`: {known}")));
    };
    let mut decoder = Decoder {
        ast,
        symbols,
        line: entry.line,
        code: vec![],
        known: vec![],
        kinds: vec![],
        kind_index: HashMap::new(),
        counts: [0; 3],
        constants32: BTreeMap::new(),
        constants64: BTreeMap::new(),
        specials: HashMap::new(),
        scopes: vec![],
        labels: vec![],
        fixups: vec![],
        returns: vec![],
        calls: vec![],
        called: 0,
        shared: HashMap::new(),
        static_shared: 0,
        dynamic_shared: 0,
        local_bytes: 0,
        read: HashSet::new(),
        returned: vec![],
        ordered: false,
        granule: 4,
        partial_barriers: false,
        fresh: 0,
    };
    let done = decoder.entry(entry);
    let line = decoder.line;
    let unsupported = |message| Error::Unsupported { kernel: name.to_owned(), line, message };
    let params = done.map_err(unsupported)?;
    Ok(decoder.finish(entry, params))
}

pub(crate) struct Decoder<'a> {
    ast: &'a Ast,
    symbols: &'a Symbols,
    /// Of the instruction that is being decoded.
    line: u32,
    code: Vec<Code>,
    /// Registers of 32 and of 64 bits up to each instruction.
    known: Vec<[u32; 2]>,
    kinds: Vec<String>,
    kind_index: HashMap<String, u16>,
    /// Registers so far: 32 bits, 64 bits, predicates.
    counts: [usize; 3],
    constants32: BTreeMap<u32, usize>,
    constants64: BTreeMap<u64, usize>,
    specials: HashMap<Special, usize>,
    scopes: Vec<Scope>,
    /// Where each label is, once met.
    labels: Vec<Option<u32>>,
    /// Branches that wait for their labels: place in the code, and in its table.
    fixups: Vec<(usize, usize, usize)>,
    /// The label behind each function that is being inlined.
    returns: Vec<usize>,
    /// Functions that are being inlined.
    calls: Vec<String>,
    /// Calls inlined so far.
    called: usize,
    shared: HashMap<(String, String), u64>,
    static_shared: u64,
    /// Where `.extern .shared` begins.
    dynamic_shared: u64,
    local_bytes: u64,
    read: HashSet<Reg>,
    /// What global atomics return.
    returned: Vec<Reg>,
    ordered: bool,
    granule: u64,
    partial_barriers: bool,
    fresh: usize,
}

impl<'a> Decoder<'a> {
    fn entry(&mut self, entry: &'a Function) -> Known<Vec<(u64, u64)>> {
        self.lay_out_shared(entry)?;
        let mut scope = Scope::function();
        let mut params = vec![];
        let mut end: u64 = 0;
        for param in &entry.params {
            let at = end.next_multiple_of(param.align);
            end = at + param.bytes;
            if end > MOST_PARAMETERS {
                return Err(format!("more than {MOST_PARAMETERS} bytes of parameters"));
            }
            params.push((at, param.bytes));
            scope.bind(param.name.clone(), Entity::Param(at));
        }
        self.scopes.push(scope);
        self.calls.push(entry.name.clone());
        self.block(entry.body.as_deref().expect("chosen for its body"))?;
        self.push(Op::Exit, "exit", None)?;
        for &(at, slot, label) in &self.fixups {
            let target = self.labels[label].expect("every label of a block is met in it");
            match &mut self.code[at].op {
                Op::Branch(to) => *to = target,
                Op::Table { targets, .. } => targets[slot] = target,
                _ => unreachable!("only branches wait for labels"),
            }
        }
        Ok(params)
    }

    fn finish(self, entry: &Function, params: Vec<(u64, u64)>) -> Kernel {
        let [w32, w64, preds] = self.counts;
        let used = |reg: &Reg| self.read.contains(reg);
        let fixed32 = self.constants32.values().chain(self.specials.values());
        let written32 = between(fixed32.copied().collect(), w32);
        let written64 = between(self.constants64.values().copied().collect(), w64);
        Kernel {
            name: entry.name.clone(),
            ordered: self.ordered || self.returned.iter().any(used),
            code: self.code,
            kinds: self.kinds,
            w32,
            w64,
            preds,
            constants32: self.constants32.into_iter().map(|(value, at)| (at, value)).collect(),
            constants64: self.constants64.into_iter().map(|(value, at)| (at, value)).collect(),
            specials: self.specials.into_iter().map(|(special, at)| (at, special)).collect(),
            written32,
            written64,
            known: self.known,
            param_bytes: params.last().map_or(0, |(at, bytes)| at + bytes),
            params,
            static_shared: self.static_shared,
            local_bytes: self.local_bytes,
            required: entry.required,
            most: entry.most,
            granule: self.granule,
            partial_barriers: self.partial_barriers,
        }
    }

    /// Places the shared variables that the entry and the functions behind it name.
    fn lay_out_shared(&mut self, entry: &Function) -> Known<()> {
        let mut seen = HashSet::new();
        let mut open = vec![entry];
        let mut named = HashSet::new();
        let mut own: Vec<(String, &Variable)> = vec![];
        while let Some(function) = open.pop() {
            if !seen.insert(function.name.as_str()) {
                continue;
            }
            let mut words = HashSet::new();
            mentions(function.body.as_deref().unwrap_or_default(), &mut words, &mut |variable| {
                if variable.space == Space::Shared {
                    own.push((function.name.clone(), variable));
                }
            });
            open.extend(
                self.ast.functions.iter().filter(|f| !f.entry && words.contains(f.name.as_str())),
            );
            named.extend(words);
        }
        let module = self.ast.variables.iter().filter(|v| v.space == Space::Shared);
        own.extend(module.filter(|v| named.contains(v.name.as_str())).map(|v| (String::new(), v)));
        let mut align = 16;
        let mut dynamic = vec![];
        for (home, variable) in own {
            let key = (home, variable.name.clone());
            if variable.bytes == 0 {
                align = align.max(variable.align);
                dynamic.push(key);
                continue;
            }
            let at = self.static_shared.next_multiple_of(variable.align);
            self.static_shared = at + variable.bytes;
            self.shared.insert(key, at);
        }
        self.dynamic_shared = self.static_shared;
        if !dynamic.is_empty() {
            self.dynamic_shared = self.static_shared.next_multiple_of(align);
            self.static_shared = self.dynamic_shared;
        }
        for key in dynamic {
            self.shared.insert(key, self.dynamic_shared);
        }
        Ok(())
    }

    fn block(&mut self, stmts: &'a [Stmt]) -> Known<()> {
        for stmt in stmts {
            if let Stmt::Label(name) = stmt {
                let label = self.label();
                self.scope().label(name.clone(), label);
            }
        }
        for stmt in stmts {
            if let Stmt::Targets(name, targets) = stmt {
                let labels =
                    targets.iter().map(|t| self.find_label(t)).collect::<Known<Vec<_>>>()?;
                self.scope().bind(name.clone(), Entity::Targets(labels));
            }
        }
        for stmt in stmts {
            self.stmt(stmt)?;
        }
        Ok(())
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Known<()> {
        match stmt {
            Stmt::Registers { ty, names } => {
                for (name, count) in names {
                    match count {
                        Some(count) => self.scope().range(name.clone(), *ty, *count),
                        None => {
                            let reg = self.register(*ty)?;
                            self.scope().bind(name.clone(), Entity::Reg(reg));
                        }
                    }
                }
            }
            Stmt::Variable(variable) => self.variable(variable)?,
            Stmt::Label(name) => {
                let label = self.find_label(name)?;
                self.labels[label] = Some(self.here());
            }
            Stmt::Block(stmts) => {
                self.scopes.push(Scope::block());
                self.block(stmts)?;
                self.scopes.pop();
            }
            // Bound with the labels.
            Stmt::Targets(..) => {}
            Stmt::Inst(inst) => self.inst(inst)?,
        }
        Ok(())
    }

    fn variable(&mut self, variable: &Variable) -> Known<()> {
        self.line = variable.line;
        let name = variable.name.clone();
        let entity = match variable.space {
            Space::Local => Entity::Local(self.local(variable.bytes, variable.align)?),
            Space::Param => Entity::LocalParam(self.local(variable.bytes, variable.align)?),
            Space::Shared => {
                let home = self.calls.last().expect("in a function").clone();
                Entity::Shared(self.shared[&(home, name.clone())])
            }
            _ => return Err(format!("`{name}`: global variables in a function")),
        };
        self.scope().bind(name, entity);
        Ok(())
    }

    fn local(&mut self, bytes: u64, align: u64) -> Known<u64> {
        let at = self.local_bytes.next_multiple_of(align);
        self.local_bytes = at + bytes.next_multiple_of(4);
        if self.local_bytes > 1 << 19 {
            return Err("more than 512 KiB of local memory a thread".into());
        }
        Ok(at)
    }

    fn inst(&mut self, inst: &Inst) -> Known<()> {
        self.line = inst.line;
        let guard = match &inst.guard {
            None => None,
            Some((name, negated)) => {
                let pred = self.pred(&Operand::Name(name.clone()))?;
                Some(Guard { pred, negated: *negated })
            }
        };
        let mut mods = Mods::new(&inst.name);
        if let Some(()) = self.control(inst, &mut mods, guard)? {
            return Ok(());
        }
        let decoded = self.one(inst, &mut mods)?;
        if let Some(left) = mods.left() {
            return Err(format!("`.{left}` is not known in `{}`", inst.name));
        }
        self.push_costing(decoded, &kind(&inst.name), guard)
    }

    fn one(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Decoded> {
        let groups = [
            Self::moves,
            Self::integer,
            Self::float,
            Self::packed,
            Self::compare,
            Self::convert,
            Self::memory,
            Self::warp,
            Self::tensor,
        ];
        for group in groups {
            if let Some(decoded) = group(self, inst, mods)? {
                return Ok(decoded);
            }
        }
        Err(format!("unknown instruction `{}`", inst.name))
    }

    fn push(&mut self, op: Op, kind: &str, guard: Option<Guard>) -> Known<()> {
        self.push_costing(op.into(), kind, guard)
    }

    fn push_costing(&mut self, decoded: Decoded, kind: &str, guard: Option<Guard>) -> Known<()> {
        if self.code.len() >= MOST_CODE {
            return Err(format!("more than {MOST_CODE} instructions, called functions included"));
        }
        let kinds = &mut self.kinds;
        let kind = *self.kind_index.entry(kind.to_owned()).or_insert_with(|| {
            kinds.push(kind.to_owned());
            u16::try_from(kinds.len() - 1).expect("fewer kinds than instructions are known")
        });
        let Decoded { op, flops, tensor_flops } = decoded;
        let [w32, w64, _] = self.counts.map(|count| count as u32);
        self.known.push([w32, w64]);
        self.code.push(Code { op, guard, line: self.line, kind, flops, tensor_flops });
        Ok(())
    }

    fn here(&self) -> u32 {
        self.code.len() as u32
    }
}

/// An instruction and what it costs.
pub(crate) struct Decoded {
    op: Op,
    flops: u32,
    tensor_flops: u32,
}

impl From<Op> for Decoded {
    fn from(op: Op) -> Self {
        Self { op, flops: 0, tensor_flops: 0 }
    }
}

impl Decoded {
    fn flops(op: Op, flops: u32) -> Self {
        Self { op, flops, tensor_flops: 0 }
    }
}

/// What lies between these.
fn between(mut these: Vec<usize>, end: usize) -> Vec<Range<usize>> {
    these.sort_unstable();
    let starts = std::iter::once(0).chain(these.iter().map(|at| at + 1));
    let ends = these.iter().copied().chain([end]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|run| !run.is_empty()).collect()
}

/// What an instruction is counted as: its name without types, sizes and roundings.
fn kind(name: &str) -> String {
    let mut parts = name.split('.');
    let base = parts.next().unwrap_or_default();
    let keep = match base {
        "ld" | "st" | "atom" | "red" | "ldmatrix" | "stmatrix" => 1,
        "bar" | "barrier" | "shfl" | "vote" | "cp" | "match" => 2,
        _ => 0,
    };
    let spaces = parts.filter(|p| keep == 2 || Space::parse(p).is_some()).filter(|p| {
        keep == 1
            || matches!(
                *p,
                "sync"
                    | "warp"
                    | "arrive"
                    | "red"
                    | "async"
                    | "commit_group"
                    | "wait_group"
                    | "wait_all"
            )
    });
    std::iter::once(base).chain(spaces.take(2)).collect::<Vec<_>>().join(".")
}

/// The names that statements mention, and the variables that they declare.
fn mentions<'a>(
    stmts: &'a [Stmt],
    words: &mut HashSet<&'a str>,
    declared: &mut impl FnMut(&'a Variable),
) {
    fn operand<'a>(o: &'a Operand, words: &mut HashSet<&'a str>) {
        match o {
            Operand::Name(name) | Operand::Sum(name, _) | Operand::Address(Some(name), _) => {
                words.insert(name);
            }
            Operand::Vector(list) | Operand::Group(list) => {
                list.iter().for_each(|o| operand(o, words))
            }
            _ => {}
        }
    }
    for stmt in stmts {
        match stmt {
            Stmt::Inst(inst) => inst.operands.iter().for_each(|o| operand(o, words)),
            Stmt::Block(stmts) => mentions(stmts, words, declared),
            Stmt::Variable(variable) => declared(variable),
            _ => {}
        }
    }
}

/// The dotted parts of an instruction's name that are still to be accounted for.
pub(crate) struct Mods {
    parts: Vec<String>,
}

impl Mods {
    fn new(name: &str) -> Self {
        Self { parts: name.split('.').map(str::to_owned).collect() }
    }

    /// The part before the first dot.
    fn base(&self) -> &str {
        &self.parts[0]
    }

    /// Takes a part if it is there.
    fn take(&mut self, part: &str) -> bool {
        match self.parts.iter().skip(1).position(|p| p == part) {
            Some(at) => {
                self.parts.remove(at + 1);
                true
            }
            None => false,
        }
    }

    /// Takes all of these that are there.
    fn drop(&mut self, parts: &[&str]) {
        self.parts.retain(|p| !parts.contains(&p.as_str()));
    }

    /// Takes the first part that `f` knows.
    fn find<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, found) =
            self.parts.iter().enumerate().skip(1).find_map(|(i, p)| Some((i, f(p)?)))?;
        self.parts.remove(at);
        Some(found)
    }

    /// Takes the first type.
    fn ty(&mut self) -> Known<Ty> {
        self.find(Ty::parse).ok_or_else(|| format!("`{}` without a type", self.parts.join(".")))
    }

    fn peek(&self) -> Option<Ty> {
        self.parts.iter().skip(1).find_map(|p| Ty::parse(p))
    }

    fn left(&self) -> Option<&str> {
        self.parts.get(1).map(String::as_str)
    }
}
