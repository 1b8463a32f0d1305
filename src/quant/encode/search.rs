//! The searches for the scale (and minimum) of a block that give the smallest weighted error.
//!
//! Least squares, with weights `w`: for given quanta `l` the error `sum w (x - s l)^2` is least where its derivative
//! by `s` is zero, and what is left is smaller the larger `F` is:
//!
//! ```text
//! s = sum(w x l) / sum(w l l)            F = sum(w x l)^2 / sum(w l l)
//! with a minimum, x ~ s l + m:           D = sum(w) sum(w l l) - sum(w l)^2
//! s = (sum(w) sum(w l x) - sum(w x) sum(w l)) / D
//! m = (sum(w l l) sum(w x) - sum(w l) sum(w l x)) / D
//! ```
//!
//! Quanta that suit a scale cannot be had in one step, for they are whole numbers: so several scales are tried, each
//! makes its quanta, and these their best scale. `F` is compared by cross products, `a^2 * d > c^2 * b`, as the
//! originals do; a division would round otherwise.
//!
//! Each follows one function of llama.cpp's `ggml-quants.c`, for sixteen blocks at once. A quantum
//! is kept as the scale that made it, not as a number: whoever needs it computes it once, at the end.

use super::lanes::{EXACT, Lanes, Mask};

/// Blocks whose largest magnitude is below this count as zero (ggml `GROUP_MAX_EPS`).
pub const NOTHING: f32 = 1e-15;

/// What makes a quantum of a block around zero: `nearest(x * step)` within `-n ..= n - 1`.
pub struct Centred {
    /// The scale that restores numbers: `scale * quantum`.
    pub scale: Lanes,
    /// The scale that makes quanta; 0 marks a block of nothing.
    pub step: Lanes,
}

/// The number of largest magnitude, the first of equals, and its magnitude.
///
/// "Above", not "at least": of equal magnitudes the first keeps its sign, which decides the sign of the scale.
#[inline(always)]
fn largest(xs: &[Lanes]) -> (Lanes, Lanes) {
    let mut max = Lanes::ZERO;
    let mut magnitude = Lanes::ZERO;
    for x in xs {
        let a = x.magnitude();
        let larger = a.above(magnitude);
        max = x.where_set(larger, max);
        magnitude = a.where_set(larger, magnitude);
    }
    (max, magnitude)
}

/// The sums of least squares `w*x*l` and `w*l*l` of the quanta `l` that `step` makes.
///
/// Products are taken and added in the original's order: `w * x` first, then times `l`.
#[inline(always)]
fn centred_sums<const N: usize>(
    n: f32,
    step: Lanes,
    xs: &[Lanes; N],
    wx: &[Lanes; N],
    weights: &[Lanes; N],
) -> (Lanes, Lanes) {
    let (mut sumlx, mut suml2) = (Lanes::ZERO, Lanes::ZERO);
    for j in 0..N {
        let l = (step * xs[j]).nearest().at_least(Lanes::splat(-n)).at_most(Lanes::splat(n - 1.0));
        sumlx = sumlx + wx[j] * l;
        suml2 = suml2 + weights[j] * l * l;
    }
    (sumlx, suml2)
}

/// The scale of quanta `-n ..= n - 1`: as ggml `make_qx_quants` with these weights.
///
/// `n / max|x|` first, then eighteen neighbours; each is refitted by least squares.
#[inline(always)]
pub fn centred<const N: usize>(n: f32, xs: &[Lanes; N], weights: &[Lanes; N]) -> Centred {
    let (max, magnitude) = largest(xs);
    let mut wx = [Lanes::ZERO; N];
    for j in 0..N {
        wx[j] = weights[j] * xs[j];
    }
    // The number of largest magnitude becomes -n, the end that reaches further.
    let mut step = Lanes::splat(-n) / max;
    let (sumlx, suml2) = centred_sums(n, step, xs, &wx, weights);
    let mut scale = Lanes::ZERO.where_set(suml2.equal(Lanes::ZERO), sumlx / suml2);
    let mut best = scale * sumlx;
    for is in -9..=9 {
        if is == 0 {
            continue;
        }
        // The largest number is put a little inside or outside of the range; outside it is cut, and others fit better.
        let candidate = Lanes::splat(-(n + 0.1 * is as f32)) / max;
        let (sumlx, suml2) = centred_sums(n, candidate, xs, &wx, weights);
        // best is sumlx^2 / suml2 of the best so far.
        let better = suml2.above(Lanes::ZERO).and((sumlx * sumlx).above(best * suml2));
        let refitted = sumlx / suml2;
        step = candidate.where_set(better, step);
        scale = refitted.where_set(better, scale);
        best = (refitted * sumlx).where_set(better, best);
    }
    // What was divided by a maximum of next to nothing is worth nothing.
    let nothing = Lanes::splat(NOTHING).above(magnitude);
    Centred {
        scale: Lanes::ZERO.where_set(nothing, scale),
        step: Lanes::ZERO.where_set(nothing, step),
    }
}

/// How [`affine`] walks: candidates `(first + delta * i + n) / range` for `i` in `0 ..= steps`.
///
/// ```text
/// Q4_K plain      -1.0, -0.9, .. 1.0        21 candidates (n - 1.0) / range .. (n + 1.0) / range
/// Q4_K weighted   -0.9, -0.85, .. 0.9       37
/// ```
pub struct Walk {
    /// The largest quantum.
    pub n: f32,
    /// Where candidates begin, relative to `n`.
    pub first: f32,
    /// From one candidate to the next.
    pub delta: f32,
    /// The number of the last candidate.
    pub steps: i32,
    /// Whether the error is the sum of magnitudes, not of squares.
    pub magnitudes: bool,
}

/// What makes a quantum of a block above its minimum: `nearest((x - origin) * step)` within `0 ..= n`.
pub struct Affine {
    /// Numbers are restored as `scale * quantum - min`.
    pub scale: Lanes,
    /// See `scale`; it is not negative.
    pub min: Lanes,
    /// The scale that makes quanta.
    pub step: Lanes,
    /// What quanta count from.
    pub origin: Lanes,
}

/// `numerator / range`, or 0 where that overflows: the quanta are then 0, as they are in ggml.
///
/// A range of next to nothing does it, and one that is NaN.
#[inline(always)]
fn step_of(numerator: f32, range: Lanes) -> Lanes {
    let step = Lanes::splat(numerator) / range;
    step.where_set(Lanes::splat(f32::INFINITY).above(step), Lanes::ZERO)
}

/// The weighted difference of one number from what its quantum restores to.
#[inline(always)]
fn error_of(walk: &Walk, restored: Lanes, x: Lanes, weight: Lanes) -> Lanes {
    let difference = restored - x;
    weight * if walk.magnitudes { difference.magnitude() } else { difference * difference }
}

/// The quanta `nearest((x - origin) * step)` of one candidate, and the sums of least squares
/// `w*l`, `w*l*l`, `w*l*x`.
#[inline(always)]
fn affine_sums<const WILD: bool, const N: usize>(
    n: f32,
    (step, origin): (Lanes, Lanes),
    xs: &[Lanes; N],
    weights: &[Lanes; N],
    quanta: &mut [Lanes; N],
) -> (Lanes, Lanes, Lanes) {
    let (mut sum_l, mut sum_l2, mut sum_xl) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
    for j in 0..N {
        let l = step * (xs[j] - origin);
        let l = if WILD { l.nearest_int() } else { l.nearest() };
        let l = l.at_least(Lanes::ZERO).at_most(Lanes::splat(n));
        quanta[j] = l;
        let wl = weights[j] * l;
        sum_l = sum_l + wl;
        sum_l2 = sum_l2 + wl * l;
        sum_xl = sum_xl + wl * xs[j];
    }
    (sum_l, sum_l2, sum_xl)
}

/// The scale and minimum of quanta `0 ..= n`: as ggml `make_qkx2_quants` and `make_qkx3_quants`.
///
/// A candidate that is better also moves the origin of those after it. That can leave a range near
/// zero, whose quanta no longer fit the quick rounding; such candidates take the exact one.
#[inline(always)]
pub fn affine<const N: usize>(walk: &Walk, xs: &[Lanes; N], weights: &[Lanes; N]) -> Affine {
    let (mut least, mut most) = (xs[0], xs[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * xs[0];
    for j in 1..N {
        least = least.at_most(xs[j]);
        most = most.at_least(xs[j]);
        sum_w = sum_w + weights[j];
        sum_x = sum_x + weights[j] * xs[j];
    }
    // A minimum is stored as what is taken off, which has no sign: numbers that are all above zero keep it at 0.
    let mut min = least.at_most(Lanes::ZERO);
    // All numbers alike, and not above zero, leave no range to divide.
    let flat = most.equal(min);
    let top = Lanes::splat(walk.n);

    let mut origin = min;
    let mut scale = Lanes::splat(1.0) / (top / (most - min));
    let mut step = step_of(walk.n, most - min);
    let mut best = Lanes::ZERO;
    for j in 0..N {
        let l = (step * (xs[j] - min)).nearest().at_most(top);
        best = best + error_of(walk, scale * l + min, xs[j], weights[j]);
    }
    let mut quanta = [Lanes::ZERO; N];
    for is in 0..=walk.steps {
        let candidate = step_of(walk.first + walk.delta * is as f32 + walk.n, most - min);
        // The largest `l` before it is bounded: beyond EXACT the quick rounding is wrong.
        let reach = (most - min).magnitude().at_least((least - min).magnitude());
        let wild = (candidate.magnitude() * reach).above(Lanes::splat(EXACT)).any();
        let maker = (candidate, min);
        let (sum_l, sum_l2, sum_xl) = if wild {
            affine_sums::<true, N>(walk.n, maker, xs, weights, &mut quanta)
        } else {
            affine_sums::<false, N>(walk.n, maker, xs, weights, &mut quanta)
        };
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        // A minimum above zero cannot be stored: then it is 0, and the scale is fitted without one.
        let positive = this_min.above(Lanes::ZERO);
        let this_scale = (sum_xl / sum_l2).where_set(positive, this_scale);
        let this_min = Lanes::ZERO.where_set(positive, this_min);
        let mut error = Lanes::ZERO;
        for j in 0..N {
            error = error + error_of(walk, this_scale * quanta[j] + this_min, xs[j], weights[j]);
        }
        // The determinant is 0 where all quanta are the same: they say nothing of the scale.
        let better = determinant.above(Lanes::ZERO).and(best.above(error));
        step = candidate.where_set(better, step);
        origin = min.where_set(better, origin);
        scale = this_scale.where_set(better, scale);
        min = this_min.where_set(better, min);
        best = error.where_set(better, best);
    }
    let least = least.at_most(Lanes::ZERO);
    Affine {
        scale: Lanes::ZERO.where_set(flat, scale),
        min: -least.where_set(flat, min),
        step: Lanes::ZERO.where_set(flat, step),
        origin,
    }
}

/// Quanta found one by one, and the scale that restores numbers from them.
pub struct Chosen<const N: usize> {
    /// See above.
    pub scale: Lanes,
    /// The quanta.
    pub quanta: [Lanes; N],
}

/// The scale of quanta `-n ..= n - 1` of numbers that weigh their own squares, and the quanta: as ggml
/// `make_q3_quants` with `do_rmse`, but for the quanta of blocks of nothing.
///
/// Each quantum in turn moves to what suits the others best, up to five times over. A block that no
/// longer changes would not change again, so the lanes need not stop together. Every move waits for
/// the one before, a division included, so `P` times sixteen blocks move in turn.
#[inline(always)]
pub fn descended<const N: usize, const P: usize>(
    n: f32,
    blocks: &[[Lanes; N]; P],
    quanta: &mut [[Lanes; N]; P],
) -> [Lanes; P] {
    let (low, high) = (Lanes::splat(-n), Lanes::splat(n - 1.0));
    let (mut w, mut wx) = ([[Lanes::ZERO; N]; P], [[Lanes::ZERO; N]; P]);
    let (mut sumlx, mut suml2) = ([Lanes::ZERO; P], [Lanes::ZERO; P]);
    let mut nothing = [Mask::NONE; P];
    for p in 0..P {
        let (max, magnitude) = largest(&blocks[p]);
        nothing[p] = Lanes::splat(NOTHING).above(magnitude);
        let step = Lanes::splat(-n) / max;
        for j in 0..N {
            let x = blocks[p][j];
            let l = (step * x).nearest().at_least(low).at_most(high);
            quanta[p][j] = l;
            w[p][j] = x * x;
            wx[p][j] = w[p][j] * x;
            sumlx[p] = sumlx[p] + wx[p][j] * l;
            suml2[p] = suml2[p] + w[p][j] * l * l;
        }
    }
    for _ in 0..5 {
        let mut changed = Mask::NONE;
        for j in 0..N {
            for p in 0..P {
                let (w, wx, l) = (w[p][j], wx[p][j], quanta[p][j]);
                // The sums without this number: slx / sl2 is the scale that the others want.
                let slx = sumlx[p] - wx * l;
                let sl2 = suml2[p] - w * l * l;
                // x / s with s = slx / sl2.
                let new = (blocks[p][j] * sl2 / slx).nearest_int().at_least(low).at_most(high);
                let new_slx = slx + wx * new;
                let new_sl2 = sl2 + w * new * new;
                // It moves where F grows with it: new_slx^2 / new_sl2 > sumlx^2 / suml2.
                let better = slx
                    .above(Lanes::ZERO)
                    .and(new.equal(l).not())
                    .and(new_sl2.above(Lanes::ZERO))
                    .and((new_slx * new_slx * suml2[p]).above(sumlx[p] * sumlx[p] * new_sl2));
                quanta[p][j] = new.where_set(better, l);
                sumlx[p] = new_slx.where_set(better, sumlx[p]);
                suml2[p] = new_sl2.where_set(better, suml2[p]);
                changed = changed.or(better);
            }
        }
        if !changed.any() {
            break;
        }
    }
    let mut scales = [Lanes::ZERO; P];
    for p in 0..P {
        let fitted = suml2[p].above(Lanes::ZERO).and(nothing[p].not());
        scales[p] = (sumlx[p] / suml2[p]).where_set(fitted, Lanes::ZERO);
    }
    scales
}

/// The byte that C makes of a whole number, as a number.
///
/// C keeps the low eight bits: -1 becomes 255, 256 becomes 0.
#[inline(always)]
fn as_byte(l: Lanes) -> Lanes {
    l.map(|l| f32::from(l as i32 as u8))
}

/// The scale and quanta `0 ..= n` of numbers that are not negative: as ggml `make_qp_quants`.
///
/// ggml keeps quanta as bytes, so a number below zero, which a scale can be after all, becomes one
/// near 255.
#[inline(always)]
pub fn positive<const N: usize>(n: f32, xs: &[Lanes; N], weights: &[Lanes; N]) -> Chosen<N> {
    let mut max = Lanes::ZERO;
    for x in xs {
        max = max.at_least(*x);
    }
    let top = Lanes::splat(n);
    let mut step = top / max;
    let mut best = Lanes::ZERO;
    // The first candidate takes the largest number to n; its quanta are bytes, as those that are kept at the end.
    let scale = Lanes::splat(1.0) / step;
    for j in 0..N {
        let difference = xs[j] - scale * as_byte((step * xs[j]).nearest_int());
        best = best + weights[j] * difference * difference;
    }
    for is in -4..=4 {
        if is == 0 {
            continue;
        }
        let candidate = Lanes::splat(0.1 * is as f32 + n) / max;
        let scale = Lanes::splat(1.0) / candidate;
        let mut error = Lanes::ZERO;
        for j in 0..N {
            let l = (candidate * xs[j]).nearest_int().at_most(top);
            let difference = xs[j] - scale * l;
            error = error + weights[j] * difference * difference;
        }
        let better = best.above(error);
        best = error.where_set(better, best);
        step = candidate.where_set(better, step);
    }

    let mut quanta = [Lanes::ZERO; N];
    let (mut sumlx, mut suml2) = (Lanes::ZERO, Lanes::ZERO);
    for j in 0..N {
        let l = (step * xs[j]).nearest_int().at_most(top);
        quanta[j] = as_byte(l);
        sumlx = sumlx + weights[j] * xs[j] * l;
        suml2 = suml2 + weights[j] * l * l;
    }
    for _ in 0..5 {
        let mut changed = Mask::NONE;
        for j in 0..N {
            // As in `descended`, with quanta that begin at zero.
            let (x, w, l) = (xs[j], weights[j], quanta[j]);
            let slx = sumlx - w * x * l;
            let sl2 = suml2 - w * l * l;
            let new = (x * sl2 / slx).nearest_int().at_most(top);
            let new_slx = slx + w * x * new;
            let new_sl2 = sl2 + w * new * new;
            let better = slx
                .above(Lanes::ZERO)
                .and(sl2.above(Lanes::ZERO))
                .and(new.equal(l).not())
                .and((new_slx * new_slx * suml2).above(sumlx * sumlx * new_sl2));
            quanta[j] = as_byte(new).where_set(better, l);
            sumlx = new_slx.where_set(better, sumlx);
            suml2 = new_sl2.where_set(better, suml2);
            changed = changed.or(better);
        }
        if !changed.any() {
            break;
        }
    }
    let nothing = Lanes::splat(NOTHING).above(max);
    for quantum in &mut quanta {
        *quantum = Lanes::ZERO.where_set(nothing, *quantum);
    }
    let fitted = suml2.above(Lanes::ZERO).and(nothing.not());
    Chosen { scale: (sumlx / suml2).where_set(fitted, Lanes::ZERO), quanta }
}
