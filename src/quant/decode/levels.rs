//! Types whose numbers name a level: the curve of IQ4, four-bit floats, pairs of bits, bits.
//!
//! ```text
//! IQ4_NL  18 bytes of  32   d:f16, qs[16]                             d * CURVE[q]
//! IQ4_XS 136 bytes of 256   d:f16, scales_h:u16, scales_l[4], qs[128] d * (scale - 32) * CURVE[q]
//! MXFP4   17 bytes of  32   e:u8, qs[16]                              2^(e - 127) * e2m1(q)
//! NVFP4   36 bytes of  64   scales:ue4m3[4], qs[32]                   scale * e2m1(q), a scale of 16 numbers
//! Q2_0    18 bytes of  64   d:f16, qs[16] of four pairs of bits       d * (q - 1)
//! Q1_0    18 bytes of 128   d:f16, qs[16] of eight bits               d or -d
//!
//! Q1_0     6 bytes of  32   d:f16, qs[4] of eight bits                   as Q1_0, of that fork before llama.cpp had it
//! ```
//!
//! Nibbles are in halves: byte `j` is number `j` and, above it, number `j + 16` (NVFP4: `j + 8` of its sixteen).
//! Q2_0's pairs of bits are side by side.

use super::kernel::{DecodeRows, decoders, half_at};
use crate::{per_isa, quant::isa::Isa};

decoders!(iq4_nl, iq4_xs, mxfp4, nvfp4, q1_0, q1_0_32, q2_0);

/// The kernels that decode several rows together.
pub(super) const GROUPED: &[(&str, DecodeRows)] = &[
    ("q4_0_4_4", q4_0_4_4),
    ("q4_0_4_8", q4_0_4_8),
    ("q4_0_8_8", q4_0_8_8),
    ("iq4_nl_4_4", iq4_nl_4_4),
    ("iq4_nl_4_8", iq4_nl_4_8),
    ("iq4_nl_8_8", iq4_nl_8_8),
];

/// The levels of IQ4_NL and IQ4_XS.
pub(super) const CURVE: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the value of a float with one sign, two exponent and one mantissa bits.
pub(super) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Nibbles in halves, each naming a level.
#[inline(always)]
fn halves(qs: &[u8], levels: &[i8; 16], d: f32, out: &mut [f32]) {
    let (low, high) = out.split_at_mut(qs.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(qs) {
        *low = d * f32::from(levels[usize::from(byte & 15)]);
        *high = d * f32::from(levels[usize::from(byte >> 4)]);
    }
}

/// Sixteen bytes of them.
#[inline(always)]
fn sixteen(isa: Isa, qs: &[u8], levels: &[i8; 16], d: f32, out: &mut [f32; 32]) {
    let named = isa.named(qs.first_chunk().unwrap_or(&[0; 16]), levels);
    out.as_chunks_mut().0.copy_from_slice(&isa.numbered(named, d));
}

/// `d * CURVE[q]`, two levels looked up for each byte at once where the processor can.
#[inline(always)]
pub(crate) fn iq4_nl(isa: Isa, b: &[u8; 18], out: &mut [f32; 32]) {
    sixteen(isa, &b[2..], &CURVE, half_at(isa, b, 0), out);
}

/// The six-bit scale of block `ib` of IQ4_XS: low nibbles in `scales_l`, high pairs in `scales_h`.
#[inline(always)]
pub(super) fn iq4_xs_scale(b: &[u8; 136], ib: usize) -> i8 {
    let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * ib) & 3;
    (b[4 + ib / 2] >> (4 * (ib % 2)) & 15 | (high << 4) as u8) as i8 - 32
}

/// Eight blocks of 32, each as IQ4_NL with a scale of its own.
#[inline(always)]
pub(crate) fn iq4_xs(isa: Isa, b: &[u8; 136], out: &mut [f32; 256]) {
    let d = half_at(isa, b, 0);
    let blocks = b[8..].as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
    for (ib, (qs, out)) in blocks.enumerate() {
        sixteen(isa, qs, &CURVE, d * f32::from(iq4_xs_scale(b, ib)), out);
    }
}

/// `2^(e - 128)`: half of the scale, for the levels are doubled.
#[inline(always)]
pub(super) fn mxfp4_scale(e: u8) -> f32 {
    // An exponent field of e - 1 is 2^(e - 128); below the normal numbers the bit itself moves.
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// One power of two for 32 four-bit floats (OCP Microscaling, 2023).
#[inline(always)]
pub(crate) fn mxfp4(isa: Isa, b: &[u8; 17], out: &mut [f32; 32]) {
    sixteen(isa, &b[1..], &E2M1, mxfp4_scale(b[0]), out);
}

/// Half the value of an unsigned float of four exponent bits, bias 7, and three mantissa bits.
///
/// The original reads 0x7f, no number, as zero.
#[inline(always)]
fn half_ue4m3(x: u8) -> f32 {
    if x & 127 == 127 && x < 128 {
        return 0.0;
    }
    // 2^(exponent - 7) * (1 + mantissa / 8), and half of it; without the leading 1 where the exponent is 0.
    let (exponent, mantissa) = (u32::from(x >> 3 & 15), f32::from(x & 7));
    let power = f32::from_bits((exponent.max(1) + 127 - 7 - 3 - 1) << 23);
    if exponent == 0 { mantissa * power } else { (8.0 + mantissa) * power }
}

/// Four scales for four runs of 16, in front of their nibbles.
///
/// `half_ue4m3`, for the levels are doubled.
#[inline(always)]
fn nvfp4(_: Isa, b: &[u8; 36], out: &mut [f32; 64]) {
    let blocks = b[4..].as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<16>().0);
    for (d, (qs, out)) in b[..4].iter().zip(blocks) {
        halves(qs, &E2M1, half_ue4m3(*d), out);
    }
}

/// A bit for each weight, the first the lowest of its byte: set it is the scale, else the scale with its sign turned.
#[inline(always)]
fn signs(d: f32, bits: &[u8], out: &mut [f32]) {
    for (out, byte) in out.as_chunks_mut::<8>().0.iter_mut().zip(bits) {
        for (bit, out) in out.iter_mut().enumerate() {
            let minus = u32::from(!byte >> bit & 1) << 31;
            *out = f32::from_bits(d.to_bits() ^ minus);
        }
    }
}

#[inline(always)]
fn q1_0(isa: Isa, b: &[u8; 18], out: &mut [f32; 128]) {
    signs(half_at(isa, b, 0), &b[2..], out);
}

#[inline(always)]
fn q1_0_32(isa: Isa, b: &[u8; 6], out: &mut [f32; 32]) {
    signs(half_at(isa, b, 0), &b[2..], out);
}

/// Four neighbours in a byte, the first in the lowest bits.
#[inline(always)]
fn q2_0(isa: Isa, b: &[u8; 18], out: &mut [f32; 64]) {
    let d = half_at(isa, b, 0);
    for (out, byte) in out.as_chunks_mut::<4>().0.iter_mut().zip(&b[2..]) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = f32::from((byte >> (2 * i) & 3) as i8 - 1) * d;
        }
    }
}

/// Groups of `ROWS` rows: a unit holds block `i` of each row, first the scales, then the nibbles of all
/// rows, `RUN` bytes of each in turn.
///
/// ```text
/// unit of 4 rows, RUN 4    d0 d1 d2 d3 | q0[0..4] q1[0..4] q2[0..4] q3[0..4] | q0[4..8] q1[4..8] ..    72 bytes
/// ```
#[inline(always)]
fn grouped<const ROWS: usize, const RUN: usize>(
    isa: Isa,
    bytes: &[u8],
    row_len: usize,
    out: &mut [f32],
    one: impl Fn(Isa, &[u8; 18], &mut [f32; 32]),
) {
    let group = bytes.chunks_exact(row_len / 32 * 18 * ROWS);
    for (group, out) in group.zip(out.chunks_exact_mut(row_len * ROWS)) {
        for (i, unit) in group.chunks_exact(18 * ROWS).enumerate() {
            let (d, qs) = unit.split_at(2 * ROWS);
            for row in 0..ROWS {
                let mut block = [0; 18];
                block[..2].copy_from_slice(&d[2 * row..2 * row + 2]);
                for (run, to) in block[2..].chunks_exact_mut(RUN).enumerate() {
                    // Run r of row k is behind run r of the k rows before it.
                    let at = (run * ROWS + row) * RUN;
                    to.copy_from_slice(&qs[at..at + RUN]);
                }
                let (out, _) = out[row * row_len + 32 * i..].as_chunks_mut();
                one(isa, &block, &mut out[0]);
            }
        }
    }
}

/// Q4_0 with the top bit of every nibble flipped, which makes it a signed number.
#[inline(always)]
fn signed_q4_0(isa: Isa, b: &[u8; 18], out: &mut [f32; 32]) {
    const SIGNED: [i8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1];
    halves(&b[2..], &SIGNED, half_at(isa, b, 0), out);
}

macro_rules! grouped_kernels {
    ($($name:ident = $rows:literal, $run:literal, $one:path, $body:ident;)+) => {
        $(#[inline(always)]
        fn $body(isa: Isa, bytes: &[u8], row_len: usize, out: &mut [f32]) {
            grouped::<$rows, $run>(isa, bytes, row_len, out, $one);
        })+
        per_isa! { $(fn $name(bytes: &[u8], row_len: usize, out: &mut [f32]) = $body[isa];)+ }
    };
}

grouped_kernels! {
    q4_0_4_4 = 4, 4, signed_q4_0, q4_0_4_4_body;
    q4_0_4_8 = 4, 8, signed_q4_0, q4_0_4_8_body;
    q4_0_8_8 = 8, 8, signed_q4_0, q4_0_8_8_body;
    iq4_nl_4_4 = 4, 4, iq4_nl, iq4_nl_4_4_body;
    iq4_nl_4_8 = 4, 8, iq4_nl, iq4_nl_4_8_body;
    iq4_nl_8_8 = 8, 8, iq4_nl, iq4_nl_8_8_body;
}
