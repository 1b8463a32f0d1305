//! SentencePiece unigram: of all ways to cut a text into tokens the one whose scores, which are logarithms
//! of probabilities, sum to most.
//!
//! ```text
//! best[0] = 0,  best[end] = max over tokens text[start..end] of best[start] + score
//! ```
//!
//! A character that is no token costs more than any token. Source: llama.cpp, llama-vocab.cpp,
//! `llm_tokenizer_ugm_session`; sentencepiece, unigram_model.cc. Neither a table of replacements
//! (`precompiled_charsmap`) nor the removal of repeated spaces is applied: decoders do without both.

use std::collections::HashMap;

use crate::model::TokenKind;

/// What an unknown character costs beyond the worst token.
const PENALTY: f64 = 10.0;

/// An encoder for pieces of text that hold no control tokens.
#[derive(Debug)]
pub struct Unigram {
    /// Texts with plain spaces, and score, of tokens that text can become.
    tokens: HashMap<Box<[u8]>, (u32, f64)>,
    /// Bytes of the longest.
    longest: usize,
    unknown: u32,
    /// The score of an unknown character.
    lost: f64,
}

impl Unigram {
    /// An encoder for tokens of these texts, scores and kinds.
    pub fn new(all: &[(Vec<u8>, f32, TokenKind)], unknown: u32) -> Unigram {
        let mut tokens = HashMap::with_capacity(all.len());
        let (mut longest, mut worst) = (0, 0f64);
        for (id, (text, score, kind)) in (0u32..).zip(all) {
            let score = match kind {
                TokenKind::Normal | TokenKind::Unused => f64::from(*score),
                // A probability of one: nothing costs less.
                TokenKind::UserDefined => 0.0,
                _ => continue,
            };
            if !text.is_empty() {
                longest = longest.max(text.len());
                worst = worst.min(score);
                tokens.entry(text.clone().into_boxed_slice()).or_insert((id, score));
            }
        }
        Unigram { tokens, longest, unknown, lost: worst - PENALTY }
    }

    /// Appends the tokens of `text`, in which spaces are plain spaces. Several unknown characters in a
    /// row are one unknown token.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        // For every place: the best sum up to it, the token that ends there and where that begins.
        let mut best = vec![(f64::NEG_INFINITY, self.unknown, 0); text.len() + 1];
        if let Some(begin) = best.first_mut() {
            begin.0 = 0.0;
        }
        for (start, first) in text.char_indices() {
            let sum = best.get(start).map_or(0.0, |(sum, ..)| *sum);
            let mut offer = |end: usize, token: u32, score: f64| {
                if let Some(place) = best.get_mut(end).filter(|(held, ..)| sum + score > *held) {
                    *place = (sum + score, token, start);
                }
            };
            let mut known = false;
            // Every token that begins here, however long: none is cut off before its end was tried.
            for len in 1..=self.longest {
                let Some(piece) = text.as_bytes().get(start..start + len) else { break };
                if let Some(&(token, score)) = self.tokens.get(piece) {
                    known |= len == first.len_utf8();
                    offer(start + len, token, score);
                }
            }
            if !known {
                offer(start + first.len_utf8(), self.unknown, self.lost);
            }
        }
        let begin = out.len();
        // Back from the end: each place knows the token that ends there and where that begins.
        let mut end = text.len();
        while let Some(&(_, token, start)) = best.get(end).filter(|_| end > 0) {
            let again = token == self.unknown && out.len() > begin && out.last() == Some(&token);
            if !again {
                out.push(token);
            }
            end = start;
        }
        if let Some(tokens) = out.get_mut(begin..) {
            tokens.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_cut_wins() {
        let normal = |text: &str, score| (text.as_bytes().to_vec(), score, TokenKind::Normal);
        let tokens = [
            (b"?".to_vec(), 0.0, TokenKind::Unknown),
            normal("a", -3.0),
            normal("b", -3.0),
            normal("ab", -5.0),
            normal("abc", -20.0),
            normal("c", -4.0),
            normal(" a", -4.0),
            (b"<x>".to_vec(), -99.0, TokenKind::UserDefined),
        ];
        let unigram = Unigram::new(&tokens, 0);
        let encode = |text: &str| {
            let mut out = vec![77];
            unigram.encode(text, &mut out);
            out[1..].to_vec()
        };
        // ab + c costs 9, abc 20, a + b + c 10.
        assert_eq!(encode("abc"), [3, 5]);
        assert_eq!(encode(" ab<x>"), [6, 2, 7]);
        // Unknown characters in a row are one token.
        assert_eq!(encode("aéüb"), [1, 0, 2]);
        assert_eq!(encode("é"), [0]);
        assert_eq!(encode(""), [0; 0]);
    }
}
