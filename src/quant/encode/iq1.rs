//! IQ1_S and IQ1_M: three levels, eight numbers a group on a book of 2048 points.
//!
//! ```text
//! IQ1_S  50 bytes   d:f16, low index bits[32], u16 per 32 numbers = shift:1 | scale:3 | high bits:3 x 4
//! IQ1_M  56 bytes   low index bits[32], a nibble per group = shift:1 | high index bits:3,
//!                   u16[4] = four bits of d:f16 | scale:3 x 4, a scale per 16 numbers
//! x ~ d * (2 * scale + 1) * (digit - 1 + shift / 8),   shift = +1 or -1
//! ```
//!
//! With three levels the best assignment of a sub-block is a pair of cuts through its numbers in
//! ascending order, so all pairs are tried (ggml `quantize_row_iq1_s_impl`, `quantize_row_iq1_m_impl`).
//! Lanes are sub-blocks, and each tries the pairs in the original's order.

#![allow(clippy::needless_range_loop, reason = "an index names one number in several arrays")]

use super::lanes::{LANES, Lanes, nearest_int};
use super::lattice::IQ1;
use super::magnitude::{SUPER, each_super_block};
use crate::per_isa;
use crate::quant::half::half_from_f32;
use crate::quant::isa::Isa;

/// What the three digits are worth under each shift, `digit - 1 + 1/8` and `digit - 1 - 1/8`. Each row is the
/// other one mirrored, which is how [`round`] gets rid of negative scales.
const LEVELS: [[f32; 3]; 2] = [[-0.875, 0.125, 1.125], [-1.125, -0.125, 0.875]];

/// The best cuts of every sub-block, found so far; a sub-block a lane.
///
/// Levels `q` with scale `s` leave the error `sum w (x - s q)^2`. With `qx = sum w q x` and `q2 = sum w q^2` the best
/// scale is `s = qx / q2`, and it leaves `sum w x^2 - qx^2 / q2`: the greatest `qx^2 / q2` wins.
struct Best {
    /// `qx^2 / q2`.
    score: Lanes,
    /// `qx / q2`, which may be negative.
    scale: Lanes,
    /// `first << 16 | second << 8 | shifts`, which a float holds; [`NOTHING`] before the first find.
    what: Lanes,
}

const NOTHING: f32 = -1.0;

impl Best {
    #[inline(always)]
    fn new() -> Best {
        Best { score: Lanes::splat(-f32::MAX), scale: Lanes::ZERO, what: Lanes::splat(NOTHING) }
    }

    /// Takes cuts and shifts in the lanes where they beat the best.
    #[inline(always)]
    fn offer(&mut self, qx: Lanes, q2: Lanes, first: usize, second: usize, shifts: usize) {
        // `qx^2 > score * q2` in place of a division for every pair; a pair without weight never wins.
        let gain = (qx * qx).where_set(q2.above(Lanes::ZERO), Lanes::splat(f32::NEG_INFINITY));
        let better = gain.above(self.score * q2);
        if better.any() {
            let scale = qx / q2;
            let what = Lanes::splat((first << 16 | second << 8 | shifts) as f32);
            self.score = (scale * qx).where_set(better, self.score);
            self.scale = scale.where_set(better, self.scale);
            self.what = what.where_set(better, self.what);
        }
    }

    /// The cuts, the scale and the shifts of a lane; none if nothing was found.
    #[inline(always)]
    fn of(&self, lane: usize) -> Option<((usize, usize), f32, usize)> {
        let what = self.what.0[lane];
        let [shifts, second, first, _] = (what as u32).to_le_bytes().map(usize::from);
        (what != NOTHING).then_some(((first, second), self.scale.0[lane], shifts))
    }
}

/// The indices of the numbers in ascending order, equals by index, as a stable sort leaves them.
#[inline(always)]
fn ascending<const N: usize>(x: &[f32; N]) -> [u8; N] {
    // Integers in the order of the numbers, both zeros alike: below zero a float's bits count backwards, so all
    // but the sign are turned over. Ranks are counted, N^2 comparisons without a branch, as N is 16 or 32.
    let key = x.map(|x| {
        let bits = (x + 0.0).to_bits() as i32;
        bits ^ (bits >> 31) & i32::MAX
    });
    let mut rank = [0i32; N];
    for j in 0..N {
        for i in 0..N {
            let before = if j < i { key[j] <= key[i] } else { key[j] < key[i] };
            rank[i] += i32::from(before);
        }
    }
    let mut order = [0u8; N];
    for i in 0..N {
        order[rank[i] as usize % N] = i as u8;
    }
    order
}

/// A super-block cut into sub-blocks of `N`.
struct Cut<const N: usize> {
    /// What an error of each number counts.
    weight: [[f32; N]; 16],
    /// The indices of the numbers in ascending order.
    order: [[u8; N]; 16],
    /// Whether the sub-block holds anything but zeros, as good as.
    full: [bool; 16],
}

/// Weights errors by `importance * sqrt(2 * mean of x^2 + x^2)`, or by `x^2` where there is no imatrix data. A
/// sub-block whose numbers are all below `smallest` is stored as zeros.
#[inline(always)]
fn cut<const N: usize>(x: &[[f32; N]], importance: Option<&[f32]>, smallest: f32) -> Cut<N> {
    // Called sigma2 by ggml: twice the mean square, so that small numbers keep some weight.
    let variance = 2.0 * x.as_flattened().iter().fold(0.0, |sum, x| sum + x * x) / SUPER as f32;
    let mut cut = Cut { weight: [[0.0; N]; 16], order: [[0; N]; 16], full: [false; 16] };
    for (b, x) in x.iter().enumerate() {
        match importance {
            Some(all) => {
                for i in 0..N {
                    cut.weight[b][i] = all[b * N + i] * (variance + x[i] * x[i]).sqrt();
                }
            }
            None => cut.weight[b] = x.map(|x| x * x),
        }
        let max = x.iter().fold(0.0f32, |max, x| if max > x.abs() { max } else { x.abs() });
        cut.full[b] = max >= smallest;
        cut.order[b] = ascending(x);
    }
    cut
}

/// The sub-block rounded to points of the book.
struct Rounded<const GROUPS: usize> {
    point: [u16; GROUPS],
    scale: f32,
    /// The shift of every group: 0 plus, 1 minus.
    shift: [usize; GROUPS],
}

/// Rounds a sub-block by its cuts: numbers up to the first are digit 0, up to the second 1, then 2.
#[inline(always)]
fn round<const N: usize, const GROUPS: usize>(
    isa: Isa,
    x: &[f32; N],
    weight: &[f32; N],
    order: &[u8; N],
    (first, second): (usize, usize),
    scale: f32,
    shift: [usize; GROUPS],
) -> Rounded<GROUPS> {
    let mut digit = [0u16; N];
    for (at, &i) in order.iter().enumerate() {
        // 0 below the first cut, 1 from it on, 2 from the second on.
        digit[usize::from(i)] = u16::from(at >= first) + u16::from(at >= second);
    }
    let mut out = Rounded { point: [0; GROUPS], scale, shift };
    // The stored scale has no sign: `-s * q` is `s` times the mirrored level of the other shift.
    if scale < 0.0 {
        digit = digit.map(|digit| 2 - digit);
        out.scale = -scale;
        out.shift = shift.map(|shift| 1 - shift);
    }
    // Of the 3^8 combinations of eight digits the book has 2048; the others are moved to a point near by, and then
    // another scale is best.
    let mut moved = false;
    for k in 0..GROUPS {
        // Eight digits of two bits are the code of a point.
        let code = (0..8).fold(0, |code, i| code | digit[8 * k + i] << (2 * i));
        let xs: &[f32; 8] = x[8 * k..8 * k + 8].try_into().expect("eight");
        let ws: &[f32; 8] = weight[8 * k..8 * k + 8].try_into().expect("eight");
        // A digit is worth 1 * digit + the level of digit 0, by the shift.
        let levels = (1.0, LEVELS[out.shift[k]][0]);
        out.point[k] = IQ1.nearest(isa, code, xs, ws, out.scale, levels);
        moved |= out.point[k] != code;
    }
    if moved {
        let (mut sumqx, mut sumq2) = (0.0, 0.0);
        for i in 0..N {
            let q = worth(out.point[i / 8], i % 8, out.shift[i / 8]);
            sumqx += weight[i] * q * x[i];
            sumq2 += weight[i] * q * q;
        }
        if sumqx > 0.0 && sumq2 > 0.0 {
            out.scale = sumqx / sumq2;
        }
    }
    out
}

/// The level of number `i` of a group: two bits of its point, and the shift.
#[inline(always)]
fn worth(point: u16, i: usize, shift: usize) -> f32 {
    f32::from(point >> (2 * i) & 3) + LEVELS[shift][0]
}

/// IQ1_S: one shift for 32 numbers. Two super-blocks at a time fill the lanes: eight sub-blocks each.
///
/// Cuts at `first <= second` give three runs of the ascending numbers, one for each digit, so the sums over each run
/// are differences of two running sums: 561 pairs of cuts and two shifts cost a few operations each.
#[inline(always)]
fn s_body(
    isa: Isa,
    x: [&[f32; SUPER]; 2],
    importance: [Option<&[f32]>; 2],
    out: [&mut [u8; 50]; 2],
) {
    const N: usize = 32;
    let x = x.map(|x| x.as_chunks::<N>().0);
    let cuts = [cut(x[0], importance[0], 1e-12), cut(x[1], importance[1], 1e-12)];
    // Running sums of w x and w over the ascending numbers, a sub-block a lane.
    let (mut sx, mut sw) = ([Lanes::ZERO; N + 1], [Lanes::ZERO; N + 1]);
    for j in 0..N {
        for lane in 0..LANES {
            // Lanes 0 to 7 are the first super-block, 8 to 15 the second.
            let (cut, b) = (&cuts[lane / 8], lane % 8);
            let i = usize::from(cut.order[b][j]);
            let w = cut.weight[b][i];
            sx[j + 1].0[lane] = sx[j].0[lane] + w * x[lane / 8][b][i];
            sw[j + 1].0[lane] = sw[j].0[lane] + w;
        }
    }
    let mut best = Best::new();
    for first in 0..=N {
        for second in first..=N {
            for (shift, q) in LEVELS.iter().enumerate() {
                let q = q.map(Lanes::splat);
                // Three runs of the ascending numbers: up to first, up to second, to the end.
                //
                //     q[0] q[0] … | q[1] q[1] … | q[2] q[2] …
                //               first         second
                let qx = sx[first] * q[0]
                    + (sx[second] - sx[first]) * q[1]
                    + (sx[N] - sx[second]) * q[2];
                let q2 = sw[first] * q[0] * q[0]
                    + (sw[second] - sw[first]) * q[1] * q[1]
                    + (sw[N] - sw[second]) * q[2] * q[2];
                best.offer(qx, q2, first, second, shift);
            }
        }
    }
    for (k, out) in out.into_iter().enumerate() {
        s_pack(isa, x[k], &cuts[k], &best, 8 * k, out);
    }
}

/// Rounds and packs one super-block, whose sub-blocks are the lanes from `lane` on.
#[inline(always)]
fn s_pack(isa: Isa, x: &[[f32; 32]], cut: &Cut<32>, best: &Best, lane: usize, out: &mut [u8; 50]) {
    out.fill(0);
    let (mut scales, mut high, mut shifts) = ([0.0f32; 8], [0u16; 8], [0u16; 8]);
    let mut largest = 0.0f32;
    for b in 0..8 {
        let Some((cuts, scale, shift)) = best.of(lane + b).filter(|_| cut.full[b]) else {
            continue;
        };
        let rounded = round(isa, &x[b], &cut.weight[b], &cut.order[b], cuts, scale, [shift; 4]);
        for (k, &point) in rounded.point.iter().enumerate() {
            let index = IQ1.index(point);
            out[2 + 4 * b + k] = index as u8;
            // An index has eleven bits: eight in a byte of its own, three in the word of its 32 numbers.
            high[b] |= (index >> 8) << (3 * k);
        }
        shifts[b] = rounded.shift[0] as u16;
        scales[b] = rounded.scale;
        largest = if largest > rounded.scale { largest } else { rounded.scale };
    }
    let mut d = 0.0;
    if largest != 0.0 {
        // A scale is `d * (2 * l + 1)` with three bits of `l`: 1 to 15 times `d`.
        d = largest / 15.0;
        let id = 1.0 / d;
        for b in 0..8 {
            // scale = d * (2 l + 1), solved for l.
            let l = nearest_int(0.5 * (id * scales[b] - 1.0)).clamp(0, 7);
            high[b] |= shifts[b] << 15 | (l as u16) << 12;
        }
    }
    // The factor is ggml's, which gives no reason for it.
    out[..2].copy_from_slice(&half_from_f32(d * 1.125).to_le_bytes());
    for (bytes, high) in out[34..].as_chunks_mut::<2>().0.iter_mut().zip(high) {
        *bytes = high.to_le_bytes();
    }
}

/// IQ1_M: a shift for every eight numbers, a scale for sixteen.
#[inline(always)]
fn m_body(isa: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 56]) {
    const N: usize = 16;
    let x = x.as_chunks::<N>().0;
    let cut = cut(x, importance, 1e-7);
    out.fill(0);
    let mut rounded: [Rounded<2>; 16] =
        std::array::from_fn(|_| Rounded { point: [0; 2], scale: 0.0, shift: [0; 2] });
    let mut largest = 0.0f32;
    let best = m_cuts(x, &cut);
    for b in 0..LANES {
        let Some((cuts, scale, shifts)) = best.of(b).filter(|_| cut.full[b]) else { continue };
        let (weight, order) = (&cut.weight[b], &cut.order[b]);
        rounded[b] = round(isa, &x[b], weight, order, cuts, scale, [shifts >> 1, shifts & 1]);
        largest = if largest > rounded[b].scale { largest } else { rounded[b].scale };
    }
    for (b, r) in rounded.iter().enumerate() {
        let index = r.point.map(|point| IQ1.index(point));
        out[2 * b] = index[0] as u8;
        out[2 * b + 1] = index[1] as u8;
        // The nibble of a group: three bits of index here, the shift above them below.
        out[32 + b] = (index[0] >> 8 | (index[1] >> 8) << 4) as u8;
    }
    if largest == 0.0 {
        return;
    }
    let mut d = largest / 15.0;
    let id = 1.0 / d;
    let (mut sumqx, mut sumq2) = (0.0, 0.0);
    let mut scales = [0u16; 4];
    for (b, r) in rounded.iter().enumerate() {
        let l = nearest_int(0.5 * (id * r.scale - 1.0)).clamp(0, 7);
        // Four scales of three bits a word; its top four bits wait for d.
        scales[b / 4] |= (l as u16) << (3 * (b % 4));
        out[32 + b] |= (r.shift[0] << 3 | r.shift[1] << 7) as u8;
        for i in 0..N {
            // What d is multiplied with, in number i.
            let q = worth(r.point[i / 8], i % 8, r.shift[i / 8]) * (2 * l + 1) as f32;
            sumqx += cut.weight[b][i] * q * x[b][i];
            sumq2 += cut.weight[b][i] * q * q;
        }
    }
    // With all the rounded scales known, one least-squares step for the scale of the whole super-block.
    if sumq2 > 0.0 {
        d = sumqx / sumq2;
    }
    // The factor is ggml's, which gives no reason for it. Its four nibbles are above the scales of four words.
    let half = half_from_f32(d * 1.1125);
    for (k, bytes) in out[48..].as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *bytes = (scales[k] | (half >> (4 * k) & 15) << 12).to_le_bytes();
    }
}

/// The best cuts and shifts of the sixteen sub-blocks.
///
/// Halves of a sub-block are shifted apart, so sums are kept for each. As the levels of one shift are
/// 1 apart, the sum of three parts is `total * q[2]` less the running sums at both cuts.
#[inline(always)]
fn m_cuts(x: &[[f32; 16]], cut: &Cut<16>) -> Best {
    const N: usize = 16;
    let (mut sx, mut sw) = ([[Lanes::ZERO; N + 1]; 2], [[Lanes::ZERO; N + 1]; 2]);
    for j in 0..N {
        for half in 0..2 {
            sx[half][j + 1] = sx[half][j];
            sw[half][j + 1] = sw[half][j];
        }
        for lane in 0..LANES {
            let i = usize::from(cut.order[lane][j]);
            let w = cut.weight[lane][i];
            sx[i / 8][j + 1].0[lane] += w * x[lane][i];
            sw[i / 8][j + 1].0[lane] += w;
        }
    }
    let mut best = Best::new();
    // The parts of both sums that do not depend on the second cut: by half, by shift.
    let top = |s: &[[Lanes; N + 1]; 2]| {
        [s[0][N], s[1][N]].map(|all| LEVELS.map(|q| all * Lanes::splat(q[2])))
    };
    let (all_x, all_w) = (top(&sx), top(&sw));
    for first in 0..=N {
        let mut low_w = all_w;
        for half in 0..2 {
            for (low, q) in low_w[half].iter_mut().zip(LEVELS) {
                let step = q[0] * q[0] - q[1] * q[1];
                *low = *low * Lanes::splat(q[2]) + sw[half][first] * Lanes::splat(step);
            }
        }
        for second in first..=N {
            let (mut qx, mut q2) = ([[Lanes::ZERO; 2]; 2], [[Lanes::ZERO; 2]; 2]);
            for half in 0..2 {
                let both = sx[half][first] + sx[half][second];
                for (shift, q) in LEVELS.iter().enumerate() {
                    let step = Lanes::splat(q[1] * q[1] - q[2] * q[2]);
                    qx[half][shift] = all_x[half][shift] - both;
                    q2[half][shift] = low_w[half][shift] + sw[half][second] * step;
                }
            }
            for shifts in 0..4 {
                let (a, b) = (shifts >> 1, shifts & 1);
                best.offer(qx[0][a] + qx[1][b], q2[0][a] + q2[1][b], first, second, shifts);
            }
        }
    }
    best
}

per_isa! {
    fn s_kernel(same: Isa, x: [&[f32; SUPER]; 2], importance: [Option<&[f32]>; 2], out: [&mut [u8; 50]; 2]) = s_body;
    fn m_kernel(same: Isa, x: &[f32; SUPER], importance: Option<&[f32]>, out: &mut [u8; 56]) = m_body;
}

/// IQ1_S, 1.56 bits a number.
pub fn encode_iq1_s(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    let (x, bytes) = (rows.as_chunks::<SUPER>().0, out.as_chunks_mut::<50>().0);
    let importance = |at: usize| m.map(|all| &all[at * SUPER % len..][..SUPER]);
    let mut spare = [0; 50];
    for (pair, (x, bytes)) in x.chunks(2).zip(bytes.chunks_mut(2)).enumerate() {
        // A last super-block without a partner is encoded twice.
        let (first, rest) = bytes.split_at_mut(1);
        let second = rest.first_mut().unwrap_or(&mut spare);
        let at = [2 * pair, 2 * pair + x.len() - 1];
        s_kernel(isa, isa, [&x[0], &x[x.len() - 1]], at.map(importance), [&mut first[0], second]);
    }
}

/// IQ1_M, 1.75 bits a number.
pub fn encode_iq1_m(isa: Isa, rows: &[f32], len: usize, m: Option<&[f32]>, out: &mut [u8]) {
    each_super_block(rows, len, m, out, |x, m, out| m_kernel(isa, isa, x, m, out));
}
