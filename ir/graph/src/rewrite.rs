//! Replacing nodes by others: how passes change a graph.
//!
//! A rule looks at the graph through a [`Rewriter`], from a root inwards, and changes nothing while it looks.
//! If it fits it gives a [`Rewrite`], and [`Graph::rewrite`] does the rest: it puts the new nodes in
//! place, sends those who read the old values to the new ones and drops what nobody needs any more.
//!
//! ```
//! # use q35_graph::{Graph, Op, Rewrite, Rewriter, Value};
//! /// `add(residual, matmul(x, weight))  ═▶  matmul_add(x, weight, residual)`
//! fn residual(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
//!     let [residual, product] = g.matches(root, Op::Add {})?;
//!     let (Op::MatMul { .. }, &[x, weight]) = g.at(product) else { return None };
//!     g.used_once(product).then(|| Rewrite::new(Op::MatMulAdd {}, [x, weight, residual]))
//! }
//! # Graph::default().rewrite(residual);
//! ```

use crate::graph::{Graph, State, StateId, Type, Value, Weight, WeightId};
use crate::op::Op;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, DfsPostOrder};
use std::collections::BTreeMap;

/// A graph to look at.
pub struct Rewriter<'g> {
    graph: &'g Graph,
    uses: Vec<u32>,
    users: Vec<Vec<Value>>,
}

impl<'g> Rewriter<'g> {
    fn new(graph: &'g Graph) -> Self {
        let mut users = vec![vec![]; graph.nodes.len()];
        for user in graph.values() {
            for operand in &graph.node(user).operands {
                let list: &mut Vec<Value> = &mut users[operand.0 as usize];
                if list.last() != Some(&user) {
                    list.push(user);
                }
            }
        }
        Rewriter { graph, uses: graph.uses(), users }
    }

    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The op that makes `v`, and its operands: for `let (Op::Conv { state }, &[x, weight]) = g.at(v) else ..`.
    pub fn at(&self, v: Value) -> (Op, &'g [Value]) {
        let node = self.graph.node(v);
        (node.op, &node.operands)
    }

    /// The operands of `v` if `op`, attributes included, makes it.
    ///
    /// Panics if `op` does not have `N` operands.
    pub fn matches<const N: usize>(&self, v: Value, op: Op) -> Option<[Value; N]> {
        let node = self.graph.node(v);
        (node.op == op)
            .then(|| node.operands[..].try_into().expect("as many operands as the op has"))
    }

    pub fn ty(&self, v: Value) -> &'g Type {
        self.graph.ty(v)
    }

    /// The weight whose tensor `v` is, if it is one.
    pub fn weight(&self, v: Value) -> Option<&'g Weight> {
        match self.graph.node(v).op {
            Op::Weight { id } => Some(self.graph.weight(id)),
            _ => None,
        }
    }

    /// The nodes that read `v`, in order, each once.
    pub fn users(&self, v: Value) -> &[Value] {
        &self.users[v.0 as usize]
    }

    /// Whether a single operand, or a single output, is `v`.
    pub fn used_once(&self, v: Value) -> bool {
        self.uses[v.0 as usize] == 1
    }

    /// An empty rewrite, for more than one new node.
    pub fn draft(&self) -> Rewrite {
        Rewrite {
            first: self.graph.nodes.len() as u32,
            first_weight: self.graph.weights.len() as u32,
            first_state: self.graph.states.len() as u32,
            ..Rewrite::default()
        }
    }
}

/// New nodes, and which old values they stand for.
///
/// Unless [`replace`](Self::replace) says otherwise, the last new node stands for the root. If a new
/// node uses a piece of state, old nodes on that state stay only if something still reads them.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    first: u32,
    first_weight: u32,
    first_state: u32,
    weights: Vec<Weight>,
    states: Vec<State>,
    nodes: Vec<(Op, Vec<Value>)>,
    replaced: Vec<(Option<Value>, Value)>,
}

impl Rewrite {
    /// One node for the root.
    pub fn new(op: Op, operands: impl IntoIterator<Item = Value>) -> Self {
        let nodes = vec![(op, operands.into_iter().collect())];
        Rewrite { nodes, ..Rewrite::default() }
    }

    /// A value that is there already for the root.
    pub fn to(value: Value) -> Self {
        Rewrite { replaced: vec![(None, value)], ..Rewrite::default() }
    }

    /// A new node, of a [draft](Rewriter::draft). Its operands may be old values and earlier new ones.
    pub fn push(&mut self, op: Op, operands: impl IntoIterator<Item = Value>) -> Value {
        self.nodes.push((op, operands.into_iter().collect()));
        Value(self.first + self.nodes.len() as u32 - 1)
    }

    /// The tensor of a new weight.
    pub fn add_weight(&mut self, weight: Weight) -> Value {
        self.weights.push(weight);
        let id = WeightId(self.first_weight + self.weights.len() as u32 - 1);
        self.push(Op::Weight { id }, [])
    }

    pub fn add_state(&mut self, state: State) -> StateId {
        self.states.push(state);
        StateId(self.first_state + self.states.len() as u32 - 1)
    }

    /// Whoever reads `old` shall read `new`, a value of the same type.
    pub fn replace(&mut self, old: Value, new: Value) {
        self.replaced.push((Some(old), new));
    }
}

impl Graph {
    /// Apply `rule`, at the first value that it fits, until it fits nowhere; how often it did.
    ///
    /// New nodes stand where the root stood, or before the first that reads them. Nodes on the same
    /// state keep their order. Panics if the new nodes do not fit their operands, if a value is replaced
    /// by one of another type, or if the rule fits what it has made without end.
    pub fn rewrite(&mut self, rule: impl Fn(&Rewriter<'_>, Value) -> Option<Rewrite>) -> usize {
        let limit = 1000 + 100 * self.nodes.len();
        let mut count = 0;
        while let Some((root, rewrite)) = self.first_fit(&rule) {
            self.apply(root, rewrite);
            count += 1;
            assert!(count <= limit, "the rule fits its own result in block `{}`", self.name);
        }
        count
    }

    fn first_fit(
        &self,
        rule: impl Fn(&Rewriter<'_>, Value) -> Option<Rewrite>,
    ) -> Option<(Value, Rewrite)> {
        let g = Rewriter::new(self);
        self.values().find_map(|root| rule(&g, root).map(|rewrite| (root, rewrite)))
    }

    fn apply(&mut self, root: Value, rewrite: Rewrite) {
        let old = self.nodes.len();
        self.weights.extend(rewrite.weights);
        self.states.extend(rewrite.states);
        let mut taken = vec![];
        for (op, operands) in rewrite.nodes {
            taken.extend(op.state());
            match op {
                Op::Weight { id } => self.declare(op, self.weight(id).ty()),
                _ => self.push(op, operands),
            };
        }
        let mut replaced: BTreeMap<Value, Value> =
            rewrite.replaced.into_iter().map(|(v, new)| (v.unwrap_or(root), new)).collect();
        if replaced.is_empty() {
            let last = self.values().next_back().filter(|v| v.0 as usize >= old);
            replaced.insert(root, last.expect("a rewrite has a node or replaces something"));
        }
        for (&was, &now) in &replaced {
            assert_eq!(self.ty(was), self.ty(now), "{was} and what replaces it have one type");
        }
        let read = self.nodes[..old].iter_mut().flat_map(|n| &mut n.operands);
        for v in read.chain(self.outputs.iter_mut().map(|(_, v)| v)) {
            *v = replaced.get(v).copied().unwrap_or(*v);
        }
        let handed_over = |v: Value| {
            (v.0 as usize) < old && self.node(v).op.state().is_some_and(|s| taken.contains(&s))
        };
        let needed: Vec<Value> = self.effects().filter(|&v| !handed_over(v)).collect();
        let (before, after) = (0..=root.0, root.0 + 1..old as u32);
        let order = before.chain(old as u32..self.nodes.len() as u32).chain(after).map(Value);
        self.rebuild(&order.collect::<Vec<_>>(), &needed);
    }

    /// Drop the nodes that neither an output nor the state needs, and the weights and states that then nobody
    /// uses, and number the rest densely.
    pub fn prune(&mut self) {
        let (order, needed): (Vec<_>, Vec<_>) = (self.values().collect(), self.effects().collect());
        self.rebuild(&order, &needed);
    }

    /// The values of ops that run for what they do to the state.
    fn effects(&self) -> impl Iterator<Item = Value> {
        self.values().filter(|&v| self.node(v).op.writes_state())
    }

    /// Keep what the outputs and `needed` depend on, in `order`, but each after what it depends on.
    fn rebuild(&mut self, order: &[Value], needed: &[Value]) {
        let mut depends = DiGraph::<(), ()>::new();
        for _ in &self.nodes {
            depends.add_node(());
        }
        let index = |v: Value| NodeIndex::new(v.0 as usize);
        for user in self.values() {
            for &operand in &self.node(user).operands {
                depends.add_edge(index(user), index(operand), ());
            }
        }
        let mut live = Dfs::empty(&depends);
        for &root in self.outputs.iter().map(|(_, v)| v).chain(needed) {
            live.move_to(index(root));
            while live.next(&depends).is_some() {}
        }
        let kept = order.iter().filter(|v| live.discovered.contains(v.0 as usize));
        let mut latest = BTreeMap::<StateId, Value>::new();
        for &v in kept.clone() {
            let Some(state) = self.node(v).op.state() else {
                continue;
            };
            if let Some(before) = latest.insert(state, v) {
                depends.add_edge(index(v), index(before), ());
            }
        }
        let mut sorted = vec![];
        let mut walk = DfsPostOrder::empty(&depends);
        for &v in kept {
            walk.move_to(index(v));
            while let Some(next) = walk.next(&depends) {
                sorted.push(Value(next.index() as u32));
            }
        }
        self.renumber(&sorted);
    }

    fn renumber(&mut self, sorted: &[Value]) {
        let values: BTreeMap<Value, Value> = sorted.iter().copied().zip((0..).map(Value)).collect();
        self.nodes = sorted.iter().map(|&v| self.node(v).clone()).collect();
        for v in self.nodes.iter_mut().flat_map(|n| &mut n.operands) {
            *v = values[v];
        }
        self.outputs.iter_mut().for_each(|(_, v)| *v = values[v]);

        let mut weights = vec![None; self.weights.len()];
        let mut states = vec![None; self.states.len()];
        for op in self.nodes.iter().map(|n| n.op) {
            if let Op::Weight { id } = op {
                weights[id.0 as usize] = Some(id);
            }
            if let Some(id) = op.state() {
                states[id.0 as usize] = Some(id);
            }
        }
        keep(&mut self.weights, &mut weights, WeightId);
        keep(&mut self.states, &mut states, StateId);
        for node in &mut self.nodes {
            if let Op::Weight { id } = &mut node.op {
                *id = weights[id.0 as usize].expect("a weight that is used is kept");
            }
            if let Some(id) = node.op.state_mut() {
                *id = states[id.0 as usize].expect("a state that is used is kept");
            }
        }
    }
}

/// Keep the entries that have an id, and give them ids in order.
fn keep<T, Id>(table: &mut Vec<T>, ids: &mut [Option<Id>], id: impl Fn(u32) -> Id) {
    let mut kept = ids.iter().map(Option::is_some);
    table.retain(|_| kept.next().expect("an entry for each"));
    for (id, n) in ids.iter_mut().flatten().zip((0..).map(id)) {
        *id = n;
    }
}

#[cfg(test)]
mod tests;
