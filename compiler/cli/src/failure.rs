//! What ends a command: one line, the place, and advice, on stderr; exit 1.

use crate::diagnostic::{self, Place};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An error as the user sees it.
#[derive(Debug)]
pub struct Failure {
    message: String,
    place: Option<(String, String, Option<Range<usize>>)>,
    help: Option<String>,
}

impl Failure {
    pub fn new(message: impl ToString) -> Self {
        Failure { message: message.to_string(), place: None, help: None }
    }

    pub fn help(self, help: impl Into<String>) -> Self {
        Failure { help: Some(help.into()), ..self }
    }

    /// In `file`, which holds `text`, at those bytes.
    pub fn at(self, file: &Path, text: &str, at: Option<Range<usize>>) -> Self {
        Failure { place: Some((file.display().to_string(), text.into(), at)), ..self }
    }

    /// In `file`, as a whole.
    pub fn of(self, file: &Path) -> Self {
        self.at(file, "", None)
    }

    pub fn render(&self) -> String {
        let place =
            self.place.as_ref().map(|(file, text, at)| Place { file, text, at: at.clone() });
        diagnostic::render(&self.message, place, self.help.as_deref())
    }
}

/// Write data to stdout. That whoever read it has seen enough is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// The text of a file that a user named.
pub fn read_text(path: &PathBuf) -> Result<String, Failure> {
    let bytes = std::fs::read(path)
        .map_err(|e| Failure::new(format!("cannot read `{}`: {e}", path.display())))?;
    String::from_utf8(bytes)
        .map_err(|e| Failure::new(format!("`{}` is not UTF-8: {}", path.display(), e.utf8_error())))
}
