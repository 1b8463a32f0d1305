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

use crate::{per_isa, quant::isa::Isa};

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
/// number that it loads serves `R` or `T` of them.
#[inline(always)]
pub fn tile<const R: usize, const T: usize>(rows: [&[f32]; R], xs: [&[f32]; T]) -> [[f32; R]; T] {
    let n = xs[0].len();
    let (rows, xs) = (rows.map(|row| &row[..n]), xs.map(|x| &x[..n]));
    let mut sums = [[[0f32; LANES]; R]; T];
    let row_chunks = rows.map(|row| row.as_chunks::<LANES>());
    let x_chunks = xs.map(|x| x.as_chunks::<LANES>());
    for c in 0..n / LANES {
        let w = row_chunks.map(|(chunks, _)| chunks[c]);
        for (sums, (chunks, _)) in sums.iter_mut().zip(&x_chunks) {
            let x = &chunks[c];
            for (sum, w) in sums.iter_mut().zip(&w) {
                for ((sum, w), x) in sum.iter_mut().zip(w).zip(x) {
                    *sum += w * x;
                }
            }
        }
    }
    for (sums, (_, x)) in sums.iter_mut().zip(&x_chunks) {
        for (sum, (_, w)) in sums.iter_mut().zip(&row_chunks) {
            for ((sum, w), x) in sum.iter_mut().zip(*w).zip(*x) {
                *sum += w * x;
            }
        }
    }
    sums.map(|sums| sums.map(total))
}

/// The lanes of a sum as one number.
#[inline(always)]
pub fn total(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
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
    fn large(rows: &[f32], xs: &[f32], n: usize, out: &mut [f32]) = products::<4, 4>;
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
                let sums = tile::<R, T>(
                    std::array::from_fn(|i| row(r + i)),
                    std::array::from_fn(|i| x(t + i)),
                );
                for (i, sums) in sums.iter().enumerate() {
                    for (j, sum) in sums.iter().enumerate() {
                        out[(r + j) * count + t + i] = *sum;
                    }
                }
            } else if t + T > count && r + R <= height {
                for t in t..count {
                    let [sums] = tile::<R, 1>(std::array::from_fn(|i| row(r + i)), [x(t)]);
                    for (j, sum) in sums.iter().enumerate() {
                        out[(r + j) * count + t] = *sum;
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
