//! `q35 bench`: how fast, and how much of what the machine can do.
//!
//! ```text
//! for each batch and depth ─▶ runs ─▶ rates ─▶ median, least, most ─┐
//! plan's costs of the same steps ─▶ bytes, operations ──────────────┤─▶ report
//! the machine itself ─▶ bandwidth, operations per second ───────────┘
//! ```
//!
//! A run is what one conversation does: sequences that have `--depth` tokens read a prompt, then
//! generate. Decoding reads all weights for few tokens and is held against the memory's
//! bandwidth; prefill is held against the peak of arithmetic. The machine is measured between
//! cases, and its best counts: what else runs on it may disturb one measurement, hardly all.

mod report;
mod stats;
mod work;

use crate::failure::Failure;
use crate::loading::{self, Machine, Weights};
use q35_artifact::Artifact;
use q35_device::cpu;
use q35_device::cpu::measure::Peaks;
use q35_types::step::PAGE;
use report::Report;
use std::io::Write;
use std::path::PathBuf;
use work::{Case, Phase, Timed, Worker};

/// Measure how fast a model reads prompts and generates
///
/// Speeds are tokens per second of all sequences together, the median of several runs. Decode is
/// compared with the bandwidth at which this machine reads memory, by the bytes of weights and
/// sequence state that the plan says a step moves; prefill with its peak of float32 arithmetic, by
/// the operations that the plan says a step does. Both limits are measured too, with as many
/// threads.
///
/// The code in an artifact is code: it runs with all your rights. Use only artifacts that you made
/// or trust.
#[derive(clap::Args)]
pub struct Bench {
    /// What `q35c compile` wrote
    artifact: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Tokens of the prompt that each sequence reads; 0 for none
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt: u32,
    /// Tokens that each sequence generates after it; 0 for none
    #[arg(long = "gen", value_name = "N", default_value_t = 64)]
    generate: u32,
    /// Tokens that each sequence has before the prompt; several with commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "0,4096")]
    depth: Vec<u32>,
    /// Sequences side by side; several with commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..))]
    batch: Vec<u32>,
    /// Times that each is measured
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    #[command(flatten)]
    machine: Machine,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The checkpoint's folder
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// Make weights up instead
    #[arg(long)]
    random_weights: bool,
}

pub fn run(args: &Bench, verbose: u8) -> Result<(), Failure> {
    let artifact = loading::artifact(&args.artifact)?;
    let cases = cases(args, &artifact)?;
    let tokens =
        |case: &Case| u64::from(case.batch) * u64::from(case.length().next_multiple_of(PAGE));
    // Room for what is measured: the report of memory is then about it.
    let warm_up = warm_up(artifact.model.max_context);
    let kv_tokens = cases.iter().chain([&warm_up]).map(tokens).max();
    let weights = match &args.source.weights {
        Some(folder) => Weights::Checkpoint(folder),
        None => Weights::Random,
    };
    let model = loading::load(&artifact, weights, &args.machine, kv_tokens, verbose)?;
    let (device, memory) = (model.device().clone(), model.memory_use());
    let target = artifact.target(device.target).expect("the model was loaded for it");

    let mut worker = Worker::new(model, &artifact, target);
    // The first steps find weights that are not in memory yet, and threads asleep.
    worker.run(warm_up)?;
    // From here on the peak would include what measuring the machine takes.
    let mut peak_memory = loading::memory(loading::PEAK);
    let measure = || (device.target == cpu::NAME).then(|| Peaks::measure(device.units));
    let mut peaks = measure();
    let mut results = Vec::new();
    for case in cases {
        let mut phases: [(Phase, Vec<Timed>); 2] =
            [Phase::Prefill, Phase::Decode].map(|p| (p, vec![]));
        for run in 1..=args.runs {
            for (done, (phase, runs)) in worker.run(case)?.into_iter().zip(&mut phases) {
                let Some(done) = done else { continue };
                if verbose > 0 {
                    let rate = done.tokens_per_second();
                    eprintln!("{case}, run {run} of {}: {phase} {rate:.2} tokens/s", args.runs);
                }
                runs.push(done);
            }
        }
        for (phase, runs) in phases {
            results.extend(report::Row::new(case, phase, &runs));
        }
        peak_memory = peak_memory.max(loading::memory(loading::NOW));
        peaks = peaks.zip(measure()).map(|(a, b)| a.best(b));
    }

    let model = &artifact.model;
    let report =
        Report { model, device: &device, memory, peak_memory, peaks, runs: args.runs, results };
    let text = match args.json {
        true => report.json().to_string() + "\n",
        false => report.text(),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::stdout)
}

/// What to measure. What does not fit the artifact is left out aloud.
fn cases(args: &Bench, artifact: &Artifact) -> Result<Vec<Case>, Failure> {
    let (prompt, generated) = (args.prompt, args.generate);
    if prompt == 0 && generated == 0 {
        return Err(Failure::new(
            "`--prompt` and `--gen` are both 0, expected something to measure",
        ));
    }
    let model = &artifact.model;
    let mut cases = Vec::new();
    for &batch in &args.batch {
        if batch > model.max_batch {
            eprintln!("skipped: batch {batch}, the artifact takes at most {}", model.max_batch);
            continue;
        }
        for &depth in &args.depth {
            let tokens = u64::from(depth) + u64::from(prompt) + u64::from(generated);
            if tokens > model.max_context.into() {
                let most = model.max_context;
                eprintln!(
                    "skipped: depth {depth}, which needs sequences of {tokens} tokens, the artifact takes at most {most}"
                );
                continue;
            }
            cases.push(Case { batch, depth, prompt, generated });
        }
    }
    match cases.is_empty() {
        true => Err(Failure::new("nothing is left to measure").help(
            "choose smaller `--depth`, `--prompt`, `--gen` or `--batch`, or compile with larger `--max-context` or `--max-batch`",
        )),
        false => Ok(cases),
    }
}

/// Both kinds of step, a few times.
fn warm_up(max_context: u32) -> Case {
    let prompt = max_context.min(PAGE).saturating_sub(1).max(1);
    let generated = (max_context - prompt).min(3);
    Case { batch: 1, depth: 0, prompt, generated }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warming_up_fits_any_context() {
        for max_context in [1, 2, 3, 63, 64, 65, 66, 100_000] {
            let case = warm_up(max_context);
            assert!(case.prompt > 0 && case.length() <= max_context, "{case:?}");
        }
    }
}
