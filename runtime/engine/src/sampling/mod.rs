//! From a row of logits to the next token.
//!
//! ```text
//! logits of the valid ids ─ penalties ─▶ ─ temperature ─▶ ─ top_k ─▶ ─ top_p ─▶ ─ min_p ─▶ draw
//! ```
//!
//! The order is that of transformers: `top_p` sees the distribution that `top_k` left, made to
//! sum to 1 again. Penalties come in the order of vLLM: repetition, frequency, presence. A token
//! drawn depends on the seed, the tokens seen and the logits alone: the arithmetic is float64
//! in a fixed order and takes nothing from the platform, and each draw uses one random number
//! whatever the controls. Spec 19 has the settings that the published models advise.

mod candidates;
mod exp;
mod params;
mod penalties;
mod rng;
mod take;

use std::hash::{BuildHasher, Hasher, RandomState};

pub use params::{SamplingError, SamplingParams};
pub use rng::Rng;
pub use take::{Ranked, Take, Taken};

use candidates::Candidates;
use penalties::Penalties;

/// No token can be chosen: every logit is negative infinity or not a number, as happens when
/// weights are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("none of {ids} logits is a number, expected one at least")]
pub struct NoToken {
    /// How many logits were looked at.
    pub ids: usize,
}

/// Chooses the tokens of one sequence, and remembers them for the penalties.
///
/// ```
/// use q35_runtime::sampling::{Sampler, SamplingParams};
///
/// let params = SamplingParams { temperature: 0.6, top_k: 20, top_p: 0.95, seed: Some(1), ..Default::default() };
/// let mut sampler = Sampler::new(params, 3)?;
/// sampler.see_prompt(&[2, 0]);
/// let logits = [0.5, 9.0, 0.1, f32::MAX]; // the last one is padding
/// assert_eq!(sampler.sample(&logits)?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    valid_ids: usize,
    seed: u64,
    rng: Rng,
    penalties: Penalties,
    /// A copy of the logits to penalise; empty as long as no penalty is on.
    penalised: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for a new sequence. Only the first `valid_ids` logits count
    /// (`Tokenizer::valid_ids`): the rows behind them are padding.
    ///
    /// # Errors
    ///
    /// [`SamplingParams::validate`]'s.
    pub fn new(params: SamplingParams, valid_ids: u32) -> Result<Self, SamplingError> {
        params.validate()?;
        let seed = params.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Ok(Self {
            valid_ids: valid_ids as usize,
            seed,
            rng: Rng::new(seed),
            penalties: Penalties::new(&params),
            penalised: Vec::new(),
            candidates: Candidates::default(),
            params,
        })
    }

    /// Tell the sampler the tokens of the prompt, which count for `repetition_penalty`.
    pub fn see_prompt(&mut self, ids: &[u32]) {
        self.penalties.see_prompt(ids);
    }

    /// Tell the sampler of a token of the answer that it did not choose itself.
    pub fn see_generated(&mut self, id: u32) {
        self.penalties.see_generated(id);
    }

    /// Choose the next token from its logits (float32, one an id), and remember it as generated.
    ///
    /// # Errors
    ///
    /// [`NoToken`] if there is none to choose.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, NoToken> {
        let logits = &logits[..logits.len().min(self.valid_ids)];
        let chosen = if self.penalties.any() {
            let mut penalised = std::mem::take(&mut self.penalised);
            penalised.clear();
            penalised.extend_from_slice(logits);
            self.penalties.apply(&mut penalised);
            let chosen = self.choose(&penalised);
            self.penalised = penalised;
            chosen
        } else {
            self.choose(logits)
        };
        let id = chosen.ok_or(NoToken { ids: logits.len() })?;
        self.penalties.see_generated(id);
        Ok(id)
    }

    /// The least that [`sample_taken`](Self::sample_taken) can do with, where
    /// [`Take::Candidates`] are so many.
    pub fn needs(&self, candidates: u32) -> Take {
        if self.penalties.any() {
            Take::Logits
        } else if self.params.takes_likeliest() {
            Take::Likeliest
        } else if (1..=candidates).contains(&self.params.top_k) {
            Take::Candidates
        } else {
            Take::Logits
        }
    }

    /// As [`sample`](Self::sample), and the same token, from as much of the logits as it
    /// [`needs`](Self::needs) or more. Tokens of ids that are not valid are not among them.
    ///
    /// Panics if it is less.
    ///
    /// # Errors
    ///
    /// [`NoToken`] if there is none to choose.
    pub fn sample_taken(&mut self, taken: Taken<'_>) -> Result<u32, NoToken> {
        let chosen = match taken {
            Taken::Logits(logits) => return self.sample(logits),
            Taken::Likeliest(id) => {
                assert_eq!(self.needs(0), Take::Likeliest, "a sampler gets what it needs");
                id
            }
            Taken::Candidates(ranked) => match self.needs(u32::MAX) {
                Take::Likeliest => ranked.first().map(|best| best.id),
                Take::Candidates => {
                    self.candidates.take(ranked, self.params.top_k as usize);
                    self.draw()
                }
                Take::Logits => panic!("a sampler gets what it needs"),
            },
        };
        let id = chosen.ok_or(NoToken { ids: self.valid_ids })?;
        self.penalties.see_generated(id);
        Ok(id)
    }

    /// The seed in use, so that a run with a fresh one can be repeated.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        if self.params.takes_likeliest() {
            return likeliest(logits);
        }
        // Dividing by the temperature changes no rank, so it may wait until few are left.
        self.candidates.select(logits, self.params.top_k as usize);
        self.draw()
    }

    /// One of the candidates that `top_k` left.
    fn draw(&mut self) -> Option<u32> {
        let SamplingParams { temperature, top_p, min_p, .. } = self.params;
        self.candidates.weigh(temperature);
        if top_p < 1.0 {
            self.candidates.keep_mass(top_p);
        }
        if min_p > 0.0 {
            self.candidates.keep_share(min_p);
        }
        self.candidates.draw(self.rng.next_f64())
    }
}

/// The id with the largest logit, the lowest of several.
fn likeliest(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut most = f32::NEG_INFINITY;
    for (&logit, id) in logits.iter().zip(0..) {
        if logit > most {
            most = logit;
            best = Some(id);
        }
    }
    best
}

#[cfg(test)]
mod tests;
