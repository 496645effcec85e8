//! The definitions of what passes make, as compositions.

use super::ops::{self, Delta, matmul, rms_norm, rope, sigmoid, silu, softplus};
use super::sequence::Kv;
use super::tensor::Tensor;

/// `silu(x · gateᵀ) · (x · upᵀ)`, of one row; `up` is the row of the weight where up begins.
pub fn swiglu(x: &[f32], weight: &[f32], width: usize, up: usize) -> Vec<f32> {
    let part = |first: usize| matmul(x, &weight[first * x.len()..][..width * x.len()]);
    part(0).into_iter().zip(part(up)).map(|(gate, up)| silu(gate) * up).collect()
}

/// Convolution and silu of the columns `[q | k | v]`, then the l2 norm of each head of q and k, q scaled.
pub fn delta_conv(
    x: &Tensor,
    weight: &[f32],
    Delta { nk, dk, nv, dv }: Delta,
    (eps, scale): (f32, f32),
    history: &mut Vec<f32>,
) -> Vec<f32> {
    let channels = 2 * nk * dk + nv * dv;
    let mut out = ops::conv(&x.columns(0, channels), weight, channels, history);
    out.iter_mut().for_each(|v| *v = silu(*v));
    for row in out.chunks_exact_mut(channels) {
        for (head, x) in row[..2 * nk * dk].chunks_exact_mut(dk).enumerate() {
            x.copy_from_slice(&ops::l2_norm(x, eps, if head < nk { scale } else { 1.0 }));
        }
    }
    out
}

/// Columns of `x` that the delta rule reads.
#[derive(Debug, Clone, Copy)]
pub struct DeltaColumns {
    pub z: usize,
    pub b: usize,
    pub a: usize,
}

/// The gated delta rule with its gates before it and its gated norm behind it.
pub fn delta_rule(
    qkv: &Tensor,
    x: &Tensor,
    [decay, dt_bias, norm]: [&[f32]; 3],
    heads: Delta,
    columns: DeltaColumns,
    eps: f32,
    state: &mut [f32],
) -> Vec<f32> {
    let Delta { nk, dk, nv, dv } = heads;
    let a = x.columns(columns.a, nv);
    let g: Vec<f32> =
        (0..a.len()).map(|i| decay[i % nv] * softplus(a[i] + dt_bias[i % nv])).collect();
    let beta: Vec<f32> = x.columns(columns.b, nv).into_iter().map(sigmoid).collect();
    let q = qkv.columns(0, nk * dk);
    let k = qkv.columns(nk * dk, nk * dk);
    let v = qkv.columns(2 * nk * dk, nv * dv);
    let out = ops::gated_delta([&q, &k, &v, &g, &beta], heads, state);
    let z = x.columns(columns.z, nv * dv);
    let gated = |(out, z): (&[f32], &[f32])| {
        let normed = rms_norm(out, norm, eps).into_iter();
        normed.zip(z).map(|(n, &z)| n * silu(z)).collect::<Vec<_>>()
    };
    out.chunks_exact(dv).zip(z.chunks_exact(dv)).flat_map(gated).collect()
}

/// Columns of `x` that `qk_rope` reads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionColumns {
    pub heads: usize,
    pub kv_heads: usize,
    pub width: usize,
    pub q: usize,
    pub k: usize,
    pub v: usize,
}

/// Queries after norm and RoPE, `[T, heads · width]`; keys, the same way, and values go to the cache.
pub fn qk_rope(
    x: &Tensor,
    [q_norm, k_norm]: [&[f32]; 2],
    table: &Tensor,
    c: AttentionColumns,
    eps: f32,
    cache: &mut Kv,
) -> Vec<f32> {
    let per_token = table.f32s().len() / table.shape[0];
    let rotated = |head: &[f32], norm: &[f32], t: usize| {
        let mut head = rms_norm(head, norm, eps);
        rope(&mut head, &table.f32s()[t * per_token..][..per_token]);
        head
    };
    let (mut queries, mut keys) = (vec![], vec![]);
    for (t, row) in x.rows().enumerate() {
        for i in 0..c.heads {
            queries.extend(rotated(&row[c.q + 2 * i * c.width..][..c.width], q_norm, t));
        }
        for i in 0..c.kv_heads {
            keys.extend(rotated(&row[c.k + i * c.width..][..c.width], k_norm, t));
        }
    }
    cache.append(&keys, &x.columns(c.v, c.kv_heads * c.width));
    queries
}

/// Attention over the cache, times `sigmoid` of the gates in `x`, head i's at `gate + 2·i·width`.
pub fn gated_attention(
    q: &[f32],
    x: &Tensor,
    heads: usize,
    gate: usize,
    scale: f32,
    cache: &Kv,
) -> Vec<f32> {
    let width = cache.width;
    let mut out = ops::attend(q, heads, cache, scale);
    for (out, x) in out.chunks_exact_mut(heads * width).zip(x.rows()) {
        for (i, head) in out.chunks_exact_mut(width).enumerate() {
            let gates = &x[gate + 2 * i * width..][..width];
            head.iter_mut().zip(gates).for_each(|(v, &gate)| *v *= sigmoid(gate));
        }
    }
    out
}
