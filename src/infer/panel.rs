//! Many rows times many vectors: how a prompt is read.
//!
//! `R` rows meet `T` vectors at a time: `R * T` sums grow in registers, and each number that is loaded
//! serves `R` or `T` of them. For that both are laid out in the order in which they are read, and the
//! columns are taken `STEPS` packs at a time, so that what is read again is still in the nearest cache:
//!
//! ```text
//! [group of R or T][lanes / L][pack of lanes][R or T][L]
//! ```
//!
//! where `L` lanes fill a register. The order of addition is that of [`super::dot`].

#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

use super::dot::{LANES, add, total};
use crate::{per_isa, quant::isa::Isa};

/// Packs of lanes taken at a time.
const STEPS: usize = 32;

/// Rows to hand to [`multiply`] together: enough to use each vector often.
pub const ROWS: usize = 24;

/// Lays out vectors of `n` numbers.
pub fn lay_out(isa: Isa, xs: &[f32], n: usize) -> Vec<f32> {
    match isa.name() {
        "avx512" => laid_out::<16, 4>(xs, n),
        "avx2" => laid_out::<8, 3>(xs, n),
        _ => laid_out::<4, 3>(xs, n),
    }
}

/// Products of every row of `rows`, `n` numbers each, with each of the `count` vectors that were laid
/// out as `xs`: those of the first row, then those of the second, ….
pub fn multiply(isa: Isa, rows: &[f32], xs: &[f32], n: usize, count: usize, out: &mut [f32]) {
    match isa.name() {
        "avx512" => wide(isa, rows, xs, n, count, out),
        "avx2" => middle(isa, rows, xs, n, count, out),
        _ => narrow(isa, rows, xs, n, count, out),
    }
}

// As many sums as registers hold, in numbers that the compiler was seen to keep there: other shapes run
// up to sixty times slower (`cargo bench --bench dot`).
per_isa! {
    fn wide(rows: &[f32], xs: &[f32], n: usize, count: usize, out: &mut [f32])
        = products::<16, 6, 4>[isa];
    fn middle(rows: &[f32], xs: &[f32], n: usize, count: usize, out: &mut [f32])
        = products::<8, 3, 3>[isa];
    fn narrow(rows: &[f32], xs: &[f32], n: usize, count: usize, out: &mut [f32])
        = products::<4, 3, 3>[isa];
}

/// Vectors of `n` numbers in groups of `N`, the last filled up with zeros.
#[inline(always)]
fn laid_out<const L: usize, const N: usize>(xs: &[f32], n: usize) -> Vec<f32> {
    let steps = n.div_ceil(LANES);
    let count = xs.len() / n;
    let mut out = vec![0.0; count.div_ceil(N) * N * steps * LANES];
    for (i, x) in xs.chunks_exact(n).enumerate() {
        let group = &mut out[i / N * N * steps * LANES..][..N * steps * LANES];
        for (step, pack) in x.chunks(LANES).enumerate() {
            for (part, lanes) in pack.chunks(L).enumerate() {
                let at = ((part * steps + step) * N + i % N) * L;
                group[at..at + lanes.len()].copy_from_slice(lanes);
            }
        }
    }
    out
}

#[inline(always)]
fn products<const L: usize, const R: usize, const T: usize>(
    isa: Isa,
    rows: &[f32],
    xs: &[f32],
    n: usize,
    count: usize,
    out: &mut [f32],
) {
    let (steps, height) = (n.div_ceil(LANES), rows.len() / n);
    let rows = laid_out::<L, R>(rows, n);
    let parts = LANES / L;
    let mut sums = vec![[[[0f32; L]; R]; T]; count.div_ceil(T) * height.div_ceil(R) * parts];
    for first in (0..steps).step_by(STEPS) {
        let some = first..steps.min(first + STEPS);
        let mut sums = sums.iter_mut();
        for x in xs.chunks_exact(T * steps * L * parts) {
            for w in rows.chunks_exact(R * steps * L * parts) {
                let parts = w.chunks_exact(R * steps * L).zip(x.chunks_exact(T * steps * L));
                for ((w, x), sums) in parts.zip(&mut sums) {
                    let w = &w[some.start * R * L..some.end * R * L];
                    let x = &x[some.start * T * L..some.end * T * L];
                    add_products(isa, w, x, sums);
                }
            }
        }
    }
    let mut sums = sums.chunks_exact(parts);
    for t in (0..count).step_by(T) {
        for r in (0..height).step_by(R) {
            let Some(sums) = sums.next() else { return };
            for i in 0..T.min(count - t) {
                for j in 0..R.min(height - r) {
                    let mut lanes = [0f32; LANES];
                    for (lanes, sums) in lanes.chunks_exact_mut(L).zip(sums) {
                        lanes.copy_from_slice(&sums[i][j]);
                    }
                    out[(r + j) * count + t + i] = total(lanes);
                }
            }
        }
    }
}

/// Adds the products of `R` rows with `T` vectors to `sums`, lane by lane.
#[inline(always)]
fn add_products<const L: usize, const R: usize, const T: usize>(
    isa: Isa,
    w: &[f32],
    x: &[f32],
    sums: &mut [[[f32; L]; R]; T],
) {
    let mut all = *sums;
    let w = w.as_chunks::<L>().0.as_chunks::<R>().0;
    let x = x.as_chunks::<L>().0.as_chunks::<T>().0;
    for (w, x) in w.iter().zip(x) {
        for t in 0..T {
            for r in 0..R {
                all[t][r] = add(isa, all[t][r], &w[r], &x[t]);
            }
        }
    }
    *sums = all;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::dot::dot;

    #[test]
    fn many_and_one_give_the_same_bits() {
        for (n, height, count) in [(16, 1, 1), (37, 7, 5), (1104, ROWS, 9), (520, 25, 4)] {
            let number = |i: usize| ((i * 7919) % 1013) as f32 / 97.0 - 5.0;
            let rows: Vec<f32> = (0..height * n).map(number).collect();
            let xs: Vec<f32> = (0..count * n).map(|i| number(i + 3)).collect();
            let pairs = rows
                .chunks(n)
                .flat_map(|row| xs.chunks(n).map(move |x| dot(Isa::PORTABLE, row, x)));
            let expected: Vec<u32> = pairs.map(f32::to_bits).collect();
            for isa in Isa::available() {
                let mut out = vec![0.0; height * count];
                multiply(isa, &rows, &lay_out(isa, &xs, n), n, count, &mut out);
                let bits: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
                assert_eq!(bits, expected, "{height} rows of {n}, {count} on {}", isa.name());
            }
        }
    }
}
