//! Exponentials and what is made of them, with the same bits on every machine.
//!
//! What a system's library returns for `exp` differs between systems and versions. Here every step is a float32
//! operation that is rounded once, so lanes, instruction sets and machines agree:
//!
//! ```text
//! n   = x / ln 2, rounded to a whole number
//! r   = x - n ln 2                            |r| <= ln 2 / 2, ln 2 in two parts
//! e^x = 2^n (1 + r + r²/2! + … + r⁷/7!)       what is left out is below a tenth of the last bit
//! ```

use std::sync::LazyLock;

use super::dot::{LANES, total};
use crate::{
    format::arithmetic::Activation,
    per_isa,
    quant::{
        half::{f32_from_half, half_from_f32},
        isa::Isa,
    },
};

/// `e^x`, at most one unit of the last place from the exact value.
#[inline(always)]
fn exp(isa: Isa, x: f32) -> f32 {
    // The high part of ln 2 has so few bits that `n` times it is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -0.000_212_194_44];
    // A sum with this ends in the last bit before the point.
    const WHOLE: f32 = 1.5 * (1 << 23) as f32;
    // Beyond these the value is zero or infinity.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = isa.mul_add(x, std::f32::consts::LOG2_E, WHOLE);
    let n = shifted - WHOLE;
    let r = isa.mul_add(n, -LN_2[1], isa.mul_add(n, -LN_2[0], x));
    let mut sum = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = isa.mul_add(sum, r, factor);
    }
    // In two steps, for 2^n itself may be no float32 where the product is one.
    let n = shifted.to_bits().wrapping_sub(WHOLE.to_bits()) as i32;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    sum * power(n >> 1) * power(n - (n >> 1))
}

/// `x / (1 + e^-x)`.
///
/// SwiGLU's gate, of LLaMA and most models since.
#[inline(always)]
fn silu(isa: Isa, x: f32) -> f32 {
    x / (1.0 + exp(isa, -x))
}

/// `x / 2 (1 + tanh(y))` with `y = sqrt(2 / π) (x + 0.044715 x³)`, which is `x / (1 + e^-2y)`.
///
/// The approximation of GELU that GPT-2 and GPT-J were trained with; written with one exponential, since
/// `(1 + tanh(y)) / 2 = 1 / (1 + e^-2y)`.
#[inline(always)]
fn gelu_tanh(isa: Isa, x: f32) -> f32 {
    const ROOT_8_OVER_PI: f32 = 1.595_769;
    x / (1.0 + exp(isa, -ROOT_8_OVER_PI * x * (1.0 + 0.044715 * x * x)))
}

/// `x / 2 (1 + erf(x / sqrt(2)))`.
///
/// GELU itself, in float64 by the `libm` crate: the same on every machine.
#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

/// [`Activation::GeluTanh`] as ggml's programs have it: a table from halves to halves, within 10 of zero.
///
/// ```text
/// y = half(h / 2 (1 + tanh(sqrt(2 / π) h (1 + 0.044715 h²)))),  h = half(x)
/// ```
///
/// In the order of its operations, for below -3 most of what `1 + tanh` leaves is rounding. Source: ggml, vec.h:
/// `ggml_gelu_f32`, `ggml_vec_gelu_f32`, `ggml_vec_geglu_f32`; ggml-cpu.c: `ggml_cpu_init`.
pub fn gelu_of_halves(xs: &mut [f32]) {
    static TABLE: LazyLock<Vec<f32>> = LazyLock::new(|| {
        const ROOT_2_OVER_PI: f32 = 0.797_884_6;
        let gelu = |x: f32| {
            let inner = ROOT_2_OVER_PI * x * (1.0 + 0.044_715 * x * x);
            0.5 * x * (1.0 + libm::tanhf(inner))
        };
        (0..=u16::MAX).map(|x| f32_from_half(half_from_f32(gelu(f32_from_half(x))))).collect()
    });
    let table = &*TABLE;
    for x in xs {
        *x = match *x {
            far if far <= -10.0 => 0.0,
            far if far >= 10.0 => far,
            near => table[usize::from(half_from_f32(near))],
        };
    }
}

/// Up to which [`Activation::SiluBounded`] lets numbers grow.
const BOUND: f32 = 7.0;
/// How fast it goes from nothing to its number.
const STEEP: f32 = 1.702;

/// What a gate of [`Activation::SiluBounded`] multiplies, made of what the matrix gave.
pub fn bounded(x: f32) -> f32 {
    x.clamp(-BOUND, BOUND) + 1.0
}

/// `x = activation(x)` for all of `xs`.
#[inline(always)]
fn activated(isa: Isa, activation: Activation, xs: &mut [f32]) {
    // Loops, not a function that takes each: a closure is not compiled for the set, and calls a library to multiply.
    match activation {
        Activation::Silu => {
            for x in xs {
                *x = silu(isa, *x);
            }
        }
        Activation::GeluTanh => {
            for x in xs {
                *x = gelu_tanh(isa, *x);
            }
        }
        Activation::GeluErf => xs.iter_mut().for_each(|x| *x = gelu_erf(*x)),
        Activation::Relu => xs.iter_mut().for_each(|x| *x = x.max(0.0)),
        Activation::SiluBounded => {
            for x in xs {
                let bounded = if *x > BOUND { BOUND } else { *x };
                *x = bounded / (1.0 + exp(isa, -STEEP * bounded));
            }
        }
        Activation::Relu2 => xs.iter_mut().for_each(|x| *x = x.max(0.0) * x.max(0.0)),
    }
}

/// `x = e^(x - most)`; returns the sum of all, number `i` in lane `i % 16` as in [`super::dot`].
///
/// Taking off the largest first keeps every exponential at 1 or below.
#[inline(always)]
fn exponentials(isa: Isa, most: f32, xs: &mut [f32]) -> f32 {
    let mut sum = [0f32; LANES];
    let (packs, rest) = xs.as_chunks_mut::<LANES>();
    for pack in packs {
        for (sum, x) in sum.iter_mut().zip(pack) {
            *x = exp(isa, *x - most);
            *sum += *x;
        }
    }
    for (sum, x) in sum.iter_mut().zip(rest) {
        *x = exp(isa, *x - most);
        *sum += *x;
    }
    total(sum)
}

/// The sum of `e^(x - most)`, in float64, lane by lane.
///
/// For logits, of which there may be hundreds of thousands: in float32 small ones would be lost beside the sum.
#[inline(always)]
fn summed(isa: Isa, most: f32, xs: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    let (packs, rest) = xs.as_chunks::<LANES>();
    for pack in packs {
        for (sum, x) in sums.iter_mut().zip(pack) {
            *sum += f64::from(exp(isa, x - most));
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(exp(isa, x - most));
    }
    sums.iter().sum()
}

per_isa! {
    fn sum_less(most: f32, xs: &[f32]) -> f64 = summed[isa];
    /// `x = activation(x)` for all of `xs`.
    pub fn activate(activation: Activation, xs: &mut [f32]) = activated[isa];
    /// `x = e^(x - most)`; returns the sum of all.
    pub fn exp_less(most: f32, xs: &mut [f32]) -> f32 = exponentials[isa];
}

/// The largest of some logits and the sum of `e^(logit - largest)` over all.
pub fn sum_of_exp(logits: &[f32]) -> (f32, f64) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (most, sum_less(Isa::best(), most, logits))
}

/// Scores as shares of one.
///
/// `e^(s - most) / sum`, in place; a score of minus infinity becomes 0.
pub fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = exp_less(Isa::best(), most, scores);
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Scores as shares of one, of which `sink` takes its own and gives nothing.
///
/// gpt-oss: a learned score for each head, a position that nothing is taken from.
pub fn softmax_beside(scores: &mut [f32], sink: f32) {
    let most = scores.iter().copied().fold(sink, f32::max);
    let mut taken = [sink];
    let sum = exp_less(Isa::best(), most, scores) + exp_less(Isa::best(), most, &mut taken);
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// `1 / (1 + e^-x)` for all of `xs`.
pub fn sigmoid(xs: &mut [f32]) {
    xs.iter_mut().for_each(|x| *x = -*x);
    exp_less(Isa::best(), 0.0, xs);
    xs.iter_mut().for_each(|x| *x = 1.0 / (1.0 + *x));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(activation: Activation, x: f32) -> f32 {
        let mut xs = [x];
        activate(Isa::best(), activation, &mut xs);
        xs[0]
    }

    #[test]
    fn exponentials_are_exact_to_the_last_place() {
        let mut worst = 0f64;
        for bits in (0..=u32::MAX).step_by(9973) {
            let x = f32::from_bits(bits);
            let values: Vec<u32> =
                Isa::available().iter().map(|isa| exp(*isa, x).to_bits()).collect();
            assert!(values.windows(2).all(|pair| pair[0] == pair[1]) || x.is_nan(), "{x:e}");
            let (value, exact) = (exp(Isa::best(), x), f64::from(x).exp());
            if x.is_nan() {
                assert!(value.is_nan());
            } else if exact > f64::from(f32::MAX) {
                assert!(value >= f32::MAX, "{x:e}: {value:e}");
            } else {
                let place = f64::from(f32::from_bits((exact as f32).to_bits() | 1))
                    - f64::from(f32::from_bits((exact as f32).to_bits() & !1));
                worst = worst.max((f64::from(value) - exact).abs() / place.abs());
            }
        }
        assert!(worst <= 1.0, "{worst} units of the last place");
        assert_eq!((exp(Isa::best(), 0.0), exp(Isa::best(), f32::NEG_INFINITY)), (1.0, 0.0));
    }

    #[test]
    fn functions_have_the_values_of_tables() {
        assert!((of(Activation::GeluErf, 1.0) - 0.841_344_8).abs() < 1e-7);
        assert!((of(Activation::GeluTanh, 1.0) - 0.841_192).abs() < 1e-6);
        assert!((of(Activation::Silu, 1.0) - 0.731_058_6).abs() < 1e-6);
        assert_eq!((of(Activation::Relu, -2.0), of(Activation::Relu, 3.0)), (0.0, 3.0));
        assert_eq!((of(Activation::Relu2, -2.0), of(Activation::Relu2, 3.0)), (0.0, 9.0));
        for far in [-400.0, -40.0, 40.0, 400.0] {
            for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Silu] {
                assert!((of(activation, far) - f32::max(far, 0.0)).abs() < 1e-15);
            }
        }
    }

    const TABLE_OF_GGML: [(u16, u16); 16] = [
        (0x3c00, 0x3abb),
        (0xbc00, 0xb115),
        (0x4000, 0x3fd2),
        (0xc000, 0xa9d0),
        (0xc200, 0x9b73),
        (0xc400, 0x849a),
        (0xc4c0, 0x8013),
        (0x3555, 0x32b9),
        (0xb555, 0xafe1),
        (0x2e66, 0x2ae8),
        (0x0001, 0x0000),
        (0x8400, 0x8200),
        (0x48ff, 0x48ff),
        (0xc8ff, 0x8000),
        (0x41c3, 0x41c0),
        (0xc35a, 0x8cef),
    ];

    /// Entries of the table that ggml makes, by its formula with the C library's `tanhf`: half in, half out.
    #[test]
    fn gelu_of_halves_has_the_entries_of_ggml() {
        for (x, expected) in TABLE_OF_GGML {
            let mut xs = [f32_from_half(x)];
            gelu_of_halves(&mut xs);
            assert_eq!(half_from_f32(xs[0]), expected, "{x:#06x}");
        }
        // Beyond the table numbers stay as they are, not as halves.
        let mut xs = [-10.5, 10.123_456, f32::INFINITY, 0.000_1];
        gelu_of_halves(&mut xs);
        assert_eq!(xs[..3], [0.0, 10.123_456, f32::INFINITY]);
        assert_ne!(xs[3], of(Activation::GeluTanh, 0.000_1));
    }

    #[test]
    fn shares_add_up() {
        let mut scores: Vec<f32> = (0..37).map(|i| i as f32 / 3.0).collect();
        softmax(&mut scores);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((scores[36] / scores[33] - std::f32::consts::E).abs() < 1e-5);
    }
}
