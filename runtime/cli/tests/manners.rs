//! The program as a user meets it: what goes where, and how it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A complete checkpoint; here it only has to be there.
fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/checkpoints/tiny-moe")
}

fn q35() -> Command {
    Command::new(env!("CARGO_BIN_EXE_q35"))
}

fn output(args: &[&str]) -> Output {
    q35().args(args).output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

/// Exit 1, nothing on stdout, and on stderr one line `error: ...`, perhaps a place and advice.
fn refusal(args: &[&str]) -> String {
    let output = output(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(text.starts_with("error: ") && !text.contains("panicked"), "{args:?}: {text}");
    let more = |line: &&str| {
        line.starts_with("--> ") || line.starts_with(" |") || line.starts_with(" = help: ")
    };
    let unexplained = text.lines().skip(1).filter(|line| !more(line)).count();
    assert_eq!(unexplained, 0, "{text}");
    text
}

/// A folder of this test's own, removed at its end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("q35-manners-{}-{name}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        TempDir(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_was_expected() {
    let cases: [(&[&str], &str); 11] = [
        (&[], "Usage: q35"),
        (&["walk"], "unrecognized subcommand 'walk'"),
        (&["run", "a.bin"], "--weights <DIR>"),
        (&["run", "a.bin", "--weights", "w"], "--prompt <TEXT>|--chat <TEXT>"),
        (
            &["run", "a.bin", "--weights", "w", "--prompt", "p", "--chat", "c"],
            "cannot be used with",
        ),
        (
            &["run", "a.bin", "--weights", "w", "--prompt", "p", "--top-p", "2"],
            "above 0 and at most 1",
        ),
        (&["logits", "a.bin", "--weights", "w", "-o", "o"], "--tokens <IDS>"),
        (
            &["logits", "a.bin", "--weights", "w", "-o", "o", "--tokens", "1,b"],
            "`b` is not a token id",
        ),
        (
            &["logits", "a.bin", "--weights", "w", "-o", "o", "--tokens", "1", "--chunk", "0"],
            "--chunk <N>",
        ),
        (&["bench", "a.bin"], "--weights <DIR>|--random-weights"),
        (&["bench", "a.bin", "--random-weights", "--threads", "0"], "0 is not in 1..=1024"),
    ];
    for (args, expected) in cases {
        let output = output(args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(output.stdout.is_empty() && text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn help_goes_to_stdout_and_says_that_code_is_code() {
    for command in ["run", "logits", "bench"] {
        let output = output(&[command, "--help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(text.contains("The code in an artifact is code"), "{text}");
    }
    let text = String::from_utf8(output(&["--help"]).stdout).unwrap();
    assert!(text.contains("-v what was loaded") && text.contains("-vv also"), "{text}");
}

#[test]
fn an_artifact_that_is_not_there_is_one_line() {
    let dir = TempDir::new("missing");
    let (missing, weights, out) = (dir.path("no.bin"), dir.path(""), dir.path("o"));
    let commands: [&[&str]; 3] = [
        &["run", &missing, "--weights", &weights, "--prompt", "p"],
        &["logits", &missing, "--weights", &weights, "--tokens", "1", "-o", &out],
        &["bench", &missing, "--weights", &weights],
    ];
    for args in commands {
        let text = refusal(args);
        assert!(text.starts_with(&format!("error: cannot read `{missing}`: ")), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_no_artifact_is_named_with_advice() {
    let config = checkpoint().join("config.json").display().to_string();
    let weights = checkpoint().display().to_string();
    let text = refusal(&["run", &config, "--weights", &weights, "--prompt", "p"]);
    assert!(text.starts_with("error: not an artifact of q35c: "), "{text}");
    assert!(text.contains(&format!("\n--> {config}\n")), "{text}");
    assert!(text.contains("= help: `q35c compile` makes an artifact"), "{text}");
}

#[test]
fn devices_are_listed_on_stdout() {
    let output = output(&["devices"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(
        text.starts_with("cpu: ") && text.contains("\n  code: target cpu, variants "),
        "{text}"
    );
}

#[test]
fn a_variant_that_does_not_exist_is_said_where_devices_are_listed() {
    let output = q35().arg("devices").env("Q35_CPU", "z80").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cannot be used: `Q35_CPU` is `z80`, expected one of `"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = q35().arg("devices").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = q35().arg("devices").stdout(full).stderr(Stdio::piped()).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("error: cannot write to stdout: "), "{text}");
}
