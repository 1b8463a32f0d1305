//! Byte-level byte-pair encoding, as GPT-2 and LLaMA 3 use it.
//!
//! A text is cut into pieces by the file's pre-tokenizer; in each piece, single bytes are joined by the
//! merge that is first in the list, the leftmost where it occurs twice, until none applies.
//! Files store bytes as printable characters ([`crate::model::printable`]).
//!
//! ```text
//! l o w e r          merges in their order: l o, e r, lo w, low er
//! lo w e r
//! lo w er
//! low er
//! lower              a queue of the pairs that may merge, the first in the list before all
//! ```

#![allow(clippy::indexing_slicing, reason = "symbols name each other by their places in one list")]

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use super::pretokenize::Splitter;

/// An encoder for pieces of text that hold no special tokens.
#[derive(Debug)]
pub struct Bpe {
    /// Tokens by their bytes.
    ids: HashMap<Box<[u8]>, u32>,
    /// The token of each single byte.
    bytes: Vec<Option<u32>>,
    /// Two tokens -> the place of their merge in the list and the token that they become.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Cuts a text into pieces, over whose ends nothing merges.
    splitter: Splitter,
    /// Whether a piece that is a token as a whole is taken without merging.
    ignore_merges: bool,
}

/// One token of a piece; merged ones vanish into their left neighbour.
///
/// The list is doubly linked by places: `prev` and `next` pass over what has vanished.
#[derive(Clone, Copy)]
struct Symbol {
    /// The token that it is so far.
    id: u32,
    prev: usize,
    next: usize,
    /// Whether it has not vanished.
    live: bool,
}

const NONE: usize = usize::MAX;

impl Bpe {
    /// An encoder over the byte texts of tokens and merges in their order.
    pub fn new(
        ids: HashMap<Box<[u8]>, u32>,
        merges: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
        splitter: Splitter,
        ignore_merges: bool,
    ) -> Bpe {
        let mut by_pair = HashMap::new();
        for (rank, (left, right)) in (0u32..).zip(merges) {
            let whole = [left.as_slice(), right.as_slice()].concat();
            let id = |text: &[u8]| ids.get(text).copied();
            // A merge whose parts or whole are no tokens can never apply.
            if let (Some(a), Some(b), Some(c)) = (id(&left), id(&right), id(&whole)) {
                by_pair.insert((a, b), (rank, c));
            }
        }
        let bytes = (0..=u8::MAX).map(|b| ids.get([b].as_slice()).copied()).collect();
        Bpe { ids, bytes, merges: by_pair, splitter, ignore_merges }
    }

    /// Cuts text in another way from now on.
    pub fn cut_by(&mut self, splitter: Splitter, ignore_merges: bool) {
        (self.splitter, self.ignore_merges) = (splitter, ignore_merges);
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        for piece in self.splitter.split(text) {
            self.encode_piece(piece.as_bytes(), out);
        }
    }

    /// Appends the tokens of one piece.
    fn encode_piece(&self, piece: &[u8], out: &mut Vec<u32>) {
        if self.ignore_merges
            && let Some(&id) = self.ids.get(piece)
        {
            return out.push(id);
        }
        // A byte that has no token is left out, as the `tokenizers` library does.
        let singles: Vec<u32> = piece.iter().filter_map(|b| self.bytes[usize::from(*b)]).collect();
        let mut symbols: Vec<Symbol> = Vec::with_capacity(singles.len());
        for (i, &id) in singles.iter().enumerate() {
            let next = if i + 1 < singles.len() { i + 1 } else { NONE };
            symbols.push(Symbol { id, prev: i.checked_sub(1).unwrap_or(NONE), next, live: true });
        }
        // The merge that is first in the list, and of equal ones the leftmost, comes out first.
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len() {
            self.offer(&symbols, left, &mut queue);
        }
        while let Some(Reverse((_, left, whole))) = queue.pop() {
            let a = symbols[left];
            let merge = symbols.get(a.next).and_then(|b| self.merges.get(&(a.id, b.id)));
            // The pair may have changed since it was queued.
            if !a.live || merge.is_none_or(|(_, id)| *id != whole) {
                continue;
            }
            let b = symbols[a.next];
            // The left symbol becomes the whole; its neighbours are asked anew.
            symbols[a.next].live = false;
            symbols[left].id = whole;
            symbols[left].next = b.next;
            if b.next != NONE {
                symbols[b.next].prev = left;
            }
            if a.prev != NONE {
                self.offer(&symbols, a.prev, &mut queue);
            }
            self.offer(&symbols, left, &mut queue);
        }
        out.extend(symbols.iter().filter(|s| s.live).map(|s| s.id));
    }

    /// Queues the merge of symbol `left` with its right neighbour, where there is one.
    fn offer(
        &self,
        symbols: &[Symbol],
        left: usize,
        queue: &mut BinaryHeap<Reverse<(u32, usize, u32)>>,
    ) {
        let a = symbols[left];
        if let Some(b) = symbols.get(a.next)
            && let Some(&(rank, whole)) = self.merges.get(&(a.id, b.id))
        {
            queue.push(Reverse((rank, left, whole)));
        }
    }
}
