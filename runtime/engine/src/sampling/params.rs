//! The seven controls of sampling, their seed, and what values they may have.

/// How to choose a token from logits. [`SamplingParams::default`] leaves every control off:
/// the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by this; below 1 likely tokens become likelier. 0 means greedy.
    pub temperature: f32,
    /// Only this many of the likeliest tokens; 0 means all.
    pub top_k: u32,
    /// Only the likeliest tokens that together reach this probability; 1 means all.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest; 0 means all.
    pub min_p: f32,
    /// Subtracted from the logit of each token that has been generated.
    pub presence_penalty: f32,
    /// Subtracted from the logit of each token for each time that it has been generated.
    pub frequency_penalty: f32,
    /// Logits of tokens in the prompt or generated are divided by this if positive, multiplied
    /// if negative; 1 is off.
    pub repetition_penalty: f32,
    /// The same seed gives the same tokens for the same logits; none takes a fresh one.
    pub seed: Option<u64>,
    /// The likeliest token always, after penalties; the other controls have no effect.
    pub greedy: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: None,
            greedy: false,
        }
    }
}

/// A control with a value that means nothing.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("`{name}` is {found}, expected {expected}")]
pub struct SamplingError {
    /// The field of [`SamplingParams`].
    pub name: &'static str,
    pub found: f32,
    pub expected: &'static str,
}

impl SamplingParams {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { greedy: true, ..Self::default() }
    }

    /// Check every control.
    ///
    /// # Errors
    ///
    /// The first control whose value is not a number or out of range. The ranges of the
    /// additive penalties are those of the OpenAI interface.
    pub fn validate(&self) -> Result<(), SamplingError> {
        type Rule = (&'static str, f32, fn(f32) -> bool, &'static str);
        let rules: [Rule; 6] = [
            (
                "temperature",
                self.temperature,
                |x| x >= 0.0 && x.is_finite(),
                "0 or a positive number",
            ),
            ("top_p", self.top_p, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, |x| (0.0..=1.0).contains(&x), "0 to 1"),
            ("presence_penalty", self.presence_penalty, |x| (-2.0..=2.0).contains(&x), "-2 to 2"),
            ("frequency_penalty", self.frequency_penalty, |x| (-2.0..=2.0).contains(&x), "-2 to 2"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                |x| x > 0.0 && x.is_finite(),
                "a positive number",
            ),
        ];
        match rules.into_iter().find(|(_, found, fits, _)| !fits(*found)) {
            Some((name, found, _, expected)) => Err(SamplingError { name, found, expected }),
            None => Ok(()),
        }
    }

    /// Whether the likeliest token is taken.
    pub(super) fn takes_likeliest(&self) -> bool {
        self.greedy || self.temperature == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_the_published_settings_are_valid() {
        let published = SamplingParams {
            temperature: 0.7,
            top_k: 20,
            top_p: 0.8,
            presence_penalty: 1.5,
            ..SamplingParams::default()
        };
        for params in [SamplingParams::default(), SamplingParams::greedy(), published] {
            assert_eq!(params.validate(), Ok(()));
        }
    }

    #[test]
    fn each_control_is_refused_out_of_its_range_by_name() {
        type Set = fn(&mut SamplingParams, f32);
        let cases: [(&str, Set, &[f32]); 6] = [
            ("temperature", |p, x| p.temperature = x, &[-0.1, f32::INFINITY]),
            ("top_p", |p, x| p.top_p = x, &[0.0, 1.1, -1.0]),
            ("min_p", |p, x| p.min_p = x, &[-0.1, 1.1]),
            ("presence_penalty", |p, x| p.presence_penalty = x, &[-2.1, 2.1]),
            ("frequency_penalty", |p, x| p.frequency_penalty = x, &[-2.1, f32::NEG_INFINITY]),
            ("repetition_penalty", |p, x| p.repetition_penalty = x, &[0.0, -1.0, f32::INFINITY]),
        ];
        for (name, set, bad) in cases {
            for &value in bad.iter().chain(&[f32::NAN]) {
                let mut params = SamplingParams::default();
                set(&mut params, value);
                assert_eq!(params.validate().unwrap_err().name, name, "{value}");
            }
        }
    }

    #[test]
    fn the_message_says_what_was_found_and_expected() {
        let params = SamplingParams { top_p: 1.5, ..SamplingParams::default() };
        assert_eq!(
            params.validate().unwrap_err().to_string(),
            "`top_p` is 1.5, expected above 0 and at most 1"
        );
    }
}
