//! PTX text to tokens that know their line.
//!
//! A word keeps its dots (`ld.global.v4.f32`, `.shared::cta`, `%tid.x`), as instructions are looked at whole.
//! `.loc`, `.file` and `@@` lines speak to debuggers and end with their line; they are dropped here, where lines are known.

use crate::error::Error;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Word(String),
    /// As written, without its sign.
    Int(u64),
    F32(u32),
    F64(u64),
    Text,
    Punct(char),
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub line: u32,
}

pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, Error> {
    Lexer { bytes: text.as_bytes(), at: 0, line: 1 }.run()
}

struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

impl Lexer<'_> {
    fn run(mut self) -> Result<Vec<Token>, Error> {
        let mut out = vec![];
        while let Some(&c) = self.bytes.get(self.at) {
            let line = self.line;
            let kind = match c {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                    continue;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => {
                    self.at += 1;
                    continue;
                }
                b'/' if self.peek(1) == Some(b'/') => {
                    self.skip_line();
                    continue;
                }
                b'/' if self.peek(1) == Some(b'*') => {
                    self.skip_comment()?;
                    continue;
                }
                b'@' if self.peek(1) == Some(b'@') => {
                    self.skip_line();
                    continue;
                }
                b'"' => self.text()?,
                b'0'..=b'9' => self.number()?,
                c if starts_word(c) => {
                    let word = self.word();
                    if word == ".loc" || word == ".file" {
                        self.skip_line();
                        continue;
                    }
                    Kind::Word(word)
                }
                b'#' => {
                    self.skip_line();
                    continue;
                }
                c if c.is_ascii_graphic() => {
                    self.at += 1;
                    Kind::Punct(char::from(c))
                }
                _ => return Err(self.error("a character that PTX does not have")),
            };
            out.push(Token { kind, line });
        }
        Ok(out)
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::Parse { line: self.line, message: message.into() }
    }

    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|c| c != b'\n') {
            self.at += 1;
        }
    }

    fn skip_comment(&mut self) -> Result<(), Error> {
        let open = self.error("a comment that does not end");
        self.at += 2;
        loop {
            match self.peek(0) {
                None => return Err(open),
                Some(b'*') if self.peek(1) == Some(b'/') => {
                    self.at += 2;
                    return Ok(());
                }
                Some(b'\n') => self.line += 1,
                Some(_) => {}
            }
            self.at += 1;
        }
    }

    fn text(&mut self) -> Result<Kind, Error> {
        self.at += 1;
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                b'"' => return Ok(Kind::Text),
                b'\n' => break,
                _ => {}
            }
        }
        Err(self.error("a string that does not end"))
    }

    fn word(&mut self) -> String {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek(0) {
                Some(c) if starts_word(c) || c.is_ascii_digit() => self.at += 1,
                Some(b':') if self.peek(1) == Some(b':') => self.at += 2,
                _ => break,
            }
        }
        String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned()
    }

    fn number(&mut self) -> Result<Kind, Error> {
        let start = self.at;
        while let Some(c) = self.peek(0) {
            let exponent = self.at > start
                && matches!(self.bytes[self.at - 1], b'e' | b'E')
                && self.bytes[start..self.at].contains(&b'.');
            let more =
                c.is_ascii_alphanumeric() || c == b'.' || (exponent && matches!(c, b'+' | b'-'));
            if !more {
                break;
            }
            self.at += 1;
        }
        let text = String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned();
        number(&text).ok_or_else(|| self.error(format!("`{text}` is no number")))
    }
}

fn starts_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn number(text: &str) -> Option<Kind> {
    let lower = text.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f") {
        return (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok().map(Kind::F32))?;
    }
    if let Some(hex) = lower.strip_prefix("0d") {
        return (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok().map(Kind::F64))?;
    }
    if lower.contains('.') {
        return lower.parse::<f64>().ok().map(|v| Kind::F64(v.to_bits()));
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    value.ok().map(Kind::Int)
}
