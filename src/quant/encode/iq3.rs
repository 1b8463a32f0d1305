//! IQ3_XXS and IQ3_S: four numbers a group, about three bits each.
//!
//! ```text
//! IQ3_XXS   98 bytes   d:f16, index[64], then per 32 numbers: u32 = scale:4 | signs:7 x 4
//! IQ3_S    110 bytes   d:f16, index[64], ninth index bits[8], signs[32], a nibble per 32 numbers
//! ```
//!
//! A number is restored as `±d · (2 level + 1) · p`, where a level has four bits, and the magnitudes p of four numbers
//! are one of 256 (XXS) or 512 (S) points. The search takes the digits 0 to 7 of a point as the odd magnitudes 1 to 15;
//! so does the book of IQ3_S, while that of IQ3_XXS has them four times as large, and restoring divides by 4. Seven
//! sign bits stand for eight numbers, that is for two groups, as in [`super::iq2`]; IQ3_S has room for all eight.
//!
//! The search is that of [`super::magnitude`].

use super::lattice::{self, Lattice};
use super::magnitude::{Again, Kind, SUPER, each_super_block, encode};
use crate::per_isa;
use crate::quant::half::half_from_f32;
use crate::quant::isa::Isa;

// The numbers of the two searches, as llama.cpp's functions have them one by one: XXS tries 31 scales and rounds the
// groups that are off the book once more; S tries 19, and rounds all groups again if one was off the book. Candidates
// are 0.2 apart of 15, the magnitude that the largest number is taken to.
struct Xxs;
struct S;

impl Kind for Xxs {
    const SUB: usize = 32;
    const TOP: i32 = 7;
    const REACH: i32 = 15;
    const STEP: f32 = 0.2;
    const EVEN_SIGNS: bool = true;
    const SMALLEST: f32 = 1e-8;
    const AGAIN: Again = Again::Moved;
    const PRESEARCH: bool = false;
    #[inline(always)]
    fn variance(sum: f32) -> f32 {
        2.0 * sum / 256.0
    }
    #[inline(always)]
    fn weight(x: f32, _: f32) -> f32 {
        x * x
    }
    #[inline(always)]
    fn lattice() -> &'static Lattice {
        &lattice::IQ3_XXS
    }
}

impl Kind for S {
    const SUB: usize = 32;
    const TOP: i32 = 7;
    const REACH: i32 = 9;
    const STEP: f32 = 0.2;
    const EVEN_SIGNS: bool = false;
    const SMALLEST: f32 = 0.0;
    const AGAIN: Again = Again::AllIfAnyMoved;
    const PRESEARCH: bool = false;
    #[inline(always)]
    fn variance(sum: f32) -> f32 {
        2.0 * sum / 256.0
    }
    #[inline(always)]
    fn weight(x: f32, _: f32) -> f32 {
        x * x
    }
    #[inline(always)]
    fn lattice() -> &'static Lattice {
        &lattice::IQ3_S
    }
}

/// Packs 98 bytes: `d`, an index of eight bits for each four numbers, and a word for each 32 of them:
///
/// ```text
/// bits  31-28   27-21         20-14   13-7    6-0
///       scale   signs 24-31   16-23   8-15    signs of numbers 0 to 7
/// ```
///
/// 1.0125 is llama.cpp's factor; it says that the result is a little better.
#[inline(always)]
fn xxs_body(isa: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 98]) {
    let block = encode::<Xxs, 4>(isa, x, importance);
    out.fill(0);
    if block.largest == 0.0 {
        return;
    }
    out[..2].copy_from_slice(&half_from_f32(block.largest / 31.0 * 1.0125).to_le_bytes());
    for (byte, index) in out[2..66].iter_mut().zip(block.index) {
        *byte = index as u8;
    }
    let levels = block.levels();
    for (b, bytes) in out[66..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let signs =
            (0..4).fold(0, |all, k| all | u32::from(block.signs[4 * b + k] & 127) << (7 * k));
        *bytes = (u32::from(levels[b]) << 28 | signs).to_le_bytes();
    }
}

/// Packs 110 bytes. Bit `k` of `qh[b]` is the ninth of index `k` of sub-block `b`; signs are a byte for eight numbers.
#[inline(always)]
fn s_body(isa: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 110]) {
    let block = encode::<S, 4>(isa, x, importance);
    out.fill(0);
    // The original does not step over an empty sub-block: the low index bits and signs of those after
    // it move up, though not their ninth index bits, and what such a block decodes to is wrong.
    for (place, b) in (0..8).filter(|&b| !block.empty[b]).enumerate() {
        for (k, index) in block.index[8 * b..8 * b + 8].iter().enumerate() {
            out[2 + 8 * place + k] = *index as u8;
            out[66 + b] |= ((index >> 8) as u8) << k;
        }
        out[74 + 4 * place..][..4].copy_from_slice(&block.signs[4 * b..4 * b + 4]);
    }
    if block.largest == 0.0 {
        return;
    }
    out[..2].copy_from_slice(&half_from_f32(block.largest / 31.0 * 1.033).to_le_bytes());
    for (byte, pair) in out[106..].iter_mut().zip(block.levels().as_chunks::<2>().0) {
        *byte = pair[0] | pair[1] << 4;
    }
}

per_isa! {
    fn xxs_kernel(same: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 98]) = xxs_body;
    fn s_kernel(same: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 110]) = s_body;
}

/// IQ3_XXS, 3.06 bits a number (ggml `quantize_row_iq3_xxs_impl`).
pub fn encode_iq3_xxs(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    each_super_block(rows, len, m, out, |x, m, out| xxs_kernel(isa, isa, x, m, out));
}

/// IQ3_S, 3.44 bits a number (ggml `quantize_row_iq3_s_impl`).
pub fn encode_iq3_s(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    each_super_block(rows, len, m, out, |x, m, out| s_kernel(isa, isa, x, m, out));
}
