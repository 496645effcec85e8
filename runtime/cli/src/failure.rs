//! What ends a command: one line, the place, and advice, on stderr; exit 1.

use q35_runtime::{EngineError, LoadError};
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    Told(Box<Report>),
    /// Whoever read stdout has seen enough.
    ReaderGone,
}

/// An error as the user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    message: String,
    place: Option<PathBuf>,
    help: Option<String>,
}

impl Failure {
    pub fn new(message: impl Display) -> Self {
        // A name of a file may have line breaks; the message is one line all the same.
        let message = message.to_string().replace(['\n', '\r'], " ");
        Failure::Told(Box::new(Report { message, place: None, help: None }))
    }

    /// It is the fault of that file, which the message does not name.
    pub fn of(mut self, file: &Path) -> Self {
        if let Failure::Told(report) = &mut self {
            report.place = Some(file.into());
        }
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        if let Failure::Told(report) = &mut self {
            report.help = Some(help.into());
        }
        self
    }

    /// Writing to stdout failed.
    pub fn stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::new(format!("cannot write to stdout: {error}")),
        }
    }
}

impl Report {
    /// The form that `q35c` and Rust's compiler have.
    pub fn render(&self, color: bool) -> String {
        let (red, bold, off) = match color {
            true => ("\x1b[1;31m", "\x1b[1m", "\x1b[0m"),
            false => ("", "", ""),
        };
        let mut text = format!("{red}error{off}{bold}: {}{off}", self.message);
        if let Some(file) = &self.place {
            text += &format!("\n--> {}", file.display());
        }
        if let Some(help) = &self.help {
            text += &format!("\n |\n = {bold}help{off}: {help}");
        }
        text
    }
}

/// Whether stderr is a terminal whose user does not mind color.
pub fn stderr_has_color() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    io::stderr().is_terminal() && !no_color
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let failure = Failure::new(&error);
        match error.advice() {
            Some(advice) => failure.help(advice),
            None => failure,
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let failure = Failure::new(&error);
        match error {
            EngineError::TooLong { .. } => {
                failure.help("`q35c compile --max-context` says how long sequences may be")
            }
            EngineError::NoFreeSlot { .. } => {
                failure.help("`q35c compile --max-batch` says how many sequences there may be")
            }
            EngineError::KvPagesExhausted { .. } => {
                failure.help("make room for more tokens with `--kv-tokens`, or ask for fewer")
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(failure: Failure, color: bool) -> String {
        match failure {
            Failure::Told(report) => report.render(color),
            Failure::ReaderGone => panic!("nothing to tell"),
        }
    }

    #[test]
    fn an_error_is_one_line_then_the_place_then_advice() {
        let failure = || Failure::new("`a\nb` is not\r\nwell");
        assert_eq!(rendered(failure(), false), "error: `a b` is not  well");
        let failure = failure().of(Path::new("x.bin")).help("do better");
        assert_eq!(
            rendered(failure, false),
            "error: `a b` is not  well\n--> x.bin\n |\n = help: do better"
        );
    }

    #[test]
    fn color_adds_no_visible_character() {
        let failure = || Failure::new("no").of(Path::new("x")).help("yes");
        let mut colored = rendered(failure(), true);
        for code in ["\x1b[1;31m", "\x1b[1m", "\x1b[0m"] {
            assert!(colored.contains(code));
            colored = colored.replace(code, "");
        }
        assert_eq!(colored, rendered(failure(), false));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let failure = Failure::stdout(io::ErrorKind::BrokenPipe.into());
        assert!(matches!(failure, Failure::ReaderGone));
        let failure = Failure::stdout(io::ErrorKind::StorageFull.into());
        assert!(rendered(failure, false).starts_with("error: cannot write to stdout: "));
    }
}
