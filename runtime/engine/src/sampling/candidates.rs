//! The tokens still in play: from all logits to the few that may be drawn.
//!
//! The vocabulary has a quarter of a million tokens and all but a few dozen are never drawn. So
//! nothing here sorts it: `top_k` is a scan that keeps a small buffer, and `top_p` sorts only as
//! many of the likeliest as it takes to reach its mass.

use std::cmp::Ordering;

use super::exp::exp;
use super::take::Ranked;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    logit: f32,
    id: u32,
    /// Its probability, but for a common factor; the likeliest has 1.
    weight: f64,
}

/// The candidates of one step; the memory is kept from step to step.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
}

impl Candidates {
    /// The `k` likeliest tokens by rank, or all by id for 0; of equal ones those of lower id. Tokens
    /// whose logit is negative infinity or no number are not in play.
    ///
    /// The order decides what is drawn: where others have ranked the tokens it must be theirs.
    pub fn select(&mut self, logits: &[f32], k: usize) {
        self.list.clear();
        if k == 0 {
            self.list.extend(in_play(logits));
            return;
        }
        // The buffer holds the best k so far and newcomers above their worst. Ids only rise, so a
        // newcomer that ties with the worst loses to it.
        let room = k.saturating_mul(2).max(64);
        let mut floor = f32::NEG_INFINITY;
        for candidate in in_play(logits) {
            if candidate.logit > floor {
                self.list.push(candidate);
                if self.list.len() > room {
                    self.keep_best(k);
                    floor = self.list[k - 1].logit;
                }
            }
        }
        self.keep_best(k);
        self.list.sort_unstable_by(by_rank);
    }

    /// The first `k` of tokens that are in play, by rank: what [`select`](Self::select) would find.
    pub fn take(&mut self, ranked: &[Ranked], k: usize) {
        self.list.clear();
        let best = ranked.iter().take(k);
        self.list.extend(best.map(|&Ranked { id, logit }| Candidate { logit, id, weight: 1.0 }));
    }

    /// Weigh the candidates at a temperature above 0. Positive infinity is the largest number, so
    /// that differences exist.
    pub fn weigh(&mut self, temperature: f32) {
        let finite = |c: &Candidate| c.logit.min(f32::MAX);
        let Some(best) = self.list.iter().map(finite).reduce(f32::max) else {
            return;
        };
        for c in &mut self.list {
            c.weight = exp((f64::from(finite(c)) - f64::from(best)) / f64::from(temperature));
        }
    }

    /// The fewest likeliest candidates with at least `top_p` of the weight, in order of rank.
    pub fn keep_mass(&mut self, top_p: f32) {
        let total = self.total();
        let enough = f64::from(top_p) * total;
        // All candidates below this have less weight together than may be left out: spare them the
        // sorting. The factor leaves room for rounding.
        let hopeless = 0.5 * (total - enough) / self.list.len() as f64;
        self.list.retain(|c| c.weight >= hopeless);
        let mut sorted = 0;
        let mut mass = 0.0;
        let mut kept = 0;
        while kept < self.list.len() && mass < enough {
            if kept == sorted {
                sorted = self.sort_more(sorted);
            }
            mass += self.list[kept].weight;
            kept += 1;
        }
        self.list.truncate(kept);
    }

    /// Candidates at least `min_p` times as likely as the likeliest.
    pub fn keep_share(&mut self, min_p: f32) {
        self.list.retain(|c| c.weight >= f64::from(min_p));
    }

    /// The candidate at `fraction`, in [0, 1), of the weight.
    pub fn draw(&self, fraction: f64) -> Option<u32> {
        let mut left = fraction * self.total();
        let drawable = || self.list.iter().filter(|c| c.weight > 0.0);
        for candidate in drawable() {
            left -= candidate.weight;
            if left < 0.0 {
                return Some(candidate.id);
            }
        }
        // Rounding can leave a remainder behind the last one.
        drawable().next_back().map(|c| c.id)
    }

    fn total(&self) -> f64 {
        self.list.iter().map(|c| c.weight).sum()
    }

    /// Put the `k` best in front, the worst of them at `k - 1`, and drop the rest.
    fn keep_best(&mut self, k: usize) {
        if self.list.len() > k {
            self.list.select_nth_unstable_by(k - 1, by_rank);
            self.list.truncate(k);
        }
    }

    /// The first `sorted` stand in order of rank and before all others; returns a larger count
    /// of which that is true.
    fn sort_more(&mut self, sorted: usize) -> usize {
        let goal = (8 * sorted).max(64).min(self.list.len());
        let rest = &mut self.list[sorted..];
        if goal - sorted < rest.len() {
            rest.select_nth_unstable_by(goal - sorted, by_rank);
        }
        rest[..goal - sorted].sort_unstable_by(by_rank);
        goal
    }
}

/// Tokens with a logit to speak of.
fn in_play(logits: &[f32]) -> impl Iterator<Item = Candidate> {
    logits
        .iter()
        .zip(0..)
        .filter(|&(&logit, _)| logit > f32::NEG_INFINITY)
        .map(|(&logit, id)| Candidate { logit, id, weight: 1.0 })
}

/// The likelier first, of equals the lower id.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    let logits = b.logit.partial_cmp(&a.logit).expect("candidates are numbers");
    logits.then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    fn ids(candidates: &Candidates) -> Vec<u32> {
        let mut ids: Vec<u32> = candidates.list.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Few distinct values, so that ties abound, and some that are not in play.
    fn rough_logits(rng: &mut Rng, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| match rng.next_u64() % 40 {
                0 => f32::NAN,
                1 => f32::NEG_INFINITY,
                x => (x % 13) as f32 - 6.0,
            })
            .collect()
    }

    #[test]
    fn select_is_a_full_sort_cut_short() {
        let mut rng = Rng::new(5);
        let mut candidates = Candidates::default();
        for n in [1, 2, 20, 63, 64, 65, 500, 3000] {
            let logits = rough_logits(&mut rng, n);
            let mut all: Vec<Candidate> = in_play(&logits).collect();
            all.sort_by(by_rank);
            for k in [1, 2, 20, 64, 100] {
                candidates.select(&logits, k);
                assert_eq!(candidates.list, all[..k.min(all.len())], "{k} of {n}");
            }
            candidates.select(&logits, 0);
            assert_eq!(candidates.list.len(), all.len());
        }
    }

    #[test]
    fn keep_mass_is_the_shortest_prefix_of_a_full_sort() {
        let mut rng = Rng::new(6);
        let mut candidates = Candidates::default();
        for n in [1, 10, 64, 65, 700, 5000] {
            let logits = rough_logits(&mut rng, n);
            for top_p in [0.01, 0.5, 0.9, 0.999] {
                candidates.select(&logits, 0);
                candidates.weigh(1.5);
                let mut all = candidates.list.clone();
                all.sort_by(by_rank);
                let total = candidates.total();
                candidates.keep_mass(top_p);

                let kept = candidates.list.len();
                let mass = |n: usize| all[..n].iter().map(|c| c.weight).sum::<f64>();
                assert_eq!(candidates.list, all[..kept], "{top_p} of {n}");
                assert!(all.is_empty() || mass(kept) >= f64::from(top_p) * total);
                assert!(kept == 0 || mass(kept - 1) < f64::from(top_p) * total);
            }
        }
    }

    #[test]
    fn keep_share_compares_with_the_likeliest() {
        let mut candidates = Candidates::default();
        candidates.select(&[0.0, -0.6, -0.8, -9.0], 0);
        candidates.weigh(1.0);
        candidates.keep_share(0.5); // ln 0.5 = -0.69
        assert_eq!(ids(&candidates), [0, 1]);
    }

    #[test]
    fn temperature_divides_the_logits() {
        let mut candidates = Candidates::default();
        candidates.select(&[1.0, 2.0], 0);
        candidates.weigh(0.5);
        let weights: Vec<f64> = candidates.list.iter().map(|c| c.weight).collect();
        assert!((weights[0] - (-2.0f64).exp()).abs() < 1e-15);
        assert_eq!(weights[1], 1.0);
    }

    #[test]
    fn draw_walks_the_weights_in_order() {
        let mut candidates = Candidates::default();
        candidates.select(&[0.0, f32::NEG_INFINITY, 0.0, 0.0, 0.0], 0);
        candidates.weigh(1.0);
        let drawn = [0.0, 0.24, 0.25, 0.5, 0.99].map(|f| candidates.draw(f));
        assert_eq!(drawn, [Some(0), Some(0), Some(2), Some(3), Some(4)]);
        assert_eq!(Candidates::default().draw(0.5), None);
    }
}
