//! Types whose rows begin with their scale: those of ik_llama.cpp with a book of levels, and BitNet's trits.
//!
//! ```text
//! weight    row * s * book[x][w]     row in front of the row; s, x and w of each block of 32
//! IQ2_KS    f16   s  4 bits and bit 8+g of extra, less 16   x  bit g of extra     w  2 bits
//! IQ3_KS    f16   s  4 bits and bit g of extra, less 16     x  bit 8+g of extra   w  2 bits, 1 above
//! IQ4_KS    f32   s  byte & 254, less 127                   x  byte & 1           w  nibble
//! IQ5_KS    f32   as IQ4_KS                                                       w  nibble, 1 bit above
//! IQ4_KSS   f32   as IQ4_KS, the byte spread over the low bits of eight words
//! IQ2_KL    f16   s  4 bits and 2 above, less 32            w  5 bits name two levels
//! IQ1_BN    f16   trits, five to a byte                     IQ2_BN  f32  trits in pairs of bits
//! I2_S      f32   trits, the first 32 of 128 in the highest bits, or 16 of 64; the scale is the whole tensor's
//! Q8_KV     f32   whole bytes, after the sum of the row
//! ```
//!
//! IQ1_S_R4 and IQ1_M_R4 hold blocks of four rows, behind the scales of these.

use super::{
    ik,
    kernel::{DecodeRows, decoders, f32_at, half_at},
};
use crate::quant::isa::Isa;

decoders!(
    2 iq2_ks,
    2 iq3_ks,
    2 iq2_kl,
    4 iq4_ks,
    4 iq5_ks,
    4 iq4_kss,
    8 q8_kv,
    2 iq1_bn,
    4 iq2_bn,
    0 iq1_bn_v1,
    0 iq2_bn_v1,
    4 i2_s,
    4 i2_s_arm,
);

/// The kernels that decode four rows together.
pub(super) const GROUPED: &[(&str, DecodeRows)] = &[("iq1_s_r4", iq1_s_r4), ("iq1_m_r4", iq1_m_r4)];

/// Two levels of IQ3_K's book for each number of five bits.
const PAIRS: [[i8; 2]; 32] = [
    [-63, -23],
    [-63, 13],
    [-40, -63],
    [-40, -10],
    [-40, 13],
    [-40, 47],
    [-23, -40],
    [-23, -23],
    [-23, 1],
    [-23, 13],
    [-23, 28],
    [-10, -63],
    [-10, 1],
    [-10, 13],
    [-10, 47],
    [1, -23],
    [1, -10],
    [1, 1],
    [1, 13],
    [1, 28],
    [13, -40],
    [13, -23],
    [13, -10],
    [13, 1],
    [13, 13],
    [28, -63],
    [28, -23],
    [28, 1],
    [28, 28],
    [28, 47],
    [47, -23],
    [47, 13],
];

/// A little-endian word at any byte.
#[inline(always)]
pub(super) fn word(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// Nibble `g % 4` of four bytes: the low ones for the first four blocks, the high ones for the others.
#[inline(always)]
pub(super) fn across(bytes: &[u8], g: usize) -> u8 {
    bytes[g % 4] >> (4 * (g / 4)) & 15
}

/// Bit `n` of a word, the lowest 0.
#[inline(always)]
fn bit(word: u16, n: usize) -> u8 {
    (word >> n & 1) as u8
}

/// `qs[32h + m]` holds two bits of each of blocks `4h .. 4h + 4`.
#[inline(always)]
fn iq2_ks(isa: Isa, front: &[u8; 2], b: &[u8; 70], out: &mut [f32; 256]) {
    let (d, extra) = (half_at(isa, front, 0), word(b, 0));
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = b[2 + g / 2] >> (4 * (g % 2)) & 15;
        let dl = d * f32::from((low | bit(extra, 8 + g) << 4) as i8 - 16);
        let book = &ik::BOOKS2[usize::from(bit(extra, g))];
        for (out, q) in out.iter_mut().zip(&b[6 + 32 * (g / 4)..]) {
            *out = dl * f32::from(book[usize::from(q >> (2 * (g % 4)) & 3)]);
        }
    }
}

/// As IQ2_KS, with a third bit: bit `g` of byte `j` of the last 32 is that of weight `32g + j`.
#[inline(always)]
fn iq3_ks(isa: Isa, front: &[u8; 2], b: &[u8; 102], out: &mut [f32; 256]) {
    let (d, extra) = (half_at(isa, front, 0), word(b, 0));
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let dl = d * f32::from((across(&b[2..6], g) | bit(extra, g) << 4) as i8 - 16);
        let book = &ik::BOOKS3[usize::from(bit(extra, 8 + g))];
        for ((out, q), h) in out.iter_mut().zip(&b[6 + 32 * (g / 4)..]).zip(&b[70..]) {
            let w = q >> (2 * (g % 4)) & 3 | (h >> g & 1) << 2;
            *out = dl * f32::from(book[usize::from(w)]);
        }
    }
}

/// Sixteen pairs a block: nibbles, and bit `g` of `qh` above them.
#[inline(always)]
fn iq2_kl(isa: Isa, front: &[u8; 2], b: &[u8; 86], out: &mut [f32; 256]) {
    let (d, high) = (half_at(isa, front, 0), word(b, 0));
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let s = across(&b[2..6], g) | ((high >> (2 * g) & 3) as u8) << 4;
        let dl = d * f32::from(s as i8 - 32);
        let pairs = out.as_chunks_mut::<2>().0;
        for ((out, q), h) in pairs.iter_mut().zip(&b[6 + 16 * (g / 2)..]).zip(&b[70..]) {
            let pair = &PAIRS[usize::from(q >> (4 * (g % 2)) & 15 | (h >> g & 1) << 4)];
            *out = pair.map(|level| dl * f32::from(level));
        }
    }
}

/// The book and the scale that a byte of IQ4_KS names.
#[inline(always)]
fn named<const N: usize>(d: f32, books: &[[i8; N]; 2], byte: u8) -> (&[i8; N], f32) {
    (&books[usize::from(byte & 1)], d * f32::from(i16::from(byte & 254) - 127))
}

/// Sixteen bytes of nibbles, in halves.
///
/// As Q4_0 of today lays them: byte `j` is number `j` and, above it, `j + 16`.
#[inline(always)]
fn halves(book: &[i8; 16], dl: f32, qs: &[u8; 16], out: &mut [f32; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
        *low = dl * f32::from(book[usize::from(q & 15)]);
        *high = dl * f32::from(book[usize::from(q >> 4)]);
    }
}

/// Eight bytes that each name book and scale of 32 weights, then their nibbles in halves.
#[inline(always)]
fn iq4_ks(_: Isa, front: &[u8; 4], b: &[u8; 136], out: &mut [f32; 256]) {
    let d = f32_at(front, 0);
    let blocks = b[8..].as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
    for ((qs, out), byte) in blocks.zip(&b[..8]) {
        let (book, dl) = named(d, &ik::BOOKS4, *byte);
        halves(book, dl, qs, out);
    }
}

/// Two blocks share 32 bytes of nibbles, the first in the low ones; bit `g` of the 32 bytes behind them is the fifth of
/// block `g`.
#[inline(always)]
fn iq5_ks(_: Isa, front: &[u8; 4], b: &[u8; 168], out: &mut [f32; 256]) {
    let d = f32_at(front, 0);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (book, dl) = named(d, &ik::BOOKS5, b[g]);
        for ((out, q), h) in out.iter_mut().zip(&b[8 + 32 * (g / 2)..]).zip(&b[136..]) {
            let w = q >> (4 * (g % 2)) & 15 | (h >> g & 1) << 4;
            *out = dl * f32::from(book[usize::from(w)]);
        }
    }
}

/// Eight words a block. Their lowest bits are its byte; the other bits are nibbles under a Gray code, whose
/// lowest bit is that of the bit above.
#[inline(always)]
fn iq4_kss(_: Isa, front: &[u8; 4], b: &[u8; 128], out: &mut [f32; 256]) {
    let d = f32_at(front, 0);
    for (words, out) in b.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let (mut byte, mut qs) = (0, [0; 16]);
        let pairs = words.as_chunks::<2>().0.iter().zip(qs.as_chunks_mut::<2>().0);
        for (k, (pair, qs)) in pairs.enumerate() {
            let word = u16::from_le_bytes(*pair);
            byte |= ((word & 1) << k) as u8;
            let even = word & 0xfffe;
            *qs = (even ^ even >> 1).to_le_bytes();
        }
        let (book, dl) = named(d, &ik::BOOKS4, byte);
        halves(book, dl, &qs, out);
    }
}

/// The front is the row's scale and its sum, which a weight does not need.
#[inline(always)]
fn q8_kv(_: Isa, front: &[u8; 8], b: &[u8; 32], out: &mut [f32; 32]) {
    let d = f32_at(front, 0);
    out.iter_mut().zip(b).for_each(|(out, q)| *out = d * f32::from(*q as i8));
}

/// Trits of IQ1_BN: a byte is a fraction of 256 in base 3, multiplied until the wanted digit is its first.
#[inline(always)]
fn trits(b: &[u8; 13]) -> [i8; 64] {
    const POWERS: [u8; 5] = [81, 27, 9, 3, 1];
    std::array::from_fn(|e| {
        let (quarter, r) = (e / 16, e % 16);
        let (byte, power) = match r {
            15 => (b[12], POWERS[quarter]),
            r => (b[3 * quarter + r / 5], POWERS[r % 5]),
        };
        let v = u16::from(byte.wrapping_mul(power));
        ((v + (v >> 1)) >> 7) as i8 - 1
    })
}

/// -1, 0 or 1 times the row's scale.
#[inline(always)]
fn iq1_bn(isa: Isa, front: &[u8; 2], b: &[u8; 13], out: &mut [f32; 64]) {
    let d = half_at(isa, front, 0);
    *out = trits(b).map(|t| f32::from(t) * d);
}

/// As first: the scale is a tensor of its own, or lost.
#[inline(always)]
fn iq1_bn_v1(_: Isa, _: &[u8; 0], b: &[u8; 13], out: &mut [f32; 64]) {
    *out = trits(b).map(f32::from);
}

/// Pair `p` of byte `j` is weight `j + 16p`.
#[inline(always)]
fn iq2_bn(_: Isa, front: &[u8; 4], b: &[u8; 16], out: &mut [f32; 64]) {
    let d = f32_at(front, 0);
    for (p, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        out.iter_mut()
            .zip(b)
            .for_each(|(out, q)| *out = f32::from((q >> (2 * p) & 3) as i8 - 1) * d);
    }
}

/// As first, without a scale: with 1 for it.
#[inline(always)]
fn iq2_bn_v1(isa: Isa, _: &[u8; 0], b: &[u8; 16], out: &mut [f32; 64]) {
    iq2_bn(isa, &1f32.to_le_bytes(), b, out);
}

/// Pair `3 - p` of byte `j` is weight `j + 32p`.
#[inline(always)]
fn i2_s(_: Isa, front: &[u8; 4], b: &[u8; 32], out: &mut [f32; 128]) {
    high_first(f32_at(front, 0), b, out);
}

/// Pair `3 - p` of byte `j` is weight `j + 16p`.
#[inline(always)]
fn i2_s_arm(_: Isa, front: &[u8; 4], b: &[u8; 16], out: &mut [f32; 64]) {
    high_first(f32_at(front, 0), b, out);
}

/// Pair `3 - p` of byte `j` of N is weight `j + Np`.
#[inline(always)]
fn high_first<const N: usize>(d: f32, b: &[u8; N], out: &mut [f32]) {
    for (p, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let pair = |q: &u8| q >> (6 - 2 * p) & 3;
        out.iter_mut().zip(b).for_each(|(out, q)| *out = f32::from(pair(q) as i8 - 1) * d);
    }
}

/// Runs `unit` over the units of groups of four rows, each `BYTES` for 32 weights of every row, with the rows'
/// scales and the place of its weights in the first row.
///
/// ```text
/// group   d of rows 0 to 3, f16 each    8 bytes
///         unit of weights 0..32 of all four rows, unit of weights 32..64, ..
/// ```
fn groups<const BYTES: usize>(
    bytes: &[u8],
    row_len: usize,
    out: &mut [f32],
    unit: impl Fn(f32, usize, &[u8; BYTES], &mut [f32]),
) {
    let group = 8 + row_len / 32 * BYTES;
    for (group, out) in bytes.chunks_exact(group).zip(out.chunks_exact_mut(4 * row_len)) {
        let (scales, units) = group.split_at(8);
        for (k, out) in out.chunks_exact_mut(row_len).enumerate() {
            let d = half_at(Isa::PORTABLE, scales, 2 * k);
            let units = units.as_chunks::<BYTES>().0.iter().zip(out.chunks_exact_mut(32));
            units.for_each(|(b, out)| unit(d, k, b, out));
        }
    }
}

/// Byte `4i + k` is the low byte of point `i` of row `k`; then a word a row as in IQ1_S.
fn iq1_s_r4(_: Isa, bytes: &[u8], row_len: usize, out: &mut [f32]) {
    groups::<24>(bytes, row_len, out, |d, k, b, out| {
        let qh = word(b, 16 + 2 * k);
        let low = std::array::from_fn(|i| b[4 * i + k]);
        super::iquant::iq1_s_block(d, low, qh, out.as_chunks_mut().0);
    });
}

/// Byte `8i + 4h + k` is the low byte of point `2i + h` of row `k`; nibble `h` of byte `16 + 4i + k` has three more
/// bits of it and the side of its shift; nibble `i` of byte `24 + k` is the scale of 16 weights.
fn iq1_m_r4(_: Isa, bytes: &[u8], row_len: usize, out: &mut [f32]) {
    groups::<28>(bytes, row_len, out, |d, k, b, out| {
        for (n, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let (i, h) = (n / 2, n % 2);
            let dl = d * f32::from(b[24 + k] >> (4 * i) & 15);
            super::iquant::iq1_m_point(dl, b[4 * n + k], b[16 + 4 * i + k] >> (4 * h) & 15, out);
        }
    });
}
