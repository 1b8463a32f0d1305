//! What is kept of the tokens so far: keys and values, which later tokens attend to, or a state of one size.
//!
//! ```text
//! keys[layer]      block 0 of positions 0 .. 64, block 1 of 64 .. 128, ..
//! one block        [heads][64][head] float32, whether filled or not
//! ```
//!
//! In bytes `2 * layers * heads * head * 4` for each position, rounded up to blocks: 1 MB for a LLaMA of 7 billion
//! weights (32 layers, 32 heads of 128).

use std::ops::Range;

use super::buffer::Buffer;

/// Positions of a block.
pub const BLOCK: usize = 64;

/// Room for `context` positions in every layer, in float32.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Key heads of a layer.
    heads: usize,
    /// Numbers of one position in one head.
    head: usize,
    /// Positions that there is room for.
    context: usize,
    /// Keys of each layer in blocks of `[heads][BLOCK][head]`: attention reads one head from end to end,
    /// and what is there never moves.
    /// `[layer][block]` of those numbers.
    keys: Vec<Vec<Vec<f32>>>,
    /// As the keys.
    values: Vec<Vec<Vec<f32>>>,
    /// A state for each layer, where layers have one.
    states: Vec<State>,
    /// Positions filled, in every layer.
    len: usize,
}

/// What a layer without attention keeps ([`super::layer::recurrence`]); empty before the first token.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The last vector before the first part of the layer.
    pub time: Vec<f32>,
    /// The last vector before the second part.
    pub channel: Vec<f32>,
    /// Values so far, each by its weight, times `e^-most`.
    pub values: Vec<f32>,
    /// The sum of the weights, times `e^-most`.
    pub weights: Vec<f32>,
    /// The largest exponent of a weight.
    pub most: Vec<f32>,
}

/// Texts of which some tokens go through the layers together, one text's after the other's: each matrix is read once for
/// all of them.
#[derive(Debug)]
pub struct Texts<'c>(Vec<(&'c mut Cache, usize)>);

impl<'c> Texts<'c> {
    /// The next `tokens` of the text of each cache; of some there may be none.
    pub fn of(caches: &'c mut [Cache], tokens: impl Iterator<Item = usize>) -> Texts<'c> {
        Texts(caches.iter_mut().zip(tokens).filter(|(_, tokens)| *tokens > 0).collect())
    }

    /// The position of every token in its text.
    pub fn positions(&self) -> Vec<usize> {
        self.0.iter().flat_map(|(cache, tokens)| cache.len..cache.len + tokens).collect()
    }

    /// Positions that there is room for in each.
    pub fn context(&self) -> usize {
        self.0.first().map_or(0, |(cache, _)| cache.context)
    }

    /// What is made of the tokens of each text, which are this range of all.
    pub fn each(&mut self, mut make: impl FnMut(&mut Cache, Range<usize>) -> Buffer) -> Buffer {
        let mut next = 0;
        let made = self.0.iter_mut().map(|(cache, tokens)| {
            next += *tokens;
            make(cache, next - *tokens..next)
        });
        let mut made: Vec<Buffer> = made.collect();
        // One text, as in chat: what was made of it is all, and not copied.
        if made.len() == 1 {
            return made.swap_remove(0);
        }
        let mut all = Buffer::of(made.iter().map(|made| made.len()).sum());
        let mut at = 0;
        for made in &made {
            all[at..at + made.len()].copy_from_slice(made);
            at += made.len();
        }
        all
    }

    /// Counts the tokens, whose keys and values every layer now has.
    pub fn advance(self) {
        self.0.into_iter().for_each(|(cache, tokens)| cache.len += tokens);
    }
}

impl Cache {
    /// An empty cache. Memory is taken as positions fill.
    pub fn new(layers: usize, heads: usize, head: usize, context: usize) -> Cache {
        let empty = vec![Vec::new(); layers];
        Cache {
            heads,
            head,
            context,
            keys: empty.clone(),
            values: empty,
            states: vec![State::default(); layers],
            len: 0,
        }
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Positions that there is room for in all.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that are still free.
    pub fn free(&self) -> usize {
        self.context - self.len
    }

    /// Adds keys and values of new positions to `layer`: `[position][heads * head]` each.
    ///
    /// They go behind the filled positions; every layer is given the same number before [`Texts::advance`] counts them.
    pub fn extend(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        for (blocks, new) in [(&mut self.keys[layer], keys), (&mut self.values[layer], values)] {
            for (position, new) in (self.len..).zip(new.chunks_exact(self.heads * self.head)) {
                let (block, place) = (position / BLOCK, position % BLOCK);
                if block == blocks.len() {
                    blocks.push(vec![0.0; self.heads * BLOCK * self.head]);
                }
                for (h, new) in new.chunks_exact(self.head).enumerate() {
                    let at = (h * BLOCK + place) * self.head;
                    blocks[block][at..at + self.head].copy_from_slice(new);
                }
            }
        }
    }

    /// Forgets all positions from `len` on. A state forgets only all of them.
    ///
    /// Blocks stay, to be written over.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if len == 0 {
            self.states.fill(State::default());
        }
    }

    /// The state of `layer`.
    pub fn state(&mut self, layer: usize) -> &mut State {
        &mut self.states[layer]
    }

    /// The keys of key head `h` of `layer`, in blocks of [`BLOCK`] positions of `head` numbers each; after the
    /// last filled position come others that mean nothing.
    pub fn keys(&self, layer: usize, h: usize) -> impl Iterator<Item = &[f32]> {
        self.of_head(&self.keys[layer], h)
    }

    /// The values, as [`Cache::keys`].
    pub fn values(&self, layer: usize, h: usize) -> impl Iterator<Item = &[f32]> {
        self.of_head(&self.values[layer], h)
    }

    fn of_head<'a>(&self, blocks: &'a [Vec<f32>], h: usize) -> impl Iterator<Item = &'a [f32]> {
        let size = BLOCK * self.head;
        blocks.iter().map(move |block| &block[h * size..][..size])
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).flatten().map(|block| size_of_val(&block[..])).sum()
    }
}
