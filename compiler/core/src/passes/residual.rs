//! Add the residual stream in the projection before it.
//!
//! ```text
//! %5 = matmul %y, down_proj
//! %6 = add %x, %5               ═▶    %6 = matmul_add %y, down_proj, %x
//! ```
//!
//! The product of a task is in registers; adding to it costs a read of `[T, hidden]` and saves a
//! launch and a trip there and back. With bf16 activations it also saves a rounding.
//! It stands after `experts`, whose last op adds the residual itself.
//!
//! A product that something else reads is left alone, as is a sum that repeats an operand over an
//! axis.

use q35_graph::{Entry, Graph, Op, Rewrite, Rewriter, Value};

pub(super) fn run(graph: &mut Graph, _: Entry) {
    graph.rewrite(residual);
}

fn residual(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let [residual, product] = g.matches(root, Op::Add {})?;
    let (Op::MatMul { .. }, &[x, weight]) = g.at(product) else {
        return None;
    };
    let fits = g.ty(residual) == g.ty(product) && g.used_once(product);
    fits.then(|| Rewrite::new(Op::MatMulAdd {}, [x, weight, residual]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, nodes, product, small};
    use super::*;
    use q35_graph::Port;

    #[test]
    fn the_projection_adds() {
        let (mut g, x) = small();
        let y = product(&mut g, x, "o_proj.weight", 8);
        let sum = g.push(Op::Add {}, [x, y]);
        g.output(Port::Hidden, sum);
        insta::assert_snapshot!(nodes(&after("residual", g, Entry::Prefill)), @"
        %0: bf16[T, 8] = input {port: hidden}
        %1: bf16[8, 8] = weight {id: w0}
        %2: bf16[T, 8] = matmul_add %0, %1, %0
        return hidden %2
        ");
    }

    #[test]
    fn a_product_that_others_read_stays() {
        let (mut g, x) = small();
        let y = product(&mut g, x, "o_proj.weight", 8);
        let sum = g.push(Op::Add {}, [x, y]);
        let both = g.push(Op::Mul {}, [sum, y]);
        g.output(Port::Hidden, both);
        assert_eq!(after("residual", g.clone(), Entry::Prefill), g);
    }

    #[test]
    fn a_column_added_to_all_stays() {
        let (mut g, x) = small();
        let y = product(&mut g, x, "shared_expert_gate.weight", 1);
        let sum = g.push(Op::Add {}, [x, y]);
        g.output(Port::Hidden, sum);
        assert_eq!(after("residual", g.clone(), Entry::Prefill), g);
    }
}
