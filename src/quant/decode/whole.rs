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

/// Halves of a super-block, and which 16 of every 32 weights.
const SIDES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

#[inline(always)]
fn cut<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.first_chunk().unwrap_or(&[0; N])
}

/// Four runs of 16 weights, 32 apart.
#[inline(always)]
fn cut_mut(v: &mut [i16]) -> &mut [i16] {
    &mut v[..112]
}

/// Scales and minima in the two nibbles of a byte, numbers of two bits.
pub(crate) struct Q2K;

impl Whole<84> for Q2K {
    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 84], v: &mut [i16; SUPER]) -> Head {
        for (half, side) in SIDES {
            let (at, to) = (16 + 32 * half + 16 * side, 128 * half + 16 * side);
            let (q, v) = (cut::<16>(&b[at..]), cut_mut(&mut v[to..]));
            let s = [0, 2, 4, 6].map(|n| i16::from(b[8 * half + side + n] & 15));
            for j in 0..16 {
                v[j] = i16::from(q[j] & 3) * s[0];
                v[32 + j] = i16::from(q[j] >> 2 & 3) * s[1];
                v[64 + j] = i16::from(q[j] >> 4 & 3) * s[2];
                v[96 + j] = i16::from(q[j] >> 6) * s[3];
            }
        }
        let mut mins = [0.0; 16];
        for (i, b) in b[..16].iter().enumerate() {
            mins[i / 2 + i % 2 * 8] = f32::from(b >> 4);
        }
        Head { d: half_at(isa, b, 80), dmin: half_at(isa, b, 82), mins }
    }
}

/// Numbers of two bits, less four unless the bit in the first 32 bytes is set; no minima.
pub(crate) struct Q3K;

impl Whole<110> for Q3K {
    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 110], v: &mut [i16; SUPER]) -> Head {
        for (half, side) in SIDES {
            let (at, to) = (32 + 32 * half + 16 * side, 128 * half + 16 * side);
            let (q, h, v) =
                (cut::<16>(&b[at..]), cut::<16>(&b[16 * side..]), cut_mut(&mut v[to..]));
            let s = [0, 2, 4, 6].map(|n| i16::from(q3_scale(&b[96..108], 8 * half + side + n)));
            for j in 0..16 {
                let h = h[j] >> (4 * half);
                v[j] = (i16::from(q[j] & 3 | (h & 1) << 2) - 4) * s[0];
                v[32 + j] = (i16::from(q[j] >> 2 & 3 | (h >> 1 & 1) << 2) - 4) * s[1];
                v[64 + j] = (i16::from(q[j] >> 4 & 3 | (h >> 2 & 1) << 2) - 4) * s[2];
                v[96 + j] = (i16::from(q[j] >> 6 | (h >> 3 & 1) << 2) - 4) * s[3];
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
        for (half, side) in SIDES {
            let (low, high) = (64 * half + 16 * side, 128 + 32 * half + 16 * side);
            let (l, h) = (cut::<48>(&b[low..]), cut::<16>(&b[high..]));
            let v = cut_mut(&mut v[128 * half + 16 * side..]);
            let s = [0, 2, 4, 6].map(|n| i16::from(b[192 + 8 * half + side + n] as i8));
            for j in 0..16 {
                let (l, next, h) = (l[j], l[32 + j], h[j]);
                v[j] = (i16::from(l & 15 | (h & 3) << 4) - 32) * s[0];
                v[32 + j] = (i16::from(next & 15 | (h >> 2 & 3) << 4) - 32) * s[1];
                v[64 + j] = (i16::from(l >> 4 | (h >> 4 & 3) << 4) - 32) * s[2];
                v[96 + j] = (i16::from(next >> 4 | (h >> 6) << 4) - 32) * s[3];
            }
        }
        Head { d: half_at(isa, b, 208), dmin: 0.0, mins: [0.0; 16] }
    }
}
