//! Normalise in the product that reads it, when decoding.
//!
//! ```text
//! %5 = rms_norm %x, norm
//! %6 = matmul %5, weight        ═▶    %6 = norm_matmul %x, norm, weight
//! ```
//!
//! In `decode` a norm is a launch that does next to nothing, and the rows are few: each task of
//! the product normalises them again faster than it would wait for another to do so. In `prefill`
//! every tile of the output would normalise its input again, so there, and in `head`, a norm stays
//! an op. It stands after `projections` and `swiglu`, which leave one reader.
//!
//! A norm that several read (router, experts and shared expert) is left alone: doing it once for
//! all is what a launch is for.

use q35_graph::{Entry, Graph, Op, Rewrite, Rewriter, Value};

pub(super) fn run(graph: &mut Graph, entry: Entry) {
    match entry {
        Entry::Decode => graph.rewrite(norm),
        Entry::Prefill | Entry::Head | Entry::Greedy | Entry::Candidates => return,
    };
}

fn norm(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let (op, &[normed, weight]) = g.at(root) else {
        return None;
    };
    let (Op::RmsNorm { eps, zero_centred }, &[x, norm]) = g.at(normed) else {
        return None;
    };
    let op = match op {
        Op::MatMul { dtype } => Op::NormMatMul { eps, zero_centred, dtype },
        Op::SwiGlu { width, up } => Op::NormSwiGlu { eps, zero_centred, width, up },
        _ => return None,
    };
    g.used_once(normed).then(|| Rewrite::new(op, [x, norm, weight]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, all, block_before, golden, nodes};
    use super::*;

    fn dense(entry: Entry) -> Graph {
        block_before("norm", &golden("dense-tied-odd"), entry, "attention")
    }

    #[test]
    fn decode_normalises_in_the_product() {
        let g = after("norm", dense(Entry::Decode), Entry::Decode);
        let text = nodes(&g);
        let fused = text.lines().filter(|l| l.contains("= norm_"));
        insta::assert_snapshot!(fused.collect::<Vec<_>>().join("\n"), @"
        %4: bf16[T, 240] = norm_matmul %0, %1, %3 {eps: 0.000001, zero_centred: true, dtype: bf16}
        %13: bf16[T, 90] = norm_swiglu %10, %11, %12 {eps: 0.000001, zero_centred: true, width: 90, up: 90}
        ");
        assert!(all(&g, "rms_norm").is_empty());
    }

    #[test]
    fn prefill_normalises_once() {
        let g = dense(Entry::Prefill);
        assert_eq!(after("norm", g.clone(), Entry::Prefill), g);
        assert_eq!(all(&g, "rms_norm").len(), 2);
    }

    #[test]
    fn a_norm_that_several_read_stays() {
        let g = block_before("norm", &golden("tiny-moe"), Entry::Decode, "attention");
        let g = after("norm", g, Entry::Decode);
        let [norm] = all(&g, "rms_norm")[..] else { panic!("one norm stays") };
        let readers = g.nodes.iter().filter(|n| n.operands.contains(&norm));
        let mut readers: Vec<&str> = readers.map(|n| n.op.name()).collect();
        readers.sort_unstable();
        assert_eq!(readers, ["expert_swiglu", "matmul", "swiglu"]);
    }
}
