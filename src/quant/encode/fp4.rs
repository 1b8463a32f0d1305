//! MXFP4 and NVFP4: four-bit floating point numbers under a scale that is a small float itself.
//!
//! ```text
//! MXFP4  17 bytes, 32 numbers   e:u8, nibbles: byte j holds numbers j and j + 16
//! NVFP4  36 bytes, 64 numbers   four scales per 16 numbers: 4 exponent bits, 3 of mantissa,
//!                               then nibbles: byte j of a part holds its numbers j and j + 8
//! x ~ d * q,   q = 0 1 2 3 4 6 8 12 and their negatives;   MXFP4: d = 2^(e - 128)
//! ```
//!
//! Importance plays no part. Source: ggml `quantize_row_mxfp4_ref`, `quantize_row_nvfp4_ref`.

use super::ternary::largest_magnitude;
use crate::per_isa;
use crate::quant::isa::Isa;

/// Twice the values of E2M1, ggml `kvalues_fp4`; the second zero is never nearer than the first.
const LEVELS: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Half way between the levels from 0 up; a number here takes the lower one.
const MIDDLES: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];

/// For every number the first of the levels, times `d`, that is nearest; `max` is the largest magnitude.
#[inline(always)]
fn nearest<const N: usize>(x: &[f32; N], max: f32, d: f32) -> [u8; N] {
    // The original compares differences. Within a few levels those near a middle are exact, so that
    // counting the middles below a number comes to the same.
    if max <= 16.0 * d {
        let middles = MIDDLES.map(|middle| middle * d);
        x.map(|x| {
            let above = middles.iter().fold(0, |sum, &middle| sum + u32::from(x.abs() > middle));
            (above + u32::from(x < -middles[0]) * 8) as u8
        })
    } else {
        x.map(|x| first_nearest(x, d))
    }
}

/// For numbers far beyond the levels, where differences round, or infinite, or a scale of 0.
#[cold]
fn first_nearest(x: f32, d: f32) -> u8 {
    let error = |k: usize| (LEVELS[k] * d - x).abs();
    (1..16).fold(0, |best, k| if error(k) < error(best) { k } else { best }) as u8
}

/// The floor of the base-2 logarithm of a finite `x > 0`, as `floorf(log2f(x))` gives it.
///
/// A logarithm just below an integer `k` rounds up to it: half a unit of a float near `k`, measured in
/// units of `x`, is `ln 2 / 2` times the power of two that `|k|` lies under.
#[inline(always)]
fn floor_log2(x: f32) -> i32 {
    let bits = x.to_bits();
    if bits < 0x0080_0000 {
        return (f64::from(x).log2() as f32).floor() as i32;
    }
    let below = (bits >> 23) as i32 - 127;
    let k = below + 1;
    let power = if k > 0 { k } else { 1 - k }.cast_unsigned().next_power_of_two();
    let swallowed = (power as f32 * (std::f32::consts::LN_2 / 2.0)) as u32;
    below + i32::from(bits & 0x007f_ffff > 0x007f_ffff - swallowed)
}

/// Rounds rows to blocks of 32 floats E2M1 under a power of two.
///
/// A float E2M1 has a sign, two exponent bits and one mantissa bit, and 6 is the largest:
///
/// ```text
/// nibble   0   1     2   3     4   5   6   7       8 .. 15
/// value    0   0.5   1   1.5   2   3   4   6       the same, negative
/// ```
///
/// The stored exponent is `floor(log2(max|x|)) - 2 + 127`: the largest number then falls between 4 and 8 times the
/// scale, and what is above 6 is cut.
#[inline(always)]
fn mxfp4_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<17>().0) {
        let max = largest_magnitude(x);
        let scaled = max > 0.0 && max < f32::INFINITY;
        let e = if scaled { (floor_log2(max) + 125) as u8 } else { 0 };
        let d = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 });
        let q = nearest(x, max, d);
        bytes[0] = e;
        for j in 0..16 {
            bytes[1 + j] = q[j] | q[16 + j] << 4;
        }
    }
}

/// The nearest float of 4 exponent and 3 mantissa bits, halves up; 0 for what is not above 0.
///
/// All from 256 on is 448, the largest, as ggml `ggml_fp32_to_ue4m3` leaves out the other seven numbers
/// of the highest exponent.
///
/// ```text
/// bits of the byte   6-3         2-0           exponent bias 7, no sign
/// value              2^(e - 7) * (1 + m / 8)   or m * 2^-9 where e is 0
/// ```
#[inline(always)]
fn small_float(x: f32) -> u8 {
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    if x.to_bits() < (121 << 23) {
        // Below 2^-6 a unit is 2^-9, and seven units are the most.
        return ((x * 512.0 + 0.5) as u8).min(7);
    }
    // The last bit kept, plus the first dropped; a carry runs into the exponent.
    let rounded = ((x.to_bits() >> 19) + 1) >> 1;
    let bits = rounded - (120 << 3);
    if bits < 0x78 { bits as u8 } else { 0x7e }
}

/// Half the value of such a float; the levels are doubled.
#[inline(always)]
fn half_value(bits: u8) -> f32 {
    match bits {
        0..8 => f32::from(bits) / 1024.0,
        _ => f32::from_bits((u32::from(bits) + (119 << 3)) << 20),
    }
}

/// A scale for 16 numbers takes the largest of them to 6, the largest E2M1.
#[inline(always)]
fn nvfp4_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<36>().0) {
        for (s, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let max = largest_magnitude(x);
            let scale = small_float(max / 6.0);
            let q = nearest(x, max, half_value(scale));
            bytes[s] = scale;
            for j in 0..8 {
                bytes[4 + 8 * s + j] = q[j] | q[8 + j] << 4;
            }
        }
    }
}

per_isa! {
    fn mxfp4_kernel(rows: &[f32], out: &mut [u8]) = mxfp4_body;
    fn nvfp4_kernel(rows: &[f32], out: &mut [u8]) = nvfp4_body;
}

/// MXFP4, 4.25 bits a number.
pub fn encode_mxfp4(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    mxfp4_kernel(isa, rows, out);
}

/// NVFP4, 4.5 bits a number.
pub fn encode_nvfp4(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    nvfp4_kernel(isa, rows, out);
}
