//! Rotary position embedding: each pair of numbers of a head turns by an angle that grows with the
//! position.
//!
//! ```text
//! pair i of a head:   angle = position * base^(-2i / dims) * stretch(i)
//! (a, b) -> (a cos - b sin, a sin + b cos) * magnitude
//! ```
//!
//! Stretching makes a model reach further than it was trained for. `linear` divides every angle by a
//! factor; `llama3` divides each by its own (`rope_freqs.weight`); `yarn` divides the slow ones and
//! leaves the fast ones (Peng and others 2023; ggml, rope_yarn).
//!
//! ```text
//! pair             0 ........ low ........ high ........ dims/2      fast to slow
//! linear  angle    / factor   / factor     / factor      / factor
//! yarn    angle    as it is   as it is -> / factor       / factor    a ramp between both bounds
//! llama3  angle    as it is   as it is -> / factor       / factor    a ramp in turns, not in pairs
//! ```

use super::numbers::Numbers;
use crate::error::{Error, Result};
use crate::remedy::Call;

/// The angle of every pair for one step of position.
///
/// Angles are float64, for at position 100,000 a float32 has no more than two digits behind the point; cosine and
/// sine are rounded to float32 at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians for one position, of each pair; the first turns fastest.
    steps: Vec<f64>,
    /// What cosine and sine are multiplied with, so that scores grow by its square.
    magnitude: f32,
}

/// Turns within the trained context from which `yarn` leaves a pair, and up to which it divides it:
/// llama.cpp takes these for the architecture `llama`, whatever `yarn_beta_fast` and `yarn_beta_slow` say.
const FAST: f64 = 32.0;
const SLOW: f64 = 1.0;

impl Rope {
    /// The embedding that a model's `rope.*` keys describe, for heads of `head` numbers; the bounds of `yarn` may be
    /// between pairs.
    ///
    /// # Errors
    /// Where the kind of stretching is not known or the sizes do not fit.
    pub fn new(numbers: &Numbers, head: usize, between: bool) -> Result<Rope> {
        let number = |key: &str| numbers.f64(&format!("rope.{key}"));
        // Only the first `dims` numbers of a head turn; the rest pass as they are.
        let dims = dims(numbers, head)?;
        let base = number("freq_base").unwrap_or(10_000.0);
        let plain = steps(base, dims);
        // `rope.scale_linear` is what the key was called in GGUF's first months.
        let factor = number("scaling.factor").or_else(|| number("scale_linear"));
        let factor = factor.filter(|factor| *factor > 0.0).unwrap_or(1.0);
        // What pairs turned through in training: its length before the stretch, else the context itself.
        let trained = number("scaling.original_context_length")
            .unwrap_or_else(|| numbers.u64("context_length").unwrap_or(2048) as f64);
        let mut rope = Rope { steps: plain, magnitude: 1.0 };
        match numbers.str("rope.scaling.type").unwrap_or("linear") {
            "none" => {}
            // Factors for each pair, in tensors, come with one for queries and keys.
            "longrope" | "linear" if factor == 1.0 => {
                rope.magnitude = number("scaling.attn_factor").unwrap_or(1.0) as f32;
            }
            "linear" => rope.steps.iter_mut().for_each(|step| *step /= factor),
            "yarn" => {
                // The pair that turns `turns` times within the trained context.
                let pair = |turns: f64| {
                    let turns = libm::log(trained / (turns * std::f64::consts::TAU));
                    dims * turns / (2.0 * libm::log(base))
                };
                let (low, high) = match between {
                    true => (pair(FAST), pair(SLOW)),
                    false => (pair(FAST).floor(), pair(SLOW).ceil()),
                };
                let (low, high) = (low.max(0.0), high.min(dims - 1.0));
                for (i, step) in rope.steps.iter_mut().enumerate() {
                    // 0 up to `low`: as it is; 1 from `high` on: divided; a straight line between.
                    let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    *step *= ramp / factor + (1.0 - ramp);
                }
                let attention = number("scaling.attn_factor").unwrap_or(1.0);
                // Where scores are stretched apart from it, by as much, nothing is left to do here.
                rope.magnitude = match numbers.stretch_of_scores() {
                    1.0 => (attention * (1.0 + 0.1 * libm::log(factor))) as f32,
                    _ => attention as f32,
                };
            }
            "llama3" => {
                let low = number("scaling.low_freq_factor").unwrap_or(1.0);
                let high = number("scaling.high_freq_factor").unwrap_or(4.0);
                for step in &mut rope.steps {
                    // 1 where a pair turns `high` times or more in training, 0 where `low` times or fewer.
                    let turns = trained * *step / std::f64::consts::TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *step *= keep + (1.0 - keep) / factor;
                }
            }
            other => {
                return Err(Error::unsupported(
                    format!("{} {other:?} is not known here", numbers.key("rope.scaling.type")),
                    "known are none, linear, yarn and llama3",
                ));
            }
        }
        Ok(rope)
    }

    /// The embedding of layers that look back over a window only, where a key of its own states its base:
    /// nothing stretches it.
    ///
    /// # Errors
    /// Where the sizes do not fit.
    pub fn near(numbers: &Numbers, head: usize) -> Result<Option<Rope>> {
        let base = numbers.f64("rope.freq_base_swa");
        base.map(|base| Ok(Rope { steps: steps(base, dims(numbers, head)?), magnitude: 1.0 }))
            .transpose()
    }

    /// The same with the angle of each pair divided by its factor (`rope_freqs.weight`).
    ///
    /// # Errors
    /// Where there is not one factor for each pair.
    pub fn divided(mut self, factors: &[f32]) -> Result<Rope> {
        if factors.len() != self.steps.len() {
            let what = format!("{} rope factors for {} pairs", factors.len(), self.steps.len());
            return Err(Error::unsupported(what, Call::Verify.to("check the file")));
        }
        for (step, factor) in self.steps.iter_mut().zip(factors) {
            *step /= f64::from(*factor);
        }
        Ok(self)
    }

    /// Cosine and sine of every pair at `position`.
    pub fn at(&self, position: usize) -> Vec<(f32, f32)> {
        let turn = |step: &f64| {
            let (sin, cos) = libm::sincos(position as f64 * step);
            (cos as f32 * self.magnitude, sin as f32 * self.magnitude)
        };
        self.steps.iter().map(turn).collect()
    }
}

/// How many numbers of a head turn.
fn dims(numbers: &Numbers, head: usize) -> Result<f64> {
    let dims = numbers.f64("rope.dimension_count").unwrap_or(head as f64);
    if !(2.0..=head as f64).contains(&dims) || dims % 2.0 != 0.0 {
        let what = format!("{dims} rotated dimensions in a head of {head}");
        return Err(Error::unsupported(what, Call::Verify.to("check the file")));
    }
    Ok(dims)
}

/// The angle of each pair for one step, not stretched.
fn steps(base: f64, dims: f64) -> Vec<f64> {
    (0..(dims / 2.0) as usize).map(|i| libm::pow(base, -2.0 * i as f64 / dims)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::catalog,
        model::{Metadata, Value},
    };

    fn rope(metadata: &Metadata, head: usize) -> Rope {
        Rope::new(&Numbers::of(catalog::family("llama").unwrap(), metadata), head, false).unwrap()
    }

    fn metadata(pairs: &[(&str, Value)]) -> Metadata {
        let mut out = Metadata::new();
        for (key, value) in pairs {
            out.set(format!("llama.{key}"), value.clone());
        }
        out
    }

    #[test]
    fn plain_and_linear() {
        let plain = rope(&Metadata::new(), 8);
        assert_eq!(plain.at(0), [(1.0, 0.0); 4]);
        assert!((plain.at(3)[1].1 - 0.3f32.sin()).abs() < 1e-7);
        let half = rope(&metadata(&[("rope.scaling.factor", Value::F32(2.0))]), 8);
        assert_eq!(half.at(6), plain.at(3));
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let yarn = [
            ("rope.scaling.type", Value::from("yarn")),
            ("rope.scaling.factor", Value::F32(4.0)),
            ("rope.scaling.original_context_length", Value::U32(4096)),
        ];
        let (plain, yarn) = (rope(&Metadata::new(), 128), rope(&metadata(&yarn), 128));
        assert_eq!(yarn.steps[0], plain.steps[0]);
        assert!((yarn.steps[63] * 4.0 - plain.steps[63]).abs() < 1e-12);
        assert!((yarn.magnitude - 1.138_629_4).abs() < 1e-6);
    }

    #[test]
    fn llama3_by_formula_and_by_factors_agree() {
        let keys = [
            ("rope.freq_base", Value::F32(500_000.0)),
            ("rope.scaling.type", Value::from("llama3")),
            ("rope.scaling.factor", Value::F32(8.0)),
            ("rope.scaling.original_context_length", Value::U32(8192)),
        ];
        let stretched = rope(&metadata(&keys), 128);
        let plain = rope(&metadata(&keys[..1]), 128);
        let factors: Vec<f32> =
            plain.steps.iter().zip(&stretched.steps).map(|(a, b)| (a / b) as f32).collect();
        assert_eq!((factors[0], factors[63]), (1.0, 8.0));
        let divided = plain.divided(&factors).unwrap();
        for (a, b) in divided.steps.iter().zip(&stretched.steps) {
            assert!((a - b).abs() <= 1e-6 * b);
        }
    }
}
