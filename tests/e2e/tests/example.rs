//! The library's example program, built and run as its users would.

use q35_e2e::golden::checkpoint;
use q35_e2e::run::Build;
use std::process::{Command, Output};

fn generate(args: &[&str]) -> Output {
    let weights = checkpoint("tiny-moe");
    let name = format!("q35-example-{}-{}.bin", std::process::id(), args.len());
    let artifact = std::env::temp_dir().join(name);
    Build::DEFAULT.artifact("tiny-moe").write_file(&artifact).expect("a temporary file");
    let (flags, texts): (Vec<&str>, Vec<&str>) = args.iter().partition(|a| a.starts_with("--"));
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "-p", "q35-runtime", "--example", "generate", "--"])
        .args(flags)
        .args([&artifact, &weights])
        .args(texts)
        .output()
        .expect("cargo runs");
    std::fs::remove_file(&artifact).expect("just written");
    output
}

#[test]
fn every_text_is_answered() {
    let output = generate(&["What is 2+3?", "Say hello", "What is 1 plus 1?"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<&str> = text.split("> ").skip(1).collect();
    assert_eq!(answers.len(), 3, "{text}");
    for (answer, question) in answers.iter().zip(["What is 2+3?", "Say hello", "What is 1 plus 1?"])
    {
        let said = answer.strip_prefix(question).expect("the question comes first");
        assert!(said.trim().len() > 2, "{text}");
    }
}

#[test]
fn a_raw_text_is_continued() {
    let output = generate(&["--raw", "ROMEO:\n"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.trim().len() > "> ROMEO:".len() + 20, "{text}");
}
