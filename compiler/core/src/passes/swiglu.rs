//! Gate and up projection in one.
//!
//! ```text
//! %5 = matmul %x, gate_proj+up_proj
//! %6 = slice %5 start=0 len=n
//! %7 = slice %5 start=n len=n   ═▶    %9 = swiglu %x, gate_proj+up_proj width=n up=n
//! %8 = silu %6
//! %9 = mul %8, %7
//! ```
//!
//! A task computes a tile of gate and the same tile of up, so that `[T, 2n]` never goes through
//! memory. It stands after `projections`, which puts the two matrices together.
//!
//! A product that something else reads would have to be done twice; we leave it alone. So we do
//! one whose type is not its input's, which `swiglu` cannot say.

use super::columns::{GateUp, gate_up};
use q35_graph::{Entry, Graph, Op, Rewrite, Rewriter, Value};

pub(super) fn run(graph: &mut Graph, _: Entry) {
    graph.rewrite(swiglu);
}

fn swiglu(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let GateUp { product, width, up } = gate_up(g, root)?;
    let (Op::MatMul { dtype }, &[x, weight]) = g.at(product) else {
        return None;
    };
    (dtype == g.ty(x).dtype).then(|| Rewrite::new(Op::SwiGlu { width, up }, [x, weight]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, matrix, nodes, small};
    use super::*;
    use q35_graph::Port;
    use q35_types::DType;

    /// Gate and up of a product of type `dtype`: the graph, the product and the result.
    fn mlp(dtype: DType, up: u32) -> (Graph, [Value; 2]) {
        let (mut g, x) = small();
        let weight = matrix(&mut g, "mlp.gate_proj+up_proj.weight", 16);
        let product = g.push(Op::MatMul { dtype }, [x, weight]);
        let gate = g.push(Op::Slice { start: 0, len: 8 }, [product]);
        let up = g.push(Op::Slice { start: up, len: 8 }, [product]);
        let gate = g.push(Op::Silu {}, [gate]);
        let both = g.push(Op::Mul {}, [gate, up]);
        g.output(Port::Hidden, both);
        (g, [product, gate])
    }

    #[test]
    fn gate_and_up_become_one_op() {
        let (g, _) = mlp(DType::Bf16, 8);
        insta::assert_snapshot!(nodes(&after("swiglu", g, Entry::Prefill)), @"
        %0: bf16[T, 8] = input {port: hidden}
        %1: bf16[16, 8] = weight {id: w0}
        %2: bf16[T, 8] = swiglu %0, %1 {width: 8, up: 8}
        return hidden %2
        ");
    }

    #[test]
    fn a_product_that_others_read_stays() {
        for other in 0..2 {
            let (mut g, values) = mlp(DType::Bf16, 8);
            g.push(Op::Sigmoid {}, [values[other]]);
            assert_eq!(after("swiglu", g.clone(), Entry::Prefill), g);
        }
    }

    #[test]
    fn columns_that_overlap_stay() {
        let (g, _) = mlp(DType::Bf16, 4);
        assert_eq!(after("swiglu", g.clone(), Entry::Prefill), g);
    }

    #[test]
    fn a_product_of_another_type_stays() {
        let (g, _) = mlp(DType::F32, 8);
        assert_eq!(after("swiglu", g.clone(), Entry::Prefill), g);
    }
}
