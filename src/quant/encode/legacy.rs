//! The types of 32 numbers a block: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Without importance each block is a division by its range (ggml `quantize_row_q4_0_ref` and its
//! kin): memory speed, so the lanes are the numbers of one block. With importance each block is a
//! search (ggml `quantize_row_q4_0_impl` and its kin), and the lanes are blocks.
//!
//! The five-bit types keep bit 4 of number `j` in bit `j` of a little-endian `u32`, and the low four
//! bits as the four-bit types do: byte `j` is number `j` and, above it, number `j + 16`.

use super::group::{
    Group, affine_quanta, centred_quanta, half_scale, half_scales, row_energies, transposed,
};
use super::lanes::{LANES, Lanes};
use super::search::{Affine, Walk, affine, centred};
use crate::per_isa;
use crate::quant::isa::Isa;

/// The numbers of a block.
const BLOCK: usize = 32;

/// Sixteen blocks.
type Blocks = [[f32; BLOCK]; LANES];

/// The smaller, `a` where `b` is no number.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a > b { b } else { a }
}

/// The largest of what `key` makes of the bits of each number. Of integers, unlike floats, the
/// compiler may take the maximum in any order, so it does so by vectors.
#[inline(always)]
fn highest<K: Ord + Copy>(block: &[f32; BLOCK], key: impl Fn(u32) -> K) -> K {
    let mut most = key(block[0].to_bits());
    for x in block {
        most = most.max(key(x.to_bits()));
    }
    most
}

/// Takes every number that is `better` than the one before, as a plain scan does: for blocks of
/// which [`highest`] does not say which number comes first, or that hold what is no number.
#[cold]
#[inline(never)]
fn scanned(block: &[f32; BLOCK], start: f32, better: fn(f32, f32) -> bool) -> f32 {
    block.iter().fold(start, |best, x| if better(*x, best) { *x } else { best })
}

/// The number of largest magnitude of each block, the first of equals; 0 for a block of zeros.
#[inline(always)]
fn largest(blocks: &Blocks) -> Lanes {
    let mut out = Lanes::ZERO;
    for (out, block) in out.0.iter_mut().zip(blocks) {
        // The order of magnitudes; of equals one search prefers minus, the other plus.
        // A float's bits, its sign turned round to the lowest place, are in the order of magnitudes:
        //
        //     s eeeeeeee mmm…m   ->   eeeeeeee mmm…m s        so 3.0 < -3.0 < 3.5
        //
        // With the sign flipped -3.0 < 3.0. If both searches find what they prefer, both signs of the largest
        // magnitude are
        // there, and the first must be looked for.
        let most = highest(block, |bits| bits.rotate_left(1));
        let turned = highest(block, |bits| bits.rotate_left(1) ^ 1);
        let unclear = most & turned & 1 == 1 || most < 2;
        *out = f32::from_bits(most.rotate_right(1));
        if unclear || out.is_nan() {
            *out = scanned(block, 0.0, |x, most| x.abs() > most.abs());
        }
    }
    out
}

/// The largest magnitude of each block.
#[inline(always)]
fn magnitudes(blocks: &Blocks) -> Lanes {
    let mut out = Lanes::ZERO;
    for (out, block) in out.0.iter_mut().zip(blocks) {
        // Without its sign a float's bits are in order; NaN lies above infinity.
        *out = f32::from_bits(highest(block, |bits| bits & 0x7fff_ffff));
        if out.is_nan() {
            *out = scanned(block, 0.0, |x, most| x.abs() > most.abs()).abs();
        }
    }
    out
}

/// The smallest and the largest number of each block; of zeros of both signs the first, as in a
/// plain scan.
#[inline(always)]
fn extremes(blocks: &Blocks) -> (Lanes, Lanes) {
    // Numbers in order are integers in order if those below zero have their other bits turned, which
    // is its own inverse.
    let turn = |bits: u32| (bits as i32) ^ ((bits as i32) >> 31) & i32::MAX;
    let (mut min, mut max) = (Lanes::ZERO, Lanes::ZERO);
    for (i, block) in blocks.iter().enumerate() {
        // The least is the greatest of complements.
        let least = !highest(block, |bits| !turn(bits));
        let most = highest(block, turn);
        min.0[i] = f32::from_bits(turn(least as u32) as u32);
        max.0[i] = f32::from_bits(turn(most as u32) as u32);
        // A minimum of zero may be of either sign, and which was first shows in the stored byte.
        if !(min.0[i] < 0.0 && max.0[i].is_finite()) {
            min.0[i] = scanned(block, f32::MAX, |x, least| x < least);
            max.0[i] = scanned(block, f32::MIN, |x, most| x > most);
        }
    }
    (min, max)
}

/// What makes quanta of blocks of scale `d`: a factor and what is added before the cut.
///
/// ggml multiplies by `1 / d`. Where that is infinite, so are all products, and the processor cuts
/// each to a whole number whose low byte is 0.
#[inline(always)]
fn quantum_makers(d: Lanes, bias: f32) -> (Lanes, Lanes) {
    let inverse = Lanes::splat(1.0) / d;
    // d below about 3e-39: 1 / d leaves the range of f32.
    let endless = inverse.magnitude().equal(Lanes::splat(f32::INFINITY));
    let zero = d.equal(Lanes::ZERO);
    let bias = Lanes::splat(bias);
    (Lanes::ZERO.where_set(endless, inverse), bias.where_set(endless.not().or(zero), Lanes::ZERO))
}

/// The whole part of a number from 0 to 255; 0 for what is less or no number.
///
/// At 2^23 a unit of f32 is 1: the addition rounds, one too high where that was upwards.
#[inline(always)]
fn whole_part(x: f32) -> u32 {
    let x = if x > 0.0 { x } else { 0.0 };
    // 8388608 is 2^23; the whole part is then the low bits of the sum.
    let rounded = x + 8_388_608.0;
    (rounded.to_bits() - u32::from(rounded - 8_388_608.0 > x)) & 255
}

/// Rounds to the nearest integer, halves away from zero, as C `roundf` does.
#[inline(always)]
fn rounded(x: f32) -> u8 {
    let magnitude = if x.abs() > 0.0 { x.abs() } else { 0.0 };
    // The sum rounds halves to even; those that it put down to even are a half below, and go up.
    let even = magnitude + 8_388_608.0;
    let away = even.to_bits() + u32::from(magnitude - (even - 8_388_608.0) == 0.5);
    let sign = (x.to_bits() as i32 >> 31) as u32;
    ((away ^ sign).wrapping_sub(sign)) as u8
}

/// Calls `encode` with each sixteen blocks and their bytes; blocks past the end are zero.
#[inline(always)]
fn sixteens<const BYTES: usize>(
    rows: &[f32],
    out: &mut [u8],
    encode: impl Fn(&Blocks, &mut [[u8; BYTES]]),
) {
    // The last few blocks are filled up to sixteen, and what is made of the filling is not written.
    let (full, rest) = rows.as_chunks::<BLOCK>().0.as_chunks::<LANES>();
    let (full_out, rest_out) = out.as_chunks_mut::<BYTES>().0.split_at_mut(full.len() * LANES);
    let mut last = [[0.0; BLOCK]; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let blocks = full.iter().chain((!rest.is_empty()).then_some(&last));
    for (blocks, out) in blocks.zip(full_out.chunks_mut(LANES).chain(rest_out.chunks_mut(LANES))) {
        encode(blocks, out);
    }
}

/// Bit 4 of every quantum, that of quantum `j` in bit `j`.
///
/// ```text
/// quanta   q0 q1 q2 .. q31, five bits each   ->   u32, little-endian: bit j = bit 4 of qj
/// ```
#[inline(always)]
fn fifth_bits(quanta: &[u32; BLOCK]) -> [u8; 4] {
    let mut bits = [0; BLOCK];
    for (bit, quantum) in bits.iter_mut().zip(quanta) {
        *bit = (quantum >> 4) as u8;
    }
    // Keeps the compiler from putting the words together from single quanta.
    std::hint::black_box(&mut bits);
    let mut out = [0; 4];
    for (out, eight) in out.iter_mut().zip(bits.as_chunks::<8>().0) {
        // Eight bytes of 0 or 1 become the eight bits of one.
        // The product moves bit 8j to bit 56 + j, and nothing else to the top byte.
        let product = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080);
        *out = (product >> 56) as u8;
    }
    out
}

/// Writes the quanta of one block: five-bit types have four bytes of high bits before the nibbles, of
/// which byte `j` holds quantum `j` and, above it, quantum `j + 16`.
#[inline(always)]
fn pack<const FIVE: bool>(quanta: &[u32; BLOCK], out: &mut [u8]) {
    let (high, low) = out.split_at_mut(if FIVE { 4 } else { 0 });
    if FIVE {
        high.copy_from_slice(&fifth_bits(quanta));
    }
    let mut nibbles = [0; BLOCK / 2];
    for (j, byte) in nibbles.iter_mut().enumerate() {
        *byte = (quanta[j] & 15 | quanta[j + BLOCK / 2] << 4) as u8;
    }
    low.copy_from_slice(&nibbles);
}

/// Q4_0 and Q5_0: `d = m / -n` with `m` the number of largest magnitude, `q = x / d + n`.
#[inline(always)]
fn centred_body<const FIVE: bool, const BYTES: usize>(rows: &[f32], out: &mut [u8]) {
    let n = if FIVE { 16.0 } else { 8.0 };
    sixteens::<BYTES>(
        rows,
        out,
        #[inline(always)]
        |blocks, out| {
            // The number of largest magnitude becomes 0, which is -n: the side with one more step.
            let d = largest(blocks) / Lanes::splat(-n);
            let (factor, bias) = quantum_makers(d, n + 0.5);
            let halves = half_scales(d);
            for (i, bytes) in out.iter_mut().enumerate() {
                let mut quanta = [0; BLOCK];
                for (quantum, x) in quanta.iter_mut().zip(&blocks[i]) {
                    // + n makes it positive, + 1/2 makes cutting rounding; of the other sign some would become 2n.
                    let q = x * factor.0[i] + bias.0[i];
                    *quantum = whole_part(smaller(q, 2.0 * n - 0.5));
                }
                bytes[..2].copy_from_slice(&halves[i]);
                pack::<FIVE>(&quanta, &mut bytes[2..]);
            }
        },
    );
}

/// Q4_1 and Q5_1: `d = (max - min) / top`, `q = (x - min) / d`.
#[inline(always)]
fn affine_body<const FIVE: bool, const BYTES: usize>(rows: &[f32], out: &mut [u8]) {
    let top = if FIVE { 31.0 } else { 15.0 };
    sixteens::<BYTES>(
        rows,
        out,
        #[inline(always)]
        |blocks, out| {
            let (min, max) = extremes(blocks);
            let d = (max - min) / Lanes::splat(top);
            let (factor, bias) = quantum_makers(d, 0.5);
            let (halves, min_halves) = (half_scales(d), half_scales(min));
            for (i, bytes) in out.iter_mut().enumerate() {
                let mut quanta = [0; BLOCK];
                for (quantum, x) in quanta.iter_mut().zip(&blocks[i]) {
                    // Not above top but for a rounded d, so a plain bound does.
                    let q = (x - min.0[i]) * factor.0[i] + bias.0[i];
                    *quantum = whole_part(smaller(q, top + 0.5));
                }
                bytes[..2].copy_from_slice(&halves[i]);
                bytes[2..4].copy_from_slice(&min_halves[i]);
                pack::<FIVE>(&quanta, &mut bytes[4..]);
            }
        },
    );
}

/// Q8_0: `d = max|x| / 127`, `q = round(x / d)`, halves away from zero.
#[inline(always)]
fn q8_0_body(rows: &[f32], out: &mut [u8]) {
    sixteens::<34>(
        rows,
        out,
        #[inline(always)]
        |blocks, out| {
            let d = magnitudes(blocks) / Lanes::splat(127.0);
            let (factor, _) = quantum_makers(d, 0.0);
            let halves = half_scales(d);
            for (i, bytes) in out.iter_mut().enumerate() {
                bytes[..2].copy_from_slice(&halves[i]);
                for (byte, x) in bytes[2..].iter_mut().zip(&blocks[i]) {
                    *byte = rounded(x * factor.0[i]);
                }
            }
        },
    );
}

/// Calls `encode` with each sixteen blocks, their weights `importance * sqrt(mean(x²) + x²)`, where
/// the mean is the row's, and their bytes.
///
/// ggml takes the mean over the row, not over the block, so the sums of all rows come first (`quantize_row_q4_0_impl`).
#[inline(always)]
fn weighted<const BYTES: usize>(
    rows: &[f32],
    row_len: usize,
    weights: &[f32],
    out: &mut [u8],
    encode: impl Fn(&Group<BLOCK>, &[Lanes; BLOCK], &[Lanes; BLOCK], &mut [[u8; BYTES]]),
) {
    let energies = row_energies(rows, row_len);
    let weights = weights.as_chunks::<BLOCK>().0;
    let mut group = Group::<BLOCK>::new();
    let blocks = rows.as_chunks::<BLOCK>().0.chunks(LANES);
    for (i, (blocks, out)) in
        blocks.zip(out.as_chunks_mut::<BYTES>().0.chunks_mut(LANES)).enumerate()
    {
        let first = i * LANES;
        group.take(first, blocks, weights);
        let mut mean = Lanes::ZERO;
        for (j, mean) in mean.0.iter_mut().enumerate().take(blocks.len()) {
            // weights.len() blocks are a row.
            *mean = energies[(first + j) / weights.len()] / row_len as f32;
        }
        let xs = transposed(&group.x);
        let mut ws = transposed(&group.importance);
        for j in 0..BLOCK {
            ws[j] = ws[j] * (mean + xs[j] * xs[j]).sqrt();
        }
        encode(&group, &xs, &ws, out);
    }
}

/// Q4_0 and Q5_0 with importance: the scale that [`centred`] finds, in place of a division by the largest.
#[inline(always)]
fn weighted_centred_body<const FIVE: bool, const BYTES: usize>(
    rows: &[f32],
    row_len: usize,
    weights: &[f32],
    out: &mut [u8],
) {
    let n = if FIVE { 16 } else { 8 };
    weighted::<BYTES>(
        rows,
        row_len,
        weights,
        out,
        #[inline(always)]
        |group, xs, ws, out| {
            // The search gives scales; quanta are made once more of the one that won.
            let found = centred(n as f32, xs, ws);
            for (i, bytes) in out.iter_mut().enumerate() {
                let mut quanta = [0; BLOCK];
                centred_quanta(&group.x[i], found.step.0[i], n, &mut quanta);
                bytes[..2].copy_from_slice(&half_scale(found.scale.0[i]));
                pack::<FIVE>(&quanta.map(u32::from), &mut bytes[2..]);
            }
        },
    );
}

/// Q4_1 and Q5_1 with importance: scale and minimum that [`affine`] finds.
#[inline(always)]
fn weighted_affine_body<const FIVE: bool, const BYTES: usize>(
    rows: &[f32],
    row_len: usize,
    weights: &[f32],
    out: &mut [u8],
) {
    let top = if FIVE { 31 } else { 15 };
    // As llama.cpp calls `make_qkx3_quants` for Q4_1 and Q5_1.
    let walk = Walk { n: top as f32, first: -0.9, delta: 0.05, steps: 36, magnitudes: false };
    weighted::<BYTES>(
        rows,
        row_len,
        weights,
        out,
        #[inline(always)]
        |group, xs, ws, out| {
            let Affine { scale, min, step, origin } = affine(&walk, xs, ws);
            for (i, bytes) in out.iter_mut().enumerate() {
                let mut quanta = [0; BLOCK];
                affine_quanta(&group.x[i], step.0[i], origin.0[i], top, &mut quanta);
                bytes[..2].copy_from_slice(&half_scale(scale.0[i]));
                bytes[2..4].copy_from_slice(&half_scale(-min.0[i]));
                pack::<FIVE>(&quanta.map(u32::from), &mut bytes[4..]);
            }
        },
    );
}

per_isa! {
    fn q4_0(rows: &[f32], out: &mut [u8]) = centred_body::<false, 18>;
    fn q5_0(rows: &[f32], out: &mut [u8]) = centred_body::<true, 22>;
    fn q4_1(rows: &[f32], out: &mut [u8]) = affine_body::<false, 20>;
    fn q5_1(rows: &[f32], out: &mut [u8]) = affine_body::<true, 24>;
    fn q8_0(rows: &[f32], out: &mut [u8]) = q8_0_body;
    fn weighted_q4_0(rows: &[f32], row_len: usize, weights: &[f32], out: &mut [u8])
        = weighted_centred_body::<false, 18>, up to avx2;
    fn weighted_q5_0(rows: &[f32], row_len: usize, weights: &[f32], out: &mut [u8])
        = weighted_centred_body::<true, 22>, up to avx2;
    fn weighted_q4_1(rows: &[f32], row_len: usize, weights: &[f32], out: &mut [u8])
        = weighted_affine_body::<false, 20>;
    fn weighted_q5_1(rows: &[f32], row_len: usize, weights: &[f32], out: &mut [u8])
        = weighted_affine_body::<true, 24>;
}

/// Q4_0, 18 bytes: `f16 d, u8 qs[16]`; a number is `d * (q - 8)`.
pub fn encode_q4_0(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    match m {
        None => q4_0(isa, rows, out),
        Some(weights) => weighted_q4_0(isa, rows, len, weights, out),
    }
}

/// Q4_1, 20 bytes: `f16 d, f16 m, u8 qs[16]`; a number is `d * q + m`.
pub fn encode_q4_1(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    match m {
        None => q4_1(isa, rows, out),
        Some(weights) => weighted_q4_1(isa, rows, len, weights, out),
    }
}

/// Q5_0, 22 bytes: `f16 d, u32 qh, u8 qs[16]`; a number is `d * (q - 16)`.
pub fn encode_q5_0(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    match m {
        None => q5_0(isa, rows, out),
        Some(weights) => weighted_q5_0(isa, rows, len, weights, out),
    }
}

/// Q5_1, 24 bytes: `f16 d, f16 m, u32 qh, u8 qs[16]`; a number is `d * q + m`.
pub fn encode_q5_1(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    match m {
        None => q5_1(isa, rows, out),
        Some(weights) => weighted_q5_1(isa, rows, len, weights, out),
    }
}

/// Q8_0, 34 bytes: `f16 d, i8 qs[32]`; a number is `d * q`, `d = max|x| / 127`. Importance plays no part.
pub fn encode_q8_0(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    q8_0(isa, rows, out);
}
