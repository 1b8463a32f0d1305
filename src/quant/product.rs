//! The product of two narrow matrices, added to a wide one: what an adapter does to the rows of a model.
//!
//! ```text
//! w[o][i] = w[o][i] + scale * s      s = fma(b[o][r-1], a[r-1][i], … fma(b[o][1], a[1][i], b[o][0] * a[0][i]))
//! ```
//!
//! Each sum grows from the first rank to the last with one rounding a step, as matrix libraries do for so few
//! terms; it is multiplied and added in two steps of their own. So the numbers of threads and the instruction
//! set change no bit. They are the bits of torch's `w + (b @ a) * scale` on a CPU with MKL up to rank 384, from where
//! on MKL adds up the sums of equal parts of the ranks.
//!
//! ```text
//!            i: 0 … 31    32 … 63
//! a  rank 0   [tile 0]    [tile 1] …     a tile is [rank][2][16], laid out once for all rows
//!    rank 1   [      ]    [      ]
//! w  o: 0 …   [ sums of a band of rows, in registers while they grow ]
//! ```

#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

use crate::{
    per_isa,
    quant::isa::{Isa, Level},
};

/// Columns of a tile.
const WIDE: usize = 2 * LANES;
const LANES: usize = 16;
/// The most rows of a band.
const MOST_HIGH: usize = 12;

/// A row of a tile.
type Wide = [[f32; LANES]; 2];

/// Rows whose sums grow together: fewer take as long.
pub fn high(isa: Isa) -> usize {
    match isa.level() {
        Level::Avx512 => MOST_HIGH,
        _ => MOST_HIGH / 2,
    }
}

/// Matrix A in the order in which it is multiplied.
///
/// ```text
/// tiles[t * rank + k]    columns 32 t .. 32 t + 32 of rank k, as two lines of sixteen
/// ```
#[derive(Debug)]
pub struct Packed {
    rank: usize,
    cols: usize,
    /// One tile after the other, columns beyond the last zero.
    tiles: Vec<Wide>,
}

impl Packed {
    /// `a` is `[rank][cols]`.
    pub fn of(a: &[f32], cols: usize) -> Packed {
        let rank = a.len() / cols;
        let mut tiles = vec![[[0f32; LANES]; 2]; cols.div_ceil(WIDE) * rank];
        for (k, row) in a.chunks_exact(cols).enumerate() {
            for (t, part) in row.chunks(WIDE).enumerate() {
                tiles[t * rank + k].as_flattened_mut()[..part.len()].copy_from_slice(part);
            }
        }
        Packed { rank, cols, tiles }
    }
}

/// `w + scale * b a` in place of `w`: `[n][cols]`, with `b` `[n][rank]`.
#[inline(always)]
fn added(isa: Isa, w: &mut [f32], b: &[f32], a: &Packed, scale: f32) {
    // As many sums as the set has registers for.
    match isa.level() {
        Level::Avx512 => bands::<2, MOST_HIGH>(isa, w, b, a, scale),
        _ => bands::<1, { MOST_HIGH / 2 }>(isa, w, b, a, scale),
    }
}

/// The same by bands of `H` rows and `P` parts of tiles.
///
/// Full tiles are added in place; those at the right or lower edge go through a copy, so that the kernel has but one
/// shape.
#[inline(always)]
fn bands<const P: usize, const H: usize>(
    isa: Isa,
    w: &mut [f32],
    b: &[f32],
    a: &Packed,
    scale: f32,
) {
    let Packed { rank, cols, tiles } = a;
    let mut band = vec![[0f32; H]; *rank];
    let mut edge = vec![0f32; H * WIDE];
    for (w, b) in w.chunks_mut(H * cols).zip(b.chunks(H * rank)) {
        for (r, row) in b.chunks_exact(*rank).enumerate() {
            for (band, b) in band.iter_mut().zip(row) {
                band[r] = *b;
            }
        }
        let rows = w.len() / cols;
        for (t, tile) in tiles.chunks_exact(*rank).enumerate() {
            let (first, width) = (t * WIDE, WIDE.min(cols - t * WIDE));
            if rows == H && width == WIDE {
                for part in (0..2).step_by(P) {
                    add_tile::<P, H>(isa, w, (*cols, first), &band, tile, part, scale);
                }
                continue;
            }
            for r in 0..rows {
                edge[r * WIDE..][..width].copy_from_slice(&w[r * cols + first..][..width]);
            }
            for part in (0..2).step_by(P) {
                add_tile::<P, H>(isa, &mut edge, (WIDE, 0), &band, tile, part, scale);
            }
            for r in 0..rows {
                w[r * cols + first..][..width].copy_from_slice(&edge[r * WIDE..][..width]);
            }
        }
    }
}

/// `P` parts of a tile, from `part` on, for a whole band of rows of `cols` numbers, in which it begins at `first`.
#[inline(always)]
fn add_tile<const P: usize, const H: usize>(
    isa: Isa,
    w: &mut [f32],
    (cols, first): (usize, usize),
    band: &[[f32; H]],
    tile: &[Wide],
    part: usize,
    scale: f32,
) {
    let mut sums = [[[0f32; LANES]; P]; H];
    for (b, a) in band.iter().zip(tile) {
        let a = &a[part..part + P];
        for r in 0..H {
            for p in 0..P {
                isa.add_product(&mut sums[r][p], &[b[r]; LANES], &a[p]);
            }
        }
    }
    for r in 0..H {
        let w = &mut w[r * cols + first + LANES * part..][..LANES * P];
        let w = w.as_chunks_mut::<LANES>().0;
        for p in 0..P {
            for l in 0..LANES {
                w[p][l] += sums[r][p][l] * scale;
            }
        }
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
        for (rows, rank, cols) in [(1, 1, 1), (3, 4, 37), (13, 8, 64), (25, 3, 95)] {
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
