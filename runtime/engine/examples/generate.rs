//! Answers several questions at once.
//!
//! ```text
//! cargo run --release -p q35-runtime --example generate -- model.bin Qwen3.5-0.8B "Why is the sky blue?" "Name three rivers."
//! ```
//!
//! With `--raw`, texts are continued instead of answered.

use q35_runtime::generation_config::GenerationConfig;
use q35_runtime::text::{ChatRequest, ChatTemplate, Tokenizer};
use q35_runtime::{Engine, Event, LoadOptions, Model, Request};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

const USAGE: &str = "usage: generate [--raw] ARTIFACT WEIGHTS TEXT...";

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let raw = args.first().is_some_and(|arg| arg == "--raw");
    if raw {
        args.remove(0);
    }
    let [artifact, weights, texts @ ..] = args.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match generate(Path::new(artifact), Path::new(weights), texts, raw) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generate(
    artifact: &Path,
    weights: &Path,
    texts: &[String],
    raw: bool,
) -> Result<(), Box<dyn Error>> {
    let model = Model::load(artifact, weights, LoadOptions::default())?;
    let tokenizer = Arc::new(Tokenizer::load(weights)?);
    let defaults = GenerationConfig::load(weights)?;

    let mut engine = Engine::new(model, Some(Arc::clone(&tokenizer)));
    let mut answers = BTreeMap::new();
    for text in texts {
        let prompt = if raw {
            text.clone()
        } else {
            ChatTemplate::load(weights)?.render(&ChatRequest::default().message("user", text))?
        };
        let request = engine.submit(Request {
            prompt: tokenizer.encode(&prompt)?,
            sampling: defaults.sampling.clone(),
            stop_ids: defaults.eos_ids.clone(),
            max_tokens: Some(100),
            ..Request::default()
        })?;
        answers.insert(request, String::new());
    }

    // Tokens of all of them come as they are made; here they are collected.
    while !engine.is_idle() {
        for event in engine.step()? {
            let (Event::Token { request, text, .. } | Event::Finished { request, text, .. }) =
                event;
            answers.entry(*request).or_default().push_str(text);
        }
    }
    for (question, answer) in texts.iter().zip(answers.values()) {
        println!("> {question}\n{answer}\n");
    }
    Ok(())
}
