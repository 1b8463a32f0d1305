//! i-quants that number points of a code book, groups of 8 or 4 weights a point: IQ1, IQ2, IQ3.
//!
//! IQ2 and IQ3 books hold magnitudes. Signs are beside: eight bits, or seven where the eighth makes
//! the number of minus signs even. IQ1 books hold -1, 0, 1; a delta of an eighth moves a group.
//!
//! ```text
//! points of 8 (IQ3: 4) weights; d is f16
//! IQ1_S    50  d qs[32] qh[8 of u16]                        d * (2s + 1) * (point + delta)
//! IQ1_M    56  qs[32] qh[16] scales[4 of u16]               the same, d in the top nibbles of the scales
//! IQ2_XXS  66  d, 8 times {indices[4] a}                    d * (s + 1/2) / 4 * point
//! IQ2_XS   74  d qs[32 of u16] scales[8]                    the same, s of 16 weights
//! IQ2_S    82  d qs[32] signs[32] qh[8] scales[8]           the same, indices of 10 bits
//! IQ3_XXS  98  d qs[64] a[8]                                d * (s + 1/2) / 2 * point
//! IQ3_S   110  d qs[64] qh[8] signs[32] scales[4]           d * (2s + 1) * point, indices of 9 bits
//!
//! IQ2_XXS  a of 32 weights:  31-28 s | 27-21 signs 3 | 20-14 signs 2 | 13-7 signs 1 | 6-0 signs 0
//! IQ2_XS   a u16 a group:    15-9 signs | 8-0 index
//! IQ1_S    qh of 32 weights: 15 delta | 14-12 s | 11-9, 8-6, 5-3, 2-0 high bits of the indices
//! IQ1_M    qh of 16 weights: 7 delta | 6-4 high bits of the second index | 3 delta | 2-0 of the first
//! IQ1_M    four u16:         15-12 a nibble of d | 11-9, 8-6, 5-3, 2-0 s of sixteen weights each
//! ```

use super::kernel::{decoders, half_at};
use crate::quant::{grid, half::f32_from_half, isa::Isa};
use std::sync::LazyLock;

decoders!(iq1_s_v1, iq1_s_v2, iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s_v1, iq3_s);

/// Points of a book, their coordinates as numbers.
type Points<const N: usize> = LazyLock<Vec<[i8; N]>>;

/// The points of a book, with what its digits are worth.
fn points<const N: usize>(name: &str, levels: &[i8]) -> Vec<[i8; N]> {
    grid::book(name).expect("the embedded books have the names that are asked for").points(levels)
}

const IQ2_LEVELS: &[i8] = &[8, 25, 43];
static IQ2_XXS: Points<8> = LazyLock::new(|| points("iq2_xxs", IQ2_LEVELS));
static IQ2_XS: Points<8> = LazyLock::new(|| points("iq2_xs", IQ2_LEVELS));
static IQ2_S: Points<8> = LazyLock::new(|| points("iq2_s", IQ2_LEVELS));
static IQ3_XXS: Points<4> = LazyLock::new(|| points("iq3_xxs", &[4, 12, 20, 28, 36, 44, 52, 62]));
// The same book of indices: in its first weeks with the magnitudes of IQ3_XXS, then with odd numbers.
static IQ3_S_V1: Points<4> = LazyLock::new(|| points("iq3_s", &[4, 12, 20, 28, 36, 44, 52, 62]));
static IQ3_S: Points<4> = LazyLock::new(|| points("iq3_s", &[1, 3, 5, 7, 9, 11, 13, 15]));
static IQ1: Points<8> = LazyLock::new(|| points("iq1", &[-1, 0, 1]));
static IQ1_V1: Points<8> = LazyLock::new(|| points("iq1_feb2024", &[-1, 0, 1]));

/// Eight signs of which seven are stored: the last makes the number of minus signs even.
///
/// ggml has the 128 bytes as a table, `ksigns_iq2xs`; this is how they come about.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    (seven & 127 | (seven.count_ones() & 1) << 7) as u8
}

/// `db * point`, weight `j` negative where bit `j` of `signs` is set.
#[inline(always)]
fn signed<const N: usize>(db: f32, point: &[i8; N], signs: u8, out: &mut [f32]) {
    for (j, (out, x)) in out.iter_mut().zip(point).enumerate() {
        // What multiplying by -1 does.
        let sign = u32::from(signs >> j & 1) << 31;
        *out = f32::from_bits((db * f32::from(*x)).to_bits() ^ sign);
    }
}

/// Two points of four weights each.
#[inline(always)]
fn signed_pair(db: f32, pair: [&[i8; 4]; 2], signs: u8, out: &mut [f32; 8]) {
    let (first, second) = out.split_at_mut(4);
    signed(db, pair[0], signs, first);
    signed(db, pair[1], signs >> 4, second);
}

/// Words are little-endian, and not aligned: a block of 66 or 98 bytes begins anywhere.
#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

#[inline(always)]
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// Of 32 weights four bytes of indices, then `a`: four times seven signs and, in the top nibble, the scale.
#[inline(always)]
fn iq2_xxs(isa: Isa, b: &[u8; 66], out: &mut [f32; 256]) {
    let (d, points) = (half_at(isa, b, 0), IQ2_XXS.as_slice());
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let at = 2 + 8 * ib;
        let a = u32_at(b, at + 4);
        let db = d * (0.5 + (a >> 28) as f32) * 0.25;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            signed(db, &points[usize::from(b[at + l])], even_signs(a >> (7 * l) & 127), out);
        }
    }
}

/// The scale of group `g` of eight: nibbles of sixteen weights.
#[inline(always)]
fn iq2_scale(d: f32, scales: &[u8], g: usize) -> f32 {
    let s = scales[g / 4] >> (4 * (g % 4 / 2)) & 15;
    d * (0.5 + f32::from(s)) * 0.25
}

/// Of 512 points, so that the index (9 bits) and the signs (7) of a group fill a u16; scales are beside.
#[inline(always)]
fn iq2_xs(isa: Isa, b: &[u8; 74], out: &mut [f32; 256]) {
    let (d, points) = (half_at(isa, b, 0), IQ2_XS.as_slice());
    for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let q = u16_at(b, 2 + 2 * g);
        let db = iq2_scale(d, &b[66..74], g);
        signed(db, &points[usize::from(q & 511)], even_signs(u32::from(q >> 9)), out);
    }
}

/// All eight signs are stored; an index of ten bits has its low eight in `qs[g]`, the high two in `qh[g / 4]`.
#[inline(always)]
fn iq2_s(isa: Isa, b: &[u8; 82], out: &mut [f32; 256]) {
    let (d, points) = (half_at(isa, b, 0), IQ2_S.as_slice());
    let (qs, signs, qh, scales) = (&b[2..34], &b[34..66], &b[66..74], &b[74..82]);
    for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = usize::from(qh[g / 4] >> (2 * (g % 4)) & 3);
        let point = &points[usize::from(qs[g]) | high << 8];
        signed(iq2_scale(d, scales, g), point, signs[g], out);
    }
}

/// Two points of four share the eight signs of a group; signs and scales as in IQ2_XXS, behind all indices.
#[inline(always)]
fn iq3_xxs(isa: Isa, b: &[u8; 98], out: &mut [f32; 256]) {
    let (d, points) = (half_at(isa, b, 0), IQ3_XXS.as_slice());
    let (qs, words) = (&b[2..66], &b[66..98]);
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let a = u32_at(words, 4 * ib);
        let db = d * (0.5 + (a >> 28) as f32) * 0.5;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let at = 8 * ib + 2 * l;
            let pair = [&points[usize::from(qs[at])], &points[usize::from(qs[at + 1])]];
            signed_pair(db, pair, even_signs(a >> (7 * l) & 127), out);
        }
    }
}

/// Both lives of IQ3_S: `scale(d, s)` and the points differ.
#[inline(always)]
fn iq3_s_with(
    isa: Isa,
    b: &[u8; 110],
    out: &mut [f32; 256],
    points: &[[i8; 4]],
    scale: impl Fn(f32, u8) -> f32,
) {
    let d = half_at(isa, b, 0);
    let (qs, qh, signs, scales) = (&b[2..66], &b[66..74], &b[74..106], &b[106..110]);
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let db = scale(d, scales[ib / 2] >> (4 * (ib % 2)) & 15);
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let point = |k: usize| {
                // Bit k of qh is the ninth of index k of these 32 weights.
                let high = usize::from(qh[ib] >> k & 1);
                &points[usize::from(qs[8 * ib + k]) | high << 8]
            };
            signed_pair(db, [point(2 * l), point(2 * l + 1)], signs[4 * ib + l], out);
        }
    }
}

/// As of the first weeks of 2024.
///
/// `(1/2 + s) / 2` with points from 4 to 62, until llama.cpp bbde6eb25 of 2 March 2024.
#[inline(always)]
fn iq3_s_v1(isa: Isa, b: &[u8; 110], out: &mut [f32; 256]) {
    iq3_s_with(isa, b, out, &IQ3_S_V1, |d, s| d * (0.5 + f32::from(s)) * 0.5);
}

/// As of today: scales are odd numbers.
#[inline(always)]
fn iq3_s(isa: Isa, b: &[u8; 110], out: &mut [f32; 256]) {
    iq3_s_with(isa, b, out, &IQ3_S, |d, s| d * f32::from(1 + 2 * s));
}

/// `dl * (point + delta)`.
///
/// The sum first, then the product: eighths are exact, so only the product rounds.
#[inline(always)]
fn shifted(dl: f32, point: &[i8; 8], delta: f32, out: &mut [f32; 8]) {
    for (out, x) in out.iter_mut().zip(point) {
        *out = dl * (f32::from(*x) + delta);
    }
}

/// The odd scale `2s + 1` of three or four bits.
#[inline(always)]
fn odd(d: f32, s: u16) -> f32 {
    d * f32::from(2 * s + 1)
}

/// A nibble a group: three bits of scale and the ninth of the index.
///
/// The book of 512 points that llama.cpp bd2d4e393 had, with scales of one group of eight.
#[inline(always)]
fn iq1_s_v1(isa: Isa, b: &[u8; 50], out: &mut [f32; 256]) {
    let (d, points) = (half_at(isa, b, 0), IQ1_V1.as_slice());
    let (qs, scales) = (&b[2..34], &b[34..50]);
    for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // Bit 3 goes to bit 8 of the index.
        let n = scales[g / 2] >> (4 * (g % 2)) & 15;
        let point = &points[usize::from(qs[g]) | usize::from(n & 8) << 5];
        for (out, x) in out.iter_mut().zip(point) {
            *out = odd(d, (n & 7).into()) * f32::from(*x);
        }
    }
}

/// The point of group `l` of 32 weights.
#[inline(always)]
fn iq1_point(low: u8, qh: u16, l: usize) -> usize {
    usize::from(low) | usize::from(qh >> (3 * l) & 7) << 8
}

/// As IQ1_S, but with four bits of scale and no delta.
#[inline(always)]
fn iq1_s_v2(isa: Isa, b: &[u8; 50], out: &mut [f32; 256]) {
    let (d, points) = (half_at(isa, b, 0), IQ1.as_slice());
    for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let qh = u16_at(b, 34 + 2 * (g / 4));
        let point = &points[iq1_point(b[2 + g], qh, g % 4)];
        for (out, x) in out.iter_mut().zip(point) {
            *out = odd(d, qh >> 12) * f32::from(*x);
        }
    }
}

/// `d * (2s + 1) * (point + delta)`, scale and delta of 32 weights.
#[inline(always)]
fn iq1_s(isa: Isa, b: &[u8; 50], out: &mut [f32; 256]) {
    let d = half_at(isa, b, 0);
    let blocks = b[2..34].as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<32>().0);
    for (ib, (low, out)) in blocks.enumerate() {
        iq1_s_block(d, *low, u16_at(b, 34 + 2 * ib), out.as_chunks_mut().0);
    }
}

/// 32 weights of IQ1_S: the low bytes of four points, their other bits, and the scale and shift of all.
#[inline(always)]
pub(super) fn iq1_s_block(d: f32, low: [u8; 4], qh: u16, out: &mut [[f32; 8]]) {
    let points = IQ1.as_slice();
    let delta = if qh & 0x8000 != 0 { -0.125 } else { 0.125 };
    for (l, (out, low)) in out.iter_mut().zip(low).enumerate() {
        shifted(odd(d, qh >> 12 & 7), &points[iq1_point(low, qh, l)], delta, out);
    }
}

/// Eight weights of IQ1_M: the low byte of their point, its other bits, and the side to which it is shifted.
#[inline(always)]
pub(super) fn iq1_m_point(dl: f32, low: u8, n: u8, out: &mut [f32; 8]) {
    let delta = if n & 8 != 0 { -0.125 } else { 0.125 };
    shifted(dl, &IQ1[usize::from(low) | usize::from(n & 7) << 8], delta, out);
}

/// The f16 scale of the whole is spread over the top nibbles of the four words, the lowest first; three bits of each
/// of them scale two groups of eight.
#[inline(always)]
fn iq1_m(_: Isa, b: &[u8; 56], out: &mut [f32; 256]) {
    let word = |i: usize| u16_at(b, 48 + 2 * i);
    let d = word(0) >> 12 | word(1) >> 8 & 0x00f0 | word(2) >> 4 & 0x0f00 | word(3) & 0xf000;
    let d = f32_from_half(d);
    for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let dl = odd(d, word(g / 8) >> (3 * (g % 8 / 2)) & 7);
        iq1_m_point(dl, b[g], b[32 + g / 2] >> (4 * (g % 2)) & 15, out);
    }
}
