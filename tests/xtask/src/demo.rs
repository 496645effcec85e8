//! The README's first command: a model on a machine that has only Rust.

use crate::{cargo, command, done, root, target};
use std::fs;

/// A small model, trained on Shakespeare's plays and short chats.
pub const WEIGHTS: &str = "golden/checkpoints/tiny-moe";

const PROMPT: &str = "\
[Enter KING HENRY and GLOUCESTER.]

KING.
Once more, good friends, we stand before the wall.

";

const QUESTION: &str = "What is 7 plus 8?";

/// How the programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As users build them.
    Release,
    /// As the tests have built them already.
    Dev,
}

/// Build both programs, compile the model, and let it write and talk.
///
/// # Errors
///
/// Which command failed.
pub fn run(profile: Profile) -> Result<(), String> {
    let folder = target().join("demo");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make `{}`: {e}", folder.display()))?;
    let artifact = folder.join("tiny.bin").display().to_string();
    let config = format!("{WEIGHTS}/config.json");

    let mut build = vec!["build", "--package", "q35c", "--package", "q35"];
    if profile == Profile::Release {
        build.push("--release");
    }
    let step = |program: &str, args: &[&str]| step(profile, program, args);
    step("cargo", &build)?;
    step("q35c", &["compile", &config, "-o", &artifact, "-v"])?;
    step(
        "q35",
        &[
            "run",
            &artifact,
            "--weights",
            WEIGHTS,
            "--prompt",
            PROMPT,
            "--max-tokens",
            "300",
            "--seed",
            "7",
        ],
    )?;
    step(
        "q35",
        &[
            "run",
            &artifact,
            "--weights",
            WEIGHTS,
            "--chat",
            QUESTION,
            "--max-tokens",
            "120",
            "--greedy",
        ],
    )?;
    eprintln!(
        "\nThe artifact is `{artifact}`; README.md says how to do the same with a published model."
    );
    Ok(())
}

/// Say what is run, then run it.
fn step(profile: Profile, program: &str, args: &[&str]) -> Result<(), String> {
    let shown: Vec<String> = args.iter().map(|arg| shown(arg)).collect();
    eprintln!("\n$ {program} {}", shown.join(" "));
    if program == "cargo" {
        return done(cargo(args));
    }
    let folder = if profile == Profile::Release { "release" } else { "debug" };
    let built = target().join(folder).join(format!("{program}{}", std::env::consts::EXE_SUFFIX));
    done(command(&built.display().to_string(), args))
}

/// As one would type it.
fn shown(arg: &str) -> String {
    let arg = arg.strip_prefix(&format!("{}/", root().display())).unwrap_or(arg);
    if arg.contains('\n') {
        format!("$'{}'", arg.replace('\n', "\\n"))
    } else if arg.contains([' ', '?']) {
        format!("'{arg}'")
    } else {
        arg.to_owned()
    }
}
