//! The types of one to two bits that only divide by a scale: TQ1_0, TQ2_0, Q1_0, Q2_0.
//!
//! ```text
//! TQ1_0  54 bytes, 256 numbers   5 trits a byte[48], 4 trits a byte[4], d:f16
//! TQ2_0  66 bytes, 256 numbers   4 x 2 bits[64], d:f16
//! Q1_0   18 bytes, 128 numbers   d:f16, sign bits[16]
//! Q2_0   18 bytes,  64 numbers   d:f16, 4 x 2 bits[16]
//! x ~ d * (trit - 1);  Q1_0: x ~ +d or -d
//! ```
//!
//! Importance plays no part. Source: ggml `quantize_row_tq1_0_ref` and its siblings.

use crate::per_isa;
use crate::quant::half::half_from_f32;
use crate::quant::isa::Isa;

/// The largest magnitude; NaN counts as nothing.
#[inline(always)]
pub fn largest_magnitude<const N: usize>(x: &[f32; N]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for part in x.as_chunks::<16>().0 {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane = if *lane < x.abs() { x.abs() } else { *lane };
        }
    }
    lanes.iter().fold(0.0, |a, b| if a < *b { *b } else { a })
}

/// The largest magnitude `d`, and `round(x / d) + 1` with halves away from zero: 0, 1 or 2.
///
/// Where `1 / d` overflows, x / d may be infinite or NaN: `lroundf` then gives the least `long`, whose
/// low bits are zeros, so the trit is 1.
#[inline(always)]
fn trits<const N: usize>(x: &[f32; N]) -> (f32, [u8; N]) {
    if x.iter().fold(false, |any, x| any | x.is_nan()) {
        return trits_beside_nan(x);
    }
    let d = largest_magnitude(x);
    let id = if d != 0.0 { 1.0 / d } else { 0.0 };
    let trits = x.map(|x| {
        let y = x * id;
        // y is at most 1 in magnitude, but for the rounding of 1 / d.
        1 + u8::from((0.5..2.0).contains(&y)) - u8::from((0.5..2.0).contains(&-y))
    });
    (d, trits)
}

/// As ggml's `MAX` starts again after a NaN, numbers may be larger than `d`; the low byte is kept.
#[cold]
fn trits_beside_nan<const N: usize>(x: &[f32; N]) -> (f32, [u8; N]) {
    let d = x.iter().fold(0.0, |max, x| if max > x.abs() { max } else { x.abs() });
    let id = if d != 0.0 { 1.0 / d } else { 0.0 };
    let low_byte = |y: f32| if y.abs() < 2f32.powi(63) { y.round() as i64 as u8 } else { 0 };
    (d, x.map(|x| low_byte(x * id).wrapping_add(1)))
}

/// Five base-3 digits as the byte from which `byte * 3^n mod 256 * 3 / 256` gives back digit `n`.
///
/// ```text
/// number = t0 * 81 + t1 * 27 + t2 * 9 + t3 * 3 + t4         0 to 242
/// byte   = ceil(number * 256 / 243)                         number / 243 as a fraction of 256
/// digit n of the fraction: (byte * 3^n mod 256) * 3 / 256   t0 for n = 0, t1 for n = 1, ..
/// ```
#[inline(always)]
fn five(trits: [u8; 5]) -> u8 {
    // 0 to 242, as a fraction of 243; of 256 it is rounded up, so that no digit is lost when it is cut off again.
    let number = trits.iter().fold(0u8, |sum, &trit| sum.wrapping_mul(3).wrapping_add(trit));
    (u16::from(number) * 256).div_ceil(243) as u8
}

/// Digits `n` of bytes `m` are weights `32n + m`, then `160 + 16n + m`, then `240 + 4n + m`.
///
/// The last four bytes hold four trits each and a zero: 5 * 32 + 5 * 16 + 4 * 4 = 256.
#[inline(always)]
fn tq1_0_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.as_chunks::<256>().0.iter().zip(out.as_chunks_mut::<54>().0) {
        let (d, t) = trits(x);
        for m in 0..32 {
            bytes[m] = five(std::array::from_fn(|n| t[32 * n + m]));
        }
        for m in 0..16 {
            bytes[32 + m] = five(std::array::from_fn(|n| t[160 + 16 * n + m]));
        }
        for m in 0..4 {
            bytes[48 + m] =
                five(std::array::from_fn(|n| if n < 4 { t[240 + 4 * n + m] } else { 0 }));
        }
        bytes[52..].copy_from_slice(&half_from_f32(d).to_le_bytes());
    }
}

/// Pair `n` of byte `m` of a half is its weight `32n + m`.
///
/// ```text
/// bits of byte m   7-6       5-4       3-2       1-0
/// weight           96 + m    64 + m    32 + m    m         of the half of 128 that the 32 bytes are for
/// ```
#[inline(always)]
fn tq2_0_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.as_chunks::<256>().0.iter().zip(out.as_chunks_mut::<66>().0) {
        let (d, t) = trits(x);
        for half in 0..2 {
            for m in 0..32 {
                let at = 128 * half + m;
                let two = |n: usize| (t[at + 32 * n] & 3) << (2 * n);
                bytes[32 * half + m] = two(0) | two(1) | two(2) | two(3);
            }
        }
        bytes[64..].copy_from_slice(&half_from_f32(d).to_le_bytes());
    }
}

/// The sums of magnitudes of up to eight blocks, each added up in its own order.
///
/// Then a bit for each number, set where it is not below zero, the first in the lowest bit: `d` is the mean magnitude,
/// for which `sum (|x| - d)^2` is least.
#[inline(always)]
fn q1_0_body(rows: &[f32], out: &mut [u8]) {
    const LANES: usize = 8;
    let (x, bytes) = (rows.as_chunks::<128>().0, out.as_chunks_mut::<18>().0);
    for (x, bytes) in x.chunks(LANES).zip(bytes.chunks_mut(LANES)) {
        let mut sum = [0.0f32; LANES];
        if let Ok(x) = <&[[f32; 128]; LANES]>::try_from(x) {
            for i in 0..128 {
                for (sum, x) in sum.iter_mut().zip(x) {
                    *sum += x[i].abs();
                }
            }
        } else {
            for (sum, x) in sum.iter_mut().zip(x) {
                *sum = x.iter().fold(0.0, |sum, x| sum + x.abs());
            }
        }
        for ((sum, x), bytes) in sum.iter().zip(x).zip(bytes) {
            bytes[..2].copy_from_slice(&half_from_f32(sum / 128.0).to_le_bytes());
            for (byte, x) in bytes[2..].iter_mut().zip(x.as_chunks::<8>().0) {
                *byte = (0..8).fold(0, |bits, i| bits | u8::from(x[i] >= 0.0) << i);
            }
        }
    }
}

/// Four numbers a byte, the first in the lowest bits. Codes 0, 1, 2 restore to -d, 0, d; code 3, which restores to 2d,
/// is never made, for `d` is the largest magnitude.
#[inline(always)]
fn q2_0_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<18>().0) {
        let d = largest_magnitude(x);
        let id = if d > 0.0 { 1.0 / d } else { 0.0 };
        let q = x.map(|x| {
            // Infinities and NaN become the least `int` in the original, and that is clamped to 0.
            let y = x * id;
            u8::from(y > -0.5 && y < 2.0) + u8::from((0.5..2.0).contains(&y))
        });
        bytes[..2].copy_from_slice(&half_from_f32(d).to_le_bytes());
        for (byte, q) in bytes[2..].iter_mut().zip(q.as_chunks::<4>().0) {
            *byte = q[0] | q[1] << 2 | q[2] << 4 | q[3] << 6;
        }
    }
}

per_isa! {
    fn tq1_0_kernel(rows: &[f32], out: &mut [u8]) = tq1_0_body;
    fn tq2_0_kernel(rows: &[f32], out: &mut [u8]) = tq2_0_body;
    fn q1_0_kernel(rows: &[f32], out: &mut [u8]) = q1_0_body;
    fn q2_0_kernel(rows: &[f32], out: &mut [u8]) = q2_0_body;
}

/// TQ1_0: `d = max|x|`, 1.69 bits a number.
pub fn encode_tq1_0(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    tq1_0_kernel(isa, rows, out);
}

/// TQ2_0: `d = max|x|`, 2.06 bits a number.
pub fn encode_tq2_0(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    tq2_0_kernel(isa, rows, out);
}

/// Q1_0: `d` = mean of `|x|`, 1.125 bits a number.
pub fn encode_q1_0(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    q1_0_kernel(isa, rows, out);
}

/// Q2_0: `d = max|x|`, 2.25 bits a number.
pub fn encode_q2_0(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    q2_0_kernel(isa, rows, out);
}
