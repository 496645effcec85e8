//! The definitions of what the frontend speaks, experts apart.

use super::sequence::Kv;

/// `Σ a·b`
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side, for speed: in f64 their order is of no account.
    let mut sums = [0f64; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a8.remainder().iter().zip(b8.remainder());
    let rest: f64 = rest.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += f64::from(x[i]) * f64::from(y[i]);
        }
    }
    (sums.iter().sum::<f64>() + rest) as f32
}

fn sum_of_squares(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

/// What an RMS norm multiplies by.
pub fn norm_factor(weight: &[f32], zero_centred: bool) -> Vec<f32> {
    weight.iter().map(|&w| if zero_centred { 1.0 + w } else { w }).collect()
}

/// `x / sqrt(mean(x²) + eps) · weight`, of one row.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f64 + f64::from(eps)).sqrt();
    let normed = x.iter().zip(weight).map(|(&v, &w)| f64::from(v) * scale * f64::from(w));
    normed.map(|v| v as f32).collect()
}

/// `x / sqrt(Σx² + eps) · scale`, of one row.
pub fn l2_norm(x: &[f32], eps: f32, scale: f32) -> Vec<f32> {
    let factor = f64::from(scale) / (sum_of_squares(x) + f64::from(eps)).sqrt();
    x.iter().map(|&v| (f64::from(v) * factor) as f32).collect()
}

/// `out[n] = Σₖ x[k] · weight[n, k]`, of one row.
pub fn matmul(x: &[f32], weight: &[f32]) -> Vec<f32> {
    weight.chunks_exact(x.len()).map(|w| dot(x, w)).collect()
}

pub fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

/// `x · sigmoid(x)`
pub fn silu(x: f32) -> f32 {
    (f64::from(x) / (1.0 + (-f64::from(x)).exp())) as f32
}

/// `ln(1 + eˣ)`
pub fn softplus(x: f32) -> f32 {
    let x = f64::from(x);
    // eˣ overflows for large x, where ln(1 + eˣ) is x + ln(1 + e⁻ˣ).
    (x.max(0.0) + (-x.abs()).exp().ln_1p()) as f32
}

/// `out[t, c] = Σⱼ weight[c, j] · x[t - taps + 1 + j, c]`, with the rows before `x` in `history`, which moves on.
pub fn conv(x: &[f32], weight: &[f32], channels: usize, history: &mut Vec<f32>) -> Vec<f32> {
    let taps = weight.len() / channels;
    let rows = [&history[..], x].concat();
    *history = rows[x.len()..].to_vec();
    let out = |i: usize| {
        let (t, c) = (i / channels, i % channels);
        let tap =
            |j: usize| f64::from(weight[c * taps + j]) * f64::from(rows[(t + j) * channels + c]);
        (0..taps).map(tap).sum::<f64>() as f32
    };
    (0..x.len()).map(out).collect()
}

/// `[T, 2, n]` of `positions: [3, T]`: `scale` times cosines and sines of `p · freqs[j]`, the angle rounded to f32.
pub fn rope_table(positions: &[i32], freqs: &[f32], h: u32, w: u32, scale: f32) -> Vec<f32> {
    let tokens = positions.len() / 3;
    let axis = |j: usize| match j % 3 {
        1 if (j as u64) < 3 * u64::from(h) => 1,
        2 if (j as u64) < 3 * u64::from(w) => 2,
        _ => 0,
    };
    let mut table = vec![];
    for t in 0..tokens {
        let angle = |j: usize| f64::from(positions[axis(j) * tokens + t] as f32 * freqs[j]);
        let scaled = |v: f64| (f64::from(scale) * v) as f32;
        table.extend((0..freqs.len()).map(|j| scaled(angle(j).cos())));
        table.extend((0..freqs.len()).map(|j| scaled(angle(j).sin())));
    }
    table
}

/// `x'ᵢ = xᵢ cosᵢ − xᵢ₊ₙ sinᵢ`, `x'ᵢ₊ₙ = xᵢ₊ₙ cosᵢ + xᵢ sinᵢ`, of one head, with its token's row of the table.
pub fn rope(x: &mut [f32], table: &[f32]) {
    let (cos, sin) = table.split_at(table.len() / 2);
    let n = cos.len();
    for i in 0..n {
        let (a, b) = (f64::from(x[i]), f64::from(x[i + n]));
        let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
        x[i] = (a * c - b * s) as f32;
        x[i + n] = (b * c + a * s) as f32;
    }
}

/// Causal softmax attention of the last tokens of the cache: `q` is `[T, heads, width]`, and so is the result.
pub fn attend(q: &[f32], heads: usize, cache: &Kv, scale: f32) -> Vec<f32> {
    let width = cache.width;
    let before = cache.tokens() - q.len() / (heads * width);
    let mut out = vec![];
    for (i, query) in q.chunks_exact(width).enumerate() {
        let (seen, head) = (before + i / heads + 1, i % heads / (heads / cache.heads));
        let scores: Vec<f32> = (0..seen).map(|s| dot(query, cache.key(s, head)) * scale).collect();
        let mut mixed = vec![0f64; width];
        for (s, p) in softmax(&scores).into_iter().enumerate() {
            for (sum, &v) in mixed.iter_mut().zip(cache.value(s, head)) {
                *sum += p * f64::from(v);
            }
        }
        out.extend(mixed.into_iter().map(|v| v as f32));
    }
    out
}

pub fn softmax(x: &[f32]) -> Vec<f64> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = x.iter().map(|&v| (f64::from(v) - f64::from(max)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

/// Heads of the gated delta rule.
#[derive(Debug, Clone, Copy)]
pub struct Delta {
    pub nk: usize,
    pub dk: usize,
    pub nv: usize,
    pub dv: usize,
}

/// The gated delta rule: `q, k: [T, nk, dk]`, `v: [T, nv, dv]`, `g, beta: [T, nv]`, the state `[nv, dk, dv]`.
pub fn gated_delta(
    [q, k, v, g, beta]: [&[f32]; 5],
    Delta { nk, dk, nv, dv }: Delta,
    state: &mut [f32],
) -> Vec<f32> {
    let mut out = vec![];
    for (i, v) in v.chunks_exact(dv).enumerate() {
        let (t, head) = (i / nv, i % nv);
        let key = (t * nk + head / (nv / nk)) * dk;
        let (q, k) = (&q[key..key + dk], &k[key..key + dk]);
        let state = &mut state[head * dk * dv..][..dk * dv];

        let alpha = f64::from(g[i]).exp();
        state.iter_mut().for_each(|s| *s = (f64::from(*s) * alpha) as f32);
        let predicted = transposed_times(state, k, dv);
        let error = |j: usize| f64::from(beta[i]) * (f64::from(v[j]) - predicted[j]);
        let e: Vec<f64> = (0..dv).map(error).collect();
        for (row, &k) in state.chunks_exact_mut(dv).zip(k) {
            for (s, e) in row.iter_mut().zip(&e) {
                *s = (f64::from(*s) + f64::from(k) * e) as f32;
            }
        }
        out.extend(transposed_times(state, q, dv).into_iter().map(|v| v as f32));
    }
    out
}

/// `Sᵀx`, with `S` of `dv` columns.
fn transposed_times(state: &[f32], x: &[f32], dv: usize) -> Vec<f64> {
    let mut sums = vec![0f64; dv];
    for (row, &x) in state.chunks_exact(dv).zip(x) {
        for (sum, &s) in sums.iter_mut().zip(row) {
            *sum += f64::from(s) * f64::from(x);
        }
    }
    sums
}
