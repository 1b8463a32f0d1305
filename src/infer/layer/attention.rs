//! Attention: each token looks at those before it and at itself.
//!
//! ```text
//! x [T][width] --query--> [T][heads][head]    --norm?--> --turn by position-->  queries --+
//!              --key----> [T][kv_heads][head] --norm?--> --turn by position-->  cache     +--> mix --out--> [T][width]
//!              --value--> [T][kv_heads][head] ------------------------------->  cache     |
//! ```
//!
//! What looks and what is looked at is in `heads`; here is what happens to both before. Fewer key heads than query
//! heads is grouped-query attention: neighbours share one.

use rayon::prelude::*;

use super::{Linear, Tapped, heads::mix, norm::Norm, position::rotate};
use crate::infer::{
    buffer::Buffer,
    cache::Texts,
    config::{Config, Position},
    dot::scaled,
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
    /// Norms of queries: one of each head's or of all of them as one vector, or one for each head; empty for none.
    pub query_norm: Vec<Norm>,
    /// The same of keys.
    pub key_norm: Vec<Norm>,
    /// The score of each head beside those of positions, whose share is lost; empty where all counts.
    pub sinks: Vec<f32>,
    /// From heads back to the stream.
    pub out: Linear,
}

impl Attention {
    /// `[T][width]` in and out; keys and values go into layer `n` of each text's cache.
    pub fn of(
        &self,
        config: &Config,
        n: usize,
        x: &[f32],
        texts: &mut Texts,
        tap: &mut Tapped,
    ) -> Buffer {
        let Config { heads, kv_heads, head, clamp, .. } = *config;
        let positions = texts.positions();
        let mut queries = self.query.of(x, tap); // [T][heads * head]
        let mut keys = self.key.of(x, tap); // [T][kv_heads * head]
        let mut values = self.value.of(x, tap); // [T][kv_heads * head]
        // MPT bounds what comes out of its matrices.
        if clamp < f32::INFINITY {
            for vectors in [&mut queries, &mut keys, &mut values] {
                vectors.iter_mut().for_each(|v| *v = v.clamp(-clamp, clamp));
            }
        }
        for (norm, vectors) in [(&self.query_norm, &mut queries), (&self.key_norm, &mut keys)] {
            // One norm takes vectors of its own length, a head's or all heads' together; several take turns.
            match norm.as_slice() {
                [] => {}
                [norm] => *vectors = norm.of(config.norm, config.epsilon, vectors),
                norms => {
                    for (vector, norm) in vectors.chunks_exact_mut(head).zip(norms.iter().cycle()) {
                        vector.copy_from_slice(&norm.of(config.norm, config.epsilon, vector));
                    }
                }
            }
        }
        // SmolLM3 and Command R7B leave every fourth layer without positions.
        let turns = config.unturned == 0 || !(n + 1).is_multiple_of(config.unturned);
        if let (Position::Rotary { rope, near, far, pairs }, true) = (&config.position, turns) {
            // Long factors where the context reaches beyond that of training; other steps in layers with windows.
            let far = far.as_ref().filter(|(trained, _)| texts.context() > *trained);
            let rope = far.map_or(rope, |(_, far)| far);
            let rope = near.as_ref().filter(|_| config.windows.covers(n)).unwrap_or(rope);
            let turn = |vectors: &mut [f32], width: usize| {
                let vectors = vectors.par_chunks_exact_mut(width).zip(&positions);
                vectors.for_each(|(vector, at)| rotate(*pairs, vector, head, &rope.at(*at)));
            };
            turn(&mut queries, heads * head);
            turn(&mut keys, kv_heads * head);
            // LLaMA 4: the mean square of each head is 1, after it turned.
            if config.even {
                let even = Norm { weight: vec![1.0; head], bias: Vec::new() };
                queries = even.of(config.norm, config.epsilon, &queries);
                keys = even.of(config.norm, config.epsilon, &keys);
            }
        } else if let Some(growth) = config.growth {
            for (at, query) in positions.iter().zip(queries.chunks_exact_mut(heads * head)) {
                scaled(query, growth.at(*at));
            }
        }
        // Turned keys are kept: a position never changes.
        let mixed = mix(config, &self.sinks, [&queries, &keys, &values], texts, n); // [T][heads * head]
        self.out.of(&mixed, tap) // [T][width]
    }
}
