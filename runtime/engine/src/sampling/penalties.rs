//! The three penalties against repetition, and the memory of tokens that they need.

use std::collections::HashMap;

use super::params::SamplingParams;

/// Which tokens a sequence has seen, if any penalty is on.
///
/// Repetition counts prompt and generated tokens alike, as in transformers; presence and
/// frequency count generated ones only, as in the OpenAI interface and vLLM.
#[derive(Debug, Clone)]
pub(super) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// How often each token was generated; tokens of the prompt alone are here with 0.
    generated: HashMap<u32, u32>,
}

impl Penalties {
    pub fn new(params: &SamplingParams) -> Self {
        Self {
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            generated: HashMap::new(),
        }
    }

    /// Whether any penalty is on. If none is, nothing is remembered either.
    pub fn any(&self) -> bool {
        self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0
    }

    pub fn see_prompt(&mut self, ids: &[u32]) {
        if self.repetition != 1.0 {
            for &id in ids {
                self.generated.entry(id).or_insert(0);
            }
        }
    }

    pub fn see_generated(&mut self, id: u32) {
        if self.any() {
            *self.generated.entry(id).or_insert(0) += 1;
        }
    }

    /// Change the logits of the tokens seen. Each is changed by itself, so the map's order is of
    /// no consequence.
    pub fn apply(&self, logits: &mut [f32]) {
        for (&id, &count) in &self.generated {
            let Some(logit) = logits.get_mut(id as usize) else {
                continue;
            };
            if *logit > 0.0 {
                *logit /= self.repetition;
            } else {
                *logit *= self.repetition;
            }
            if count > 0 {
                *logit -= self.frequency * count as f32;
                *logit -= self.presence;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalised(params: SamplingParams, prompt: &[u32], generated: &[u32]) -> Vec<f32> {
        let mut penalties = Penalties::new(&params);
        penalties.see_prompt(prompt);
        generated.iter().for_each(|&id| penalties.see_generated(id));
        let mut logits = vec![4.0, -4.0, 4.0, -4.0];
        penalties.apply(&mut logits);
        logits
    }

    #[test]
    fn repetition_scales_down_tokens_of_prompt_and_answer_once() {
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        assert_eq!(penalised(params, &[0, 0, 1], &[3, 3, 1]), [2.0, -8.0, 4.0, -8.0]);
    }

    #[test]
    fn presence_counts_generated_tokens_once() {
        let params = SamplingParams { presence_penalty: 1.5, ..SamplingParams::default() };
        assert_eq!(penalised(params, &[0], &[2, 2, 3]), [4.0, -4.0, 2.5, -5.5]);
    }

    #[test]
    fn frequency_counts_generated_tokens_each_time() {
        let params = SamplingParams { frequency_penalty: 0.5, ..SamplingParams::default() };
        assert_eq!(penalised(params, &[0], &[2, 2, 3]), [4.0, -4.0, 3.0, -4.5]);
    }

    #[test]
    fn repetition_comes_before_the_additive_penalties() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 1.0,
            frequency_penalty: 0.5,
            ..SamplingParams::default()
        };
        assert_eq!(penalised(params, &[], &[0, 0]), [0.0, -4.0, 4.0, -4.0]);
    }

    #[test]
    fn ids_beyond_the_logits_are_ignored() {
        let params = SamplingParams { presence_penalty: 1.0, ..SamplingParams::default() };
        assert_eq!(penalised(params, &[9], &[u32::MAX]), [4.0, -4.0, 4.0, -4.0]);
    }

    #[test]
    fn with_all_penalties_off_nothing_is_remembered() {
        let mut penalties = Penalties::new(&SamplingParams::default());
        penalties.see_prompt(&[1, 2]);
        penalties.see_generated(3);
        assert!(!penalties.any() && penalties.generated.is_empty());
    }
}
