//! The vocabulary of a stream: records of length and text, or a tokenizer's own file.
//!
//! ```text
//! 05 00 00 00  20 74 68 65 72  [score]         length, text, and a float32 where the format has scores
//! ```
//!
//! Texts are bytes, and not every one is UTF-8. They are taken as they are stored; what they are in GGUF's spelling is
//! decided behind the walk, where the whole vocabulary is known.

use super::walk::Walk;
use crate::{
    checkpoint::tokenizer::{sentencepiece::SentencePiece, tiktoken},
    error::Result,
    format::{catalog, container::VocabShape},
    model::{Model, Naming, Role, TokenKind, Vocab},
};

/// The bit of a length that marks a special token, where a format has one.
const SPECIAL: u32 = 1 << 31;

impl Walk<'_> {
    /// Reads the vocabulary at `at`; returns where it ends.
    ///
    /// # Errors
    /// Where a count that is stored twice differs, or a text is longer than the limits or the file allow.
    pub(super) fn vocab(&self, shape: &VocabShape, mut at: u64, model: &mut Model) -> Result<u64> {
        if shape.file {
            return self.tokenizer(at, model);
        }
        // Plain:  (u32 length, text[length], f32 score where there is one) for each token
        // repeat: the count of the header once more in front, which must agree
        // stored: a count of its own in front, of the tokens that are there; the header counts rows
        let stated = model.header(&shape.count).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let mut count = stated;
        if shape.repeat {
            let again = self.source.u32_at(at, "vocab.count")?;
            if u64::from(again) != count {
                let wanted = format!("{count}, as {} says", shape.count);
                return Err(self.source.malformed(at, "vocab.count", again, wanted));
            }
            at += 4;
        }
        if let Some(word) = &shape.stored {
            let stored = self.source.u32_at(at, word)?;
            count = stored.into();
            if count > stated {
                let wanted = format!("at most {stated}, as {} says", shape.count);
                return Err(self.source.malformed(at, word, stored, wanted));
            }
            model.header.push((word.clone(), stored.into()));
            at += 4;
        }
        // Some programs counted more tokens than they stored: where a token is due, the first tensor may begin.
        for i in 0..count {
            if self.vocab_ends(shape, i, count, at) {
                let less = match count - i {
                    1 => "one more than are stored (as GPT4All's converter did)".to_owned(),
                    n => format!("{n} more than are stored (only the tokenizer's own pieces)"),
                };
                let note = format!(
                    "the header counts {count} tokens, {less}: from token {i} on there is no text"
                );
                model.notes.push(note);
                break;
            }
            at = self.token(shape, i, at, &mut model.vocab)?;
        }
        match &shape.merges {
            Some(word) => self.merges(word, at, model),
            None => Ok(at),
        }
    }

    /// Reads one record; returns where it ends.
    fn token(&self, shape: &VocabShape, i: u64, at: u64, vocab: &mut Vocab) -> Result<u64> {
        let mut len = self.source.u32_at(at, format_args!("vocab[{i}].len"))?;
        if shape.special_bit {
            let special = len & SPECIAL != 0;
            vocab.kinds.push(if special { TokenKind::Control } else { TokenKind::Normal });
            // What is left is the length.
            len &= !SPECIAL;
        }
        vocab.tokens.push(self.text(at + 4, len, format_args!("vocab[{i}].text"))?);
        let end = at + 4 + u64::from(len);
        if !shape.score {
            return Ok(end);
        }
        vocab.scores.push(self.source.f32_at(end, format_args!("vocab[{i}].score"))?);
        Ok(end + 4)
    }

    /// `len` bytes of text at `at`.
    fn text(&self, at: u64, len: u32, field: impl std::fmt::Display) -> Result<Vec<u8>> {
        self.source.bytes_at(at, len.into(), self.limits.string, field)
    }

    /// Reads the merges, as many as the header word says; returns where they end.
    ///
    /// Each side is a text with its length. ggllm.cpp's Falcon (ggcc) is the only one that has them.
    fn merges(&self, word: &str, mut at: u64, model: &mut Model) -> Result<u64> {
        let count = model.header(word).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let again = self.source.u32_at(at, "merges.count")?;
        if again != count {
            let wanted = format!("{count}, as {word} says");
            return Err(self.source.malformed(at, "merges.count", again, wanted));
        }
        at += 4;
        for i in 0..count {
            // As GGUF has them: both sides with a space between.
            let mut merge = Vec::new();
            for side in ["left", "right"] {
                let len = self.source.u32_at(at, format_args!("merges[{i}].{side}.len"))?;
                let text = self.text(at + 4, len, format_args!("merges[{i}].{side}"))?;
                if side == "right" {
                    merge.push(b' ');
                }
                merge.extend(text);
                at += 4 + u64::from(len);
            }
            model.vocab.merges.push(merge);
        }
        Ok(at)
    }

    /// Reads a tokenizer's own file behind its length; returns where it ends.
    fn tokenizer(&self, at: u64, model: &mut Model) -> Result<u64> {
        let len = self.source.u32_at(at, "tokenizer.len")?;
        let bytes = self.text(at + 4, len, "tokenizer")?;
        let name = self.source.input().name();
        // The bytes are kept as they are, too: written again, they must be the same file.
        let read = match tiktoken::is_tiktoken(&bytes) {
            true => tiktoken::byte_pairs(&name, &bytes, &self.limits),
            false => SentencePiece::parse(&name, &bytes, &self.limits).map(|pieces| pieces.vocab()),
        };
        match read {
            Ok(vocab) => {
                model.vocab = vocab;
                model.records.tokens.push(bytes);
            }
            Err(error) => model.notes.push(format!("the tokenizer cannot be read: {error}")),
        }
        Ok(at + 4 + u64::from(len))
    }

    /// Whether tensor records begin at `at`, where token `i` of `count` was expected.
    fn vocab_ends(&self, shape: &VocabShape, i: u64, count: u64, at: u64) -> bool {
        // Where a token was expected, the head of the first tensor reads as one, by its name: then the vocabulary is
        // over.
        if shape.may_lack_one && i + 1 == count {
            let family = catalog::family(&self.format.format.family);
            let role = |name: &str| Role::of(family?, Naming::Old, name);
            return self.head(at, 0).is_ok_and(|head| role(&head.name).is_some());
        }
        let detect = &self.format.detect;
        let known = |name: &String| detect.signature.contains(name) || detect.needs.contains(name);
        shape.may_end_early && self.head(at, 0).is_ok_and(|head| known(&head.name))
    }
}
