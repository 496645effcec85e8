//! `q35`, the runtime: runs artifacts that `q35c` compiled, with a checkpoint's own weights.
//!
//! Data goes to stdout, all else to stderr. Exit status: 0 done, 1 failed, 2 used wrongly.

mod bench;
mod devices;
mod failure;
mod loading;
mod logits;
mod output;
mod run;
mod units;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// Run Qwen3.5 models that q35c compiled
#[derive(Parser)]
#[command(name = "q35", version)]
struct Cli {
    /// Say more on stderr: -v what was loaded, where to, and how long it took; -vv also what goes
    /// into the model and what comes out of it, as token ids
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Logits(logits::Logits),
    Bench(bench::Bench),
    Devices(devices::Devices),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(args) => run::run(args, cli.verbose),
        Command::Logits(args) => logits::run(args, cli.verbose),
        Command::Bench(args) => bench::run(args, cli.verbose),
        Command::Devices(args) => devices::run(args, cli.verbose),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody wants the rest: `q35 run ... | head` has done what was asked.
        Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(Failure::Told(report)) => {
            eprintln!("{}", report.render(failure::stderr_has_color()));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
