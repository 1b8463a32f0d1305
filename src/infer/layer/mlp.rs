//! The feed-forward part: two or three matrices and a function between them.

use rayon::prelude::*;

use super::{Linear, Tapped};
use crate::format::arithmetic::Activation;

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
    pub fn of(&self, activation: Activation, x: &[f32], tap: &mut Tapped) -> Vec<f32> {
        let between = match &self.gate {
            Some(gate) => {
                let mut gate = gate.of(x, tap); // [T][ff]
                let up = self.up.of(x, tap); // [T][ff]
                gated(activation, &mut gate, &up);
                gate
            }
            None => {
                let mut up = self.up.of(x, tap); // [T][ff]
                up.par_chunks_mut(SHARE).for_each(|up| activate(activation, up));
                up
            }
        };
        self.down.of(&between, tap) // [T][width]
    }
}

/// `gate = activation(gate) * up`.
fn gated(activation: Activation, gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(SHARE).zip(up.par_chunks(SHARE)).for_each(|(gate, up)| {
        activate(activation, gate);
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate *= up;
        }
    });
}

/// `x = activation(x)`.
fn activate(activation: Activation, xs: &mut [f32]) {
    match activation {
        Activation::Silu => each(xs, |x| x / (1.0 + (-x).exp())),
        Activation::GeluTanh => each(xs, gelu_tanh),
        Activation::GeluErf => each(xs, gelu_erf),
        Activation::Relu => each(xs, |x| x.max(0.0)),
        Activation::Relu2 => each(xs, |x| x.max(0.0) * x.max(0.0)),
    }
}

fn each(xs: &mut [f32], f: impl Fn(f32) -> f32) {
    xs.iter_mut().for_each(|x| *x = f(*x));
}

fn gelu_tanh(x: f32) -> f32 {
    const ROOT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (ROOT_2_OVER_PI * x * (1.0 + 0.044715 * x * x)).tanh())
}

fn gelu_erf(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

/// The error function to more digits than a float32 has:
///
/// ```text
/// erf(x) = 2 / sqrt(π) * e^(-x²) * (x + 2x³/3 + 4x⁵/15 + 8x⁷/105 + …)
/// ```
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_the_values_of_tables() {
        let of = |activation, x: f32| {
            let mut xs = [x];
            activate(activation, &mut xs);
            xs[0]
        };
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265)]
        {
            assert!((erf(x) - value).abs() < 1e-10 && (erf(-x) + value).abs() < 1e-10, "erf {x}");
        }
        assert_eq!((erf(7.0), erf(-7.0)), (1.0, -1.0));
        assert!((erf(5.99) - 1.0).abs() < 1e-12);
        assert!((of(Activation::GeluErf, 1.0) - 0.841_344_8).abs() < 1e-7);
        assert!((of(Activation::GeluTanh, 1.0) - 0.841_192).abs() < 1e-6);
        assert!((of(Activation::Silu, 1.0) - 0.731_058_6).abs() < 1e-6);
        assert_eq!((of(Activation::Relu, -2.0), of(Activation::Relu, 3.0)), (0.0, 3.0));
        assert_eq!((of(Activation::Relu2, -2.0), of(Activation::Relu2, 3.0)), (0.0, 9.0));
        for far in [-40.0, 40.0] {
            for activation in [Activation::GeluErf, Activation::GeluTanh] {
                assert_eq!(of(activation, far), f32::max(far, 0.0));
            }
        }
    }
}
