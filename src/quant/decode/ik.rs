//! Types of ik_llama.cpp: numbers that name a level of one of two books, chosen for each block, under a
//! scale that is itself quantized.
//!
//! ```text
//! weight    d * s * book[x][w]       d f16 of 256 weights; s, x and w of each block of 16
//! IQ2_K     s  4 bits, less 8        x  bit g of extra   w  2 bits
//! IQ3_K     s  4 bits and a sign     x  bit g of extra   w  2 bits, 1 above
//! IQ4_K     s  6 bits, less 32       x  bit g of extra   w  nibble
//! IQ5_K     s  6 bits, less 32       x  bit g of extra   w  nibble, 1 bit above
//! IQ6_K     s  8 bits, signed        x  bit g of extra   w  nibble, 2 bits above
//! ```
//!
//! The second book is the first, moved by a constant. Products are taken from left to right.

use super::kernel::{decoders, half_at};
use crate::quant::isa::Isa;

decoders!(q6_0, iq2_k, iq3_k, iq4_k, iq5_k, iq6_k);

/// Two books in one: the second is `STEP` above the first.
const fn books<const N: usize>(first: [i8; N], step: i8) -> [[i8; N]; 2] {
    let mut second = first;
    let mut i = 0;
    while i < N {
        second[i] += step;
        i += 1;
    }
    [first, second]
}

pub(super) const BOOKS2: [[i8; 4]; 2] = books([-31, -13, 1, 17], 5);
pub(super) const BOOKS3: [[i8; 8]; 2] = books([-63, -40, -23, -10, 1, 13, 28, 47], 4);
pub(super) const BOOKS4: [[i8; 16]; 2] = books(super::levels::CURVE, 4);
pub(super) const BOOKS5: [[i8; 32]; 2] = books(
    [
        -126, -114, -103, -92, -83, -74, -65, -57, -50, -43, -36, -30, -24, -18, -12, -6, -1, 5,
        11, 17, 23, 29, 36, 43, 51, 59, 68, 77, 87, 97, 109, 121,
    ],
    2,
);

/// Nibble `g` of some bytes, the lower one of each first.
#[inline(always)]
fn nibble(bytes: &[u8], g: usize) -> u8 {
    bytes[g / 2] >> (4 * (g % 2)) & 15
}

/// Pair of bits `g` of some bytes, the lowest of each first.
#[inline(always)]
fn pair(bytes: &[u8], g: usize) -> u8 {
    bytes[g / 4] >> (2 * (g % 4)) & 3
}

/// Bit `g` of the word behind the scale.
#[inline(always)]
fn extra(b: &[u8], g: usize) -> usize {
    usize::from(b[2 + g / 8] >> (g % 8) & 1)
}

/// Where the 16 weights of block `g` are among rows of 32 bytes that hold two bits a weight: their first
/// byte, and the shift.
#[inline(always)]
fn twos(g: usize) -> (usize, usize) {
    (32 * (g / 8) + 16 * (g % 2), 2 * (g / 2 % 4))
}

/// The same for four bits a weight.
#[inline(always)]
fn fours(g: usize) -> (usize, usize) {
    (32 * (g / 4) + 16 * (g % 2), 4 * (g / 2 % 2))
}

/// Scale and 32 numbers of six bits: nibbles in halves, the two bits above in `qh`.
///
/// ```text
/// qh[j % 8], nibble j / 8:   w[j] bits 4-5 | w[j+16] bits 4-5   (low pair first)
/// ```
#[inline(always)]
fn q6_0(isa: Isa, b: &[u8; 26], out: &mut [f32; 32]) {
    let d = half_at(isa, b, 0);
    let (qh, qs) = (&b[2..10], &b[10..]);
    let (low, high) = out.split_at_mut(16);
    for (j, ((low, high), q)) in low.iter_mut().zip(high).zip(qs).enumerate() {
        let h = qh[j % 8] >> (4 * (j / 8));
        *low = f32::from((q & 15 | (h & 3) << 4) as i8 - 32) * d;
        *high = f32::from((q >> 4 | (h >> 2 & 3) << 4) as i8 - 32) * d;
    }
}

/// Sixteen weights a block; two bits each, `extra` chooses the book of four levels, a nibble less 8 the scale.
#[inline(always)]
fn iq2_k(isa: Isa, b: &[u8; 76], out: &mut [f32; 256]) {
    let (d, scales, qs) = (half_at(isa, b, 0), &b[4..12], &b[12..]);
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let book = &BOOKS2[extra(b, g)];
        let dl = d * f32::from(nibble(scales, g) as i8 - 8);
        let (at, shift) = twos(g);
        for (out, q) in out.iter_mut().zip(&qs[at..at + 16]) {
            *out = dl * f32::from(book[usize::from(q >> shift & 3)]);
        }
    }
}

/// A third bit from `qh`; the scale is odd, `2s + 1`, and has a sign bit of its own in the second word.
#[inline(always)]
fn iq3_k(isa: Isa, b: &[u8; 110], out: &mut [f32; 256]) {
    let (d, scales, qs, qh) = (half_at(isa, b, 0), &b[6..14], &b[14..78], &b[78..]);
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let book = &BOOKS3[extra(b, g)];
        let s = 2 * nibble(scales, g) as i8 + 1;
        let dl = d * f32::from(if b[4 + g / 8] >> (g % 8) & 1 == 1 { -s } else { s });
        let ((at, shift), side) = (twos(g), 16 * (g % 2));
        for ((out, q), h) in out.iter_mut().zip(&qs[at..at + 16]).zip(&qh[side..side + 16]) {
            *out = dl * f32::from(book[usize::from(q >> shift & 3 | (h >> (g / 2) & 1) << 2)]);
        }
    }
}

/// The scale of block `g` of IQ4_K and IQ5_K: pairs in `b[4..8]` above nibbles in `b[8..16]`.
#[inline(always)]
fn six_bits(b: &[u8], g: usize) -> f32 {
    f32::from((nibble(&b[8..16], g) | pair(&b[4..8], g) << 4) as i8 - 32)
}

/// Nibbles of two blocks share 16 bytes, those of the even block in the low halves.
#[inline(always)]
fn iq4_k(isa: Isa, b: &[u8; 144], out: &mut [f32; 256]) {
    let (d, qs) = (half_at(isa, b, 0), &b[16..]);
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (book, dl) = (&BOOKS4[extra(b, g)], d * six_bits(b, g));
        let at = 16 * (g / 2);
        for (out, q) in out.iter_mut().zip(&qs[at..at + 16]) {
            *out = dl * f32::from(book[usize::from(q >> (4 * (g % 2)) & 15)]);
        }
    }
}

/// As IQ4_K with a fifth bit: bit `g / 2` of `qh`, one byte for each of 32 places.
#[inline(always)]
fn iq5_k(isa: Isa, b: &[u8; 176], out: &mut [f32; 256]) {
    let (d, qs, qh) = (half_at(isa, b, 0), &b[16..144], &b[144..]);
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (book, dl) = (&BOOKS5[extra(b, g)], d * six_bits(b, g));
        let ((at, shift), side) = (fours(g), 16 * (g % 2));
        for ((out, q), h) in out.iter_mut().zip(&qs[at..at + 16]).zip(&qh[side..side + 16]) {
            *out = dl * f32::from(book[usize::from(q >> shift & 15 | (h >> (g / 2) & 1) << 4)]);
        }
    }
}

/// The levels are a polynomial of the number, in `f32`, and not a book of whole numbers.
#[inline(always)]
fn iq6_k(isa: Isa, b: &[u8; 212], out: &mut [f32; 256]) {
    let (d, scales, qs, qh) = (half_at(isa, b, 0), &b[4..20], &b[20..148], &b[148..]);
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (moved, dl) = (extra(b, g) as f32, d * f32::from(scales[g] as i8));
        let ((at, shift), (above, up)) = (fours(g), twos(g));
        for ((out, q), h) in out.iter_mut().zip(&qs[at..at + 16]).zip(&qh[above..above + 16]) {
            let w = f32::from(q >> shift & 15 | (h >> up & 3) << 4);
            let level = -127.0 + w * (6.2568 + w * (-0.11218 + w * 0.001_197_2));
            *out = dl * (level + moved);
        }
    }
}
