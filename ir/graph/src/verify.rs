//! What must hold of a graph between any two stages.
//!
//! Stages behind the verifier index tables and trust types without asking again. So it is total:
//! whatever [text](crate::text) can say, it answers with findings, and never panics.

mod weights;

use crate::graph::{Graph, Node, Port, Program, State, StateId, Type, Value, WeightId};
use crate::infer::TypeError;
use crate::op::Op;
use q35_types::{DType, Dim};
use std::collections::BTreeSet;

/// Something wrong with a graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Finding {
    #[error("block is called `{0}`, expected letters, digits and `_`")]
    Name(String),

    #[error("{value} reads {operand}, expected a value before it")]
    Order { value: Value, operand: Value },

    #[error("{value}: {error}")]
    Type { value: Value, error: TypeError },

    #[error("{value} is declared {declared}, but its `{op}` gives {inferred}")]
    Declared { value: Value, op: &'static str, declared: Type, inferred: Type },

    #[error("{value} is of {weight}, which is not there")]
    NoWeight { value: Value, weight: WeightId },

    #[error("{value} uses {state}, which is not there")]
    NoState { value: Value, state: StateId },

    #[error("{value}: {state} is {found}, but its `{op}` needs {expected}")]
    State { value: Value, op: &'static str, state: StateId, found: State, expected: String },

    /// State is kept by layer and kind.
    #[error("{state} is {found}, expected one state of a kind")]
    StateTwice { state: StateId, found: State },

    #[error("{value}: port `{port}` is {found}, expected {expected}")]
    Port { value: Value, port: &'static str, found: Type, expected: &'static str },

    #[error("port `{port}` is {way} twice")]
    PortTwice { port: &'static str, way: &'static str },

    #[error("port `{port}` gives {value}, which is not there")]
    NoOutput { port: &'static str, value: Value },

    #[error("the block gives nothing back")]
    NoOutputs,

    #[error("{weight}: {what} is {found}, expected {expected}")]
    Weight { weight: WeightId, what: String, found: String, expected: String },

    /// Of a block of a program.
    #[error("block `{block}`: {finding}")]
    Block { block: String, finding: Box<Finding> },

    #[error("two blocks are called `{0}`")]
    BlockTwice(String),

    #[error("run {run} is of block {block}, expected one of the {blocks}")]
    NoBlock { run: usize, block: usize, blocks: usize },

    /// A block whose names hold `{layer}` needs one, and only such a block.
    #[error("run {run} of `{block}` has {found}, expected {expected}")]
    Layer { run: usize, block: String, found: &'static str, expected: &'static str },
}

/// Check one block.
///
/// Operands come first and fit, types are what they are declared to be, ids are in their tables, weights
/// can be made from their recipes, state fits the ops on it, and ports carry what they say.
pub fn verify(graph: &Graph) -> Result<(), Vec<Finding>> {
    let mut findings = vec![];
    if !is_name(&graph.name) {
        findings.push(Finding::Name(graph.name.clone()));
    }
    weights::check(graph, &mut findings);
    check_states(graph, &mut findings);
    for (node, value) in graph.nodes.iter().zip((0..).map(Value)) {
        check_node(graph, value, node, &mut findings);
    }
    check_ports(graph, &mut findings);
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

/// Check all blocks of a program, and that its sequence runs them as they are meant.
pub fn verify_program(program: &Program) -> Result<(), Vec<Finding>> {
    let mut findings = vec![];
    let mut names = BTreeSet::new();
    for block in &program.blocks {
        if !names.insert(&block.name) {
            findings.push(Finding::BlockTwice(block.name.clone()));
        }
        for finding in verify(block).err().into_iter().flatten() {
            let (block, finding) = (block.name.clone(), Box::new(finding));
            findings.push(Finding::Block { block, finding });
        }
    }
    for (run, &(block, layer)) in program.sequence.iter().enumerate() {
        let Some(graph) = program.blocks.get(block) else {
            findings.push(Finding::NoBlock { run, block, blocks: program.blocks.len() });
            continue;
        };
        let (found, expected) = match (layer, weights::are_of_a_layer(graph)) {
            (None, true) => ("no layer", "one, for its weights and state"),
            (Some(_), false) => ("a layer", "none, as nothing in it is of a layer"),
            _ => continue,
        };
        findings.push(Finding::Layer { run, block: graph.name.clone(), found, expected });
    }
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn check_node(graph: &Graph, value: Value, node: &Node, findings: &mut Vec<Finding>) {
    let before = &graph.nodes[..value.0 as usize];
    let operands: Option<Vec<&Node>> =
        node.operands.iter().map(|v| before.get(v.0 as usize)).collect();
    let Some(operands) = operands else {
        let late = node.operands.iter().filter(|&&operand| operand >= value);
        findings.extend(late.map(|&operand| Finding::Order { value, operand }));
        return;
    };
    let types: Vec<&Type> = operands.iter().map(|n| &n.ty).collect();
    let inferred = match node.op {
        Op::Input { port } => {
            let expected = port_form(port);
            if !port_fits(port, &node.ty) {
                let (port, found) = (port.name(), node.ty.clone());
                findings.push(Finding::Port { value, port, found, expected });
            }
            arity(node).map(|()| node.ty.clone())
        }
        Op::Weight { id } => match graph.weights.get(id.0 as usize) {
            Some(weight) => arity(node).map(|()| weight.ty()),
            None => return findings.push(Finding::NoWeight { value, weight: id }),
        },
        op => op.result(&types),
    };
    match inferred {
        Err(error) => return findings.push(Finding::Type { value, error }),
        Ok(inferred) if inferred != node.ty => {
            let (op, declared) = (node.op.name(), node.ty.clone());
            findings.push(Finding::Declared { value, op, declared, inferred });
        }
        Ok(_) => {}
    }
    let Some(id) = node.op.state() else { return };
    match graph.states.get(id.0 as usize) {
        None => findings.push(Finding::NoState { value, state: id }),
        Some(found) => {
            if let Err(expected) = state_fits(&node.op, &types, found) {
                let (op, found) = (node.op.name(), found.clone());
                findings.push(Finding::State { value, op, state: id, found, expected });
            }
        }
    }
}

fn check_states(graph: &Graph, findings: &mut Vec<Finding>) {
    let mut kinds = vec![];
    for (found, state) in graph.states.iter().zip((0..).map(StateId)) {
        let kind = std::mem::discriminant(found);
        match kinds.contains(&kind) {
            true => findings.push(Finding::StateTwice { state, found: found.clone() }),
            false => kinds.push(kind),
        }
    }
}

/// Inputs and weights have no operands.
fn arity(node: &Node) -> Result<(), TypeError> {
    match node.operands.len() {
        0 => Ok(()),
        found => Err(TypeError::Arity { op: node.op.name(), found, expected: 0 }),
    }
}

/// Whether an op whose operands fit can use that state, or which one it could.
fn state_fits(op: &Op, types: &[&Type], found: &State) -> Result<(), String> {
    let size = |i: usize, axis: usize| types[i].shape[axis].fixed().unwrap_or(0);
    let expected = match *op {
        Op::Conv { .. } | Op::DeltaConv { .. } => {
            State::Conv { channels: size(1, 0), taps: size(1, 1) }
        }
        Op::GatedDelta { .. } => State::Delta { heads: size(2, 1), dk: size(0, 2), dv: size(2, 2) },
        Op::DeltaRule { nv, dk, dv, .. } => State::Delta { heads: nv, dk, dv },
        Op::Attention { .. } => kv(found, size(1, 1), size(1, 2)),
        Op::QkRope { kv_heads, width, .. } | Op::GatedAttention { kv_heads, width, .. } => {
            kv(found, kv_heads, width)
        }
        _ => return Ok(()),
    };
    if *found == expected { Ok(()) } else { Err(expected.to_string()) }
}

/// A cache of that geometry, of the float type that is found if it is one.
fn kv(found: &State, heads: u32, head_dim: u32) -> State {
    let dtype = match found {
        State::Kv { dtype, .. } if dtype.is_float() => *dtype,
        _ => DType::F32,
    };
    State::Kv { dtype, heads, head_dim }
}

fn check_ports(graph: &Graph, findings: &mut Vec<Finding>) {
    let mut given = BTreeSet::new();
    for node in &graph.nodes {
        if let Op::Input { port } = node.op
            && !given.insert(port.name())
        {
            findings.push(Finding::PortTwice { port: port.name(), way: "given" });
        }
    }
    let mut returned = BTreeSet::new();
    for &(port, value) in &graph.outputs {
        let Some(node) = graph.nodes.get(value.0 as usize) else {
            findings.push(Finding::NoOutput { port: port.name(), value });
            continue;
        };
        if !port_fits(port, &node.ty) {
            let (found, expected) = (node.ty.clone(), port_form(port));
            findings.push(Finding::Port { value, port: port.name(), found, expected });
        }
        if !returned.insert(port.name()) {
            findings.push(Finding::PortTwice { port: port.name(), way: "returned" });
        }
    }
    if graph.outputs.is_empty() {
        findings.push(Finding::NoOutputs);
    }
}

fn port_fits(port: Port, ty: &Type) -> bool {
    match (port, ty.dtype, &ty.shape[..]) {
        (Port::Ids, DType::I32, [Dim::Tokens]) => true,
        (Port::Positions, DType::I32, [Dim::Fixed(3), Dim::Tokens]) => true,
        (Port::Rows, DType::I32, [Dim::Rows]) => true,
        (Port::Hidden, dtype, [Dim::Tokens, Dim::Fixed(_)]) => dtype.is_float(),
        (Port::Rope, DType::F32, [Dim::Tokens, Dim::Fixed(2), Dim::Fixed(_)]) => true,
        (Port::Logits, DType::F32, [Dim::Rows, Dim::Fixed(_)]) => true,
        (Port::ValidIds, DType::I32, [Dim::Fixed(1)]) => true,
        (Port::Likeliest, DType::I32, [Dim::Rows, Dim::Fixed(1)]) => true,
        (Port::Candidates, DType::I32, [Dim::Rows, Dim::Fixed(_)]) => true,
        (Port::CandidateLogits, DType::F32, [Dim::Rows, Dim::Fixed(_)]) => true,
        _ => false,
    }
}

fn port_form(port: Port) -> &'static str {
    match port {
        Port::Ids => "i32[T]",
        Port::Positions => "i32[3, T]",
        Port::Rows => "i32[R]",
        Port::Hidden => "a float [T, hidden]",
        Port::Rope => "f32[T, 2, n]",
        Port::Logits => "f32[R, vocab]",
        Port::ValidIds => "i32[1]",
        Port::Likeliest => "i32[R, 1]",
        Port::Candidates => "i32[R, k]",
        Port::CandidateLogits => "f32[R, k]",
    }
}

#[cfg(test)]
mod tests;
