//! The types of 2023, Q4_0 to Q8_1, in every storage they had: at most one scale and one offset a
//! block.
//!
//! ```text
//! pairs:  byte j = w[2j] | w[2j+1] << 4        halves: byte j = w[j] | w[j+16] << 4
//!
//! Q4_0, Q4_2: d * (w - 8)   Q4_1, Q4_3, Q5_1: d * w + m   Q5_0: d * (w - 16)   Q8_0, Q8_1: d * w
//! Q4_1_O: d * w + m, but for one weight of the block
//!
//! bytes of a block of 32 (Q4_2, Q4_3: of 16); d, m, s are f16 where they have two bytes, else f32
//! Q4_0 20  d4 qs16            18  d2 qs16                  Q4_2 10  d2 qs8
//! Q4_1 24  d4 m4 qs16         20  d2 m2 qs16               Q4_3 12  d2 m2 qs8
//! Q4_1_O 24  d2 m2 place2 weight2 qs16
//! Q5_0 22  d2 qh4 qs16        Q5_1 24  d2 m2 qh4 qs16
//! Q8_0 36  d4 qs32            34  d2 qs32
//! Q8_1 44  d4 s4 s4 qs32      40  d4 s4 qs32               36  d2 s2 qs32     s are sums, for dot products
//! planar   row of Q4_0: d4 of every block, qs16 of every block; of Q4_1: m4 of all, d4 of all, qs16 of all
//!
//! Q5: bit 4 of w[e] is bit e of qh, a little-endian u32, in either order of the nibbles
//! ```

use super::kernel::{DecodeRows, decoders, f32_at, half_at};
use crate::{per_isa, quant::isa::Isa};

decoders!(
    q4_0_pairs_f32,
    q4_0_halves_f32,
    q4_0_halves_f16,
    q4_1_pairs_f32,
    q4_1_halves_f32,
    q4_1_halves_f16,
    q4_1_o,
    q4_2,
    q4_3,
    q5_0_pairs,
    q5_0_halves,
    q5_1_pairs,
    q5_1_halves,
    q8_0_f32,
    q8_0_f16,
    q8_1_two_sums,
    q8_1_sum_f32,
    q8_1_sum_f16,
);

/// The kernels that need to know the length of a row: a planar row has the scales of all its blocks in front, so its
/// first nibble is as far in as it has blocks.
pub(super) const PLANAR: &[(&str, DecodeRows)] =
    &[("q4_0_planar_f32", q4_0_planar_f32), ("q4_1_planar_f32", q4_1_planar_f32)];

/// Nibbles of 2n weights in n bytes, in pairs.
#[inline(always)]
fn pairs(qs: &[u8], out: &mut [f32], weight: impl Fn(u8) -> f32) {
    for (out, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(qs) {
        *out = [weight(byte & 15), weight(byte >> 4)];
    }
}

/// The sixteen bytes of nibbles at the end of a block.
#[inline(always)]
fn sixteen(block: &[u8]) -> &[u8; 16] {
    block.last_chunk().unwrap_or(&[0; 16])
}

/// The weights of low and of high nibbles, in pairs.
#[inline(always)]
fn in_pairs([low, high]: [[f32; 16]; 2], out: &mut [f32; 32]) {
    for ((out, low), high) in out.as_chunks_mut::<2>().0.iter_mut().zip(low).zip(high) {
        *out = [low, high];
    }
}

/// `(w - 8) * d`, as the first programs put it; the product is the same either way round.
#[inline(always)]
fn centred(d: f32) -> impl Fn(u8) -> f32 {
    move |w| f32::from(w as i8 - 8) * d
}

/// `w * d + m`, rounded twice: fused it would be another number in the last bit.
#[inline(always)]
fn offset(d: f32, m: f32) -> impl Fn(u8) -> f32 {
    move |w| f32::from(w) * d + m
}

#[inline(always)]
pub(crate) fn q4_0_pairs_f32(isa: Isa, b: &[u8; 20], out: &mut [f32; 32]) {
    in_pairs(isa.nibbles(sixteen(b), 8, f32_at(b, 0), 0.0), out);
}

#[inline(always)]
fn q4_0_halves_f32(isa: Isa, b: &[u8; 20], out: &mut [f32; 32]) {
    out.as_chunks_mut().0.copy_from_slice(&isa.nibbles(sixteen(b), 8, f32_at(b, 0), 0.0));
}

/// Q4_0 of today. Every other one differs in the size of `d` or the order of the nibbles alone.
#[inline(always)]
pub(crate) fn q4_0_halves_f16(isa: Isa, b: &[u8; 18], out: &mut [f32; 32]) {
    out.as_chunks_mut().0.copy_from_slice(&isa.nibbles(sixteen(b), 8, half_at(isa, b, 0), 0.0));
}

#[inline(always)]
fn q4_1_pairs_f32(isa: Isa, b: &[u8; 24], out: &mut [f32; 32]) {
    in_pairs(isa.nibbles(sixteen(b), 0, f32_at(b, 0), -f32_at(b, 4)), out);
}

#[inline(always)]
fn q4_1_halves_f32(isa: Isa, b: &[u8; 24], out: &mut [f32; 32]) {
    let weights = isa.nibbles(sixteen(b), 0, f32_at(b, 0), -f32_at(b, 4));
    out.as_chunks_mut().0.copy_from_slice(&weights);
}

#[inline(always)]
pub(crate) fn q4_1_halves_f16(isa: Isa, b: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(isa, b, 0), half_at(isa, b, 2));
    out.as_chunks_mut().0.copy_from_slice(&isa.nibbles(sixteen(b), 0, d, -m));
}

/// As Q4_1 but for one weight, which is by itself.
#[inline(always)]
fn q4_1_o(isa: Isa, b: &[u8; 24], out: &mut [f32; 32]) {
    pairs(&b[8..], out, offset(half_at(isa, b, 0), half_at(isa, b, 2)));
    if let Some(outlier) = out.get_mut(usize::from(u16::from_le_bytes([b[4], b[5]]))) {
        *outlier = half_at(isa, b, 6);
    }
}

/// Sixteen weights under an f16: half the length of a block of Q4_0.
#[inline(always)]
fn q4_2(isa: Isa, b: &[u8; 10], out: &mut [f32; 16]) {
    pairs(&b[2..], out, centred(half_at(isa, b, 0)));
}

/// As Q4_2, with a minimum.
#[inline(always)]
fn q4_3(isa: Isa, b: &[u8; 12], out: &mut [f32; 16]) {
    pairs(&b[4..], out, offset(half_at(isa, b, 0), half_at(isa, b, 2)));
}

/// The weights of 32 five-bit numbers, in pairs or in halves.
#[inline(always)]
fn placed<const PAIRS: bool>(weights: [[f32; 16]; 2], out: &mut [f32; 32]) {
    match PAIRS {
        true => in_pairs(weights, out),
        false => out.as_chunks_mut().0.copy_from_slice(&weights),
    }
}

/// The bits above the nibbles, those of the low nibbles first.
#[inline(always)]
fn fifth_bits<const PAIRS: bool>(b: &[u8], at: usize) -> u32 {
    let bits = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    if !PAIRS {
        return bits;
    }
    // Weight e has bit e; in pairs the low nibbles are those of even weights, so their bits come first.
    //
    //     .h.g.f.e.d.c.b.a  ->  ..hg..fe..dc..ba  ->  ....hgfe....dcba  ->  ........hgfedcba
    // Every second bit, moved together in steps.
    let even = |bits: u32| {
        let mut bits = bits & 0x5555_5555;
        for (shift, mask) in [(1, 0x3333_3333), (2, 0x0f0f_0f0f), (4, 0x00ff_00ff), (8, 0xffff)] {
            bits = (bits | bits >> shift) & mask;
        }
        bits
    };
    even(bits) | even(bits >> 1) << 16
}

/// `d * (w - 16)`.
#[inline(always)]
fn q5_0<const PAIRS: bool>(isa: Isa, b: &[u8; 22], out: &mut [f32; 32]) {
    let high = fifth_bits::<PAIRS>(b, 2);
    placed::<PAIRS>(isa.fives(sixteen(b), high, 16, half_at(isa, b, 0), -0.0), out);
}

/// `d * w + m`.
#[inline(always)]
fn q5_1<const PAIRS: bool>(isa: Isa, b: &[u8; 24], out: &mut [f32; 32]) {
    let high = fifth_bits::<PAIRS>(b, 4);
    placed::<PAIRS>(isa.fives(sixteen(b), high, 0, half_at(isa, b, 0), half_at(isa, b, 2)), out);
}

#[inline(always)]
fn q5_0_pairs(isa: Isa, b: &[u8; 22], out: &mut [f32; 32]) {
    q5_0::<true>(isa, b, out);
}

#[inline(always)]
pub(crate) fn q5_0_halves(isa: Isa, b: &[u8; 22], out: &mut [f32; 32]) {
    q5_0::<false>(isa, b, out);
}

#[inline(always)]
fn q5_1_pairs(isa: Isa, b: &[u8; 24], out: &mut [f32; 32]) {
    q5_1::<true>(isa, b, out);
}

#[inline(always)]
pub(crate) fn q5_1_halves(isa: Isa, b: &[u8; 24], out: &mut [f32; 32]) {
    q5_1::<false>(isa, b, out);
}

/// Whole signed bytes times a scale.
#[inline(always)]
fn bytes(isa: Isa, qs: &[u8], d: f32, out: &mut [f32; 32]) {
    for (out, qs) in out.as_chunks_mut::<16>().0.iter_mut().zip(qs.as_chunks().0) {
        *out = isa.bytes(qs, d);
    }
}

/// Q8_0 of April and May 2023, with a scale of four bytes.
#[inline(always)]
fn q8_0_f32(isa: Isa, b: &[u8; 36], out: &mut [f32; 32]) {
    bytes(isa, &b[4..], f32_at(b, 0), out);
}

#[inline(always)]
pub(crate) fn q8_0_f16(isa: Isa, b: &[u8; 34], out: &mut [f32; 32]) {
    bytes(isa, &b[2..], half_at(isa, b, 0), out);
}

/// Sums of the two halves are before the numbers, for products with Q4_1; a weight does not need them.
#[inline(always)]
fn q8_1_two_sums(isa: Isa, b: &[u8; 44], out: &mut [f32; 32]) {
    bytes(isa, &b[12..], f32_at(b, 0), out);
}

/// One sum, in f32, from 12 May 2023 on.
#[inline(always)]
fn q8_1_sum_f32(isa: Isa, b: &[u8; 40], out: &mut [f32; 32]) {
    bytes(isa, &b[8..], f32_at(b, 0), out);
}

/// One sum, in f16, as today.
#[inline(always)]
fn q8_1_sum_f16(isa: Isa, b: &[u8; 36], out: &mut [f32; 32]) {
    bytes(isa, &b[4..], half_at(isa, b, 0), out);
}

/// A row: every scale, then every nibble.
#[inline(always)]
fn q4_0_planar_body(rows: &[u8], row_len: usize, out: &mut [f32]) {
    let n = row_len / 32;
    for (row, out) in rows.chunks_exact(n * 20).zip(out.chunks_exact_mut(row_len)) {
        let (d, qs) = row.split_at(n * 4);
        let blocks = qs.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
        for (i, (qs, out)) in blocks.enumerate() {
            pairs(qs, out, centred(f32_at(d, 4 * i)));
        }
    }
}

/// A row: every minimum, every scale, then every nibble.
#[inline(always)]
fn q4_1_planar_body(rows: &[u8], row_len: usize, out: &mut [f32]) {
    let n = row_len / 32;
    for (row, out) in rows.chunks_exact(n * 24).zip(out.chunks_exact_mut(row_len)) {
        let (m, rest) = row.split_at(n * 4);
        let (d, qs) = rest.split_at(n * 4);
        let blocks = qs.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
        for (i, (qs, out)) in blocks.enumerate() {
            pairs(qs, out, offset(f32_at(d, 4 * i), f32_at(m, 4 * i)));
        }
    }
}

per_isa! {
    fn q4_0_planar_f32(rows: &[u8], row_len: usize, out: &mut [f32]) = q4_0_planar_body;
    fn q4_1_planar_f32(rows: &[u8], row_len: usize, out: &mut [f32]) = q4_1_planar_body;
}
