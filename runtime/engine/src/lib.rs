//! Qwen3.5 models in a Rust program: load an artifact that `q35c` compiled and the checkpoint's
//! weights, submit prompts, take tokens and text as they come.
//!
//! ```no_run
//! use q35_runtime::generation_config::GenerationConfig;
//! use q35_runtime::text::{ChatRequest, ChatTemplate, Tokenizer};
//! use q35_runtime::{Engine, Event, LoadOptions, Model, Request};
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let weights = Path::new("Qwen3.5-0.8B");
//! let model = Model::load(Path::new("model.bin"), weights, LoadOptions::default())?;
//! let tokenizer = Arc::new(Tokenizer::load(weights)?);
//! let defaults = GenerationConfig::load(weights)?;
//! let template = ChatTemplate::load(weights)?;
//!
//! let mut engine = Engine::new(model, Some(Arc::clone(&tokenizer)));
//! for question in ["Why is the sky blue?", "Name three rivers."] {
//!     let chat = ChatRequest::default().message("user", question);
//!     engine.submit(Request {
//!         prompt: tokenizer.encode(&template.render(&chat)?)?,
//!         sampling: defaults.sampling.clone(),
//!         stop_ids: defaults.eos_ids.clone(),
//!         max_tokens: Some(200),
//!         ..Request::default()
//!     })?;
//! }
//! while !engine.is_idle() {
//!     for event in engine.step()? {
//!         match event {
//!             Event::Token { request, text, .. } => println!("{request:?}: {text}"),
//!             Event::Finished { request, reason, .. } => println!("{request:?} ended: {reason:?}"),
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!             ┌─ sampling ◀─ logits ─┐  all of a row, or the few that matter
//! Request ─▶ Engine ─ tokens ─▶ Model ─ step ─▶ Device
//!             └─ text ─▶ Event       └─ state: slots, pages
//! ```
//!
//! [`Engine`] generates for several requests at once, as they come. [`Model`] is below it:
//! sequences that are fed tokens and have logits, for programs that sample or schedule by
//! themselves. [`load`] says how a model gets there, [`checkpoint`] and [`weights`] what is checked on
//! the way.
//!
//! An artifact holds machine code, which runs with the rights of this program: load only
//! artifacts that you made or trust. Any other file may come from anywhere.

mod bind;
pub mod checkpoint;
mod engine;
mod error;
pub mod generation_config;
mod heads;
pub mod load;
mod model;
pub mod sampling;
mod state;
mod step;
#[cfg(test)]
mod testing;
pub mod text;
pub mod weights;

pub use engine::{Engine, Event, FinishReason, Request, RequestId, Usage};
pub use error::{EngineError, LoadError};
pub use load::{LoadOptions, MemoryUse};
pub use model::{Facts, Model};
pub use state::SeqId;
pub use weights::Progress;
