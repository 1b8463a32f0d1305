//! The plain number types F32, F16 and BF16, and the half-precision scales of every block.

use crate::per_isa;
use crate::quant::{half::half_from_f32, isa::Isa};

/// The upper half of the bits of `x`, rounded to nearest even, as ggml `ggml_compute_fp32_to_bf16`.
#[inline(always)]
pub fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    // Half a unit of the upper half less one, and one if that is odd: ties go to even.
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // A NaN must not lose its last bit and become infinite.
    let quiet = bits >> 16 | 64;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded }) as u16
}

/// Four bytes a number, little-endian; a NaN keeps its bits.
#[inline(always)]
fn f32_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.iter().zip(out.as_chunks_mut::<4>().0) {
        *bytes = x.to_le_bytes();
    }
}

/// Two bytes a number, little-endian: see [`half_from_f32`] for how it rounds and what becomes of NaN.
#[inline(always)]
fn f16_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.iter().zip(out.as_chunks_mut::<2>().0) {
        *bytes = half_from_f32(*x).to_le_bytes();
    }
}

/// Two bytes a number, little-endian: the sign, the eight bits of the exponent and seven of the mantissa.
#[inline(always)]
fn bf16_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.iter().zip(out.as_chunks_mut::<2>().0) {
        *bytes = bf16_from_f32(*x).to_le_bytes();
    }
}

/// Exponent bits all set, infinite or NaN, are magnitudes from 0x7f80_0000 on.
#[inline(always)]
fn finite_body(numbers: &[f32]) -> bool {
    // The largest of integers, which vectors find, is above those of all finite magnitudes if any is.
    let most = numbers.iter().fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most));
    f32::from_bits(most).is_finite()
}

per_isa! {
    /// Whether no number is infinite or none at all.
    pub fn all_finite(numbers: &[f32]) -> bool = finite_body;
    fn f32_kernel(rows: &[f32], out: &mut [u8]) = f32_body;
    fn f16_kernel(rows: &[f32], out: &mut [u8]) = f16_body;
    fn bf16_kernel(rows: &[f32], out: &mut [u8]) = bf16_body;
}

/// F32: the numbers as they are.
pub fn encode_f32(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    f32_kernel(isa, rows, out);
}

/// F16: the nearest half.
pub fn encode_f16(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    f16_kernel(isa, rows, out);
}

/// BF16: the nearest number with eight significant bits.
pub fn encode_bf16(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    bf16_kernel(isa, rows, out);
}
