//! Q3_K and Q6_K: numbers around zero, restored by a scale alone.

use super::sub_blocks::{groups, importance_weights, mean_squares, stored_half, subs};
use crate::{
    per_isa,
    quant::{
        encode::{
            group::{centred_quanta, centred_requanta, transposed},
            lanes::{LANES, Lanes, nearest_int},
            search::{NOTHING, centred, descended},
            superblock::{SUPER, pack_pairs, pack_q3_k_scales, pack_q6_k},
        },
        isa::Isa,
    },
};

/// The first of largest magnitude.
#[inline(always)]
fn largest(scales: &[f32; 16]) -> f32 {
    let mut max = 0.0f32;
    for s in scales {
        max = if s.abs() > max.abs() { *s } else { max };
    }
    max
}

/// The quanta that the first search of Q3_K found, for a sub-block whose stored scale is zero. They are
/// so few that they are searched again.
#[cold]
#[inline(never)]
fn first_quanta(x: &[f32; 16]) -> [u8; 16] {
    let mut quanta = [[Lanes::ZERO; 16]];
    let nothing = x.iter().all(|x| x.abs() < NOTHING);
    descended(4.0, &[x.map(Lanes::splat)], &mut quanta);
    quanta[0].map(|lanes| if nothing { 0 } else { (lanes.0[0] + 4.0) as u8 })
}

/// Q3_K: quanta in −4..=3, scales in −32..=31, both stored that much higher. The third bit of a quantum is in
/// `hmask`, bit `e` of byte `l` for number `32 e + l`; the low two are packed as Q2_K's. The largest scale in
/// magnitude becomes −32, the end of the range that has one more.
#[inline(always)]
fn q3_k_body<const WEIGHTED: bool>(rows: &[f32], weights: &[f32], out: &mut [u8]) {
    groups::<110>(
        rows,
        weights,
        out,
        #[inline(always)]
        |group, out| {
            let mut scale = [[0.0; 16]; LANES];
            let mut step = [[0.0; 16]; LANES];
            let mut weight = [[0.0; 16]; LANES];
            let means = if WEIGHTED { mean_squares(group, 2.0) } else { [0.0; LANES] };
            if WEIGHTED {
                for i in 0..group.count {
                    let xs = subs::<16>(&group.x, 16 * i);
                    let importance = subs::<16>(&group.importance, 16 * i);
                    let (ws, sum) = importance_weights(&xs, &importance, Lanes::splat(means[i]));
                    // One super-block a step: its sixteen sub-blocks are the lanes.
                    let found = centred(4.0, &xs, &ws);
                    (scale[i], step[i], weight[i]) = (found.scale.0, found.step.0, sum.0);
                }
            } else {
                // Four super-blocks in turn, for each move of `descended` waits for a division.
                let mut quanta = [[Lanes::ZERO; 16]; 4];
                for first in (0..group.count).step_by(4) {
                    let mut four = [[Lanes::ZERO; 16]; 4];
                    for (p, xs) in four.iter_mut().enumerate() {
                        *xs = subs::<16>(&group.x, 16 * (first + p));
                    }
                    for (p, found) in descended(4.0, &four, &mut quanta).iter().enumerate() {
                        scale[first + p] = found.0;
                    }
                }
            }

            // The scales in their turn, 32 higher than they are.
            let mut unit = [0.0; LANES];
            let mut codes = [[0; 16]; LANES];
            if WEIGHTED {
                // The same search as for numbers: scales are numbers around zero too, of six bits.
                let found = centred(32.0, &transposed(&scale), &transposed(&weight));
                unit = found.scale.0;
                for (i, codes) in codes.iter_mut().enumerate() {
                    centred_quanta(&scale[i], found.step.0[i], 32, codes);
                }
            } else {
                for (i, codes) in codes.iter_mut().enumerate() {
                    let max = largest(&scale[i]);
                    if max != 0.0 {
                        // The one of largest magnitude becomes -32, so `unit` has the other sign than it.
                        let inverse = -32.0 / max;
                        unit[i] = 1.0 / inverse;
                        for (code, scale) in codes.iter_mut().zip(&scale[i]) {
                            let l = nearest_int(inverse * scale) as i8;
                            *code = (l.clamp(-32, 31) + 32) as u8;
                        }
                    }
                }
            }

            for (i, bytes) in out.iter_mut().enumerate() {
                let (d, d_value) = stored_half(unit[i]);
                let mut quanta = [0; SUPER];
                let subs = group.x[i].as_chunks::<16>().0.iter();
                for (sub, (x, out)) in subs.zip(quanta.as_chunks_mut::<16>().0).enumerate() {
                    let scale = d_value * (f32::from(codes[i][sub]) - 32.0);
                    if scale != 0.0 {
                        centred_requanta(x, scale, 4, out);
                    } else if WEIGHTED {
                        centred_quanta(x, step[i][sub], 4, out);
                    } else {
                        *out = first_quanta(x);
                    }
                }
                // Bit 2 of number 32 e + l is bit e of byte l.
                for l in 0..32 {
                    bytes[l] = (0..8).fold(0, |b, e| b | quanta[32 * e + l] >> 2 << e);
                }
                pack_pairs(&quanta.map(|q| q & 3), &mut bytes[32..96]);
                pack_q3_k_scales(&codes[i], &mut bytes[96..108]);
                bytes[108..110].copy_from_slice(&d);
            }
        },
    );
}

/// Q6_K: quanta in −32..=31, stored 32 higher, and scales of a whole signed byte: the largest in magnitude
/// becomes −128. Without importance the weight of a number is its square. A super-block without a scale worth
/// storing is all zero bytes, d too.
#[inline(always)]
fn q6_k_body<const WEIGHTED: bool>(rows: &[f32], weights: &[f32], out: &mut [u8]) {
    groups::<210>(
        rows,
        weights,
        out,
        #[inline(always)]
        |group, out| {
            for (i, bytes) in out.iter_mut().enumerate() {
                let xs = subs::<16>(&group.x, 16 * i);
                // Q6_K alone weighs by the imatrix as it is, without the root of the mean square and x^2.
                let ws = if WEIGHTED {
                    subs::<16>(&group.importance, 16 * i)
                } else {
                    let mut squares = [Lanes::ZERO; 16];
                    for j in 0..16 {
                        squares[j] = xs[j] * xs[j];
                    }
                    squares
                };
                let found = centred(32.0, &xs, &ws);
                let max = largest(&found.scale.0);
                bytes.fill(0);
                if max.abs() < NOTHING {
                    continue;
                }
                let inverse = -128.0 / max;
                let (d, d_value) = stored_half(1.0 / inverse);
                let mut quanta = [0; SUPER];
                let subs = group.x[i].as_chunks::<16>().0.iter();
                for (sub, (x, out)) in subs.zip(quanta.as_chunks_mut::<16>().0).enumerate() {
                    // Not bounded below: none is larger in magnitude than the one that becomes -128.
                    let code = nearest_int(inverse * found.scale.0[sub]).min(127) as i8;
                    bytes[192 + sub] = code as u8;
                    let scale = d_value * f32::from(code);
                    if scale != 0.0 {
                        centred_requanta(x, scale, 32, out);
                    } else {
                        centred_quanta(x, found.step.0[sub], 32, out);
                    }
                }
                pack_q6_k(&quanta, bytes);
                bytes[208..].copy_from_slice(&d);
            }
        },
    );
}

per_isa! {
    fn plain_q3_k(rows: &[f32], weights: &[f32], out: &mut [u8]) = q3_k_body::<false>;
    fn weighted_q3_k(rows: &[f32], weights: &[f32], out: &mut [u8]) = q3_k_body::<true>, up to avx2;
    fn plain_q6_k(rows: &[f32], weights: &[f32], out: &mut [u8]) = q6_k_body::<false>, up to avx2;
    fn weighted_q6_k(rows: &[f32], weights: &[f32], out: &mut [u8]) = q6_k_body::<true>, up to avx2;
}

/// Q3_K, 110 bytes: `u8 hmask[32], u8 qs[64], u8 scales[12], f16 d`.
pub fn encode_q3_k(isa: Isa, rows: &[f32], _: usize, weights: Option<&[f32]>, out: &mut [u8]) {
    match weights {
        None => plain_q3_k(isa, rows, &[], out),
        Some(weights) => weighted_q3_k(isa, rows, weights, out),
    }
}

/// Q6_K, 210 bytes: `u8 ql[128], u8 qh[64], i8 scales[16], f16 d`.
pub fn encode_q6_k(isa: Isa, rows: &[f32], _: usize, weights: Option<&[f32]>, out: &mut [u8]) {
    match weights {
        None => plain_q6_k(isa, rows, &[], out),
        Some(weights) => weighted_q6_k(isa, rows, weights, out),
    }
}
