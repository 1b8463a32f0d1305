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
    books::{IQ1, IQ1_V1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_S_V1, IQ3_XXS},
    kernel::{decoders, half_at},
    whole::{EACH, Head, SUPER, Whole, decoded, plain},
};
use crate::quant::isa::{Isa, points::Words, row::Bytes};

decoders!(iq1_s_v1, iq1_s_v2, iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s_v1, iq3_s);

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

/// A type of magnitudes and signs: the head of a block and the book.
macro_rules! signed_points {
    ($($(#[$doc:meta])* $name:ident $bytes:literal $sub:literal $bias:literal $book:ident
        |$isa:ident, $b:ident| $head:expr;)+) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl Whole<$bytes, SUPER> for $name {
            const BIAS: u8 = $bias;
            const MOST: u8 = 2 * $bias - 1;
            const SUB: usize = $sub;
            const MINIMA: bool = false;

            #[inline(always)]
            fn head($isa: Isa, $b: &[u8; $bytes]) -> Head {
                let (d, scales, places, signs): (f32, u128, [Words; 2], Bytes) = $head;
                let points = [$book.named($isa, places[0]), $book.named($isa, places[1])];
                Head { scales, points, signs: signs.fours(), ..plain(d) }
            }

            #[inline(always)]
            fn pair<const PAIR: usize>(isa: Isa, _: &[u8; $bytes], head: &Head) -> Bytes {
                let magnitudes = $book.pair(isa, &head.points, PAIR);
                isa.signed(magnitudes, head.signs[PAIR], $bias)
            }
        }
    )+};
}

/// `N` bytes of a block from `at` on.
#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().unwrap_or(&[0; N])
}

/// Bytes as places in a book.
#[inline(always)]
fn bytes(isa: Isa, low: &[u8; 32]) -> Words {
    isa.places(low, Words::of([0; 8]))
}

/// Where 32 places are a whole super-block.
const NONE: Words = Words::of([0; 8]);
/// Two eighths, twice: what a point is moved up by from the lower delta to the upper.
const UP: u16 = 0x0202;

signed_points! {
    /// Of 32 weights four bytes of indices, then `a`: four times seven signs and, in the top nibble, the scale.
    Iq2Xxs 66 32 64 IQ2_XXS |isa, b| {
        let [low, a] = isa.parted(part(b, 2));
        let places = [bytes(isa, &low.array()), NONE];
        let scales = odd_of_32(isa, top_nibbles(b, 6, 8));
        (half_at(isa, b, 0) * 0.125, scales, places, isa.evened(isa.sevens(a)))
    };
    /// Of 512 points, so that the index (9 bits) and the signs (7) of a group fill a u16; scales are beside.
    Iq2Xs 74 16 64 IQ2_XS |isa, b| {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(part::<64>(b, 2).as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let (places, scales) = (Words::of(words), odd_of_16(isa, u64_at(b, 66)));
        let signs = isa.evened(isa.shifted(places, 9));
        (half_at(isa, b, 0) * 0.125, scales, [places, NONE], signs)
    };
    /// All eight signs are stored; an index of ten bits has its low eight in `qs[g]`, the high two in `qh[g / 4]`.
    Iq2S 82 16 64 IQ2_S |isa, b| {
        let high = isa.fields(isa.widened(u64_at(b, 66)), 2, 3);
        let places = [isa.places(part(b, 2), high), NONE];
        let scales = odd_of_16(isa, u64_at(b, 74));
        (half_at(isa, b, 0) * 0.125, scales, places, Bytes::from(*part(b, 34)))
    };
    /// Two points of four share the eight signs of a group; signs and scales as in IQ2_XXS, behind all indices.
    Iq3Xxs 98 32 64 IQ3_XXS |isa, b| {
        let places = [bytes(isa, part(b, 2)), bytes(isa, part(b, 34))];
        let scales = odd_of_32(isa, top_nibbles(b, 66, 4));
        let signs = isa.evened(isa.sevens(Bytes::from(*part(b, 66))));
        (half_at(isa, b, 0) * 0.25, scales, places, signs)
    };
    /// The ninth bits of the eight indices of 32 weights are a byte; all signs are stored.
    Iq3S 110 32 16 IQ3_S |isa, b| iq3_s_head(isa, b, 1.0);
    /// The same with the magnitudes of IQ3_XXS.
    Iq3SV1 110 32 64 IQ3_S_V1 |isa, b| iq3_s_head(isa, b, 0.25);
}

#[inline(always)]
fn iq3_s_head(isa: Isa, b: &[u8; 110], unit: f32) -> (f32, u128, [Words; 2], Bytes) {
    let (first, second) = (isa.ones(u32_at(b, 66)), isa.ones(u32_at(b, 70)));
    let places = [isa.places(part(b, 2), first), isa.places(part(b, 34), second)];
    let scales = odd_of_32(isa, spread(u32_at(b, 106)));
    (half_at(isa, b, 0) * unit, scales, places, Bytes::from(*part(b, 74)))
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
        let words = u128::from_le_bytes(*part(b, 34));
        // Scales are in the upper bytes of the eight words.
        let upper = (isa.even_first(words) >> 64) as u64;
        let scales = odd_of_32(isa, (upper >> 4) & (EACH * 7));
        let places = isa.places(part(b, 2), isa.fields(words, 3, 7));
        // The top bit of each word is for four groups.
        let up = isa.where_zero(isa.fields(words, 0, 0x8000), UP);
        Head { scales, points: [places, up], ..plain(half_at(isa, b, 0) * 0.125) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, _: &[u8; 50], head: &Head) -> Bytes {
        isa.plus(IQ1.pair(isa, &head.points, PAIR), isa.fourfold(head.points[1], PAIR))
    }
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
        let high = u128::from_le_bytes(*part(b, 32));
        let places = isa.places(part(b, 0), isa.fields(high, 4, 7));
        let up = isa.where_zero(isa.fields(high, 4, 8), UP);
        let words = u64_at(b, 48);
        let tops = [words >> 12, words >> 24, words >> 36, words >> 48];
        let d = tops[0] & 15 | tops[1] & 0xf0 | tops[2] & 0xf00 | tops[3] & 0xf000;
        let s = isa.shifted(isa.fields(words.into(), 3, 7), 0);
        let scales = isa.joined(Bytes::of([EACH; 4]), s, 1).halves()[0];
        Head { scales, points: [places, up], ..plain(isa.half(d as u16) * 0.125) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, _: &[u8; 56], head: &Head) -> Bytes {
        isa.plus(IQ1.pair(isa, &head.points, PAIR), isa.fourfold(head.points[1], PAIR))
    }
}

/// 32 weights of IQ1_S in eighths, with its bias: the low bytes of four points, and their other bits.
#[inline(always)]
fn iq1_s_words(low: [u8; 4], qh: u16) -> [u64; 4] {
    std::array::from_fn(|l| {
        // Three bits of the place, and the delta of all.
        iq1_m_word(low[l], (qh >> (3 * l) & 7 | qh >> 15 << 3) as u8)
    })
}

/// Eight weights of IQ1_M in eighths, with its bias: the low byte of their point, and in a nibble its other bits and
/// the side to which it is shifted.
#[inline(always)]
fn iq1_m_word(low: u8, n: u8) -> u64 {
    IQ1.words[usize::from(low) | usize::from(n & 7) << 8] + 2 * EACH * u64::from(n & 8 == 0)
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
    for (out, word) in out.iter_mut().zip(iq1_s_words(low, qh)) {
        eighths(odd(d, qh >> 12 & 7), word, out);
    }
}

/// Eight weights of IQ1_M, as they are in the types that keep its groups.
#[inline(always)]
pub(super) fn iq1_m_point(dl: f32, low: u8, n: u8, out: &mut [f32; 8]) {
    eighths(dl, iq1_m_word(low, n), out);
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
    let (d, points) = (half_at(isa, b, 0), &IQ1_V1.words);
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
        for (out, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            for (out, x) in out.iter_mut().zip(word.to_le_bytes()) {
                *out = odd(d, qh >> 12) * ((f32::from(x) - 15.0) * 0.125);
            }
        }
    }
}
