//! How the quanta of a super-block of 256 numbers and their six-bit scales share bytes.
//!
//! The layouts are those that [`crate::quant::decode::kquant`] draws; here they are written. Numbers of one byte are
//! 32 or 64 apart, so that a vector of bytes is cut into runs of neighbouring numbers.

/// The numbers of a super-block.
pub const SUPER: usize = 256;

/// Four quanta of two bits a byte: numbers `l`, `l + 32`, `l + 64`, `l + 96` of each half.
///
/// ```text
/// bits of byte l   7-6      5-4      3-2      1-0
/// number           96 + l   64 + l   32 + l   l      of the half of 128 that the 32 bytes are for
/// ```
#[inline(always)]
pub fn pack_pairs(quanta: &[u8; SUPER], out: &mut [u8]) {
    for (q, out) in quanta.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for l in 0..32 {
            out[l] = q[l] | q[l + 32] << 2 | q[l + 64] << 4 | q[l + 96] << 6;
        }
    }
}

/// Two quanta of four bits a byte: numbers `l` and `l + 32` of each quarter.
///
/// ```text
/// bits of byte l   7-4      3-0
/// number           32 + l   l        of the quarter of 64 that the 32 bytes are for
/// ```
#[inline(always)]
pub fn pack_nibbles(quanta: &[u8; SUPER], out: &mut [u8]) {
    for (q, out) in quanta.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for l in 0..32 {
            out[l] = q[l] & 15 | q[l + 32] << 4;
        }
    }
}

/// Six-bit scales and minima of eight sub-blocks in twelve bytes, and what they read back as:
///
/// ```text
/// byte  0..4   scale 4..8, bits 4-5 | scale 0..4
/// byte  4..8   min   4..8, bits 4-5 | min   0..4
/// byte  8..12  min   4..8, bits 0-3 | scale 4..8, bits 0-3
/// ```
///
/// What they read back as differs where a scale does not fit six bits, which the weighted Q4_K of the original lets
/// pass: its upper bits run into those of the scale four further on.
#[inline(always)]
pub fn pack_sixes(scales: &[u8; 8], mins: &[u8; 8], out: &mut [u8]) -> ([u8; 8], [u8; 8]) {
    for j in 0..4 {
        let (scale, min) = (scales[j + 4], mins[j + 4]);
        out[j] = scales[j] | scale >> 4 << 6;
        out[j + 4] = mins[j] | min >> 4 << 6;
        out[j + 8] = scale & 15 | min << 4;
    }
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = out[j] & 63;
        mins[j] = out[j + 4] & 63;
        scales[j + 4] = out[j + 8] & 15 | out[j] >> 6 << 4;
        mins[j + 4] = out[j + 8] >> 4 | out[j + 4] >> 6 << 4;
    }
    (scales, mins)
}

/// Six-bit scales of sixteen sub-blocks in twelve bytes: the low four bits of scale `j` in nibble
/// `j / 8` of byte `j % 8`, the high two in pair `j / 4` of byte `8 + j % 4`.
#[inline(always)]
pub fn pack_q3_k_scales(scales: &[u8; 16], out: &mut [u8]) {
    for j in 0..8 {
        out[j] = scales[j] & 15 | scales[j + 8] << 4;
    }
    for j in 0..4 {
        out[j + 8] = (0..4).fold(0, |b, pair| b | scales[j + 4 * pair] >> 4 << (2 * pair));
    }
}

/// The low four bits of numbers `l` and `l + 64` of each half in byte `l` of 64; the high two of
/// numbers `l`, `l + 32`, `l + 64`, `l + 96` in byte `l` of 32.
///
/// `bytes[..128]` are the low bits, 64 a half; `bytes[128..192]` the high ones, 32 a half; scales and `d` follow.
#[inline(always)]
pub fn pack_q6_k(quanta: &[u8; SUPER], bytes: &mut [u8; 210]) {
    let (low, high) = bytes[..192].split_at_mut(128);
    let outs = low.as_chunks_mut::<64>().0.iter_mut().zip(high.as_chunks_mut::<32>().0);
    for (q, (low, high)) in quanta.as_chunks::<128>().0.iter().zip(outs) {
        for l in 0..64 {
            low[l] = q[l] & 15 | q[l + 64] << 4;
        }
        for l in 0..32 {
            high[l] = q[l] >> 4 | q[l + 32] >> 4 << 2 | q[l + 64] >> 4 << 4 | q[l + 96] >> 4 << 6;
        }
    }
}
