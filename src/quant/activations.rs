//! Activations rounded as ggml's programs round them before they meet quantized weights.
//!
//! Those programs multiply integers with integers. What comes out is the product of the weights with activations
//! that were rounded first, but for the order of its float32 sums, so rounding is all that has to be done alike:
//!
//! ```text
//! Q8_0   of 32 numbers  d = max |x| / 127,  q = round(x * (127 / max |x|)),  x' = half(d) * q
//! Q8_1   the same, and  s = half(d * sum q) in place of half(d) * sum q where it meets the minimum m of weights
//!                       that are d * w + m
//! Q8_K   of a super-block, with the first number of the largest magnitude, of whichever sign:
//!                       i = -127 / max,  q = min(round(x * i), 127),  x' = (1 / i) * q
//! ```
//!
//! Halves of a unit go to the even neighbour. Sources: ggml, arch/x86/quants.c: `quantize_row_q8_0`,
//! `quantize_row_q8_1` (with AVX2; a build without takes 1 / d for 127 / max and halves away from zero);
//! ggml-quants.c: `quantize_row_q8_K_ref`.

use super::{
    QuantType,
    encode::float::bf16_from_f32,
    half::{f32_from_half, half_from_f32},
    isa::Isa,
};
use crate::{
    format::block::{Activations, Kind, Storage},
    per_isa,
};

/// Numbers of a block of Q8_0 and Q8_1.
pub const BLOCK: usize = 32;

/// Rounds activations that rows of type `quant` are multiplied with: `xs` is rows of them, one after another.
/// Where the weights have a minimum that meets the stated sum of a block, `beside` becomes what that sum has
/// more than the numbers of the block together, a number for each block of 32; otherwise it becomes empty.
pub fn round(isa: Isa, quant: QuantType, xs: &mut [f32], beside: &mut Vec<f32>) {
    let Some(activations) = quant.block().activations else { return beside.clear() };
    let stated = activations == Activations::Q8_1;
    beside.resize(if stated { xs.len() / BLOCK } else { 0 }, 0.0);
    match activations {
        Activations::F16 => halves(isa, xs),
        Activations::Bf16 => upper_halves(isa, xs),
        Activations::Q8_0 | Activations::Q8_1 => blocks(isa, xs, true, beside),
        Activations::Q8_0F32 => blocks(isa, xs, false, beside),
        Activations::Q8K => super_blocks(isa, xs, quant.layout().elements),
    }
}

/// The minimum of each unit of a row of type `quant`.
pub fn minima(quant: QuantType, row: &[u8]) -> Vec<f32> {
    let layout = quant.layout();
    let (units, found) =
        (row.len() / layout.bytes, layout.fields.iter().find(|(_, field)| field.name == "m"));
    let Some((at, field)) = found else { return Vec::new() };
    let width = field.kind.bytes();
    let (first, step) = match layout.storage {
        Storage::Block => (*at, layout.bytes),
        Storage::Planar => (at * units, width),
    };
    let number = |bytes: &[u8]| match field.kind {
        Kind::F16 => bytes.first_chunk().map(|b| f32_from_half(u16::from_le_bytes(*b))),
        _ => bytes.first_chunk().map(|b| f32::from_le_bytes(*b)),
    };
    row[first..].chunks(step).take(units).filter_map(number).collect()
}

#[inline(always)]
fn half_body(xs: &mut [f32]) {
    xs.iter_mut().for_each(|x| *x = f32_from_half(half_from_f32(*x)));
}

#[inline(always)]
fn bf16_body(xs: &mut [f32]) {
    xs.iter_mut().for_each(|x| *x = f32::from_bits(u32::from(bf16_from_f32(*x)) << 16));
}

#[inline(always)]
fn block_body(xs: &mut [f32], half: bool, beside: &mut [f32]) {
    for (b, x) in xs.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
        let d = most / 127.0;
        let turned = if most == 0.0 { 0.0 } else { 127.0 / most };
        let scale = if half { f32_from_half(half_from_f32(d)) } else { d };
        let mut sum = 0.0; // of at most 32 * 127, exactly
        for x in x {
            let q = (*x * turned).round_ties_even();
            sum += q;
            *x = scale * q;
        }
        if let Some(beside) = beside.get_mut(b) {
            *beside = f32_from_half(half_from_f32(d * sum)) - scale * sum;
        }
    }
}

#[inline(always)]
fn super_body(xs: &mut [f32], elements: usize) {
    for x in xs.chunks_exact_mut(elements) {
        let mut most = 0f32;
        for x in x.iter() {
            if x.abs() > most.abs() {
                most = *x;
            }
        }
        if most == 0.0 {
            continue;
        }
        let turned = -127.0 / most;
        let scale = 1.0 / turned;
        for x in x {
            *x = scale * (turned * *x).round_ties_even().min(127.0);
        }
    }
}

per_isa! {
    fn halves(xs: &mut [f32]) = half_body;
    fn upper_halves(xs: &mut [f32]) = bf16_body;
    fn blocks(xs: &mut [f32], half: bool, beside: &mut [f32]) = block_body;
    fn super_blocks(xs: &mut [f32], elements: usize) = super_body;
}
