//! Plain numbers: one a weight.

use super::kernel::{DecodeRows, decoders};
use crate::{per_isa, quant::isa::Isa};

decoders!(f32, bf16, f64, i8, i16, i32, i64);

/// The kernel that takes many numbers at a time: one by one, the processor's own conversion is no vector code.
pub(super) const HALVES: &[(&str, DecodeRows)] =
    &[("f16", |isa, rows, _, out| f16(isa, rows, out))];

per_isa! {
    fn f16(rows: &[u8], out: &mut [f32]) = halves[isa];
}

/// Sixteen at a time, the rest one by one.
#[inline(always)]
fn halves(isa: Isa, rows: &[u8], out: &mut [f32]) {
    let ((packs, rest), (to, to_rest)) = (rows.as_chunks(), out.as_chunks_mut());
    for (out, pack) in to.iter_mut().zip(packs) {
        isa.halves(pack, out);
    }
    for (out, half) in to_rest.iter_mut().zip(rest.as_chunks().0) {
        *out = isa.half(u16::from_le_bytes(*half));
    }
}

/// Four bytes as they are, NaN and all.
#[inline(always)]
fn f32(_: Isa, x: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = f32::from_le_bytes(*x);
}

/// bf16 is the upper half of an f32.
#[inline(always)]
fn bf16(_: Isa, x: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*x)) << 16);
}

/// Rounded to float32, as everything here is: the one plain type that may lose digits, with wide integers.
#[inline(always)]
fn f64(_: Isa, x: &[u8; 8], out: &mut [f32; 1]) {
    out[0] = f64::from_le_bytes(*x) as f32;
}

/// -128 to 127, each exact in f32; as are those of 16 bits.
#[inline(always)]
fn i8(_: Isa, x: &[u8; 1], out: &mut [f32; 1]) {
    out[0] = i8::from_le_bytes(*x).into();
}

#[inline(always)]
fn i16(_: Isa, x: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = i16::from_le_bytes(*x).into();
}

/// Exact up to 2^24.
#[inline(always)]
fn i32(_: Isa, x: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = i32::from_le_bytes(*x) as f32;
}

/// Exact up to 2^24, as those of 32 bits; beyond that to the nearest f32.
#[inline(always)]
fn i64(_: Isa, x: &[u8; 8], out: &mut [f32; 1]) {
    out[0] = i64::from_le_bytes(*x) as f32;
}
