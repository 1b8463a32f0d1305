//! Sixteen blocks of a stream of rows at once: their numbers, their importance, and how both turn into lanes and back
//! into bytes.
//!
//! ```text
//! rows            blocks                       lanes (transposed)
//! x0 x1 x2 ..     block 0   x0   x1   ..       xs[0]   x0 of block 0 | of block 1 | .. | of block 15
//!                 block 1   x32  x33  ..       xs[1]   x1 of block 0 | of block 1 | ..
//!                 ..                           ..
//! ```
//!
//! What a search does to one block is a loop over its numbers with sums that must grow in that order; with blocks as
//! lanes sixteen such loops run side by side, each in its own order, so the sums keep their bits.
//!
//! Quanta made with a step are `x * step`, quanta made anew with a stored scale are `x / scale`: the two round
//! differently, and the original does the one in its search and the other afterwards.

use super::lanes::{LANES, Lanes, nearest_int};
use crate::quant::half::half_from_f32;

/// Up to sixteen blocks of `SIZE` numbers; those that are missing at the end of the rows are zero.
pub struct Group<const SIZE: usize> {
    /// How many blocks are there.
    pub count: usize,
    /// The numbers.
    pub x: [[f32; SIZE]; LANES],
    /// The importance of each number; zero without an importance matrix.
    pub importance: [[f32; SIZE]; LANES],
}

impl<const SIZE: usize> Group<SIZE> {
    /// A group of nothing.
    #[inline(always)]
    pub fn new() -> Self {
        Group { count: 0, x: [[0.0; SIZE]; LANES], importance: [[0.0; SIZE]; LANES] }
    }

    /// Takes the blocks from number `first` on. Blocks never cross rows, so the block's number gives
    /// its columns.
    ///
    /// `first` is the number of the first of `blocks` in the whole stream; `weights` are the blocks of one row's
    /// columns, or none.
    #[inline(always)]
    pub fn take(&mut self, first: usize, blocks: &[[f32; SIZE]], weights: &[[f32; SIZE]]) {
        self.count = blocks.len();
        self.x[..blocks.len()].copy_from_slice(blocks);
        self.x[blocks.len()..].fill([0.0; SIZE]);
        if !weights.is_empty() {
            for (i, importance) in self.importance[..blocks.len()].iter_mut().enumerate() {
                *importance = weights[(first + i) % weights.len()];
            }
        }
    }
}

/// Number `j` of every block becomes lane array `j`.
///
/// From `[block][number]` to `[number][lane]`, the lane a block.
#[inline(always)]
pub fn transposed<const N: usize>(blocks: &[[f32; N]; LANES]) -> [Lanes; N] {
    let mut out = [Lanes::ZERO; N];
    for (lane, block) in blocks.iter().enumerate() {
        for (out, x) in out.iter_mut().zip(block) {
            out.0[lane] = *x;
        }
    }
    // Keeps the compiler from taking what is done to the lanes apart again, number by number.
    std::hint::black_box(&mut out);
    out
}

/// The sum of squares of each block, each in the order of its numbers.
#[inline(always)]
pub fn energies<const SIZE: usize>(blocks: &[[f32; SIZE]; LANES]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for j in 0..SIZE {
        for (sum, block) in sums.iter_mut().zip(blocks) {
            *sum += block[j] * block[j];
        }
    }
    sums
}

/// The sum of squares of each row, each in the order of its numbers, eight rows at a time.
///
/// `rows` is a whole number of rows of `row_len`; there is a sum for each.
#[inline(always)]
pub fn row_energies(rows: &[f32], row_len: usize) -> Vec<f32> {
    let mut sums = vec![0.0; rows.len() / row_len];
    for (sums, rows) in sums.chunks_mut(8).zip(rows.chunks(8 * row_len)) {
        // The last row stands in for those that are missing.
        let last = rows.len() / row_len - 1;
        let rows: [&[f32]; 8] = std::array::from_fn(|i| &rows[i.min(last) * row_len..][..row_len]);
        let mut eight = [0.0; 8];
        for j in 0..row_len {
            for (sum, row) in eight.iter_mut().zip(&rows) {
                *sum += row[j] * row[j];
            }
        }
        sums.copy_from_slice(&eight[..sums.len()]);
    }
    sums
}

/// The quanta `nearest((x - origin) * step)` within `0 ..= top`.
#[inline(always)]
pub fn affine_quanta(x: &[f32], step: f32, origin: f32, top: i32, out: &mut [u8]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = nearest_int(step * (x - origin)).clamp(0, top) as u8;
    }
}

/// The quanta `nearest((x + min) / scale)` within `0 ..= top`.
#[inline(always)]
pub fn affine_requanta(x: &[f32], scale: f32, min: f32, top: i32, out: &mut [u8]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = nearest_int((x + min) / scale).clamp(0, top) as u8;
    }
}

/// The quanta `nearest(x * step)` within `-n ..= n - 1`, stored `n` higher; 0 in a block of nothing.
#[inline(always)]
pub fn centred_quanta(x: &[f32], step: f32, n: i32, out: &mut [u8]) {
    if step == 0.0 {
        out.fill(0);
        return;
    }
    for (out, x) in out.iter_mut().zip(x) {
        *out = (nearest_int(step * x).clamp(-n, n - 1) + n) as u8;
    }
}

/// The quanta `nearest(x / scale)` within `-n ..= n - 1`, stored `n` higher.
#[inline(always)]
pub fn centred_requanta(x: &[f32], scale: f32, n: i32, out: &mut [u8]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = (nearest_int(x / scale).clamp(-n, n - 1) + n) as u8;
    }
}

/// A scale as a block stores it. Every NaN becomes the one that x86 arithmetic makes, so that numbers
/// that are none give the same bytes everywhere.
#[inline(always)]
pub fn half_scale(x: f32) -> [u8; 2] {
    (if x.is_nan() { 0xfe00 } else { half_from_f32(x) }).to_le_bytes()
}

/// [`half_scale`] of every lane.
#[inline(always)]
pub fn half_scales(xs: Lanes) -> [[u8; 2]; LANES] {
    let mut out = [[0; 2]; LANES];
    for (out, x) in out.iter_mut().zip(&xs.0) {
        *out = half_scale(*x);
    }
    out
}
