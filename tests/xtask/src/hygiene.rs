//! What lies in the repository, read from its index: sizes, generated files, words.

use crate::check::Outcome;
use crate::{command, output, root};
use std::fs;

const LARGEST_FILE: u64 = 12 << 20;
const LARGEST_REPOSITORY: u64 = 60 << 20;

/// A source file that is longer holds more than one concept.
const MOST_LINES: usize = 800;

/// Endings of what is made, not written.
const GENERATED: [&str; 12] = [
    ".bin",
    ".o",
    ".so",
    ".a",
    ".rlib",
    ".exe",
    ".pyc",
    ".snap.new",
    ".profraw",
    ".orig",
    ".rej",
    ".log",
];

/// Files whose every word is ours.
const TEXTS: [&str; 7] = [".rs", ".md", ".toml", ".py", ".sh", ".yml", ".ci/run"];

/// Words of work that is not done, or that was done elsewhere. Put together here, so that this file has none of them.
const WORDS: [&str; 11] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("HA", "CK"),
    concat!("for ", "now"),
    concat!("to", "do!("),
    concat!("unimpl", "emented!"),
    concat!("db", "g!("),
    concat!("<<<<", "<<<"),
    concat!("/wo", "rk/"),
    concat!("../sh", "ared"),
];

pub fn run() -> Outcome {
    let listed = match output(command("git", &["ls-files", "-z"])) {
        Ok(listed) => listed,
        Err(why) => return Outcome::Skipped(format!("this is no clone: {why}")),
    };
    let mut findings = vec![];
    let mut total = 0;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let path = root().join(name);
        // What is deleted but not committed yet.
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        total += about.len();
        if about.len() > LARGEST_FILE {
            findings
                .push(format!("{name}: {} bytes, expected at most {LARGEST_FILE}", about.len()));
        }
        if about.is_file() {
            let content = fs::read(&path).unwrap_or_default();
            findings.extend(look(name, &String::from_utf8_lossy(&content)));
        }
    }
    if total > LARGEST_REPOSITORY {
        findings.push(format!("all files: {total} bytes, expected at most {LARGEST_REPOSITORY}"));
    }
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    match findings.len() {
        0 => Outcome::Passed,
        n => Outcome::Failed(format!("{n} findings, the first: {}", findings[0])),
    }
}

/// What is wrong with one file.
fn look(name: &str, content: &str) -> Vec<String> {
    let mut findings = vec![];
    let generated = GENERATED.iter().any(|ending| name.ends_with(ending));
    if generated || name.split('/').any(|part| part == "target" || part == "__pycache__") {
        findings.push(format!("{name}: a generated file"));
    }
    if !TEXTS.iter().any(|ending| name.ends_with(ending)) {
        return findings;
    }
    for (number, line) in content.lines().enumerate() {
        for word in WORDS.iter().filter(|word| line.contains(**word)) {
            findings.push(format!("{name}:{}: `{word}`", number + 1));
        }
    }
    let lines = content.lines().count();
    if name.ends_with(".rs") && lines > MOST_LINES {
        findings.push(format!("{name}: {lines} lines, expected at most {MOST_LINES}"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        let line = format!("let x = 1; // {} is wrong", WORDS[0]);
        assert_eq!(look("a/b.rs", &line), [format!("a/b.rs:1: `{}`", WORDS[0])]);
        assert_eq!(look("a/model.bin", ""), ["a/model.bin: a generated file"]);
        assert_eq!(look("a/target/b", ""), ["a/target/b: a generated file"]);
        let long = "\n".repeat(MOST_LINES + 1);
        assert_eq!(look("a.rs", &long), ["a.rs: 801 lines, expected at most 800"]);
    }

    #[test]
    fn what_is_right_is_left_alone() {
        assert!(look("a.rs", &"\n".repeat(MOST_LINES)).is_empty());
        assert!(look("model.safetensors", WORDS[0]).is_empty(), "bytes are no words");
        assert!(look(file!(), include_str!("hygiene.rs")).is_empty(), "this file");
    }
}
