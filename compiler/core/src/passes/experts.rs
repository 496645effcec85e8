//! Tokens by expert, each expert's weights read once.
//!
//! ```text
//! %5 = top_k %logits                      %5 = top_k %router
//! %6 = route_weights %logits, %5          %6 = expert_groups %5
//! expert_matmul, silu, mul          ═▶    %7 = expert_swiglu %x, gate_up_proj, %6
//! expert_matmul, expert_sum               %8 = expert_linear %7, down_proj, %6
//! + sigmoid(gate) · shared, + %h          %9 = expert_combine %8, %router, %5, %shared, %h
//! ```
//!
//! An expert chosen by many tokens would have its weights read for each. Grouped, a task takes an
//! expert's tile of weights to all its tokens; the results lie by token and rank, so that the last
//! op adds a token's experts in rank order whoever else is in the step. That op also does what
//! would otherwise be five trips of `[T, hidden]`: routing weights, shared expert, its gate, the
//! residual.
//!
//! Router and shared gate are columns of one product (`projections`), read as they lie. The pass
//! wants the whole pattern: half of it would be an op with no kernel.

use super::columns::{Columns, GateUp, all_used_once, columns, gate_up, only_read_by};
use q35_graph::{Entry, Graph, Op, Rewrite, Rewriter, Value};

pub(super) fn run(graph: &mut Graph, _: Entry) {
    graph.rewrite(experts);
}

fn experts(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let [residual, mixed] = g.matches(root, Op::Add {})?;
    let [routed, lit] = g.matches(mixed, Op::Add {})?;
    let [shared, opened] = g.matches(lit, Op::Mul {})?;
    let [gate] = g.matches(opened, Op::Sigmoid {})?;

    let [down, weights] = g.matches(routed, Op::ExpertSum {})?;
    let [both, down_proj, ids] = g.matches(down, Op::ExpertMatMul {})?;
    let GateUp { product, width, up } = gate_up(g, both)?;
    let [x, gate_up_proj, ids2] = g.matches(product, Op::ExpertMatMul {})?;

    let (Op::TopK { experts, k }, &[logits]) = g.at(ids) else {
        return None;
    };
    let [logits2, ids3] = g.matches(weights, Op::RouteWeights {})?;
    let Columns { of: router, start, len } = columns(g, logits)?;
    let Columns { of: router2, start: gate, len: 1 } = columns(g, gate)? else {
        return None;
    };

    let one_choice = ids == ids2 && ids == ids3 && logits == logits2;
    let one_router = router == router2 && (start, len) == (0, experts);
    // An expert's input is the token, not the token's share of the rank.
    let per_token = g.ty(x).shape.len() == 2;
    let same_types = [shared, residual].iter().all(|&v| g.ty(v).shape == g.ty(root).shape);
    let private = all_used_once(g, &[mixed, routed, lit, opened, down, weights, both])
        && only_read_by(g, ids, &[product, down, weights]);
    if !(one_choice && one_router && per_token && same_types && private) {
        return None;
    }

    let mut new = g.draft();
    let ids = new.push(Op::TopK { experts, k }, [router]);
    let groups = new.push(Op::ExpertGroups { experts }, [ids]);
    let both = new.push(Op::ExpertSwiGlu { k, width, up }, [x, gate_up_proj, groups]);
    let down = new.push(Op::ExpertLinear {}, [both, down_proj, groups]);
    new.push(Op::ExpertCombine { gate }, [down, router, ids, shared, residual]);
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, all, block_before, golden, nodes};
    use super::*;

    fn before() -> Graph {
        block_before("experts", &golden("moe-ratio3-yarn"), Entry::Prefill, "attention")
    }

    #[test]
    fn a_mixture_becomes_grouped_products() {
        let g = after("experts", before(), Entry::Prefill);
        let text = nodes(&g);
        let fused = text.lines().filter(|l| l.contains("= expert_") || l.contains("top_k"));
        insta::assert_snapshot!(fused.collect::<Vec<_>>().join("\n"), @"
        %23: i32[T, 3] = top_k %16 {experts: 10, k: 3}
        %24: i32[3T+22] = expert_groups %23 {experts: 10}
        %25: bf16[T, 3, 22] = expert_swiglu %14, %17, %24 {k: 3, width: 22, up: 22}
        %26: bf16[T, 3, 84] = expert_linear %25, %18, %24
        %27: bf16[T, 84] = expert_combine %26, %16, %23, %22, %12 {gate: 10}
        ");
        let gone = ["expert_matmul", "expert_sum", "route_weights", "slice", "sigmoid"];
        assert_eq!(gone.map(|op| all(&g, op).len()), [0; 5]);
    }

    #[test]
    fn values_that_others_read_stay() {
        for op in ["expert_sum", "route_weights", "expert_matmul"] {
            let mut g = before();
            let v = all(&g, op)[0];
            g.push(Op::Sigmoid {}, [v]);
            assert_eq!(after("experts", g.clone(), Entry::Prefill), g, "{op}");
        }
    }

    /// `expert_combine` reads logits from the product, so its columns must begin there.
    #[test]
    fn logits_elsewhere_in_the_product_stay() {
        let mut g = before();
        let moved = |v: &Value| g.node(*v).op == Op::Slice { start: 0, len: 10 };
        let logits = g.values().find(moved).unwrap();
        g.nodes[logits.0 as usize].op = Op::Slice { start: 1, len: 10 };
        assert_eq!(after("experts", g.clone(), Entry::Prefill), g);
    }
}
