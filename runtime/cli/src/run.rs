//! `q35 run`

use crate::failure::Failure;
use crate::loading::{self, Machine, Weights};
use clap::{ArgAction, Args};
use q35_runtime::generation_config::GenerationConfig;
use q35_runtime::sampling::SamplingParams;
use q35_runtime::text::{ChatRequest, ChatTemplate, Tokenizer, TokenizerError};
use q35_runtime::{Engine, EngineError, Event, FinishReason, Model, Request, Usage};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Tokens to generate where nobody says how many.
const MAX_TOKENS: u32 = 512;

/// Generate text
///
/// Exactly the generated text goes to stdout as it is made, thinking included, special tokens
/// left out. When it is done, stderr gets the numbers of tokens, the time to the first one, and
/// tokens per second after it.
///
/// The code in an artifact is code: it runs with all your rights. Use only artifacts that you made
/// or trust.
#[derive(Args)]
pub struct Run {
    /// What `q35c compile` wrote
    artifact: PathBuf,
    /// The checkpoint's folder: weights, tokenizer, generation config, chat template
    #[arg(long, value_name = "DIR")]
    weights: PathBuf,
    #[command(flatten)]
    input: Input,
    /// What the chat's system message says
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt", allow_hyphen_values = true)]
    system: Option<String>,
    /// Have the chat answered without thinking first [default: as the chat template has it]
    #[arg(long, conflicts_with = "prompt")]
    no_think: bool,
    /// Tokens to generate at most [default: 512, or as many as there is room for]
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// End where this text begins; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    #[command(flatten)]
    machine: Machine,
    /// Tokens that the KV cache has room for [default: what `--max-batch` sequences of
    /// `--max-context` tokens need, within half of the free memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    kv_tokens: Option<u64>,
    // Last, as its heading is that of all that follow.
    #[command(flatten)]
    sampling: Sampling,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// Continue this text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Answer this message, through the checkpoint's chat template
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    chat: Option<String>,
}

/// What is not given comes from the checkpoint's `generation_config.json`.
#[derive(Args)]
#[command(next_help_heading = "Sampling [defaults: those of the checkpoint]")]
struct Sampling {
    /// Take the likeliest token always
    #[arg(long)]
    greedy: bool,
    /// Divide logits by this: below 1, likely tokens become likelier; 0 is --greedy
    #[arg(long, value_name = "X", value_parser = control(|p, x| p.temperature = x),
        allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Only the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Only the likeliest tokens that together have this probability; 1 is all
    #[arg(long, value_name = "P", value_parser = control(|p, x| p.top_p = x),
        allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Only tokens this share as likely as the likeliest; 0 is all
    #[arg(long, value_name = "P", value_parser = control(|p, x| p.min_p = x),
        allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Subtract this from the logit of each token that was generated before
    #[arg(long, value_name = "X", value_parser = control(|p, x| p.presence_penalty = x),
        allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtract this for each time that a token was generated before
    #[arg(long, value_name = "X", value_parser = control(|p, x| p.frequency_penalty = x),
        allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Divide positive logits of tokens that were there before, prompt included, by this; 1 is off
    #[arg(long, value_name = "X", value_parser = control(|p, x| p.repetition_penalty = x),
        allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Equal seeds give equal text [default: another one each time, which -v tells]
    #[arg(long, value_name = "N", action = ArgAction::Set)]
    seed: Option<u64>,
}

impl Sampling {
    /// The checkpoint's `wishes` with what was given instead. Whoever sets a control of drawing
    /// wants to draw, even where the checkpoint would not; `--greedy` is the last word.
    fn over(&self, wishes: &SamplingParams) -> SamplingParams {
        let draws = self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some()
            || self.seed.is_some();
        SamplingParams {
            temperature: self.temperature.unwrap_or(wishes.temperature),
            top_k: self.top_k.unwrap_or(wishes.top_k),
            top_p: self.top_p.unwrap_or(wishes.top_p),
            min_p: self.min_p.unwrap_or(wishes.min_p),
            presence_penalty: self.presence_penalty.unwrap_or(wishes.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(wishes.frequency_penalty),
            repetition_penalty: self.repetition_penalty.unwrap_or(wishes.repetition_penalty),
            seed: Some(self.seed.unwrap_or_else(fresh_seed)),
            greedy: self.greedy || (wishes.greedy && !draws),
        }
    }
}

/// Reads a number that the control which `set` sets may have.
fn control(
    set: fn(&mut SamplingParams, f32),
) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let value = text.parse().map_err(|_| "expected a number".to_owned())?;
        let mut params = SamplingParams::default();
        set(&mut params, value);
        params.validate().map_err(|e| format!("expected {}", e.expected))?;
        Ok(value)
    }
}

fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

pub fn run(args: &Run, verbose: u8) -> Result<(), Failure> {
    // Whatever can be wrong is found out before minutes of loading.
    let artifact = loading::artifact(&args.artifact)?;
    let folder = loading::folder(&args.weights);
    let defaults = GenerationConfig::load(&folder).map_err(Failure::new)?;
    let tokenizer = tokenizer(&folder)?;
    let text = prompt(args, &folder)?;
    let prompt = tokenizer.encode(&text).map_err(Failure::new)?;
    if prompt.is_empty() {
        return Err(EngineError::EmptyPrompt.into());
    }

    let mut stop_ids = match defaults.eos_ids.as_slice() {
        [] => artifact.model.eos.clone(),
        ids => ids.to_vec(),
    };
    stop_ids.extend(tokenizer.eos().filter(|id| !stop_ids.contains(id)));
    let weights = Weights::Checkpoint(&args.weights);
    let model = loading::load(&artifact, weights, &args.machine, args.kv_tokens, verbose)?;
    let request = Request {
        max_tokens: Some(args.max_tokens.unwrap_or_else(|| default_tokens(&model, prompt.len()))),
        sampling: args.sampling.over(&defaults.sampling),
        stop_strings: args.stop.clone(),
        stop_ids,
        prompt,
    };
    if verbose > 0 {
        eprintln!("sampling: {}", described(&request.sampling));
    }
    if verbose > 1 {
        eprintln!("prompt: {text:?}");
        eprintln!("tokens: {}", loading::listed(&request.prompt));
        eprintln!("stop ids: {}", loading::listed(&request.stop_ids));
    }
    generate(&mut Engine::new(model, Some(tokenizer.into())), request, verbose)
}

fn tokenizer(folder: &Path) -> Result<Tokenizer, Failure> {
    Tokenizer::load(folder).map_err(|error| {
        let failure = Failure::new(&error);
        match error {
            TokenizerError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                failure.help("text needs the checkpoint's tokenizer; `q35 logits` and `q35 bench` do without")
            }
            _ => failure,
        }
    })
}

/// The text that the model is to continue.
fn prompt(args: &Run, folder: &Path) -> Result<String, Failure> {
    let Some(message) = &args.input.chat else {
        return Ok(args.input.prompt.clone().expect("one of the two is required"));
    };
    let mut chat = ChatRequest::default();
    if let Some(system) = &args.system {
        chat = chat.message("system", system);
    }
    chat = chat.message("user", message);
    chat.enable_thinking = args.no_think.then_some(false);
    let template = ChatTemplate::load(folder).map_err(Failure::new)?;
    template.render(&chat).map_err(Failure::new)
}

/// No more than there is room for, which would be an error.
fn default_tokens(model: &Model, prompt: usize) -> u32 {
    let room = model.kv_tokens().min(model.facts().max_context.into());
    // The last token that is generated is not fed.
    let left = (room + 1).saturating_sub(prompt as u64);
    u64::from(MAX_TOKENS).min(left) as u32
}

fn described(sampling: &SamplingParams) -> String {
    let SamplingParams { temperature, top_k, top_p, min_p, seed, .. } = sampling;
    let (presence, frequency) = (sampling.presence_penalty, sampling.frequency_penalty);
    let penalties = format!(
        "presence_penalty {presence}, frequency_penalty {frequency}, repetition_penalty {}",
        sampling.repetition_penalty
    );
    let seed = seed.map_or(String::new(), |seed| format!(", seed {seed}"));
    match sampling.greedy {
        true => format!("greedy, {penalties}"),
        false => format!(
            "temperature {temperature}, top_k {top_k}, top_p {top_p}, min_p {min_p}, {penalties}{seed}"
        ),
    }
}

/// Run the request to its end, with its text going to stdout.
fn generate(engine: &mut Engine, request: Request, verbose: u8) -> Result<(), Failure> {
    let mut out = Text::default();
    let mut ids = Vec::new();
    let start = Instant::now();
    let mut first = None;
    engine.submit(request)?;
    while !engine.is_idle() {
        for event in engine.step()? {
            match event {
                Event::Token { id, text, .. } => {
                    first.get_or_insert_with(|| start.elapsed());
                    ids.push(*id);
                    out.show(text)?;
                }
                Event::Finished { text, reason, usage, .. } => {
                    let all = start.elapsed();
                    out.show(text)?;
                    out.end();
                    if verbose > 1 {
                        eprintln!("generated: {}", loading::listed(&ids));
                    }
                    if let FinishReason::NoToken(error) = reason {
                        return Err(Failure::new(error).help("are these weights broken?"));
                    }
                    eprintln!("{}", summary(*usage, reason, first.unwrap_or(all), all));
                }
            }
        }
    }
    Ok(())
}

/// Text on its way to stdout.
#[derive(Default)]
struct Text {
    within_line: bool,
}

impl Text {
    /// At once, so that the reader sees it as it comes.
    fn show(&mut self, text: &str) -> Result<(), Failure> {
        if let Some(last) = text.chars().last() {
            self.within_line = last != '\n';
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::stdout)
    }

    /// On a terminal, what follows on stderr begins on a line of its own.
    fn end(&self) {
        if self.within_line && io::stdout().is_terminal() {
            eprintln!();
        }
    }
}

/// What it took; `first` and `all` are the times to the first token and to the end.
fn summary(usage: Usage, reason: &FinishReason, first: Duration, all: Duration) -> String {
    let Usage { prompt_tokens, generated_tokens } = usage;
    // The first token is the prompt's; a rate needs another.
    let rate = match generated_tokens {
        0 | 1 => f64::from(generated_tokens) / all.as_secs_f64(),
        n => f64::from(n - 1) / (all - first).as_secs_f64(),
    };
    let rate = if rate.is_finite() { rate } else { 0.0 };
    let ended = match reason {
        FinishReason::StopId(id) => format!("ended by token {id}"),
        FinishReason::StopString => "ended by --stop".into(),
        FinishReason::Length => "no more tokens were allowed".into(),
        FinishReason::NoToken(_) => "failed".into(),
    };
    format!(
        "{prompt_tokens} prompt tokens, {generated_tokens} generated tokens, {:.3} s to first token, {rate:.2} tokens/s, {ended}",
        first.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn parsed(more: &[&str]) -> Result<Run, String> {
        let line = ["q35", "model.bin", "--weights", "dir"].iter().chain(more);
        Line::try_parse_from(line).map(|l| l.run).map_err(|e| e.to_string())
    }

    fn sampling(more: &[&str], wishes: &SamplingParams) -> SamplingParams {
        let given = [&["--prompt", "x"], more].concat();
        parsed(&given).unwrap().sampling.over(wishes)
    }

    #[test]
    fn there_is_one_prompt_or_one_chat() {
        assert_eq!(parsed(&["--prompt", "- a"]).unwrap().input.prompt.unwrap(), "- a");
        let chat = parsed(&["--chat", "hi", "--system", "s", "--no-think"]).unwrap();
        assert!(chat.no_think && chat.system.as_deref() == Some("s"));
        for wrong in [
            &[][..],
            &["--prompt", "a", "--chat", "b"],
            &["--prompt", "a", "--system", "s"],
            &["--prompt", "a", "--no-think"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn controls_that_are_given_replace_the_checkpoints() {
        let wishes = SamplingParams { temperature: 0.6, top_k: 20, ..SamplingParams::default() };
        let used = sampling(&["--top-k", "5", "--seed", "7"], &wishes);
        assert_eq!(used, SamplingParams { top_k: 5, seed: Some(7), ..wishes });
        let more = [
            "--temperature=0.5",
            "--top-p=0.9",
            "--min-p=0.1",
            "--presence-penalty",
            "-1",
            "--frequency-penalty",
            "-0.5",
            "--repetition-penalty",
            "1.2",
            "--seed=1",
        ];
        let all = SamplingParams {
            temperature: 0.5,
            top_k: 20,
            top_p: 0.9,
            min_p: 0.1,
            presence_penalty: -1.0,
            frequency_penalty: -0.5,
            repetition_penalty: 1.2,
            seed: Some(1),
            greedy: false,
        };
        assert_eq!(sampling(&more, &wishes), all);
    }

    #[test]
    fn a_control_of_drawing_draws_and_greedy_is_the_last_word() {
        let greedy = SamplingParams::greedy();
        assert!(sampling(&[], &greedy).greedy);
        assert!(sampling(&["--presence-penalty", "1"], &greedy).greedy);
        for control in ["--temperature=0.7", "--top-k=3", "--top-p=0.9", "--min-p=0.1", "--seed=1"]
        {
            assert!(!sampling(&[control], &greedy).greedy, "{control}");
            assert!(sampling(&[control, "--greedy"], &SamplingParams::default()).greedy);
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_its_range() {
        for (option, range) in [
            ("--temperature=-1", "expected 0 or a positive number"),
            ("--top-p=0", "expected above 0 and at most 1"),
            ("--min-p=2", "expected 0 to 1"),
            ("--repetition-penalty=nan", "expected a positive number"),
            ("--frequency-penalty=3", "expected -2 to 2"),
            ("--presence-penalty=lots", "expected a number"),
        ] {
            let Err(message) = parsed(&["--prompt", "x", option]) else { panic!("{option}") };
            assert!(message.contains(range), "{message}");
        }
    }

    #[test]
    fn runs_without_a_seed_differ() {
        let seeds = [(); 2].map(|()| sampling(&[], &SamplingParams::default()).seed);
        assert_ne!(seeds[0], seeds[1]);
    }

    #[test]
    fn the_rate_is_that_of_the_tokens_after_the_first() {
        let usage = |generated_tokens| Usage { prompt_tokens: 3, generated_tokens };
        let [first, all] = [500, 2500].map(Duration::from_millis);
        assert_eq!(
            summary(usage(9), &FinishReason::StopId(7), first, all),
            "3 prompt tokens, 9 generated tokens, 0.500 s to first token, 4.00 tokens/s, ended by token 7"
        );
        let one = summary(usage(1), &FinishReason::Length, first, first);
        assert!(one.contains("1 generated tokens, 0.500 s to first token, 2.00 tokens/s"), "{one}");
        let none = summary(usage(0), &FinishReason::Length, Duration::ZERO, Duration::ZERO);
        assert!(none.contains("0.00 tokens/s"), "{none}");
    }
}
