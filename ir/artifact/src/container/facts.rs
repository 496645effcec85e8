//! What people and the runtime want to know of a model without reading its config again.

use q35_types::DType;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The model that was compiled, and the sizes that it was compiled for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// As in the config.
    pub model_type: String,
    pub layers: Vec<LayerKind>,
    pub hidden_size: u32,
    /// Rows of logits, padding rows included.
    pub vocab_size: u32,
    /// Tokens that the model was made for (`max_position_embeddings`).
    pub context: u32,
    /// Routed experts of each layer; `None` for a dense model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// How the checkpoint stores most weights.
    pub dtype: DType,
    /// The head is the embedding matrix.
    pub tied: bool,
    /// Ids that end a text where no `generation_config.json` names others.
    pub eos: Vec<u32>,
    pub parameters: Parameters,
    /// How keys and values lie in memory.
    pub kv: DType,
    /// Sequences of a step, and rows of logits of `head`.
    pub max_batch: u32,
    /// Tokens of a `prefill` step, all sequences together; a multiple of 64.
    pub max_chunk: u32,
    /// Tokens of the longest sequence.
    pub max_context: u32,
}

/// How a layer mixes tokens, under the config's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// Gated DeltaNet (spec section 8).
    LinearAttention,
    /// Gated attention over all earlier tokens (spec section 7).
    FullAttention,
}

/// Routed experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experts {
    /// `num_experts`
    pub count: u32,
    /// `num_experts_per_tok`
    pub chosen: u32,
}

/// Parameters of each part of a checkpoint, compiled or not (spec section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// The text model, its embedding and, unless tied, its head.
    pub text: u64,
    pub vision: u64,
    /// Multi-token prediction.
    pub mtp: u64,
    /// Weights of the text model that one token reads: all but an embedding that is not the head,
    /// and of the routed experts only those chosen.
    pub active: u64,
}

impl Parameters {
    pub fn total(&self) -> u64 {
        self.text.saturating_add(self.vision).saturating_add(self.mtp)
    }
}

impl Experts {
    /// Distinct experts that `tokens` tokens are expected to choose in a layer, if every choice
    /// is as likely as any other.
    pub fn distinct(&self, tokens: f64) -> f64 {
        let count = f64::from(self.count);
        count * (1.0 - (1.0 - f64::from(self.chosen) / count).powf(tokens))
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LayerKind::LinearAttention => "linear_attention",
            LayerKind::FullAttention => "full_attention",
        })
    }
}
