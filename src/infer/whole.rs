//! Rows of K-quants times one vector, in whole numbers: what every new token costs.
//!
//! A super-block is `d` times whole numbers `v` (stored ones times their scales) less `dmin` times another
//! for every 16 weights (`quant::decode::whole`). The vector is brought to whole numbers too: a power of two `step` for
//! each 256 numbers, such that the largest of them has 28 bits, in two parts of which products with
//! `v` can be summed in 32 bits:
//!
//! ```text
//! x = step * (high * 2^14 + low)
//! sum(w * x) = d * step * (sum(v * high) * 2^14 + sum(v * low)) - dmin * sum(min * sum_of_16(x))
//! ```
//!
//! That keeps every bit of the numbers next to the largest and more of the others than a sum in `f32`
//! does; it rounds nothing before the end of a super-block, and costs a third of decoding each weight.
//! Sums of whole numbers are the same in every order; lane `l` has weights `2l` and `2l + 1` of each 32,
//! and super-blocks are added from left to right: threads and instruction sets change no bit. Many vectors
//! at once share decoded rows instead ([`super::panel`]), in the order of sums of every other type.

use super::dot::{LANES, total};
use crate::{
    per_isa,
    quant::{
        QuantType,
        decode::whole::{Q2K, Q3K, Q4K, Q5K, Q6K, SUPER, Whole, even_first},
        isa::Isa,
    },
};

/// One super-block's part of a vector.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Pack {
    high: [i16; SUPER],
    low: [i16; SUPER],
    /// Sums of 16 numbers each, those of even blocks first.
    sums: [f32; LANES],
    step: f32,
}

/// Multiplies whole rows of `row_bytes` bytes with a vector.
pub type Multiply = fn(isa: Isa, rows: &[u8], row_bytes: usize, x: &[Pack], out: &mut [f32]);

const KERNELS: &[(&str, Multiply)] = &[
    ("q2_k_256", q2_k),
    ("q3_k_256", q3_k),
    ("q4_k_256", q4_k),
    ("q5_k_256", q5_k),
    ("q6_k_256", q6_k),
];

/// The kernel for rows of `cols` weights of type `quant`, where there is one.
pub fn kernel(quant: QuantType, cols: usize) -> Option<Multiply> {
    let name = quant.layout().kernel;
    let found = KERNELS.iter().find(|(known, _)| *known == name).map(|(_, kernel)| *kernel);
    found.filter(|_| cols.is_multiple_of(SUPER))
}

/// A vector in whole numbers; a part that is not finite makes NaN of its products.
pub fn lay_out(isa: Isa, x: &[f32]) -> Vec<Pack> {
    x.as_chunks().0.iter().map(|part| pack_of(isa, part)).collect()
}

per_isa! {
    fn pack_of(x: &[f32; SUPER]) -> Pack = pack;
    fn q2_k(rows: &[u8], row_bytes: usize, x: &[Pack], out: &mut [f32]) = multiply::<Q2K, 84>[isa];
    fn q3_k(rows: &[u8], row_bytes: usize, x: &[Pack], out: &mut [f32]) = multiply::<Q3K, 110>[isa];
    fn q4_k(rows: &[u8], row_bytes: usize, x: &[Pack], out: &mut [f32]) = multiply::<Q4K, 144>[isa];
    fn q5_k(rows: &[u8], row_bytes: usize, x: &[Pack], out: &mut [f32]) = multiply::<Q5K, 176>[isa];
    fn q6_k(rows: &[u8], row_bytes: usize, x: &[Pack], out: &mut [f32]) = multiply::<Q6K, 210>[isa];
}

/// A part of a vector in whole numbers.
///
/// ```text
/// most      the largest magnitude, exponent e        step = 2^(e - 27), so that most / step is below 2^28
/// whole     x / step, cut                            29 bits with its sign
/// high      (whole + 2^13) >> 14                     -2^14 ..= 2^14
/// low       whole - (high << 14)                     -2^13 .. 2^13
/// ```
///
/// Sums of 16 numbers, which minima meet, are made of the numbers themselves.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "28 bits, cut into two halves that fit")]
fn pack(x: &[f32; SUPER]) -> Pack {
    let most = x.iter().fold(0, |most: u32, x| most.max(x.to_bits() << 1 >> 1));
    // The exponent of `most` as it is stored, and so that `step` and its inverse have one too.
    let exponent = (most >> 23).max(28);
    let (step, inverse) = match exponent {
        0..255 => (f32::from_bits((exponent - 27) << 23), f32::from_bits((281 - exponent) << 23)),
        _ => (f32::NAN, 0.0),
    };
    let mut pack = Pack { high: [0; SUPER], low: [0; SUPER], sums: [0.0; LANES], step };
    for ((high, low), x) in pack.high.iter_mut().zip(&mut pack.low).zip(x) {
        let whole = (x * inverse) as i32;
        let above = (whole + (1 << 13)) >> 14;
        (*high, *low) = (above as i16, (whole - (above << 14)) as i16);
    }
    for (i, x) in x.as_chunks::<LANES>().0.iter().enumerate() {
        pack.sums[even_first(i)] = total(*x);
    }
    pack
}

/// A super-block of a row, decoded.
///
/// `weight = d * v - dmin * min`: `v` is a stored number times its scale, `mins` has one for each 16 numbers.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block {
    v: [i16; SUPER],
    d: f32,
    dmin: f32,
    mins: [f32; LANES],
}

impl Block {
    const ZERO: Block = Block { v: [0; SUPER], d: 0.0, dmin: 0.0, mins: [0.0; LANES] };

    #[inline(always)]
    fn fill<W: Whole<BYTES, SUPER>, const BYTES: usize>(&mut self, isa: Isa, bytes: &[u8; BYTES]) {
        let head = W::head(isa, bytes);
        W::words(isa, bytes, &head, &mut self.v);
        (self.d, self.dmin) = (head.d, head.dmin);
        if W::MINIMA {
            self.mins = isa.numbers(head.mins, 0);
        }
    }
}

/// Bytes between what is read and what is asked for.
const AHEAD: usize = 2048;

#[inline(always)]
fn multiply<W: Whole<BYTES, SUPER>, const BYTES: usize>(
    isa: Isa,
    rows: &[u8],
    row_bytes: usize,
    x: &[Pack],
    out: &mut [f32],
) {
    let mut block = Block::ZERO;
    for (row, out) in rows.chunks_exact(row_bytes).zip(out) {
        let mut lanes = [0.0; LANES];
        for (bytes, x) in row.as_chunks().0.iter().zip(x) {
            isa.prefetch(bytes, AHEAD);
            block.fill::<W, BYTES>(isa, bytes);
            add_products(isa, &block, x, &mut lanes);
        }
        *out = total(lanes);
    }
}

/// Adds the products of one super-block to `lanes`.
#[inline(always)]
fn add_products(isa: Isa, block: &Block, x: &Pack, lanes: &mut [f32; LANES]) {
    let (mut high, mut low) = ([0i32; LANES], [0i32; LANES]);
    let parts = x.high.as_chunks().0.iter().zip(x.low.as_chunks().0);
    for (v, (x_high, x_low)) in block.v.as_chunks().0.iter().zip(parts) {
        isa.add_pairs(&mut high, v, x_high);
        isa.add_pairs(&mut low, v, x_low);
    }
    let mut whole = [0.0; LANES];
    for l in 0..LANES {
        whole[l] = high[l] as f32 * 16384.0 + low[l] as f32;
    }
    let mut least = [0.0; LANES];
    isa.add_product(&mut least, &block.mins, &x.sums);
    isa.add_product(lanes, &[block.d * x.step; LANES], &whole);
    isa.add_product(lanes, &[-block.dmin; LANES], &least);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::decode_rows;

    /// Every byte, halves that are finite.
    fn rows_of(quant: QuantType, height: usize, cols: usize) -> Vec<u8> {
        let row_bytes = quant.row_bytes(cols as u64).unwrap() as usize;
        let mut rows: Vec<u8> =
            (0..height * row_bytes).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
        let block = quant.row_bytes(SUPER as u64).unwrap() as usize;
        let halves: &[usize] = match quant.layout().kernel {
            "q2_k_256" => &[80, 82],
            "q3_k_256" => &[108],
            "q6_k_256" => &[208],
            _ => &[0, 2],
        };
        for block in rows.chunks_mut(block) {
            for at in halves {
                // An exponent below the largest.
                block[at + 1] &= 0xbf;
            }
        }
        rows
    }

    #[test]
    fn products_are_those_of_the_decoded_weights() {
        let (height, cols, count) = (19, 512, 18);
        let number = |i: usize| ((i * 7919) % 1013) as f32 / 97.0 - 5.0;
        let xs: Vec<f32> =
            (0..count * cols).map(|i| number(i) * 2f32.powi((i * 31 % 40) as i32 - 20)).collect();
        let mut seen = 0;
        for quant in QuantType::all() {
            let Some(multiply) = kernel(quant, cols) else { continue };
            seen += 1;
            let rows = rows_of(quant, height, cols);
            let row_bytes = rows.len() / height;
            let mut weights = vec![0.0; height * cols];
            decode_rows(quant, Isa::PORTABLE, &rows, cols, &mut weights);
            let run = |isa, x: &[f32]| {
                let mut out = vec![0.0; height];
                multiply(isa, &rows, row_bytes, &lay_out(isa, x), &mut out);
                out
            };
            let bits = |out: &[f32]| out.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            for x in xs.chunks(cols) {
                let products = run(Isa::PORTABLE, x);
                for (row, product) in weights.chunks(cols).zip(&products) {
                    let terms = || row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    let apart = (f64::from(*product) - exact).abs();
                    assert!(apart <= 1e-6 * size, "{quant}: {product} for {exact} of {size}");
                }
                for isa in Isa::available() {
                    assert_eq!(bits(&run(isa, x)), bits(&products), "{quant} on {}", isa.name());
                }
            }
        }
        assert_eq!(seen, KERNELS.len());
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let quant = QuantType::all().find(|q| q.layout().kernel == "q6_k_256").unwrap();
        let mut row = vec![0u8; 210]; // every number is -32
        row[192..208].fill(0x80); // times -128
        row[208..].copy_from_slice(&[0, 0x3c]); // times 1
        let multiply = kernel(quant, SUPER).unwrap();
        for x in [1.999_999_9f32, 1e30, 1e-30] {
            for isa in Isa::available() {
                let mut out = [0.0];
                multiply(isa, &row, 210, &lay_out(isa, &[x; SUPER]), &mut out);
                assert!((out[0] / (x * 4096.0 * 256.0) - 1.0).abs() < 1e-6, "{} of {x}", out[0]);
            }
        }
        for x in [f32::NAN, f32::INFINITY] {
            let mut out = [0.0];
            multiply(Isa::best(), &row, 210, &lay_out(Isa::best(), &[x; SUPER]), &mut out);
            assert!(out[0].is_nan());
        }
    }
}
