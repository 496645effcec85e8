//! Drop what changes nothing and what is computed twice.
//!
//! ```text
//! %2 = slice %1 start=0 len=64        (%1: [T, 64])
//! %3 = split %2 heads=4         ═▶    users of %4 read %1
//! %4 = join %3
//! ```
//!
//! It stands first so that later passes meet each pattern in one form only. An op that writes
//! state is never the same as another, and stays though nobody reads it.

use q35_graph::{Entry, Graph, Op, Rewrite, Rewriter, Value};

pub(super) fn run(graph: &mut Graph, _: Entry) {
    graph.rewrite(simplify);
    graph.prune();
}

fn simplify(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    reshaped(g, root).or_else(|| sliced(g, root)).or_else(|| computed_before(g, root))
}

/// `join(split(x))` and `split(join(x))` are x.
fn reshaped(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let x = match g.at(root) {
        (Op::Join {}, &[split]) => match g.at(split) {
            (Op::Split { .. }, &[x]) => x,
            _ => return None,
        },
        (Op::Split { .. }, &[joined]) => g.matches::<1>(joined, Op::Join {})?[0],
        _ => return None,
    };
    (g.ty(x) == g.ty(root)).then(|| Rewrite::to(x))
}

/// A slice of everything is everything; a slice of a slice is one slice.
fn sliced(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let (Op::Slice { start, len }, &[x]) = g.at(root) else {
        return None;
    };
    if g.ty(x) == g.ty(root) {
        return Some(Rewrite::to(x));
    }
    let (Op::Slice { start: before, .. }, &[whole]) = g.at(x) else {
        return None;
    };
    Some(Rewrite::new(Op::Slice { start: before + start, len }, [whole]))
}

/// The same op on the same operands gives the same value.
fn computed_before(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let (op, operands) = g.at(root);
    if op.state().is_some() {
        return None;
    }
    let mut earlier = (0..root.0).map(Value);
    earlier.find(|&v| g.at(v) == (op, operands)).map(Rewrite::to)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, all, product, small};
    use super::*;
    use q35_graph::Port;

    #[test]
    fn slices_of_everything_and_of_slices_go() {
        let (mut g, x) = small();
        let whole = g.push(Op::Slice { start: 0, len: 8 }, [x]);
        let part = g.push(Op::Slice { start: 2, len: 5 }, [whole]);
        let part = g.push(Op::Slice { start: 1, len: 3 }, [part]);
        g.output(Port::Hidden, part);
        insta::assert_snapshot!(after("simplify", g, Entry::Prefill), @"
        block small
        %0: bf16[T, 8] = input {port: hidden}
        %1: bf16[T, 3] = slice %0 {start: 3, len: 3}
        return hidden %1
        ");
    }

    #[test]
    fn reshapes_that_undo_each_other_go() {
        let (mut g, x) = small();
        let heads = g.push(Op::Split { heads: 2 }, [x]);
        let joined = g.push(Op::Join {}, [heads]);
        let heads = g.push(Op::Split { heads: 2 }, [joined]);
        let y = g.push(Op::Silu {}, [heads]);
        let y = g.push(Op::Join {}, [y]);
        g.output(Port::Hidden, y);
        insta::assert_snapshot!(after("simplify", g, Entry::Prefill), @"
        block small
        %0: bf16[T, 8] = input {port: hidden}
        %1: bf16[T, 2, 4] = split %0 {heads: 2}
        %2: bf16[T, 2, 4] = silu %1
        %3: bf16[T, 8] = join %2
        return hidden %3
        ");
    }

    #[test]
    fn what_is_computed_twice_is_computed_once() {
        let (mut g, x) = small();
        let weight = super::super::tests::matrix(&mut g, "w.weight", 8);
        let op = Op::MatMul { dtype: q35_types::DType::Bf16 };
        let (a, b) = (g.push(op, [x, weight]), g.push(op, [x, weight]));
        let y = g.push(Op::Mul {}, [a, b]);
        g.output(Port::Hidden, y);
        insta::assert_snapshot!(after("simplify", g, Entry::Prefill), @r#"
        block small
        w0: bf16[8, 8] rows "w.weight"
          recipe
            rows "model.w.weight" [8, 8] {first: 0, rows: 8, per_expert: 0, transform: none}
        %0: bf16[T, 8] = input {port: hidden}
        %1: bf16[8, 8] = weight {id: w0}
        %2: bf16[T, 8] = matmul %0, %1 {dtype: bf16}
        %3: bf16[T, 8] = mul %2, %2
        return hidden %3
        "#);
    }

    #[test]
    fn other_heads_other_weights_and_other_attributes_stay() {
        let (mut g, x) = small();
        let heads = g.push(Op::Split { heads: 2 }, [x]);
        let joined = g.push(Op::Join {}, [heads]);
        let other = g.push(Op::Split { heads: 4 }, [joined]);
        let other = g.push(Op::L2Norm { eps: 0.5, scale: 1.0 }, [other]);
        let other = g.push(Op::Join {}, [other]);
        let again = g.push(Op::Split { heads: 4 }, [x]);
        let again = g.push(Op::L2Norm { eps: 0.5, scale: 2.0 }, [again]);
        let again = g.push(Op::Join {}, [again]);
        let sum = g.push(Op::Add {}, [other, again]);
        let (a, b) = (product(&mut g, sum, "a.weight", 8), product(&mut g, sum, "b.weight", 8));
        let y = g.push(Op::Mul {}, [a, b]);
        g.output(Port::Hidden, y);
        let g = after("simplify", g, Entry::Prefill);
        assert_eq!(all(&g, "l2_norm").len(), 2);
        assert_eq!(all(&g, "matmul").len(), 2);
    }

    /// Twice the same convolution on one history is two steps of it.
    #[test]
    fn ops_on_state_are_never_the_same() {
        let (mut g, x) = small();
        let taps = super::super::tests::matrix(&mut g, "taps.weight", 8);
        let state = g.add_state(q35_graph::State::Conv { taps: 8, channels: 8 });
        let (a, b) = (g.push(Op::Conv { state }, [x, taps]), g.push(Op::Conv { state }, [x, taps]));
        let y = g.push(Op::Mul {}, [a, b]);
        g.output(Port::Hidden, y);
        assert_eq!(after("simplify", g.clone(), Entry::Prefill), g);
    }
}
