//! Attention: each token looks at those before it and at itself.

use rayon::prelude::*;

use super::{Linear, Tapped, capped, norm::Norm, position::rotate};
use crate::{
    infer::{
        cache::{BLOCK, Cache},
        config::{Config, Position},
        dot::dot,
        functions::softmax,
    },
    per_isa,
    quant::isa::Isa,
};

/// The matrices of one layer's attention.
#[derive(Debug)]
pub struct Attention {
    /// To queries.
    pub query: Linear,
    /// To keys.
    pub key: Linear,
    /// To values.
    pub value: Linear,
    /// Norm of each head's query, or of all of them as one vector.
    pub query_norm: Option<Norm>,
    /// The same of keys.
    pub key_norm: Option<Norm>,
    /// From heads back to the stream.
    pub out: Linear,
}

impl Attention {
    /// `[T][width]` in and out; keys and values go into layer `n` of `cache`.
    pub fn of(
        &self,
        config: &Config,
        n: usize,
        x: &[f32],
        cache: &mut Cache,
        tap: &mut Tapped,
    ) -> Vec<f32> {
        let Config { heads, kv_heads, head, clamp, .. } = *config;
        let mut queries = self.query.of(x, tap); // [T][heads * head]
        let mut keys = self.key.of(x, tap); // [T][kv_heads * head]
        let mut values = self.value.of(x, tap); // [T][kv_heads * head]
        if clamp < f32::INFINITY {
            for vectors in [&mut queries, &mut keys, &mut values] {
                vectors.iter_mut().for_each(|v| *v = v.clamp(-clamp, clamp));
            }
        }
        for (norm, vectors) in [(&self.query_norm, &mut queries), (&self.key_norm, &mut keys)] {
            if let Some(norm) = norm {
                *vectors = norm.of(config.norm, config.epsilon, vectors);
            }
        }
        let turns = config.unturned == 0 || !(n + 1).is_multiple_of(config.unturned);
        if let (Position::Rotary { rope, near, pairs }, true) = (&config.position, turns) {
            let past = cache.len();
            let rope = near.as_ref().filter(|_| config.windows.covers(n)).unwrap_or(rope);
            let turn = |vectors: &mut [f32], width: usize| {
                vectors.par_chunks_exact_mut(width).enumerate().for_each(|(t, vector)| {
                    rotate(*pairs, vector, head, &rope.at(past + t));
                });
            };
            turn(&mut queries, heads * head);
            turn(&mut keys, kv_heads * head);
        }
        cache.extend(n, &keys, &values);
        let mixed = mix(config, &queries, cache, n); // [T][heads * head]
        self.out.of(&mixed, tap) // [T][width]
    }
}

/// For each query the values so far, each as much as its key fits: `[T][heads * head]` in and out.
fn mix(config: &Config, queries: &[f32], cache: &Cache, n: usize) -> Vec<f32> {
    let Config { heads, kv_heads, head, attention_scale: scale, attention_cap, .. } = *config;
    let windowed = config.windows.covers(n);
    let mut mixed = vec![0.0; queries.len()];
    let each = mixed.par_chunks_exact_mut(head).zip(queries.par_chunks_exact(head)).enumerate();
    each.for_each_init(Vec::new, |scores: &mut Vec<f32>, (i, (out, query))| {
        let (t, h) = (i / heads, i % heads);
        // Query head h shares key head h / (heads / kv_heads) with its neighbours.
        let shared = h / (heads / kv_heads);
        let (keys, values) = (cache.keys(n, shared), cache.values(n, shared));
        let seen = match config.whole_text {
            true => cache.len() + queries.len() / (heads * head),
            false => cache.len() + t + 1,
        };
        // The first position in the window, and the block that it is in.
        let first = if windowed { seen.saturating_sub(config.window) } else { 0 };
        let (block, hidden) = (first / BLOCK, first % BLOCK);
        scores.clear();
        scores.resize(seen - block * BLOCK, 0.0); // [seen from that block on]
        for (scores, keys) in scores.chunks_mut(BLOCK).zip(keys.skip(block)) {
            fit(Isa::best(), query, keys, scale, scores);
        }
        let looked = &mut scores[hidden..];
        if let Position::Alibi(slopes) = &config.position {
            for (position, score) in (first..).zip(looked.iter_mut()) {
                *score += slopes[h] * position as f32;
            }
        }
        capped(looked, attention_cap);
        softmax(looked);
        scores[..hidden].fill(0.0);
        for (shares, values) in scores.chunks(BLOCK).zip(values.skip(block)) {
            blend(Isa::best(), shares, values, out);
        }
    });
    mixed
}

per_isa! {
    fn fit(query: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) = fits[isa];
    fn blend(shares: &[f32], values: &[f32], out: &mut [f32]) = blended[isa];
}

/// How well the query fits each key: `[head]` and `[scores][head]` in, `[scores]` out.
#[inline(always)]
fn fits(isa: Isa, query: &[f32], keys: &[f32], scale: f32, scores: &mut [f32]) {
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
        *score = dot(isa, query, key) * scale;
    }
}

/// Adds every value by its share, the first position first: `[shares]` and `[shares][head]` in, `[head]` out.
#[inline(always)]
fn blended(isa: Isa, shares: &[f32], values: &[f32], out: &mut [f32]) {
    for (share, value) in shares.iter().zip(values.chunks_exact(out.len())) {
        for (out, value) in out.iter_mut().zip(value) {
            *out = isa.mul_add(*share, *value, *out);
        }
    }
}
