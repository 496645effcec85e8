//! Why a config was refused: one variant a cause, each with its place in the file.

use super::span::JsonError;
use std::ops::Range;

/// A config that is not JSON, contradicts itself, or asks for what cannot be compiled.
///
/// `at` is a range of byte offsets into the text. Where two keys disagree and one of them is a
/// default, the place is that of the key which the file does have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, nested too deep, or a key twice.
    #[error(transparent)]
    Json(#[from] JsonError),

    /// A key without which the model is not known.
    #[error("`{field}` is missing, expected {expected}")]
    Missing { field: String, expected: &'static str, at: Range<usize> },

    /// A value of another kind than the key has.
    #[error("`{field}` is {found}, expected {expected}")]
    WrongType { field: String, found: String, expected: &'static str, at: Range<usize> },

    /// A value of the right kind that we do not compile.
    #[error("`{field}` is {found}, expected {expected}")]
    Unsupported {
        field: String,
        found: String,
        expected: &'static str,
        help: Option<&'static str>,
        at: Range<usize>,
    },

    /// A number outside of what the field can be. The limits are ours, far beyond any published
    /// model, and such that no later size overflows.
    #[error("`{field}` is {found}, expected {expected}")]
    OutOfRange { field: String, found: String, expected: String, at: Range<usize> },

    /// Weights in a quantised format.
    #[error("`{field}` is {method}, expected weights that are not quantised")]
    Quantized { field: String, method: String, at: Range<usize> },

    /// Heads that cannot be shared out evenly.
    #[error("`{many}` is {n}, not a multiple of `{few}`, {d}")]
    NotMultiple { many: String, n: u32, few: String, d: u32, at: Option<Range<usize>> },

    /// `layer_types` does not have one entry a layer.
    #[error("`{field}` has length {found}, expected {layers}, which is `num_hidden_layers`")]
    LayerCount { field: String, found: usize, layers: u32, at: Range<usize> },

    /// More experts to choose than there are.
    #[error("`{field}` is {chosen}, expected at most {experts}, which is `num_experts`")]
    TooFewExperts { field: String, chosen: u32, experts: u32, at: Option<Range<usize>> },

    /// A number of rotated dimensions that cannot be paired within a head.
    #[error(
        "`{field}` of {factor} rotates {width} of the {head_dim} dimensions of a head, \
         expected an even number from 2 to {head_dim}"
    )]
    RotaryWidth { field: String, factor: f64, width: u32, head_dim: u32, at: Option<Range<usize>> },

    /// Rotary parameters that are each in range but give no usable frequencies.
    #[error("`{field}` gives rotary frequencies that are not finite positive numbers")]
    RopeDegenerate { field: String, at: Option<Range<usize>> },

    /// Two spellings of one thing that say different things.
    #[error("`{field}` is {found}, but `{other}` is {other_found}")]
    Disagree { field: String, found: String, other: String, other_found: String, at: Range<usize> },

    /// Sizes that are each in range, but together name more weights than can be addressed safely.
    #[error("the model has {parameters} parameters, expected at most {limit}")]
    TooLarge { parameters: u128, limit: u128 },
}

impl ConfigError {
    /// The bytes of the text that are at fault; `None` where no single place is.
    pub fn span(&self) -> Option<Range<usize>> {
        match self {
            ConfigError::Json(error) => Some(error.span()),
            ConfigError::Missing { at, .. }
            | ConfigError::WrongType { at, .. }
            | ConfigError::Unsupported { at, .. }
            | ConfigError::OutOfRange { at, .. }
            | ConfigError::Quantized { at, .. }
            | ConfigError::LayerCount { at, .. }
            | ConfigError::Disagree { at, .. } => Some(at.clone()),
            ConfigError::NotMultiple { at, .. }
            | ConfigError::TooFewExperts { at, .. }
            | ConfigError::RotaryWidth { at, .. }
            | ConfigError::RopeDegenerate { at, .. } => at.clone(),
            ConfigError::TooLarge { .. } => None,
        }
    }

    /// What to do about it, or what it may be a sign of.
    pub fn help(&self) -> Option<&str> {
        match self {
            ConfigError::Json(JsonError::Syntax { .. }) => {
                Some("expected the `config.json` that comes with a checkpoint")
            }
            ConfigError::Unsupported { help, .. } => *help,
            ConfigError::Quantized { .. } => Some(
                "quantised checkpoints are not supported yet; use the config and the weights of \
                 the 16-bit release",
            ),
            ConfigError::Missing { .. } => {
                Some("is this the `config.json` of a Qwen3.5 checkpoint?")
            }
            ConfigError::LayerCount { .. } => Some(
                "give one type a layer, or leave the key out and use `full_attention_interval`",
            ),
            ConfigError::RotaryWidth { .. } => {
                Some("it is `head_dim` times `partial_rotary_factor`, rounded down")
            }
            ConfigError::Disagree { .. } => Some("keep one of the two"),
            ConfigError::Json(JsonError::TooDeep { .. } | JsonError::DuplicateKey { .. })
            | ConfigError::WrongType { .. }
            | ConfigError::OutOfRange { .. }
            | ConfigError::NotMultiple { .. }
            | ConfigError::TooFewExperts { .. }
            | ConfigError::RopeDegenerate { .. }
            | ConfigError::TooLarge { .. } => None,
        }
    }
}
