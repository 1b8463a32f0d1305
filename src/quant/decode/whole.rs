//! Blocks in whole numbers, for products that are summed without rounding.
//!
//! Weight `i` of a super-block of K-quants or IQ4_XS is `d * v[i] - dmin * min`, with a `min` for each block of 16.
//! `v` is the stored number times the scale of its block, of 13 bits and a sign at most (Q6_K: -32 to 31 times -128
//! to 127; IQ4_XS: -127 to 113 times -32 to 31). In blocks of 32, which have one scale, `v` is the stored number and
//! `min` is 1.

use super::{
    kernel::half_at,
    levels::{CURVE, E2M1, iq4_xs_scale, mxfp4_scale},
};
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
///
/// Its blocks have `BYTES` bytes and `N` weights.
pub(crate) trait Whole<const BYTES: usize, const N: usize> {
    /// Whether weights have a minimum.
    const MINIMA: bool;

    fn decode(isa: Isa, block: &[u8; BYTES], v: &mut [i16; N]) -> Head;
}

/// Thirty-two bytes, of which all bits under a mask are taken at once.
type Bytes = [u64; 4];

/// A byte in every place of a word.
const EACH: u64 = u64::MAX / 255;

#[inline(always)]
fn cut(bytes: &[u8], at: usize) -> Bytes {
    let mut out = [0; 4];
    for (out, bytes) in out.iter_mut().zip(bytes[at..at + 32].as_chunks().0) {
        *out = u64::from_le_bytes(*bytes);
    }
    out
}

/// The bits under `mask` of each byte, after a shift to the right.
#[inline(always)]
fn bits(bytes: Bytes, shift: usize, mask: u64) -> Bytes {
    bytes.map(|word| (word >> shift) & (EACH * mask))
}

/// `low | high << shift` in each byte.
#[inline(always)]
fn joined(low: Bytes, high: Bytes, shift: usize) -> Bytes {
    let mut out = low;
    for i in 0..4 {
        out[i] |= high[i] << shift;
    }
    out
}

/// Sixteen bytes in two words.
#[inline(always)]
fn both([first, second]: [u64; 2]) -> u128 {
    u128::from(first) | u128::from(second) << 64
}

/// The bytes of both words at even places, then those at odd ones.
#[inline(always)]
fn even_then_odd(words: [u64; 2]) -> u128 {
    let even = |word: u64| {
        let pairs = word & 0x00ff_00ff_00ff_00ff;
        let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
        (fours | fours >> 16) & 0xffff_ffff
    };
    let [first, second] = words;
    let both = |first: u64, second: u64| even(first) | even(second) << 32;
    u128::from(both(first, second)) | u128::from(both(first >> 8, second >> 8)) << 64
}

/// Fills each pair of blocks of a super-block: written out, for with the pair unknown shifts take several steps.
macro_rules! each_pair {
    ($v:expr, $pair:ident => $what:expr) => {
        each_pair!(@ $v, $pair => $what; 0 1 2 3 4 5 6 7)
    };
    (@ $v:expr, $pair:ident => $what:expr; $($n:literal)+) => {{
        let v = $v.as_chunks_mut::<32>().0;
        $({
            const $pair: usize = $n;
            v[$n] = $what;
        })+
    }};
}

/// Scales and minima in the two nibbles of a byte, numbers of two bits.
pub(crate) struct Q2K;

impl Whole<84, SUPER> for Q2K {
    const MINIMA: bool = true;

    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 84], v: &mut [i16; SUPER]) -> Head {
        let word = |at: usize| u64::from_le_bytes(*b[at..].first_chunk().unwrap_or(&[0; 8]));
        let heads = [word(0), word(8)];
        let scales = both(heads.map(|head| head & (EACH * 15)));
        each_pair!(v, PAIR => {
            let (half, n) = (PAIR / 4, PAIR % 4);
            isa.scaled(bits(cut(b, 16 + 32 * half), 2 * n, 3), 0, scales, PAIR)
        });
        let mins = isa.numbers(even_then_odd(heads.map(|head| (head >> 4) & (EACH * 15))), 0);
        Head { d: half_at(isa, b, 80), dmin: half_at(isa, b, 82), mins }
    }
}

/// Numbers of two bits, less four unless the bit in the first 32 bytes is set; no minima. Of the scales' bits
/// above the lowest four, those of four scales are in one word.
pub(crate) struct Q3K;

impl Whole<110, SUPER> for Q3K {
    const MINIMA: bool = false;

    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 110], v: &mut [i16; SUPER]) -> Head {
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let low = u64::from(word(96)) | u64::from(word(100)) << 32;
        let high = |n: usize| u64::from(word(104) >> (2 * n) & 0x0303_0303) << 4;
        let first = (low & (EACH * 15)) | high(0) | (high(1) << 32);
        let second = ((low >> 4) & (EACH * 15)) | high(2) | (high(3) << 32);
        // Less 32, as signed bytes: the sixth bit, turned round, is the sign.
        let scales = both([first, second].map(|s| {
            let sign = !s & (EACH * 32);
            (s & (EACH * 31)) | (sign * 7)
        }));
        let h = cut(b, 0);
        each_pair!(v, PAIR => {
            let (half, n) = (PAIR / 4, PAIR % 4);
            let w = joined(bits(cut(b, 32 + 32 * half), 2 * n, 3), bits(h, PAIR, 1), 2);
            isa.scaled(w, 4, scales, PAIR)
        });
        Head { d: half_at(isa, b, 108), dmin: 0.0, mins: [0.0; 16] }
    }
}

/// Blocks of 32 in pairs, one in the low nibbles and one in the high ones.
pub(crate) struct Q4K;

impl Whole<144, SUPER> for Q4K {
    const MINIMA: bool = true;

    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 144], v: &mut [i16; SUPER]) -> Head {
        pairs(isa, b, &b[16..], &[0; 32], v)
    }
}

/// As Q4_K, with a fifth bit.
pub(crate) struct Q5K;

impl Whole<176, SUPER> for Q5K {
    const MINIMA: bool = true;

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

/// Numbers of six bits less 32: the quarters of each half of the super-block are in the low nibbles of
/// its 64 bytes, then in the high ones, and up through the bytes of the two bits above; no minima.
pub(crate) struct Q6K;

impl Whole<210, SUPER> for Q6K {
    const MINIMA: bool = false;

    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 210], v: &mut [i16; SUPER]) -> Head {
        let scales = u128::from_le_bytes(*b[192..].first_chunk().unwrap_or(&[0; 16]));
        each_pair!(v, PAIR => {
            let (half, n) = (PAIR / 4, PAIR % 4);
            let low = bits(cut(b, 64 * half + 32 * (n % 2)), n / 2 * 4, 15);
            let w = joined(low, bits(cut(b, 128 + 32 * half), 2 * n, 3), 4);
            isa.scaled(w, 32, scales, PAIR)
        });
        Head { d: half_at(isa, b, 208), dmin: 0.0, mins: [0.0; 16] }
    }
}

/// A head without minima.
#[inline(always)]
fn scale(d: f32) -> Head {
    Head { d, dmin: 0.0, mins: [0.0; 16] }
}

/// The head of weights `d * v + m`.
#[inline(always)]
fn affine(d: f32, m: f32) -> Head {
    Head { d, dmin: -m, mins: [1.0; 16] }
}

/// Blocks of 32: one scale, perhaps a minimum, perhaps the fifth bits of all, then nibbles.
macro_rules! nibble_blocks {
    ($($name:ident $bytes:literal $minima:literal $high:expr, $bias:literal;)+) => {$(
        pub(crate) struct $name;

        impl Whole<$bytes, 32> for $name {
            const MINIMA: bool = $minima;

            #[inline(always)]
            fn decode(isa: Isa, b: &[u8; $bytes], v: &mut [i16; 32]) -> Head {
                let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
                *v = isa.nibble_words(b.last_chunk().unwrap_or(&[0; 16]), $high.map(word), $bias);
                let d = half_at(isa, b, 0);
                if $minima { affine(d, half_at(isa, b, 2)) } else { scale(d) }
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
    const MINIMA: bool = false;

    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 34], v: &mut [i16; 32]) -> Head {
        for (v, b) in v.iter_mut().zip(&b[2..]) {
            *v = i16::from(*b as i8);
        }
        scale(half_at(isa, b, 0))
    }
}

/// The levels that sixteen bytes name, the low nibbles first, each times `scale`.
#[inline(always)]
fn named(isa: Isa, b: &[u8], levels: &[i8; 16], scale: i16, v: &mut [i16; 32]) {
    let named = isa.named(b.last_chunk().unwrap_or(&[0; 16]), levels);
    for (v, named) in v.as_chunks_mut::<16>().0.iter_mut().zip(named) {
        for (v, level) in v.iter_mut().zip(named.to_le_bytes()) {
            *v = i16::from(level as i8) * scale;
        }
    }
}

/// Levels, one scale for 32.
pub(crate) struct Iq4Nl;

impl Whole<18, 32> for Iq4Nl {
    const MINIMA: bool = false;

    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 18], v: &mut [i16; 32]) -> Head {
        named(isa, b, &CURVE, 1, v);
        scale(half_at(isa, b, 0))
    }
}

/// Four-bit floats, doubled, one scale for 32.
pub(crate) struct Mxfp4;

impl Whole<17, 32> for Mxfp4 {
    const MINIMA: bool = false;

    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 17], v: &mut [i16; 32]) -> Head {
        named(isa, b, &E2M1, 1, v);
        scale(mxfp4_scale(b[0]))
    }
}

/// Levels, a scale of six bits for each 32; see [`super::levels::iq4_xs`].
pub(crate) struct Iq4Xs;

impl Whole<136, SUPER> for Iq4Xs {
    const MINIMA: bool = false;

    #[inline(always)]
    fn decode(isa: Isa, b: &[u8; 136], v: &mut [i16; SUPER]) -> Head {
        let blocks = b[8..].as_chunks::<16>().0.iter().zip(v.as_chunks_mut().0);
        for (ib, (qs, v)) in blocks.enumerate() {
            named(isa, qs, &CURVE, i16::from(iq4_xs_scale(b, ib)), v);
        }
        scale(half_at(isa, b, 0))
    }
}
