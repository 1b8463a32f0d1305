//! Plain numbers: one a weight.

use super::decoders;
use crate::quant::{half::f32_from_half, isa::Isa};

decoders!(f32, f16, bf16, f64, i8, i16, i32, i64);

#[inline(always)]
pub(crate) fn f32(_: Isa, x: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = f32::from_le_bytes(*x);
}

#[inline(always)]
pub(crate) fn f16(_: Isa, x: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = f32_from_half(u16::from_le_bytes(*x));
}

/// bf16 is the upper half of an f32.
#[inline(always)]
pub(crate) fn bf16(_: Isa, x: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*x)) << 16);
}

#[inline(always)]
fn f64(_: Isa, x: &[u8; 8], out: &mut [f32; 1]) {
    out[0] = f64::from_le_bytes(*x) as f32;
}

#[inline(always)]
fn i8(_: Isa, x: &[u8; 1], out: &mut [f32; 1]) {
    out[0] = i8::from_le_bytes(*x).into();
}

#[inline(always)]
fn i16(_: Isa, x: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = i16::from_le_bytes(*x).into();
}

#[inline(always)]
fn i32(_: Isa, x: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = i32::from_le_bytes(*x) as f32;
}

#[inline(always)]
fn i64(_: Isa, x: &[u8; 8], out: &mut [f32; 1]) {
    out[0] = i64::from_le_bytes(*x) as f32;
}
