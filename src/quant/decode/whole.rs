//! Blocks in whole numbers, for products that are summed without rounding.
//!
//! ```text
//! super-block     weight = d * scale * (stored - BIAS) - dmin * min      a scale and a min for each 16 or 32
//! block of 32     weight = d * (stored - BIAS) - dmin
//! ```
//!
//! The i-quants' blocks are in [`super::iquant`], those of trits in [`super::trits`]. `scale * (stored - BIAS)` has 13 bits and a sign at most (Q6_K: -32 to 31 times -128 to 127; IQ4_XS: -127 to 113
//! times -32 to 31).

use super::{
    kernel::half_at,
    levels::{CURVE, E2M1, iq4_xs_scale, mxfp4_scale},
};
use crate::quant::isa::{Isa, points::Words, row::Bytes, stored::both};

/// Weights of a super-block.
pub(crate) const SUPER: usize = 256;

/// Does something for each pair of blocks of a super-block: written out, for with the pair unknown shifts take
/// several steps.
macro_rules! each_pair {
    ($pair:ident => $what:block) => {
        $crate::quant::decode::whole::each_pair!(@ $pair => $what; 0 1 2 3 4 5 6 7)
    };
    (@ $pair:ident => $what:block; $($n:literal)+) => {$({
        const $pair: usize = $n;
        $what
    })+};
}
pub(crate) use each_pair;

/// Where what belongs to block `s` of 16 is, when that of even blocks is first: minima and sums alike.
#[inline(always)]
pub(crate) fn even_first(s: usize) -> usize {
    s / 2 + s % 2 * 8
}

/// What a block has beside its numbers.
///
/// ```text
/// scales   byte s                     for numbers 16 s .. 16 s + 16, signed
/// mins     byte even_first(s)         0 2 4 6 8 10 12 14 | 1 3 5 7 9 11 13 15: as sums of activations are
/// ```
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub d: f32,
    pub dmin: f32,
    /// A signed byte for each 16 numbers; only in super-blocks.
    pub scales: u128,
    /// A byte for each 16 numbers, those of even blocks first; only in super-blocks.
    pub mins: u128,
    /// What names the points of a code book ([`super::books`]).
    pub points: [Words; 2],
    /// For each 32 numbers which are negative, where that is beside them.
    pub signs: [u32; 8],
}

/// A type that is decoded here.
///
/// Its blocks have `BYTES` bytes and `N` weights.
pub(crate) trait Whole<const BYTES: usize, const N: usize> {
    /// What a stored number has more than it means.
    const BIAS: u8;
    /// The largest stored number.
    const MOST: u8;
    /// How many numbers have one scale: 16 or 32.
    const SUB: usize;
    /// Whether weights have a minimum.
    const MINIMA: bool;

    fn head(isa: Isa, block: &[u8; BYTES]) -> Head;

    /// The stored numbers of the pair `PAIR` of blocks of 16.
    fn pair<const PAIR: usize>(isa: Isa, block: &[u8; BYTES], head: &Head) -> Bytes;

    /// The stored numbers of two blocks of 32.
    #[inline(always)]
    fn two(isa: Isa, blocks: [&[u8; BYTES]; 2], heads: &[Head; 2]) -> [Bytes; 2] {
        let first = Self::pair::<0>(isa, blocks[0], &heads[0]);
        [first, Self::pair::<0>(isa, blocks[1], &heads[1])]
    }

    /// What a super-block's numbers mean, times their scales.
    #[inline(always)]
    fn words(isa: Isa, block: &[u8; BYTES], head: &Head, v: &mut [i16; N]) {
        let v = v.as_chunks_mut::<32>().0;
        each_pair!(PAIR => {
            let pair = Self::pair::<PAIR>(isa, block, head);
            v[PAIR] = isa.scaled(pair, Self::BIAS.into(), head.scales, PAIR);
        });
    }
}

/// A byte in every place of a word.
pub(super) const EACH: u64 = u64::MAX / 255;

/// Weights `d * scale * (stored - BIAS)` of a type without minima.
#[inline(always)]
pub(super) fn decoded<W: Whole<BYTES, SUPER>, const BYTES: usize>(
    isa: Isa,
    b: &[u8; BYTES],
    out: &mut [f32; SUPER],
) {
    let head = W::head(isa, b);
    let out = out.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0;
    each_pair!(PAIR => {
        let halves = W::pair::<PAIR>(isa, b, &head).halves();
        let scales = (head.scales >> (16 * PAIR)) as u16;
        for (half, out) in out[PAIR].iter_mut().enumerate() {
            let scale = (scales >> (8 * half)) as i8;
            let x = isa.numbers(halves[half], W::BIAS as i8);
            *out = isa.times(x, head.d * f32::from(scale), -0.0);
        }
    });
}

/// The bits under `mask` of each of 32 bytes from `at` on, after a shift to the right.
#[inline(always)]
pub(super) fn bits(isa: Isa, b: &[u8], at: usize, shift: usize, mask: u8) -> Bytes {
    isa.bits(b[at..].first_chunk().unwrap_or(&[0; 32]), shift, mask)
}

/// Scales and minima in the two nibbles of a byte, numbers of two bits.
pub(crate) struct Q2K;

impl Whole<84, SUPER> for Q2K {
    const BIAS: u8 = 0;
    const MOST: u8 = 3;
    const SUB: usize = 16;
    const MINIMA: bool = true;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 84]) -> Head {
        let [scales, mins] = isa.halved(b.first_chunk().unwrap_or(&[0; 16])).halves();
        let mins = isa.even_first(mins);
        Head { dmin: half_at(isa, b, 82), scales, mins, ..plain(half_at(isa, b, 80)) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, b: &[u8; 84], _: &Head) -> Bytes {
        bits(isa, b, 16 + 32 * (PAIR / 4), 2 * (PAIR % 4), 3)
    }
}

/// Numbers of two bits, less four unless the bit in the first 32 bytes is set; no minima. Of the scales' bits
/// above the lowest four, those of four scales are in one word.
pub(crate) struct Q3K;

impl Whole<110, SUPER> for Q3K {
    const BIAS: u8 = 4;
    const MOST: u8 = 7;
    const SUB: usize = 16;
    const MINIMA: bool = false;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 110]) -> Head {
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let low = u64::from(word(96)) | u64::from(word(100)) << 32;
        let high = |n: usize| u64::from(word(104) >> (2 * n) & 0x0303_0303) << 4;
        let first = (low & (EACH * 15)) | high(0) | (high(1) << 32);
        let second = ((low >> 4) & (EACH * 15)) | high(2) | (high(3) << 32);
        // Less 32, as signed bytes: the sixth bit, turned round, is the sign.
        let signed = |s: u64| (s & (EACH * 31)) | ((!s & (EACH * 32)) * 7);
        let scales = both([signed(first), signed(second)]);
        Head { scales, ..plain(half_at(isa, b, 108)) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, b: &[u8; 110], _: &Head) -> Bytes {
        let low = bits(isa, b, 32 + 32 * (PAIR / 4), 2 * (PAIR % 4), 3);
        isa.joined(low, bits(isa, b, 0, PAIR, 1), 2)
    }
}

/// Blocks of 32 in pairs, one in the low nibbles and one in the high ones.
pub(crate) struct Q4K;

impl Whole<144, SUPER> for Q4K {
    const BIAS: u8 = 0;
    const MOST: u8 = 15;
    const SUB: usize = 32;
    const MINIMA: bool = true;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 144]) -> Head {
        six_bits(isa, b)
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, b: &[u8; 144], _: &Head) -> Bytes {
        bits(isa, b, 16 + 32 * (PAIR / 2), 4 * (PAIR % 2), 15)
    }

    #[inline(always)]
    fn words(_: Isa, b: &[u8; 144], head: &Head, v: &mut [i16; SUPER]) {
        words_by_two(&b[16..], &[0; 32], head.scales, v);
    }
}

/// As Q4_K, with a fifth bit.
pub(crate) struct Q5K;

impl Whole<176, SUPER> for Q5K {
    const BIAS: u8 = 0;
    const MOST: u8 = 31;
    const SUB: usize = 32;
    const MINIMA: bool = true;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 176]) -> Head {
        six_bits(isa, b)
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, b: &[u8; 176], _: &Head) -> Bytes {
        let low = bits(isa, b, 48 + 32 * (PAIR / 2), 4 * (PAIR % 2), 15);
        isa.joined(low, bits(isa, b, 16, PAIR, 1), 4)
    }

    #[inline(always)]
    fn words(_: Isa, b: &[u8; 176], head: &Head, v: &mut [i16; SUPER]) {
        words_by_two(&b[48..], b[16..].first_chunk().unwrap_or(&[0; 32]), head.scales, v);
    }
}

/// The numbers of two pairs of blocks together, for which the compiler finds better code: nibbles in `qs` and the
/// bits above them in `qh`.
///
/// Two pairs are 64 weights; `qs` has 32 bytes for them and bits `2 * two` and `2 * two + 1` of `qh` are theirs.
#[inline(always)]
fn words_by_two(qs: &[u8], qh: &[u8; 32], scales: u128, v: &mut [i16; SUPER]) {
    let halves = v.as_chunks_mut::<64>().0.iter_mut().zip(qs.as_chunks::<32>().0);
    for (two, (v, qs)) in halves.enumerate() {
        let (low, high) = (scales >> (32 * two), scales >> (32 * two + 16));
        let (low, high) = (low as i16 & 63, high as i16 & 63);
        for j in 0..32 {
            let above = qh[j] >> (2 * two);
            v[j] = i16::from(qs[j] & 15 | (above & 1) << 4) * low;
            v[32 + j] = i16::from(qs[j] >> 4 | (above >> 1 & 1) << 4) * high;
        }
    }
}

/// The scales and the minima of the eight blocks of Q4_K and Q5_K, a byte each; see [`super::kquant`].
#[inline(always)]
fn six_bits(isa: Isa, head: &[u8]) -> Head {
    let word = |at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (s, m, both) = (word(4), word(8), word(12));
    let above = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low & 0x3f3f_3f3f);
    let scales = join(s, both & 0x0f0f_0f0f | above(s));
    let mins = u128::from(join(m, both >> 4 & 0x0f0f_0f0f | above(m)));
    Head {
        dmin: half_at(isa, head, 2),
        scales: isa.doubled(scales),
        mins: mins << 64 | mins,
        ..plain(half_at(isa, head, 0))
    }
}

/// Numbers of six bits less 32: the quarters of each half of the super-block are in the low nibbles of
/// its 64 bytes, then in the high ones, and up through the bytes of the two bits above; no minima.
pub(crate) struct Q6K;

impl Whole<210, SUPER> for Q6K {
    const BIAS: u8 = 32;
    const MOST: u8 = 63;
    const SUB: usize = 16;
    const MINIMA: bool = false;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 210]) -> Head {
        let scales = u128::from_le_bytes(*b[192..].first_chunk().unwrap_or(&[0; 16]));
        Head { scales, ..plain(half_at(isa, b, 208)) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, b: &[u8; 210], _: &Head) -> Bytes {
        let (half, n) = (PAIR / 4, PAIR % 4);
        let low = bits(isa, b, 64 * half + 32 * (n % 2), n / 2 * 4, 15);
        isa.joined(low, bits(isa, b, 128 + 32 * half, 2 * n, 3), 4)
    }
}

/// A head with one scale.
#[inline(always)]
pub(super) fn plain(d: f32) -> Head {
    Head { d, dmin: 0.0, scales: 0, mins: 0, points: [Words::of([0; 8]); 2], signs: [0; 8] }
}

/// Blocks of 32: one scale, perhaps a minimum, perhaps the fifth bits of all, then nibbles.
macro_rules! nibble_blocks {
    ($($name:ident $bytes:literal $minima:literal $high:expr, $bias:literal;)+) => {$(
        pub(crate) struct $name;

        impl Whole<$bytes, 32> for $name {
            const BIAS: u8 = $bias;
            const MOST: u8 = if $high.is_some() { 31 } else { 15 };
            const SUB: usize = 32;
            const MINIMA: bool = $minima;

            #[inline(always)]
            fn head(isa: Isa, b: &[u8; $bytes]) -> Head {
                let dmin = if $minima { -isa.half_at(b, 2) } else { 0.0 };
                Head { dmin, ..plain(isa.half_at(b, 0)) }
            }

            #[inline(always)]
            fn pair<const PAIR: usize>(isa: Isa, b: &[u8; $bytes], _: &Head) -> Bytes {
                Self::with_fifth(isa, isa.halved(b.last_chunk().unwrap_or(&[0; 16])), b)
            }

            #[inline(always)]
            fn two(isa: Isa, b: [&[u8; $bytes]; 2], _: &[Head; 2]) -> [Bytes; 2] {
                let none = &[0; 16];
                let [first, second] = [b[0].last_chunk(), b[1].last_chunk()];
                let low = isa.halved_both([first.unwrap_or(none), second.unwrap_or(none)]);
                [Self::with_fifth(isa, low[0], b[0]), Self::with_fifth(isa, low[1], b[1])]
            }
        }

        impl $name {
            /// A block's nibbles, with the fifth bits if there are any.
            #[inline(always)]
            fn with_fifth(isa: Isa, low: Bytes, b: &[u8; $bytes]) -> Bytes {
                let high: Option<usize> = $high;
                let Some(at) = high else { return low };
                let fifth = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
                isa.joined(low, isa.fifth_bits(fifth), 0)
            }
        }
    )+};
}

nibble_blocks! {
    Q4 18 false None::<usize>, 8;
    Q4M 20 true None::<usize>, 0;
    Q5 22 false Some(2), 16;
    Q5M 24 true Some(4), 0;
}

/// Signed bytes.
pub(crate) struct Q8;

impl Whole<34, 32> for Q8 {
    const BIAS: u8 = 128;
    const MOST: u8 = 255;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 34]) -> Head {
        plain(half_at(isa, b, 0))
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, b: &[u8; 34], _: &Head) -> Bytes {
        isa.above(bits(isa, b, 2, 0, 255))
    }
}

/// Levels and a bias, as unsigned bytes.
///
/// -127 with a bias of 128 is 1; that a byte seems negative to Rust does no harm.
const fn above(levels: [i8; 16], bias: u8) -> [i8; 16] {
    let mut out = levels;
    let mut i = 0;
    while i < 16 {
        out[i] = levels[i].wrapping_add(bias as i8);
        i += 1;
    }
    out
}

/// Levels, one scale for 32.
macro_rules! level_blocks {
    ($($name:ident $bytes:literal $levels:ident $bias:literal $most:literal $scale:expr;)+) => {$(
        pub(crate) struct $name;

        impl Whole<$bytes, 32> for $name {
            const BIAS: u8 = $bias;
            const MOST: u8 = $most;
            const SUB: usize = 32;
            const MINIMA: bool = false;

            #[inline(always)]
            fn head(isa: Isa, b: &[u8; $bytes]) -> Head {
                let scale: fn(Isa, &[u8; $bytes]) -> f32 = $scale;
                plain(scale(isa, b))
            }

            #[inline(always)]
            fn pair<const PAIR: usize>(isa: Isa, b: &[u8; $bytes], _: &Head) -> Bytes {
                const LEVELS: [i8; 16] = above($levels, $bias);
                isa.named(b.last_chunk().unwrap_or(&[0; 16]), &LEVELS)
            }
        }
    )+};
}

level_blocks! {
    Iq4Nl 18 CURVE 128 241 |isa, b| half_at(isa, b, 0);
    // Four-bit floats, doubled.
    Mxfp4 17 E2M1 12 24 |_, b| mxfp4_scale(b[0]);
}

/// Levels, a scale of six bits for each 32; see [`super::levels::iq4_xs`].
pub(crate) struct Iq4Xs;

impl Whole<136, SUPER> for Iq4Xs {
    const BIAS: u8 = 128;
    const MOST: u8 = 241;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 136]) -> Head {
        let mut scales = [0; 8];
        for (ib, scale) in scales.iter_mut().enumerate() {
            *scale = iq4_xs_scale(b, ib) as u8;
        }
        Head { scales: isa.doubled(u64::from_le_bytes(scales)), ..plain(half_at(isa, b, 0)) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, b: &[u8; 136], _: &Head) -> Bytes {
        const LEVELS: [i8; 16] = above(CURVE, 128);
        isa.named(b[8 + 16 * PAIR..].first_chunk().unwrap_or(&[0; 16]), &LEVELS)
    }
}
