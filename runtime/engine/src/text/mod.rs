//! Text on both sides of the model: chats become prompts, prompts become ids, ids become text.
//!
//! ```text
//! messages ─ chat ─▶ prompt ─ tokenizer ─▶ ids ══ model ══▶ ids ─ stream ─▶ text ─ stop ─▶ what the user sees
//! ```
//!
//! Everything a checkpoint says about text is read from its own files (`tokenizer.json`,
//! `tokenizer_config.json`, `chat_template.jinja`): nothing about the vocabulary or the chat
//! format is built in. The two streaming parts hold only a few bytes each and do constant work
//! a token, however long the answer grows.

mod alphabet;
pub mod chat;
pub(crate) mod file;
mod python;
pub mod stop;
pub mod stream;
pub mod tokenizer;
mod tokenizer_config;
mod tokenizer_json;
mod vocabulary;

pub use chat::{ChatError, ChatRequest, ChatTemplate};
pub use stop::{StopError, StopMatcher, StopStrings};
pub use stream::Detokenizer;
pub use tokenizer::{Tokenizer, TokenizerError};
pub use tokenizer_config::TokenizerConfigError;
