//! A drawing for Graphviz.

use crate::graph::{Graph, Value};
use crate::op::Op;
use petgraph::dot::{Config, Dot};
use petgraph::graph::DiGraph;

/// The graph in the DOT language: a box an op, an arrow an operand. Weights carry their names.
///
/// Panics if a node reads a value that does not exist; a [verified](crate::verify()) graph has none.
pub fn dot(graph: &Graph) -> String {
    let mut drawing = DiGraph::<String, &str>::new();
    let boxes: Vec<_> = graph.values().map(|v| drawing.add_node(label(graph, v))).collect();
    for user in graph.values() {
        let node = graph.node(user);
        for (operand, name) in node.operands.iter().zip(node.op.operands()) {
            drawing.add_edge(boxes[operand.0 as usize], boxes[user.0 as usize], name);
        }
    }
    for (port, v) in &graph.outputs {
        let end = drawing.add_node(format!("return {}", port.name()));
        drawing.add_edge(boxes[v.0 as usize], end, "");
    }
    let config = [Config::NodeNoLabel, Config::EdgeNoLabel, Config::GraphContentOnly];
    let body = Dot::with_attr_getters(
        &drawing,
        &config,
        &|_, edge| format!("label = {:?}", edge.weight()),
        &|_, (_, text)| format!("label = {text:?}"),
    );
    format!("digraph {:?} {{\n    node [shape = box]\n{body:?}}}\n", graph.name)
}

fn label(graph: &Graph, v: Value) -> String {
    let node = graph.node(v);
    let what = match node.op {
        Op::Weight { id } => graph.weight(id).name.clone(),
        Op::Input { port } => format!("input {}", port.name()),
        op => op.name().to_owned(),
    };
    format!("{v} {what}\n{}", node.ty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_has_a_box_an_op_and_an_arrow_an_operand() {
        let text = "block b\n%0: f32[T, 4] = input {port: hidden}\n\
            %1: f32[T, 4] = mul %0, %0\nreturn hidden %1\n";
        let graph = crate::text::graph("b", text).expect("the text is well formed");
        insta::assert_snapshot!(dot(&graph), @r#"
        digraph "b" {
            node [shape = box]
            0 [ label = "%0 input hidden\nf32[T, 4]"]
            1 [ label = "%1 mul\nf32[T, 4]"]
            2 [ label = "return hidden"]
            0 -> 1 [ label = "a"]
            0 -> 1 [ label = "b"]
            1 -> 2 [ label = ""]
        }
        "#);
    }
}
