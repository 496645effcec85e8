//! A decoder layer in primitive ops (spec sections 7 to 10): a mixer and a feed-forward net,
//! each on a norm of the residual stream and added to it.
//!
//! This is the model as the specification writes it, a line a step. What is good for a machine
//! (one matrix for several projections, fused norms and gates) is left to the passes.

use super::build::{Block, Options};
use super::config::{Config, LayerKind, Mlp, Moe};
use super::tensors::Role;
use q35_graph::{Graph, Op, Port, State, Value};
use q35_types::pack::Transform;

/// The eps inside the root of the l2 norms, fixed (spec 8.3).
const L2_EPS: f32 = 1e-6;

/// The block of every layer of a kind: `hidden` (and `rope`) in, `hidden` out.
pub(super) fn layer(config: &Config, kind: LayerKind, options: &Options) -> Graph {
    let name = match kind {
        LayerKind::DeltaNet => "delta_net",
        LayerKind::Attention => "attention",
    };
    let mut b = Block::layer(name, config, kind, options);
    let x = b.hidden();

    let normed = b.norm(x, Role::InputLayernorm);
    let mixed = match kind {
        LayerKind::DeltaNet => linear_attn(&mut b, normed),
        LayerKind::Attention => self_attn(&mut b, normed),
    };
    let x = b.push(Op::Add {}, &[x, mixed]);

    let normed = b.norm(x, Role::PostAttentionLayernorm);
    let fed = match config.mlp {
        Mlp::Dense { .. } => mlp(&mut b, normed, [Role::GateProj, Role::UpProj, Role::DownProj]),
        Mlp::Moe(moe) => mixture(&mut b, normed, moe),
    };
    let x = b.push(Op::Add {}, &[x, fed]);
    b.output(Port::Hidden, x);
    b.finish()
}

/// Gated full attention (spec section 7).
fn self_attn(b: &mut Block, x: Value) -> Value {
    let c = b.config;
    let (heads, kv_heads, width) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
    let rope = b.rope();
    let state = b.state(State::Kv { dtype: b.options.kv, heads: kv_heads, head_dim: width });

    // Each head's query, then its gate.
    let query_gate = b.linear(x, Role::QProj);
    let query_gate = b.push(Op::Split { heads }, &[query_gate]);
    let q = b.push(Op::Slice { start: 0, len: width }, &[query_gate]);
    let gate = b.push(Op::Slice { start: width, len: width }, &[query_gate]);
    let k = b.linear(x, Role::KProj);
    let k = b.push(Op::Split { heads: kv_heads }, &[k]);
    let v = b.linear(x, Role::VProj);
    let v = b.push(Op::Split { heads: kv_heads }, &[v]);

    let q = b.head_norm(q, Role::QNorm, Transform::AddOne);
    let q = b.push(Op::Rope {}, &[q, rope]);
    let k = b.head_norm(k, Role::KNorm, Transform::AddOne);
    let k = b.push(Op::Rope {}, &[k, rope]);

    let scale = 1.0 / (width as f32).sqrt();
    let out = b.push(Op::Attention { scale, state }, &[q, k, v]);
    let out = b.push(Op::Join {}, &[out]);
    let gate = b.push(Op::Join {}, &[gate]);
    let gate = b.push(Op::Sigmoid {}, &[gate]);
    let gated = b.push(Op::Mul {}, &[out, gate]);
    b.linear(gated, Role::OProj)
}

/// Gated DeltaNet (spec section 8).
fn linear_attn(b: &mut Block, x: Value) -> Value {
    let c = b.config;
    let (nk, nv) = (c.linear_num_key_heads, c.linear_num_value_heads);
    let (dk, dv) = (c.linear_key_head_dim, c.linear_value_head_dim);
    let (kd, vd) = (c.linear_key_width(), c.linear_value_width());
    let taps = c.linear_conv_kernel_dim;
    let history = b.state(State::Conv { taps, channels: c.conv_channels() });
    let matrix = b.state(State::Delta { heads: nv, dk, dv });

    let qkv = b.linear(x, Role::InProjQkv);
    let z = b.linear(x, Role::InProjZ);
    let beta = b.linear(x, Role::InProjB);
    let a = b.linear(x, Role::InProjA);

    let weight = b.taps();
    let qkv = b.push(Op::Conv { state: history }, &[qkv, weight]);
    let qkv = b.push(Op::Silu {}, &[qkv]);
    let q = b.push(Op::Slice { start: 0, len: kd }, &[qkv]);
    let k = b.push(Op::Slice { start: kd, len: kd }, &[qkv]);
    let v = b.push(Op::Slice { start: 2 * kd, len: vd }, &[qkv]);
    let q = b.push(Op::Split { heads: nk }, &[q]);
    let q = b.push(Op::L2Norm { eps: L2_EPS, scale: 1.0 / (dk as f32).sqrt() }, &[q]);
    let k = b.push(Op::Split { heads: nk }, &[k]);
    let k = b.push(Op::L2Norm { eps: L2_EPS, scale: 1.0 }, &[k]);
    let v = b.push(Op::Split { heads: nv }, &[v]);

    let dt_bias = b.vector(Role::DtBias, Transform::None);
    let decay = b.vector(Role::ALog, Transform::NegExp);
    // The sum has the type of its first operand: float32.
    let step = b.push(Op::Add {}, &[dt_bias, a]);
    let step = b.push(Op::Softplus {}, &[step]);
    let g = b.push(Op::Mul {}, &[step, decay]);
    let beta = b.push(Op::Sigmoid {}, &[beta]);
    let out = b.push(Op::GatedDelta { state: matrix }, &[q, k, v, g, beta]);

    // The only norm that is not zero-centred.
    let out = b.head_norm(out, Role::LinearNorm, Transform::None);
    let z = b.push(Op::Split { heads: nv }, &[z]);
    let gate = b.push(Op::Silu {}, &[z]);
    let gated = b.push(Op::Mul {}, &[out, gate]);
    let gated = b.push(Op::Join {}, &[gated]);
    b.linear(gated, Role::OutProj)
}

/// `down(silu(gate(x)) · up(x))` (spec 5.3).
fn mlp(b: &mut Block, x: Value, [gate, up, down]: [Role; 3]) -> Value {
    let gate = b.linear(x, gate);
    let up = b.linear(x, up);
    let gate = b.push(Op::Silu {}, &[gate]);
    let both = b.push(Op::Mul {}, &[gate, up]);
    b.linear(both, down)
}

/// The chosen experts and the shared one (spec section 9).
fn mixture(b: &mut Block, x: Value, moe: Moe) -> Value {
    let width = moe.moe_intermediate_size;
    let (experts, k) = (moe.num_experts, moe.num_experts_per_tok);

    let logits = b.linear_f32(x, Role::Router);
    let ids = b.push(Op::TopK { experts, k }, &[logits]);
    let weights = b.push(Op::RouteWeights {}, &[logits, ids]);

    let gate_up = b.experts(Role::ExpertsGateUp, &[Role::ExpertGate, Role::ExpertUp]);
    let gate_up = b.push(Op::ExpertMatMul {}, &[x, gate_up, ids]);
    let gate = b.push(Op::Slice { start: 0, len: width }, &[gate_up]);
    let up = b.push(Op::Slice { start: width, len: width }, &[gate_up]);
    let gate = b.push(Op::Silu {}, &[gate]);
    let both = b.push(Op::Mul {}, &[gate, up]);
    let down = b.experts(Role::ExpertsDown, &[Role::ExpertDown]);
    let routed = b.push(Op::ExpertMatMul {}, &[both, down, ids]);
    let routed = b.push(Op::ExpertSum {}, &[routed, weights]);

    let roles = [Role::SharedGateProj, Role::SharedUpProj, Role::SharedDownProj];
    let shared = mlp(b, x, roles);
    let gate = b.linear_f32(x, Role::SharedExpertGate);
    let gate = b.push(Op::Sigmoid {}, &[gate]);
    let shared = b.push(Op::Mul {}, &[shared, gate]);
    b.push(Op::Add {}, &[routed, shared])
}
