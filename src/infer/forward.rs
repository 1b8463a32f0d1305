//! The forward pass: tokens in, logits out.
//!
//! Shapes are written `[T][width]`: T vectors of `width` numbers, one after another. T is the number
//! of tokens evaluated together; which tokens share a batch changes no result.

use rayon::prelude::*;

use super::{
    Config, Weights,
    cache::Cache,
    dot,
    matrix::Matrix,
    rope::rotate,
    weights::{FeedForward, Layer},
};
use crate::{
    error::{Error, Result},
    quant::isa::Isa,
};

/// Tokens evaluated together: each row of weights is decoded once for all of them.
pub const BATCH: usize = 256;
/// Positions whose logits are computed together.
const LOGITS: usize = 32;

/// Which logits to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Those after every token.
    All,
    /// Those after the last token.
    Last,
}

/// Sees what goes into each matrix, to weigh the importance of its columns.
pub trait Tap {
    /// `xs` are the vectors of `cols` numbers that `role` of layer `layer` is multiplied with; `expert`
    /// is the part that they are sent to, of how many.
    fn see(
        &mut self,
        role: &'static str,
        layer: Option<usize>,
        expert: (usize, usize),
        cols: usize,
        xs: &[f32],
    );
}

/// A text being read or written: the weights and the keys and values of its tokens so far.
pub struct Session<'w> {
    weights: &'w Weights,
    cache: Cache,
    tap: Option<&'w mut dyn Tap>,
}

impl<'w> Session<'w> {
    /// An empty text of at most `context` tokens.
    pub fn new(weights: &'w Weights, context: usize) -> Session<'w> {
        let Config { layers, kv_heads, head, .. } = weights.config;
        Session { weights, cache: Cache::new(layers, kv_heads, head, context), tap: None }
    }

    /// The same, with `tap` at every matrix.
    pub fn tapped(weights: &'w Weights, context: usize, tap: &'w mut dyn Tap) -> Session<'w> {
        Session { tap: Some(tap), ..Session::new(weights, context) }
    }

    /// Keys and values so far.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Forgets all tokens from the `len`th on.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    /// Reads `tokens` and hands the logits after each of them, or after the last, to `take` with the
    /// token's index in `tokens`.
    ///
    /// # Errors
    /// Where a token is not in the vocabulary or the context is full.
    pub fn read(
        &mut self,
        tokens: &[u32],
        want: Want,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let config = &self.weights.config;
        if tokens.len() > self.cache.free() {
            let (len, free) = (tokens.len(), self.cache.free());
            let what =
                format!("{len} tokens do not fit into the {free} free places of the context");
            return Err(Error::unsupported(what, "give a larger context with -c"));
        }
        if let Some(token) = tokens.iter().find(|t| **t as usize >= config.vocab) {
            let what = format!("token {token} is outside the {} of the model", config.vocab);
            return Err(Error::unsupported(
                what,
                "the vocabulary does not belong to these weights",
            ));
        }
        for (n, batch) in tokens.chunks(BATCH).enumerate() {
            let stream = self.layers(batch); // [T][width]
            let first = match want {
                Want::All => 0,
                Want::Last if n * BATCH + batch.len() < tokens.len() => continue,
                Want::Last => batch.len() - 1,
            };
            for (m, xs) in stream[first * config.width..].chunks(LOGITS * config.width).enumerate()
            {
                let logits = self.logits(xs);
                self.weights.check_unchanged()?;
                for (i, logits) in logits.chunks_exact(config.vocab).enumerate() {
                    take(n * BATCH + first + m * LOGITS + i, logits);
                }
            }
        }
        Ok(())
    }

    /// Tokens through all layers: `[T][width]` out.
    fn layers(&mut self, tokens: &[u32]) -> Vec<f32> {
        let Weights { config, embedding, layers, .. } = self.weights;
        let mut stream = vec![0.0; tokens.len() * config.width]; // [T][width]
        for (x, token) in stream.chunks_exact_mut(config.width).zip(tokens) {
            embedding.row(*token as usize, x);
        }
        for (n, layer) in layers.iter().enumerate() {
            let x = norm(&stream, &layer.attention_norm, config.epsilon); // [T][width]
            let x = self.attention(n, layer, &x); // [T][width]
            add(&mut stream, &x);
            let x = norm(&stream, &layer.ffn_norm, config.epsilon); // [T][width]
            let x = self.feed_forward(n, layer, &x); // [T][width]
            add(&mut stream, &x);
        }
        self.cache.advance(tokens.len());
        stream
    }

    /// Each token looks at those before it and at itself.
    fn attention(&mut self, n: usize, layer: &Layer, x: &[f32]) -> Vec<f32> {
        let Config { heads, kv_heads, head, ref rope, .. } = self.weights.config;
        let past = self.cache.len();
        let mut queries = self.linear("query", n, &layer.query, x); // [T][heads * head]
        let mut keys = self.linear("key", n, &layer.key, x); // [T][kv_heads * head]
        let values = self.linear("value", n, &layer.value, x); // [T][kv_heads * head]
        let turn = |vectors: &mut [f32], width: usize| {
            vectors.par_chunks_exact_mut(width).enumerate().for_each(|(t, vector)| {
                rotate(vector, head, &rope.at(past + t));
            });
        };
        turn(&mut queries, heads * head);
        turn(&mut keys, kv_heads * head);
        self.cache.extend(n, &keys, &values);

        // Query head h shares key head h / (heads / kv_heads) with its neighbours.
        let cache = &self.cache;
        let scale = 1.0 / (head as f32).sqrt();
        let mut mixed = vec![0.0; queries.len()]; // [T][heads * head]
        let each = mixed.par_chunks_exact_mut(head).zip(queries.par_chunks_exact(head)).enumerate();
        each.for_each_init(Vec::new, |scores: &mut Vec<f32>, (i, (out, query))| {
            let (t, h) = (i / heads, i % heads);
            let shared = h / (heads / kv_heads);
            let (keys, values) = (cache.keys(n, shared), cache.values(n, shared));
            let seen = past + t + 1;
            scores.clear();
            let score = |key| dot::dot_of(Isa::best(), query, key) * scale;
            scores.extend(keys.take(seen).map(score)); // [seen]
            softmax(scores);
            for (score, value) in scores.iter().zip(values) {
                for (out, value) in out.iter_mut().zip(value) {
                    *out += score * value;
                }
            }
        });
        self.linear("attention_out", n, &layer.attention_out, &mixed) // [T][width]
    }

    /// Each token by itself, through the one feed-forward part or the best experts.
    fn feed_forward(&mut self, n: usize, layer: &Layer, x: &[f32]) -> Vec<f32> {
        let Some(router) = &layer.router else {
            return self.expert(n, &layer.experts[0], (0, 1), x); // [T][width]
        };
        let Config { width, experts_used, .. } = self.weights.config;
        let count = layer.experts.len();
        let mut scores = self.linear("router", n, router, x); // [T][experts]
        scores.chunks_exact_mut(count).for_each(softmax);
        let chosen: Vec<Vec<(usize, f32)>> =
            scores.chunks_exact(count).map(|scores| best(scores, experts_used)).collect();
        let mut out = vec![0.0; x.len()]; // [T][width]
        for (e, expert) in layer.experts.iter().enumerate() {
            let share = |t: &Vec<(usize, f32)>| t.iter().find(|(i, _)| *i == e).map(|(_, s)| *s);
            let sent: Vec<(usize, f32)> =
                (0..).zip(&chosen).filter_map(|(t, to)| Some((t, share(to)?))).collect();
            if sent.is_empty() {
                continue;
            }
            let gathered: Vec<f32> =
                sent.iter().flat_map(|(t, _)| &x[t * width..(t + 1) * width]).copied().collect();
            let said = self.expert(n, expert, (e, count), &gathered); // [sent][width]
            for ((t, share), said) in sent.iter().zip(said.chunks_exact(width)) {
                for (out, said) in out[t * width..].iter_mut().zip(said) {
                    *out += share * said;
                }
            }
        }
        out
    }

    /// `down(silu(gate(x)) * up(x))`.
    fn expert(
        &mut self,
        n: usize,
        part: &FeedForward,
        which: (usize, usize),
        x: &[f32],
    ) -> Vec<f32> {
        let mut gate = self.linear_of("gate", Some(n), which, &part.gate, x); // [T][ff]
        let up = self.linear_of("up", Some(n), which, &part.up, x); // [T][ff]
        gate.par_iter_mut().zip(&up).with_min_len(1 << 12).for_each(|(gate, up)| {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        });
        self.linear_of("down", Some(n), which, &part.down, &gate) // [T][width]
    }

    /// `[T][width]` in, `[T][vocab]` out.
    fn logits(&mut self, x: &[f32]) -> Vec<f32> {
        let Weights { config, norm: weights, output, .. } = self.weights;
        let x = norm(x, weights, config.epsilon);
        self.linear_of("output", None, (0, 1), output, &x)
    }

    fn linear(&mut self, role: &'static str, n: usize, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
        self.linear_of(role, Some(n), (0, 1), matrix, x)
    }

    fn linear_of(
        &mut self,
        role: &'static str,
        layer: Option<usize>,
        expert: (usize, usize),
        matrix: &Matrix,
        x: &[f32],
    ) -> Vec<f32> {
        if let Some(tap) = &mut self.tap {
            tap.see(role, layer, expert, matrix.cols, x);
        }
        let mut out = vec![0.0; x.len() / matrix.cols * matrix.rows];
        matrix.multiply(x, &mut out);
        out
    }
}

/// RMS norm of every vector: `x / sqrt(mean(x * x) + epsilon) * weight`.
fn norm(xs: &[f32], weights: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = vec![0.0; xs.len()];
    let vectors = out.par_chunks_exact_mut(weights.len()).zip(xs.par_chunks_exact(weights.len()));
    vectors.for_each(|(out, x)| {
        let mean = dot::dot_of(Isa::best(), x, x) / weights.len() as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weights) {
            *out = x * scale * weight;
        }
    });
    out
}

fn add(stream: &mut [f32], x: &[f32]) {
    for (stream, x) in stream.iter_mut().zip(x) {
        *stream += x;
    }
}

/// Scores as shares of one.
fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in &mut *scores {
        *score = (*score - most).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// The `n` largest shares with their places, first where equal, scaled to one together.
fn best(shares: &[f32], n: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<(usize, f32)> = shares.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order.truncate(n);
    let sum: f32 = order.iter().map(|(_, share)| share).sum();
    order.iter_mut().for_each(|(_, share)| *share /= sum);
    order
}
