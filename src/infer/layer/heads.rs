//! What the heads of attention see: for each query the values so far, each as much as its key fits.
//!
//! ```text
//! score[p] = dot(query, key[p]) * scale                         in the order of `infer::dot`
//! share    = softmax of the scores
//! out      = fma(share[p], value[p], … fma(share[0], value[0], 0))   the first position first
//! ```
//!
//! One token's heads are looked at one by one. Of several tokens, `TOKENS` queries of a head go together, so that
//! each key and each value that is loaded serves many of them; what every one of them sees is mixed in registers,
//! the positions at either end that only some see one query at a time. Both ways give the same bits.

#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

use std::ops::Range;

use rayon::prelude::*;

use super::capped;
use crate::{
    format::arithmetic::Windows,
    infer::{
        buffer::Buffer,
        cache::{BLOCK, Cache, Texts},
        config::{Config, Position},
        dot::{LANES, add, dot, scaled},
        functions::{softmax, softmax_beside},
        panel,
    },
    per_isa,
    quant::isa::{Isa, Level},
};

/// Queries of one head that go together.
const TOKENS: usize = 24;

/// What each head of each token sees, mixed, after keys and values were put into layer `n` of each text's cache.
///
/// `[T][heads * head]` in and out, `[T][kv_heads * head]` of keys and values; `sinks` has a number for each head, or
/// none.
pub fn mix(
    config: &Config,
    sinks: &[f32],
    [queries, keys, values]: [&[f32]; 3],
    texts: &mut Texts,
    n: usize,
) -> Buffer {
    let Config { heads, kv_heads, head, .. } = *config;
    texts.each(|cache, tokens| {
        let [first, last] = [tokens.start, tokens.end].map(|t| t * kv_heads * head);
        cache.extend(n, &keys[first..last], &values[first..last]);
        let queries = &queries[tokens.start * heads * head..tokens.end * heads * head];
        mix_text(config, sinks, queries, cache, n)
    })
}

/// The same of one text.
fn mix_text(config: &Config, sinks: &[f32], queries: &[f32], cache: &Cache, n: usize) -> Buffer {
    let Config { heads, head, .. } = *config;
    let count = queries.len() / (heads * head);
    let mut by_head = Buffer::zeros(queries.len()); // [heads][T][head]
    let texts = by_head.par_chunks_exact_mut(count * head).enumerate();
    texts.for_each(|(h, out)| {
        // One piece of work is one head and up to 24 tokens: with a token at a time, a head.
        let some = out.par_chunks_mut(TOKENS * head).enumerate();
        some.for_each_init(Room::default, |room, (i, out)| {
            let first = i * TOKENS;
            let tokens = first..first + out.len() / head;
            let of_token = |t: usize| &queries[(t * heads + h) * head..][..head];
            // Queries of one head are apart by all heads; side by side they are a matrix of the panel.
            room.queries.clear();
            tokens.clone().for_each(|t| room.queries.extend(of_token(t)));
            let sink = sinks.get(h).copied();
            let view = View { config, cache, n, h, sink, tokens, all: count };
            view.mix(room, out);
        });
    });
    if count == 1 {
        return by_head;
    }
    let mut mixed = Buffer::of(queries.len()); // [T][heads][head]
    mixed.par_chunks_exact_mut(heads * head).enumerate().for_each(|(t, mixed)| {
        for (h, mixed) in mixed.chunks_exact_mut(head).enumerate() {
            mixed.copy_from_slice(&by_head[(h * count + t) * head..][..head]);
        }
    });
    mixed
}

/// Memory of one thread, used again for the next queries.
#[derive(Default)]
struct Room {
    /// `[tokens][head]`: those of one head.
    queries: Vec<f32>,
    /// The same in the order of the panel.
    laid: Vec<panel::Line>,
    /// What the panel needs for itself.
    panel: panel::Room,
    /// `[tokens][positions]`: scores, then shares.
    scores: Vec<f32>,
}

/// Some tokens of a batch as one head of one layer sees them.
///
/// Positions are counted from the beginning of the text, tokens from that of the batch: token `t` is at position
/// `cache.len() + t`.
struct View<'a> {
    /// Sizes, windows and slopes.
    config: &'a Config,
    /// Keys and values of the text, those of the batch among them.
    cache: &'a Cache,
    /// The layer.
    n: usize,
    /// The query head.
    h: usize,
    /// The score beside those of positions whose share is lost, where the head has one.
    sink: Option<f32>,
    /// These of the batch, at most [`TOKENS`].
    tokens: Range<usize>,
    /// Tokens of the batch.
    all: usize,
}

impl View<'_> {
    /// The positions that token `t` sees.
    fn seen(&self, t: usize) -> Range<usize> {
        let Config { whole_text, window, windows, .. } = self.config;
        let end = self.cache.len() + if *whole_text { self.all } else { t + 1 };
        // A layer with a window sees the last positions only, the token's own among them.
        let first = match windows {
            windows if !windows.covers(self.n) => 0,
            Windows::Chunks { .. } => end.saturating_sub(1) / window * window,
            _ => end.saturating_sub(*window),
        };
        first..end
    }

    /// `[tokens][head]` out.
    fn mix(&self, room: &mut Room, out: &mut [f32]) {
        let Config { heads, kv_heads, head, attention_scale: scale, attention_cap, .. } =
            *self.config;
        let (isa, count) = (Isa::best(), self.tokens.len());
        // Query head h shares key head h / (heads / kv_heads) with its neighbours.
        let shared = self.h / (heads / kv_heads);
        let (first, last) = (self.seen(self.tokens.start), self.seen(self.tokens.end - 1));
        // Positions from the beginning of a block on, for all of the tokens.
        let base = first.start / BLOCK * BLOCK;
        let width = last.end - base;
        let Room { queries, laid, panel, scores } = room;
        // Rounded down to a block of the cache, for blocks are what is read; what is before `first` is never looked
        // at.
        scores.resize(count * width, 0.0); // [tokens][positions from base on]
        if count > 1 {
            panel::lay_out_in(isa, queries, head, laid);
        }
        let keys = self.cache.keys(self.n, shared).skip(base / BLOCK);
        for (keys, at) in keys.zip((0..width).step_by(BLOCK)) {
            let some = BLOCK.min(width - at);
            // [positions][head], and the last block is not full.
            let keys = &keys[..some * head];
            if count == 1 {
                fit(isa, queries, keys, scale, &mut scores[at..at + some]);
                continue;
            }
            let block = scores.chunks_exact_mut(width).map(|scores| &mut scores[at..at + some]);
            let mut block: Vec<&mut [f32]> = block.collect(); // [tokens][positions]
            panel::multiply(isa, keys, laid, head, &mut block, panel);
            block.into_iter().for_each(|scores| scaled(scores, scale));
        }
        for (t, scores) in self.tokens.clone().zip(scores.chunks_exact_mut(width)) {
            let seen = self.seen(t);
            let looked = &mut scores[seen.start - base..seen.end - base];
            // score += slope * position, where the original subtracts slope * distance: softmax does not see a
            // constant.
            if let Position::Alibi(slopes) = &self.config.position {
                for (position, score) in seen.zip(looked.iter_mut()) {
                    *score += slopes[self.h] * position as f32;
                }
            }
            capped(looked, attention_cap);
            match self.sink {
                Some(sink) => softmax_beside(looked, sink),
                None => softmax(looked),
            }
        }
        // Token t + 1 sees one position more than token t, and with a window one fewer at the other end:
        //
        //     t0    [first ........ end)
        //     t1     [first ........ end)
        //     t2      [first ........ end)
        //             |<- common ->|
        // What every one of the tokens sees, between what only some do.
        let common = last.start..first.end.max(last.start);
        let values = self.cache.values(self.n, shared).skip(base / BLOCK);
        for (values, at) in values.zip((0..width).step_by(BLOCK)) {
            let block = base + at..base + width.min(at + BLOCK);
            let mut blend = |tokens: Range<usize>, seen: Range<usize>| {
                let seen = seen.start.max(block.start)..seen.end.min(block.end);
                if !seen.is_empty() {
                    let values = &values[(seen.start - block.start) * head..][..seen.len() * head];
                    // Row by row of [tokens][width], from this block's first position on.
                    let shares = &scores[tokens.start * width + seen.start - base..];
                    let out = &mut out[tokens.start * head..tokens.end * head];
                    mix_in(isa, shares, width, values, head, out);
                }
            };
            for i in 0..count {
                let seen = self.seen(self.tokens.start + i);
                blend(i..i + 1, seen.start..seen.end.min(common.start));
            }
            blend(0..count, common.clone());
            for i in 0..count {
                let seen = self.seen(self.tokens.start + i);
                blend(i..i + 1, seen.start.max(common.end)..seen.end);
            }
        }
    }
}

per_isa! {
    fn fit(query: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) = fits[isa];
    fn wide(shares: &[f32], width: usize, values: &[f32], head: usize, out: &mut [f32])
        = blended::<16, 6, 4>[isa];
    fn middle(shares: &[f32], width: usize, values: &[f32], head: usize, out: &mut [f32])
        = blended::<8, 3, 4>[isa];
    fn narrow(shares: &[f32], width: usize, values: &[f32], head: usize, out: &mut [f32])
        = blended::<4, 3, 4>[isa];
}

/// Adds `values`, `[positions][head]`, to each of `out`, `[tokens][head]`, by the shares in the rows of
/// `[tokens][width]`, the first position first.
fn mix_in(isa: Isa, shares: &[f32], width: usize, values: &[f32], head: usize, out: &mut [f32]) {
    match isa.level() {
        Level::Avx512 => wide(isa, shares, width, values, head, out),
        Level::Avx2 => middle(isa, shares, width, values, head, out),
        Level::Portable => narrow(isa, shares, width, values, head, out),
    }
}

/// How well the query fits each key: `[head]` and `[scores][head]` in, `[scores]` out; four keys side by side, so
/// that no addition waits for the one before.
#[inline(always)]
fn fits(isa: Isa, query: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) {
    let head = query.len();
    if !head.is_multiple_of(LANES) {
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(head)) {
            *score = dot(isa, query, key) * scale;
        }
        return;
    }
    // A head of 64 or 128 numbers is 4 or 8 packs.
    let packs = head / LANES;
    let (query, keys) = (query.as_chunks::<LANES>().0, keys.as_chunks::<LANES>().0);
    let last = scores.len().saturating_sub(1);
    for (i, scores) in scores.chunks_mut(4).enumerate() {
        // At the end keys are repeated, so that there is one way through.
        let keys = [0, 1, 2, 3].map(|r| &keys[last.min(4 * i + r) * packs..][..packs]);
        let mut sums = [[0f32; LANES]; 4];
        for (p, query) in query.iter().enumerate() {
            for r in 0..4 {
                isa.add_product(&mut sums[r], &keys[r][p], query);
            }
        }
        for (score, sum) in scores.iter_mut().zip(isa.totals(&sums)) {
            *score = sum * scale;
        }
    }
}

/// Tiles of the output, which stay in registers while all positions pass: 6 by 4 of sixteen lanes with AVX-512.
///
/// `Q` tokens and `C` registers of `L` numbers at a time, then what is left of either one by one.
#[inline(always)]
fn blended<const L: usize, const Q: usize, const C: usize>(
    isa: Isa,
    shares: &[f32],
    width: usize,
    values: &[f32],
    head: usize,
    out: &mut [f32],
) {
    for (i, out) in out.chunks_mut(Q * head).enumerate() {
        let shares = &shares[i * Q * width..];
        if out.len() == Q * head {
            tile::<L, Q, C>(isa, shares, width, values, head, out);
            continue;
        }
        for (i, out) in out.chunks_exact_mut(head).enumerate() {
            tile::<L, 1, C>(isa, &shares[i * width..], width, values, head, out);
        }
    }
}

/// All columns of some tokens: as many registers as there are, then one, then single numbers.
///
/// `shares` are rows of `width` numbers, one a token, of which the first `positions` meet the values.
#[inline(always)]
fn tile<const L: usize, const Q: usize, const C: usize>(
    isa: Isa,
    shares: &[f32],
    width: usize,
    values: &[f32],
    head: usize,
    out: &mut [f32],
) {
    let positions = values.len() / head;
    let mut rows: [&[f32]; Q] = [&[]; Q];
    for q in 0..Q {
        rows[q] = &shares[q * width..][..positions];
    }
    let mut from = 0;
    while from + L * C <= head {
        columns::<L, Q, C>(isa, &rows, values, head, from, out);
        from += L * C;
    }
    while from + L <= head {
        columns::<L, Q, 1>(isa, &rows, values, head, from, out);
        from += L;
    }
    while from < head {
        columns::<1, Q, 1>(isa, &rows, values, head, from, out);
        from += 1;
    }
}

/// `C * L` numbers of each of `Q` tokens from `from` on.
#[inline(always)]
fn columns<const L: usize, const Q: usize, const C: usize>(
    isa: Isa,
    shares: &[&[f32]; Q],
    values: &[f32],
    head: usize,
    from: usize,
    out: &mut [f32],
) {
    let mut sums = [[[0f32; L]; C]; Q];
    for q in 0..Q {
        let out = &out[q * head + from..][..L * C];
        sums[q].as_flattened_mut().copy_from_slice(out);
    }
    for (p, value) in values.chunks_exact(head).enumerate() {
        let value = value[from..from + L * C].as_chunks::<L>().0;
        for q in 0..Q {
            for c in 0..C {
                // One share meets a register of values; the order of positions is the order of the sum.
                sums[q][c] = add(isa, sums[q][c], &[shares[q][p]; L], &value[c]);
            }
        }
    }
    for q in 0..Q {
        out[q * head + from..][..L * C].copy_from_slice(sums[q].as_flattened());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(i: usize) -> f32 {
        ((i * 7919) % 1013) as f32 / 997.0 - 0.5
    }

    #[test]
    fn shares_are_mixed_alike_on_every_set() {
        for (head, tokens, positions) in [(64, 24, 64), (80, 7, 33), (20, 4, 5), (3, 1, 2)] {
            let width = positions + 3;
            let shares: Vec<f32> = (0..tokens * width).map(number).collect();
            let values: Vec<f32> = (0..positions * head).map(|i| number(i + 5)).collect();
            let mut expected: Vec<f32> = (0..tokens * head).map(|i| number(i + 9)).collect();
            let begun = expected.clone();
            for (t, out) in expected.chunks_exact_mut(head).enumerate() {
                for (p, value) in values.chunks_exact(head).enumerate() {
                    for (out, value) in out.iter_mut().zip(value) {
                        *out = shares[t * width + p].mul_add(*value, *out);
                    }
                }
            }
            for isa in Isa::available() {
                let mut out = begun.clone();
                mix_in(isa, &shares, width, &values, head, &mut out);
                assert_eq!(out, expected, "{tokens} of {head} on {}", isa.name());
            }
        }
    }

    #[test]
    fn keys_fit_alike_on_every_set() {
        for (head, count) in [(64, 7), (20, 3), (128, 4), (16, 1)] {
            let query: Vec<f32> = (0..head).map(number).collect();
            let keys: Vec<f32> = (0..count * head).map(|i| number(i + 5)).collect();
            let expected: Vec<f32> =
                keys.chunks(head).map(|key| dot(Isa::PORTABLE, &query, key) * 0.3).collect();
            for isa in Isa::available() {
                let mut scores = vec![0.0; count];
                fit(isa, &query, &keys, 0.3, &mut scores);
                assert_eq!(scores, expected, "{count} of {head} on {}", isa.name());
            }
        }
    }
}
