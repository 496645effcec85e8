//! The definitions of the mixture of experts.

use super::ops::{matmul, sigmoid, softmax};

/// The `k` largest of `logits`, largest first, the lower index first among equals.
pub fn top_k(logits: &[f32], k: usize) -> Vec<i32> {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    ids[..k].iter().map(|&id| id as i32).collect()
}

/// Softmax over the logits at `ids`.
pub fn route_weights(logits: &[f32], ids: &[i32]) -> Vec<f64> {
    softmax(&ids.iter().map(|&id| logits[id as usize]).collect::<Vec<_>>())
}

/// The matrix of one expert in a table of `size` elements each.
pub fn expert(table: &[f32], size: usize, id: i32) -> &[f32] {
    &table[id as usize * size..][..size]
}

/// `out[p] = table[ids[p]] · x[p]` for each pair p of token and rank; `x` has a row a pair or one for each `k`.
pub fn expert_matmul(x: &[f32], cols: usize, table: &[f32], rows: usize, ids: &[i32]) -> Vec<f32> {
    let per_row = ids.len() / (x.len() / cols).max(1);
    let row = |p: usize| &x[p / per_row * cols..][..cols];
    let product = |(p, &id): (usize, &i32)| matmul(row(p), expert(table, rows * cols, id));
    ids.iter().enumerate().flat_map(product).collect()
}

/// `Σᵣ weights[r] · x[r]`, of one token.
pub fn expert_sum(x: &[f32], cols: usize, weights: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sums = vec![0f64; cols];
    for (row, weight) in x.chunks_exact(cols).zip(weights) {
        for (sum, &v) in sums.iter_mut().zip(row) {
            *sum += weight * f64::from(v);
        }
    }
    sums
}

/// `residual + Σᵣ softmaxᵣ(logits[ids]) · x[r] + sigmoid(logits[gate]) · shared`, of one token.
pub fn expert_combine(
    x: &[f32],
    logits: &[f32],
    ids: &[i32],
    shared: &[f32],
    residual: &[f32],
    gate: usize,
) -> Vec<f32> {
    let routed = expert_sum(x, residual.len(), route_weights(logits, ids));
    let open = f64::from(sigmoid(logits[gate]));
    let column = |(i, routed): (usize, f64)| {
        (routed + open * f64::from(shared[i]) + f64::from(residual[i])) as f32
    };
    routed.into_iter().enumerate().map(column).collect()
}

/// The words of `expert_groups`; those that nothing is said of are 0.
pub fn expert_groups(ids: &[i32], experts: usize) -> Vec<i32> {
    let pairs = |e: usize| (0..ids.len()).filter(move |&p| ids[p] as usize == e);
    let chosen: Vec<usize> = (0..experts).filter(|&e| pairs(e).next().is_some()).collect();
    let mut words = vec![0; 2 + 2 * experts];
    words[0] = chosen.len() as i32;
    for (i, &e) in chosen.iter().enumerate() {
        words[1 + i] = e as i32;
        words[1 + experts + i] = (words.len() - 2 - 2 * experts) as i32;
        words.extend(pairs(e).map(|p| p as i32));
    }
    words[1 + experts + chosen.len()] = ids.len() as i32;
    words
}

/// The expert of each pair, from the words of `expert_groups`.
pub fn grouped_ids(words: &[i32], experts: usize) -> Vec<i32> {
    let (head, pairs) = words.split_at(2 + 2 * experts);
    let mut ids = vec![0; pairs.len()];
    for i in 0..head[0] as usize {
        let starts = &head[1 + experts + i..];
        for &p in &pairs[starts[0] as usize..starts[1] as usize] {
            ids[p as usize] = head[1 + i];
        }
    }
    ids
}
