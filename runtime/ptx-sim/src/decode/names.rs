//! What names mean: registers, variables, parameters and labels, by the braces they stand in.

use super::{Decoder, Known};
use crate::regs::Reg;
use crate::types::{Space, Ty};
use std::collections::HashMap;

/// More registers than compilers use, and few enough for any memory.
const MOST_REGISTERS: usize = 1 << 16;

#[derive(Clone, Debug)]
pub(crate) enum Entity {
    Reg(Reg),
    Local(u64),
    Shared(u64),
    /// A parameter of the entry.
    Param(u64),
    /// A parameter of a function, in the local memory of the thread that calls it.
    LocalParam(u64),
    Global(Space, u64),
    Targets(Vec<usize>),
}

/// The names that a pair of braces holds.
#[derive(Default)]
pub(crate) struct Scope {
    names: HashMap<String, Entity>,
    /// `%r<9>` by what comes before the number.
    ranges: HashMap<String, (Ty, u32)>,
    labels: HashMap<String, usize>,
    /// Names outside are another function's.
    outermost: bool,
}

impl Scope {
    pub fn function() -> Self {
        Self { outermost: true, ..Self::default() }
    }

    pub fn block() -> Self {
        Self::default()
    }

    pub fn bind(&mut self, name: String, entity: Entity) {
        self.names.insert(name, entity);
    }

    pub fn range(&mut self, prefix: String, ty: Ty, count: u32) {
        self.ranges.insert(prefix, (ty, count));
    }

    pub fn label(&mut self, name: String, label: usize) {
        self.labels.insert(name, label);
    }
}

impl Decoder<'_> {
    pub(super) fn scope(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("decoding goes on in a function")
    }

    /// The scopes of this function, innermost first.
    fn visible(&self) -> impl Iterator<Item = usize> + use<> {
        let outermost =
            self.scopes.iter().rposition(|s| s.outermost).expect("decoding goes on in a function");
        (outermost..self.scopes.len()).rev()
    }

    pub(super) fn lookup(&mut self, name: &str) -> Known<Entity> {
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        for at in self.visible() {
            if let Some(entity) = self.scopes[at].names.get(name) {
                return Ok(entity.clone());
            }
            // `%r12` may be of the range `%r` or of `%r1`.
            for cut in (name.len() - digits..name.len()).filter(|_| digits > 0) {
                let (prefix, number) = name.split_at(cut);
                let Some(&(ty, count)) = self.scopes[at].ranges.get(prefix) else { continue };
                if number.parse::<u32>().is_ok_and(|n| n < count) {
                    let entity = Entity::Reg(self.register(ty)?);
                    self.scopes[at].bind(name.to_owned(), entity.clone());
                    return Ok(entity);
                }
            }
        }
        if let Some(&at) = self.shared.get(&(String::new(), name.to_owned())) {
            return Ok(Entity::Shared(at));
        }
        match self.symbols.get(name) {
            Some(&(space, at)) => Ok(Entity::Global(space, at)),
            None => Err(format!("unknown name `{name}`")),
        }
    }

    pub(super) fn register(&mut self, ty: Ty) -> Known<Reg> {
        let file = match ty {
            Ty::Pred => 2,
            Ty::B128 => return Err("registers of 128 bits".into()),
            ty if ty.bits() == 64 => 1,
            _ => 0,
        };
        let index = self.counts[file];
        if index >= MOST_REGISTERS {
            return Err(format!("more than {MOST_REGISTERS} registers"));
        }
        self.counts[file] += 1;
        Ok([Reg::W32, Reg::W64, Reg::Pred][file](index))
    }

    pub(super) fn label(&mut self) -> usize {
        self.labels.push(None);
        self.labels.len() - 1
    }

    pub(super) fn find_label(&self, name: &str) -> Known<usize> {
        self.visible()
            .find_map(|at| self.scopes[at].labels.get(name).copied())
            .ok_or_else(|| format!("unknown label `{name}`"))
    }
}
