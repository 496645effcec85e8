//! Attention in two ops around its cache.
//!
//! ```text
//! split, slice, rms_norm, rope of q       %7 = qk_rope %x, q_norm, k_norm, %rope
//! split, rms_norm, rope of k        ═▶
//! %20 = attention q, k, v                 %8 = gated_attention %7, %x
//! join, · sigmoid(gate)
//! ```
//!
//! The first op writes this step's keys and values to the cache, normalised and rotated; the
//! second reads keys and values only there, so that a sum over the past has one order however the
//! prompt was cut. Both find their columns in `%x`, the projection that `projections` has made,
//! after which it stands.
//!
//! The pass wants the whole pattern, with every column out of one tensor and nothing between read
//! by others. Half of it would be an op with no kernel.

use super::columns::{Columns, all_used_once, columns, heads_of, only_read_by};
use q35_graph::{Entry, Graph, Op, Rewrite, Rewriter, Value};

pub(super) fn run(graph: &mut Graph, _: Entry) {
    graph.rewrite(attention);
}

fn attention(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let [joined, opened] = g.matches(root, Op::Mul {})?;
    let [out] = g.matches(joined, Op::Join {})?;
    let (Op::Attention { scale, state }, &[q, k, v]) = g.at(out) else {
        return None;
    };
    let [_, heads, width] = g.ty(q).shape[..] else {
        return None;
    };
    let [_, kv_heads, _] = g.ty(k).shape[..] else {
        return None;
    };
    let (heads, kv_heads, width) = (heads.fixed()?, kv_heads.fixed()?, width.fixed()?);

    let query = rotated(g, q)?;
    let key = rotated(g, k)?;
    let [gate_joined] = g.matches(opened, Op::Sigmoid {})?;
    let [gate] = g.matches(gate_joined, Op::Join {})?;

    // Each head's query, then its gate.
    let (Op::Slice { start: 0, len }, &[both]) = g.at(query.x) else {
        return None;
    };
    let [both2] = g.matches(gate, Op::Slice { start: width, len: width })?;
    let [query_gate] = g.matches(both, Op::Split { heads })?;
    let from = [columns(g, query_gate)?, heads_of(g, key.x, kv_heads)?, heads_of(g, v, kv_heads)?];
    let x = from[0].of;
    let lens = [2 * heads * width, kv_heads * width, kv_heads * width];

    let interleaved = both == both2 && len == width && only_read_by(g, both, &[query.x, gate]);
    let one_tensor = from.iter().zip(lens).all(|(c, len)| c.of == x && c.len == len);
    let one_table = query.rope == key.rope && query.eps == key.eps;
    let between = [joined, opened, out, gate_joined, gate, q, k, query.x];
    let private = all_used_once(g, &between) && all_used_once(g, &[query.normed, key.normed]);
    if !(interleaved && one_tensor && one_table && private) {
        return None;
    }

    let mut new = g.draft();
    let [q, k, v] = from.map(|Columns { start, .. }| start);
    let eps = query.eps;
    let q_rope = Op::QkRope { heads, kv_heads, width, q, k, v, eps, state };
    let queries = new.push(q_rope, [x, query.weight, key.weight, query.rope]);
    let gate = q + width;
    new.push(Op::GatedAttention { heads, kv_heads, width, gate, scale, state }, [queries, x]);
    Some(new)
}

/// `rope(rms_norm(x, weight), rope)`
struct Rotated {
    x: Value,
    weight: Value,
    rope: Value,
    eps: f32,
    normed: Value,
}

fn rotated(g: &Rewriter<'_>, v: Value) -> Option<Rotated> {
    let [normed, rope] = g.matches(v, Op::Rope {})?;
    let (Op::RmsNorm { eps, zero_centred: false }, &[x, weight]) = g.at(normed) else {
        return None;
    };
    Some(Rotated { x, weight, rope, eps, normed })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, all, block_before, golden, nodes};
    use super::*;

    fn before() -> Graph {
        block_before("attention", &golden("dense-tied-odd"), Entry::Prefill, "attention")
    }

    #[test]
    fn attention_becomes_two_ops() {
        let g = after("attention", before(), Entry::Prefill);
        let text = nodes(&g);
        let fused = text.lines().filter(|l| l.contains("_rope %") || l.contains("gated_attention"));
        insta::assert_snapshot!(fused.collect::<Vec<_>>().join("\n"), @"
        %8: bf16[T, 60] = qk_rope %5, %6, %7, %3 {heads: 3, kv_heads: 3, width: 20, q: 0, k: 120, v: 180, eps: 0.000001, state: s0}
        %9: bf16[T, 60] = gated_attention %8, %5 {heads: 3, kv_heads: 3, width: 20, gate: 20, scale: 0.2236068, state: s0}
        ");
        let gone = ["attention", "rope", "split", "slice", "join", "sigmoid"];
        assert_eq!(gone.map(|op| all(&g, op).len()), [0; 6]);
    }

    /// The cache would be written twice.
    #[test]
    fn values_that_others_read_stay() {
        for op in ["attention", "rope", "sigmoid", "split"] {
            let mut g = before();
            let v = all(&g, op)[0];
            g.push(Op::Silu {}, [v]);
            assert_eq!(after("attention", g.clone(), Entry::Prefill), g, "{op}");
        }
    }

    #[test]
    fn other_norms_stay() {
        let g = before();
        let q_norm = all(&g, "rms_norm")[1].0 as usize;
        let Op::RmsNorm { eps, zero_centred } = g.nodes[q_norm].op else { panic!("a norm") };
        let others = [
            Op::RmsNorm { eps: 0.5, zero_centred },
            Op::RmsNorm { eps, zero_centred: !zero_centred },
        ];
        for op in others {
            let mut g = g.clone();
            g.nodes[q_norm].op = op;
            assert_eq!(after("attention", g.clone(), Entry::Prefill), g);
        }
    }

    #[test]
    fn a_gate_of_other_columns_stays() {
        let mut g = before();
        let gate = g.values().find(|&v| g.node(v).op == Op::Slice { start: 20, len: 20 }).unwrap();
        g.nodes[gate.0 as usize].op = Op::Slice { start: 0, len: 20 };
        assert_eq!(after("attention", g.clone(), Entry::Prefill), g);
    }
}
