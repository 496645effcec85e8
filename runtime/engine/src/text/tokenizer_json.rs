//! What is checked in a `tokenizer.json` before the `tokenizers` crate reads it (spec 16.3).
//!
//! That crate reads tokenizers of every kind. Only byte-level BPE is accepted here: with it any
//! text can be encoded, and decoding is concatenation, which the streaming decoder relies on.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::alphabet;
use super::tokenizer_config::AddedToken;

/// The parts of the file that are ours to know.
#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub added_tokens: Vec<AddedWithId>,
    #[serde(default, rename = "normalizer")]
    _normalizer: Option<Normalizer>,
    pre_tokenizer: PreTokenizer,
    #[serde(rename = "decoder")]
    _decoder: Decoder,
    pub model: Model,
}

#[derive(Deserialize)]
pub(super) struct AddedWithId {
    pub id: u32,
    #[serde(flatten)]
    pub token: AddedToken,
}

#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    /// A list, where a map would hide that an id or a token is given twice.
    #[serde(deserialize_with = "pairs")]
    pub vocab: Vec<(String, u32)>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    Sequence { pretokenizers: Vec<PreTokenizer> },
    Split,
    ByteLevel,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel,
}

/// What stands in the way of a file that has the right layout.
#[derive(Debug, PartialEq)]
pub(super) enum Objection {
    /// A setting of another kind of tokenizer.
    Unsupported { key: &'static str, found: String, expected: &'static str },
    /// No token is this byte.
    MissingByte(u8),
}

impl TokenizerJson {
    /// Refuse what would split text in another way than spec 16.1, or lose some of it.
    pub fn check(&self) -> Result<(), Objection> {
        let unsupported =
            |key, found, expected| Err(Objection::Unsupported { key, found, expected });
        let Model { kind, dropout, continuing_subword_prefix, end_of_word_suffix, vocab } =
            &self.model;
        if let Some(kind) = kind.as_deref().filter(|&k| k != "BPE") {
            return unsupported("model.type", format!("\"{kind}\""), "\"BPE\"");
        }
        if let Some(dropout) = dropout.filter(|&d| d != 0.0) {
            return unsupported("model.dropout", dropout.to_string(), "null");
        }
        let affixes = [
            ("model.continuing_subword_prefix", continuing_subword_prefix),
            ("model.end_of_word_suffix", end_of_word_suffix),
        ];
        for (key, affix) in affixes {
            if let Some(affix) = affix.as_deref().filter(|a| !a.is_empty()) {
                return unsupported(key, format!("\"{affix}\""), "null or \"\"");
            }
        }
        if !self.pre_tokenizer.maps_bytes() {
            return unsupported("pre_tokenizer", "without a ByteLevel step".into(), "one with it");
        }
        let tokens: HashSet<&str> = vocab.iter().map(|(token, _)| token.as_str()).collect();
        let is_token =
            |b: u8| tokens.contains(alphabet::char_of(b).encode_utf8(&mut [0; 4]) as &str);
        (0..=255).find(|&b| !is_token(b)).map_or(Ok(()), |b| Err(Objection::MissingByte(b)))
    }
}

impl PreTokenizer {
    fn maps_bytes(&self) -> bool {
        match self {
            Self::ByteLevel => true,
            Self::Split => false,
            Self::Sequence { pretokenizers } => pretokenizers.iter().any(Self::maps_bytes),
        }
    }
}

fn pairs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, u32)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, u32)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tokens and their ids")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    from.deserialize_map(Pairs)
}
