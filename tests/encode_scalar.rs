//! The encoders of 32-blocks and K-quants against one number at a time, on every instruction set.
//!
//! The scalar encoders below are the arithmetic of ggml's `quantize_*` written down plainly; what the
//! golden digests prove for two matrices this proves for rows no digest exists for.

use proptest::prelude::*;
use regguf::quant::{
    QuantType,
    encode::encoder,
    half::{f32_from_half, half_from_f32},
    isa::Isa,
};

const TYPES: [&str; 10] =
    ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"];

fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

/// A conversion to `int`, of which the low eight bits are kept.
fn byte(x: f32) -> u8 {
    if x.abs() < 2_147_483_648.0 { x as i32 as u8 } else { 0 }
}

fn largest(xs: &[f32]) -> f32 {
    xs.iter().fold(0.0f32, |max, x| if x.abs() > max.abs() { *x } else { max })
}

/// `make_qx_quants`
fn centred(n: i32, xs: &[f32], ws: &[f32]) -> (f32, Vec<u8>) {
    let max = largest(xs);
    if max.abs() < 1e-15 {
        return (0.0, vec![0; xs.len()]);
    }
    let quantum = |step: f32, x: f32| nearest(step * x).clamp(-n, n - 1);
    let sums = |step: f32| {
        xs.iter().zip(ws).fold((0.0f32, 0.0f32), |(lx, l2), (x, w)| {
            let l = quantum(step, *x) as f32;
            (lx + w * x * l, l2 + w * l * l)
        })
    };
    let mut best_step = -n as f32 / max;
    let (lx, l2) = sums(best_step);
    let mut scale = if l2 != 0.0 { lx / l2 } else { 0.0 };
    let mut best = scale * lx;
    for is in (-9..=9).filter(|is| *is != 0) {
        let step = -(n as f32 + 0.1 * is as f32) / max;
        let (lx, l2) = sums(step);
        if l2 > 0.0 && lx * lx > best * l2 {
            (best_step, scale) = (step, lx / l2);
            best = scale * lx;
        }
    }
    (scale, xs.iter().map(|x| (quantum(best_step, *x) + n) as u8).collect())
}

/// `make_q3_quants`
fn descended(n: i32, xs: &[f32]) -> (f32, Vec<u8>) {
    let max = largest(xs);
    if max.abs() < 1e-15 {
        return (0.0, vec![0; xs.len()]);
    }
    let step = -n as f32 / max;
    let mut quanta: Vec<i32> = xs.iter().map(|x| nearest(step * x).clamp(-n, n - 1)).collect();
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for (x, l) in xs.iter().zip(&quanta) {
        let (w, l) = (x * x, *l as f32);
        lx += w * x * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (x, quantum) in xs.iter().zip(&mut quanta) {
            let (w, l) = (x * x, *quantum as f32);
            let (mut slx, mut sl2) = (lx - w * x * l, l2 - w * l * l);
            if slx > 0.0 {
                let new = nearest(x * sl2 / slx).clamp(-n, n - 1);
                if new != *quantum {
                    slx += w * x * new as f32;
                    sl2 += w * new as f32 * new as f32;
                    if sl2 > 0.0 && slx * slx * l2 > lx * lx * sl2 {
                        (*quantum, lx, l2, changed) = (new, slx, sl2, true);
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if l2 > 0.0 { lx / l2 } else { 0.0 };
    (scale, quanta.iter().map(|l| (l + n) as u8).collect())
}

/// `make_qkx2_quants`, `make_qkx3_quants`: scale, minimum, quanta
fn affine(
    n: i32,
    (first, delta, steps, magnitudes): (f32, f32, i32, bool),
    xs: &[f32],
    ws: &[f32],
) -> (f32, f32, Vec<u8>) {
    let (mut min, mut max) = (xs[0], xs[0]);
    let (mut sum_w, mut sum_x) = (ws[0], ws[0] * xs[0]);
    for (x, w) in xs.iter().zip(ws).skip(1) {
        min = if *x < min { *x } else { min };
        max = if *x > max { *x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    min = if min > 0.0 { 0.0 } else { min };
    if max == min {
        return (0.0, -min, vec![0; xs.len()]);
    }
    let quanta_of = |step: f32, min: f32| -> Vec<u8> {
        xs.iter().map(|x| nearest(step * (x - min)).clamp(0, n) as u8).collect()
    };
    let error_of = |scale: f32, min: f32, quanta: &[u8]| {
        let mut error = 0.0f32;
        for ((x, w), l) in xs.iter().zip(ws).zip(quanta) {
            let difference = scale * f32::from(*l) + min - x;
            error += w * if magnitudes { difference.abs() } else { difference * difference };
        }
        error
    };
    let step = n as f32 / (max - min);
    let mut scale = 1.0 / step;
    let mut quanta = quanta_of(step, min);
    let mut best = error_of(scale, min, &quanta);
    for is in 0..=steps {
        let step = (first + delta * is as f32 + n as f32) / (max - min);
        let these = quanta_of(step, min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((x, w), l) in xs.iter().zip(ws).zip(&these) {
            let l = f32::from(*l);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                (this_scale, this_min) = (sum_xl / sum_l2, 0.0);
            }
            let error = error_of(this_scale, this_min, &these);
            if error < best {
                (best, scale, min, quanta) = (error, this_scale, this_min, these);
            }
        }
    }
    (scale, -min, quanta)
}

/// `make_qp_quants`
fn positive(n: i32, xs: &[f32], ws: &[f32]) -> (f32, Vec<u8>) {
    let max = xs.iter().fold(0.0f32, |max, x| if *x > max { *x } else { max });
    if max < 1e-15 {
        return (0.0, vec![0; xs.len()]);
    }
    let error = |scale: f32, quantum: &dyn Fn(f32) -> f32| {
        xs.iter().zip(ws).fold(0.0f32, |sum, (x, w)| {
            let difference = x - scale * quantum(*x);
            sum + w * difference * difference
        })
    };
    let mut step = n as f32 / max;
    let mut best = error(1.0 / step, &|x| f32::from(nearest(step * x) as u8));
    for is in (-4..=4).filter(|is| *is != 0) {
        let candidate = (0.1 * is as f32 + n as f32) / max;
        let this = error(1.0 / candidate, &|x| nearest(candidate * x).min(n) as f32);
        if this < best {
            (best, step) = (this, candidate);
        }
    }
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    let mut quanta = Vec::new();
    for (x, w) in xs.iter().zip(ws) {
        let l = nearest(step * x).min(n);
        quanta.push(l as u8);
        lx += w * x * l as f32;
        l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((x, w), quantum) in xs.iter().zip(ws).zip(&mut quanta) {
            let l = f32::from(*quantum);
            let (mut slx, mut sl2) = (lx - w * x * l, l2 - w * l * l);
            if slx > 0.0 && sl2 > 0.0 {
                let new = nearest(x * sl2 / slx).min(n);
                if new != i32::from(*quantum) {
                    slx += w * x * new as f32;
                    sl2 += w * new as f32 * new as f32;
                    if slx * slx * l2 > lx * lx * sl2 {
                        (*quantum, lx, l2, changed) = (new as u8, slx, sl2, true);
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if l2 > 0.0 { lx / l2 } else { 0.0 }, quanta)
}

fn half(x: f32) -> [u8; 2] {
    half_from_f32(x).to_le_bytes()
}

fn through_half(x: f32) -> f32 {
    f32_from_half(half_from_f32(x))
}

fn importance(weights: &[f32], xs: &[f32], mean: f32) -> Vec<f32> {
    weights.iter().zip(xs).map(|(w, x)| w * (mean + x * x).sqrt()).collect()
}

fn energy(xs: &[f32]) -> f32 {
    xs.iter().fold(0.0, |sum, x| sum + x * x)
}

fn encode_32(name: &str, xs: &[f32], weights: Option<Vec<f32>>, out: &mut Vec<u8>) {
    let five = name.starts_with("q5");
    let n = if five { 16 } else { 8 };
    let quanta: Vec<u8>;
    if name == "q8_0" {
        let d = xs.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        out.extend(half(d));
        out.extend(xs.iter().map(|x| byte((x * id).round())));
        return;
    } else if name.ends_with("_0") {
        let d;
        if let Some(ws) = weights {
            (d, quanta) = centred(n, xs, &ws);
        } else {
            d = largest(xs) / -n as f32;
            let id = if d != 0.0 { 1.0 / d } else { 0.0 };
            let cap = 2 * n as i8 - 1;
            let quantum = |x: &f32| (byte(x * id + (n as f32 + 0.5)) as i8).min(cap) as u8;
            quanta = xs.iter().map(quantum).collect();
        }
        out.extend(half(d));
    } else {
        let top = 2 * n - 1;
        let (d, min);
        if let Some(ws) = weights {
            let found = affine(top, (-0.9, 0.05, 36, false), xs, &ws);
            (d, min, quanta) = (found.0, -found.1, found.2);
        } else {
            let max = xs.iter().fold(f32::MIN, |a, x| if *x > a { *x } else { a });
            min = xs.iter().fold(f32::MAX, |a, x| if *x < a { *x } else { a });
            d = (max - min) / top as f32;
            let id = if d != 0.0 { 1.0 / d } else { 0.0 };
            quanta = xs.iter().map(|x| byte((x - min) * id + 0.5).min(top as u8)).collect();
        }
        out.extend(half(d));
        out.extend(half(min));
    }
    if five {
        let bits = (0..32).fold(0u32, |bits, j| bits | u32::from(quanta[j] >> 4 & 1) << j);
        out.extend(bits.to_le_bytes());
    }
    out.extend((0..16).map(|j| quanta[j] & 15 | quanta[j + 16] << 4));
}

/// Bits `shift..` of the quanta at `at`, `at + stride`, …, packed upwards from bit 0.
fn packed(quanta: &[u8], at: usize, stride: usize, (shift, bits): (u32, u32)) -> u8 {
    (0..8 / bits).fold(0, |b, k| {
        let q = quanta[at + stride * k as usize] >> shift & ((1 << bits) - 1);
        b | q << (bits * k)
    })
}

fn pairs(quanta: &[u8]) -> Vec<u8> {
    (0..64).map(|i| packed(quanta, i / 32 * 128 + i % 32, 32, (0, 2))).collect()
}

fn encode_256(name: &str, xs: &[f32], weights: Option<&[f32]>, out: &mut Vec<u8>) {
    match name {
        "q2_k" | "q4_k" | "q5_k" => encode_affine_256(name, xs, weights, out),
        "q3_k" => encode_q3_k(xs, weights, out),
        _ => encode_q6_k(xs, weights, out),
    }
}

fn encode_affine_256(name: &str, xs: &[f32], weights: Option<&[f32]>, out: &mut Vec<u8>) {
    let (size, top, scale_top, walk) = match name {
        "q2_k" => (16, 3, 15, (-0.5, 0.1, 15, true)),
        "q4_k" => (32, 15, 63, (-1.0, 0.1, 20, false)),
        _ => (32, 31, 63, (-0.5, 0.1, 15, false)),
    };
    let mean = if size == 16 { 1.0 } else { 2.0 } * energy(xs) / 256.0;
    let (mut scales, mut mins, mut sums, mut quanta) = (vec![], vec![], vec![], vec![]);
    for (sub, x) in xs.chunks(size).enumerate() {
        let found = if let Some(weights) = weights {
            let ws = importance(&weights[sub * size..][..size], x, mean);
            sums.push(ws.iter().fold(0.0f32, |sum, w| sum + w));
            affine(top, (-0.9, 0.05, 36, false), x, &ws)
        } else {
            let level = if size == 16 { 0.0 } else { (energy(x) / 32.0).sqrt() };
            let ws: Vec<f32> = x.iter().map(|x| level + x.abs()).collect();
            affine(top, walk, x, &ws)
        };
        scales.push(found.0);
        mins.push(found.1);
        quanta.extend(found.2);
    }
    let quantized = |scales: &[f32]| -> (f32, Vec<u8>) {
        if weights.is_some() {
            return positive(scale_top, scales, &sums);
        }
        let max = scales.iter().fold(0.0f32, |max, s| if *s > max { *s } else { max });
        let inverse = if max > 0.0 { scale_top as f32 / max } else { 0.0 };
        (
            if max > 0.0 { max / scale_top as f32 } else { 0.0 },
            scales.iter().map(|s| nearest(inverse * s) as u8).collect(),
        )
    };
    let ((d, mut scales), (dmin, mut mins)) = (quantized(&scales), quantized(&mins));
    let mut codes = vec![0u8; 12];
    if size == 16 {
        codes = (0..16).map(|j| scales[j] | mins[j] << 4).collect();
        scales = codes.iter().map(|c| c & 15).collect();
        mins = codes.iter().map(|c| c >> 4).collect();
    } else {
        if weights.is_none() || name == "q5_k" {
            scales.iter_mut().chain(&mut mins).for_each(|c| *c = (*c).min(63));
        }
        for j in 0..4 {
            codes[j] = scales[j] | scales[j + 4] >> 4 << 6;
            codes[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
            codes[j + 8] = scales[j + 4] & 15 | (mins[j + 4] & 15) << 4;
        }
        for j in 0..8 {
            (scales[j], mins[j]) = if j < 4 {
                (codes[j] & 63, codes[j + 4] & 63)
            } else {
                (codes[j + 4] & 15 | codes[j - 4] >> 6 << 4, codes[j + 4] >> 4 | codes[j] >> 6 << 4)
            };
        }
    }
    for (i, x) in xs.iter().enumerate() {
        let scale = through_half(d) * f32::from(scales[i / size]);
        let min = through_half(dmin) * f32::from(mins[i / size]);
        if scale != 0.0 {
            quanta[i] = nearest((x + min) / scale).clamp(0, top) as u8;
        }
    }
    if size == 16 {
        out.extend(codes);
        out.extend(pairs(&quanta));
        out.extend([half(d), half(dmin)].as_flattened());
        return;
    }
    out.extend([half(d), half(dmin)].as_flattened());
    out.extend(codes);
    if top == 31 {
        out.extend((0..32).map(|l| packed(&quanta, l, 32, (4, 1))));
    }
    out.extend((0..128).map(|i| packed(&quanta, i / 32 * 64 + i % 32, 32, (0, 4))));
}

fn requantized(n: i32, x: f32, scale: f32, quantum: &mut u8) {
    if scale != 0.0 {
        *quantum = (nearest(x / scale).clamp(-n, n - 1) + n) as u8;
    }
}

fn encode_q3_k(xs: &[f32], weights: Option<&[f32]>, out: &mut Vec<u8>) {
    let mean = 2.0 * energy(xs) / 256.0;
    let (mut scales, mut sums, mut quanta) = (vec![], vec![], vec![]);
    for (sub, x) in xs.chunks(16).enumerate() {
        let found = if let Some(weights) = weights {
            let ws = importance(&weights[sub * 16..][..16], x, mean);
            sums.push(ws.iter().fold(0.0f32, |sum, w| sum + w));
            centred(4, x, &ws)
        } else {
            descended(4, x)
        };
        scales.push(found.0);
        quanta.extend(found.1);
    }
    let (d, codes) = if weights.is_some() {
        centred(32, &scales, &sums)
    } else if largest(&scales) != 0.0 {
        let inverse = -32.0 / largest(&scales);
        let code = |s: &f32| ((nearest(inverse * s) as i8).clamp(-32, 31) + 32) as u8;
        (1.0 / inverse, scales.iter().map(code).collect())
    } else {
        (0.0, vec![0; 16])
    };
    for (i, x) in xs.iter().enumerate() {
        let scale = through_half(d) * (f32::from(codes[i / 16]) - 32.0);
        requantized(4, *x, scale, &mut quanta[i]);
    }
    out.extend((0..32).map(|l| packed(&quanta, l, 32, (2, 1))));
    out.extend(pairs(&quanta));
    out.extend((0..8).map(|j| packed(&codes, j, 8, (0, 4))));
    out.extend((0..4).map(|j| packed(&codes, j, 4, (4, 2))));
    out.extend(half(d));
}

fn encode_q6_k(xs: &[f32], weights: Option<&[f32]>, out: &mut Vec<u8>) {
    let (mut scales, mut quanta) = (vec![], vec![]);
    for (sub, x) in xs.chunks(16).enumerate() {
        let squares: Vec<f32> = x.iter().map(|x| x * x).collect();
        let found = centred(32, x, weights.map_or(&squares[..], |w| &w[sub * 16..][..16]));
        scales.push(found.0);
        quanta.extend(found.1);
    }
    if largest(&scales).abs() < 1e-15 {
        out.extend([0; 210]);
        return;
    }
    let inverse = -128.0 / largest(&scales);
    let codes: Vec<i8> = scales.iter().map(|s| nearest(inverse * s).min(127) as i8).collect();
    let d = through_half(1.0 / inverse);
    for (i, x) in xs.iter().enumerate() {
        requantized(32, *x, d * f32::from(codes[i / 16]), &mut quanta[i]);
    }
    out.extend((0..128).map(|i| packed(&quanta, i / 64 * 128 + i % 64, 64, (0, 4))));
    out.extend((0..64).map(|i| packed(&quanta, i / 32 * 128 + i % 32, 32, (4, 2))));
    out.extend(codes.iter().map(|c| *c as u8));
    out.extend(half(1.0 / inverse));
}

fn scalar(name: &str, rows: &[f32], row_len: usize, weights: Option<&[f32]>) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows.chunks(row_len) {
        let mean = energy(row) / row_len as f32;
        let size = if name.ends_with('k') { 256 } else { 32 };
        for (i, block) in row.chunks(size).enumerate() {
            let weights = weights.map(|w| &w[i * size..][..size]);
            if size == 256 {
                encode_256(name, block, weights, &mut out);
            } else {
                let weights = weights.map(|w| importance(w, block, mean));
                encode_32(name, block, weights, &mut out);
            }
        }
    }
    out
}

fn assert_all_alike(rows: &[f32], row_len: usize, weights: &[f32]) {
    for name in TYPES {
        for weights in [None, Some(weights)] {
            let wanted = scalar(name, rows, row_len, weights);
            for isa in Isa::available() {
                let bytes = QuantType::today(name).unwrap().row_bytes(row_len as u64).unwrap();
                let mut found = vec![0xAA; bytes as usize * (rows.len() / row_len)];
                encoder(name).unwrap()(isa, rows, row_len, weights, &mut found);
                assert!(found == wanted, "{name}, weighted {}, {}", weights.is_some(), isa.name());
            }
        }
    }
}

/// One number: ordinary, tied, zero of either sign, subnormal, far too large or far too small.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -1.0f32..1.0,
        3 => (-8i32..8).prop_map(|m| m as f32 * 0.125),
        1 => Just(0.0f32),
        1 => Just(-0.0f32),
        1 => (-1.0f32..1.0).prop_map(|x| x * 1e-39),
        1 => (-1.0f32..1.0).prop_map(|x| x * 1e-16),
        1 => (-1.0f32..1.0).prop_map(|x| x * 1e12),
    ]
}

/// A sub-block of like or of mixed numbers.
fn sixteen() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        4 => (prop::collection::vec(-1.0f32..1.0, 16), -20i32..6)
            .prop_map(|(xs, e)| xs.iter().map(|x| x * (e as f32).exp2()).collect()),
        2 => prop::collection::vec(number(), 16),
        1 => number().prop_map(|x| vec![x; 16]),
        1 => Just(vec![0.0; 16]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_instruction_set_gives_the_scalar_bytes(
        (row_len, rows, weights) in (1usize..=3, 1usize..=7).prop_flat_map(|(blocks, rows)| (
            Just(256 * blocks),
            prop::collection::vec(sixteen(), 16 * blocks * rows),
            prop::collection::vec(prop_oneof![1 => Just(0.0f32), 9 => 0.0f32..50.0], 256 * blocks),
        )),
    ) {
        assert_all_alike(&rows.concat(), row_len, &weights);
    }
}

/// Rows with numbers that are none give the same bytes everywhere, whatever they are.
#[test]
fn strange_numbers_give_one_answer() {
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45];
    let weights: Vec<f32> = (0..512).map(|i| (i % 7) as f32).collect();
    for name in TYPES {
        for (k, x) in strange.iter().enumerate() {
            let number = |i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0;
            let row =
                |every: usize| (0..512).map(move |i| if i % every == 0 { *x } else { number(i) });
            let rows: Vec<f32> = row(1).chain(row(3 + k)).chain(row(100)).collect();
            for weights in [None, Some(&weights[..])] {
                let mut answers = Isa::available().into_iter().map(|isa| {
                    let bytes = QuantType::today(name).unwrap().row_bytes(512).unwrap() as usize;
                    let mut out = vec![0; 3 * bytes];
                    encoder(name).unwrap()(isa, &rows, 512, weights, &mut out);
                    out
                });
                let first = answers.next().unwrap();
                assert!(answers.all(|answer| answer == first), "{name}, {x}");
            }
        }
    }
}
