//! IQ4_NL and IQ4_XS: four bits a number, on sixteen levels that lie closer near zero.
//!
//! ```text
//! IQ4_NL   18 bytes, 32 numbers     d:f16, nibbles: byte j holds numbers j and j + 16
//! IQ4_XS  136 bytes, 256 numbers    d:f16, high scale bits:u16, low scale bits[4], nibbles as above
//!                                   scale of sub-block b = d * (six bits - 32)
//! ```
//!
//! Sixteen scales are tried for every 32 numbers, and the one with the largest
//! `(sum wxq)^2 / (sum wqq)` is refined to `(sum wxq) / (sum wqq)` (ggml `quantize_row_iq4_nl_impl`).
//! The sixteen are the lanes: each adds up in the order of the numbers.

use super::lanes::nearest_int;
use super::magnitude::{SUPER, each_super_block};
use crate::per_isa;
use crate::quant::half::half_from_f32;
use crate::quant::isa::Isa;

/// Numbers that share a scale.
const SUB: usize = 32;
/// Scales that are tried.
const TRIES: usize = 16;
/// The levels, ggml `kvalues_iq4nl`.
const LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];
/// Half way between neighbouring levels; a number here takes the upper one. In the original two
/// differences are compared, which near these points are exact, so that the outcome is the same.
///
/// ```text
/// levels    -127          -104         -83         -65  ..
/// middles         -115.5        -93.5       -74         ..
/// ```
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut k = 0;
    while k < 15 {
        middles[k] = (LEVELS[k] + LEVELS[k + 1]) / 2.0;
        k += 1;
    }
    middles
};

/// The level nearest to `x`; the last for NaN.
///
/// A sum of steps in place of a search: each middle that `x` has passed adds the distance to the next level. All are
/// small whole numbers, so the sum is exact.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN is not below any level")]
fn level(x: f32) -> f32 {
    let mut level = LEVELS[0];
    for k in 0..15 {
        level += if !(x < MIDDLES[k]) { LEVELS[k + 1] - LEVELS[k] } else { 0.0 };
    }
    level
}

/// The index of the level nearest to `x`.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN is not below any level")]
fn nearest(x: f32) -> u8 {
    MIDDLES.iter().map(|&middle| u8::from(!(x < middle))).sum()
}

/// The scale of 32 numbers.
///
/// Weights are `importance * sqrt(2 * mean of x^2 + x^2)`, or `x^2` without imatrix data; `variance` is `2 * mean`, of
/// the block (NL) or of the super-block (XS). 0 for numbers that are as good as zero.
#[inline(always)]
fn scale(x: &[f32; SUB], importance: Option<&[f32]>, variance: f32) -> f32 {
    let mut weight = [0.0f32; SUB];
    match importance {
        Some(m) => {
            for i in 0..SUB {
                weight[i] = m[i] * (variance + x[i] * x[i]).sqrt();
            }
        }
        None => weight = x.map(|x| x * x),
    }
    let mut max = 0.0f32;
    for &x in x {
        // Its sign counts: -127 is the level that reaches furthest.
        max = if x.abs() > max.abs() { x } else { max };
    }
    if max.abs() < 1e-15 {
        return 0.0;
    }
    // The first try takes the maximum to 127, the others take it to -134 ... -120.
    let id: [f32; TRIES] = std::array::from_fn(|t| match t {
        0 => 1.0 / (-max / LEVELS[0]),
        t => (t as f32 - 8.0 + LEVELS[0]) / max,
    });
    let (mut sumqx, mut sumq2) = ([0.0f32; TRIES], [0.0f32; TRIES]);
    for i in 0..SUB {
        for t in 0..TRIES {
            let q = level(id[t] * x[i]);
            sumqx[t] += weight[i] * q * x[i];
            sumq2[t] += weight[i] * q * q;
        }
    }
    let mut d = if sumq2[0] > 0.0 { sumqx[0] / sumq2[0] } else { 0.0 };
    let mut best = d * sumqx[0];
    for t in 1..TRIES {
        if sumq2[t] > 0.0 && sumqx[t] * sumqx[t] > best * sumq2[t] {
            d = sumqx[t] / sumq2[t];
            best = d * sumqx[t];
        }
    }
    d
}

/// Writes 32 numbers as nibbles; `id` is one over their scale.
#[inline(always)]
fn put_nibbles(x: &[f32; SUB], id: f32, out: &mut [u8; SUB / 2]) {
    let index = x.map(|x| nearest(id * x));
    for j in 0..SUB / 2 {
        out[j] = index[j] | index[j + SUB / 2] << 4;
    }
}

/// 0 for 0: every quotient is then 0, and the level nearest to it 1.
#[inline(always)]
fn one_over(scale: f32) -> f32 {
    if scale != 0.0 { 1.0 / scale } else { 0.0 }
}

/// Blocks of 32, each by itself: importance is that of the block's columns.
#[inline(always)]
fn nl_body(rows: &[f32], row_len: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = rows.as_chunks::<SUB>().0.iter().zip(out.as_chunks_mut::<18>().0);
    for (at, (x, bytes)) in blocks.enumerate() {
        let m = importance.map(|all| &all[at * SUB % row_len..][..SUB]);
        let variance = x.iter().fold(0.0, |sum, x| sum + x * x) * (2.0 / SUB as f32);
        let d = scale(x, m, variance);
        let [low, high, nibbles @ ..] = bytes;
        [*low, *high] = half_from_f32(d).to_le_bytes();
        put_nibbles(x, one_over(d), nibbles);
    }
}

/// One super-block: eight scales are found, and six bits of each are stored; the nibbles then follow the stored ones.
///
/// ```text
/// low scale bits   byte 0 = s0 | s1 << 4,  byte 1 = s2 | s3 << 4, ..         bits 0-3 of each
/// high scale bits  a u16: s0 in bits 0-1, s1 in bits 2-3, ..                 bits 4-5 of each
/// ```
#[inline(always)]
fn xs_body(x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 136]) {
    let variance = x.iter().fold(0.0, |sum, x| sum + x * x) * (2.0 / SUPER as f32);
    let subs = x.as_chunks::<SUB>().0;
    let mut scales = [0.0f32; SUPER / SUB];
    let mut largest = 0.0f32;
    for (b, x) in subs.iter().enumerate() {
        scales[b] = scale(x, importance.map(|all| &all[b * SUB..][..SUB]), variance);
        largest = if scales[b].abs() > largest.abs() { scales[b] } else { largest };
    }
    // The largest scale in magnitude becomes -32, the end of six bits that reaches further.
    let d = -largest / 32.0;
    let id = one_over(d);
    let (head, nibbles) = out.split_at_mut(8);
    let (mut low, mut high) = (0u32, 0u16);
    for (b, x) in subs.iter().enumerate() {
        let l = nearest_int(id * scales[b]).clamp(-32, 31);
        // With the scale as it is stored, not as it was found.
        put_nibbles(x, one_over(d * l as f32), &mut nibbles.as_chunks_mut::<16>().0[b]);
        let six = (l + 32) as u32;
        // Six bits in two places: four in a nibble, two in a word of sixteen bits.
        low |= (six & 15) << (4 * b);
        high |= ((six >> 4) as u16) << (2 * b);
    }
    head[..2].copy_from_slice(&half_from_f32(d).to_le_bytes());
    head[2..4].copy_from_slice(&high.to_le_bytes());
    head[4..].copy_from_slice(&low.to_le_bytes());
}

per_isa! {
    fn nl_kernel(rows: &[f32], row_len: usize, importance: Option<&[f32]>, out: &mut [u8]) = nl_body;
    fn xs_kernel(x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 136]) = xs_body;
}

/// IQ4_NL, 4.5 bits a number (ggml `quantize_iq4_nl`).
pub fn encode_iq4_nl(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    nl_kernel(isa, rows, len, m, out);
}

/// IQ4_XS, 4.25 bits a number (ggml `quantize_iq4_xs`).
pub fn encode_iq4_xs(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    each_super_block(rows, len, m, out, |x, m, out| xs_kernel(isa, x, m, out));
}
