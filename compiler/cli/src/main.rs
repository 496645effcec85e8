//! `q35c`, the compiler: from a `config.json` to an artifact, and looking into artifacts.
//!
//! Data goes to stdout, all else to stderr. Exit status: 0 done, 1 failed, 2 used wrongly.

mod compile;
mod cubin;
mod diagnostic;
mod explain;
mod extract;
mod failure;
mod inspect;
mod look;
mod ptxas;
mod synth;
mod targets;
mod units;
mod usage;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::path::PathBuf;
use std::process::ExitCode;

/// Ahead-of-time compiler for the Qwen3.5 model family
#[derive(Parser)]
#[command(name = "q35c", version)]
struct Cli {
    /// Say more: once for what was written and how long it took
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compile(compile::Compile),
    Inspect(look::Inspect),
    Explain(look::Explain),
    Synth(Synth),
}

/// Write a checkpoint of random weights with the true names, shapes and types
#[derive(clap::Args)]
struct Synth {
    /// The model's config.json
    config: PathBuf,
    /// The directory to write
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Equal seeds give equal weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Compile(args) => compile::run(args, cli.verbose),
        Command::Inspect(args) => look::inspect(args),
        Command::Explain(args) => look::explain(args),
        Command::Synth(args) => synthesise(args, cli.verbose),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.render());
            ExitCode::FAILURE
        }
    }
}

fn synthesise(args: &Synth, verbose: u8) -> Result<(), Failure> {
    let (text, parsed) = compile::read_config(&args.config)?;
    let made =
        synth::synth(&text, &parsed.config, &args.output, args.seed).map_err(Failure::new)?;
    if verbose > 0 {
        eprintln!("wrote {} tensors, {} bytes, {} shards", made.tensors, made.bytes, made.shards);
    }
    Ok(())
}
