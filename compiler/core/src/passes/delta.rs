//! DeltaNet in two ops around its state.
//!
//! ```text
//! %5 = slice %x start=0 len=2KD+VD
//! %6 = conv %5, taps
//! %7 = silu %6                          %7 = delta_conv %x, taps
//! q, k = l2_norm of slices of %7  ═▶
//! %20 = gated_delta q, k, v, g, beta    %9 = delta_rule %7, %x, decay, dt_bias, norm
//! rms_norm, · silu(z), join
//! ```
//!
//! What remains are the two ops that wait for the token before: one on the window of the
//! convolution, one on the matrix of each head. Everything else is arithmetic on a head's own
//! columns (norms, gates, decay), which the task that has the head in registers does on the way.
//! z, b and a stay where `projections` has put them, as columns of `%x`; so it stands after it.
//!
//! The pass wants the whole pattern, with every column out of one tensor and nothing between read
//! by others. Half of it would be an op with no kernel.

use super::columns::{Columns, all_used_once, columns, heads_of, only_read_by};
use q35_graph::{Entry, Graph, Op, Rewrite, Rewriter, StateId, Value};

pub(super) fn run(graph: &mut Graph, _: Entry) {
    graph.rewrite(delta);
}

fn delta(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let [gated] = g.matches(root, Op::Join {})?;
    let [normed, silu_z] = g.matches(gated, Op::Mul {})?;
    let (Op::RmsNorm { eps, zero_centred: false }, &[out, norm]) = g.at(normed) else {
        return None;
    };
    let (Op::GatedDelta { state }, &[q, k, v, decay_exponent, beta]) = g.at(out) else {
        return None;
    };

    let conv = convolved(g, q, k, v)?;
    let Convolved { nk, dk, nv, dv, .. } = conv;
    let [z_heads] = g.matches(silu_z, Op::Silu {})?;
    let z = heads_of(g, z_heads, nv)?;
    let [b] = g.matches(beta, Op::Sigmoid {})?;
    let b = columns(g, b)?;
    let [softplus, decay] = g.matches(decay_exponent, Op::Mul {})?;
    let [sum] = g.matches(softplus, Op::Softplus {})?;
    let [dt_bias, a] = g.matches(sum, Op::Add {})?;
    let a = columns(g, a)?;

    let x = conv.x;
    let one_tensor = [z, b, a].iter().all(|c| c.of == x);
    let per_head = z.len == nv * dv && b.len == nv && a.len == nv;
    let vectors = [decay, dt_bias].iter().all(|&w| g.ty(w).shape.len() == 1);
    let private =
        all_used_once(g, &[gated, normed, silu_z, out, decay_exponent, beta, softplus, sum]);
    if !(one_tensor && per_head && vectors && private) {
        return None;
    }

    let mut new = g.draft();
    let Convolved { taps, eps: l2_eps, scale, history, .. } = conv;
    let qkv = Op::DeltaConv { nk, dk, nv, dv, eps: l2_eps, scale, state: history };
    let qkv = new.push(qkv, [x, taps]);
    let (z, b, a) = (z.start, b.start, a.start);
    let rule = Op::DeltaRule { nk, dk, nv, dv, z, b, a, eps, state };
    new.push(rule, [qkv, x, decay, dt_bias, norm]);
    Some(new)
}

/// q, k and v of a convolution over the first columns of `x`.
struct Convolved {
    x: Value,
    taps: Value,
    history: StateId,
    nk: u32,
    dk: u32,
    nv: u32,
    dv: u32,
    eps: f32,
    scale: f32,
}

fn convolved(g: &Rewriter<'_>, q: Value, k: Value, v: Value) -> Option<Convolved> {
    let (Op::L2Norm { eps, scale }, &[q_heads]) = g.at(q) else {
        return None;
    };
    let [k_heads] = g.matches(k, Op::L2Norm { eps, scale: 1.0 })?;
    let [nk, dk] = heads_and_width(g, q_heads)?;
    let [nv, dv] = heads_and_width(g, v)?;
    let parts = [heads_of(g, q_heads, nk)?, heads_of(g, k_heads, nk)?, heads_of(g, v, nv)?];

    let activated = parts[0].of;
    let [conv] = g.matches(activated, Op::Silu {})?;
    let (Op::Conv { state: history }, &[input, taps]) = g.at(conv) else {
        return None;
    };
    let Columns { of: x, start, len } = columns(g, input)?;

    let (kd, vd) = (nk * dk, nv * dv);
    let wanted = [(0, kd), (kd, kd), (2 * kd, vd)];
    let in_order = parts
        .iter()
        .zip(wanted)
        .all(|(part, (start, len))| *part == Columns { of: activated, start, len });
    let at_the_start = (start, len) == (0, 2 * kd + vd);
    let slices: Vec<Value> = [q_heads, k_heads, v].iter().map(|&v| g.at(v).1[0]).collect();
    let private = all_used_once(g, &[conv, q, k])
        && all_used_once(g, &slices)
        && only_read_by(g, activated, &slices);
    (in_order && at_the_start && private).then_some(Convolved {
        x,
        taps,
        history,
        nk,
        dk,
        nv,
        dv,
        eps,
        scale,
    })
}

/// Heads and their width of a `[T, heads, width]`.
fn heads_and_width(g: &Rewriter<'_>, v: Value) -> Option<[u32; 2]> {
    let [_, heads, width] = g.ty(v).shape[..] else {
        return None;
    };
    Some([heads.fixed()?, width.fixed()?])
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, all, block_before, golden, nodes};
    use super::*;

    fn before() -> Graph {
        block_before("delta", &golden("moe-ratio3-yarn"), Entry::Prefill, "delta_net")
    }

    #[test]
    fn delta_net_becomes_two_ops() {
        let g = after("delta", before(), Entry::Prefill);
        let text = nodes(&g);
        let fused: Vec<&str> = text.lines().filter(|l| l.contains("= delta_")).collect();
        insta::assert_snapshot!(fused.join("\n"), @"
        %9: bf16[T, 168] = delta_conv %4, %5 {nk: 2, dk: 12, nv: 6, dv: 20, eps: 0.000001, scale: 0.28867513, state: s0}
        %10: bf16[T, 120] = delta_rule %9, %4, %7, %6, %8 {nk: 2, dk: 12, nv: 6, dv: 20, z: 168, b: 288, a: 294, eps: 0.000001, state: s1}
        ");
        let gone = ["conv", "l2_norm", "gated_delta", "softplus", "join", "sigmoid"];
        // The sigmoid that is left is the shared expert's gate.
        assert_eq!(gone.map(|op| all(&g, op).len()), [0, 0, 0, 0, 0, 1]);
    }

    /// z, b and a are found by their columns, not by their place in a list.
    #[test]
    fn columns_follow_the_projection() {
        let mut g = before();
        let z = all(&g, "slice")
            .into_iter()
            .find(|&v| g.node(v).op == Op::Slice { start: 168, len: 120 });
        let b = all(&g, "slice")
            .into_iter()
            .find(|&v| g.node(v).op == Op::Slice { start: 288, len: 6 });
        let (z, b) = (z.unwrap(), b.unwrap());
        g.nodes[z.0 as usize].op = Op::Slice { start: 174, len: 120 };
        g.nodes[b.0 as usize].op = Op::Slice { start: 168, len: 6 };
        let g = after("delta", g, Entry::Prefill);
        let rule = all(&g, "delta_rule")[0];
        let Op::DeltaRule { z, b, a, .. } = g.node(rule).op else { unreachable!() };
        assert_eq!((z, b, a), (174, 168, 294));
    }

    /// The state would be written twice.
    #[test]
    fn values_that_others_read_stay() {
        for op in ["conv", "gated_delta", "l2_norm", "softplus"] {
            let mut g = before();
            let v = all(&g, op)[0];
            g.push(Op::Sigmoid {}, [v]);
            assert_eq!(after("delta", g.clone(), Entry::Prefill), g, "{op}");
        }
    }

    #[test]
    fn a_zero_centred_norm_stays() {
        let mut g = before();
        for norm in all(&g, "rms_norm") {
            g.nodes[norm.0 as usize].op = Op::RmsNorm { eps: 1e-6, zero_centred: true };
        }
        assert_eq!(after("delta", g.clone(), Entry::Prefill), g);
    }

    #[test]
    fn queries_and_keys_of_different_eps_stay() {
        let mut g = before();
        let k = all(&g, "l2_norm")[1];
        g.nodes[k.0 as usize].op = Op::L2Norm { eps: 0.5, scale: 1.0 };
        assert_eq!(after("delta", g.clone(), Entry::Prefill), g);
    }
}
