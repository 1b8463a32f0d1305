//! Rows times vectors: the arithmetic under every matrix of the model.
//!
//! One order of addition for everything but K-quants times one vector ([`super::whole`]). Element `i` of a
//! row goes to lane `i % 16`, each lane adds its products from left to right by fused multiply-add, and at
//! the end the lanes are added in halves:
//!
//! ```text
//! lane[l] = fma(w[l+32], x[l+32], fma(w[l+16], x[l+16], w[l]*x[l]))  (and on, left to right)
//! dot     = ((lane[0]+lane[8]) + (lane[4]+lane[12])) + …             (16 -> 8 -> 4 -> 2 -> 1)
//! ```
//!
//! Since the order is that of elements, not of blocks, a file and its lossless upgrade give the same
//! bits; since a row and a vector meet in one thread, so does any number of threads; and since every
//! pair of row and vector has its own lanes, so does any batch of several.

use crate::{per_isa, quant::isa::Isa};

/// Lanes of one sum.
pub const LANES: usize = 16;

/// The sum of the products of two vectors of one length.
///
/// A rest of fewer than sixteen numbers goes to the first lanes: as if zeros followed, but for the sign of a zero.
#[inline(always)]
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sum = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        sum = add(isa, sum, a, b);
    }
    for ((sum, a), b) in sum.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = isa.mul_add(*a, *b, *sum);
    }
    total(sum)
}

/// `sum + w * x` in every lane, rounded once.
#[inline(always)]
pub fn add<const L: usize>(isa: Isa, sum: [f32; L], w: &[f32; L], x: &[f32; L]) -> [f32; L] {
    let mut out = sum;
    for l in 0..L {
        out[l] = isa.mul_add(w[l], x[l], sum[l]);
    }
    out
}

/// The lanes of a sum as one number.
///
/// ```text
/// 0 1 2 3 4 5 6 7 8 9 a b c d e f     lanes
/// 0+8 1+9 2+a ..  7+f                 eight sums
/// (0+8)+(4+c) ..                      four, then two, then one
/// ```
#[inline(always)]
pub fn total(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `x *= factor`.
pub(crate) fn scaled(xs: &mut [f32], factor: f32) {
    if factor != 1.0 {
        xs.iter_mut().for_each(|x| *x *= factor);
    }
}

per_isa! {
    /// The sum of the products of two vectors of one length.
    pub fn dot_of(a: &[f32], b: &[f32]) -> f32 = dot[isa];
}
