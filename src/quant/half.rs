//! Half-precision numbers: the plain type F16, and the scales of every block.
//!
//! ```text
//! f32    1 sign | 8 exponent, bias 127 | 23 mantissa
//! f16    1 sign | 5 exponent, bias 15  | 10 mantissa
//!
//! largest f16      65504 = 0x7bff        65520 and above rounds to infinity
//! smallest normal  2^-14 = 0x0400        below it a unit is 2^-24
//! smallest         2^-24 = 0x0001        2^-25 and below rounds to zero
//! ```
//!
//! Moving the exponent from bias 127 to bias 15 is a subtraction of 112 << 23 from the bits, or, the other way, a
//! product with 2^112, which gets subnormal halves right as well.

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

/// The half at `at`, as `f32`.
pub(crate) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f32_from_half(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// Stores the nearest half at `at`; returns it as `f32`.
pub(crate) fn put_half(bytes: &mut [u8], at: usize, x: f32) -> f32 {
    let half = half_from_f32(x);
    bytes[at..at + 2].copy_from_slice(&half.to_le_bytes());
    f32_from_half(half)
}
