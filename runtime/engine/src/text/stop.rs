//! Stop strings, found wherever token borders fall.
//!
//! The text comes in pieces, and a stop string may begin in one piece and end in another. So
//! text that may yet turn out to be the beginning of a stop string is held back, and nothing
//! else is. One automaton a stop string (Knuth, Morris, Pratt) knows at each byte how much of it
//! has been matched: that is how much to hold back, and each byte is looked at once.

/// Stop strings cannot be used as given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// An empty stop string would stop before the first token.
    #[error("stop string {index} is empty, expected at least one character")]
    Empty { index: usize },
}

/// The stop strings of a request, prepared once and shared by its sequences.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
}

impl StopStrings {
    /// Prepare the stop strings; none at all is fine.
    ///
    /// # Errors
    ///
    /// [`StopError::Empty`] if one of them is empty.
    pub fn new<S: AsRef<str>>(strings: &[S]) -> Result<Self, StopError> {
        let patterns = strings
            .iter()
            .enumerate()
            .map(|(index, s)| match s.as_ref() {
                "" => Err(StopError::Empty { index }),
                s => Ok(Pattern::new(s)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// A matcher at the beginning of a text.
    pub fn matcher(&self) -> StopMatcher {
        StopMatcher {
            matched: vec![0; self.patterns.len()],
            patterns: self.patterns.clone(),
            pending: String::new(),
            text: String::new(),
            stopped: false,
        }
    }
}

/// Watches one text for stop strings.
///
/// The text ends where the first stop string to be complete begins; of several complete at the
/// same character, the longest counts. The outcome does not depend on how the text is cut into pieces.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// For each pattern, how many of its bytes the end of the text matches.
    matched: Vec<usize>,
    /// Text not handed out yet: between calls, the longest such match.
    pending: String,
    text: String,
    stopped: bool,
}

impl StopMatcher {
    /// Take more text; returns what can be shown. After a stop string nothing more comes.
    pub fn push(&mut self, piece: &str) -> &str {
        self.text.clear();
        if self.stopped {
            return &self.text;
        }
        let scanned = self.pending.len();
        self.pending.push_str(piece);
        let ready = match self.scan(scanned) {
            Some(start) => {
                self.stopped = true;
                self.pending.truncate(start);
                start
            }
            None => self.pending.len() - self.matched.iter().copied().max().unwrap_or(0),
        };
        self.text.extend(self.pending.drain(..ready));
        &self.text
    }

    /// The end of the text: what was held back is text after all.
    pub fn finish(&mut self) -> &str {
        std::mem::swap(&mut self.text, &mut self.pending);
        self.pending.clear();
        self.matched.fill(0);
        &self.text
    }

    /// Whether a stop string has been found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Advance over `pending[from..]`; returns where the first stop string to be complete begins.
    fn scan(&mut self, from: usize) -> Option<usize> {
        for (at, &byte) in self.pending.as_bytes().iter().enumerate().skip(from) {
            let mut longest = 0;
            for (pattern, matched) in self.patterns.iter().zip(&mut self.matched) {
                *matched = pattern.step(*matched, byte);
                if *matched == pattern.bytes.len() {
                    longest = longest.max(*matched);
                }
            }
            if longest > 0 {
                return Some(at + 1 - longest);
            }
        }
        None
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// `borders[n]`: the longest proper prefix of the first `n` bytes that is also their suffix.
    borders: Vec<usize>,
}

impl Pattern {
    fn new(string: &str) -> Self {
        let mut pattern = Self { bytes: string.as_bytes().to_vec(), borders: vec![0, 0] };
        for n in 1..pattern.bytes.len() {
            let border = pattern.step(pattern.borders[n], pattern.bytes[n]);
            pattern.borders.push(border);
        }
        pattern
    }

    /// How many bytes match after `byte`, when `matched` did before it.
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.bytes.get(matched) == Some(&byte) {
                return matched + 1;
            }
            if matched == 0 {
                return 0;
            }
            matched = self.borders[matched];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Rng;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopStrings::new(stops).unwrap().matcher();
        let mut out: Vec<String> = pieces.iter().map(|p| matcher.push(p).to_owned()).collect();
        out.push(matcher.finish().to_owned());
        (out, matcher.stopped())
    }

    fn shown(pieces: &[&str]) -> Vec<String> {
        pieces.iter().map(|p| (*p).to_owned()).collect()
    }

    #[test]
    fn a_stop_string_over_three_pieces_is_not_shown() {
        let (out, stopped) = run(&["\n\nUser:"], &["Hi.\n", "\nUs", "er: more", "and more"]);
        assert_eq!((out, stopped), (shown(&["Hi.", "", "", "", ""]), true));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_comes_as_soon_as_that_is_known() {
        let (out, stopped) = run(&["END"], &["the E", "N", "Es", "EN"]);
        assert_eq!((out, stopped), (shown(&["the ", "", "ENEs", "", "EN"]), false));
    }

    #[test]
    fn no_more_than_the_possible_beginning_is_held_back() {
        let (out, _) = run(&["aab"], &["aaaa"]);
        assert_eq!(out, shown(&["aa", "aa"]));
    }

    #[test]
    fn the_stop_string_that_is_complete_first_counts_and_of_two_the_longer() {
        assert_eq!(run(&["bcd", "c"], &["abcd"]).0.concat(), "ab");
        assert_eq!(run(&["c", "bc"], &["abcd"]).0.concat(), "a");
    }

    #[test]
    fn characters_are_never_cut() {
        // `é` and `è` share their first byte.
        let (out, stopped) = run(&["é!"], &["caf", "é", "?è", "é", "!"]);
        assert_eq!((out, stopped), (shown(&["caf", "", "é?è", "", "", ""]), true));
    }

    #[test]
    fn without_stop_strings_text_passes_through() {
        assert_eq!(run(&[], &["a", "b"]), (shown(&["a", "b", ""]), false));
    }

    #[test]
    fn an_empty_stop_string_is_an_error() {
        let error = StopStrings::new(&["x", ""]).unwrap_err();
        assert_eq!(error, StopError::Empty { index: 1 });
        assert_eq!(error.to_string(), "stop string 1 is empty, expected at least one character");
    }

    #[test]
    fn the_outcome_does_not_depend_on_the_pieces() {
        let mut rng = Rng::new(11);
        let mut pick = |n: u64| (rng.next_u64() % n) as usize;
        let letters = ['a', 'b', 'é'];
        let mut found = 0;
        for _ in 0..5_000 {
            let mut word =
                |most: u64| -> String { (0..=pick(most)).map(|_| letters[pick(3)]).collect() };
            let stops = [word(3), word(3)];
            let text = word(14);
            let mut matcher = StopStrings::new(&stops).unwrap().matcher();
            let mut out = String::new();
            let mut piece = String::new();
            for c in text.chars() {
                piece.push(c);
                if pick(2) == 0 {
                    out += matcher.push(&piece);
                    piece.clear();
                }
            }
            out += matcher.push(&piece);
            out += matcher.finish();

            let expected = cut(&text, &stops);
            assert_eq!(out, expected, "{text:?} with {stops:?}");
            assert_eq!(matcher.stopped(), expected.len() < text.len());
            found += usize::from(matcher.stopped());
        }
        assert!((1_000..4_500).contains(&found), "both outcomes occur: {found}");
    }

    /// The definition: the first end of a stop string, then its earliest beginning.
    fn cut<'t>(text: &'t str, stops: &[String]) -> &'t str {
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        for end in ends {
            let longest =
                stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(String::len).max();
            if let Some(longest) = longest {
                return &text[..end - longest];
            }
        }
        text
    }
}
