//! The programs, run as users run them.

// One place for it, which the tests of targets have too.
#[path = "../../../targets/conformance/find_ptxas.rs"]
mod find_ptxas;

pub use find_ptxas::ptxas;

use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The compiler.
pub fn q35c() -> Command {
    program("q35c")
}

/// The runtime.
pub fn q35() -> Command {
    program("q35")
}

/// The folder that the programs are in.
pub fn folder() -> PathBuf {
    let path = PathBuf::from(program("q35").get_program());
    path.parent().expect("a program is in a folder").into()
}

/// What came of running a program.
pub struct Outcome {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    command: String,
}

/// Run it to its end, with nothing to read.
pub fn outcome(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    Outcome {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).expect("stderr is text"),
        command: format!("{command:?}"),
    }
}

impl Outcome {
    /// It did what it was asked: what it wrote to stdout.
    pub fn text(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.command, self.stderr);
        String::from_utf8(self.stdout).expect("stdout is text")
    }

    pub fn json(self) -> Value {
        serde_json::from_str(&self.text()).expect("stdout is JSON and nothing else")
    }

    /// It failed as it should: one line that starts with `error:` and has all of `says`, then
    /// nothing but the place and advice; no data, no trace of the program's own insides.
    pub fn refused(self, says: &[&str]) {
        self.failed(1, says);
        for line in self.stderr.lines().filter(|line| !is_note(line)).skip(1) {
            let place = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
            let marked = ["-->", " |", "|", "= help: ", "..."].iter().any(|m| place.starts_with(m));
            assert!(marked, "{}: neither place nor advice: {line}\n{}", self.command, self.stderr);
        }
    }

    /// It was not used as it can be: one line that starts with `error:` and has all of `says`, then
    /// how to use it.
    pub fn misused(self, says: &[&str]) {
        self.failed(2, says);
        assert!(self.stderr.contains("--help"), "{}\n{}", self.command, self.stderr);
    }

    fn failed(&self, code: i32, says: &[&str]) {
        let Self { command, stderr, .. } = self;
        assert_eq!(self.code, Some(code), "{command}\n{stderr}");
        assert!(self.stdout.is_empty(), "{command}: data was written all the same");
        let mut lines = stderr.lines().filter(|line| !is_note(line));
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("error: "), "{command}\n{stderr}");
        assert!(!lines.any(|line| line.contains("error:")), "{command}: two errors\n{stderr}");
        for trace in ["panicked", "backtrace", "unwrap"] {
            assert!(!stderr.contains(trace), "{command}\n{stderr}");
        }
        for words in says {
            assert!(first.contains(words), "{command}: `{words}` is not said\n{stderr}");
        }
    }
}

/// What is told of what was done, whether or not it fails later.
fn is_note(line: &str) -> bool {
    line.starts_with("note: ") || line.starts_with("skipped: ")
}

fn program(name: &str) -> Command {
    static BUILT: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    Command::new(&BUILT.get_or_init(build)[name])
}

/// Both programs as the sources are now, built if they are not: a test must not run older ones
/// that happen to lie there.
fn build() -> HashMap<String, PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "q35c", "-p", "q35", "--message-format", "json"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo writes text");
    let messages = text.lines().map(|line| serde_json::from_str(line).expect("cargo writes JSON"));
    let programs = messages.filter_map(|message: Value| {
        let path = message["executable"].as_str()?;
        let name = message["target"]["name"].as_str()?;
        Some((name.to_owned(), PathBuf::from(path)))
    });
    programs.collect()
}
