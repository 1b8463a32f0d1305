//! Attention over one short vector of each token, from which every head makes its key and its value.
//!
//! What is kept of a token is that vector and a few numbers that turn, which all heads share:
//!
//! ```text
//! short  = norm(first numbers of kv_a x)      turns = rotate(last numbers of kv_a x)
//! head h:  key = [k_b[h]ᵀ short, turns]       value = v_b[h] short
//! score  = dot(query, key) = dot([k_b[h] still, turned], [short, turns])
//! out    = v_b[h] (short of each token by its share)
//! ```
//!
//! So the matrices of keys meet the query, those of values the mixed vector, and the vectors that are kept serve as
//! keys and as values of one head for all queries.

use super::{Linear, Tapped, heads::mix, norm::Norm, position::rotate};
use crate::infer::{
    buffer::Buffer,
    cache::Texts,
    config::{Config, Position},
};

/// Under the root of both norms here, whatever a model has in its others: so in transformers' class and DeepSeek's own.
const EPSILON: f32 = 1e-6;

/// The matrices of one layer's attention.
///
/// DeepSeek V2 and V3. `head` of the configuration is the length of what is kept, `short + turning` (512 + 64 there),
/// in place of the `heads * (key + value)` numbers of plain attention.
#[derive(Debug)]
pub struct Latent {
    /// To a short vector and its norm, where queries are made of one.
    pub query_short: Option<(Linear, Norm)>,
    /// To queries, from the stream or from that vector: for each head what is still, then what turns.
    pub query: Linear,
    /// To the short vector, then what turns of keys.
    pub short: Linear,
    /// Norm of the short vector.
    pub short_norm: Norm,
    /// From what is still of a query to the length of the short vector, for each head.
    pub keys: Vec<Linear>,
    /// From the short vector to values, for each head.
    pub values: Vec<Linear>,
    /// From heads back to the stream.
    pub out: Linear,
}

impl Latent {
    /// `[T][width]` in and out; what is kept goes into layer `n` of each text's cache.
    pub fn of(
        &self,
        config: &Config,
        n: usize,
        x: &[f32],
        texts: &mut Texts,
        tap: &mut Tapped,
    ) -> Buffer {
        let Config { heads, head, width, .. } = *config;
        let short = self.short_norm.weight.len();
        let turning = head - short;
        let count = x.len() / width;
        let queries = match &self.query_short {
            Some((to_short, norm)) => {
                let made = to_short.of(x, tap); // [T][short of queries]
                self.query.of(&norm.of(config.norm, EPSILON, &made), tap)
            }
            None => self.query.of(x, tap),
        }; // [T][heads][still + turning]
        let whole = queries.len() / count.max(1) / heads;
        let still = whole - turning;
        let made = self.short.of(x, tap); // [T][short + turning]
        let mut kept = Vec::with_capacity(count * head); // [T][short + turning]
        for made in made.chunks_exact(head) {
            let (vector, turns) = made.split_at(short);
            kept.extend(&*self.short_norm.of(config.norm, EPSILON, vector));
            kept.extend(turns);
        }
        // A key matrix is put on the query's side: dot(q, K s) = dot(Kᵀ q, s), and no key of a head is ever made.
        let mut looking = vec![0.0; count * heads * head]; // [T][heads][short + turning]
        for (h, keys) in self.keys.iter().enumerate() {
            let part = |t: usize| &queries[(t * heads + h) * whole..][..whole];
            let stills: Vec<f32> = (0..count).flat_map(|t| &part(t)[..still]).copied().collect();
            let met = keys.of(&stills, tap); // [T][short]
            for (t, met) in met.chunks_exact(short).enumerate() {
                let out = &mut looking[(t * heads + h) * head..][..head];
                out[..short].copy_from_slice(met);
                out[short..].copy_from_slice(&part(t)[still..]);
            }
        }
        if let Position::Rotary { rope, pairs, .. } = &config.position {
            for (t, at) in texts.positions().into_iter().enumerate() {
                let turns = rope.at(at);
                for vector in looking[t * heads * head..][..heads * head].chunks_exact_mut(head) {
                    rotate(*pairs, &mut vector[short..], turning, &turns);
                }
                rotate(*pairs, &mut kept[t * head..][short..head], turning, &turns);
            }
        }
        let mixed = mix(config, &[], [&looking, &kept, &kept], texts, n); // [T][heads][short + turning]
        let value = self.values.first().map_or(0, |values| values.matrix.rows);
        let mut all = vec![0.0; count * heads * value]; // [T][heads][value]
        for (h, values) in self.values.iter().enumerate() {
            // What turns was mixed along with the rest, and is no part of a value.
            let part = |t: usize| &mixed[(t * heads + h) * head..][..short];
            let shorts: Vec<f32> = (0..count).flat_map(part).copied().collect();
            let made = values.of(&shorts, tap); // [T][value]
            for (t, made) in made.chunks_exact(value).enumerate() {
                all[(t * heads + h) * value..][..value].copy_from_slice(made);
            }
        }
        self.out.of(&all, tap) // [T][width]
    }
}
