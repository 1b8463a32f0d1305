//! Q2_K, Q4_K and Q5_K: numbers restored by a scale and a minimum.

use super::sub_blocks::{groups, importance_weights, mean_squares, stored_half, subs};
use crate::{
    per_isa,
    quant::{
        encode::{
            group::{Group, affine_quanta, affine_requanta, transposed},
            lanes::{LANES, Lanes, nearest_int},
            search::{Affine, Walk, affine, positive},
            superblock::{SUPER, pack_nibbles, pack_pairs, pack_sixes},
        },
        isa::Isa,
    },
};

/// What the first search found for every sub-block of a group, before scales are quantized: super-block, then
/// sub-block.
struct Found<const SUBS: usize> {
    /// What a quantum is worth: x ≈ scale·q − min.
    scale: [[f32; SUBS]; LANES],
    /// What is taken off; never negative, for the lowest number of a sub-block counts as at most 0.
    min: [[f32; SUBS]; LANES],
    /// By what x − origin was multiplied to get the quanta; not quite 1 / scale, which was fitted afterwards.
    step: [[f32; SUBS]; LANES],
    /// The number of quantum 0 then.
    origin: [[f32; SUBS]; LANES],
    /// The sum of the weights: how much the scale's own error counts when it is quantized.
    weight: [[f32; SUBS]; LANES],
}

/// How the types with a minimum differ. The numbers are those of llama.cpp's calls of `make_qkx2_quants` (plain)
/// and `make_qkx3_quants` (weighted): `first + delta·i` for `i` in `0..=steps` is what is added to the largest
/// quantum `n` before the step that is tried is `(n + that) / (max − min)`.
struct AffineType {
    /// Without importance.
    plain: Walk,
    /// With importance.
    weighted: Walk,
    /// By what the mean square of the super-block counts in a weight, beside the square of the number.
    energy: f32,
    /// The largest quantum of a scale or minimum: 4 bits in Q2_K, 6 in the others.
    scale_top: f32,
}

const Q2_K: AffineType = AffineType {
    plain: Walk { n: 3.0, first: -0.5, delta: 0.1, steps: 15, magnitudes: true },
    weighted: Walk { n: 3.0, first: -0.9, delta: 0.05, steps: 36, magnitudes: false },
    energy: 1.0,
    scale_top: 15.0,
};

const Q4_K: AffineType = AffineType {
    plain: Walk { n: 15.0, first: -1.0, delta: 0.1, steps: 20, magnitudes: false },
    weighted: Walk { n: 15.0, first: -0.9, delta: 0.05, steps: 36, magnitudes: false },
    energy: 2.0,
    scale_top: 63.0,
};

const Q5_K: AffineType = AffineType {
    plain: Walk { n: 31.0, first: -0.5, delta: 0.1, steps: 15, magnitudes: false },
    weighted: Walk { n: 31.0, first: -0.9, delta: 0.05, steps: 36, magnitudes: false },
    energy: 2.0,
    scale_top: 63.0,
};

/// The weights of numbers without importance: Q2_K's are their magnitudes, the others' lie higher by
/// the root mean square of the sub-block.
#[inline(always)]
fn plain_weights<const SIZE: usize>(xs: &[Lanes; SIZE]) -> [Lanes; SIZE] {
    let mut ws = [Lanes::ZERO; SIZE];
    let mut level = Lanes::ZERO;
    if SIZE == 32 {
        let mut sum = Lanes::ZERO;
        for x in xs {
            sum = sum + *x * *x;
        }
        level = (sum / Lanes::splat(32.0)).sqrt();
    }
    for j in 0..SIZE {
        ws[j] = if SIZE == 32 { level + xs[j].magnitude() } else { xs[j].magnitude() };
    }
    ws
}

/// The mean square that belongs to each of the sixteen sub-blocks from number `first` on.
#[inline(always)]
fn sub_energies<const SUBS: usize>(energies: &[f32; LANES], first: usize) -> Lanes {
    let mut out = Lanes::ZERO;
    for (lane, out) in out.0.iter_mut().enumerate() {
        *out = energies[(first + lane) / SUBS];
    }
    out
}

/// Puts what was found for sixteen sub-blocks back in their places, super-block by super-block.
#[inline(always)]
fn store<const SUBS: usize>(to: &mut [[f32; SUBS]; LANES], first: usize, from: Lanes) {
    to.as_flattened_mut()[first..first + LANES].copy_from_slice(&from.0);
}

/// The best scale and minimum of every sub-block of a group, before they are quantized.
#[inline(always)]
fn find_affine<const WEIGHTED: bool, const SIZE: usize, const SUBS: usize>(
    kind: &AffineType,
    group: &Group<SUPER>,
) -> Found<SUBS> {
    let mut found = Found {
        scale: [[0.0; SUBS]; LANES],
        min: [[0.0; SUBS]; LANES],
        step: [[0.0; SUBS]; LANES],
        origin: [[0.0; SUBS]; LANES],
        weight: [[0.0; SUBS]; LANES],
    };
    // With imatrix data only: a weight there is `importance * sqrt(mean + x^2)`, the mean that of the super-block.
    let means = if WEIGHTED { mean_squares(group, kind.energy) } else { [0.0; LANES] };
    for first in (0..group.count * SUBS).step_by(LANES) {
        let xs = subs::<SIZE>(&group.x, first);
        let Affine { scale, min, step, origin } = if WEIGHTED {
            let importance = subs::<SIZE>(&group.importance, first);
            let energy = sub_energies::<SUBS>(&means, first);
            let (ws, sum) = importance_weights(&xs, &importance, energy);
            store(&mut found.weight, first, sum);
            affine(&kind.weighted, &xs, &ws)
        } else {
            affine(&kind.plain, &xs, &plain_weights(&xs))
        };
        store(&mut found.scale, first, scale);
        store(&mut found.min, first, min);
        store(&mut found.step, first, step);
        store(&mut found.origin, first, origin);
    }
    found
}

/// One kind of quantized scales of a super-block, and the number that each multiplies.
#[derive(Clone, Copy)]
struct Scales<const SUBS: usize> {
    quanta: [u8; SUBS],
    unit: f32,
}

/// The scales (or minima) of every super-block, quantized: `scale ≈ unit · quantum`, quanta in `0..=top`.
///
/// Without importance the largest becomes `top`; a scale may be negative, whose byte then wraps. With
/// importance the unit is searched so that `Σ weight·(scale − unit·quantum)²` is least.
#[inline(always)]
fn quantize_scales<const WEIGHTED: bool, const SUBS: usize>(
    top: f32,
    scales: &[[f32; SUBS]; LANES],
    weights: &[[f32; SUBS]; LANES],
) -> [Scales<SUBS>; LANES] {
    let mut out = [Scales { quanta: [0; SUBS], unit: 0.0 }; LANES];
    if WEIGHTED {
        // Scales of one super-block are one problem, so its lanes are super-blocks: lane i searches for block i.
        let chosen = positive(top, &transposed(scales), &transposed(weights));
        for (lane, out) in out.iter_mut().enumerate() {
            out.unit = chosen.scale.0[lane];
            for (to, from) in out.quanta.iter_mut().zip(&chosen.quanta) {
                *to = from.0[lane] as u8;
            }
        }
    } else {
        for (out, scales) in out.iter_mut().zip(scales) {
            // None positive: all quanta are 0 and so is the unit.
            let max = scales.iter().fold(0.0f32, |max, s| if *s > max { *s } else { max });
            let inverse = if max > 0.0 { top / max } else { 0.0 };
            out.unit = if max > 0.0 { max / top } else { 0.0 };
            for (to, from) in out.quanta.iter_mut().zip(scales) {
                *to = nearest_int(inverse * from) as u8;
            }
        }
    }
    out
}

/// The quanta of one super-block, from its stored scales and minima: with `d` and `dmin` as f16 restores them,
/// so that the rounding of the scales is made good by the quanta where it can be.
#[inline(always)]
fn affine_super<const SIZE: usize, const SUBS: usize>(
    group: &Group<SUPER>,
    found: &Found<SUBS>,
    block: usize,
    top: i32,
    (d, scales): (f32, &[u8; SUBS]),
    (dmin, mins): (f32, &[u8; SUBS]),
) -> [u8; SUPER] {
    let mut quanta = [0; SUPER];
    let subs = group.x[block].as_chunks::<SIZE>().0.iter();
    for (sub, (x, out)) in subs.zip(quanta.as_chunks_mut::<SIZE>().0).enumerate() {
        let scale = d * f32::from(scales[sub]);
        let min = dmin * f32::from(mins[sub]);
        // A scale that was rounded to nothing restores nothing: any quanta do, and ggml keeps those that it had.
        if scale != 0.0 {
            affine_requanta(x, scale, min, top, out);
        } else {
            affine_quanta(x, found.step[block][sub], found.origin[block][sub], top, out);
        }
    }
    quanta
}

/// Q2_K. A byte of `scales` is a sub-block: `min:4 | scale:4`, the scale below. Four quanta are a byte of `qs`,
/// 32 numbers apart ([`pack_pairs`]).
#[inline(always)]
fn q2_k_body<const WEIGHTED: bool>(rows: &[f32], weights: &[f32], out: &mut [u8]) {
    groups::<84>(
        rows,
        weights,
        out,
        #[inline(always)]
        |group, out| {
            // First the best float scale and minimum of every sub-block, then 4 bits for each, then quanta to those.
            let found = find_affine::<WEIGHTED, 16, 16>(&Q2_K, group);
            let scales =
                quantize_scales::<WEIGHTED, 16>(Q2_K.scale_top, &found.scale, &found.weight);
            let mins = quantize_scales::<WEIGHTED, 16>(Q2_K.scale_top, &found.min, &found.weight);
            for (i, bytes) in out.iter_mut().enumerate() {
                let (d, d_value) = stored_half(scales[i].unit);
                let (dmin, dmin_value) = stored_half(mins[i].unit);
                let mut low = [0; 16];
                let mut high = [0; 16];
                for j in 0..16 {
                    // Masked again below, for a negative scale has wrapped and reaches into the other nibble, as in
                    // ggml.
                    bytes[j] = scales[i].quanta[j] | mins[i].quanta[j] << 4;
                    low[j] = bytes[j] & 15;
                    high[j] = bytes[j] >> 4;
                }
                let quanta = affine_super::<16, 16>(
                    group,
                    &found,
                    i,
                    3,
                    (d_value, &low),
                    (dmin_value, &high),
                );
                pack_pairs(&quanta, &mut bytes[16..80]);
                bytes[80..82].copy_from_slice(&d);
                bytes[82..84].copy_from_slice(&dmin);
            }
        },
    );
}

/// Q4_K, and Q5_K with its fifth bits before the nibbles: Q5_K's `qh` is 32 bytes, bit `s` of byte `l` for
/// number `32 s + l`.
#[inline(always)]
fn q4_k_q5_k_body<const WEIGHTED: bool, const FIVE: bool, const BYTES: usize>(
    rows: &[f32],
    weights: &[f32],
    out: &mut [u8],
) {
    let kind = if FIVE { Q5_K } else { Q4_K };
    groups::<BYTES>(
        rows,
        weights,
        out,
        #[inline(always)]
        |group, out| {
            let found = find_affine::<WEIGHTED, 32, 8>(&kind, group);
            let scales =
                quantize_scales::<WEIGHTED, 8>(kind.scale_top, &found.scale, &found.weight);
            let mins = quantize_scales::<WEIGHTED, 8>(kind.scale_top, &found.min, &found.weight);
            for (i, bytes) in out.iter_mut().enumerate() {
                let (d, d_value) = stored_half(scales[i].unit);
                let (dmin, dmin_value) = stored_half(mins[i].unit);
                bytes[..2].copy_from_slice(&d);
                bytes[2..4].copy_from_slice(&dmin);
                // ggml caps these at 63 except in its weighted Q4_K.
                let cap = if WEIGHTED && !FIVE { 255 } else { 63 };
                let (scales, mins) = pack_sixes(
                    &scales[i].quanta.map(|q| q.min(cap)),
                    &mins[i].quanta.map(|q| q.min(cap)),
                    &mut bytes[4..16],
                );
                let quanta = affine_super::<32, 8>(
                    group,
                    &found,
                    i,
                    if FIVE { 31 } else { 15 },
                    (d_value, &scales),
                    (dmin_value, &mins),
                );
                if FIVE {
                    // Bit 4 of number 32 s + l is bit s of byte l.
                    for l in 0..32 {
                        bytes[16 + l] = (0..8).fold(0, |b, s| b | quanta[32 * s + l] >> 4 << s);
                    }
                }
                pack_nibbles(&quanta, &mut bytes[BYTES - 128..]);
            }
        },
    );
}

per_isa! {
    fn plain_q2_k(rows: &[f32], weights: &[f32], out: &mut [u8]) = q2_k_body::<false>, up to avx2;
    fn weighted_q2_k(rows: &[f32], weights: &[f32], out: &mut [u8]) = q2_k_body::<true>;
    fn plain_q4_k(rows: &[f32], weights: &[f32], out: &mut [u8])
        = q4_k_q5_k_body::<false, false, 144>, up to avx2;
    fn weighted_q4_k(rows: &[f32], weights: &[f32], out: &mut [u8])
        = q4_k_q5_k_body::<true, false, 144>;
    fn plain_q5_k(rows: &[f32], weights: &[f32], out: &mut [u8])
        = q4_k_q5_k_body::<false, true, 176>, up to avx2;
    fn weighted_q5_k(rows: &[f32], weights: &[f32], out: &mut [u8])
        = q4_k_q5_k_body::<true, true, 176>;
}

/// Q2_K, 84 bytes: `u8 scales[16], u8 qs[64], f16 d, f16 dmin`.
pub fn encode_q2_k(isa: Isa, rows: &[f32], _: usize, weights: Option<&[f32]>, out: &mut [u8]) {
    match weights {
        None => plain_q2_k(isa, rows, &[], out),
        Some(weights) => weighted_q2_k(isa, rows, weights, out),
    }
}

/// Q4_K, 144 bytes: `f16 d, f16 dmin, u8 scales[12], u8 qs[128]`.
pub fn encode_q4_k(isa: Isa, rows: &[f32], _: usize, weights: Option<&[f32]>, out: &mut [u8]) {
    match weights {
        None => plain_q4_k(isa, rows, &[], out),
        Some(weights) => weighted_q4_k(isa, rows, weights, out),
    }
}

/// Q5_K, 176 bytes: `f16 d, f16 dmin, u8 scales[12], u8 qh[32], u8 qs[128]`.
pub fn encode_q5_k(isa: Isa, rows: &[f32], _: usize, weights: Option<&[f32]>, out: &mut [u8]) {
    match weights {
        None => plain_q5_k(isa, rows, &[], out),
        Some(weights) => weighted_q5_k(isa, rows, weights, out),
    }
}
