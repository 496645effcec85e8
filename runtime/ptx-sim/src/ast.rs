//! A module as it is written: names unresolved, instructions as words and operands.

use crate::types::{Space, Ty};

#[derive(Debug, Default)]
pub(crate) struct Ast {
    pub target: String,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}

#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub space: Space,
    pub name: String,
    pub align: u64,
    /// 0 for `name[]`, whose size the launch gives.
    pub bytes: u64,
    pub init: Vec<Init>,
    pub external: bool,
    pub line: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Init {
    Bytes(Vec<u8>),
    /// The address of another variable.
    Address {
        symbol: String,
        addend: i64,
        bytes: usize,
    },
}

#[derive(Debug)]
pub(crate) struct Function {
    pub entry: bool,
    pub name: String,
    pub params: Vec<Param>,
    pub returns: Vec<Param>,
    /// None where it is only declared.
    pub body: Option<Vec<Stmt>>,
    /// `.reqntid`: the block must be exactly this.
    pub required: Option<[u32; 3]>,
    /// `.maxntid`: threads at most.
    pub most: Option<u64>,
    pub line: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub name: String,
    pub bytes: u64,
    pub align: u64,
    /// The type, where a function takes it in a register.
    pub register: Option<Ty>,
}

#[derive(Debug)]
pub(crate) enum Stmt {
    /// `%r<5>` has a count, `%r` has none.
    Registers {
        ty: Ty,
        names: Vec<(String, Option<u32>)>,
    },
    Variable(Variable),
    Label(String),
    Inst(Inst),
    Block(Vec<Stmt>),
    /// `name: .branchtargets a, b;`
    Targets(String, Vec<String>),
}

#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub line: u32,
    /// Register, and whether its negation guards.
    pub guard: Option<(String, bool)>,
    pub name: String,
    pub operands: Vec<Operand>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Name(String),
    /// `symbol + 4`
    Sum(String, i64),
    Int(i128),
    F32(u32),
    F64(u64),
    /// `[name + offset]` or `[offset]`
    Address(Option<String>, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `(a, b)`
    Group(Vec<Operand>),
    /// `!p`
    Not(String),
    /// `p|q`
    Pair(Box<Operand>, Box<Operand>),
}
