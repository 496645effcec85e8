//! The chores of this repository, with nothing but Rust: `cargo xtask COMMAND`.
//!
//! Standard library only, so that it starts in a second on a machine that has built nothing yet.

mod check;
mod checks;
mod demo;
mod fuzz;
mod goldens;
mod hygiene;
mod referee;
mod tools;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  demo                  build, compile the small model that comes along, and let it write a scene
  test [NAME...]        every check that CI runs, or only those named
  fuzz [--seconds N]    feed broken files to everything that reads files, N seconds each (default 60)
  goldens [NAME...]     make the random golden checkpoints again, with PyTorch, in target/tools
  referee               the gated delta rule of fla-core beside ours, on ptx-sim; with PyTorch and Triton

Environment of `test`:
  Q35_REQUIRE=a,b       a check of these names that cannot run fails instead of being skipped
  CI=true               requires rustfmt and clippy
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["demo"] => demo::run(demo::Profile::Release).map_err(|e| e.to_string()),
        ["test", names @ ..] => match checks::select(names) {
            Ok(checks) => return check::run(&checks),
            Err(unknown) => return usage(&unknown),
        },
        ["fuzz"] => fuzz::run(60),
        ["fuzz", "--seconds", n] => match n.parse() {
            Ok(seconds) => fuzz::run(seconds),
            Err(_) => return usage(&format!("`{n}` is no number of seconds")),
        },
        ["goldens", names @ ..] => goldens::run(names),
        ["referee"] => referee::run(),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        [] => return usage("which command?"),
        [other, ..] => return usage(&format!("`{other}` is no command, or has other arguments")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("error: {why}\n\n{USAGE}");
    ExitCode::from(2)
}

/// The root of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies two levels down").into()
}

/// Where cargo builds.
fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The cargo that runs this, from the root of the repository.
fn cargo(args: &[&str]) -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), args)
}

/// A program, from the root of the repository.
fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// Run it to its end, its output where ours goes.
fn done(mut command: Command) -> Result<(), String> {
    let shown = shown(&command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` ended with {status}")),
        Err(error) => Err(format!("cannot run `{shown}`: {error}")),
    }
}

/// What it prints to stdout.
fn output(mut command: Command) -> Result<String, String> {
    let shown = shown(&command);
    let output = command.output().map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    if !output.status.success() {
        return Err(format!("`{shown}`: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command without its folders.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
