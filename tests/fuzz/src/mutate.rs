//! From instructions to a file that is nearly valid.

/// Numbers at which things change.
const NUMBERS: [&str; 24] = [
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "16",
    "63",
    "64",
    "65",
    "255",
    "65536",
    "2147483647",
    "-2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "0.5",
    "1e308",
    "1e-45",
];

/// Pieces of the formats that are read.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "NaN",
    "-inf",
    "%",
    "%0",
    "\n",
    " ",
    "\u{301}",
    "bf16",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// One of `seeds`, chosen and changed as `recipe` says. Any recipe means something.
///
/// # Panics
///
/// There are no seeds.
pub fn mutate(seeds: &[Vec<u8>], recipe: &[u8]) -> Vec<u8> {
    let mut recipe = Recipe(recipe);
    let mut file = recipe.one_of(seeds).clone();
    let edits = 1 + recipe.below(6);
    for _ in 0..edits {
        edit(&mut file, seeds, &mut recipe);
    }
    file
}

fn edit(file: &mut Vec<u8>, seeds: &[Vec<u8>], recipe: &mut Recipe<'_>) {
    let at = recipe.below(file.len() + 1);
    match recipe.below(12) {
        0 => {
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << recipe.below(8);
            }
        }
        1 => {
            if let Some(byte) = file.get_mut(at) {
                *byte = recipe.byte();
            }
        }
        2 => {
            let end = recipe.end(at, file.len());
            file.drain(at..end);
        }
        3 => {
            let copy = file[at..recipe.end(at, file.len())].to_vec();
            let to = recipe.below(file.len() + 1);
            file.splice(to..to, copy);
        }
        4 => {
            let piece = recipe.one_of(&PIECES).bytes();
            file.splice(at..at, piece);
        }
        5 => {
            let other = recipe.one_of(seeds);
            let from = recipe.below(other.len() + 1);
            let piece = &other[from..recipe.end(from, other.len())];
            let end = recipe.end(at, file.len());
            file.splice(at..end, piece.iter().copied());
        }
        6 => file.truncate(at),
        7 => {
            // Lines of a listing change places.
            let (a, b) = (line(file, at), line(file, recipe.below(file.len() + 1)));
            if a.end <= b.start {
                let (first, second) = (file[a.clone()].to_vec(), file[b.clone()].to_vec());
                file.splice(b, first);
                file.splice(a, second);
            }
        }
        8 | 9 => {
            // A word takes the place of another: what follows is read as before.
            let from = recipe.below(file.len() + 1);
            let other = file[word(file, from, is_word)].to_vec();
            let place = word(file, at, is_word);
            file.splice(place, other);
        }
        _ => {
            let place = word(file, at, |b| b.is_ascii_digit() || matches!(b, b'-' | b'.'));
            let number = recipe.one_of(&NUMBERS).bytes();
            file.splice(place, number);
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The line at `at`, without its end.
fn line(file: &[u8], at: usize) -> std::ops::Range<usize> {
    let start = file[..at].iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
    let end = file[at..].iter().position(|&b| b == b'\n').map_or(file.len(), |n| at + n);
    start..end
}

/// The first run of such bytes from `at` on.
fn word(file: &[u8], at: usize, belongs: impl Fn(u8) -> bool) -> std::ops::Range<usize> {
    let start = file[at..].iter().position(|&b| belongs(b)).map_or(file.len(), |n| at + n);
    let end = file[start..].iter().position(|&b| !belongs(b)).map_or(file.len(), |n| start + n);
    start..end
}

/// Choices, read off bytes; zeros when they run out.
struct Recipe<'a>(&'a [u8]);

impl Recipe<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        let bytes = match n {
            0..=256 => 1,
            257..=65536 => 2,
            _ => 4,
        };
        (0..bytes).fold(0, |sum, _| sum << 8 | usize::from(self.byte())) % n
    }

    fn one_of<'s, T>(&mut self, list: &'s [T]) -> &'s T {
        &list[self.below(list.len())]
    }

    /// The end of a range that begins at `start`: mostly a short one.
    fn end(&mut self, start: usize, most: usize) -> usize {
        let length = match self.below(4) {
            0 => self.below(most + 1),
            _ => self.below(40),
        };
        most.min(start + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes() -> impl Iterator<Item = Vec<u8>> {
        let mut state = 1u32;
        (0..20_000).map(move |length| {
            let byte = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..length % 50).map(byte).collect()
        })
    }

    #[test]
    fn any_recipe_means_something() {
        for seeds in [vec![vec![]], vec![b"a 12\nb".to_vec(), vec![0xff; 300]]] {
            for recipe in recipes() {
                let _ = mutate(&seeds, &recipe);
            }
        }
    }

    #[test]
    fn what_comes_out_is_nearly_valid() {
        let seed = b"%4 = matmul %1, %2\n%5 = silu %4\n".to_vec();
        let out: Vec<_> = recipes().map(|r| mutate(std::slice::from_ref(&seed), &r)).collect();
        let has = |text: &str| out.iter().any(|f| f == text.as_bytes());
        assert!(has("%5 = silu %4\n%4 = matmul %1, %2\n"), "lines in another order");
        assert!(has("%4 = silu %1, %2\n%5 = silu %4\n"), "a word in another's place");
        assert!(has("%4 = matmul %4294967295, %2\n%5 = silu %4\n"), "an odd number");
        assert!(out.iter().filter(|&f| *f != seed).count() > out.len() * 3 / 4, "most are changed");
    }
}
