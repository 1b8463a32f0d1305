//! Types of trits: -1, 0 and 1, with one scale for 256 weights.
//!
//! ```text
//! TQ1_0   54 bytes of 256   qs[48] of five trits, qh[4] of four, d:f16   d * (trit - 1)
//! PTQ1_0  28 bytes of 128   qs[24] of five trits, qh[2] of four, d:f16   the same, of PrismML's fork
//! TQ2_0   66 bytes of 256   qs[64] of four pairs of bits, d:f16          d * (q - 1)
//! ```

use super::{
    kernel::{decoders, half_at},
    whole::{Head, SUPER, Whole, bits, decoded, plain},
};
use crate::quant::isa::{Isa, row::Bytes};

decoders!(tq1_0, ptq1_0, tq2_0);

/// One in every scale.
const ONES: u128 = u128::MAX / 255;

/// Trits in pairs of bits, one scale for all.
pub(crate) struct Tq2;

impl Whole<66, SUPER> for Tq2 {
    const BIAS: u8 = 1;
    const MOST: u8 = 3;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 66]) -> Head {
        Head { scales: ONES, ..plain(half_at(isa, b, 64)) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(isa: Isa, b: &[u8; 66], _: &Head) -> Bytes {
        bits(isa, b, 32 * (PAIR / 4), 2 * (PAIR % 4), 3)
    }
}

/// Trits, five to a byte, one scale for all.
pub(crate) struct Tq1;

impl Whole<54, SUPER> for Tq1 {
    const BIAS: u8 = 1;
    const MOST: u8 = 2;
    const SUB: usize = 32;
    const MINIMA: bool = false;

    #[inline(always)]
    fn head(isa: Isa, b: &[u8; 54]) -> Head {
        Head { scales: ONES, ..plain(half_at(isa, b, 52)) }
    }

    #[inline(always)]
    fn pair<const PAIR: usize>(_: Isa, b: &[u8; 54], _: &Head) -> Bytes {
        let mut out = [0; 32];
        match PAIR {
            0..5 => trits(&b[..32], PAIR, &mut out),
            5 | 6 => {
                trits(&b[32..48], 2 * PAIR - 10, &mut out[..16]);
                trits(&b[32..48], 2 * PAIR - 9, &mut out[16..]);
            }
            _ => {
                trits(&b[32..48], 4, &mut out[..16]);
                for n in 0..4 {
                    trits(&b[48..52], n, &mut out[16 + 4 * n..][..4]);
                }
            }
        }
        Bytes::from(out)
    }
}

/// Trit `n` of each byte, 0 to 2: the byte is a fixed-point fraction of base three, so multiplying it by `3^n`
/// shifts `n` trits out and the next is its product with three, beyond the eighth bit.
///
/// For byte 0x56 = 86, of the trits 1 0 0 0 0 (81 of 243): `86 * 3 / 256 = 1`, then `(86 * 3) & 255 = 2`, and
/// `2 * 3 / 256 = 0`.
#[inline(always)]
fn trits(bytes: &[u8], n: usize, out: &mut [u8]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    for (out, byte) in out.iter_mut().zip(bytes) {
        *out = ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as u8;
    }
}

/// Weights in the order of their digit: the first trits of 32 bytes are weights 0 to 31, the second 32 to 63, …, five
/// times; then five times 16 of the next bytes, and four times four of the last, which have four trits.
#[inline(always)]
pub(crate) fn tq1_0(isa: Isa, b: &[u8; 54], out: &mut [f32; 256]) {
    decoded::<Tq1, 54>(isa, b, out);
}

/// Pair `p` of bits of byte `j` of 32 is weight `32p + j`, of the half of 128 that the bytes are for.
#[inline(always)]
pub(crate) fn tq2_0(isa: Isa, b: &[u8; 66], out: &mut [f32; 256]) {
    decoded::<Tq2, 66>(isa, b, out);
}

/// As TQ1_0, but the trits of 16 bytes, then of 8, and of 2 that have four.
#[inline(always)]
fn ptq1_0(isa: Isa, b: &[u8; 28], out: &mut [f32; 128]) {
    let (d, mut all) = (half_at(isa, b, 26), [0; 128]);
    let (first, rest) = all.split_at_mut(80);
    let (second, third) = rest.split_at_mut(40);
    for n in 0..5 {
        trits(&b[..16], n, &mut first[16 * n..][..16]);
        trits(&b[16..24], n, &mut second[8 * n..][..8]);
    }
    for n in 0..4 {
        trits(&b[24..26], n, &mut third[2 * n..][..2]);
    }
    for (out, trit) in out.iter_mut().zip(all) {
        *out = (f32::from(trit) - 1.0) * d;
    }
}
