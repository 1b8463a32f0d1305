//! IQ2 and IQ3: signs are stored apart, magnitudes in groups on the points of a code book.
//!
//! For every sub-block a scale is sought that makes the weighted error small:
//!
//! ```text
//! x[i] ~ sign[i] * scale * q[i],   q = 2 * digit + 1,   digits of a group = a point of the book
//! for every candidate scale:  digits = round(x / scale), moved to the nearest point;
//!                             keep the candidate with the largest (sum wxq)^2 / (sum wqq)
//! scale = (sum wxq) / (sum wqq)
//! ```
//!
//! Candidates are lanes: each rounds and adds up in the order of the weights, as ggml
//! `quantize_row_iq2_xs_impl` and its four siblings do one candidate after the other. Only the search
//! among neighbours is done per candidate, with the neighbours as lanes (see [`super::lattice`]).

#![allow(clippy::needless_range_loop, reason = "an index names one number in several arrays")]

use super::lanes::nearest_int;
use super::lattice::{LANES, Lattice};
use crate::quant::isa::Isa;

/// Numbers in a super-block.
pub const SUPER: usize = 256;

/// Which groups are rounded once more when the scale of a sub-block is final.
#[derive(Clone, Copy, PartialEq)]
pub enum Again {
    /// Every group.
    All,
    /// Every group if the digits of any were no point of the book.
    AllIfAnyMoved,
    /// The groups whose digits were no point of the book.
    Moved,
}

/// What sets one type apart from its siblings.
///
/// Each constant is a number in the body of one of llama.cpp's five functions; none follows from another.
pub trait Kind {
    /// Numbers that share a scale: 16 or 32.
    const SUB: usize;
    /// The largest digit.
    const TOP: i32;
    /// Candidates below and above the scale that takes the largest number to the largest digit.
    const REACH: i32;
    /// The distance of candidates, in units of the normalised magnitude `2 * TOP + 1`.
    const STEP: f32;
    /// Whether each eight numbers have an even number of minus signs, so that seven bits say them all.
    const EVEN_SIGNS: bool;
    /// A sub-block with nothing larger than this (or equal, if it is zero) is zero.
    const SMALLEST: f32;
    /// What is rounded again.
    const AGAIN: Again;
    /// Whether the candidates spread around the scale of a plain search rather than of the maximum.
    const PRESEARCH: bool;
    /// The variance of a super-block, from its sum of squares.
    fn variance(sum: f32) -> f32;
    /// The weight of a number where there is no importance.
    fn weight(x: f32, variance: f32) -> f32;
    /// The code book.
    fn lattice() -> &'static Lattice;
}

/// A super-block on the lattice, before it is packed.
///
/// Its arrays have room for the finest cut: 64 groups of four, 16 sub-blocks of 16; what a type does not use is zero.
pub struct Encoded {
    /// The index of every group's point.
    pub index: [u16; 64],
    /// The minus signs of every eight numbers.
    pub signs: [u8; 32],
    /// The scale of every sub-block.
    pub scale: [f32; 16],
    /// Which sub-blocks were as good as zero; they have no signs, index 0 and scale 0.
    pub empty: [bool; 16],
    /// The largest scale; 0 if all numbers are as good as zero.
    pub largest: f32,
}

impl Encoded {
    /// The scales as four-bit numbers `l`, `scale ~ largest / 31 * (2l + 1)`.
    #[inline(always)]
    pub fn levels(&self) -> [u8; 16] {
        let id = 1.0 / (self.largest / 31.0);
        self.scale.map(|scale| nearest_int(0.5 * (id * scale - 1.0)).clamp(0, 15) as u8)
    }
}

/// One sub-block: magnitudes and what they weigh.
struct Sub<const N: usize> {
    /// Magnitudes; negative where a sign was flipped for parity.
    x: [[f32; N]; 8],
    weight: [[f32; N]; 8],
    /// Square roots of the weights, which the search among neighbours uses.
    root: [[f32; N]; 8],
}

/// The best candidate so far.
///
/// `moved` tells which groups had digits off the book. Where all groups may be rounded again it begins with all, so
/// that they are even if no candidate wins, with the scale of the start.
struct Choice {
    scale: f32,
    score: f32,
    point: [u16; 8],
    moved: [bool; 8],
}

/// Encodes one super-block in groups of `N`; `importance` is that of its columns.
#[inline(always)]
pub fn encode<K: Kind, const N: usize>(
    isa: Isa,
    x: &[f32; SUPER],
    importance: Option<&[f32]>,
) -> Encoded {
    let mut out = Encoded {
        index: [0; 64],
        signs: [0; 32],
        scale: [0.0; 16],
        empty: [false; 16],
        largest: 0.0,
    };
    let variance = K::variance(x.iter().fold(0.0, |sum, x| sum + x * x));
    let groups = K::SUB / N;
    for (b, xs) in x.chunks_exact(K::SUB).enumerate() {
        let mut sub = Sub { x: [[0.0; N]; 8], weight: [[0.0; N]; 8], root: [[0.0; N]; 8] };
        let flat = sub.weight.as_flattened_mut();
        match importance {
            Some(all) => {
                for ((w, x), m) in flat.iter_mut().zip(xs).zip(&all[b * K::SUB..]) {
                    // How much a column matters, and how large the number is beside its super-block.
                    *w = m * (variance + x * x).sqrt();
                }
            }
            None => {
                for (w, x) in flat.iter_mut().zip(xs) {
                    *w = K::weight(*x, variance);
                }
            }
        }
        for (root, w) in sub.root.as_flattened_mut().iter_mut().zip(sub.weight.as_flattened()) {
            *root = w.sqrt();
        }
        let signs = &mut out.signs[b * K::SUB / 8..][..K::SUB / 8];
        // From here on magnitudes; a flipped one is negative, and rounds to digit 0.
        take_signs::<K>(xs, sub.weight.as_flattened(), sub.x.as_flattened_mut(), signs);
        let magnitudes = &sub.x.as_flattened()[..K::SUB];
        let max = magnitudes.iter().fold(magnitudes[0], |max, &x| if max > x { max } else { x });
        if if K::SMALLEST > 0.0 { max < K::SMALLEST } else { max == 0.0 } {
            signs.fill(0);
            out.empty[b] = true;
            continue;
        }
        let Some((scale, point)) = search::<K, N>(isa, &sub, max) else {
            signs.fill(0);
            out.empty[b] = true;
            continue;
        };
        // The fit may turn out negative, where flipped numbers prevail: then every sign is turned instead. Of eight
        // at a time, so that an even number stays even.
        if scale < 0.0 {
            signs.iter_mut().for_each(|s| *s = !*s);
        }
        for (index, code) in out.index[b * groups..].iter_mut().zip(&point[..groups]) {
            *index = K::lattice().index(*code);
        }
        out.scale[b] = scale.abs();
        out.largest = if out.largest > scale.abs() { out.largest } else { scale.abs() };
    }
    out
}

/// Splits numbers into magnitudes and signs, and flips the least important of an odd number of signs.
///
/// Where seven bits say eight signs the eighth is their parity. If the count of minus signs is odd, one number is
/// stored with the wrong sign, as a negative magnitude: the one whose `w x^2` is smallest.
#[inline(always)]
fn take_signs<K: Kind>(xs: &[f32], weights: &[f32], magnitudes: &mut [f32], signs: &mut [u8]) {
    for (k, sign) in signs.iter_mut().enumerate() {
        let x: &[f32; 8] = xs[8 * k..8 * k + 8].try_into().expect("eight");
        let w: &[f32; 8] = weights[8 * k..8 * k + 8].try_into().expect("eight");
        let m: &mut [f32; 8] = (&mut magnitudes[8 * k..8 * k + 8]).try_into().expect("eight");
        let mut bits = 0u8;
        for i in 0..8 {
            let plus = x[i] >= 0.0;
            m[i] = if plus { x[i] } else { -x[i] };
            bits |= u8::from(!plus) << i;
        }
        if K::EVEN_SIGNS && bits.count_ones() % 2 == 1 {
            // A number with the wrong sign is off by 2x: four times this, weighted.
            let cost: [f32; 8] = std::array::from_fn(|i| w[i] * x[i] * x[i]);
            let least = (1..8).fold(0, |least, i| if cost[i] < cost[least] { i } else { least });
            m[least] = -m[least];
            bits ^= 1 << least;
        }
        *sign = bits;
    }
}

/// The scale of a sub-block and the points of its groups; none if it is as good as zero.
///
/// ```text
/// id = (top + i * STEP) / max    i = -REACH ..= REACH      eight candidates at a time, a lane each
/// digit = nearest(0.5 * (id * x - 1)), cut to 0 ..= TOP    level 2 * digit + 1
/// digits of a group -> code -> point of the book           `nearest`, among neighbours where it is none
/// qx = sum w x q,  q2 = sum w q q                          over the sub-block, in the order of its numbers
/// ```
#[inline(always)]
fn search<K: Kind, const N: usize>(isa: Isa, sub: &Sub<N>, max: f32) -> Option<(f32, [u16; 8])> {
    let bits = const { if N == 8 { 2 } else { 3 } };
    let groups = K::SUB / N;
    let lattice = K::lattice();
    let top = (2 * K::TOP + 1) as f32;
    // A candidate takes `reach` to the top level: `id = (top + i * STEP) / reach`, i from -REACH to REACH.
    let (start, reach) = if K::PRESEARCH {
        let (x, weight) = (sub.x.as_flattened(), sub.weight.as_flattened());
        let scale = presearch(&x[..K::SUB], &weight[..K::SUB], K::TOP + 2, max);
        (scale, scale * (K::TOP + 1) as f32)
    } else {
        (max / top, max)
    };
    if reach <= 0.0 {
        return None;
    }
    let mut best =
        Choice { scale: start, score: 0.0, point: [0; 8], moved: [K::AGAIN != Again::Moved; 8] };
    let count = (2 * K::REACH + 1) as usize;
    for first in (0..count).step_by(LANES) {
        let id: [f32; LANES] = std::array::from_fn(|lane| {
            (top + ((first + lane) as i32 - K::REACH) as f32 * K::STEP) / reach
        });
        let scale = id.map(|id| 1.0 / id);
        let lanes = LANES.min(count - first);
        let mut code = [[0u32; LANES]; 8];
        let mut point = [[0u32; LANES]; 8];
        for k in 0..groups {
            for i in 0..N {
                for lane in 0..LANES {
                    code[k][lane] |= digit(id[lane], sub.x[k][i], K::TOP) << (bits * i as u32);
                }
            }
            for lane in 0..lanes {
                let (x, w) = (&sub.x[k], &sub.root[k]);
                // With roots of weights, not weights: so the originals measure neighbours.
                let near =
                    lattice.nearest(isa, code[k][lane] as u16, x, w, scale[lane], (2.0, 1.0));
                point[k][lane] = u32::from(near);
            }
        }
        let (mut sumqx, mut sumq2) = ([0.0f32; LANES], [0.0f32; LANES]);
        for k in 0..groups {
            for i in 0..N {
                let (w, wx) = (sub.weight[k][i], sub.weight[k][i] * sub.x[k][i]);
                for lane in 0..LANES {
                    // The code of a point is its digits, so levels are cut out of it and no book is asked.
                    let q = level(point[k][lane], bits * i as u32, (1 << bits) - 1);
                    sumqx[lane] += wx * q;
                    sumq2[lane] += w * q * q;
                }
            }
        }
        for lane in 0..lanes {
            let (qx, q2) = (sumqx[lane], sumq2[lane]);
            if q2 > 0.0 && qx * qx > best.score * q2 {
                best.scale = qx / q2;
                best.score = best.scale * qx;
                best.point = std::array::from_fn(|k| point[k][lane] as u16);
                best.moved = std::array::from_fn(|k| point[k][lane] != code[k][lane]);
            }
        }
    }
    round_again::<K, N>(isa, sub, &mut best);
    Some((best.scale, best.point))
}

/// Rounds the groups that need it with the final scale, and fits the scale to their new points.
#[inline(always)]
fn round_again<K: Kind, const N: usize>(isa: Isa, sub: &Sub<N>, best: &mut Choice) {
    let bits = const { if N == 8 { 2 } else { 3 } };
    let groups = K::SUB / N;
    let any_moved = best.moved[..groups].iter().any(|&moved| moved);
    if !(best.scale > 0.0 && (any_moved || K::AGAIN == Again::All)) {
        return;
    }
    let id = 1.0 / best.scale;
    for k in 0..groups {
        if best.moved[k] || K::AGAIN != Again::Moved {
            let code = (0..N)
                .fold(0, |code, i| code | digit(id, sub.x[k][i], K::TOP) << (bits * i as u32));
            let (x, w) = (&sub.x[k], &sub.root[k]);
            best.point[k] = K::lattice().nearest(isa, code as u16, x, w, best.scale, (2.0, 1.0));
        }
    }
    let (mut sumqx, mut sumq2) = (0.0, 0.0);
    for k in 0..groups {
        for i in 0..N {
            let (w, wx) = (sub.weight[k][i], sub.weight[k][i] * sub.x[k][i]);
            let q = level(u32::from(best.point[k]), bits * i as u32, (1 << bits) - 1);
            sumqx += wx * q;
            sumq2 += w * q * q;
        }
    }
    if sumq2 > 0.0 {
        best.scale = sumqx / sumq2;
    }
}

/// The digit whose level `2 * digit + 1` is nearest to `id * x`.
#[inline(always)]
fn digit(id: f32, x: f32, top: i32) -> u32 {
    nearest_int(0.5 * (id * x - 1.0)).min(top).max(0) as u32
}

/// The level of the digit that is at `shift` in a code.
#[inline(always)]
fn level(code: u32, shift: u32, mask: u32) -> f32 {
    ((code >> shift & mask) * 2 + 1) as i32 as f32
}

/// The scale of a plain search for `x ~ scale * l`, `0 <= l <= top`, as ggml `make_qp_quants`.
///
/// The original keeps `l` in a byte, so the -1 of a flipped sign becomes 255 there; so here.
///
/// Nine scales around `top / max` are tried by their error, the best is fitted by least squares, and then each level in
/// turn moves, in up to five rounds, where that makes `sumlx^2 / suml2` grow. Only IQ2_XXS starts so.
#[inline(always)]
fn presearch(x: &[f32], weight: &[f32], top: i32, max: f32) -> f32 {
    let max = if max > 0.0 { max } else { 0.0 };
    if max < 1e-15 {
        return 0.0;
    }
    let error = |iscale: f32, level: &dyn Fn(f32) -> f32| -> f32 {
        let scale = 1.0 / iscale;
        x.iter().zip(weight).fold(0.0, |sum, (&x, &w)| {
            let diff = x - scale * level(iscale * x);
            sum + w * diff * diff
        })
    };
    let mut iscale = top as f32 / max;
    let mut least = error(iscale, &|x| f32::from(nearest_int(x) as u8));
    for step in (-4i32..=4).filter(|&step| step != 0) {
        let candidate = (0.1 * step as f32 + top as f32) / max;
        let sum = error(candidate, &|x| nearest_int(x).min(top) as f32);
        if sum < least {
            least = sum;
            iscale = candidate;
        }
    }
    let mut l = [0u8; 32];
    let (mut sumlx, mut suml2) = (0.0f32, 0.0f32);
    for i in 0..x.len() {
        let level = nearest_int(iscale * x[i]).min(top);
        l[i] = level as u8;
        sumlx += weight[i] * x[i] * level as f32;
        suml2 += weight[i] * level as f32 * level as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..x.len() {
            let (w, old) = (weight[i], f32::from(l[i]));
            let mut slx = sumlx - w * x[i] * old;
            let mut sl2 = suml2 - w * old * old;
            if slx > 0.0 && sl2 > 0.0 {
                // What the scale that all the others want makes of this number.
                let level = nearest_int(x[i] * sl2 / slx).min(top);
                if level != i32::from(l[i]) {
                    slx += w * x[i] * level as f32;
                    sl2 += w * level as f32 * level as f32;
                    if slx * slx * suml2 > sumlx * sumlx * sl2 {
                        (l[i], sumlx, suml2) = (level as u8, slx, sl2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if suml2 > 0.0 { sumlx / suml2 } else { 0.0 }
}

/// Calls `encode` with every super-block of the rows, the importance of its columns and its bytes.
pub fn each_super_block<const BYTES: usize>(
    rows: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    encode: impl Fn(&[f32; SUPER], Option<&[f32]>, &mut [u8; BYTES]),
) {
    let blocks = rows.as_chunks::<SUPER>().0.iter().zip(out.as_chunks_mut::<BYTES>().0);
    for (at, (x, bytes)) in blocks.enumerate() {
        let column = at * SUPER % row_len;
        encode(x, importance.map(|all| &all[column..column + SUPER]), bytes);
    }
}
