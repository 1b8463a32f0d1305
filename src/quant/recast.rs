//! Removed and other programs' types in blocks of present ones that can hold their numbers.
//!
//! | from | to | why it fits |
//! |---|---|---|
//! | q4_k of 64 | q4_1 | two blocks of 32 with a scale and a minimum each, their products rounded to f16 |
//! | iq1_s v1 | q5_k | `d * (2s + 1) * {-1, 0, 1}` is `d` times an integer in -15..=15: scale 1, minimum 15 |
//! | iq1_s v2 | q3_k | the scale of 32 weights, odd and at most 31, is a six-bit scale; the rest -1, 0, 1 |
//! | iq2_k | q6_k | levels of -31 to 22 and scales of -8 to 7 for 16 weights each, under the same f16 |
//! | iq2_ks | q6_k | the same with the f16 of the row, and scales of -16 to 15 |
//! | iq1_s_r4 | iq1_s | the same blocks of 32, with the f16 of the row |
//! | iq1_m_r4 | q6_k | a scale of 0 to 15 and eight times the point of -9 to 9, under an eighth of the row's f16 |
//! | iq1_bn, iq2_bn, i2_s | tq1_0, tq2_0, q2_0 | -1, 0, 1 under a scale; that of the last two is rounded to f16 |
//! | q8_kv | q8_0 | bytes under the f32 of the row, rounded to f16 |
//! | q1_0 of 32 | q4_0 | the scale and its negative are levels 9 and 7 |
//! | ptq1_0 | q2_0 | -1, 0, 1 under the same f16, which two blocks of 64 have |
//! | q6_0 | q8_0 | numbers of -32 to 31 under the same f16 |
//! | iq3_s v1 | q6_k | in units of `d / 2` a weight is `2s + 1` times an integer in -31..=31 |

use super::half::{half_at, put_half};
use super::loss::{Run, ScaleLoss};
use super::{QuantType, decode_rows, isa::Isa, ternary};

/// The way between two types, and whether it is exact whatever the bytes are.
pub(super) fn way(from: QuantType, to: QuantType) -> Option<(Run, bool)> {
    if !to.is_today() {
        return None;
    }
    match (from.name(), from.dialect(), to.name()) {
        ("q4_k", "super-64", "q4_1") => Some((q4_1_from_q4_k, false)),
        ("iq1_s", "v1", "q5_k") => Some((q5_k_from_iq1_s, true)),
        ("iq1_s", "v2", "q3_k") => Some((q3_k_from_iq1_s, true)),
        ("iq2_k", _, "q6_k") => Some((q6_k_from_iq2_k, true)),
        ("iq2_ks", _, "q6_k") => Some((q6_k_from_iq2_ks, true)),
        ("iq1_s_r4", _, "iq1_s") => Some((iq1_s_from_r4, true)),
        // An eighth of a subnormal scale may lose bits.
        ("iq1_m_r4", _, "q6_k") => Some((q6_k_from_iq1_m_r4, false)),
        ("q8_kv", _, "q8_0") => Some((q8_0_from_q8_kv, false)),
        ("iq1_bn" | "iq2_bn" | "i2_s", ..) => ternary::way(from, to),
        ("q1_0", "prism", "q4_0") => Some((q4_0_from_q1_0, true)),
        ("ptq1_0", _, "q2_0") => Some((q2_0_from_ptq1_0, true)),
        ("q6_0", _, "q8_0") => Some((q8_0_from_q6_0, true)),
        // Half of a subnormal scale may lose its last bit.
        ("iq3_s", "v1", "q6_k") => Some((q6_k_from_iq3_s, false)),
        _ => None,
    }
}

/// Nibble `h` of the 32 bytes belongs to weight `32h + l`: two blocks of one nibble each.
fn q4_1_from_q4_k(_: Isa, _: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    let mut loss = ScaleLoss::default();
    for (b, out) in input.as_chunks::<38>().0.iter().zip(out.as_chunks_mut::<40>().0) {
        for (h, out) in out.as_chunks_mut::<20>().0.iter_mut().enumerate() {
            // f16 d, f16 dmin, two bytes of scale and minimum, 32 bytes of nibbles; a minimum is taken off there,
            // added here.
            let scales = b[4 + h];
            let d = half_at(b, 0) * f32::from(scales & 15);
            let m = -(half_at(b, 2) * f32::from(scales >> 4));
            let new = [put_half(out, 0, d), put_half(out, 2, m)];
            loss.count([d, m], new);
            for j in 0..16 {
                let w = |l: usize| b[6 + l] >> (4 * h) & 15;
                out[4 + j] = w(j) | w(j + 16) << 4;
            }
        }
    }
    loss
}

/// The weights of a block whose scale is at its start, with `d` in place of it.
fn weights_at<const N: usize, const WEIGHTS: usize>(
    name: &str,
    dialect: &str,
    block: &[u8; N],
    d: f32,
) -> [i8; WEIGHTS] {
    let q = QuantType::find(name, dialect).expect("the type that the caller was chosen for");
    let mut block = *block;
    // The decoder is asked, not written again: under a scale of 1 it gives whole numbers.
    put_half(&mut block, 0, d);
    let mut weights = [0.0; WEIGHTS];
    decode_rows(q, Isa::PORTABLE, &block, WEIGHTS, &mut weights);
    weights.map(|w| w as i16 as i8)
}

/// `d * w - d * 15` with `w` of 0 to 30, under one scale and one minimum for all eight blocks of 32.
fn q5_k_from_iq1_s(_: Isa, _: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    // Scale 1 and minimum 15 for all eight blocks, as six-bit pairs.
    const SCALES: [u8; 12] = [1, 1, 1, 1, 15, 15, 15, 15, 0xf1, 0xf1, 0xf1, 0xf1];
    for (b, out) in input.as_chunks::<50>().0.iter().zip(out.as_chunks_mut::<176>().0) {
        // (2s + 1) * {-1, 0, 1} is -15 to 15; with 15 added it is 0 to 30, in five bits.
        let w: [_; 256] = weights_at("iq1_s", "v1", b, 1.0).map(|w| (w + 15) as u8);
        out.fill(0);
        // d and dmin alike: d * 1 * w - d * 15.
        for at in [0, 2] {
            out[at..at + 2].copy_from_slice(&b[..2]);
        }
        out[4..16].copy_from_slice(&SCALES);
        for (e, w) in w.into_iter().enumerate() {
            // Bit 4 of block b is bit b of qh[l]; nibbles of two blocks share 32 bytes.
            let (block, l) = (e / 32, e % 32);
            out[16 + l] |= (w >> 4) << block;
            out[48 + 32 * (block / 2) + l] |= (w & 15) << (4 * (block % 2));
        }
    }
    ScaleLoss { blocks: input.len() as u64 / 50, ..ScaleLoss::default() }
}

/// `d * (s - 32) * (w - 4)`: the stored scale is 32 higher than the odd one of IQ1_S, the number 4 higher than -1, 0,
/// 1.
fn q3_k_from_iq1_s(_: Isa, _: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    for (b, out) in input.as_chunks::<50>().0.iter().zip(out.as_chunks_mut::<110>().0) {
        // Its scale is taken along as such, so of the weight only the sign counts: 3, 4 or 5, four too high.
        let w: [_; 256] = weights_at("iq1_s", "v2", b, 1.0).map(|w| (w.signum() + 4) as u8);
        out.fill(0);
        out[108..110].copy_from_slice(&b[..2]);
        for i in 0..16 {
            // The top four bits of word i / 2, for 32 weights: twice in Q3_K, whose scales are of 16.
            let s = 32 + 2 * (b[35 + 2 * (i / 2)] >> 4) + 1;
            out[96 + i % 8] |= (s & 15) << (4 * (i / 8));
            out[104 + i % 4] |= (s >> 4) << (2 * (i / 4));
        }
        for (e, w) in w.into_iter().enumerate() {
            let l = e % 32;
            // hmask, then pairs of bits, as `decode::kquant` draws them.
            out[l] |= (w >> 2) << (e / 32);
            out[32 + 32 * (e / 128) + l] |= (w & 3) << (2 * (e % 128 / 32));
        }
    }
    ScaleLoss { blocks: input.len() as u64 / 50, ..ScaleLoss::default() }
}

/// `d / 2 * (2s + 1) * (level / 2)`: the levels are even, and the halves of `(1/2 + s) / 2` are moved into `d` and them.
fn q6_k_from_iq3_s(_: Isa, _: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    let mut loss = ScaleLoss::default();
    // With the scale of a block of 32 at zero, `2 * (0.5 + 0) * 0.5` halves every level.
    for (b, out) in input.as_chunks::<110>().0.iter().zip(out.as_chunks_mut::<210>().0) {
        let mut levels = *b;
        levels[106..].fill(0);
        let w: [_; 256] = weights_at("iq3_s", "v1", &levels, 2.0).map(|w| (w + 32) as u8);
        out.fill(0);
        let d = half_at(b, 0) / 2.0;
        let new = put_half(out, 208, d);
        loss.count([d, 0.0], [new, 0.0]);
        for i in 0..16 {
            // Nibble i / 2 is of 32 weights; a scale of Q6_K of 16.
            out[192 + i] = 2 * (b[106 + i / 4] >> (4 * (i / 2 % 2)) & 15) + 1;
        }
        put_q6_k(w, out);
    }
    loss
}

/// The numbers of a Q6_K block, whose bits are zero before.
fn put_q6_k(w: [u8; 256], out: &mut [u8; 210]) {
    for (e, w) in w.into_iter().enumerate() {
        let (half, quarter, l) = (e / 128, e % 128 / 32, e % 32);
        out[64 * half + 32 * (quarter % 2) + l] |= (w & 15) << (4 * (quarter / 2));
        out[128 + 32 * half + l] |= (w >> 4) << (2 * quarter);
    }
}

/// With all sixteen scales at `9 - 8 = 1`, a weight is its level.
fn q6_k_from_iq2_k(_: Isa, _: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    for (b, out) in input.as_chunks::<76>().0.iter().zip(out.as_chunks_mut::<210>().0) {
        let mut levels = *b;
        levels[4..12].fill(0x99);
        let w: [_; 256] = weights_at("iq2_k", "ik", &levels, 1.0).map(|w| (w + 32) as u8);
        out.fill(0);
        out[208..].copy_from_slice(&b[..2]);
        for (i, scale) in out[192..208].iter_mut().enumerate() {
            *scale = (b[4 + i / 2] >> (4 * (i % 2)) & 15).wrapping_sub(8);
        }
        put_q6_k(w, out);
    }
    ScaleLoss { blocks: input.len() as u64 / 76, ..ScaleLoss::default() }
}

/// Weights `j` and `j + 16` share byte `j`.
fn q4_0_from_q1_0(_: Isa, _: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    for (b, out) in input.as_chunks::<6>().0.iter().zip(out.as_chunks_mut::<18>().0) {
        out[..2].copy_from_slice(&b[..2]);
        let level = |e: usize| 7 + 2 * (b[2 + e / 8] >> (e % 8) & 1);
        for (j, out) in out[2..].iter_mut().enumerate() {
            *out = level(j) | level(j + 16) << 4;
        }
    }
    ScaleLoss { blocks: input.len() as u64 / 6, ..ScaleLoss::default() }
}

/// With a scale of 1 a weight is its digit, less 1.
fn q2_0_from_ptq1_0(isa: Isa, _: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    let q = QuantType::find("ptq1_0", "prism").expect("the type that the caller was chosen for");
    for (b, out) in input.as_chunks::<28>().0.iter().zip(out.as_chunks_mut::<36>().0) {
        let (mut digits, mut weights) = (*b, [0.0; 128]);
        put_half(&mut digits, 26, 1.0);
        decode_rows(q, isa, &digits, 128, &mut weights);
        ternary::put_q2_0(&weights, out);
        for out in out.as_chunks_mut::<18>().0 {
            out[..2].copy_from_slice(&b[26..]);
        }
    }
    ScaleLoss { blocks: (out.len() / 18) as u64, ..ScaleLoss::default() }
}

/// Six bits in eight, under the same f16.
fn q8_0_from_q6_0(_: Isa, _: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    for (b, out) in input.as_chunks::<26>().0.iter().zip(out.as_chunks_mut::<34>().0) {
        let w: [i8; 32] = weights_at("q6_0", "ik", b, 1.0);
        out[..2].copy_from_slice(&b[..2]);
        out[2..].iter_mut().zip(w).for_each(|(out, w)| *out = w as u8);
    }
    ScaleLoss { blocks: input.len() as u64 / 26, ..ScaleLoss::default() }
}

/// As [`q6_k_from_iq2_k`], the scale of 32 weights twice.
fn q6_k_from_iq2_ks(_: Isa, row_len: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    let blocks = row_len / 256;
    let rows = input.chunks_exact(2 + 70 * blocks).zip(out.chunks_exact_mut(210 * blocks));
    for (row, out) in rows {
        for (b, out) in row[2..].as_chunks::<70>().0.iter().zip(out.as_chunks_mut::<210>().0) {
            let mut levels = [0; 72];
            levels[2..].copy_from_slice(b);
            // 17 - 16 = 1 for all of them.
            levels[3] = 0xff;
            levels[4..8].fill(0x11);
            let w: [_; 256] = weights_at("iq2_ks", "ik", &levels, 1.0).map(|w| (w + 32) as u8);
            out.fill(0);
            out[208..].copy_from_slice(&row[..2]);
            for (i, scale) in out[192..208].iter_mut().enumerate() {
                let g = i / 2;
                let s = b[2 + g / 2] >> (4 * (g % 2)) & 15 | (b[1] >> g & 1) << 4;
                *scale = s.wrapping_sub(16);
            }
            put_q6_k(w, out);
        }
    }
    ScaleLoss { blocks: (out.len() / 210) as u64, ..ScaleLoss::default() }
}

/// Units of four rows of IQ1_S_R4 or IQ1_M_R4, each for 32 weights of every row: hands on the scale of the row,
/// its number in the group, all its units, and its bytes of the output.
fn four_rows<const UNIT: usize>(
    row_len: usize,
    row_made: usize,
    input: &[u8],
    out: &mut [u8],
    mut row: impl FnMut(&[u8], usize, &[[u8; UNIT]], &mut [u8]),
) {
    let group = 8 + UNIT * (row_len / 32);
    for (group, out) in input.chunks_exact(group).zip(out.chunks_exact_mut(4 * row_made)) {
        let (scales, units) = group.split_at(8);
        for (k, out) in out.chunks_exact_mut(row_made).enumerate() {
            row(&scales[2 * k..2 * k + 2], k, units.as_chunks().0, out);
        }
    }
}

/// The bytes of each row picked out of those of four; its scale, f16 before the units, becomes that of each block.
fn iq1_s_from_r4(_: Isa, row_len: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    four_rows::<24>(row_len, row_len / 256 * 50, input, out, |d, k, units, out| {
        for (units, out) in units.chunks_exact(8).zip(out.as_chunks_mut::<50>().0) {
            out[..2].copy_from_slice(d);
            for (ib, unit) in units.iter().enumerate() {
                for i in 0..4 {
                    // Row k's bytes are every fourth; its word follows those of the rows before it.
                    out[2 + 4 * ib + i] = unit[4 * i + k];
                }
                out[34 + 2 * ib..36 + 2 * ib].copy_from_slice(&unit[16 + 2 * k..18 + 2 * k]);
            }
        }
    });
    ScaleLoss { blocks: (out.len() / 50) as u64, ..ScaleLoss::default() }
}

/// `d / 8 * s * (8 * point + 1 or - 1)`: the delta of an eighth made whole.
fn q6_k_from_iq1_m_r4(_: Isa, row_len: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    let q = QuantType::find("iq1_m_r4", "ik").expect("the type that the caller was chosen for");
    let mut loss = ScaleLoss::default();
    four_rows::<28>(row_len, row_len / 256 * 210, input, out, |d, k, units, out| {
        for (units, out) in units.chunks_exact(8).zip(out.as_chunks_mut::<210>().0) {
            out.fill(0);
            // A point and its delta of an eighth: eight times both is whole.
            let eighth = half_at(d, 0) / 8.0;
            let new = put_half(out, 208, eighth);
            loss.count([eighth, 0.0], [new, 0.0]);
            let mut weights = [0; 256];
            for (ib, unit) in units.iter().enumerate() {
                // With a row scale of 8 and block scales of 1 a weight is its level.
                let mut levels = [0; 36];
                levels[..8].copy_from_slice(&[0, 0x48].repeat(4));
                levels[8..].copy_from_slice(unit);
                levels[32..].fill(0x11);
                let mut rows = [0.0; 128];
                decode_rows(q, Isa::PORTABLE, &levels, 32, &mut rows);
                for (w, level) in weights[32 * ib..][..32].iter_mut().zip(&rows[32 * k..]) {
                    *w = (*level + 32.0) as u8;
                }
                for h in 0..2 {
                    out[192 + 2 * ib + h] = unit[24 + k] >> (4 * h) & 15;
                }
            }
            put_q6_k(weights, out);
        }
    });
    loss
}

/// The row's scale, f32 in front, becomes that of every block; the sum behind it is for products.
fn q8_0_from_q8_kv(_: Isa, row_len: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
    let mut loss = ScaleLoss::default();
    let rows = input.chunks_exact(8 + row_len).zip(out.chunks_exact_mut(row_len / 32 * 34));
    for (row, out) in rows {
        let d = f32::from_le_bytes([row[0], row[1], row[2], row[3]]);
        for (qs, out) in row[8..].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<34>().0) {
            let new = put_half(out, 0, d);
            loss.count([d, 0.0], [new, 0.0]);
            out[2..].copy_from_slice(qs);
        }
    }
    loss
}
