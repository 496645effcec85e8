//! Checks, one after another, and what became of them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Something that CI checks.
pub struct Check {
    /// For the command line, the summary and `Q35_REQUIRE`.
    pub name: &'static str,
    /// What holds when it passes.
    pub about: &'static str,
    pub run: fn() -> Outcome,
}

pub enum Outcome {
    Passed,
    Failed(String),
    /// It cannot be done here, and why.
    Skipped(String),
}

impl From<Result<(), String>> for Outcome {
    fn from(result: Result<(), String>) -> Self {
        match result {
            Ok(()) => Outcome::Passed,
            Err(why) => Outcome::Failed(why),
        }
    }
}

/// Run them all, in order, whatever fails, and sum up. The last line counts checks.
pub fn run(checks: &[&Check]) -> ExitCode {
    let required = required();
    let start = Instant::now();
    let mut done: Vec<(&Check, Outcome, Duration)> = vec![];
    for check in checks {
        eprintln!("\n==> {}: {}", check.name, check.about);
        let start = Instant::now();
        let outcome = match (check.run)() {
            Outcome::Skipped(why) if required.iter().any(|name| name == check.name) => {
                Outcome::Failed(format!("required, but {why}"))
            }
            other => other,
        };
        match &outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => eprintln!("==> {} FAILED: {why}", check.name),
            Outcome::Skipped(why) => eprintln!("==> {} SKIPPED: {why}", check.name),
        }
        done.push((check, outcome, start.elapsed()));
    }

    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!("\n{} {}, {cores} cores", std::env::consts::ARCH, std::env::consts::OS);
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (check, outcome, took) in &done {
        let (count, word, why) = match outcome {
            Outcome::Passed => (&mut passed, "passed", ""),
            Outcome::Failed(why) => (&mut failed, "FAILED", why.as_str()),
            Outcome::Skipped(why) => (&mut skipped, "skipped", why.as_str()),
        };
        *count += 1;
        let line = format!("{:<14} {word:<8} {:>7.1} s  {why}", check.name, took.as_secs_f64());
        println!("{}", line.trim_end());
    }
    println!("{:<14} {:<8} {:>7.1} s", "all", "", start.elapsed().as_secs_f64());
    let skips = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    println!("{passed} passed, {failed} failed{skips}");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Names of checks that must not be skipped.
fn required() -> Vec<String> {
    let listed = std::env::var("Q35_REQUIRE").unwrap_or_default();
    let mut names: Vec<String> = listed.split(',').map(|name| name.trim().to_owned()).collect();
    if std::env::var("CI").is_ok_and(|v| v == "true") {
        names.extend(["rustfmt".into(), "clippy".into()]);
    }
    names
}
