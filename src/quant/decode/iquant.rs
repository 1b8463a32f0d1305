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

use super::{
    kernel::{decoders, half_at},
    whole::{EACH, Head, SUPER, Whole, decoded, plain},
};
use crate::quant::{
    grid,
    isa::{Isa, row::Bytes, stored::both},
};
use std::sync::LazyLock;

decoders!(iq1_s_v1, iq1_s_v2, iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s_v1, iq3_s);

/// Points of a book, the coordinates of each as the bytes of a word.
type Points<W, const N: usize> = LazyLock<Box<[W; N]>>;

/// The points of a book, with what its digits are worth.
fn points<const N: usize, const D: usize>(name: &str, levels: &[i8]) -> Box<[[u8; D]; N]> {
    let book = grid::book(name).expect("the embedded books have the names that are asked for");
    let points = book.points::<D>(levels).into_iter().map(|point| point.map(|x| x as u8));
    let points: Box<[[u8; D]]> = points.collect();
    points.try_into().expect("a book has as many points as its indices have values")
}

/// Eight coordinates a point.
fn eights<const N: usize>(name: &str, levels: &[i8]) -> Box<[u64; N]> {
    Box::new(points::<N, 8>(name, levels).map(u64::from_le_bytes))
}

/// Four coordinates a point.
fn fours<const N: usize>(name: &str, levels: &[i8]) -> Box<[u32; N]> {
    Box::new(points::<N, 4>(name, levels).map(u32::from_le_bytes))
}

const IQ2_LEVELS: &[i8] = &[8, 25, 43];
const IQ3_LEVELS: &[i8] = &[4, 12, 20, 28, 36, 44, 52, 62];
static IQ2_XXS: Points<u64, 256> = LazyLock::new(|| eights("iq2_xxs", IQ2_LEVELS));
static IQ2_XS: Points<u64, 512> = LazyLock::new(|| eights("iq2_xs", IQ2_LEVELS));
static IQ2_S: Points<u64, 1024> = LazyLock::new(|| eights("iq2_s", IQ2_LEVELS));
static IQ3_XXS: Points<u32, 256> = LazyLock::new(|| fours("iq3_xxs", IQ3_LEVELS));
// The same book of indices: in its first weeks with the magnitudes of IQ3_XXS, then with odd numbers.
static IQ3_S_V1: Points<u32, 512> = LazyLock::new(|| fours("iq3_s", IQ3_LEVELS));
static IQ3_S: Points<u32, 512> = LazyLock::new(|| fours("iq3_s", &[1, 3, 5, 7, 9, 11, 13, 15]));
/// In eighths, with the bias of [`Iq1S`] and less one, which a delta above zero adds twice.
static IQ1: Points<u64, 2048> = LazyLock::new(|| eights("iq1", &[7, 15, 23]));
static IQ1_V1: Points<u64, 512> = LazyLock::new(|| eights("iq1_feb2024", &[-1, 0, 1]));

/// Four fields of seven bits, one above the other, in a byte each.
#[inline(always)]
fn sevens(a: u32) -> u32 {
    a & 0x7f | (a & 0x3f80) << 1 | (a & 0x001f_c000) << 2 | (a & 0x0fe0_0000) << 3
}

/// Eight signs a byte, of which seven are stored: the last makes the number of minus signs even.
#[inline(always)]
fn even_signs(sevens: u32) -> u32 {
    // Of each byte the lowest bit becomes the parity of all.
    let mut odd = sevens ^ sevens >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    sevens | (odd & 0x0101_0101) << 7
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

#[inline(always)]
fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*block[at..].first_chunk().unwrap_or(&[0; 8]))
}

/// `2s + 1` of each of eight bytes, for 32 weights.
#[inline(always)]
fn odd_of_32(isa: Isa, s: u64) -> u128 {
    isa.doubled(s << 1 | EACH)
}

/// The same of sixteen nibbles, for 16 weights: the low nibble of a byte is that of the first 16 of 32.
#[inline(always)]
fn odd_of_16(isa: Isa, s: u64) -> u128 {
    const EVEN: u128 = u128::MAX / 0xffff * 0x0f;
    let twice = isa.doubled(s);
    let each = (twice & EVEN) | ((twice >> 4) & (EVEN << 8));
    (each << 1) | (u128::MAX / 255)
}

/// Eight nibbles as bytes.
#[inline(always)]
fn spread(nibbles: u32) -> u64 {
    let x = u64::from(nibbles);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & (EACH * 15)
}

/// The top nibbles of eight words that are `step` bytes apart, as bytes.
#[inline(always)]
fn top_nibbles(block: &[u8], first: usize, step: usize) -> u64 {
    // One after the other: what is shifted to its place and joined in any order becomes slower vector code.
    let mut out = 0;
    for ib in (0..8).rev() {
        out = out << 8 | u64::from(block[first + step * ib + 3] >> 4);
    }
    out
}

/// Four or eight words, written out: a function that is handed to `map` is not compiled for the set.
macro_rules! words {
    ($of:ident $n:literal, $l:ident => $word:expr) => {{
        let mut words = [0; $n];
        for $l in 0..$n {
            words[$l] = $word;
        }
        Bytes::$of(words)
    }};
}

/// A type whose weights are `d * scale * x`, decoded from its whole numbers: every product is exact, for `d` has 11
/// bits, a scale 5 and a coordinate 6.
macro_rules! from_whole {
    ($($(#[$doc:meta])* $name:ident $of:ident $bytes:literal;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(isa: Isa, b: &[u8; $bytes], out: &mut [f32; SUPER]) {
            decoded::<$of, $bytes>(isa, b, out);
        }
    )+};
}

from_whole! {
    iq1_s Iq1S 50;
    iq1_m Iq1M 56;
    iq2_xxs Iq2Xxs 66;
    iq2_xs Iq2Xs 74;
    iq2_s Iq2S 82;
    iq3_xxs Iq3Xxs 98;
    /// As of today: scales are odd numbers.
    iq3_s Iq3S 110;
    /// As of the first weeks of 2024.
    iq3_s_v1 Iq3SV1 110;
}

/// A type of magnitudes: the head and 32 magnitudes with their signs.
macro_rules! signed_points {
    ($($(#[$doc:meta])* $name:ident $bytes:literal $sub:literal $bias:literal
        |$isa:ident, $b:ident| $head:expr, |$ib:ident| $pair:expr;)+) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl Whole<$bytes, SUPER> for $name {
            const BIAS: u8 = $bias;
            const MOST: u8 = 2 * $bias - 1;
            const SUB: usize = $sub;
            const MINIMA: bool = false;

            #[inline(always)]
            fn head($isa: Isa, $b: &[u8; $bytes]) -> Head {
                $head
            }

            #[inline(always)]
            fn pair<const PAIR: usize>($isa: Isa, $b: &[u8; $bytes]) -> Bytes {
                let $ib = PAIR;
                let (magnitudes, signs): (Bytes, u32) = $pair;
                $isa.signed(magnitudes, signs, $bias)
            }
        }
    )+};
}

/// A head of `d` times a power of two and scales.
#[inline(always)]
fn head(isa: Isa, b: &[u8], part: f32, scales: u128) -> Head {
    Head { scales, ..plain(half_at(isa, b, 0) * part) }
}

signed_points! {
    /// Of 32 weights four bytes of indices, then `a`: four times seven signs and, in the top nibble, the scale.
    Iq2Xxs 66 32 64
        |isa, b| head(isa, b, 0.125, odd_of_32(isa, top_nibbles(b, 6, 8))),
        |ib| {
            let (at, points) = (2 + 8 * ib, &**IQ2_XXS);
            let words = words!(of 4, l => points[usize::from(b[at + l])]);
            (words, even_signs(sevens(u32_at(b, at + 4))))
        };
    /// Of 512 points, so that the index (9 bits) and the signs (7) of a group fill a u16; scales are beside.
    Iq2Xs 74 16 64
        |isa, b| head(isa, b, 0.125, odd_of_16(isa, u64_at(b, 66))),
        |ib| {
            let (q, points) = (u64_at(b, 2 + 8 * ib), &**IQ2_XS);
            let words = words!(of 4, l => points[(q >> (16 * l)) as usize & 511]);
            // The seven bits of each u16 go into bytes beside each other.
            let signs = q >> 9 & 0x007f_007f_007f_007f;
            let signs = (signs | signs >> 8) & 0x0000_ffff_0000_ffff;
            (words, even_signs((signs | signs >> 16) as u32))
        };
    /// All eight signs are stored; an index of ten bits has its low eight in `qs[g]`, the high two in `qh[g / 4]`.
    Iq2S 82 16 64
        |isa, b| head(isa, b, 0.125, odd_of_16(isa, u64_at(b, 74))),
        |ib| {
            let (high, points) = (usize::from(b[66 + ib]), &**IQ2_S);
            let index = |l: usize| usize::from(b[2 + 4 * ib + l]) | (high >> (2 * l) & 3) << 8;
            (words!(of 4, l => points[index(l)]), u32_at(b, 34 + 4 * ib))
        };
    /// Two points of four share the eight signs of a group; signs and scales as in IQ2_XXS, behind all indices.
    Iq3Xxs 98 32 64
        |isa, b| head(isa, b, 0.25, odd_of_32(isa, top_nibbles(b, 66, 4))),
        |ib| {
            let (q, points) = (u64_at(b, 2 + 8 * ib), &**IQ3_XXS);
            let words = words!(of_fours 8, k => points[usize::from((q >> (8 * k)) as u8)]);
            (words, even_signs(sevens(u32_at(b, 66 + 4 * ib))))
        };
    /// The ninth bits of the eight indices of 32 weights are a byte; all signs are stored.
    Iq3S 110 32 16
        |isa, b| head(isa, b, 1.0, odd_of_32(isa, spread(u32_at(b, 106)))),
        |ib| iq3_s_pair(isa, b, ib, &IQ3_S);
    /// The same with the magnitudes of IQ3_XXS.
    Iq3SV1 110 32 64
        |isa, b| head(isa, b, 0.25, odd_of_32(isa, spread(u32_at(b, 106)))),
        |ib| iq3_s_pair(isa, b, ib, &IQ3_S_V1);
}

#[inline(always)]
fn iq3_s_pair(isa: Isa, b: &[u8; 110], ib: usize, points: &[u32; 512]) -> (Bytes, u32) {
    let low = b[2 + 8 * ib..].first_chunk().unwrap_or(&[0; 8]);
    let index = isa.nines(low, b[66 + ib]);
    let words = words!(of_fours 8, k => points[(index[k / 4] >> (16 * (k % 4))) as usize & 511]);
    (words, u32_at(b, 74 + 4 * ib))
}

/// `d / 8 * (2s + 1) * (8 point + 8 delta)`, scale and delta, an eighth up or down, of 32 weights.
pub(crate) struct Iq1S;

impl Whole<50, SUPER> for Iq1S {
    const BIAS: u8 = 16;
    const MOST: u8 = 25;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 50]) -> Head {
        // Scales are in the upper bytes of the eight words.
        let words = u128::from_le_bytes(*b[34..].first_chunk().unwrap_or(&[0; 16]));
        let upper = (isa.even_first(words) >> 64) as u64;
        head(isa, b, 0.125, odd_of_32(isa, (upper >> 4) & (EACH * 7)))
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(_: Isa, b: &[u8; 50]) -> Bytes {
        let low = u32_at(b, 2 + 4 * PAIR).to_le_bytes();
        iq1_s_words(low, u16_at(b, 34 + 2 * PAIR))
    }
}

/// 32 weights of IQ1_S in eighths, with its bias: the low bytes of four points, and their other bits.
#[inline(always)]
fn iq1_s_words(low: [u8; 4], qh: u16) -> Bytes {
    let (points, up) = (&**IQ1, 2 * EACH * u64::from(qh >> 15 == 0));
    let index = |l: usize| usize::from(low[l]) | usize::from(qh >> (3 * l) & 7) << 8;
    words!(of 4, l => points[index(l)] + up)
}

/// The same with a scale of 16 weights and a delta of 8. The f16 scale of the whole is spread over the top nibbles of
/// four words, the lowest first; three bits of each of them scale 16 weights each.
pub(crate) struct Iq1M;

impl Whole<56, SUPER> for Iq1M {
    const BIAS: u8 = 16;
    const MOST: u8 = 25;
    const SUB: usize = 16;
    const MINIMA: bool = false;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 56]) -> Head {
        let word = |i: usize| u16_at(b, 48 + 2 * i);
        let d = word(0) >> 12 | word(1) >> 8 & 0x00f0 | word(2) >> 4 & 0x0f00 | word(3) & 0xf000;
        let mut scales = [0u64; 2];
        for i in (0..16).rev() {
            let s = word(i / 4) >> (3 * (i % 4)) & 7;
            scales[i / 8] = scales[i / 8] << 8 | u64::from(2 * s + 1);
        }
        Head { scales: both(scales), ..plain(isa.half(d) * 0.125) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(_: Isa, b: &[u8; 56]) -> Bytes {
        let high = u16_at(b, 32 + 2 * PAIR);
        let points = &**IQ1;
        words!(of 4, l => iq1_m_word(points, b[4 * PAIR + l], (high >> (4 * l)) as u8))
    }
}

/// Eight weights of IQ1_M in eighths, with its bias: the low byte of their point, and in a nibble its other bits and
/// the side to which it is shifted.
#[inline(always)]
fn iq1_m_word(points: &[u64; 2048], low: u8, n: u8) -> u64 {
    points[usize::from(low) | usize::from(n & 7) << 8] + 2 * EACH * u64::from(n & 8 == 0)
}

/// `dl * (point + delta)`: eighths of a point, of which the bias is taken off, by an eighth of the scale.
#[inline(always)]
fn eighths(dl: f32, word: u64, out: &mut [f32; 8]) {
    for (out, x) in out.iter_mut().zip(word.to_le_bytes()) {
        *out = dl * ((f32::from(x) - 16.0) * 0.125);
    }
}

/// 32 weights of IQ1_S, as they are in the types that keep its blocks.
#[inline(always)]
pub(super) fn iq1_s_block(d: f32, low: [u8; 4], qh: u16, out: &mut [[f32; 8]]) {
    for (out, word) in out.iter_mut().zip(iq1_s_words(low, qh).words()) {
        eighths(odd(d, qh >> 12 & 7), word, out);
    }
}

/// Eight weights of IQ1_M, as they are in the types that keep its groups.
#[inline(always)]
pub(super) fn iq1_m_point(dl: f32, low: u8, n: u8, out: &mut [f32; 8]) {
    eighths(dl, iq1_m_word(&IQ1, low, n), out);
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
fn iq1_s_v1(isa: Isa, b: &[u8; 50], out: &mut [f32; SUPER]) {
    let (d, points) = (half_at(isa, b, 0), &**IQ1_V1);
    let (qs, scales) = (&b[2..34], &b[34..50]);
    for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // Bit 3 goes to bit 8 of the index.
        let n = scales[g / 2] >> (4 * (g % 2)) & 15;
        let point = points[usize::from(qs[g]) | usize::from(n & 8) << 5].to_le_bytes();
        for (out, x) in out.iter_mut().zip(point) {
            *out = odd(d, (n & 7).into()) * f32::from(x as i8);
        }
    }
}

/// As IQ1_S, but with four bits of scale and no delta.
#[inline(always)]
fn iq1_s_v2(isa: Isa, b: &[u8; 50], out: &mut [f32; SUPER]) {
    let d = half_at(isa, b, 0);
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let qh = u16_at(b, 34 + 2 * ib);
        // Points that are moved up by nothing are as many eighths above zero as their bias less one.
        let words = iq1_s_words(u32_at(b, 2 + 4 * ib).to_le_bytes(), qh | 0x8000);
        for (out, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words.words()) {
            for (out, x) in out.iter_mut().zip(word.to_le_bytes()) {
                *out = odd(d, qh >> 12) * ((f32::from(x) - 15.0) * 0.125);
            }
        }
    }
}
