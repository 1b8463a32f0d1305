//! Rows times vectors: the arithmetic under every matrix of the model.
//!
//! One order of addition for everything. Element `i` of a row goes to lane `i % 16`, each lane adds
//! its products from left to right, and at the end the lanes are added in halves:
//!
//! ```text
//! lane[l] = w[l]*x[l] + w[l+16]*x[l+16] + w[l+32]*x[l+32] + …        (left to right)
//! dot     = ((lane[0]+lane[8]) + (lane[4]+lane[12])) + …             (16 -> 8 -> 4 -> 2 -> 1)
//! ```
//!
//! Since the order is that of elements, not of blocks, a file and its lossless upgrade give the same
//! bits; since a row and a vector meet in one thread, so does any number of threads; and since every
//! pair of row and vector has its own lanes, so does any batch.

#![allow(clippy::needless_range_loop, reason = "see tile")]

use crate::{per_isa, quant::isa::Isa};

/// A vector in packs of lanes.
type Packs<'a> = &'a [[f32; LANES]];

/// Lanes of one sum.
pub const LANES: usize = 16;

/// The sum of the products of two vectors of one length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let [[sum]] = tile([a], [b]);
    sum
}

/// The products of `R` rows with `T` vectors, all of one length.
///
/// `R * T` sums grow side by side, so that the processor never waits for one addition to end and each
/// number that it loads serves `R` or `T` of them. Loops over indices, because the compiler keeps what
/// they fill in registers, which it does not for closures over arrays (sixty times slower).
#[inline(always)]
pub fn tile<const R: usize, const T: usize>(rows: [&[f32]; R], xs: [&[f32]; T]) -> [[f32; R]; T] {
    let n = xs[0].len();
    let whole = n / LANES;
    let (mut w, mut x): ([Packs; R], [Packs; T]) = ([&[]; R], [&[]; T]);
    for r in 0..R {
        w[r] = &rows[r].as_chunks::<LANES>().0[..whole];
    }
    for t in 0..T {
        x[t] = &xs[t].as_chunks::<LANES>().0[..whole];
    }
    let mut sums = [[[0f32; LANES]; R]; T];
    for c in 0..whole {
        for t in 0..T {
            for r in 0..R {
                sums[t][r] = add(sums[t][r], &w[r][c], &x[t][c]);
            }
        }
    }
    let mut out = [[0f32; R]; T];
    for t in 0..T {
        for r in 0..R {
            for (l, i) in (whole * LANES..n).enumerate() {
                sums[t][r][l] += rows[r][i] * xs[t][i];
            }
            out[t][r] = total(sums[t][r]);
        }
    }
    out
}

/// `sum + w * x` in every lane.
#[inline(always)]
pub fn add(mut sum: [f32; LANES], w: &[f32; LANES], x: &[f32; LANES]) -> [f32; LANES] {
    for l in 0..LANES {
        sum[l] += w[l] * x[l];
    }
    sum
}

/// The lanes of a sum as one number.
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

per_isa! {
    /// Products of every row of `rows` with every vector of `xs`; both hold vectors of `n` numbers.
    /// `out` holds the products of the first row, then those of the second, ….
    fn small(rows: &[f32], xs: &[f32], n: usize, out: &mut [f32]) = products::<2, 2>;
    /// The same for processors with 32 vector registers.
    fn large(rows: &[f32], xs: &[f32], n: usize, out: &mut [f32]) = products::<4, 2>;
    /// The sum of the products of two vectors.
    pub fn dot_of(a: &[f32], b: &[f32]) -> f32 = dot;
}

/// Products of every row of `rows` with every vector of `xs`; both hold vectors of `n` numbers.
/// `out` holds the products of the first row, then those of the second, ….
pub fn multiply(isa: Isa, rows: &[f32], xs: &[f32], n: usize, out: &mut [f32]) {
    match isa.name() {
        "avx512" => large(isa, rows, xs, n, out),
        _ => small(isa, rows, xs, n, out),
    }
}

#[inline(always)]
fn products<const R: usize, const T: usize>(rows: &[f32], xs: &[f32], n: usize, out: &mut [f32]) {
    let (height, count) = (rows.len() / n, xs.len() / n);
    let row = |r: usize| &rows[r * n..(r + 1) * n];
    let x = |t: usize| &xs[t * n..(t + 1) * n];
    // Vectors outermost: a few of them stay in the first cache while all rows pass by.
    for t in (0..count).step_by(T) {
        for r in (0..height).step_by(R) {
            if t + T <= count && r + R <= height {
                let (mut some, mut those): ([&[f32]; R], [&[f32]; T]) = ([&[]; R], [&[]; T]);
                for i in 0..R {
                    some[i] = row(r + i);
                }
                for i in 0..T {
                    those[i] = x(t + i);
                }
                let sums = tile::<R, T>(some, those);
                for (i, sums) in sums.iter().enumerate() {
                    for (j, sum) in sums.iter().enumerate() {
                        out[(r + j) * count + t + i] = *sum;
                    }
                }
            } else {
                for t in t..count.min(t + T) {
                    for r in r..height.min(r + R) {
                        out[r * count + t] = dot(row(r), x(t));
                    }
                }
            }
        }
    }
}
