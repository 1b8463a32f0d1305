//! The recurrence of RWKV v4: no attention, but a state in each layer, into which the past fades.
//!
//! Each part of a layer sees a vector mixed with the one before it, number by number: `x * mix + before * (1 - mix)`.
//! The first part then keeps two sums over all tokens so far, `a` of values and `b` of weights, where a token weighs
//! `e^key` and loses a share, `e^decay`, with each token after it; the newest weighs `e^first` more:
//!
//! ```text
//! out = receptance * (a + e^(first + key) value) / (b + e^(first + key))
//! a   = e^decay a + e^key value
//! b   = e^decay b + e^key
//! ```
//!
//! Both sums are kept times `e^-most`, with the largest exponent so far, so that none overflows.

use super::{Linear, Tapped};
use crate::{
    format::arithmetic::Activation,
    infer::{buffer::Buffer, cache::State, functions},
    quant::isa::Isa,
};

/// What is in the place of attention.
#[derive(Debug)]
pub struct TimeMix {
    /// The share of the new vector in what keys are made of.
    pub mix_key: Vec<f32>,
    /// The same of values.
    pub mix_value: Vec<f32>,
    /// The same of receptances.
    pub mix_receptance: Vec<f32>,
    /// The logarithm of what is left of the past after each token.
    pub decay: Vec<f32>,
    /// The logarithm of what the newest token weighs more.
    pub first: Vec<f32>,
    /// To keys.
    pub key: Linear,
    /// To values.
    pub value: Linear,
    /// To what opens and shuts each number.
    pub receptance: Linear,
    /// Back to the stream.
    pub out: Linear,
}

/// What is in the place of the feed-forward part.
#[derive(Debug)]
pub struct ChannelMix {
    /// The share of the new vector in what goes up.
    pub mix_up: Vec<f32>,
    /// The same of the gate.
    pub mix_gate: Vec<f32>,
    /// To what opens and shuts each number.
    pub gate: Linear,
    /// Stream to what is between.
    pub up: Linear,
    /// Back to the stream.
    pub down: Linear,
}

impl TimeMix {
    /// `[T][width]` in and out, one token after another.
    pub fn of(&self, x: &[f32], state: &mut State, tap: &mut Tapped) -> Buffer {
        let before = &state.time;
        let keys = self.key.of(&mixed(x, before, &self.mix_key), tap); // [T][inner]
        let values = self.value.of(&mixed(x, before, &self.mix_value), tap); // [T][inner]
        let mut open = self.receptance.of(&mixed(x, before, &self.mix_receptance), tap); // [T][inner]
        functions::sigmoid(&mut open);
        state.time = last(x, self.mix_key.len());
        let inner = self.decay.len();
        // A text begins with nothing: an exponent so low that e^ of it is 0 beside any key.
        state.most.resize(inner, -1e30);
        state.values.resize(inner, 0.0);
        state.weights.resize(inner, 0.0);
        let tokens = keys.chunks_exact(inner).zip(values.chunks_exact(inner));
        for (open, (keys, values)) in open.chunks_exact_mut(inner).zip(tokens) {
            self.step(keys, values, state, open);
        }
        self.out.of(&open, tap) // [T][width]
    }

    /// One token: `open` times the mean of all values so far, and the token into the sums.
    ///
    /// ```text
    /// p    = max(most, first + key)
    /// open = open * (e^(most - p) a + e^(first + key - p) value) / (e^(most - p) b + e^(first + key - p))
    /// most = most + decay,  then the same with p' = max(most, key) for the sums that are kept
    /// ```
    fn step(&self, keys: &[f32], values: &[f32], state: &mut State, open: &mut [f32]) {
        let State { most, values: above, weights: below, .. } = state;
        let newest: Vec<f32> =
            self.first.iter().zip(keys).map(|(first, key)| first + key).collect();
        let (old, new) = shares(most, &newest);
        for (i, open) in open.iter_mut().enumerate() {
            let mean = (old[i] * above[i] + new[i] * values[i]) / (old[i] * below[i] + new[i]);
            *open *= mean;
        }
        most.iter_mut().zip(&self.decay).for_each(|(most, decay)| *most += decay);
        let (old, new) = shares(most, keys);
        for (i, value) in values.iter().enumerate() {
            above[i] = old[i] * above[i] + new[i] * value;
            below[i] = old[i] * below[i] + new[i];
            most[i] = most[i].max(keys[i]);
        }
    }
}

impl ChannelMix {
    /// `sigmoid(gate(x)) * down(max(up(x), 0)²)`: `[T][width]` in and out.
    pub fn of(
        &self,
        activation: Activation,
        x: &[f32],
        state: &mut State,
        tap: &mut Tapped,
    ) -> Buffer {
        let before = &state.channel;
        let mut between = self.up.of(&mixed(x, before, &self.mix_up), tap); // [T][ff]
        functions::activate(Isa::best(), activation, &mut between);
        let mut open = self.gate.of(&mixed(x, before, &self.mix_gate), tap); // [T][width]
        functions::sigmoid(&mut open);
        state.channel = last(x, self.mix_up.len());
        let said = self.down.of(&between, tap); // [T][width]
        open.iter_mut().zip(&*said).for_each(|(open, said)| *open *= said);
        open
    }
}

/// `e^a` and `e^b`, both divided by the larger of them.
fn shares(a: &[f32], b: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let less = |(x, y): (&f32, &f32)| x - x.max(*y);
    let mut of_a: Vec<f32> = a.iter().zip(b).map(less).collect();
    let mut of_b: Vec<f32> = b.iter().zip(a).map(less).collect();
    functions::exp_less(Isa::best(), 0.0, &mut of_a);
    functions::exp_less(Isa::best(), 0.0, &mut of_b);
    (of_a, of_b)
}

/// Each vector of `x` mixed with the one before it, of which the first is `before`; a text begins after zeros.
fn mixed(x: &[f32], before: &[f32], mix: &[f32]) -> Vec<f32> {
    let width = mix.len();
    let mut out = x.to_vec();
    for (i, (out, mix)) in out.iter_mut().zip(mix.iter().cycle()).enumerate() {
        let before = match i.checked_sub(width) {
            Some(at) => x[at],
            None => before.get(i).copied().unwrap_or(0.0),
        };
        *out = *out * mix + before * (1.0 - mix);
    }
    out
}

/// The last vector of a batch, which the first of the next is mixed with.
fn last(x: &[f32], width: usize) -> Vec<f32> {
    x[x.len() - width..].to_vec()
}
