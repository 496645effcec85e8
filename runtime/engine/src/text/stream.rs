//! Ids to text, one token at a time.
//!
//! A token is a byte string, and a character of UTF-8 may be spread over several tokens. What
//! can no longer change is handed out at once; the unfinished character at the end, three bytes
//! at most, is held back. So each token costs its own length, not that of the text so far, and
//! the pieces joined are exactly the decoding of all ids at once.

use std::sync::Arc;

use super::vocabulary::Vocabulary;

/// Turns generated ids into text as they come. Made by [`Tokenizer::detokenizer`].
///
/// Special tokens (`special: true`) and ids without a token add nothing; other added tokens,
/// such as `</think>`, are text. Bytes that are not UTF-8 become U+FFFD.
///
/// [`Tokenizer::detokenizer`]: super::Tokenizer::detokenizer
#[derive(Debug, Clone)]
pub struct Detokenizer {
    vocabulary: Arc<Vocabulary>,
    /// The bytes not handed out yet: between calls, the beginning of one character.
    pending: Vec<u8>,
    text: String,
}

impl Detokenizer {
    pub(super) fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary, pending: Vec::new(), text: String::new() }
    }

    /// Take one more id; returns the text that this completes, perhaps none.
    pub fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        self.pending.extend_from_slice(self.vocabulary.text_bytes(id));
        let held = self.take_complete();
        self.pending.drain(..self.pending.len() - held);
        &self.text
    }

    /// The end of the ids: an unfinished character becomes U+FFFD. Afterwards a new text may begin.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.pending.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
        &self.text
    }

    /// Move what is complete in `pending` to `text`; returns how many bytes at its end are not.
    fn take_complete(&mut self) -> usize {
        let mut rest = self.pending.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    return 0;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            self.text.push_str(std::str::from_utf8(valid).expect("checked just above"));
            match error.error_len() {
                Some(bad) => {
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
                None => return after.len(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::alphabet;
    use super::super::vocabulary::Tokens;
    use super::*;
    use crate::sampling::Rng;

    /// One token a byte, with the id of its byte, then a special token 256 and a text one 257.
    fn bytes() -> Arc<Vocabulary> {
        let letters: Vec<String> = (0..=255).map(|b| alphabet::char_of(b).to_string()).collect();
        let added = ["<|im_end|>", "</think>"];
        let mut tokens = Tokens::default();
        for (token, id) in letters.iter().map(String::as_str).chain(added).zip(0..) {
            tokens.name(Path::new("bytes"), token, id).unwrap();
        }
        tokens.mark_special(256);
        Arc::new(tokens.lay_out(Path::new("bytes")).unwrap())
    }

    fn pieces(ids: &[u32]) -> Vec<String> {
        let mut stream = Detokenizer::new(bytes());
        let mut out: Vec<String> = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
        out.push(stream.finish().to_owned());
        out
    }

    #[test]
    fn a_character_comes_when_its_last_byte_does() {
        let ids: Vec<u32> = "a🚀b".bytes().map(u32::from).collect();
        assert_eq!(pieces(&ids), ["a", "", "", "", "🚀", "b", ""]);
    }

    #[test]
    fn special_tokens_are_left_out_even_within_a_character_and_other_added_ones_are_text() {
        assert_eq!(pieces(&[0xC3, 256, 0xA9, 257, 999]), ["", "", "é", "</think>", "", ""]);
    }

    #[test]
    fn an_unfinished_character_is_flushed_as_one_replacement() {
        assert_eq!(pieces(&[0xF0, 0x9F, 0x9A]), ["", "", "", "\u{FFFD}"]);
    }

    #[test]
    fn a_broken_character_is_replaced_as_soon_as_that_is_certain() {
        assert_eq!(pieces(&[0xE2, 0x82, 0x41, 0xFF]), ["", "", "\u{FFFD}A", "\u{FFFD}", ""]);
    }

    #[test]
    fn after_finish_nothing_of_the_old_text_is_left() {
        let mut stream = Detokenizer::new(bytes());
        stream.push(0xC3);
        stream.finish();
        assert_eq!(stream.push(0xA9), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn pieces_joined_are_the_decoding_of_the_whole() {
        let mut rng = Rng::new(7);
        // Mostly lead and continuation bytes, so that every kind of broken character occurs.
        let interesting =
            [0x41, 0x80, 0xBF, 0xC3, 0xE2, 0xED, 0xA0, 0xF0, 0x9F, 0x9A, 0xF4, 0x90, 0xFF];
        for _ in 0..5_000 {
            let length = rng.next_u64() % 12;
            let raw: Vec<u8> = (0..length)
                .map(|_| match rng.next_u64() % 4 {
                    0 => (rng.next_u64() % 256) as u8,
                    _ => interesting[(rng.next_u64() % 13) as usize],
                })
                .collect();
            let ids: Vec<u32> = raw.iter().map(|&b| u32::from(b)).collect();
            assert_eq!(pieces(&ids).concat(), String::from_utf8_lossy(&raw), "{raw:x?}");
        }
    }
}
