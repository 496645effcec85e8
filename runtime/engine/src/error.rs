//! What can go wrong when a model is loaded and when it runs.

use crate::checkpoint::CheckpointError;
use crate::sampling::SamplingError;
use crate::text::StopError;
use crate::weights::WeightsError;
use q35_artifact::ArtifactError;
use q35_device::DeviceError;

/// A model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The artifact is not one.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),

    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    /// The checkpoint is not the one that the artifact was compiled for.
    #[error(transparent)]
    Weights(#[from] WeightsError),

    /// There is no such device, or it has no room.
    #[error(transparent)]
    Device(#[from] DeviceError),

    /// More KV pages than kernels can address.
    #[error("{found} tokens of KV cache were asked for, expected 1 to {most}")]
    KvTokens { found: u64, most: u64 },

    /// Steps so short that a prompt could not be cut at multiples of a page.
    #[error("the artifact's `prefill` takes {found} tokens a step, expected at least {least}")]
    Chunk { found: u32, least: u32 },
}

impl LoadError {
    /// What to do about it, where that is not plain from the message.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Weights(error) => error.advice(),
            Self::Device(DeviceError::Lacks { .. }) => {
                Some("compile for `spirv`: such code runs on every device of Vulkan 1.3".into())
            }
            Self::Artifact(_)
            | Self::Checkpoint(_)
            | Self::Device(_)
            | Self::KvTokens { .. }
            | Self::Chunk { .. } => None,
        }
    }
}

/// A model cannot do what was asked. Nothing has changed then, unless the device failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is nothing to start from.
    #[error("the prompt is empty, expected at least one token")]
    EmptyPrompt,

    /// An id that the model has no embedding for.
    #[error("token id {id} is out of range, expected below {vocab}")]
    TokenOutOfRange { id: u32, vocab: u32 },

    /// A sequence beyond the length that the artifact was compiled for.
    #[error("a sequence of {tokens} tokens was asked for, expected at most {max_context}")]
    TooLong { tokens: u64, max_context: u32 },

    /// The pool of KV pages has too few left.
    #[error("{needed} more KV pages of 64 tokens are needed, but {free} of {total} are free")]
    KvPagesExhausted { needed: u32, free: u32, total: u32 },

    /// As many sequences as the artifact was compiled for are there already.
    #[error("all {slots} sequence slots are taken, expected one to be free")]
    NoFreeSlot { slots: u32 },

    /// A sequence that has been finished.
    #[error("the sequence is not there any more")]
    UnknownSequence,

    /// One sequence twice in one step.
    #[error("a sequence is twice in one step, expected once")]
    RepeatedSequence,

    /// A sequence without tokens, or one whose last step brought less than all logits home.
    #[error("the sequence has no logits, expected some tokens to have been fed for them")]
    NoLogits,

    /// A control of sampling is out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),

    /// A stop string cannot be used.
    #[error(transparent)]
    Stop(#[from] StopError),

    /// Text is needed to see a stop string.
    #[error("stop strings were given, but the engine has no tokenizer to make text with")]
    StopWithoutTokenizer,

    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
