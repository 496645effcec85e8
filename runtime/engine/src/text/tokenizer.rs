//! Text to ids, and the table back, from the checkpoint's own `tokenizer.json` (spec 16).
//!
//! Splitting and merging is the `tokenizers` crate's, the implementation that made the training
//! data's ids. Around it stands what that crate leaves to its caller: only the kind of tokenizer
//! that Qwen3.5 has is accepted, added tokens are read from both files that may name them, and
//! each must end up at exactly the id that its file gives it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::tokenizer::Tokenizer as Bpe;

use super::file::read_at_most;
use super::stream::Detokenizer;
use super::tokenizer_config::{AddedToken, TokenizerConfig, TokenizerConfigError};
use super::tokenizer_json::{Objection, TokenizerJson};
use super::vocabulary::{Tokens, Vocabulary};

/// The published file has 10 MB; far beyond that it is something else.
const LARGEST_FILE: u64 = 256 << 20;

/// A checkpoint's tokenizer cannot be used, or a text cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// `tokenizer.json` cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },

    /// Not JSON, or not the layout of spec 16.3.
    #[error("`{}` is not a byte-level BPE tokenizer: {source}", path.display())]
    Layout { path: PathBuf, source: serde_json::Error },

    /// `tokenizer_config.json` cannot be used.
    #[error(transparent)]
    Config(#[from] TokenizerConfigError),

    /// A feature of other tokenizers that would change how text is split.
    #[error("`{key}` of `{}` is {found}, expected {expected}", path.display())]
    Unsupported { path: PathBuf, key: &'static str, found: String, expected: &'static str },

    /// A byte that no token stands for: text with it could not be encoded.
    #[error("`{}` has no token for the byte {byte:#04x}, expected one for each of the 256", path.display())]
    MissingByte { path: PathBuf, byte: u8 },

    /// Two tokens claim one id, or one token two ids.
    #[error("`{}` gives `{token}` the id {id}, but {conflict}", path.display())]
    Conflict { path: PathBuf, token: String, id: u32, conflict: String },

    /// An id far beyond the number of tokens.
    #[error("`{}` gives `{token}` the id {id}, expected below {limit} for {count} tokens", path.display())]
    SparseIds { path: PathBuf, token: String, id: u32, limit: u64, count: usize },

    /// The `tokenizers` crate refuses the file.
    #[error("`{}` is not a usable tokenizer: {reason}", path.display())]
    Build { path: PathBuf, reason: String },

    /// The splitting expression gave up on a text.
    #[error("cannot split a text of {bytes} bytes into tokens: {reason}")]
    Encode { bytes: usize, reason: String },
}

/// A checkpoint's tokenizer. All methods take `&self`; share one between threads in an `Arc`.
#[derive(Debug)]
pub struct Tokenizer {
    bpe: Bpe,
    vocabulary: Arc<Vocabulary>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Read `tokenizer.json` in `dir`, and what `tokenizer_config.json` adds to it, if there is
    /// one: added tokens that the first file lacks (spec 16.2) and the name of `eos_token`.
    ///
    /// # Errors
    ///
    /// A file is missing, unreadable or no tokenizer of this family; see [`TokenizerError`].
    pub fn load(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join("tokenizer.json");
        let bytes = read_at_most(&path, LARGEST_FILE)
            .map_err(|source| TokenizerError::Read { path: path.clone(), source })?;
        let json: TokenizerJson = serde_json::from_slice(&bytes)
            .map_err(|source| TokenizerError::Layout { path: path.clone(), source })?;
        json.check().map_err(|objection| objected(&path, objection))?;
        let config = TokenizerConfig::load(dir)?;
        let config_path = TokenizerConfig::path(dir);

        let mut tokens = Tokens::default();
        for (token, id) in &json.model.vocab {
            tokens.name(&path, token, *id)?;
        }
        let mut added: Vec<(u32, &AddedToken)> = Vec::new();
        for early in &json.added_tokens {
            tokens.name(&path, &early.token.content, early.id)?;
            added.push((early.id, &early.token));
        }
        let early = added.len();
        for (&id, late) in &config.added_tokens_decoder {
            tokens.name(&config_path, &late.content, id)?;
            if added[..early].iter().all(|&(known, _)| known != id) {
                added.push((id, late));
            }
        }
        added.iter().filter(|(_, t)| t.special).for_each(|&(id, _)| tokens.mark_special(id));
        let vocabulary = tokens.lay_out(&path)?;

        let bpe = build(&bytes, &added[early..])
            .map_err(|e| TokenizerError::Build { path: path.clone(), reason: e.to_string() })?;
        check_places(&path, &bpe, &added)?;
        let eos = config.eos_token.and_then(|t| bpe.token_to_id(t.text()));
        Ok(Self { bpe, vocabulary: Arc::new(vocabulary), eos })
    }

    /// The ids of a text. The literal text of an added token becomes that token, as chat
    /// templates need; nothing is put before or after.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Encode`] for a text that the splitting expression gives up on.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .bpe
            .encode_fast(text, false)
            .map_err(|e| TokenizerError::Encode { bytes: text.len(), reason: e.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of all `ids` at once, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.detokenizer();
        let mut text = String::new();
        for &id in ids {
            text.push_str(stream.push(id));
        }
        text.push_str(stream.finish());
        text
    }

    /// A decoder for one generated text, at its beginning.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.vocabulary))
    }

    /// The highest id that has a token, plus one. Rows of the logits from here on are padding and
    /// must never be chosen.
    pub fn valid_ids(&self) -> u32 {
        self.vocabulary.valid_ids()
    }

    /// The token with this id as the vocabulary writes it (`Ġworld` for ` world`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.bpe.id_to_token(id)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.bpe.token_to_id(token)
    }

    /// Whether decoding leaves this token out.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.is_special(id)
    }

    /// The id of the `eos_token` that `tokenizer_config.json` names, `<|im_end|>` in chat
    /// models: a stop id beside those of the generation config.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }
}

fn objected(path: &Path, objection: Objection) -> TokenizerError {
    let path = path.into();
    match objection {
        Objection::Unsupported { key, found, expected } => {
            TokenizerError::Unsupported { path, key, found, expected }
        }
        Objection::MissingByte(byte) => TokenizerError::MissingByte { path, byte },
    }
}

/// The crate's tokenizer, with the added tokens that the file lacks and without what would
/// change the ids of a text: truncation, padding and the tokens of a post-processor.
fn build(json: &[u8], late: &[(u32, &AddedToken)]) -> tokenizers::Result<Bpe> {
    let mut bpe = Bpe::from_bytes(json)?;
    bpe.add_tokens(late.iter().map(|(_, t)| {
        tokenizers::AddedToken::from(t.content.as_str(), t.special)
            .single_word(t.single_word)
            .lstrip(t.lstrip)
            .rstrip(t.rstrip)
            .normalized(t.normalized)
    }))?;
    bpe.with_truncation(None)?;
    bpe.with_padding(None);
    bpe.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    Ok(bpe)
}

/// The crate numbers added tokens itself, one after the other, whatever their file says.
fn check_places(
    path: &Path,
    bpe: &Bpe,
    added: &[(u32, &AddedToken)],
) -> Result<(), TokenizerError> {
    for &(id, token) in added {
        let found = bpe.token_to_id(&token.content);
        if found != Some(id) {
            let conflict = match found {
                Some(found) => format!("{found} is the next free one"),
                None => "it cannot be added".into(),
            };
            let (path, token) = (path.into(), token.content.clone());
            return Err(TokenizerError::Conflict { path, token, id, conflict });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
