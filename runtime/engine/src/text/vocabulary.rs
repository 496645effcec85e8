//! From an id to its bytes: the one table that decoding needs.
//!
//! It is gathered from both files that may name tokens (spec 16.2), each token with one id and
//! each id with one token. All tokens lie end to end in one buffer, so that a vocabulary of a
//! quarter of a million is three allocations and a look-up is two loads.

use std::collections::HashMap;
use std::path::Path;

use super::alphabet;
use super::tokenizer::TokenizerError;

/// The bytes of every token, and which tokens are special. Ids without a token decode to nothing.
#[derive(Debug)]
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// Token `i` is `bytes[starts[i]..starts[i + 1]]`; `valid_ids + 1` entries.
    starts: Vec<u32>,
    kinds: Vec<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No token has this id.
    Hole,
    /// A token that is text.
    Text,
    /// A token that decoding leaves out.
    Special,
}

impl Vocabulary {
    /// The highest id that has a token, plus one.
    pub fn valid_ids(&self) -> u32 {
        self.kinds.len() as u32
    }

    /// What the token adds to the text: nothing for special tokens and unknown ids.
    pub fn text_bytes(&self, id: u32) -> &[u8] {
        match self.kinds.get(id as usize) {
            Some(Kind::Text) => {
                let i = id as usize;
                &self.bytes[self.starts[i] as usize..self.starts[i + 1] as usize]
            }
            Some(Kind::Special | Kind::Hole) | None => &[],
        }
    }

    /// Whether decoding leaves this token out.
    pub fn is_special(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Special)
    }

    fn push(&mut self, bytes: &[u8], kind: Kind) {
        self.starts.push(self.end());
        self.bytes.extend_from_slice(bytes);
        self.kinds.push(kind);
    }

    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("tokenizer files are limited to less than 4 GiB")
    }
}

/// The tokens named so far.
#[derive(Default)]
pub(super) struct Tokens<'a> {
    ids: HashMap<&'a str, u32>,
    tokens: HashMap<u32, (&'a str, Kind)>,
}

impl<'a> Tokens<'a> {
    /// Note that the file at `path` gives `token` this id.
    pub fn name(&mut self, path: &Path, token: &'a str, id: u32) -> Result<(), TokenizerError> {
        let had = *self.ids.entry(token).or_insert(id);
        let (holder, _) = *self.tokens.entry(id).or_insert((token, Kind::Text));
        let conflict = if had != id {
            format!("it has {had} already")
        } else if holder != token {
            format!("`{holder}` has it already")
        } else if token.is_empty() {
            "it is empty".into()
        } else {
            return Ok(());
        };
        Err(TokenizerError::Conflict { path: path.into(), token: token.to_owned(), id, conflict })
    }

    /// Decoding leaves this token out.
    pub fn mark_special(&mut self, id: u32) {
        if let Some((_, kind)) = self.tokens.get_mut(&id) {
            *kind = Kind::Special;
        }
    }

    /// Lay out the table. It is as long as the highest id, so a small file must not name a huge one.
    pub fn lay_out(self, path: &Path) -> Result<Vocabulary, TokenizerError> {
        let count = self.tokens.len();
        let limit = 2 * count as u64 + 65_536;
        let mut entries: Vec<(u32, (&str, Kind))> = self.tokens.into_iter().collect();
        entries.sort_unstable_by_key(|&(id, _)| id);
        if let Some(&(id, (token, _))) = entries.last().filter(|&&(id, _)| u64::from(id) >= limit) {
            let token = token.to_owned();
            return Err(TokenizerError::SparseIds { path: path.into(), token, id, limit, count });
        }
        let mut table = Vocabulary { bytes: Vec::new(), starts: Vec::new(), kinds: Vec::new() };
        for (id, (token, kind)) in entries {
            while table.kinds.len() < id as usize {
                table.push(&[], Kind::Hole);
            }
            table.push(&alphabet::bytes_of(token), kind);
        }
        table.starts.push(table.end());
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(tokens: &[(&'a str, u32)]) -> Result<Tokens<'a>, TokenizerError> {
        let mut all = Tokens::default();
        tokens.iter().try_for_each(|&(token, id)| all.name(Path::new("t.json"), token, id))?;
        Ok(all)
    }

    #[test]
    fn holes_and_special_tokens_add_no_text() {
        let mut tokens = named(&[("<think>", 4), ("Ġa", 1), ("<end>", 3), ("<end>", 3)]).unwrap();
        tokens.mark_special(3);
        let table = tokens.lay_out(Path::new("t.json")).unwrap();
        assert_eq!(table.valid_ids(), 5);
        let texts: Vec<&[u8]> = (0..6).map(|id| table.text_bytes(id)).collect();
        assert_eq!(texts, [&b""[..], b" a", b"", b"", b"<think>", b""]);
        assert!(table.is_special(3) && !table.is_special(4) && !table.is_special(9));
    }

    #[test]
    fn a_token_with_two_ids_and_an_id_with_two_tokens_are_errors() {
        let message = |tokens| named(tokens).err().map(|e| e.to_string());
        let twice = "`t.json` gives `a` the id 2, but it has 1 already";
        assert_eq!(message(&[("a", 1), ("a", 2)]).as_deref(), Some(twice));
        let shared = "`t.json` gives `b` the id 1, but `a` has it already";
        assert_eq!(message(&[("a", 1), ("b", 1)]).as_deref(), Some(shared));
        assert_eq!(
            message(&[("", 1)]).as_deref(),
            Some("`t.json` gives `` the id 1, but it is empty")
        );
    }

    #[test]
    fn an_id_far_beyond_the_number_of_tokens_is_an_error() {
        let result = named(&[("a", 0), ("b", u32::MAX)]).unwrap().lay_out(Path::new("t.json"));
        let expected = "`t.json` gives `b` the id 4294967295, expected below 65540 for 2 tokens";
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
}
