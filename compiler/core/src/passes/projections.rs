//! One matrix for all that a module makes of one input.
//!
//! ```text
//! %4 = matmul %x, q_proj              %4 = matmul %x, q_proj+k_proj+v_proj
//! %5 = matmul %x, k_proj        ═▶    %5 = slice %4 start=0 len=..
//! %6 = matmul %x, v_proj              %6 = slice %4 ..    %7 = slice %4 ..
//! ```
//!
//! The weights' rows come one after another, in the order of the products. While decoding, one
//! launch reads what took four, and the small matrices (b and a of DeltaNet have a row a head,
//! the shared expert's gate has one) ride along with the large; in prefill the input is read once.
//! It stands before the passes that fuse what follows, which find their columns in one tensor.
//!
//! Only products of one module go together: what `linear_attn`, `self_attn`, `mlp` or
//! `mlp.shared_expert` does with its parts, the next passes know. Weights of another element type
//! or columns, products of another type, and weights that others read stay apart.

use q35_graph::{Entry, Graph, Op, Part, Rewrite, Rewriter, Value, Weight};

pub(super) fn run(graph: &mut Graph, _: Entry) {
    graph.rewrite(merge);
}

fn merge(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let (Op::MatMul { .. }, &[x, _]) = g.at(root) else {
        return None;
    };
    let together = |&&v: &&Value| belongs(g, root, v);
    let group: Vec<Value> = g.users(x).iter().filter(together).copied().collect();
    if group.len() < 2 {
        return None;
    }

    let weights: Vec<&Weight> = group.iter().filter_map(|&v| projection(g, v)).collect();
    let mut new = g.draft();
    let weight = new.add_weight(stack(&weights)?);
    let product = new.push(g.at(root).0, [x, weight]);
    let mut start = 0;
    for (&old, weight) in group.iter().zip(&weights) {
        let len = weight.rows;
        let part = new.push(Op::Slice { start, len }, [product]);
        new.replace(old, part);
        start += len;
    }
    Some(new)
}

/// Whether `v` is a product that can share a matrix with `root`.
fn belongs(g: &Rewriter<'_>, root: Value, v: Value) -> bool {
    let (Some(a), Some(b)) = (projection(g, root), projection(g, v)) else {
        return false;
    };
    let same_input = g.at(root).1[0] == g.at(v).1[0];
    let same_types = g.at(root).0 == g.at(v).0 && (a.dtype, a.cols) == (b.dtype, b.cols);
    let same_module = matches!((module(a), module(b)), (Some((a, _)), Some((b, _))) if a == b);
    same_input && same_types && same_module
}

/// The weight of a product, if nothing else reads it.
fn projection<'g>(g: &Rewriter<'g>, v: Value) -> Option<&'g Weight> {
    let (Op::MatMul { .. }, &[_, weight]) = g.at(v) else {
        return None;
    };
    g.used_once(weight).then(|| g.weight(weight))?
}

/// `("layers.{layer}.self_attn", "q_proj")` of `layers.{layer}.self_attn.q_proj.weight`.
fn module(weight: &Weight) -> Option<(&str, &str)> {
    weight.name.strip_suffix(".weight")?.rsplit_once('.')
}

/// The matrices one on another.
fn stack(weights: &[&Weight]) -> Option<Weight> {
    let (path, _) = module(weights.first()?)?;
    let leaves: Option<Vec<&str>> = weights.iter().map(|w| Some(module(w)?.1)).collect();
    let rows = weights.iter().map(|w| w.rows).sum();
    let recipes = weights.iter().fold(vec![Vec::new()], |all, w| each_with_each(&all, &w.recipes));
    let name = format!("{path}.{}.weight", leaves?.join("+"));
    Some(Weight { name, rows, recipes, ..weights[0].clone() })
}

/// Every way to make the one followed by every way to make the other.
fn each_with_each(first: &[Vec<Part>], second: &[Vec<Part>]) -> Vec<Vec<Part>> {
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| [&a[..], b].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, all, block_before, golden, matrix, product, small};
    use super::*;
    use q35_graph::Port;
    use q35_types::DType;

    #[test]
    fn a_module_reads_its_input_once() {
        let (mut g, x) = small();
        let q = product(&mut g, x, "self_attn.q_proj.weight", 8);
        let k = product(&mut g, x, "self_attn.k_proj.weight", 8);
        let y = g.push(Op::Mul {}, [q, k]);
        g.output(Port::Hidden, y);
        insta::assert_snapshot!(after("projections", g, Entry::Prefill), @r#"
        block small
        w0: bf16[16, 8] rows "self_attn.q_proj+k_proj.weight"
          recipe
            rows "model.self_attn.q_proj.weight" [8, 8] {first: 0, rows: 8, per_expert: 0, transform: none}
            rows "model.self_attn.k_proj.weight" [8, 8] {first: 0, rows: 8, per_expert: 0, transform: none}
        %0: bf16[T, 8] = input {port: hidden}
        %1: bf16[16, 8] = weight {id: w0}
        %2: bf16[T, 16] = matmul %0, %1 {dtype: bf16}
        %3: bf16[T, 8] = slice %2 {start: 0, len: 8}
        %4: bf16[T, 8] = slice %2 {start: 8, len: 8}
        %5: bf16[T, 8] = mul %3, %4
        return hidden %5
        "#);
    }

    #[test]
    fn router_and_shared_gate_are_one_product_and_the_shared_expert_another() {
        let config = golden("moe-ratio3-yarn");
        let g = block_before("projections", &config, Entry::Decode, "delta_net");
        let g = after("projections", g, Entry::Decode);
        let names: Vec<&str> =
            g.weights.iter().map(|w| &w.name[..]).filter(|n| n.contains('+')).collect();
        assert_eq!(
            names,
            [
                "layers.{layer}.linear_attn.in_proj_qkv+in_proj_z+in_proj_b+in_proj_a.weight",
                "layers.{layer}.mlp.gate+shared_expert_gate.weight",
                "layers.{layer}.mlp.shared_expert.gate_proj+up_proj.weight",
            ]
        );
    }

    #[test]
    fn every_way_to_make_one_goes_with_every_way_to_make_the_other() {
        let zeros = |rows| Part::Zeros { rows };
        let [a, b] = [[vec![zeros(1)], vec![zeros(2)]], [vec![zeros(3)], vec![zeros(4)]]];
        let all = each_with_each(&a, &b);
        let firsts: Vec<_> = all.iter().map(|r| (r[0].clone(), r[1].clone())).collect();
        let pair = |a, b| (zeros(a), zeros(b));
        assert_eq!(firsts, [pair(1, 3), pair(1, 4), pair(2, 3), pair(2, 4)]);
    }

    /// Two products that could share a matrix but for what `change` does.
    fn holds_back(change: impl Fn(&mut Graph, Value) -> Value) {
        let (mut g, x) = small();
        let first = product(&mut g, x, "mlp.gate_proj.weight", 8);
        let second = change(&mut g, x);
        let y = g.push(Op::Mul {}, [first, second]);
        g.output(Port::Hidden, y);
        let merged = after("projections", g.clone(), Entry::Prefill);
        assert_eq!(merged, g);
        assert_eq!(all(&merged, "slice").len(), 0);
    }

    #[test]
    fn another_module_stays_apart() {
        holds_back(|g, x| product(g, x, "mlp.shared_expert.up_proj.weight", 8));
    }

    #[test]
    fn another_input_stays_apart() {
        holds_back(|g, x| {
            let other = g.push(Op::Silu {}, [x]);
            product(g, other, "mlp.up_proj.weight", 8)
        });
    }

    #[test]
    fn another_result_type_stays_apart() {
        holds_back(|g, x| {
            let weight = matrix(g, "mlp.up_proj.weight", 8);
            g.push(Op::MatMul { dtype: DType::F32 }, [x, weight])
        });
    }

    #[test]
    fn another_weight_type_stays_apart() {
        holds_back(|g, x| {
            let weight = matrix(g, "mlp.up_proj.weight", 8);
            g.weights.last_mut().unwrap().dtype = DType::F32;
            g.nodes[weight.0 as usize].ty.dtype = DType::F32;
            g.push(Op::MatMul { dtype: DType::Bf16 }, [x, weight])
        });
    }

    #[test]
    fn a_weight_that_others_read_stays() {
        holds_back(|g, x| {
            let weight = matrix(g, "mlp.up_proj.weight", 8);
            let up = g.push(Op::MatMul { dtype: DType::Bf16 }, [x, weight]);
            let other = g.push(Op::Silu {}, [x]);
            let other = g.push(Op::MatMul { dtype: DType::Bf16 }, [other, weight]);
            g.push(Op::Add {}, [up, other])
        });
    }
}
