//! The types of 32 numbers a block: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Without importance each block is a division by its range (ggml `quantize_row_q8_0_ref` and its
//! kin): memory speed, so the lanes are the numbers of one block.

use super::float::half_from_f32;
use crate::per_isa;
use crate::quant::isa::Isa;

/// The numbers of a block.
const BLOCK: usize = 32;

/// Rounds to the nearest integer, halves away from zero, as C `roundf`, then keeps the low eight bits.
///
/// Adding the number just below one half, not one half, keeps 0.49999997 from becoming 1.
#[inline(always)]
fn round_to_byte(x: f32) -> u8 {
    low_byte(x + 0.499_999_97_f32.copysign(x))
}

/// The low byte of the integer part; 0 for what no `i32` holds, as the processor's conversion gives.
#[inline(always)]
fn low_byte(x: f32) -> u8 {
    (if x < 2_147_483_648.0 { x as i32 } else { 0 }) as u8
}

/// The largest magnitude; NaN counts as nothing.
#[inline(always)]
fn largest_magnitude(block: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for half in block.as_chunks::<16>().0 {
        for (lane, x) in lanes.iter_mut().zip(half) {
            *lane = if *lane < x.abs() { x.abs() } else { *lane };
        }
    }
    lanes.iter().fold(0.0, |a, b| if a < *b { *b } else { a })
}

#[inline(always)]
fn q8_0_body(rows: &[f32], out: &mut [u8]) {
    for (block, bytes) in rows.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<34>().0) {
        let d = largest_magnitude(block) / 127.0;
        let id = if d != 0.0 { 1.0 / d } else { 0.0 };
        bytes[..2].copy_from_slice(&half_from_f32(d).to_le_bytes());
        for (byte, x) in bytes[2..].iter_mut().zip(block) {
            *byte = round_to_byte(x * id);
        }
    }
}

per_isa! {
    fn q8_0_kernel(rows: &[f32], out: &mut [u8]) = q8_0_body;
}

/// Q8_0: `d = max|x| / 127`, `q = round(x / d)`. Importance plays no part.
pub fn encode_q8_0(isa: Isa, rows: &[f32], _: usize, _: Option<&[f32]>, out: &mut [u8]) {
    q8_0_kernel(isa, rows, out);
}
