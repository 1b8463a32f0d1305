//! Super-blocks of K-quants in whole numbers, for products that are summed without rounding.
//!
//! Weight `i` is `d * v[i] - dmin * min`, with a `min` for each block of 16. `v` is the stored number times
//! the scale of its block, of 13 bits and a sign at most (Q6_K: -32 to 31 times -128 to 127).

use super::{half_at, kquant::q3_scale};
use crate::quant::isa::Isa;

/// Weights of a super-block.
pub(crate) const SUPER: usize = 256;

/// What a super-block has beside `v`.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub d: f32,
    pub dmin: f32,
    /// Whole numbers, those of even blocks first.
    pub mins: [f32; 16],
}

/// A type that is decoded here.
pub(crate) trait Whole<const BYTES: usize> {
    fn decode(isa: Isa, block: &[u8; BYTES], v: &mut [i16; SUPER]) -> Head;
}

/// Scales and minima in the two nibbles of a byte, numbers of two bits.
pub(crate) struct Q2K;

impl Whole<84> for Q2K {
    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 84], v: &mut [i16; SUPER]) -> Head {
        let mut mins = [0.0; 16];
        for (i, v) in v.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (at, shift) = (16 + 32 * (i / 8) + 16 * (i % 2), 2 * (i % 8 / 2));
            let s = i16::from(b[i] & 15);
            for (v, q) in v.iter_mut().zip(&b[at..at + 16]) {
                *v = i16::from(q >> shift & 3) * s;
            }
            mins[i / 2 + i % 2 * 8] = f32::from(b[i] >> 4);
        }
        Head { d: half_at(isa, b, 80), dmin: half_at(isa, b, 82), mins }
    }
}

/// Numbers of two bits, less four unless the bit in the first 32 bytes is set; no minima.
pub(crate) struct Q3K;

impl Whole<110> for Q3K {
    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 110], v: &mut [i16; SUPER]) -> Head {
        for (i, v) in v.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let s = i16::from(q3_scale(&b[96..108], i));
            let (side, shift, bit) = (16 * (i % 2), 2 * (i % 8 / 2), i / 2);
            let at = 32 + 32 * (i / 8) + side;
            for ((v, q), h) in v.iter_mut().zip(&b[at..at + 16]).zip(&b[side..side + 16]) {
                *v = (i16::from(q >> shift & 3 | (h >> bit & 1) << 2) - 4) * s;
            }
        }
        Head { d: half_at(isa, b, 108), dmin: 0.0, mins: [0.0; 16] }
    }
}

/// Blocks of 32 in pairs, one in the low nibbles and one in the high ones.
pub(crate) struct Q4K;

impl Whole<144> for Q4K {
    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 144], v: &mut [i16; SUPER]) -> Head {
        pairs(isa, b, &b[16..], &[0; 32], v)
    }
}

/// As Q4_K, with a fifth bit.
pub(crate) struct Q5K;

impl Whole<176> for Q5K {
    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 176], v: &mut [i16; SUPER]) -> Head {
        pairs(isa, b, &b[48..], b[16..].first_chunk().unwrap_or(&[0; 32]), v)
    }
}

/// The scales and the minima of the eight blocks of Q4_K and Q5_K, a byte each; see [`super::kquant`].
#[inline(always)]
fn six_bits(head: &[u8]) -> (u64, u64) {
    let word = |at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (s, m, both) = (word(4), word(8), word(12));
    let above = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low & 0x3f3f_3f3f);
    (join(s, both & 0x0f0f_0f0f | above(s)), join(m, both >> 4 & 0x0f0f_0f0f | above(m)))
}

/// Nibbles in `qs`, and the bits above them in `qh`.
#[inline(always)]
fn pairs(isa: Isa, head: &[u8], qs: &[u8], qh: &[u8; 32], v: &mut [i16; SUPER]) -> Head {
    let (scales, mins) = six_bits(head);
    for (pair, (v, qs)) in
        v.as_chunks_mut::<64>().0.iter_mut().zip(qs.as_chunks::<32>().0).enumerate()
    {
        let scales = (scales >> (16 * pair)) as u16;
        let (low, high) = (scales as i16 & 63, (scales >> 8) as i16);
        for j in 0..32 {
            let above = qh[j] >> (2 * pair);
            v[j] = i16::from(qs[j] & 15 | (above & 1) << 4) * low;
            v[32 + j] = i16::from(qs[j] >> 4 | (above >> 1 & 1) << 4) * high;
        }
    }
    let mins = isa.numbers(u128::from(mins) << 64 | u128::from(mins), 0);
    Head { d: half_at(isa, head, 0), dmin: half_at(isa, head, 2), mins }
}

/// Numbers of six bits less 32: the quarters of each half of the super-block stand in the low nibbles of
/// its 64 bytes, then in the high ones, and up through the bytes of the two bits above; no minima.
pub(crate) struct Q6K;

impl Whole<210> for Q6K {
    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 210], v: &mut [i16; SUPER]) -> Head {
        for (i, v) in v.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (half, quarter, side) = (i / 8, i % 8 / 2, 16 * (i % 2));
            let s = i16::from(b[192 + i] as i8);
            let (low, high) = (64 * half + 32 * (quarter % 2) + side, 128 + 32 * half + side);
            let (low_shift, high_shift) = (4 * (quarter / 2), 2 * quarter);
            for ((v, l), h) in v.iter_mut().zip(&b[low..low + 16]).zip(&b[high..high + 16]) {
                *v = (i16::from(l >> low_shift & 15 | (h >> high_shift & 3) << 4) - 32) * s;
            }
        }
        Head { d: half_at(isa, b, 208), dmin: 0.0, mins: [0.0; 16] }
    }
}
