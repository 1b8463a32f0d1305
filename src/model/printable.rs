//! Bytes as printable characters, which byte-level vocabularies store instead of the bytes themselves.
//!
//! ```text
//! 33..=126, 161..=172, 174..=255    the character of the same number
//! the other 68, in order            U+0100, U+0101, …
//! ```
//!
//! Source: gpt-2, encoder.py: bytes_to_unicode.

/// The bytes that a stored text spells; none where any of its characters is no byte's.
pub fn spelled(stored: &[u8]) -> Option<Vec<u8>> {
    let byte = |c: char| match u32::from(c) {
        v @ (33..=126 | 161..=172 | 174..=255) => u8::try_from(v).ok(),
        v @ 256..=288 => u8::try_from(v - 256).ok(),
        v @ 289..=322 => u8::try_from(v - 289 + 127).ok(),
        323 => Some(173),
        _ => None,
    };
    std::str::from_utf8(stored).ok()?.chars().map(byte).collect()
}

/// The bytes that a stored text stands for: those that it spells, or itself.
pub fn bytes_of(stored: &[u8]) -> Vec<u8> {
    spelled(stored).unwrap_or_else(|| stored.to_vec())
}

/// The text that is stored for bytes.
pub fn text_of(bytes: &[u8]) -> String {
    let character = |b: &u8| {
        let moved = match b {
            0..=32 => 256 + u32::from(*b),
            127..=160 => 289 - 127 + u32::from(*b),
            173 => 323,
            _ => u32::from(*b),
        };
        // None of these is a surrogate.
        char::from_u32(moved).unwrap_or_default()
    };
    bytes.iter().map(character).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let all: Vec<u8> = (0..=255).collect();
        let text = text_of(&all);
        assert!(text.chars().all(|c| !c.is_whitespace() && !c.is_control()), "{text:?}");
        assert_eq!(bytes_of(text.as_bytes()), all);
        assert_eq!(text_of(b" a\n"), "\u{120}a\u{10a}");
    }
}
