//! K-quants: blocks of 16 or 32 weights whose scales are themselves quantized, in super-blocks of
//! 256, and of 64 for builds with `LLAMA_QKK_64`.
//!
//! Super-blocks of 256 weights, byte by byte (`d`, `dmin`: f16, but f32 in Q8_K):
//!
//! ```text
//! Q2_K  84  scales[16]                  qs[64]             d  dmin     d * s * w - dmin * m       w 2 bits
//! Q3_K 110  hmask[32]  qs[64]           scales[12]         d           d * (s - 32) * (w - 4)     w 2 + 1 bits
//! Q4_K 144  d  dmin    scales[12]       qs[128]                        d * s * w - dmin * m       w 4 bits
//! Q5_K 176  d  dmin    scales[12]       qh[32]   qs[128]               d * s * w - dmin * m       w 4 + 1 bits
//! Q6_K 210  ql[128]    qh[64]           scales[16]         d           d * s * (w - 32)           w 4 + 2 bits
//! Q8_K 292  d          qs[256]          sums of 16: i16[16]            d * w                      w 8 bits, signed
//! ```
//!
//! Numbers of few bits lie side by side in a byte, those of one byte 32 or 64 weights apart: a vector of bytes,
//! shifted and masked once, is then a run of neighbouring weights. `qs` of Q2_K and Q3_K, of each 32 bytes:
//!
//! ```text
//! bits of byte j    7 6        5 4        3 2        1 0
//! weight            96 + j     64 + j     32 + j     j            of the half of 128 that the 32 bytes are for
//! ```
//!
//! Six-bit scales `s` and minima `m` of the eight blocks of Q4_K and Q5_K, in 12 bytes:
//!
//! ```text
//! byte      0    1    2    3    4    5    6    7    8      9      10     11
//! bits 0-5  s0   s1   s2   s3   m0   m1   m2   m3   s4|m4  s5|m5  s6|m6  s7|m7   (low nibbles)
//! bits 6-7  s4hi s5hi s6hi s7hi m4hi m5hi m6hi m7hi
//! ```
//!
//! Six-bit scales of the sixteen blocks of Q3_K, in 12 bytes: byte `i` of the first eight holds the low
//! nibbles of `s[i]` and `s[i+8]`, byte `8 + i` the high pairs of `s[i]`, `s[i+4]`, `s[i+8]`, `s[i+12]`.

use super::kernel::{bits_of, decoders, f32_at, half_at};
use crate::quant::isa::Isa;

decoders!(
    q2_k_256, q3_k_256, q4_k_256, q5_k_256, q6_k_256, q8_k_256, q2_k_64, q3_k_64, q4_k_64, q5_k_64,
    q6_k_64, q8_k_64,
);

/// The six-bit scale and minimum of block `i`.
#[inline(always)]
fn scale_min(scales: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (scales[i] & 63, scales[i + 4] & 63)
    } else {
        let both = scales[i + 4];
        ((both & 15) | (scales[i - 4] >> 6) << 4, (both >> 4) | (scales[i] >> 6) << 4)
    }
}

/// The six-bit scale of block `i`, less its bias.
#[inline(always)]
fn q3_scale(scales: &[u8], i: usize) -> i8 {
    let low = if i < 8 { scales[i] & 15 } else { scales[i - 8] >> 4 };
    let high = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
    (low | high << 4) as i8 - 32
}

/// `d * s * w - dmin * m`, scale and minimum in the two nibbles of a byte.
#[inline(always)]
fn q2_k_256(isa: Isa, b: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, dmin) = (half_at(isa, b, 80), half_at(isa, b, 82));
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (dl, ml) = (d * f32::from(scales[i] & 15), dmin * f32::from(scales[i] >> 4));
        // Block i of sixteen: 32 bytes serve a half of the super-block, each pair of bits in them two blocks.
        let at = 32 * (i / 8) + 16 * (i % 2);
        let w = bits_of(sixteen(qs, at), 2 * (i % 8 / 2), 3);
        *out = isa.times(isa.numbers(w, 0), dl, -ml);
    }
}

/// Sixteen bytes from `at` on.
#[inline(always)]
fn sixteen(bytes: &[u8], at: usize) -> &[u8; 16] {
    bytes[at..].first_chunk().unwrap_or(&[0; 16])
}

/// `d * (s - 32) * w`, `w` of two bits, less four unless the bit in `hmask` is set.
///
/// Bit `k` of `hmask[j]` belongs to weight `32k + j`: one array of 32 bytes serves all eight runs of 32.
#[inline(always)]
fn q3_k_256(isa: Isa, b: &[u8; 110], out: &mut [f32; 256]) {
    let (hmask, qs, scales) = (&b[..32], &b[32..96], &b[96..108]);
    let d = half_at(isa, b, 108);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let dl = d * f32::from(q3_scale(scales, i));
        let (side, shift, bit) = (16 * (i % 2), 2 * (i % 8 / 2), i / 2);
        let at = 32 * (i / 8) + side;
        let low = bits_of(sixteen(qs, at), shift, 3);
        let w = low | bits_of(sixteen(hmask, side), bit, 1) << 2;
        *out = isa.times(isa.numbers(w, 4), dl, -0.0);
    }
}

/// The scales and minima of the eight blocks, as decoding multiplies with them: worked out once for a super-block, in
/// float32, for in the original too `d * s` is rounded before it meets a weight.
#[inline(always)]
fn scales_mins(isa: Isa, b: &[u8], at: usize) -> ([f32; 8], [f32; 8]) {
    let (d, dmin) = (half_at(isa, b, at), half_at(isa, b, at + 2));
    let (mut scales, mut mins) = ([0.0; 8], [0.0; 8]);
    for i in 0..8 {
        let (s, m) = scale_min(&b[at + 4..at + 16], i);
        (scales[i], mins[i]) = (d * f32::from(s), dmin * f32::from(m));
    }
    (scales, mins)
}

/// `d * s * w - dmin * m`; blocks lie in pairs, one in the low nibbles and one in the high ones.
#[inline(always)]
fn q4_k_256(isa: Isa, b: &[u8; 144], out: &mut [f32; 256]) {
    let (d, m) = scales_mins(isa, b, 0);
    let pairs = b[16..].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<64>().0);
    for (i, (qs, out)) in pairs.enumerate() {
        let (low, high) = out.split_at_mut(32);
        let sides = low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0);
        for ((low, high), qs) in sides.zip(qs.as_chunks::<16>().0) {
            [*low, _] = isa.nibbles(qs, 0, d[2 * i], m[2 * i]);
            [_, *high] = isa.nibbles(qs, 0, d[2 * i + 1], m[2 * i + 1]);
        }
    }
}

/// As Q4_K, with a fifth bit in `qh`.
#[inline(always)]
fn q5_k_256(isa: Isa, b: &[u8; 176], out: &mut [f32; 256]) {
    let (d, m) = scales_mins(isa, b, 0);
    let high = b[16..48].as_chunks::<16>().0;
    let pairs = b[48..].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<64>().0);
    for (i, (qs, out)) in pairs.enumerate() {
        let (first, second) = out.split_at_mut(32);
        let sides = first.as_chunks_mut().0.iter_mut().zip(second.as_chunks_mut().0);
        for (((first, second), qs), qh) in sides.zip(qs.as_chunks::<16>().0).zip(high) {
            // Bit 2i of qh[j] is for the low nibble of byte j of pair i, bit 2i + 1 for the high one.
            let w = bits_of(qs, 0, 15) | bits_of(qh, 2 * i, 1) << 4;
            *first = isa.times(isa.numbers(w, 0), d[2 * i], -m[2 * i]);
            let w = bits_of(qs, 4, 15) | bits_of(qh, 2 * i + 1, 1) << 4;
            *second = isa.times(isa.numbers(w, 0), d[2 * i + 1], -m[2 * i + 1]);
        }
    }
}

/// `d * s * (w - 32)`, four bits of `w` in `ql` and two in `qh`: of each half of the super-block, the
/// quarters are in the low nibbles of `ql`, then in the high ones, and up through the bytes of `qh`.
#[inline(always)]
fn q6_k_256(isa: Isa, b: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(isa, b, 208);
    let halves = out.as_chunks_mut::<128>().0.iter_mut().zip(b[..128].as_chunks::<64>().0);
    let halves = halves.zip(b[128..192].as_chunks::<32>().0).zip(b[192..208].as_chunks::<8>().0);
    for (((out, ql), qh), scales) in halves {
        for (quarter, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (side, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let low = &ql.as_chunks::<16>().0[quarter % 2 * 2 + side];
                let low = bits_of(low, quarter / 2 * 4, 15);
                let high = bits_of(&qh.as_chunks::<16>().0[side], 2 * quarter, 3);
                // Of this half: a scale for each 16 weights, signed and whole.
                let dl = d * f32::from(scales[2 * quarter + side] as i8);
                *out = isa.times(isa.numbers(low | high << 4, 32), dl, -0.0);
            }
        }
    }
}

/// `d * w`; the sums at the end serve dot products.
#[inline(always)]
fn q8_k_256(_: Isa, b: &[u8; 292], out: &mut [f32; 256]) {
    whole_bytes(f32_at(b, 0), &b[4..260], out);
}

#[inline(always)]
fn q8_k_64(_: Isa, b: &[u8; 76], out: &mut [f32; 64]) {
    whole_bytes(f32_at(b, 0), &b[4..68], out);
}

/// `d * w`, each weight a signed byte.
#[inline(always)]
fn whole_bytes(d: f32, qs: &[u8], out: &mut [f32]) {
    for (out, q) in out.iter_mut().zip(qs) {
        *out = d * f32::from(*q as i8);
    }
}

/// Four blocks of 16; pair `i` of bits of `qs[j]` is weight `16i + j`. Scale and minimum as in Q2_K of 256.
#[inline(always)]
fn q2_k_64(isa: Isa, b: &[u8; 24], out: &mut [f32; 64]) {
    let (scales, qs) = (&b[..4], &b[4..20]);
    let (d, dmin) = (half_at(isa, b, 20), half_at(isa, b, 22));
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (dl, ml) = (d * f32::from(scales[i] & 15), dmin * f32::from(scales[i] >> 4));
        for (out, q) in out.iter_mut().zip(qs) {
            *out = dl * f32::from(q >> (2 * i) & 3) - ml;
        }
    }
}

/// `d * (s - 8) * (w - 4)`: scales of 16 weights, of four bits here, in the nibbles of two bytes.
///
/// Bit `i` of `hmask[j]` and pair `i / 2` of bits of `qs[8 * (i % 2) + j]` make weight `8i + j`.
#[inline(always)]
fn q3_k_64(isa: Isa, b: &[u8; 28], out: &mut [f32; 64]) {
    let (hmask, qs, scales) = (&b[..8], &b[8..24], &b[24..26]);
    let d = half_at(isa, b, 26);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let s = scales[i / 4] >> (4 * (i / 2 % 2)) & 15;
        let dl = d * f32::from(s as i8 - 8);
        let (at, shift) = (8 * (i % 2), 2 * (i / 2));
        for ((out, q), h) in out.iter_mut().zip(&qs[at..at + 8]).zip(hmask) {
            let w = (q >> shift & 3 | (h >> i & 1) << 2) as i8 - 4;
            *out = dl * f32::from(w);
        }
    }
}

/// Two blocks of 32: scale in the low nibble of a byte, minimum in the high one; `qs[j]` has weight `j` and, above it,
/// weight `32 + j`.
#[inline(always)]
fn q4_k_64(isa: Isa, b: &[u8; 38], out: &mut [f32; 64]) {
    let (scales, qs) = (&b[4..6], &b[6..38]);
    let (d, m) = (half_at(isa, b, 0), half_at(isa, b, 2));
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (d1, m1) = (d * f32::from(scales[i] & 15), m * f32::from(scales[i] >> 4));
        for (out, q) in out.iter_mut().zip(qs) {
            *out = d1 * f32::from(q >> (4 * i) & 15) - m1;
        }
    }
}

/// `d * s * (w - 16)`: no minima here, signed whole scales of 16 weights.
///
/// Bit `i` of `qh[j]` is the fifth of weight `8i + j`; nibbles as in Q4_K of 64.
#[inline(always)]
fn q5_k_64(isa: Isa, b: &[u8; 46], out: &mut [f32; 64]) {
    let (scales, qh, qs) = (&b[2..6], &b[6..14], &b[14..46]);
    let d = half_at(isa, b, 0);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let dl = d * f32::from(scales[i / 2] as i8);
        let (at, shift) = (8 * (i % 4), 4 * (i / 4));
        for ((out, q), h) in out.iter_mut().zip(&qs[at..at + 8]).zip(qh) {
            let w = (q >> shift & 15 | (h >> i & 1) << 4) as i8 - 16;
            *out = dl * f32::from(w);
        }
    }
}

/// As Q6_K of 256, of which this is a half with 16 weights where that has 32.
#[inline(always)]
fn q6_k_64(isa: Isa, b: &[u8; 54], out: &mut [f32; 64]) {
    let (ql, qh, scales) = (&b[..32], &b[32..48], &b[48..52]);
    let d = half_at(isa, b, 52);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let dl = d * f32::from(scales[i] as i8);
        let (at, low_shift, high_shift) = (16 * (i % 2), 4 * (i / 2), 2 * i);
        for ((out, l), h) in out.iter_mut().zip(&ql[at..at + 16]).zip(qh) {
            let w = (l >> low_shift & 15 | (h >> high_shift & 3) << 4) as i8 - 32;
            *out = dl * f32::from(w);
        }
    }
}
