//! IQ2_XXS, IQ2_XS and IQ2_S: eight numbers a group, about two bits each.
//!
//! ```text
//! IQ2_XXS  66 bytes   d:f16, then per 32 numbers: 4 point indices, u32 = scale:4 | signs:7 x 4
//! IQ2_XS   74 bytes   d:f16, u16[32] = signs:7 | index:9, scales: a nibble per 16 numbers
//! IQ2_S    82 bytes   d:f16, index[32], signs[32], two more index bits[8], scales as IQ2_XS
//! ```
//!
//! A number is restored as `±d · (2 level + 1) / 8 · p`: d is f16, a level has 4 bits, and the magnitudes p of
//! eight numbers are one of 256 (XXS), 512 (XS) or 1024 (S) points, each of 8s, 25s and 43s, for the digits 0, 1
//! and 2, which the search takes as 1, 3 and 5. Seven sign bits stand for eight numbers where the count of minus
//! signs is even; where it is odd, the number with the smallest weighted square gets the other sign. IQ2_S has
//! room for all eight.
//!
//! The search is that of [`super::magnitude`]. Where a type demands importance and there is none, all
//! columns count the same; ggml stops there.

use super::lattice::{self, Lattice};
use super::magnitude::{Again, Encoded, Kind, SUPER, encode};
use crate::per_isa;
use crate::quant::half::half_from_f32;
use crate::quant::isa::Isa;

// The numbers of the three searches, as llama.cpp's functions have them one by one:
//
//           numbers a scale   scales tried          rounded again         signs   sigma2 (mean = sum x^2 / 256)
//     XXS   32                13, 0.1 apart of 5    every group           7 of 8  mean
//     XS    16                19, 0.1 apart         groups off the book   7 of 8  mean
//     S     16                19, 0.1 apart         groups off the book   8 of 8  2 * mean
//
// "Of 5": the magnitude that a candidate takes the largest number of a sub-block to is 5 = 2 * TOP + 1, more or less.
// XXS takes for the largest number three times the scale of a plain search, which comes first.
struct Xxs;
struct Xs;
struct S;

impl Kind for Xxs {
    const SUB: usize = 32;
    const TOP: i32 = 2;
    const REACH: i32 = 6;
    const STEP: f32 = 0.1;
    const EVEN_SIGNS: bool = true;
    const SMALLEST: f32 = 1e-15;
    const AGAIN: Again = Again::All;
    const PRESEARCH: bool = true;
    #[inline(always)]
    fn variance(sum: f32) -> f32 {
        sum / 256.0
    }
    #[inline(always)]
    fn weight(x: f32, variance: f32) -> f32 {
        (variance + x * x).sqrt()
    }
    #[inline(always)]
    fn lattice() -> &'static Lattice {
        &lattice::IQ2_XXS
    }
}

impl Kind for Xs {
    const SUB: usize = 16;
    const TOP: i32 = 2;
    const REACH: i32 = 9;
    const STEP: f32 = 0.1;
    const EVEN_SIGNS: bool = true;
    const SMALLEST: f32 = 1e-15;
    const AGAIN: Again = Again::Moved;
    const PRESEARCH: bool = false;
    #[inline(always)]
    fn variance(sum: f32) -> f32 {
        sum / 256.0
    }
    #[inline(always)]
    fn weight(x: f32, variance: f32) -> f32 {
        (variance + x * x).sqrt()
    }
    #[inline(always)]
    fn lattice() -> &'static Lattice {
        &lattice::IQ2_XS
    }
}

impl Kind for S {
    const SUB: usize = 16;
    const TOP: i32 = 2;
    const REACH: i32 = 9;
    const STEP: f32 = 0.1;
    const EVEN_SIGNS: bool = false;
    const SMALLEST: f32 = 1e-8;
    const AGAIN: Again = Again::Moved;
    const PRESEARCH: bool = false;
    #[inline(always)]
    fn variance(sum: f32) -> f32 {
        2.0 * sum / 256.0
    }
    #[inline(always)]
    fn weight(x: f32, variance: f32) -> f32 {
        0.25 * variance + x * x
    }
    #[inline(always)]
    fn lattice() -> &'static Lattice {
        &lattice::IQ2_S
    }
}

/// Packs 66 bytes. Eight of them are 32 numbers:
///
/// ```text
/// byte   0       1       2       3       4 .. 8, a little-endian u32
///        point   point   point   point   bits 31-28 scale | 27-21 signs of the fourth eight | .. | 6-0 of the first
/// ```
///
/// `d` is the largest scale over 31: a level of four bits is restored as `2 * level + 1`, 31 at most.
#[inline(always)]
fn xxs_body(isa: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 66]) {
    let block = encode::<Xxs, 8>(isa, x, importance);
    out.fill(0);
    if block.largest == 0.0 {
        return;
    }
    out[..2].copy_from_slice(&half_from_f32(block.largest / 31.0).to_le_bytes());
    let levels = block.levels();
    for (b, bytes) in out[2..].as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let mut high = u32::from(levels[b]) << 28;
        for (k, at) in (4 * b..4 * b + 4).enumerate() {
            bytes[k] = block.index[at] as u8;
            high |= u32::from(block.signs[at] & 127) << (7 * k);
        }
        bytes[4..].copy_from_slice(&high.to_le_bytes());
    }
}

/// Packs 74 bytes: `d`, a word for each eight numbers, `signs:7 | index:9`, and eight bytes of scales.
#[inline(always)]
fn xs_body(isa: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 74]) {
    let block = encode::<Xs, 8>(isa, x, importance);
    out.fill(0);
    if block.largest == 0.0 {
        return;
    }
    out[..2].copy_from_slice(&half_from_f32(block.largest / 31.0).to_le_bytes());
    for (k, bytes) in out[2..66].as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *bytes = (block.index[k] | u16::from(block.signs[k] & 127) << 9).to_le_bytes();
    }
    put_nibbles(&block, &mut out[66..]);
}

/// Packs 82 bytes. The index of group `k` has ten bits: eight in `qs[k]`, two in pair `k % 4` of `qh[k / 4]`.
///
/// Indices and signs are stored even where all scales are 0, as the original does. The factor 0.9875 is llama.cpp's,
/// which gives no reason for it.
#[inline(always)]
fn s_body(isa: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 82]) {
    let block = encode::<S, 8>(isa, x, importance);
    out.fill(0);
    for k in 0..32 {
        out[2 + k] = block.index[k] as u8;
        out[34 + k] = block.signs[k];
        out[66 + k / 4] |= ((block.index[k] >> 8) as u8) << (2 * (k % 4));
    }
    if block.largest == 0.0 {
        return;
    }
    out[..2].copy_from_slice(&half_from_f32(block.largest / 31.0 * 0.9875).to_le_bytes());
    put_nibbles(&block, &mut out[74..]);
}

/// The scales of 16 numbers, two a byte: that of the even sub-block in the low nibble.
#[inline(always)]
fn put_nibbles(block: &Encoded, out: &mut [u8]) {
    for (byte, pair) in out.iter_mut().zip(block.levels().as_chunks::<2>().0) {
        *byte = pair[0] | pair[1] << 4;
    }
}

per_isa! {
    fn xxs_kernel(same: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 66]) = xxs_body;
    fn xs_kernel(same: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 74]) = xs_body;
    fn s_kernel(same: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 82]) = s_body;
}

/// IQ2_XXS, 2.06 bits a number (ggml `quantize_row_iq2_xxs_impl`).
pub fn encode_iq2_xxs(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    super::magnitude::each_super_block(rows, len, m, out, |x, m, out| {
        xxs_kernel(isa, isa, x, m, out);
    });
}

/// IQ2_XS, 2.31 bits a number (ggml `quantize_row_iq2_xs_impl`).
pub fn encode_iq2_xs(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    super::magnitude::each_super_block(rows, len, m, out, |x, m, out| {
        xs_kernel(isa, isa, x, m, out);
    });
}

/// IQ2_S, 2.56 bits a number (ggml `quantize_row_iq2_s_impl`).
pub fn encode_iq2_s(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    super::magnitude::each_super_block(rows, len, m, out, |x, m, out| {
        s_kernel(isa, isa, x, m, out);
    });
}
