//! The feed-forward part: two or three matrices and a function between them.
//!
//! ```text
//! plain   x [width] --up--> [ff] --activation--> --down--> [width]
//! gated   x --gate--> activation --+
//!         x --up-------------------*--> [ff] --down--> [width]
//! ```

use rayon::prelude::*;

use super::{Linear, Tapped};
use crate::{
    format::arithmetic::Activation,
    infer::{buffer::Buffer, functions, matrix::Precision},
    quant::isa::Isa,
};

/// The matrices of one feed-forward part.
#[derive(Debug)]
pub struct FeedForward {
    /// Stream to the gate; none in plain parts.
    pub gate: Option<Linear>,
    /// Stream to what is between.
    pub up: Linear,
    /// Back to the stream.
    pub down: Linear,
}

/// Numbers that a thread takes at once.
const SHARE: usize = 1 << 12;

impl FeedForward {
    /// `down(activation(gate(x)) * up(x))`, or without a gate `down(activation(up(x)))`: `[T][width]` in
    /// and out.
    pub fn of(&self, activation: Activation, x: &[f32], tap: &mut Tapped) -> Buffer {
        let precision = self.up.matrix.precision();
        let between = match &self.gate {
            Some(gate) => {
                let mut gate = gate.of(x, tap); // [T][ff]
                let up = self.up.of(x, tap); // [T][ff]
                gated(activation, precision, &mut gate, &up);
                gate
            }
            None => {
                let mut up = self.up.of(x, tap); // [T][ff]
                up.par_chunks_mut(SHARE).for_each(|up| activate(activation, precision, up));
                up
            }
        };
        self.down.of(&between, tap) // [T][width]
    }
}

/// `x = activation(x)`; where activations are rounded as llama.cpp rounds them, by its table, which it has for models
/// that were trained with the exact GELU too.
fn activate(activation: Activation, precision: Precision, xs: &mut [f32]) {
    match (activation, precision) {
        (Activation::GeluTanh | Activation::GeluErf, Precision::Rounded) => {
            functions::gelu_of_halves(xs);
        }
        _ => functions::activate(Isa::best(), activation, xs),
    }
}

/// `gate = activation(gate) * up`.
fn gated(activation: Activation, precision: Precision, gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(SHARE).zip(up.par_chunks(SHARE)).for_each(|(gate, up)| {
        activate(activation, precision, gate);
        if activation == Activation::SiluBounded {
            gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= functions::bounded(*up));
            return;
        }
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate *= up;
        }
    });
}
