//! JSON in which every value knows its place in the file.
//!
//! A refused config is shown with the line that is at fault, so each value keeps the range of
//! its bytes. serde_json gives none, and the crates that do are unmaintained, lenient about what
//! JSON is (comments, trailing commas) or say nothing of a key that stands twice; the grammar is
//! short enough to read here in full.
//!
//! The parser is total: any text gives a [`Spanned`] or a [`JsonError`]. Nesting is bounded by
//! [`MAX_DEPTH`], so its recursion is too.

use std::collections::HashSet;
use std::ops::Range;

/// How deeply arrays and objects may be nested. Published configs nest four deep.
pub const MAX_DEPTH: usize = 64;

/// A value and the bytes of the text that hold it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spanned {
    /// What stands there.
    pub value: Value,
    /// Where: a range of byte offsets on character boundaries.
    pub at: Range<usize>,
}

/// A JSON value. A number keeps its spelling, because `1` and `1.0` differ where a count is meant.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<Spanned>),
    Object(Vec<Member>),
}

/// One `"key": value` of an object, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub key: String,
    pub key_at: Range<usize>,
    pub value: Spanned,
}

/// Why a text is not the JSON that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The grammar wants something else here.
    #[error("not JSON: {found} where {expected} should stand")]
    Syntax { found: String, expected: &'static str, at: Range<usize> },
    /// More arrays and objects inside each other than [`MAX_DEPTH`].
    #[error("values are nested more than {MAX_DEPTH} deep")]
    TooDeep { at: Range<usize> },
    /// An object that says two things under one name.
    #[error("the key `{key}` stands twice in one object")]
    DuplicateKey { key: String, at: Range<usize> },
}

impl JsonError {
    /// The bytes at fault.
    pub fn span(&self) -> Range<usize> {
        match self {
            JsonError::Syntax { at, .. }
            | JsonError::TooDeep { at }
            | JsonError::DuplicateKey { at, .. } => at.clone(),
        }
    }
}

/// Read the one JSON value that `text` is.
///
/// # Errors
///
/// The first thing in the text that is not JSON, nests too deep or repeats a key.
pub fn parse(text: &str) -> Result<Spanned, JsonError> {
    let mut parser = Parser { text, pos: 0 };
    parser.skip_space();
    let value = parser.value(0)?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.unexpected("the end of the file")),
    }
}

impl Spanned {
    /// What this is, as a message names it: the value itself if it is short, else its kind.
    pub fn describe(&self) -> String {
        const SHOWN: usize = 40;
        match &self.value {
            Value::Null => "null".into(),
            Value::Bool(b) => b.to_string(),
            Value::Number(n) if n.len() <= SHOWN => n.clone(),
            Value::Number(_) => "a very long number".into(),
            Value::String(s) if s.chars().count() <= SHOWN => format!("{s:?}"),
            Value::String(s) => format!("{:?}...", s.chars().take(SHOWN).collect::<String>()),
            Value::Array(items) if items.is_empty() => "an empty array".into(),
            Value::Array(items) => format!("an array of {}", items.len()),
            Value::Object(_) => "an object".into(),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Always on a character boundary: it moves by whole characters or over ASCII.
    pos: usize,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Spanned, JsonError> {
        let start = self.pos;
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
            _ if self.eat_word("true") => Value::Bool(true),
            _ if self.eat_word("false") => Value::Bool(false),
            _ if self.eat_word("null") => Value::Null,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Spanned { value, at: start..self.pos })
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.open(depth)?;
        let mut members = Vec::new();
        let mut seen = HashSet::new();
        if self.eat(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            let start = self.pos;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let key = self.string()?;
            let key_at = start..self.pos;
            if !seen.insert(key.clone()) {
                return Err(JsonError::DuplicateKey { key, at: key_at });
            }
            self.skip_space();
            if !self.eat(b':') {
                return Err(self.unexpected("`:`"));
            }
            self.skip_space();
            let value = self.value(depth + 1)?;
            members.push(Member { key, key_at, value });
            self.skip_space();
            if self.eat(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.eat(b',') {
                return Err(self.unexpected("`,` or `}`"));
            }
            self.skip_space();
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.open(depth)?;
        let mut items = Vec::new();
        if self.eat(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.eat(b']') {
                return Ok(Value::Array(items));
            }
            if !self.eat(b',') {
                return Err(self.unexpected("`,` or `]`"));
            }
            self.skip_space();
        }
    }

    /// Step over the opening bracket and what space follows it.
    fn open(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth == MAX_DEPTH {
            return Err(JsonError::TooDeep { at: self.pos..self.pos + 1 });
        }
        self.pos += 1;
        self.skip_space();
        Ok(())
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let start = self.pos;
        self.pos += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.text[self.pos..].chars().next() else {
                return Err(JsonError::Syntax {
                    found: "the end of the file".into(),
                    expected: "the `\"` that closes this string",
                    at: start..start + 1,
                });
            };
            match c {
                '"' => {
                    self.pos += 1;
                    return Ok(out);
                }
                '\\' => out.push(self.escape()?),
                '\0'..='\x1f' => return Err(self.unexpected("a character of a string")),
                _ => {
                    out.push(c);
                    self.pos += c.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.pos;
        self.pos += 1;
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\x08',
            Some(b'f') => '\x0c',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.pos += 1;
                return self.unicode_escape(start);
            }
            _ => return Err(self.unexpected("one of `\"\\/bfnrtu` after a backslash")),
        };
        self.pos += 1;
        Ok(c)
    }

    /// The rest of `\uXXXX`, or of the two of them that spell one character above U+FFFF.
    fn unicode_escape(&mut self, start: usize) -> Result<char, JsonError> {
        let first = self.hex4()?;
        let code = match first {
            0xd800..=0xdbff if self.eat_word("\\u") => match self.hex4()? {
                second @ 0xdc00..=0xdfff => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                _ => first,
            },
            _ => first,
        };
        char::from_u32(code).ok_or_else(|| JsonError::Syntax {
            found: "half of a surrogate pair".into(),
            expected: "a whole character",
            at: start..self.pos,
        })
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.unexpected("four hexadecimal digits after `\\u`"));
            };
            code = code * 16 + digit;
            self.pos += 1;
        }
        Ok(code)
    }

    fn number(&mut self) -> Result<String, JsonError> {
        let start = self.pos;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(self.text[start..self.pos].to_owned())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected("a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.pos += 1;
        }
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.pos += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.peek() == Some(byte) && {
            self.pos += 1;
            true
        }
    }

    fn eat_word(&mut self, word: &str) -> bool {
        self.text[self.pos..].starts_with(word) && {
            self.pos += word.len();
            true
        }
    }

    fn unexpected(&self, expected: &'static str) -> JsonError {
        let next = self.text[self.pos..].chars().next();
        JsonError::Syntax {
            found: match next {
                None => "the end of the file".into(),
                Some('`') => "a backquote".into(),
                Some(c) => format!("`{}`", c.escape_debug()),
            },
            expected,
            at: self.pos..self.pos + next.map_or(0, char::len_utf8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_bytes() {
        let text = "{ \"a\": [1, -2.5e3, \"é\\n\"],\n \"b\" : {\"c\":null}, \"d\":true}";
        let root = parse(text).unwrap();
        let Value::Object(members) = &root.value else { panic!("an object") };
        assert_eq!(root.at, 0..text.len());
        assert_eq!(&text[members[0].key_at.clone()], "\"a\"");
        assert_eq!(&text[members[0].value.at.clone()], "[1, -2.5e3, \"é\\n\"]");
        let Value::Array(items) = &members[0].value.value else { panic!("an array") };
        let spelled: Vec<&str> = items.iter().map(|i| &text[i.at.clone()]).collect();
        assert_eq!(spelled, ["1", "-2.5e3", "\"é\\n\""]);
        assert_eq!(items[2].value, Value::String("é\n".into()));
        assert_eq!(&text[members[1].value.at.clone()], "{\"c\":null}");
        assert_eq!(members[2].value.value, Value::Bool(true));
    }

    #[test]
    fn escapes_are_read_as_json_defines_them() {
        let parsed = parse(r#""\u00e9\ud83d\ude80\/\t\"""#).unwrap();
        assert_eq!(parsed.value, Value::String("é🚀/\t\"".into()));
        assert!(parse(r#""\ud83d""#).is_err(), "half a pair");
        assert!(parse(r#""\ud83d\u0041""#).is_err(), "half a pair");
        assert!(parse(r#""\x""#).is_err());
        assert!(parse("\"\n\"").is_err(), "a raw line break");
    }

    #[test]
    fn what_is_not_json_is_refused_at_its_place() {
        let cases = [
            ("", 0..0, "not JSON: the end of the file where a value should stand"),
            ("{\"a\": 1,}", 8..9, "not JSON: `}` where a key in double quotes should stand"),
            ("[1 2]", 3..4, "not JSON: `2` where `,` or `]` should stand"),
            ("[01]", 2..3, "not JSON: `1` where `,` or `]` should stand"),
            ("[1.]", 3..4, "not JSON: `]` where a digit should stand"),
            ("[NaN]", 1..2, "not JSON: `N` where a value should stand"),
            ("{\"a\" 1}", 5..6, "not JSON: `1` where `:` should stand"),
            (
                "\"abc",
                0..1,
                "not JSON: the end of the file where the `\"` that closes this string should stand",
            ),
            ("1 é", 2..4, "not JSON: `é` where the end of the file should stand"),
        ];
        for (text, at, message) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!((error.span(), error.to_string()), (at, message.into()), "{text}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_where_it_stands_again() {
        let error = parse(r#"{"a": 1, "b": {"a": 2}, "a": 1}"#).unwrap_err();
        assert_eq!(error, JsonError::DuplicateKey { key: "a".into(), at: 24..27 });
    }

    #[test]
    fn nesting_stops_at_the_limit() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(
            parse(&nested(MAX_DEPTH + 1)),
            Err(JsonError::TooDeep { at: MAX_DEPTH..MAX_DEPTH + 1 })
        );
        assert!(parse(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn no_prefix_of_a_config_is_read_or_panics() {
        let text = include_str!("../../../../golden/configs/Qwen3.5-0.8B.json");
        assert!(parse(text).is_ok());
        for end in 0..text.trim_end().len() {
            assert!(parse(&text[..end]).is_err(), "{end}");
        }
    }
}
