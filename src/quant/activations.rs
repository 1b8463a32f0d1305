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
    decode::whole::{SUPER, even_first},
    encode::float::bf16_from_f32,
    half::{f32_from_half, half_from_f32},
    isa::Isa,
};
use crate::{format::block::Activations, per_isa};

/// Numbers of a block of Q8_0 and Q8_1.
pub const BLOCK: usize = 32;

/// Rounds activations that rows of type `quant` are multiplied with: `xs` is rows of them, one after another. A stated
/// sum has no place among them: what meets one is multiplied as [`Codes`].
pub fn round(isa: Isa, quant: QuantType, xs: &mut [f32]) {
    match quant.block().activations {
        None => {}
        Some(Activations::F16) => halves(isa, xs),
        Some(Activations::Bf16) => upper_halves(isa, xs),
        Some(Activations::Q8_0 | Activations::Q8_1) => blocks(isa, xs, true),
        Some(Activations::Q8_0F32) => blocks(isa, xs, false),
        Some(Activations::Q8K) => super_blocks(isa, xs, quant.layout().elements),
    }
}

/// Every activation as the nearest half: rows of F16 are multiplied so.
#[inline(always)]
fn half_body(xs: &mut [f32]) {
    xs.iter_mut().for_each(|x| *x = f32_from_half(half_from_f32(*x)));
}

/// Every activation as the nearest bfloat16.
#[inline(always)]
fn bf16_body(xs: &mut [f32]) {
    xs.iter_mut().for_each(|x| *x = f32::from_bits(u32::from(bf16_from_f32(*x)) << 16));
}

/// The largest magnitude; NaN where there is one.
#[inline(always)]
fn most(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |most: u32, x| most.max(x.abs().to_bits())))
}

/// What the numbers of a block are multiplied with, to be at most 127, and what each whole number is then worth; both
/// zero where all numbers are.
#[inline(always)]
fn turned_block(x: &[f32; BLOCK]) -> [f32; 2] {
    let most = most(x);
    [if most == 0.0 { 0.0 } else { 127.0 / most }, most / 127.0]
}

/// The same of a super-block of Q8_K, where the first of the largest becomes -127.
///
/// With 64 numbers it becomes -128: the programs that had such super-blocks ended in early 2024, before llama.cpp took
/// -127 (k_quants.c of dadbed99e: `quantize_row_q8_K_reference`).
#[inline(always)]
fn turned_super(x: &[f32]) -> [f32; 2] {
    let most = most(x);
    if most == 0.0 {
        return [0.0; 2];
    }
    // Of the largest mostly one sign is there, which needs no search for the first.
    let is = |sign: f32| x.iter().fold(false, |found, x| found | (x.to_bits() == sign.to_bits()));
    let signed = match (is(most), is(-most)) {
        (true, false) => most,
        (false, true) => -most,
        _ => x.iter().find(|x| x.abs() == most).copied().unwrap_or(f32::NAN),
    };
    let least = if x.len() == 64 { -128.0 } else { -127.0 };
    let turned = least / signed;
    [turned, 1.0 / turned]
}

/// What a block's sum and its numbers are multiplied with.
///
/// In float32, or through f16 where the program keeps the scale of a block in one.
#[inline(always)]
fn scale_of(d: f32, half: bool) -> f32 {
    if half { f32_from_half(half_from_f32(d)) } else { d }
}

/// Blocks of 32 as Q8_0 restores them; `half` is whether the scale is an f16.
#[inline(always)]
fn block_body(xs: &mut [f32], half: bool) {
    for x in xs.as_chunks_mut::<BLOCK>().0 {
        let [turned, d] = turned_block(x);
        let scale = scale_of(d, half);
        x.iter_mut().for_each(|x| *x = (*x * turned).round_ties_even() * scale);
    }
}

/// Super-blocks of `elements` numbers, 256 or 64, as Q8_K restores them.
#[inline(always)]
fn super_body(xs: &mut [f32], elements: usize) {
    for x in xs.chunks_exact_mut(elements) {
        let [turned, scale] = turned_super(x);
        x.iter_mut().for_each(|x| *x = (turned * *x).round_ties_even().min(127.0) * scale);
    }
}

/// A vector in whole numbers of 8 bits and a sign, in blocks of 32 or 256: number `i` of block `b` is
/// `scales[b] * q[i]`.
///
/// Blocks of 32 are an even number: at the end there may be one of zeros.
///
/// What a product needs of a vector is here once, though many rows meet it:
///
/// ```text
/// w = d (q_w - bias) + m        a weight: stored number, bias, scale, minimum of its block
/// x = s q_x                     an activation
///
/// sum w x = d s (sum q_w q_x - bias sum q_x) + m s sum q_x
///                              `fours`         `stated`, `sums`
/// ```
#[derive(Clone, Debug, Default)]
pub struct Codes {
    /// The numbers.
    pub q: Vec<i8>,
    /// One for each block. Where an activation is not finite, nor is this, nor the product.
    pub scales: Vec<f32>,
    /// What the minimum of a block meets: the stated sum of Q8_1, zero elsewhere.
    pub stated: Vec<f32>,
    /// Of each super-block of Q8_K the sums of 16 numbers each, those of even blocks first; else empty.
    pub sums: Vec<[i16; 16]>,
    /// The sums of four numbers each, times the negative bias of the weights.
    pub fours: Vec<i32>,
}

impl Codes {
    /// Rounds activations as [`round`] does for rows of type `quant`, whose super-blocks have 256 weights, and
    /// whose weights are stored as `bias` more than they are. What was there before makes room.
    pub fn fill(&mut self, isa: Isa, quant: QuantType, x: &[f32], bias: u8) {
        self.q.clear();
        self.q.resize(x.len().next_multiple_of(2 * BLOCK), 0);
        self.scales.clear();
        self.stated.clear();
        self.sums.clear();
        match quant.block().activations {
            Some(Activations::Q8K) => super_codes(isa, x, self),
            activations => {
                let half = activations != Some(Activations::Q8_0F32);
                block_codes(isa, x, half, self);
            }
        }
        bias_sums(isa, bias, self);
    }
}

/// `-bias * (q0 + q1 + q2 + q3)` of every four numbers, which [`Isa::quads`] starts from.
#[inline(always)]
fn bias_sums_body(bias: u8, codes: &mut Codes) {
    let sum = |q: &[i8; 4]| -i32::from(bias) * q.iter().map(|q| i32::from(*q)).sum::<i32>();
    codes.fours.clear();
    codes.fours.extend(codes.q.as_chunks().0.iter().map(sum));
}

/// Numbers times `turned`, at most 127 then, rounded as bytes; what is not finite becomes any.
#[inline(always)]
fn bytes(x: &[f32], turned: f32, q: &mut [i8]) {
    // A sum with this has a last bit of one: it rounds to the even neighbour as ever, and its lowest bits are the
    // whole number. A conversion would look for what does not fit.
    const WHOLE: f32 = 1.5 * (1 << 23) as f32;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (*x * turned + WHOLE).to_bits() as i8;
    }
}

/// Blocks of 32: numbers, scales, and the stated sums of Q8_1.
#[inline(always)]
fn block_codes_body(x: &[f32], half: bool, codes: &mut Codes) {
    for (x, q) in x.as_chunks::<BLOCK>().0.iter().zip(codes.q.as_chunks_mut::<BLOCK>().0) {
        let [turned, d] = turned_block(x);
        bytes(x, turned, q);
        let sum: i32 = q.iter().map(|q| i32::from(*q)).sum();
        codes.scales.push(scale_of(d, half));
        codes.stated.push(scale_of(d * sum as f32, true));
    }
    let blocks = codes.q.len() / BLOCK;
    codes.scales.resize(blocks, 0.0);
    codes.stated.resize(blocks, 0.0);
}

/// Super-blocks of 256: numbers, scales, and the sums of 16 that minima meet.
#[inline(always)]
fn super_codes_body(x: &[f32], codes: &mut Codes) {
    for (x, q) in x.as_chunks::<SUPER>().0.iter().zip(codes.q.as_chunks_mut::<SUPER>().0) {
        let [turned, scale] = turned_super(x);
        bytes(x, turned, q);
        codes.scales.push(scale);
        let mut sums = [0; 16];
        for (i, q) in q.as_chunks::<16>().0.iter().enumerate() {
            sums[even_first(i)] = q.iter().map(|q| i16::from(*q)).sum();
        }
        codes.sums.push(sums);
    }
}

per_isa! {
    fn block_codes(x: &[f32], half: bool, codes: &mut Codes) = block_codes_body;
    fn super_codes(x: &[f32], codes: &mut Codes) = super_codes_body;
    fn bias_sums(bias: u8, codes: &mut Codes) = bias_sums_body;
    fn halves(xs: &mut [f32]) = half_body;
    fn upper_halves(xs: &mut [f32]) = bf16_body;
    fn blocks(xs: &mut [f32], half: bool) = block_body;
    fn super_blocks(xs: &mut [f32], elements: usize) = super_body;
}
