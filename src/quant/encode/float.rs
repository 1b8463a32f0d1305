//! The plain number types F32, F16 and BF16, and the half-precision scales of every block.

use crate::per_isa;
use crate::quant::isa::Isa;

/// The bits of the half nearest to `x`, ties to even, as ggml `ggml_compute_fp32_to_fp16` makes them.
///
/// A NaN keeps only its sign. Without branches, so that loops over it become vector code.
#[inline(always)]
pub fn half_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Exponent moved from bias 127 to 15, then half a unit (less one, plus the odd bit) added.
    let normal =
        magnitude.wrapping_add(0xc800_0fff).wrapping_add((magnitude >> 13) & 1).wrapping_shr(13);
    // Below 2^-14 a unit is 2^-24, which is what the addition to 0.5 rounds to.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let nonsign = if magnitude < 0x4780_0000 { finite } else { special };
    ((bits >> 16) & 0x8000 | nonsign) as u16
}

/// The value of a half, exactly.
#[inline(always)]
pub fn f32_from_half(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    // A product with a power of two moves the exponent, also that of a subnormal half.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let nonsign = if magnitude < 0x0f80_0000 { finite } else { special };
    f32::from_bits(u32::from(half & 0x8000) << 16 | nonsign)
}

/// The upper half of the bits of `x`, rounded to nearest even, as ggml `ggml_compute_fp32_to_bf16`.
#[inline(always)]
fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = bits >> 16 | 64;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded }) as u16
}

#[inline(always)]
fn f32_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.iter().zip(out.as_chunks_mut::<4>().0) {
        *bytes = x.to_le_bytes();
    }
}

#[inline(always)]
fn f16_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.iter().zip(out.as_chunks_mut::<2>().0) {
        *bytes = half_from_f32(*x).to_le_bytes();
    }
}

#[inline(always)]
fn bf16_body(rows: &[f32], out: &mut [u8]) {
    for (x, bytes) in rows.iter().zip(out.as_chunks_mut::<2>().0) {
        *bytes = bf16_from_f32(*x).to_le_bytes();
    }
}

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
