//! The types of 32 numbers a block: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Without importance each block is a division by its range (ggml `quantize_row_q4_0_ref` and its
//! kin): memory speed, so the lanes are the numbers of one block. With importance each block is a
//! search (ggml `quantize_row_q4_0_impl` and its kin), and the lanes are blocks.
//!
//! The five-bit types keep bit 4 of number `j` in bit `j` of a little-endian `u32`, and the low four
//! bits as the four-bit types do: byte `j` is number `j` and, above it, number `j + 16`.

use super::group::{Group, affine_quanta, centred_quanta, half_scale, row_energies, transposed};
use super::lanes::{LANES, Lanes};
use super::search::{Affine, Walk, affine, centred};
use crate::per_isa;
use crate::quant::isa::Isa;

/// The numbers of a block.
const BLOCK: usize = 32;

/// The integer part, as the processor's conversion gives it: its lowest byte is 0 for what no `i32`
/// holds.
#[inline(always)]
fn integer_part(x: f32) -> i32 {
    if x < 2_147_483_648.0 { x as i32 } else { 0 }
}

/// Combines the lanes of a block of numbers two by two until one is left.
#[inline(always)]
fn folded(block: &[f32; BLOCK], first: impl Fn(f32) -> f32, pick: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (j, lane) in lanes.iter_mut().enumerate() {
        *lane = pick(first(block[j]), first(block[j + 16]));
    }
    let mut width = 8;
    while width > 0 {
        for j in 0..width {
            lanes[j] = pick(lanes[j], lanes[j + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The larger; a NaN loses.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { b } else { a }
}

/// The smaller; a NaN loses.
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { b } else { a }
}

/// The number of largest magnitude, the first of equals; 0 for a block of zeros.
#[inline(always)]
fn largest(block: &[f32; BLOCK]) -> f32 {
    let most = folded(block, |x| x, larger);
    let least = folded(block, |x| x, smaller);
    if most > -least {
        most
    } else if most < -least {
        least
    } else {
        let magnitude = if most > 0.0 { most } else { return 0.0 };
        block.iter().copied().find(|x| x.abs() == magnitude).unwrap_or(0.0)
    }
}

/// The smallest and the largest number; of zeros of both signs the first, as in a plain scan.
#[inline(always)]
fn extremes(block: &[f32; BLOCK]) -> (f32, f32) {
    let first_zero = |x: f32| {
        if x == 0.0 { block.iter().copied().find(|x| *x == 0.0).unwrap_or(x) } else { x }
    };
    let min = folded(block, |x| x, smaller);
    let max = folded(block, |x| x, larger);
    if min.is_nan() { (f32::MAX, f32::MIN) } else { (first_zero(min), max) }
}

#[inline(always)]
fn reciprocal(d: f32) -> f32 {
    if d != 0.0 { 1.0 / d } else { 0.0 }
}

/// Bytes `j` and `j + 16` share a byte, four bits each.
#[inline(always)]
fn pack_nibbles(quanta: &[u8; BLOCK], out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate().take(BLOCK / 2) {
        *out = quanta[j] & 15 | quanta[j + BLOCK / 2] << 4;
    }
}

/// Bit 4 of every byte, that of byte `j` in bit `j`.
#[inline(always)]
fn fifth_bits(quanta: &[u8; BLOCK]) -> [u8; 4] {
    let mut out = [0; 4];
    for (out, eight) in out.iter_mut().zip(quanta.as_chunks::<8>().0) {
        let bits = u64::from_le_bytes(*eight) >> 4 & 0x0101_0101_0101_0101;
        // The product moves bit 8j to bit 56 + j, and nothing else to the top byte.
        *out = (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
    out
}

/// Writes the quanta of one block: five-bit types have four bytes of high bits before the nibbles.
#[inline(always)]
fn pack<const FIVE: bool>(quanta: &[u8; BLOCK], out: &mut [u8]) {
    if FIVE {
        out[..4].copy_from_slice(&fifth_bits(quanta));
        pack_nibbles(quanta, &mut out[4..]);
    } else {
        pack_nibbles(quanta, out);
    }
}

/// Q4_0 and Q5_0: `d = m / -n` with `m` the number of largest magnitude, `q = x / d + n`.
#[inline(always)]
fn centred_body<const FIVE: bool, const BYTES: usize>(rows: &[f32], out: &mut [u8]) {
    let n = if FIVE { 16.0 } else { 8.0 };
    let top = if FIVE { 31 } else { 15 };
    for (block, bytes) in rows.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        let d = largest(block) / -n;
        let id = reciprocal(d);
        let mut quanta = [0; BLOCK];
        for (quantum, x) in quanta.iter_mut().zip(block) {
            *quantum = (integer_part(x * id + (n + 0.5)) as i8).min(top) as u8;
        }
        bytes[..2].copy_from_slice(&half_scale(d));
        pack::<FIVE>(&quanta, &mut bytes[2..]);
    }
}

/// Q4_1 and Q5_1: `d = (max - min) / top`, `q = (x - min) / d`.
#[inline(always)]
fn affine_body<const FIVE: bool, const BYTES: usize>(rows: &[f32], out: &mut [u8]) {
    let top = if FIVE { 31.0 } else { 15.0 };
    for (block, bytes) in rows.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        let (min, max) = extremes(block);
        let d = (max - min) / top;
        let id = reciprocal(d);
        let mut quanta = [0; BLOCK];
        for (quantum, x) in quanta.iter_mut().zip(block) {
            let l = integer_part((x - min) * id + 0.5);
            *quantum = if FIVE { l as u8 } else { (l as i8).min(15) as u8 };
        }
        bytes[..2].copy_from_slice(&half_scale(d));
        bytes[2..4].copy_from_slice(&half_scale(min));
        pack::<FIVE>(&quanta, &mut bytes[4..]);
    }
}

#[inline(always)]
fn q8_0_body(rows: &[f32], out: &mut [u8]) {
    for (block, bytes) in rows.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<34>().0) {
        let amax = folded(block, f32::abs, larger);
        let d = if amax.is_nan() { 0.0 } else { amax / 127.0 };
        let id = reciprocal(d);
        bytes[..2].copy_from_slice(&half_scale(d));
        for (byte, x) in bytes[2..].iter_mut().zip(block) {
            // Halves go away from zero, as with C `roundf`; adding the number just below one half,
            // not one half, keeps 0.49999997 from becoming 1.
            let x = x * id;
            *byte = integer_part(x + 0.499_999_97_f32.copysign(x)) as u8;
        }
    }
}

/// Calls `encode` with each sixteen blocks, their weights `importance * sqrt(mean(x²) + x²)`, where
/// the mean is the row's, and their bytes.
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
            let found = centred(n as f32, xs, ws);
            for (i, bytes) in out.iter_mut().enumerate() {
                let mut quanta = [0; BLOCK];
                centred_quanta(&group.x[i], found.step.0[i], n, &mut quanta);
                bytes[..2].copy_from_slice(&half_scale(found.scale.0[i]));
                pack::<FIVE>(&quanta, &mut bytes[2..]);
            }
        },
    );
}

#[inline(always)]
fn weighted_affine_body<const FIVE: bool, const BYTES: usize>(
    rows: &[f32],
    row_len: usize,
    weights: &[f32],
    out: &mut [u8],
) {
    let top = if FIVE { 31 } else { 15 };
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
                pack::<FIVE>(&quanta, &mut bytes[4..]);
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
        = weighted_centred_body::<false, 18>;
    fn weighted_q5_0(rows: &[f32], row_len: usize, weights: &[f32], out: &mut [u8])
        = weighted_centred_body::<true, 22>;
    fn weighted_q4_1(rows: &[f32], row_len: usize, weights: &[f32], out: &mut [u8])
        = weighted_affine_body::<false, 20>;
    fn weighted_q5_1(rows: &[f32], row_len: usize, weights: &[f32], out: &mut [u8])
        = weighted_affine_body::<true, 24>;
}

/// Q4_0, 18 bytes: `f16 d, u8 qs[16]`; a number is `d * (q - 8)`.
pub fn encode_q4_0(
    isa: Isa,
    rows: &[f32],
    row_len: usize,
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    match weights {
        None => q4_0(isa, rows, out),
        Some(weights) => weighted_q4_0(isa, rows, row_len, weights, out),
    }
}

/// Q4_1, 20 bytes: `f16 d, f16 m, u8 qs[16]`; a number is `d * q + m`.
pub fn encode_q4_1(
    isa: Isa,
    rows: &[f32],
    row_len: usize,
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    match weights {
        None => q4_1(isa, rows, out),
        Some(weights) => weighted_q4_1(isa, rows, row_len, weights, out),
    }
}

/// Q5_0, 22 bytes: `f16 d, u32 qh, u8 qs[16]`; a number is `d * (q - 16)`.
pub fn encode_q5_0(
    isa: Isa,
    rows: &[f32],
    row_len: usize,
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    match weights {
        None => q5_0(isa, rows, out),
        Some(weights) => weighted_q5_0(isa, rows, row_len, weights, out),
    }
}

/// Q5_1, 24 bytes: `f16 d, f16 m, u32 qh, u8 qs[16]`; a number is `d * q + m`.
pub fn encode_q5_1(
    isa: Isa,
    rows: &[f32],
    row_len: usize,
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    match weights {
        None => q5_1(isa, rows, out),
        Some(weights) => weighted_q5_1(isa, rows, row_len, weights, out),
    }
}

/// Q8_0, 34 bytes: `f16 d, i8 qs[32]`; a number is `d * q`, `d = max|x| / 127`. Importance plays no part.
pub fn encode_q8_0(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    q8_0(isa, rows, out);
}
