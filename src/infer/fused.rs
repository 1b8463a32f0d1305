//! One vector times rows that are decoded in registers: how text is written, one token at a time.
//!
//! A token needs every weight once, so memory decides: 4 bits a weight are read, 32 are not written and read again.
//!
//! ```text
//! for each 4 rows:  for each block b:  w[r] = decode(row r, b)          16 lanes at a time, in registers
//!                                      sum[r] += w[r] * x[b]            four sums, for each waits for itself
//! ```
//!
//! Each kernel decodes a block of four rows at once and multiplies it on the spot, in the order of
//! [`super::dot`]; a row's weights are read once from memory and never written anywhere. Types
//! without a kernel here are decoded to a small buffer first, with the same result.

#![allow(clippy::needless_range_loop, reason = "see dot::tile")]

use super::dot::{LANES, total};
use crate::{
    per_isa,
    quant::{
        QuantType,
        decode::{iquant, legacy, levels, trits},
        isa::Isa,
    },
};

/// Multiplies whole rows of `row_bytes` bytes with `x`.
pub type Fused = fn(isa: Isa, rows: &[u8], row_bytes: usize, x: &[f32], out: &mut [f32]);

/// The kernel for rows of `cols` weights of type `quant`, where there is one.
pub fn kernel(quant: QuantType, cols: usize) -> Option<Fused> {
    let name = quant.layout().kernel;
    let found = KERNELS.iter().find(|(known, _)| *known == name).map(|(_, kernel)| *kernel);
    found.filter(|_| cols.is_multiple_of(LANES))
}

/// Rows multiplied side by side, so that no addition waits for the one before.
const ROWS: usize = 4;

/// A type whose blocks are decoded here. A trait, for a function that is handed over is not compiled
/// for the instruction set of the one that calls it.
trait Block<const BYTES: usize, const WEIGHTS: usize> {
    fn decode(isa: Isa, block: &[u8; BYTES], out: &mut [f32; WEIGHTS]);
}

/// Multiplies rows with one vector, [`ROWS`] side by side.
///
/// `rows` is a whole number of rows of `row_bytes`; `out` has a product for each. `x` is as long as a row, a whole
/// number of blocks.
#[inline(always)]
fn multiply<B: Block<BYTES, WEIGHTS>, const BYTES: usize, const WEIGHTS: usize>(
    isa: Isa,
    rows: &[u8],
    row_bytes: usize,
    x: &[f32],
    out: &mut [f32],
) {
    let height = rows.len() / row_bytes;
    let row = |r: usize| rows[r * row_bytes..(r + 1) * row_bytes].as_chunks::<BYTES>().0;
    let x = x.as_chunks::<WEIGHTS>().0;
    let mut weights = [[0f32; WEIGHTS]; ROWS];
    for first in (0..height).step_by(ROWS) {
        // At the end rows are repeated, so that there is one way through.
        // Such a row is computed twice, with the same result.
        let place = |r: usize| (first + r).min(height - 1);
        let mut rows: [&[[u8; BYTES]]; ROWS] = [&[]; ROWS];
        for r in 0..ROWS {
            rows[r] = &row(place(r))[..x.len()];
        }
        let mut sums = [[0f32; LANES]; ROWS];
        for (b, x) in x.iter().enumerate() {
            for r in 0..ROWS {
                // Rows are short and read side by side: no pattern that the processor would see.
                isa.prefetch(&rows[r][b], ROWS * row_bytes);
                B::decode(isa, &rows[r][b], &mut weights[r]);
            }
            for (p, x) in x.as_chunks::<LANES>().0.iter().enumerate() {
                for r in 0..ROWS {
                    isa.add_product(&mut sums[r], &weights[r].as_chunks().0[p], x);
                }
            }
        }
        for r in 0..ROWS {
            out[place(r)] = total(sums[r]);
        }
    }
}

/// The upper half of a float32, whose lower half is zero.
#[inline(always)]
fn bf16(_: Isa, block: &[u8; 32], out: &mut [f32; LANES]) {
    for (out, bytes) in out.iter_mut().zip(block.as_chunks().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// Floats as they are; a block is a line of the cache.
#[inline(always)]
fn f32(_: Isa, block: &[u8; 64], out: &mut [f32; LANES]) {
    for (out, bytes) in out.iter_mut().zip(block.as_chunks().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

macro_rules! fused {
    ($($name:literal $kernel:ident $bytes:literal $weights:literal = $decode:path;)+) => {
        const KERNELS: &[(&str, Fused)] = &[$(($name, kernels::$kernel::run)),+];

        mod kernels {
            $(pub(super) mod $kernel {
                use super::super::*;
                struct Of;
                impl Block<$bytes, $weights> for Of {
                    #[inline(always)]
                    fn decode(isa: Isa, block: &[u8; $bytes], out: &mut [f32; $weights]) {
                        $decode(isa, block, out);
                    }
                }
                per_isa! {
                    pub fn run(rows: &[u8], row_bytes: usize, x: &[f32], out: &mut [f32])
                        = multiply::<Of, $bytes, $weights>[isa];
                }
            })+
        }
    };
}

fused! {
    "f16" f16_rows 32 16 = Isa::halves;
    "bf16" bf16_rows 32 16 = bf16;
    "f32" f32_rows 64 16 = f32;
    "q4_0_pairs_f32" q4_0_pairs 20 32 = legacy::q4_0_pairs_f32;
    "q4_0_halves_f16" q4_0 18 32 = legacy::q4_0_halves_f16;
    "q4_1_halves_f16" q4_1 20 32 = legacy::q4_1_halves_f16;
    "q5_0_halves" q5_0 22 32 = legacy::q5_0_halves;
    "q5_1_halves" q5_1 24 32 = legacy::q5_1_halves;
    "q8_0_f16" q8_0 34 32 = legacy::q8_0_f16;
    "iq4_nl" iq4_nl 18 32 = levels::iq4_nl;
    "iq4_xs" iq4_xs 136 256 = levels::iq4_xs;
    "mxfp4" mxfp4 17 32 = levels::mxfp4;
    "iq1_s" iq1_s 50 256 = iquant::iq1_s;
    "iq1_m" iq1_m 56 256 = iquant::iq1_m;
    "iq2_xxs" iq2_xxs 66 256 = iquant::iq2_xxs;
    "iq2_xs" iq2_xs 74 256 = iquant::iq2_xs;
    "iq2_s" iq2_s 82 256 = iquant::iq2_s;
    "iq3_xxs" iq3_xxs 98 256 = iquant::iq3_xxs;
    "iq3_s" iq3_s 110 256 = iquant::iq3_s;
    "tq1_0" tq1_0 54 256 = trits::tq1_0;
    "tq2_0" tq2_0 66 256 = trits::tq2_0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{infer::dot, quant::decode_rows};

    #[test]
    fn fused_and_decoded_give_the_same_bits() {
        for quant in QuantType::all() {
            let cols = 512;
            let Some(fused) = kernel(quant, cols) else { continue };
            let row_bytes = quant.row_bytes(cols as u64).unwrap() as usize;
            for height in [1, 4, 7] {
                // Bytes below 64 keep halves and floats finite.
                let rows: Vec<u8> = (0..height * row_bytes).map(|i| (i * 37 % 61) as u8).collect();
                let x: Vec<f32> = (0..cols).map(|i| ((i * 29) % 23) as f32 - 11.0).collect();
                let mut weights = vec![0.0; height * cols];
                decode_rows(quant, Isa::PORTABLE, &rows, cols, &mut weights);
                let expected: Vec<u32> = weights
                    .chunks(cols)
                    .map(|row| dot::dot(Isa::PORTABLE, row, &x).to_bits())
                    .collect();
                for isa in Isa::available() {
                    let mut out = vec![0.0; height];
                    fused(isa, &rows, row_bytes, &x, &mut out);
                    let bits: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
                    assert_eq!(bits, expected, "{quant} on {}", isa.name());
                }
            }
        }
        assert_eq!(KERNELS.len(), 21);
    }
}
