//! The byte alphabet of GPT-2: every byte as one printable character (spec 16.1, step 4).
//!
//! `tokenizer.json` stores tokens, which are byte strings, in this alphabet. Printable bytes
//! of Latin-1 stand for themselves; the 68 others take the characters from U+0100 upward, in
//! byte order.

/// The character that stands for a byte.
pub(super) fn char_of(byte: u8) -> char {
    if stands_for_itself(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&b| !stands_for_itself(b)).count() as u32;
    char::from_u32(0x100 + rank).expect("0x100 + 67 is a character")
}

/// The bytes that a token of the vocabulary stands for. A token with a character outside the
/// alphabet is its own UTF-8, as in the reference decoder.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    let mapped: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    mapped.unwrap_or_else(|| token.as_bytes().to_vec())
}

fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|&b| stands_for_itself(b)),
        // The others in byte order: 0x00..=0x20, 0x7F..=0xA0, 0xAD.
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7F),
        0x143 => Some(0xAD),
        _ => None,
    }
}

fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own_and_comes_back() {
        let mut seen = std::collections::BTreeSet::new();
        for byte in 0..=255u8 {
            let c = char_of(byte);
            assert!(seen.insert(c), "{c:?} stands for two bytes");
            assert_eq!(byte_of(c), Some(byte), "{c:?}");
        }
    }

    #[test]
    fn well_known_characters_stand_where_gpt2_put_them() {
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(char_of(0xAD), '\u{143}');
        assert_eq!(bytes_of("Ġworld"), b" world");
    }

    #[test]
    fn a_token_outside_the_alphabet_is_its_own_utf8() {
        assert_eq!(bytes_of("a b"), b"a b");
        assert_eq!(bytes_of("Ġ漢"), "Ġ漢".as_bytes());
    }
}
