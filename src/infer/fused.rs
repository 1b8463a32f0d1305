//! One vector times rows that are decoded in registers: how text is written, one token at a time.
//!
//! Each kernel decodes a block of four rows at once and multiplies it on the spot, in the order of
//! [`super::dot`]; a row's weights are read once from memory and never written anywhere. Types
//! without a kernel here are decoded to a small buffer first, with the same result.

#![allow(clippy::needless_range_loop, reason = "see dot::tile")]

use super::dot::{LANES, add, total};
use crate::{
    per_isa,
    quant::{
        QuantType,
        decode::{kquant, legacy, plain},
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

#[inline(always)]
fn multiply<const BYTES: usize, const WEIGHTS: usize>(
    isa: Isa,
    rows: &[u8],
    row_bytes: usize,
    x: &[f32],
    out: &mut [f32],
    decode: impl Fn(Isa, &[u8; BYTES], &mut [f32; WEIGHTS]),
) {
    let height = rows.len() / row_bytes;
    let row = |r: usize| rows[r * row_bytes..(r + 1) * row_bytes].as_chunks::<BYTES>().0;
    let x = x.as_chunks::<WEIGHTS>().0;
    let mut done = 0;
    while done + ROWS <= height {
        let mut rows: [&[[u8; BYTES]]; ROWS] = [&[]; ROWS];
        for r in 0..ROWS {
            rows[r] = &row(done + r)[..x.len()];
        }
        let mut sums = [[0f32; LANES]; ROWS];
        for (b, x) in x.iter().enumerate() {
            for r in 0..ROWS {
                sums[r] = add_block(isa, sums[r], &rows[r][b], x, &decode);
            }
        }
        for r in 0..ROWS {
            out[done + r] = total(sums[r]);
        }
        done += ROWS;
    }
    for r in done..height {
        let mut sum = [0f32; LANES];
        for (block, x) in row(r).iter().zip(x) {
            sum = add_block(isa, sum, block, x, &decode);
        }
        out[r] = total(sum);
    }
}

#[inline(always)]
fn add_block<const BYTES: usize, const WEIGHTS: usize>(
    isa: Isa,
    mut sum: [f32; LANES],
    block: &[u8; BYTES],
    x: &[f32; WEIGHTS],
    decode: &impl Fn(Isa, &[u8; BYTES], &mut [f32; WEIGHTS]),
) -> [f32; LANES] {
    let mut weights = [0f32; WEIGHTS];
    decode(isa, block, &mut weights);
    for (w, x) in weights.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
        sum = add(sum, w, x);
    }
    sum
}

/// Sixteen plain numbers as a block.
#[inline(always)]
fn sixteen<const BYTES: usize, const EACH: usize>(
    isa: Isa,
    block: &[u8; BYTES],
    out: &mut [f32; LANES],
    one: impl Fn(Isa, &[u8; EACH], &mut [f32; 1]),
) {
    for (out, bytes) in out.as_chunks_mut::<1>().0.iter_mut().zip(block.as_chunks::<EACH>().0) {
        one(isa, bytes, out);
    }
}

macro_rules! fused {
    ($($name:literal $run:ident $body:ident $bytes:literal $weights:literal = $decode:expr;)+) => {
        const KERNELS: &[(&str, Fused)] = &[$(($name, $run)),+];
        $(
            #[inline(always)]
            fn $body(isa: Isa, rows: &[u8], row_bytes: usize, x: &[f32], out: &mut [f32]) {
                multiply::<$bytes, $weights>(isa, rows, row_bytes, x, out, $decode);
            }
            per_isa! { fn $run(rows: &[u8], row_bytes: usize, x: &[f32], out: &mut [f32]) = $body[isa]; }
        )+
    };
}

fused! {
    "f16" f16 f16_body 32 16 = Isa::halves;
    "bf16" bf16 bf16_body 32 16 = |isa, b: &[u8; 32], out: &mut [f32; 16]| sixteen(isa, b, out, plain::bf16);
    "f32" f32 f32_body 64 16 = |isa, b: &[u8; 64], out: &mut [f32; 16]| sixteen(isa, b, out, plain::f32);
    "q4_0_pairs_f32" q4_0_pairs q4_0_pairs_body 20 32 = legacy::q4_0_pairs_f32;
    "q4_0_halves_f16" q4_0 q4_0_body 18 32 = legacy::q4_0_halves_f16;
    "q4_1_halves_f16" q4_1 q4_1_body 20 32 = legacy::q4_1_halves_f16;
    "q5_0_halves" q5_0 q5_0_body 22 32 = legacy::q5_0_halves;
    "q5_1_halves" q5_1 q5_1_body 24 32 = legacy::q5_1_halves;
    "q8_0_f16" q8_0 q8_0_body 34 32 = legacy::q8_0_f16;
    "q4_k_256" q4_k q4_k_body 144 256 = kquant::q4_k_256;
    "q6_k_256" q6_k q6_k_body 210 256 = kquant::q6_k_256;
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
                let expected: Vec<u32> =
                    weights.chunks(cols).map(|row| dot::dot(row, &x).to_bits()).collect();
                for isa in Isa::available() {
                    let mut out = vec![0.0; height];
                    fused(isa, &rows, row_bytes, &x, &mut out);
                    let bits: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
                    assert_eq!(bits, expected, "{quant} on {}", isa.name());
                }
            }
        }
        assert_eq!(KERNELS.len(), 11);
    }
}
