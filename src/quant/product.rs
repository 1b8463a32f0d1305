//! The product of two narrow matrices, added to a wide one: what an adapter does to the rows of a model.
//!
//! ```text
//! w[o][i] = w[o][i] + scale * s      s = fma(b[o][r-1], a[r-1][i], … fma(b[o][1], a[1][i], b[o][0] * a[0][i]))
//! ```
//!
//! Each sum grows from the first rank to the last with one rounding a step, as matrix libraries do for so few
//! terms; it is multiplied and added in two steps of their own. So the numbers of threads and the instruction
//! set change no bit.
//!
//! ```text
//!            i: 0 … 31    32 … 63
//! a  rank 0   [tile 0]    [tile 1] …     a tile is [rank][WIDE], laid out once for all rows
//!    rank 1   [      ]    [      ]
//! w  o: 0…5  [ sums of a band of HIGH rows, in registers while they grow ]
//! ```

#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

use crate::{
    per_isa,
    quant::isa::{Isa, Level},
};

/// Columns of a tile.
const WIDE: usize = 32;
/// Columns whose sums grow together where registers hold sixteen numbers and where they hold eight.
const HALF: usize = WIDE / 2;
/// Rows whose sums grow together: fewer take as long.
pub const HIGH: usize = 6;

/// Matrix A in the order in which it is multiplied.
#[derive(Debug)]
pub struct Packed {
    rank: usize,
    cols: usize,
    /// One tile after the other, columns beyond the last zero.
    tiles: Vec<[f32; WIDE]>,
}

impl Packed {
    /// `a` is `[rank][cols]`.
    pub fn of(a: &[f32], cols: usize) -> Packed {
        let rank = a.len() / cols;
        let mut tiles = vec![[0f32; WIDE]; cols.div_ceil(WIDE) * rank];
        for (k, row) in a.chunks_exact(cols).enumerate() {
            for (t, part) in row.chunks(WIDE).enumerate() {
                tiles[t * rank + k][..part.len()].copy_from_slice(part);
            }
        }
        Packed { rank, cols, tiles }
    }
}

/// `w + scale * b a` in place of `w`: `[n][cols]`, with `b` `[n][rank]`.
#[inline(always)]
fn added(isa: Isa, w: &mut [f32], b: &[f32], a: &Packed, scale: f32) {
    let Packed { rank, cols, tiles } = a;
    let mut band = vec![[0f32; HIGH]; *rank];
    for (w, b) in w.chunks_mut(HIGH * cols).zip(b.chunks(HIGH * rank)) {
        for (r, row) in b.chunks_exact(*rank).enumerate() {
            for (band, b) in band.iter_mut().zip(row) {
                band[r] = *b;
            }
        }
        for (t, tile) in tiles.chunks_exact(*rank).enumerate() {
            let mut sums = [[0f32; WIDE]; HIGH];
            match isa.level() {
                Level::Avx512 => grow::<WIDE>(isa, &mut sums, &band, tile, 0),
                _ => {
                    grow::<HALF>(isa, &mut sums, &band, tile, 0);
                    grow::<HALF>(isa, &mut sums, &band, tile, HALF);
                }
            }
            let first = t * WIDE;
            for (row, sums) in w.chunks_exact_mut(*cols).zip(&sums) {
                // Loops, for a closure would not be compiled for the set.
                let width = WIDE.min(row.len() - first);
                let row = &mut row[first..first + width];
                if let Some(row) = row.first_chunk_mut::<WIDE>() {
                    for l in 0..WIDE {
                        row[l] += sums[l] * scale;
                    }
                    continue;
                }
                for l in 0..width {
                    row[l] += sums[l] * scale;
                }
            }
        }
    }
}

/// Columns `from .. from + L` of the sums of a band and a tile.
#[inline(always)]
fn grow<const L: usize>(
    isa: Isa,
    out: &mut [[f32; WIDE]; HIGH],
    band: &[[f32; HIGH]],
    tile: &[[f32; WIDE]],
    from: usize,
) {
    let mut sums = [[0f32; L]; HIGH];
    for (b, a) in band.iter().zip(tile) {
        for r in 0..HIGH {
            for l in 0..L {
                sums[r][l] = isa.mul_add(b[r], a[from + l], sums[r][l]);
            }
        }
    }
    for r in 0..HIGH {
        out[r][from..from + L].copy_from_slice(&sums[r]);
    }
}

per_isa! {
    /// Adds `scale * b a` to `w`: `[n][rank]` and `[rank][cols]` to `[n][cols]`.
    pub fn add_product(w: &mut [f32], b: &[f32], a: &Packed, scale: f32) = added[isa];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_adds_the_same_bits() {
        for (rows, rank, cols) in [(1, 1, 1), (3, 4, 37), (13, 8, 64), (7, 3, 95)] {
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
                add_product(isa, &mut made, &b, &Packed::of(&a, cols), 0.3);
                assert_eq!(made, wanted, "{rows} rows, rank {rank}, on {}", isa.name());
            }
        }
    }
}
