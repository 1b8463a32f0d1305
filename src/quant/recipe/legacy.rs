//! The encoders of 2023 for Q4_0 to Q8_0.
//!
//! ```text
//! amax        d = max|x| / 7            w = round(x / d) + 8                  10 March to 25 April
//! full-range  d = max / -8, signed max  w = min(15, round(x / d) + 8)         to 12 May
//! truncated   the same d                w = min(15, trunc(x / d + 8.5))       since
//! Q4_1        d = (max - min) / 15      w = round((x - min) / d), then trunc(.. + 0.5)
//! ```
//!
//! Truncation differs from rounding for ties below zero only. Every quotient is a product with `1 / d`
//! in f32, computed before `d` is rounded to f16. Until 22 March 2023 the maximum of Q4_1 began at
//! the smallest positive normal number, so that a block of negative numbers was coded too coarsely.

use super::way::Recipe;
use crate::per_isa;
use crate::quant::encode::{self, EncodeRows};
use crate::quant::half::half_from_f32;
use crate::quant::isa::Isa;
use crate::quant::{QuantType, permute};

/// The recipes of a type, its last the one that was in use when the dialect ended.
pub(super) fn recipes(name: &str, dialect: &str) -> Vec<Recipe> {
    // Dates are those of the commits that brought a recipe and the one that took its place.
    let recipe = |name, from, to, source, encode: EncodeRows| {
        let lived = (from, Some(to));
        Recipe { name, lived, source, encode }
    };
    // The first day; blocks in place of planar rows; Q4_1's maximum mended; all sixteen codes used; ggjt v2; v3.
    let (day_1, blocks, ties) = ("2023-03-10", "2023-03-11", "2023-03-22");
    let (full, ggjt_2, ggjt_3) = ("2023-04-25", "2023-05-12", "2023-05-19");
    let utils = "llama.cpp 26c084662, utils.cpp: ggml_quantize_q4_0";
    let utils_1 = "llama.cpp 26c084662, utils.cpp: ggml_quantize_q4_1";
    let (v2_0, v2_1) = (
        "llama.cpp b9fd7eee5, ggml.c: quantize_row_q4_0_reference",
        "llama.cpp b9fd7eee5, ggml.c: quantize_row_q4_1_reference",
    );
    match (name, dialect) {
        ("q4_0", "planar-f32") => vec![recipe("amax", day_1, blocks, utils, q4_0_planar)],
        ("q4_0", "pairs-f32") => vec![
            recipe("amax", blocks, full, utils, q4_0_amax),
            recipe(
                "full-range",
                full,
                ggjt_2,
                "llama.cpp dd0eabc04, ggml.c: quantize_row_q4_0_reference",
                q4_0_full,
            ),
        ],
        ("q4_0", "halves-f32") => {
            vec![recipe("truncated", ggjt_2, ggjt_3, v2_0, q4_0_truncated)]
        }
        ("q4_1", "planar-f32") => {
            vec![recipe("positive-max", day_1, "2023-03-17", utils_1, q4_1_planar)]
        }
        ("q4_1", "pairs-f32") => vec![
            recipe("positive-max", "2023-03-17", ties, utils_1, q4_1_positive_max),
            recipe(
                "rounded",
                ties,
                ggjt_2,
                "llama.cpp f5a77a629, ggml.c: ggml_quantize_q4_1",
                q4_1_rounded,
            ),
        ],
        ("q4_1", "halves-f32") => {
            vec![recipe("truncated", ggjt_2, ggjt_3, v2_1, q4_1_truncated)]
        }
        ("q4_2", _) => vec![
            recipe(
                "amax",
                "2023-04-18",
                "2023-04-19",
                "llama.cpp 77a73403c, ggml.c: quantize_row_q4_2_reference",
                q4_2_amax,
            ),
            recipe(
                "rmse",
                "2023-04-19",
                full,
                "llama.cpp f7d05095b, ggml.c: quantize_row_q4_2_rmse",
                q4_2_rmse,
            ),
            recipe(
                "full-range",
                full,
                ggjt_2,
                "llama.cpp dd0eabc04, ggml.c: quantize_row_q4_2_reference",
                q4_2_full,
            ),
        ],
        ("q4_3", _) => vec![recipe(
            "truncated",
            "2023-04-20",
            "2023-04-28",
            "llama.cpp e0305ead3, ggml.c: quantize_row_q4_3_reference",
            q4_3,
        )],
        ("q5_0", "pairs") => vec![recipe(
            "truncated",
            "2023-04-26",
            ggjt_2,
            "llama.cpp 574406dc7, ggml.c: quantize_row_q5_0_reference",
            q5_0_pairs,
        )],
        ("q5_1", "pairs") => vec![recipe(
            "truncated",
            "2023-04-26",
            ggjt_2,
            "llama.cpp 574406dc7, ggml.c: quantize_row_q5_1_reference",
            q5_1_pairs,
        )],
        ("q8_0", "scale-f32") => vec![recipe(
            "amax",
            full,
            ggjt_3,
            "llama.cpp 7a32fcb3b, ggml.c: quantize_row_q8_0_reference",
            q8_0,
        )],
        _ => Vec::new(),
    }
}

/// What a block becomes before it is stored.
struct Coded<const N: usize> {
    /// The step between codes.
    d: f32,
    /// The minimum, which code 0 stands for; unused where a code means `w - 8`.
    m: f32,
    /// The codes, of four bits each.
    w: [u8; N],
}

/// The low byte of the integer part, which is 0 where no `i32` holds it.
#[inline(always)]
fn low_byte(x: f32) -> u8 {
    // x86 makes 0x8000_0000 of NaN and of what no i32 holds, a low byte of 0. Rust does so below the range only.
    (if x < 2_147_483_648.0 { x as i32 } else { 0 }) as u8
}

/// C `roundf`, halves away from zero; adding just less than a half keeps 0.49999997 from becoming 1.
#[inline(always)]
fn rounded(x: f32) -> f32 {
    x + 0.499_999_97_f32.copysign(x)
}

#[inline(always)]
fn reciprocal(d: f32) -> f32 {
    // A block of zeros has no step; its quotients are 0 then, as they are with any other.
    if d != 0.0 { 1.0 / d } else { 0.0 }
}

#[inline(always)]
fn largest_magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |a, x| if a < x.abs() { x.abs() } else { a })
}

/// `d = max|x| / 7`.
#[inline(always)]
fn amax<const N: usize, const TRUNCATED: bool>(x: &[f32; N]) -> Coded<N> {
    // -8 is never used: sixteen codes, fifteen of them.
    let d = largest_magnitude(x) / 7.0;
    let id = reciprocal(d);
    let code = |x: f32| match TRUNCATED {
        true => low_byte(x * id + 8.5),
        false => low_byte(rounded(x * id)).wrapping_add(8),
    };
    Coded { d, m: 0.0, w: x.map(code) }
}

/// `d = max / -8`, `max` the number of largest magnitude, the first of equals.
#[inline(always)]
fn full_range<const N: usize, const TRUNCATED: bool>(x: &[f32; N]) -> Coded<N> {
    let amax = largest_magnitude(x);
    // Of equal magnitudes the first decides the sign.
    let first = x.iter().copied().find(|x| x.abs() == amax && amax > 0.0);
    let d = first.unwrap_or(0.0) / -8.0;
    let id = reciprocal(d);
    let code = |x: f32| match TRUNCATED {
        true => low_byte(x * id + 8.5).min(15),
        false => low_byte(rounded(x * id)).wrapping_add(8).min(15),
    };
    Coded { d, m: 0.0, w: x.map(code) }
}

/// `d = (max - min) / 15`, the maximum not below `floor`.
#[inline(always)]
fn affine<const N: usize, const TRUNCATED: bool>(x: &[f32; N], floor: f32) -> Coded<N> {
    // x is about min + d w, so that the minimum has code 0 and the maximum code 15.
    let min = x.iter().fold(f32::MAX, |a, x| if *x < a { *x } else { a });
    // With a floor of the smallest positive number a block below zero gets the range up to 0.
    let max = x.iter().fold(floor, |a, x| if *x > a { *x } else { a });
    let d = (max - min) / 15.0;
    let id = reciprocal(d);
    let code = |x: f32| match TRUNCATED {
        true => low_byte((x - min) * id + 0.5).min(15),
        false => low_byte(rounded((x - min) * id)),
    };
    Coded { d, m: min, w: x.map(code) }
}

/// The scale with the smallest squared error among sixteen, then the best one for its quants.
#[inline(always)]
fn rmse(x: &[f32; 16]) -> Coded<16> {
    const CANDIDATES: [f32; 8] = [8.7, 8.3, 8.1, 7.8, 7.3, 7.0, 6.3, 5.7];
    // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
    let nearest = |x: f32| ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000;
    // With quants l, and the best d = sum(x l) / sum(l^2) for them, the squared error is
    //
    //   sum (x - d l)^2 = sum x^2 - (sum x l)^2 / sum l^2
    //
    // of which only the quotient differs between candidates: the largest wins.
    let amax = largest_magnitude(x);
    if amax == 0.0 {
        return Coded { d: 1.0, m: 0.0, w: [8; 16] };
    }
    let (mut best, mut best_scale) = (0.0f32, 0.0f32);
    for candidate in CANDIDATES {
        let scale = candidate / amax;
        let (mut plus, mut minus) = ((0.0f32, 0), (0.0f32, 0));
        for x in x {
            let l = nearest(scale * x);
            // Both signs of the scale at once: -8 is the end that reaches further, on either side.
            for (l, (sum, squares)) in [(l, &mut plus), (-l, &mut minus)] {
                let l = l.clamp(-8, 7);
                *sum += x * l as f32;
                *squares += l * l;
            }
        }
        let square = |(sum, squares): (f32, i32)| (sum * sum, squares as f32);
        let (plus, minus) = (square(plus), square(minus));
        // sum^2 / squares is what a scale explains of a block, compared without dividing.
        let better = plus.0 * minus.1 > minus.0 * plus.1;
        let ((sum, squares), scale) = if better { (plus, scale) } else { (minus, -scale) };
        if sum > best * squares {
            (best, best_scale) = (sum / squares, scale);
        }
    }
    // The winner's quants once more, and from them the d that is written: the best for them, as above, and not
    // the candidate that they were found with.
    let (mut sum, mut squares) = (0.0f32, 0);
    let w = x.map(|x| {
        let l = nearest(best_scale * x).clamp(-8, 7);
        sum += x * l as f32;
        squares += l * l;
        (l + 8) as u8
    });
    Coded { d: sum / squares as f32, m: 0.0, w }
}

/// Nibbles in pairs: byte `j` is weight `2j` and, above it, weight `2j + 1`.
#[inline(always)]
fn pairs(w: &[u8], out: &mut [u8]) {
    for (byte, w) in out.iter_mut().zip(w.as_chunks::<2>().0) {
        *byte = w[0] | w[1] << 4;
    }
}

/// Nibbles in halves: byte `j` is weight `j` and, above it, weight `j + 16`.
#[inline(always)]
fn halves(w: &[u8], out: &mut [u8]) {
    let (low, high) = w.split_at(w.len() / 2);
    for (byte, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *byte = low | high << 4;
    }
}

/// Blocks of an f32 scale, an f32 minimum if `MIN`, and nibbles as `order` stores them.
#[inline(always)]
fn wide<const MIN: bool>(
    rows: &[f32],
    out: &mut [u8],
    code: impl Fn(&[f32; 32]) -> Coded<32>,
    order: impl Fn(&[u8], &mut [u8]),
) {
    // byte 0         4              at
    //      d (f32)   m (f32, MIN)   16 of nibbles
    let at = if MIN { 8 } else { 4 };
    for (x, out) in rows.as_chunks().0.iter().zip(out.chunks_exact_mut(at + 16)) {
        let Coded { d, m, w } = code(x);
        out[..4].copy_from_slice(&d.to_le_bytes());
        if MIN {
            out[4..8].copy_from_slice(&m.to_le_bytes());
        }
        order(&w, &mut out[at..]);
    }
}

/// Rows of all minima, if `MIN`, all scales, all nibbles in pairs.
#[inline(always)]
fn planar<const MIN: bool>(
    rows: &[f32],
    row_len: usize,
    out: &mut [u8],
    code: impl Fn(&[f32; 32]) -> Coded<32>,
) {
    // byte 0              4n, or 0    8n, or 4n
    //      m[n] (if MIN)  d[n] (f32)  16 of nibbles for each of n blocks
    let n = row_len / 32;
    let head = if MIN { 8 } else { 4 };
    let rows = rows.chunks_exact(row_len).zip(out.chunks_exact_mut(n * (head + 16)));
    for (row, out) in rows {
        let (scales, qs) = out.split_at_mut(n * head);
        let (ms, ds) = scales.split_at_mut(if MIN { n * 4 } else { 0 });
        for (i, x) in row.as_chunks().0.iter().enumerate() {
            let Coded { d, m, w } = code(x);
            ds[4 * i..4 * i + 4].copy_from_slice(&d.to_le_bytes());
            if MIN {
                ms[4 * i..4 * i + 4].copy_from_slice(&m.to_le_bytes());
            }
            pairs(&w, &mut qs[16 * i..16 * i + 16]);
        }
    }
}

/// Blocks of sixteen: an f16 scale, an f16 minimum if `MIN`, nibbles in pairs.
#[inline(always)]
fn narrow<const MIN: bool>(rows: &[f32], out: &mut [u8], code: impl Fn(&[f32; 16]) -> Coded<16>) {
    // byte 0         2              at
    //      d (f16)   m (f16, MIN)   8 of nibbles
    let at = if MIN { 4 } else { 2 };
    for (x, out) in rows.as_chunks().0.iter().zip(out.chunks_exact_mut(at + 8)) {
        let Coded { d, m, w } = code(x);
        out[..2].copy_from_slice(&half_from_f32(d).to_le_bytes());
        if MIN {
            out[2..4].copy_from_slice(&half_from_f32(m).to_le_bytes());
        }
        pairs(&w, &mut out[at..]);
    }
}

/// Q8_0 with a scale in f32, as of 25 April 2023.
#[inline(always)]
fn q8_0_body(rows: &[f32], _: usize, out: &mut [u8]) {
    for (x, out) in rows.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<36>().0) {
        // byte 0: d (f32), byte 4: 32 signed codes from -127 to 127
        let d = largest_magnitude(x) / 127.0;
        let id = reciprocal(d);
        out[..4].copy_from_slice(&d.to_le_bytes());
        for (out, x) in out[4..].iter_mut().zip(x) {
            *out = low_byte(rounded(x * id));
        }
    }
}

/// Defines encoders, each `fn NAME(isa, rows, row_len, _, out)`, from what they do to rows.
macro_rules! encoders {
    ($($name:ident = |$rows:ident, $row_len:ident, $out:ident| $body:expr;)+) => {$(
        fn $name(isa: Isa, rows: &[f32], row_len: usize, _: Option<&[f32]>, out: &mut [u8]) {
            #[inline(always)]
            fn body($rows: &[f32], $row_len: usize, $out: &mut [u8]) {
                $body
            }
            per_isa! { fn run(rows: &[f32], row_len: usize, out: &mut [u8]) = body; }
            run(isa, rows, row_len, out);
        }
    )+};
}

encoders! {
    q4_0_planar = |rows, row_len, out| planar::<false>(rows, row_len, out, amax::<32, false>);
    q4_0_amax = |rows, _len, out| wide::<false>(rows, out, amax::<32, false>, pairs);
    q4_0_full = |rows, _len, out| wide::<false>(rows, out, full_range::<32, false>, pairs);
    q4_0_truncated = |rows, _len, out| wide::<false>(rows, out, full_range::<32, true>, halves);
    q4_1_planar = |rows, row_len, out| {
        planar::<true>(rows, row_len, out, |x| affine::<32, false>(x, f32::MIN_POSITIVE));
    };
    q4_1_positive_max = |rows, _len, out| {
        wide::<true>(rows, out, |x| affine::<32, false>(x, f32::MIN_POSITIVE), pairs);
    };
    q4_1_rounded = |rows, _len, out| {
        wide::<true>(rows, out, |x| affine::<32, false>(x, f32::MIN), pairs);
    };
    q4_1_truncated = |rows, _len, out| {
        wide::<true>(rows, out, |x| affine::<32, true>(x, f32::MIN), halves);
    };
    q4_2_amax = |rows, _len, out| narrow::<false>(rows, out, amax::<16, true>);
    q4_2_rmse = |rows, _len, out| narrow::<false>(rows, out, rmse);
    q4_2_full = |rows, _len, out| narrow::<false>(rows, out, full_range::<16, true>);
    q4_3 = |rows, _len, out| narrow::<true>(rows, out, |x| affine::<16, true>(x, f32::MIN));
    q8_0 = |rows, row_len, out| q8_0_body(rows, row_len, out);
}

fn q5_0_pairs(isa: Isa, rows: &[f32], row_len: usize, _: Option<&[f32]>, out: &mut [u8]) {
    today_in_pairs("q5_0", isa, rows, row_len, out);
}

fn q5_1_pairs(isa: Isa, rows: &[f32], row_len: usize, _: Option<&[f32]>, out: &mut [u8]) {
    today_in_pairs("q5_1", isa, rows, row_len, out);
}

/// Encodes as today, then turns the nibbles from halves to pairs.
///
/// The encoders of Q5_0 and Q5_1 have computed the same quants since their first day.
fn today_in_pairs(name: &str, isa: Isa, rows: &[f32], row_len: usize, out: &mut [u8]) {
    let find = |dialect| QuantType::find(name, dialect);
    let way = find("halves").zip(find("pairs")).and_then(|(from, to)| permute::transform(from, to));
    let (Some(way), Some(encode)) = (way, encode::encoder(name)) else { return };
    let mut halves = vec![0; out.len()];
    encode(isa, rows, row_len, None, &mut halves);
    way.run(isa, row_len, &halves, out);
}
