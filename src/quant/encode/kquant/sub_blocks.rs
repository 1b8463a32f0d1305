//! Sub-blocks of sixteen super-blocks at once: where they are, and what their numbers weigh.

use crate::quant::{
    encode::{
        group::{Group, energies, half_scale, transposed},
        lanes::{LANES, Lanes},
        superblock::SUPER,
    },
    half::f32_from_half,
};

/// Calls `encode` with each sixteen super-blocks and their bytes.
#[inline(always)]
pub fn groups<const BYTES: usize>(
    rows: &[f32],
    weights: &[f32],
    out: &mut [u8],
    encode: impl Fn(&Group<SUPER>, &mut [[u8; BYTES]]),
) {
    let weights = weights.as_chunks::<SUPER>().0;
    let blocks = rows.as_chunks::<SUPER>().0.chunks(LANES);
    let mut group = Group::<SUPER>::new();
    for (i, (blocks, out)) in
        blocks.zip(out.as_chunks_mut::<BYTES>().0.chunks_mut(LANES)).enumerate()
    {
        group.take(i * LANES, blocks, weights);
        encode(&group, out);
    }
}

/// The half nearest to `x`, as stored and as it restores.
#[inline(always)]
pub fn stored_half(x: f32) -> ([u8; 2], f32) {
    let bytes = half_scale(x);
    (bytes, f32_from_half(u16::from_le_bytes(bytes)))
}

/// The weights of the sub-blocks of one step: `importance * sqrt(energy + x²)`; and their sums.
#[inline(always)]
pub fn importance_weights<const SIZE: usize>(
    xs: &[Lanes; SIZE],
    importance: &[Lanes; SIZE],
    energy: Lanes,
) -> ([Lanes; SIZE], Lanes) {
    let mut ws = [Lanes::ZERO; SIZE];
    let mut sum = Lanes::ZERO;
    for j in 0..SIZE {
        ws[j] = importance[j] * (energy + xs[j] * xs[j]).sqrt();
        sum = sum + ws[j];
    }
    (ws, sum)
}

/// The sixteen sub-blocks from number `first` on, of blocks that follow one another: lane `i` is sub-block
/// `first + i`, so one step searches sixteen of them at once, each in the order of its own numbers.
#[inline(always)]
pub fn subs<const SIZE: usize>(blocks: &[[f32; SUPER]; LANES], first: usize) -> [Lanes; SIZE] {
    let all = blocks.as_flattened().as_chunks::<SIZE>().0;
    match all[first..].first_chunk::<LANES>() {
        Some(sixteen) => transposed(sixteen),
        None => [Lanes::ZERO; SIZE],
    }
}

/// `factor * (sum of squares) / 256` of each super-block.
#[inline(always)]
pub fn mean_squares(group: &Group<SUPER>, factor: f32) -> [f32; LANES] {
    energies(&group.x).map(|sum| factor * sum / SUPER as f32)
}
