//! Writing a graph down, node by node.

use crate::graph::{Graph, Node, Port, State, StateId, Type, Value, Weight, WeightId};
use crate::op::Op;

impl Graph {
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Append `op` on `operands`.
    ///
    /// Panics, with the [`TypeError`](crate::TypeError)'s text, if they do not fit: types follow from
    /// a config that has been checked, so it is the caller who is wrong.
    pub fn push(&mut self, op: Op, operands: impl IntoIterator<Item = Value>) -> Value {
        let operands: Vec<Value> = operands.into_iter().collect();
        let types: Vec<&Type> = operands.iter().map(|&v| self.ty(v)).collect();
        let ty = op.result(&types).unwrap_or_else(|e| panic!("block `{}`: {e}", self.name));
        self.append(Node { op, operands, ty })
    }

    /// Append an op whose type follows from no operand: an input or a weight.
    pub fn declare(&mut self, op: Op, ty: Type) -> Value {
        self.append(Node { op, operands: vec![], ty })
    }

    /// What the block is given at `port`.
    pub fn input(&mut self, port: Port, ty: Type) -> Value {
        self.declare(Op::Input { port }, ty)
    }

    pub fn add_weight(&mut self, weight: Weight) -> WeightId {
        self.weights.push(weight);
        WeightId(self.weights.len() as u32 - 1)
    }

    /// The tensor of a weight; asked again, the same one.
    pub fn weight_value(&mut self, id: WeightId) -> Value {
        let known = self.values().find(|&v| self.node(v).op == Op::Weight { id });
        known.unwrap_or_else(|| self.declare(Op::Weight { id }, self.weight(id).ty()))
    }

    pub fn add_state(&mut self, state: State) -> StateId {
        self.states.push(state);
        StateId(self.states.len() as u32 - 1)
    }

    /// Give `value` back at `port`.
    pub fn output(&mut self, port: Port, value: Value) {
        self.outputs.push((port, value));
    }

    fn append(&mut self, node: Node) -> Value {
        self.nodes.push(node);
        Value(self.nodes.len() as u32 - 1)
    }
}
