//! Merges of byte pairs from the order of the tokens that they make.
//!
//! ```text
//! next token   its letters, joined by the merges that are known so far    two parts left: that is the next merge
//! the          th e                                                       th e
//! ```

use std::collections::HashMap;

use crate::model::{TokenKind, Vocab};

/// The merges of a GGUF's tokens, which are spelled in its alphabet: none where a token between them is not made by
/// the merges before it, for then the ids are not in their order.
pub(super) fn of_tokens(vocab: &Vocab) -> Option<Vec<String>> {
    let mut merges = Merges::default();
    let mut odd = false;
    for (id, text) in vocab.tokens.iter().enumerate() {
        if vocab.kind(id) != TokenKind::Normal {
            continue;
        }
        let text = std::str::from_utf8(text).ok()?;
        let known = merges.made.contains_key(text);
        let learned = merges.add(text).is_some();
        if learned && (odd || known) {
            return None;
        }
        // What was added by hand is behind all that was learned.
        odd |= !learned && text.chars().count() > 1;
    }
    (merges.in_order.len() >= FEW).then_some(merges.in_order)
}

/// Merges that are too few to be sure of their order.
const FEW: usize = 16;

/// No token that was learned is longer: GPT-NeoX-20B's longest has 1024 letters.
const LONGEST: usize = 1024;
/// Longer ones are rare: GPT-2's longest has 128 letters.
const LONG: usize = 256;
/// Letters of long texts that are looked at in all.
const LONG_IN_ALL: usize = 1 << 16;

/// The merges found so far.
#[derive(Default)]
pub(super) struct Merges {
    /// `left right`, the first learned first.
    pub in_order: Vec<String>,
    /// Two parts, their rank and what they make.
    ranks: HashMap<(usize, usize), (usize, usize)>,
    /// What merges and single letters make, by number.
    made: HashMap<String, usize>,
    texts: Vec<String>,
    /// Letters of long texts so far.
    long: usize,
}

impl Merges {
    /// Takes `text` for the next token: the rank of the merge that makes it, where one does.
    pub fn add(&mut self, text: &str) -> Option<usize> {
        if text.chars().count() == 1 {
            self.make(text);
            return None;
        }
        let parts = self.parts(text);
        let Some(&[left, right]) = parts.as_deref() else { return None };
        let rank = self.in_order.len();
        let name = |part: usize| self.texts.get(part).map_or("", String::as_str);
        self.in_order.push(format!("{} {}", name(left), name(right)));
        let whole = self.make(text);
        self.ranks.insert((left, right), (rank, whole));
        Some(rank)
    }

    /// The number of a text that can be made; a text that comes again keeps its first.
    fn make(&mut self, text: &str) -> usize {
        let next = self.texts.len();
        self.texts.push(text.to_owned());
        *self.made.entry(text.to_owned()).or_insert(next)
    }

    /// What the merges leave of a text; none where it has a letter that is no token.
    fn parts(&mut self, text: &str) -> Option<Vec<usize>> {
        let letters = text.chars().take(LONGEST + 1);
        let letters = letters.map(|c| self.made.get(c.encode_utf8(&mut [0; 4]) as &str).copied());
        let mut parts = letters.collect::<Option<Vec<usize>>>().filter(|p| p.len() <= LONGEST)?;
        if parts.len() > LONG {
            self.long += parts.len();
            if self.long > LONG_IN_ALL {
                return None;
            }
        }
        loop {
            let pairs = parts.iter().zip(parts.iter().skip(1));
            let ranked = pairs.filter_map(|(a, b)| Some((*self.ranks.get(&(*a, *b))?, (*a, *b))));
            // The merge of lowest rank first, wherever it is, as tokenizers do it: the order counts, not the place.
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
