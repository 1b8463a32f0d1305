//! The trellis types of ik_llama.cpp: an index starts a generator of numbers, and the weights of a group are the
//! next numbers it gives.
//!
//! ```text
//! since 18 June 2025   x = x * 0xCBAC1FED;              level = the four bytes of x & 0x3f3f3f3f, added, less 126
//! before               x = x * 89226354 + 64248484;     level = both halves of (x & 0x8fff8fff) ^ 0x3b603b60,
//!                                                               added as f16, and the row's scale times 31.75
//! weight    row * s * level          row f32 in front of the row; s of each block of 32
//! IQ1_KT    13 bits for 8 weights    s  the first book of IQ4_K, by a nibble
//! IQ2_KT    16 bits for 8 weights    s  the same
//! IQ3_KT    16 bits for 8 weights    s  a nibble; the level without its sign, and a sign for each weight
//! IQ4_KT    15 bits for 4 weights    s  7 bits, less 64; before June 2025 the row's mean is added
//! ```
//!
//! Every generator starts at 4096 more than its index; that of IQ4_KT at 32768 more where the low bit of its
//! block's word says so.

use super::{
    kernel::{decoders, f32_at},
    levels::CURVE,
    scaled::{across, word},
};
use crate::quant::{half::f32_from_half, isa::Isa};

decoders!(4 iq1_kt, 4 iq2_kt, 4 iq3_kt, 4 iq4_kt, 4 iq2_kt_v1, 4 iq3_kt_v1, 8 iq4_kt_v1);

const START: u32 = 4096;

/// The next number, and the level that it stands for.
///
/// Four numbers of six bits, 0 to 63, whose sum is near a bell curve about 126.
#[inline(always)]
fn next(x: &mut u32) -> f32 {
    *x = x.wrapping_mul(0xcbac_1fed);
    let sum: u32 = (*x & 0x3f3f_3f3f).to_le_bytes().into_iter().map(u32::from).sum();
    (sum as i32 - 126) as f32
}

/// The same as it was at first.
///
/// `0x8fff` keeps the sign, the two low bits of the exponent and the mantissa of a half, and `0x3b60` sets the other
/// exponent bits: any number becomes one of 1/8 to 2 in magnitude, of either sign.
#[inline(always)]
fn first(x: &mut u32) -> f32 {
    *x = x.wrapping_mul(89_226_354).wrapping_add(64_248_484);
    let halves = (*x & 0x8fff_8fff) ^ 0x3b60_3b60;
    f32_from_half(halves as u16) + f32_from_half((halves >> 16) as u16)
}

/// Levels that an index of IQ2_KT and IQ3_KT stands for.
pub(crate) const LEVELS: usize = 8;

/// The levels of an index, by the generator of today or the first one; in units of each.
///
/// Bytes alone do not tell which: [`crate::quant::era`] compares what both make of them.
pub(crate) fn levels(index: u16, old: bool) -> [f32; LEVELS] {
    let mut x = u32::from(index) + START;
    std::array::from_fn(|_| if old { first(&mut x) } else { next(&mut x) })
}

/// What the first generator's levels are multiplied with.
const FIRST: f32 = 31.75;

/// Nibbles in `qh`, bytes in `ql` and a bit in the block's scale.
#[inline(always)]
fn iq1_kt(_: Isa, front: &[u8; 4], b: &[u8; 56], out: &mut [f32; 256]) {
    let d = f32_at(front, 0);
    for (n, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (g, k) = (n / 4, n % 4);
        let scale = b[g];
        let dl = d * f32::from(CURVE[usize::from(scale & 15)]);
        let high = u32::from(b[40 + 4 * (g % 4) + k] >> (4 * (g / 4)) & 15);
        let index = u32::from(b[8 + n]) | high << 8 | u32::from(scale >> (4 + k) & 1) << 12;
        let mut x = index + START;
        out.fill_with(|| dl * next(&mut x));
    }
}

/// IQ2_KT: four bytes of scales, two nibbles each, then a word for each eight weights.
#[inline(always)]
fn two(d: f32, b: &[u8; 68], out: &mut [f32; 256], next: impl Fn(&mut u32) -> f32) {
    for (n, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let dl = d * f32::from(CURVE[usize::from(across(&b[..4], n / 4))]);
        let mut x = u32::from(word(b, 4 + 2 * n)) + START;
        out.fill_with(|| dl * next(&mut x));
    }
}

#[inline(always)]
fn iq2_kt(_: Isa, front: &[u8; 4], b: &[u8; 68], out: &mut [f32; 256]) {
    two(f32_at(front, 0), b, out, next);
}

#[inline(always)]
fn iq2_kt_v1(_: Isa, front: &[u8; 4], b: &[u8; 68], out: &mut [f32; 256]) {
    two(f32_at(front, 0) * FIRST, b, out, first);
}

/// Bit `g` of `signs[m]` is the sign of weight `m` of block `g`.
/// IQ3_KT: as IQ2_KT, the level without its sign, and 32 bytes of signs at the end.
#[inline(always)]
fn three(d: f32, b: &[u8; 100], out: &mut [f32; 256], next: impl Fn(&mut u32) -> f32) {
    for (n, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (g, k) = (n / 4, n % 4);
        let dl = d * f32::from(across(&b[..4], g));
        let mut x = u32::from(word(b, 4 + 2 * n)) + START;
        for (out, signs) in out.iter_mut().zip(&b[68 + 8 * k..]) {
            let level = dl * next(&mut x).abs();
            *out = if signs >> g & 1 == 1 { -level } else { level };
        }
    }
}

#[inline(always)]
fn iq3_kt(_: Isa, front: &[u8; 4], b: &[u8; 100], out: &mut [f32; 256]) {
    three(f32_at(front, 0), b, out, next);
}

#[inline(always)]
fn iq3_kt_v1(_: Isa, front: &[u8; 4], b: &[u8; 100], out: &mut [f32; 256]) {
    three(f32_at(front, 0) * FIRST, b, out, first);
}

/// A word a block: where its generator starts, its scale, and three bits of each of its eight indices.
#[inline(always)]
fn four(d: f32, b: &[u8; 128], out: &mut [f32; 256], next: impl Fn(&mut u32) -> f32) {
    for (n, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let (g, k) = (n / 8, n % 8);
        let head = u32::from(word(b, 4 * g)) | u32::from(word(b, 4 * g + 2)) << 16;
        let dl = d * ((head >> 1 & 127) as i32 - 64) as f32;
        let high = u32::from(b[96 + n % 32] >> (4 * (n / 32)) & 15);
        let index = u32::from(b[32 + n]) | high << 8 | (head >> (8 + 3 * k) & 7) << 12;
        let mut x = index + START + 32768 * (head & 1);
        out.fill_with(|| dl * next(&mut x));
    }
}

#[inline(always)]
fn iq4_kt(_: Isa, front: &[u8; 4], b: &[u8; 128], out: &mut [f32; 256]) {
    four(f32_at(front, 0), b, out, next);
}

#[inline(always)]
fn iq4_kt_v1(_: Isa, front: &[u8; 8], b: &[u8; 128], out: &mut [f32; 256]) {
    four(f32_at(front, 0) * FIRST, b, out, first);
    let mean = f32_at(front, 4);
    out.iter_mut().for_each(|w| *w += mean);
}
