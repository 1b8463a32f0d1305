//! Norms: vectors brought to one size before they meet a matrix.
//!
//! ```text
//! RMS     x / sqrt(mean(x²) + epsilon) * weight                     LLaMA and most since
//! layer   (x - mean) / sqrt(mean((x - mean)²) + epsilon) * weight + bias      GPT-2, GPT-J, NeoX, Falcon, MPT
//! ```
//!
//! Squares are summed in the order of `infer::dot`.

use rayon::prelude::*;

use crate::{
    format::arithmetic,
    infer::{buffer::Buffer, dot},
    quant::isa::Isa,
};

/// The numbers of one norm.
#[derive(Debug)]
pub struct Norm {
    /// What each number is multiplied with.
    pub weight: Vec<f32>,
    /// What is added to it; empty for nothing.
    pub bias: Vec<f32>,
}

impl Norm {
    /// Every vector of `xs`, brought to one size: `[T][width]` in and out.
    pub fn of(&self, kind: arithmetic::Norm, epsilon: f32, xs: &[f32]) -> Buffer {
        let mut out = Buffer::of(xs.len());
        let width = self.weight.len();
        // As long as its weights: the width of the stream, or of one head.
        let vectors = out.par_chunks_exact_mut(width).zip(xs.par_chunks_exact(width));
        vectors.for_each(|(out, x)| {
            match kind {
                arithmetic::Norm::Rms => rms(out, x, &self.weight, epsilon),
                arithmetic::Norm::Layer => layer(out, x, &self.weight, epsilon),
            }
            super::add(out, &self.bias);
        });
        out
    }
}

/// `x / sqrt(mean(x²) + epsilon) * weight`.
fn rms(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let mean = dot::dot_of(Isa::best(), x, x) / weight.len() as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// `(x - mean(x)) / sqrt(variance(x) + epsilon) * weight`; the mean is summed in float64, from left to right.
fn layer(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let mean = (x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64) as f32;
    for (out, x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    let variance = dot::dot_of(Isa::best(), out, out) / weight.len() as f32;
    let scale = 1.0 / (variance + epsilon).sqrt();
    for (out, weight) in out.iter_mut().zip(weight) {
        *out = *out * scale * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_norms_by_hand() {
        let norm = Norm { weight: vec![1.0, 2.0], bias: vec![0.5, -0.5] };
        // Mean square of (3, 5) is 17; mean 4, variance 1.
        let rms = norm.of(arithmetic::Norm::Rms, 8.0, &[3.0, 5.0]);
        assert_eq!(*rms, [3.0f32 / 5.0 + 0.5, 5.0f32 / 5.0 * 2.0 - 0.5]);
        let layer = norm.of(arithmetic::Norm::Layer, 0.0, &[3.0, 5.0]);
        assert_eq!(*layer, [-1.0 + 0.5, 1.0 * 2.0 - 0.5]);
    }
}
