//! The product of two narrow matrices, added to a wide one: what an adapter does to the rows of a model.
//!
//! ```text
//! w[o][i] = w[o][i] + scale * s      s = fma(b[o][r-1], a[r-1][i], … fma(b[o][1], a[1][i], b[o][0] * a[0][i]))
//! ```
//!
//! Each sum grows from the first rank to the last with one rounding a step, as matrix libraries do for so few
//! terms; it is multiplied and added in two steps of their own. So the numbers of threads and the instruction
//! set change no bit.

#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

use crate::{per_isa, quant::isa::Isa};

/// Columns and rows whose sums grow together: as many as registers hold.
const WIDE: usize = 16;
const HIGH: usize = 6;

/// `w + scale * b a` in place of `w`: `[n][cols]`, with `b` `[n][rank]` and `a` `[rank][cols]`.
#[inline(always)]
fn added(isa: Isa, w: &mut [f32], b: &[f32], a: &[f32], cols: usize, scale: f32) {
    let rank = a.len() / cols;
    // Both are laid out in the order in which they are read: [band of rows][rank][HIGH] and [rank][WIDE].
    let mut bands = vec![[0f32; HIGH]; b.len().div_ceil(HIGH * rank) * rank];
    for (i, row) in b.chunks_exact(rank).enumerate() {
        for (k, b) in row.iter().enumerate() {
            bands[i / HIGH * rank + k][i % HIGH] = *b;
        }
    }
    let mut tile = vec![[0f32; WIDE]; rank];
    for first in (0..cols).step_by(WIDE) {
        let width = WIDE.min(cols - first);
        for (tile, a) in tile.iter_mut().zip(a.chunks_exact(cols)) {
            tile[..width].copy_from_slice(&a[first..first + width]);
        }
        for (w, band) in w.chunks_mut(HIGH * cols).zip(bands.chunks_exact(rank)) {
            let sums = sums_of(isa, band, &tile);
            for (w, sums) in w.chunks_exact_mut(cols).zip(&sums) {
                for (w, sum) in w[first..first + width].iter_mut().zip(sums) {
                    *w += sum * scale;
                }
            }
        }
    }
}

#[inline(always)]
fn sums_of(isa: Isa, band: &[[f32; HIGH]], tile: &[[f32; WIDE]]) -> [[f32; WIDE]; HIGH] {
    let mut sums = [[0f32; WIDE]; HIGH];
    for (b, a) in band.iter().zip(tile) {
        for r in 0..HIGH {
            for l in 0..WIDE {
                sums[r][l] = isa.mul_add(b[r], a[l], sums[r][l]);
            }
        }
    }
    sums
}

per_isa! {
    /// Adds `scale * b a` to `w`: `[n][rank]` and `[rank][cols]` to `[n][cols]`.
    pub fn add_product(w: &mut [f32], b: &[f32], a: &[f32], cols: usize, scale: f32) = added[isa];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_adds_the_same_bits() {
        for (rows, rank, cols) in [(1, 1, 1), (3, 4, 37), (13, 8, 64)] {
            let number = |i: usize| ((i * 7919) % 1013) as f32 / 97.0 - 5.0;
            let fill = |n: usize, from: usize| (from..from + n).map(number).collect::<Vec<_>>();
            let (w, b, a) = (fill(rows * cols, 0), fill(rows * rank, 7), fill(rank * cols, 11));
            let mut wanted = w.clone();
            for (i, w) in wanted.iter_mut().enumerate() {
                let (o, i) = (i / cols, i % cols);
                let terms = (0..rank).map(|k| (b[o * rank + k], a[k * cols + i]));
                *w += terms.fold(0f32, |sum, (b, a)| b.mul_add(a, sum)) * 0.3;
            }
            for isa in Isa::available() {
                let mut made = w.clone();
                add_product(isa, &mut made, &b, &a, cols, 0.3);
                assert_eq!(made, wanted, "{rows} rows, rank {rank}, on {}", isa.name());
            }
        }
    }
}
