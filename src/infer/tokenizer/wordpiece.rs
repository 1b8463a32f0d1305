//! WordPiece: words in lower case and without accents, each cut into the longest tokens from its beginning on.
//!
//! A token that begins a word has U+2581 before it in GGUF, others are as they are (`vocab.txt` marks those instead,
//! by `##`). A word of which any part is no token is one unknown token.
//!
//! ```text
//! "Unaffable!"  ->  unaffable | !  ->  ▁un aff able | ▁!          of each word the longest token, again and again
//! ```
//!
//! Source: transformers, tokenization_bert.py: BasicTokenizer, WordpieceTokenizer; llama.cpp, llama-vocab.cpp:
//! llm_tokenizer_wpm_session.

use std::collections::HashMap;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Result};

/// Longer words are not looked up (transformers).
const LONGEST_WORD: usize = 100;

/// An encoder for texts that hold no control tokens.
#[derive(Debug)]
pub struct WordPiece {
    /// Texts with a plain space before those that begin a word.
    tokens: HashMap<Box<[u8]>, u32>,
    unknown: u32,
    lowercase: bool,
    /// Finds words: signs and ideographs each alone, and whatever else is between spaces.
    words: Regex,
    /// Finds what no word has: marks on letters and characters for control.
    dropped: Regex,
}

impl WordPiece {
    /// An encoder for these texts, spaces before those that begin words.
    ///
    /// # Errors
    /// Never, but where a pattern of this file is wrong.
    pub fn new<'t>(
        texts: impl Iterator<Item = (u32, &'t [u8])>,
        unknown: u32,
        lowercase: bool,
    ) -> Result<WordPiece> {
        let mut tokens = HashMap::new();
        for (id, text) in texts {
            tokens.entry(text.into()).or_insert(id);
        }
        let regex = |pattern: &str| {
            Regex::new(pattern).map_err(|e| Error::unsupported(format!("{pattern}: {e}"), ""))
        };
        // \p{P} has no sign of mathematics or currency; of ASCII those count too.
        let alone = r"\p{P}$+<=>^`|~\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}";
        Ok(WordPiece {
            tokens,
            unknown,
            lowercase,
            words: regex(&format!(r"[{alone}]|[^\s{alone}]+"))?,
            dropped: regex(r"[\p{Mn}\x00\x{FFFD}[\p{Cc}\p{Cf}--\s]]")?,
        })
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let plain: String = match self.lowercase {
            true => text.to_lowercase().nfd().collect(),
            false => text.to_owned(),
        };
        let plain = self.dropped.replace_all(&plain, "");
        for word in self.words.find_iter(&plain) {
            let before = out.len();
            if !self.word(word.as_str(), out) {
                out.truncate(before);
                out.push(self.unknown);
            }
        }
    }

    /// Appends the tokens of one word; returns whether there are such.
    fn word(&self, word: &str, out: &mut Vec<u32>) -> bool {
        if word.chars().count() > LONGEST_WORD {
            return false;
        }
        let word = format!(" {word}");
        let mut rest = word.as_str();
        while !rest.is_empty() {
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
            let known = ends.filter_map(|end| {
                let part = rest.get(..end)?;
                // A space alone begins no word.
                (part != " ").then_some(())?;
                Some((end, *self.tokens.get(part.as_bytes())?))
            });
            let Some((end, id)) = known.into_iter().next() else { return false };
            out.push(id);
            rest = rest.get(end..).unwrap_or_default();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str, lowercase: bool) -> Vec<u32> {
        let texts = [" un", "aff", "able", " a", " .", " $", " \u{4e2d}", " e", " \u{e9}"];
        let texts = (0u32..).zip(texts.iter().map(|text| text.as_bytes()));
        let mut out = Vec::new();
        WordPiece::new(texts, 99, lowercase).unwrap().encode(text, &mut out);
        out
    }

    #[test]
    fn words_are_cut_into_the_longest_tokens() {
        assert_eq!(ids("unaffable", true), [0, 1, 2]);
        assert_eq!(ids("UN\u{200d}aff\tA.a$\u{4e2d}\u{4e2d}", true), [0, 1, 3, 4, 3, 5, 6, 6]);
        assert_eq!(ids("UN", false), [99]);
        assert_eq!(ids("unaffx a able", true), [99, 3, 99]);
        assert_eq!(ids(&"un".repeat(51), true), [99]);
        assert!(ids("", true).is_empty());
    }

    #[test]
    fn accents_are_dropped_with_the_capitals() {
        assert_eq!(ids("\u{c9} \u{e9}", true), [7, 7]);
        assert_eq!(ids("\u{e9} e", false), [8, 7]);
    }
}
