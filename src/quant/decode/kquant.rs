//! K-quants: blocks of 16 or 32 weights whose scales are themselves quantized, in super-blocks of
//! 256, and of 64 for builds with `LLAMA_QKK_64`.
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

use super::{decoders, f32_at, half_at};
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
        let at = 32 * (i / 8) + 16 * (i % 2);
        let shift = 2 * (i % 8 / 2);
        for (out, q) in out.iter_mut().zip(&qs[at..at + 16]) {
            *out = dl * f32::from(q >> shift & 3) - ml;
        }
    }
}

/// `d * (s - 32) * w`, `w` of two bits, less four unless the bit in `hmask` is set.
#[inline(always)]
fn q3_k_256(isa: Isa, b: &[u8; 110], out: &mut [f32; 256]) {
    let (hmask, qs, scales) = (&b[..32], &b[32..96], &b[96..108]);
    let d = half_at(isa, b, 108);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let dl = d * f32::from(q3_scale(scales, i));
        let (side, shift, bit) = (16 * (i % 2), 2 * (i % 8 / 2), i / 2);
        let at = 32 * (i / 8) + side;
        for ((out, q), h) in out.iter_mut().zip(&qs[at..at + 16]).zip(&hmask[side..side + 16]) {
            let w = (q >> shift & 3 | (h >> bit & 1) << 2) as i8 - 4;
            *out = dl * f32::from(w);
        }
    }
}

/// `d * s * w - dmin * m`.
#[inline(always)]
pub(crate) fn q4_k_256(isa: Isa, b: &[u8; 144], out: &mut [f32; 256]) {
    let (scales, qs) = (&b[4..16], &b[16..144]);
    let (d, dmin) = (half_at(isa, b, 0), half_at(isa, b, 2));
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (s, m) = scale_min(scales, i);
        let (d1, m1) = (d * f32::from(s), dmin * f32::from(m));
        let (at, shift) = (32 * (i / 2), 4 * (i % 2));
        for (out, q) in out.iter_mut().zip(&qs[at..at + 32]) {
            *out = d1 * (i32::from(*q) >> shift & 15) as f32 - m1;
        }
    }
}

/// As Q4_K, with a fifth bit in `qh`.
#[inline(always)]
fn q5_k_256(isa: Isa, b: &[u8; 176], out: &mut [f32; 256]) {
    let (scales, qh, qs) = (&b[4..16], &b[16..48], &b[48..176]);
    let (d, dmin) = (half_at(isa, b, 0), half_at(isa, b, 2));
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (s, m) = scale_min(scales, i);
        let (d1, m1) = (d * f32::from(s), dmin * f32::from(m));
        let (at, shift) = (32 * (i / 2), 4 * (i % 2));
        for ((out, q), h) in out.iter_mut().zip(&qs[at..at + 32]).zip(qh) {
            let (q, h) = (i32::from(*q), i32::from(*h));
            *out = d1 * (q >> shift & 15 | (h >> i & 1) << 4) as f32 - m1;
        }
    }
}

/// `d * s * (w - 32)`, four bits of `w` in `ql` and two in `qh`.
#[inline(always)]
pub(crate) fn q6_k_256(isa: Isa, b: &[u8; 210], out: &mut [f32; 256]) {
    let (ql, qh, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let d = half_at(isa, b, 208);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let dl = d * f32::from(scales[i] as i8);
        let (half, quarter, side) = (i / 8, i % 8 / 2, 16 * (i % 2));
        let (low, high) = (64 * half + 32 * (quarter % 2) + side, 32 * half + side);
        let (low_shift, high_shift) = (4 * (quarter / 2), 2 * quarter);
        let parts = ql[low..low + 16].iter().zip(&qh[high..high + 16]);
        for (out, (l, h)) in out.iter_mut().zip(parts) {
            let (l, h) = (i32::from(*l), i32::from(*h));
            let w = (l >> low_shift & 15 | (h >> high_shift & 3) << 4) - 32;
            *out = dl * w as f32;
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

#[inline(always)]
fn whole_bytes(d: f32, qs: &[u8], out: &mut [f32]) {
    for (out, q) in out.iter_mut().zip(qs) {
        *out = d * f32::from(*q as i8);
    }
}

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
