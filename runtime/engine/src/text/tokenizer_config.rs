//! What is read of a checkpoint's `tokenizer_config.json`: the parts of the text pipeline that
//! `tokenizer.json` and `chat_template.jinja` may leave to it (spec 16.2, 17).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::file::read_if_there;

const FILE: &str = "tokenizer_config.json";

/// The published files have 20 KB.
const LARGEST_FILE: u64 = 16 << 20;

/// A `tokenizer_config.json` that is there but cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerConfigError {
    /// It cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },

    /// Not JSON, or a key does not hold what it should.
    #[error("`{}` is not a tokenizer config: {source}", path.display())]
    Layout { path: PathBuf, source: serde_json::Error },
}

/// The keys in use. All are optional, and so is the file.
#[derive(Deserialize, Default)]
pub(super) struct TokenizerConfig {
    /// Added tokens by id.
    #[serde(default)]
    pub added_tokens_decoder: BTreeMap<u32, AddedToken>,
    #[serde(default)]
    chat_template: Option<Templates>,
    #[serde(default)]
    pub bos_token: Option<TokenName>,
    #[serde(default)]
    pub eos_token: Option<TokenName>,
    #[serde(default)]
    pub pad_token: Option<TokenName>,
    #[serde(default)]
    pub unk_token: Option<TokenName>,
}

/// A token that is split off the text before anything else, as both files describe it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct AddedToken {
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

/// A token by its text, or described in full.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum TokenName {
    Text(String),
    Token(AddedToken),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenizerConfig {
    /// Where the file is, in the checkpoint's folder.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    /// Read the file, if there is one.
    pub fn load(dir: &Path) -> Result<Self, TokenizerConfigError> {
        let path = Self::path(dir);
        match read_if_there(&path, LARGEST_FILE) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes)
                .map_err(|source| TokenizerConfigError::Layout { path, source }),
            Ok(None) => Ok(Self::default()),
            Err(source) => Err(TokenizerConfigError::Read { path, source }),
        }
    }

    /// The chat template: the only one, or the one named `default`.
    pub fn chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            Templates::One(source) => Some(source),
            Templates::Named(all) => {
                all.iter().find(|t| t.name == "default").map(|t| t.template.as_str())
            }
        }
    }
}

impl TokenName {
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Token(token) => &token.content,
        }
    }
}
