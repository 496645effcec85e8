//! The definitions of what is left of logits.

/// Ids of the `k` largest of the first `valid` logits, largest first, the lower id first among equals,
/// then -1. Negative infinity and what is no number are not among them.
pub fn likeliest(logits: &[f32], valid: i32, k: usize) -> Vec<i32> {
    let valid = usize::try_from(valid).unwrap_or(0).min(logits.len());
    let mut ids: Vec<usize> = (0..valid).filter(|&id| logits[id] > f32::NEG_INFINITY).collect();
    // Stable, so that equals stay in order of their ids.
    ids.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).expect("they are numbers"));
    let ids = ids.into_iter().map(|id| id as i32);
    ids.chain(std::iter::repeat(-1)).take(k).collect()
}

/// The logits at `ids`, and negative infinity for an id of -1.
pub fn logits_at(logits: &[f32], ids: &[i32]) -> impl Iterator<Item = f32> {
    let at = |&id| usize::try_from(id).map_or(f32::NEG_INFINITY, |id| logits[id]);
    ids.iter().map(at)
}
