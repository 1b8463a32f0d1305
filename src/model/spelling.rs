//! Byte-pair vocabularies of files before GGUF: records of plain bytes to tokens in the alphabet that GGUF
//! writes, with kinds and merges, which those files never stored.
//!
//! Ids were given in the order of the merges, so the merges follow from them: a token that the merges before
//! it leave in two parts is the next merge. Whatever stands behind the last merge was added by hand.

use std::collections::HashMap;

use super::{TokenKind, Vocab};
use crate::format::family::Tokenizer;

/// The vocabulary in GGUF's terms, or why it cannot be had.
pub fn read(rule: &Tokenizer, records: &Vocab) -> Result<Vocab, String> {
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut vocab = Vocab { model: rule.model.clone(), pre: rule.pre.clone(), ..Vocab::default() };
    let spelled: Vec<String> = records.tokens.iter().map(alphabet).collect();
    let mut merges = Merges::default();
    let mut last = None;
    for (id, text) in spelled.iter().enumerate() {
        if ids.contains_key(text) {
            continue;
        }
        ids.insert(text.clone(), id);
        if merges.add(text) {
            last = Some(id);
        }
    }
    let end = records.tokens.iter().position(|t| t == rule.end.as_bytes());
    let learned =
        last.ok_or("its tokens are no byte pairs in the order in which they were learned")?;
    for (id, (text, record)) in spelled.into_iter().zip(records.tokens.iter()).enumerate() {
        let first = ids.get(&text) == Some(&id);
        let (text, kind) = match merges.knows(&text) {
            _ if !first || record.is_empty() => (format!("[PAD{id}]"), TokenKind::Unused),
            true => (text, TokenKind::Normal),
            false if is_special(record) => {
                (String::from_utf8_lossy(record).into_owned(), TokenKind::Control)
            }
            false if id < learned => {
                return Err(format!("token {id} stands among the byte pairs and is none"));
            }
            false => (String::from_utf8_lossy(record).into_owned(), TokenKind::UserDefined),
        };
        vocab.tokens.push(text.into_bytes());
        vocab.kinds.push(kind);
    }
    vocab.merges.extend(merges.in_order);
    let end = end.and_then(|id| u32::try_from(id).ok());
    (vocab.bos, vocab.eos, vocab.unknown) = (end, end, end);
    Ok(vocab)
}

/// `<|endoftext|>`, `<fim_prefix>`.
fn is_special(record: &[u8]) -> bool {
    record.len() > 2 && record.starts_with(b"<") && record.ends_with(b">")
}

/// Bytes as GPT-2 writes them: those that print as themselves, the others as letters from U+0100 on.
fn alphabet(bytes: &[u8]) -> String {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let letter = |b: &u8| {
        let others = (0..*b).filter(|other| !prints(*other)).count();
        let code =
            if prints(*b) { u32::from(*b) } else { 0x100 + u32::try_from(others).unwrap_or(0) };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    bytes.iter().map(letter).collect()
}

/// No token that was learned is longer: GPT-2's longest has 128 letters.
const LONGEST: usize = 256;

/// The merges found so far.
#[derive(Default)]
struct Merges {
    /// `left right`, the first learned first.
    in_order: Vec<String>,
    /// Two parts, their rank and what they make.
    ranks: HashMap<(usize, usize), (usize, usize)>,
    /// What merges and single letters make, by number.
    made: HashMap<String, usize>,
    texts: Vec<String>,
}

impl Merges {
    /// Takes `text` for the next token; whether a merge makes it.
    fn add(&mut self, text: &str) -> bool {
        if text.chars().count() == 1 {
            self.make(text);
            return false;
        }
        let parts = self.parts(text);
        let Some(&[left, right]) = parts.as_deref() else { return false };
        let rank = self.in_order.len();
        let name = |part: usize| self.texts.get(part).map_or("", String::as_str);
        self.in_order.push(format!("{} {}", name(left), name(right)));
        let whole = self.make(text);
        self.ranks.insert((left, right), (rank, whole));
        true
    }

    fn make(&mut self, text: &str) -> usize {
        let next = self.texts.len();
        self.texts.push(text.to_owned());
        *self.made.entry(text.to_owned()).or_insert(next)
    }

    fn knows(&self, text: &str) -> bool {
        self.made.contains_key(text)
    }

    /// What the merges leave of a text; none where it has a letter that is no token.
    fn parts(&self, text: &str) -> Option<Vec<usize>> {
        let letters = text.chars().take(LONGEST + 1);
        let letters = letters.map(|c| self.made.get(c.encode_utf8(&mut [0; 4]) as &str).copied());
        let mut parts = letters.collect::<Option<Vec<usize>>>().filter(|p| p.len() <= LONGEST)?;
        loop {
            let pairs = parts.iter().zip(parts.iter().skip(1));
            let ranked = pairs.filter_map(|(a, b)| Some((*self.ranks.get(&(*a, *b))?, (*a, *b))));
            let Some(((_, whole), pair)) = ranked.min() else { return Some(parts) };
            let mut left = Vec::with_capacity(parts.len());
            let mut rest = parts.as_slice();
            while let [first, next @ ..] = rest {
                let meets = next.first().is_some_and(|second| (*first, *second) == pair);
                left.push(if meets { whole } else { *first });
                rest = if meets { next.get(1..).unwrap_or_default() } else { next };
            }
            parts = left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Tokenizer {
        let (model, pre, end) = ("gpt2".into(), "gpt-2".into(), "<|endoftext|>".into());
        Tokenizer { model, pre, end }
    }

    fn records(texts: &[&str]) -> Vocab {
        let mut vocab = Vocab::default();
        texts.iter().for_each(|text| vocab.tokens.push(text.as_bytes()));
        vocab
    }

    #[test]
    fn merges_follow_from_the_order_of_ids() {
        let old = records(&["t", "h", "e", " ", "th", "the", " the", "<|endoftext|>", "  x", "e"]);
        let new = read(&rule(), &old).unwrap();
        let merges: Vec<_> = new.merges.iter().map(String::from_utf8_lossy).collect();
        assert_eq!(merges, ["t h", "th e", "Ġ the"]);
        assert_eq!(new.tokens.get(6), Some("Ġthe".as_bytes()));
        assert_eq!(
            new.kinds[6..],
            [TokenKind::Normal, TokenKind::Control, TokenKind::UserDefined, TokenKind::Unused]
        );
        assert_eq!(new.tokens.get(8), Some(&b"  x"[..]));
        assert_eq!(new.tokens.get(9), Some(&b"[PAD9]"[..]));
        assert_eq!(new.eos, Some(7));
    }

    #[test]
    fn what_is_in_no_order_is_refused() {
        assert!(read(&rule(), &records(&["a", "b", "abab", "ab"])).is_err());
        assert!(read(&rule(), &records(&["a", "b"])).is_err());
    }

    #[test]
    fn bytes_have_letters_of_their_own() {
        let all: Vec<u8> = (0..=255).collect();
        let letters: std::collections::HashSet<char> = alphabet(&all).chars().collect();
        assert_eq!(letters.len(), 256);
        assert_eq!(alphabet(b" \n\x7f\xad!"), "\u{120}\u{10a}\u{121}\u{143}!");
    }
}
