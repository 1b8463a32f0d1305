//! SentencePiece byte-pair encoding as LLaMA uses it.
//!
//! A text is its characters; again and again the two neighbours whose joined text is the token with
//! the highest score become one, the leftmost where scores are equal. What is no token at the end is
//! spelled in byte tokens. Source: sentencepiece, bpe_model.cc: Model::SampleEncode (without sampling).

#![allow(clippy::indexing_slicing, reason = "symbols name each other by their places in one list")]

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
};

use super::matcher::Matcher;
use crate::model::TokenKind;

/// An encoder for pieces of text that hold no control tokens.
#[derive(Debug)]
pub struct Spm {
    /// Texts with plain spaces, of tokens that text can become.
    ids: HashMap<Box<[u8]>, u32>,
    /// By id: the higher, the earlier two symbols become this token.
    scores: Vec<f32>,
    /// Tokens that may be between merges but not in the result.
    unused: Vec<bool>,
    /// The token of each byte, where there is one.
    bytes: Vec<Option<u32>>,
    /// What a character becomes that is no token, where bytes are none either.
    unknown: u32,
    /// Tokens that are taken before any merging and never merge.
    user: Matcher,
}

/// A run of characters; merged runs vanish into their left neighbour.
///
/// `start` and `len` are bytes of the text; a length of 0 marks one that has vanished. One that is `frozen`, a token
/// that a user added, merges with nothing.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
    frozen: bool,
}

const NONE: usize = usize::MAX;

/// Two neighbours that could merge, and their length when that was found, which shows later whether
/// they are still what they were.
#[derive(PartialEq)]
struct Pair {
    /// That of the token which they would become.
    score: f32,
    left: usize,
    /// That of the right one.
    right: usize,
    /// Bytes of both.
    len: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        // A heap gives the greatest first: the highest score, of equal ones the leftmost.
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Spm {
    /// An encoder over `(text, score, kind)` of every token, spaces as plain spaces, and the byte of
    /// each byte token.
    pub fn new(tokens: &[(Vec<u8>, f32, TokenKind)], bytes: Vec<Option<u32>>, unknown: u32) -> Spm {
        let mut ids = HashMap::with_capacity(tokens.len());
        let mut user = Vec::new();
        for (id, (text, _, kind)) in (0u32..).zip(tokens) {
            let mergeable = matches!(kind, TokenKind::Normal | TokenKind::Unused);
            // Of tokens with one text the first counts, but one that a user added counts before all.
            if *kind == TokenKind::UserDefined {
                ids.insert(text.clone().into_boxed_slice(), id);
                user.push((text.clone(), id));
            } else if mergeable && !text.is_empty() {
                ids.entry(text.clone().into_boxed_slice()).or_insert(id);
            }
        }
        Spm {
            ids,
            // Adding zero makes -0 and 0 the same score for the total order.
            scores: tokens.iter().map(|(_, score, _)| score + 0.0).collect(),
            unused: tokens.iter().map(|(_, _, kind)| *kind == TokenKind::Unused).collect(),
            bytes,
            unknown,
            user: Matcher::new(user),
        }
    }

    /// Appends the tokens of `text`, in which spaces are plain spaces.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut symbols = self.symbols(text);
        let text = text.as_bytes();
        let mut queue = BinaryHeap::new();
        let mut split: HashMap<&[u8], usize> = HashMap::new();
        // Every pair of neighbours that is a token; later only those that a merge made.
        for left in 0..symbols.len() {
            self.offer(text, &symbols, left, &mut queue, &mut split);
        }
        while let Some(Pair { left, right, len, .. }) = queue.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            // One of them has merged meanwhile: this pair is no more.
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            symbols[left].len = len;
            symbols[left].next = b.next;
            // The left one takes the place of both, and the right one's neighbour is now its own.
            symbols[right].len = 0;
            if b.next != NONE {
                symbols[b.next].prev = left;
            }
            if a.prev != NONE {
                self.offer(text, &symbols, a.prev, &mut queue, &mut split);
            }
            self.offer(text, &symbols, left, &mut queue, &mut split);
        }
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        while at != NONE {
            let Symbol { start, len, next, .. } = symbols[at];
            self.finish(&text[start..start + len], &split, out);
            at = next;
        }
    }

    /// Characters and user-defined tokens, in order.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        let mut start = 0;
        while start < text.len() {
            // At each place the longest token that a user added, else one character.
            let user = self.user.longest_at(text.as_bytes(), start);
            let one = text[start..].chars().next().map_or(1, char::len_utf8);
            let len = user.map_or(one, |(len, _)| len);
            let here = symbols.len();
            let prev = here.checked_sub(1).unwrap_or(NONE);
            let next = if start + len < text.len() { here + 1 } else { NONE };
            symbols.push(Symbol { start, len, prev, next, frozen: user.is_some() });
            start += len;
        }
        symbols
    }

    /// Queues the merge of symbol `left` with its right neighbour, where that is a token.
    fn offer<'t>(
        &self,
        text: &'t [u8],
        symbols: &[Symbol],
        left: usize,
        queue: &mut BinaryHeap<Pair>,
        split: &mut HashMap<&'t [u8], usize>,
    ) {
        let a = symbols[left];
        if a.next == NONE || a.frozen || symbols[a.next].frozen {
            return;
        }
        let len = a.len + symbols[a.next].len;
        let piece = &text[a.start..a.start + len];
        if let Some(&id) = self.ids.get(piece) {
            queue.push(Pair { score: self.scores[id as usize], left, right: a.next, len });
            // Taken apart again at the end, where it was put together.
            if self.unused[id as usize] {
                split.insert(piece, a.len);
            }
        }
    }

    /// Emits a finished symbol: its token, the two halves of an unused one, or its bytes.
    fn finish(&self, piece: &[u8], split: &HashMap<&[u8], usize>, out: &mut Vec<u32>) {
        match self.ids.get(piece) {
            Some(&id) if !self.unused[id as usize] => out.push(id),
            Some(&id) => match split.get(piece) {
                Some(&at) => {
                    self.finish(&piece[..at], split, out);
                    self.finish(&piece[at..], split, out);
                }
                None => out.push(id),
            },
            None => self.spell(piece, out),
        }
    }

    /// Appends the byte tokens of a piece that is no token, or the unknown token where there are none.
    fn spell(&self, piece: &[u8], out: &mut Vec<u32>) {
        let byte = |b: &u8| self.bytes.get(usize::from(*b)).copied().flatten();
        match piece.iter().map(byte).collect::<Option<Vec<u32>>>() {
            Some(ids) => out.extend(ids),
            // Without byte tokens a run of unknown characters is one unknown token.
            None if out.last() != Some(&self.unknown) => out.push(self.unknown),
            None => {}
        }
    }
}
