use super::*;
use crate::{
    format::block::{Activations, Kind},
    quant::{activations, decode_rows, half::f32_from_half},
};

/// Rows of every byte, with halves that are finite.
fn rows_of(quant: QuantType, height: usize, cols: usize) -> Vec<u8> {
    let row_bytes = quant.row_bytes(cols as u64).unwrap() as usize;
    let block = quant.layout().bytes;
    let mut rows: Vec<u8> =
        (0..height * row_bytes).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
    for (at, field) in &quant.layout().fields {
        if matches!(field.kind, Kind::F16) {
            rows.chunks_mut(block).for_each(|block| block[at + 1] &= 0xbb);
        }
    }
    rows.chunks_mut(block).for_each(|block| match quant.layout().kernel {
        "mxfp4" => block[0] = 120 + block[0] % 8,
        // The top nibbles of its scales are a half.
        "iq1_m" => block[55] &= 0xbf,
        _ => {}
    });
    rows
}

#[test]
fn sums_of_whole_numbers_are_those_of_rounded_activations() {
    let mut seen = 0;
    for quant in QuantType::all() {
        let (cols, height) = (768, 21);
        let states = quant.block().activations == Some(Activations::Q8_1);
        let Some(kernel) = kernel(quant, cols) else {
            assert!(!states, "{quant}: only these kernels know of stated sums");
            continue;
        };
        seen += 1;
        let row_bytes = quant.row_bytes(cols as u64).unwrap() as usize;
        let rows = rows_of(quant, height, cols);
        let mut weights = vec![0.0; height * cols];
        decode_rows(quant, Isa::PORTABLE, &rows, cols, &mut weights);
        for count in [2, 4, 7, 13, 17] {
            let x = |i: usize| ((i * 7919 % 1013) as f32 / 97.0 - 5.0) * (1 + i % 3) as f32;
            let mut xs: Vec<f32> = (0..count * cols).map(x).collect();
            let codes: Vec<Codes> =
                xs.chunks(cols).map(|x| kernel.round(Isa::PORTABLE, quant, x)).collect();
            let groups = kernel.groups(Isa::PORTABLE, quant, &xs, cols);
            let mut one = vec![0.0; height];
            (kernel.one)(Isa::PORTABLE, &rows, row_bytes, &codes[1], &mut one);
            let borrowed: Vec<&[u8]> = rows.chunks(row_bytes).collect();
            let run = |isa| {
                let mut out = vec![f32::NAN; height * count];
                let sums = vec![[[f32::NAN; STRIP]; GROUP]; 999];
                let mut room = Room { sums, ..Room::default() };
                let mut places: Vec<&mut [f32]> = out.chunks_mut(height).collect();
                (kernel.many)(isa, &borrowed, &groups, &mut places, &mut room);
                out.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
            };
            let all = run(Isa::PORTABLE);
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            for tiles in Isa::available().into_iter().filter_map(Isa::tiles) {
                let groups = kernel.groups(Isa::best(), quant, &xs, cols);
                let mut out = vec![f32::NAN; height * count];
                let mut room = tiled::Room::default();
                // What an earlier call left there does no harm, and twice is the same.
                for _ in 0..2 {
                    let mut places: Vec<&mut [f32]> = out.chunks_mut(height).collect();
                    (kernel.tiled)(tiles, &borrowed, &groups, &mut places, &mut room);
                }
                let out: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
                assert_eq!(out, all, "{quant}, {count} by tiles");
            }
            let mut stated = vec![0.0; count];
            for isa in Isa::available() {
                assert_eq!(run(isa), all, "{quant}, {count} on {}", isa.name());
                let mut out = vec![0.0; height];
                (kernel.one)(isa, &rows, row_bytes, &codes[1], &mut out);
                assert_eq!(out, one, "{quant}, one on {}", isa.name());
                for (x, codes) in xs.chunks(cols).zip(&codes) {
                    let other = kernel.round(isa, quant, x);
                    assert_eq!((&other.q, &other.scales), (&codes.q, &codes.scales));
                }
            }
            for (t, x) in xs.chunks_mut(cols).enumerate() {
                activations::round(Isa::PORTABLE, quant, x);
                // What the stated sum of each block has more than its numbers together.
                let blocks = codes[t].q.chunks(activations::BLOCK).filter(|_| states);
                let sums = blocks.map(|q| q.iter().map(|q| f32::from(*q)).sum::<f32>());
                let beside: Vec<f32> = sums
                    .zip(codes[t].scales.iter().zip(&codes[t].stated))
                    .map(|(sum, (scale, stated))| stated - scale * sum)
                    .collect();
                for r in 0..height {
                    let row = &weights[r * cols..][..cols];
                    let terms = row.iter().zip(&*x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let size: f64 = terms.clone().map(f64::abs).sum();
                    // The minimum is the second half of a block.
                    let row = rows[r * row_bytes..][..row_bytes].chunks(quant.layout().bytes);
                    let minima = row.map(|b| f32_from_half(u16::from_le_bytes([b[2], b[3]])));
                    let products = minima.zip(&beside).map(|(m, b)| f64::from(m) * f64::from(*b));
                    let more: f64 = products.sum();
                    stated[t] += more.abs();
                    let expected = terms.sum::<f64>() + more;
                    let mut found = vec![f32::from_bits(all[t * height + r])];
                    if t == 1 {
                        found.push(one[r]);
                    }
                    for found in found {
                        let apart = (f64::from(found) - expected).abs();
                        assert!(apart <= 1e-6 * size, "{quant}: {found} for {expected} of {size}");
                    }
                }
            }
            // What blocks state differs from what their numbers sum to, else nothing would be shown.
            assert!(!states || stated.iter().all(|more| *more > 0.0), "{quant}");
        }
    }
    assert_eq!(seen, KERNELS.len());
}

#[test]
fn products_of_activations_that_are_not_finite_are_not() {
    for quant in QuantType::all() {
        let Some(kernel) = kernel(quant, SUPER) else { continue };
        let rows = rows_of(quant, 1, SUPER);
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; SUPER];
            x[77] = wrong;
            let codes = kernel.round(Isa::best(), quant, &x);
            let mut out = [0.0; 2];
            (kernel.one)(Isa::best(), &rows, rows.len(), &codes, &mut out[..1]);
            assert!(!out[0].is_finite(), "{quant}, {wrong}: {out:?}");
            let group = kernel.groups(Isa::best(), quant, [x; 2].as_flattened(), SUPER);
            let mut places: Vec<&mut [f32]> = out.chunks_mut(1).collect();
            (kernel.many)(Isa::best(), &[&rows], &group, &mut places, &mut Room::default());
            assert!(!out.iter().any(|x| x.is_finite()), "{quant}, {wrong}: {out:?}");
        }
    }
}
