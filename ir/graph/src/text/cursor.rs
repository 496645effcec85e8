//! Walks along one line of text.

use super::Problem;
use std::collections::BTreeMap;
use std::str::FromStr;

pub(super) struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub fn new(line: &'a str) -> Self {
        Cursor { rest: line }
    }

    /// What is wrong here.
    pub fn expected(&self, expected: &'static str) -> Problem {
        let found = match self.rest.split_whitespace().next() {
            Some(word) => format!("`{}`", word.chars().take(40).collect::<String>()),
            None => "the end of the line".into(),
        };
        Problem::Expected { expected, found }
    }

    pub fn at_end(&self) -> bool {
        self.rest.trim_start().is_empty()
    }

    pub fn end(&self) -> Result<(), Problem> {
        if self.at_end() { Ok(()) } else { Err(self.expected("the end of the line")) }
    }

    pub fn eat(&mut self, mark: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(mark);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    pub fn mark(&mut self, mark: char, expected: &'static str) -> Result<(), Problem> {
        if self.eat(mark) { Ok(()) } else { Err(self.expected(expected)) }
    }

    /// Letters, digits and the signs that names and numbers hold.
    pub fn word(&mut self, expected: &'static str) -> Result<&'a str, Problem> {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.+-%?".contains(c)));
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        if word.is_empty() {
            return Err(self.expected(expected));
        }
        self.rest = after;
        Ok(word)
    }

    pub fn parse<T: FromStr>(&mut self, expected: &'static str) -> Result<T, Problem> {
        let before = self.rest;
        self.parse_word(expected).inspect_err(|_| self.rest = before)
    }

    fn parse_word<T: FromStr>(&mut self, expected: &'static str) -> Result<T, Problem> {
        let at = Cursor { rest: self.rest };
        self.word(expected)?.parse().map_err(|_| at.expected(expected))
    }

    /// A word of a table.
    pub fn name<T: Copy>(
        &mut self,
        names: &[(T, &str)],
        expected: &'static str,
    ) -> Result<T, Problem> {
        let at = Cursor { rest: self.rest };
        let word = self.word(expected)?;
        let known = names.iter().find(|(_, name)| *name == word).map(|(value, _)| *value);
        known.ok_or_else(|| at.expected(expected))
    }

    /// A quoted string, escaped as Rust prints it.
    pub fn string(&mut self) -> Result<String, Problem> {
        let wrong = self.expected("a string in quotes");
        let rest = self.rest.trim_start().strip_prefix('"').ok_or_else(|| wrong.clone())?;
        let mut text = String::new();
        let mut chars = rest.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &rest[i + 1..];
                    return Ok(text);
                }
                '\\' => {
                    let (_, kind) = chars.next().ok_or_else(|| wrong.clone())?;
                    text.push(match kind {
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        '0' => '\0',
                        'u' => {
                            let code =
                                rest[i + 2..].strip_prefix('{').and_then(|r| r.split_once('}'));
                            let (digits, _) = code.ok_or_else(|| wrong.clone())?;
                            chars.by_ref().take_while(|&(_, c)| c != '}').for_each(drop);
                            let code = u32::from_str_radix(digits, 16).ok();
                            code.and_then(char::from_u32).ok_or_else(|| wrong.clone())?
                        }
                        '"' | '\\' | '\'' => kind,
                        _ => return Err(wrong),
                    });
                }
                _ => text.push(c),
            }
        }
        Err(wrong)
    }

    /// Items between the marks `[` and `]`.
    pub fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        self.mark('[', "`[`")?;
        let mut items = vec![];
        while !self.eat(']') {
            if !items.is_empty() {
                self.mark(',', "`,` or `]`")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `{name: word, ..}`, or nothing.
    pub fn attributes(&mut self) -> Result<BTreeMap<&'a str, &'a str>, Problem> {
        let mut all = BTreeMap::new();
        if !self.eat('{') {
            return Ok(all);
        }
        while !self.eat('}') {
            if !all.is_empty() {
                self.mark(',', "`,` or `}`")?;
            }
            let name = self.word("an attribute")?;
            self.mark(':', "`:`")?;
            if all.insert(name, self.word("a value")?).is_some() {
                return Err(Problem::Op(format!("attribute `{name}` is given twice")));
            }
        }
        Ok(all)
    }
}
