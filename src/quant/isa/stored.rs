//! Stored numbers, of four to sixteen bits, as what is computed with.
//!
//! Decoding is the same few steps for all types: bytes come in, bits are cut out of them, a bias is taken off, and what
//! is left is multiplied with a scale. Each step takes 16 or 32 numbers; those are written out by instructions where a
//! measurement showed that the compiler makes slow code of the plain loop:
//!
//! ```text
//! nibbles   16 bytes    -> 32 f32     Q4: cut, less a bias, times d, less m
//! fives     16 bytes, u32 -> 32 f32   Q5: the same with a fifth bit
//! bytes     16 bytes    -> 16 f32     Q8: times d
//! chosen, named   16 bytes -> 32      IQ4, MXFP4: a nibble is the place of a level in a table
//! bits, joined    32 bytes -> 32 bytes     K-quants: cut bits out, put bits on top
//! numbers, times  16 bytes -> 16 f32  what is left of the others, in two steps
//! scaled    32 bytes    -> 32 i16     products in whole numbers
//! ```
//!
//! `w * d` is rounded before something is added, as in the originals. Lanes do not meet, so how many of them a set has
//! changes no bit.

#![allow(unsafe_code, reason = "the instructions of each set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::Level;
use crate::quant::half::f32_from_half;

/// Sixteen bytes in two words.
#[inline(always)]
pub(in crate::quant) fn both([first, second]: [u64; 2]) -> u128 {
    u128::from(first) | u128::from(second) << 64
}

impl Isa {
    /// `d * (w - bias) - m` for the nibbles of sixteen bytes, the low ones and the high ones.
    ///
    /// Number `j` of the first sixteen is the low nibble of byte `j`, number `j` of the second its high nibble. With
    /// AVX-512 there are only sixteen results, so these are worked out once and each nibble picks its own (`vpermps`).
    #[inline(always)]
    pub fn nibbles(self, bytes: &[u8; 16], bias: i8, d: f32, m: f32) -> [[f32; 16]; 2] {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx2 {
            let mut out = [[0.0; 16]; 2];
            for (at, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
                // SAFETY: AVX2 is behind its level; eight bytes are read and twice eight numbers written.
                unsafe {
                    let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()));
                    let low = _mm256_and_si256(bytes, _mm256_set1_epi32(15));
                    for (out, w) in out.iter_mut().zip([low, _mm256_srli_epi32::<4>(bytes)]) {
                        let w = _mm256_sub_epi32(w, _mm256_set1_epi32(bias.into()));
                        let w = _mm256_mul_ps(_mm256_cvtepi32_ps(w), _mm256_set1_ps(d));
                        let w = _mm256_sub_ps(w, _mm256_set1_ps(m));
                        _mm256_storeu_ps(out.as_mut_ptr().add(8 * at), w);
                    }
                }
            }
            return out;
        }
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            let mut out = [[0.0; 16]; 2];
            // SAFETY: AVX-512 as above; sixteen bytes are read and twice sixteen numbers written.
            unsafe {
                // The sixteen weights that there can be, then for each nibble its own.
                let all = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let all = _mm512_sub_epi32(all, _mm512_set1_epi32(bias.into()));
                let all = _mm512_mul_ps(_mm512_cvtepi32_ps(all), _mm512_set1_ps(d));
                let all = _mm512_sub_ps(all, _mm512_set1_ps(m));
                let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
                let [low, high] = &mut out;
                _mm512_storeu_ps(low.as_mut_ptr(), _mm512_permutexvar_ps(bytes, all));
                // The four lowest bits of each are the place; a rotation, for the compiler would split a
                // shift into more steps.
                let bytes = _mm512_ror_epi32::<4>(bytes);
                _mm512_storeu_ps(high.as_mut_ptr(), _mm512_permutexvar_ps(bytes, all));
            }
            return out;
        }
        let bytes = u128::from_le_bytes(*bytes);
        let nibbles = u128::MAX / 255 * 15;
        let low = self.times(self.numbers(bytes & nibbles, bias), d, -m);
        [low, self.times(self.numbers(bytes >> 4 & nibbles, bias), d, -m)]
    }

    /// `w * d + m`, the product rounded before the sum.
    ///
    /// `-0.0` for `m` leaves every product as it is, signed zeros included; `0.0` would make `-0.0` positive.
    #[inline(always)]
    pub fn times(self, w: [f32; 16], d: f32, m: f32) -> [f32; 16] {
        let mut out = w;
        #[cfg(target_arch = "x86_64")]
        {
            let to = out.as_mut_ptr();
            // SAFETY: AVX2 and AVX-512 are behind their levels; sixteen numbers are read and written.
            unsafe {
                match self.level {
                    Level::Avx512 => {
                        let w = _mm512_mul_ps(_mm512_loadu_ps(to), _mm512_set1_ps(d));
                        _mm512_storeu_ps(to, _mm512_add_ps(w, _mm512_set1_ps(m)));
                        return out;
                    }
                    Level::Avx2 => {
                        for to in [to, to.add(8)] {
                            let w = _mm256_mul_ps(_mm256_loadu_ps(to), _mm256_set1_ps(d));
                            _mm256_storeu_ps(to, _mm256_add_ps(w, _mm256_set1_ps(m)));
                        }
                        return out;
                    }
                    Level::Portable => {}
                }
            }
        }
        for out in &mut out {
            *out = *out * d + m;
        }
        out
    }

    /// Of sixteen numbers those that the low nibbles of sixteen bytes name, and those of the high ones.
    ///
    /// As [`Isa::named`], for levels that are numbers already: the sixteen are a register of AVX-512.
    #[inline(always)]
    pub fn chosen(self, bytes: &[u8; 16], all: &[f32; 16]) -> [[f32; 16]; 2] {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            let mut out = [[0.0; 16]; 2];
            let [low, high] = &mut out;
            // SAFETY: AVX-512 as above; sixteen bytes and numbers are read and twice sixteen numbers written.
            unsafe {
                let all = _mm512_loadu_ps(all.as_ptr());
                let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
                _mm512_storeu_ps(low.as_mut_ptr(), _mm512_permutexvar_ps(bytes, all));
                // The four lowest bits of each are the place; a rotation, for the compiler would split a
                // shift into more steps.
                let bytes = _mm512_ror_epi32::<4>(bytes);
                _mm512_storeu_ps(high.as_mut_ptr(), _mm512_permutexvar_ps(bytes, all));
            }
            return out;
        }
        let mut out = [[0.0; 16]; 2];
        for (out, shift) in out.iter_mut().zip([0, 4]) {
            for (out, byte) in out.iter_mut().zip(bytes) {
                *out = all[usize::from(byte >> shift & 15)];
            }
        }
        out
    }

    /// `d * (w - bias) + m` for 32 numbers of five bits: nibbles in sixteen bytes, the low ones first, and the bits
    /// above them in `high`.
    ///
    /// Bit `j` of `high` is the fifth of number `j`, so its lower half belongs to the low nibbles.
    #[inline(always)]
    pub fn fives(self, bytes: &[u8; 16], high: u32, bias: i8, d: f32, m: f32) -> [[f32; 16]; 2] {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            let mut out = [[0.0; 16]; 2];
            // SAFETY: AVX-512 as above; sixteen bytes are read and twice sixteen numbers written.
            unsafe {
                let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
                let low = _mm512_and_si512(bytes, _mm512_set1_epi32(15));
                let words =
                    [(low, high as u16), (_mm512_srli_epi32::<4>(bytes), (high >> 16) as u16)];
                for (out, (w, fifth)) in out.iter_mut().zip(words) {
                    // A mask register has a bit for each lane, so sixteen fifth bits are one as they are.
                    let w = _mm512_mask_or_epi32(w, fifth, w, _mm512_set1_epi32(16));
                    let w = _mm512_cvtepi32_ps(_mm512_sub_epi32(w, _mm512_set1_epi32(bias.into())));
                    let w = _mm512_mul_ps(w, _mm512_set1_ps(d));
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(w, _mm512_set1_ps(m)));
                }
            }
            return out;
        }
        let (bytes, nibbles) = (u128::from_le_bytes(*bytes), u128::MAX / 255 * 15);
        let fifth = self.fifth_bits(high).halves();
        let low = self.times(self.numbers(bytes & nibbles | fifth[0], bias), d, m);
        let high = bytes >> 4 & nibbles | fifth[1];
        [low, self.times(self.numbers(high, bias), d, m)]
    }

    /// Sixteen bytes, the lowest first, each less `bias`, as numbers.
    ///
    /// The result of the subtraction is read as a signed byte: right where it is within -128 ..= 127, and with a bias
    /// of 0 for bytes that are signed already.
    #[inline(always)]
    pub fn numbers(self, bytes: u128, bias: i8) -> [f32; 16] {
        let mut out = [0.0; 16];
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: AVX2 and AVX-512 are behind their levels; sixteen numbers are written.
            unsafe {
                let bytes = std::mem::transmute::<u128, __m128i>(bytes);
                // In eight bits, as they are still: a number and its bias are apart by less than 128.
                let bytes = _mm_sub_epi8(bytes, _mm_set1_epi8(bias));
                match self.level {
                    Level::Avx512 => {
                        let numbers = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
                        _mm512_storeu_ps(out.as_mut_ptr(), numbers);
                    }
                    Level::Avx2 => {
                        let (low, high) = (bytes, _mm_bsrli_si128::<8>(bytes));
                        for (out, half) in out.as_chunks_mut::<8>().0.iter_mut().zip([low, high]) {
                            let numbers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half));
                            _mm256_storeu_ps(out.as_mut_ptr(), numbers);
                        }
                    }
                    Level::Portable => {
                        let words =
                            [_mm_unpacklo_epi8(bytes, bytes), _mm_unpackhi_epi8(bytes, bytes)];
                        // SSE2 does not widen with a sign: a byte is put into the upper half of a word, and that
                        // shifted down.
                        let words = words.map(|words| _mm_srai_epi16::<8>(words));
                        for (out, words) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                            let low = _mm_srai_epi32::<16>(_mm_unpacklo_epi16(words, words));
                            let high = _mm_srai_epi32::<16>(_mm_unpackhi_epi16(words, words));
                            _mm_storeu_ps(out.as_mut_ptr(), _mm_cvtepi32_ps(low));
                            _mm_storeu_ps(out.as_mut_ptr().add(4), _mm_cvtepi32_ps(high));
                        }
                    }
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        for (out, byte) in out.iter_mut().zip(bytes.to_le_bytes()) {
            *out = f32::from((byte as i8).wrapping_sub(bias));
        }
        out
    }

    /// The values of sixteen little-endian halves, as [`Isa::half`] has them.
    ///
    /// The rest of a row that is no multiple of sixteen is the caller's.
    #[inline(always)]
    pub fn halves(self, halves: &[u8; 32], out: &mut [f32; 16]) {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            let (from, to) = (halves.as_chunks::<16>().0, out.as_chunks_mut::<8>().0);
            for (halves, out) in from.iter().zip(to) {
                // SAFETY: F16C as above; sixteen bytes are read and eight numbers written.
                unsafe {
                    let halves = _mm_loadu_si128(halves.as_ptr().cast());
                    _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
                }
            }
            return;
        }
        for (out, half) in out.iter_mut().zip(halves.as_chunks::<2>().0) {
            *out = f32_from_half(u16::from_le_bytes(*half));
        }
    }

    /// Sixteen signed bytes times `d`.
    ///
    /// The number itself is not rounded, for eight bits fit f32; the product is.
    #[inline(always)]
    pub fn bytes(self, bytes: &[u8; 16], d: f32) -> [f32; 16] {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx2 {
            let mut out = [0.0; 16];
            for (out, bytes) in out.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<8>().0)
            {
                // SAFETY: AVX2 is behind its level; eight bytes are read, widened on the way, and eight numbers written.
                unsafe {
                    let w = _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()));
                    let w = _mm256_mul_ps(_mm256_cvtepi32_ps(w), _mm256_set1_ps(d));
                    _mm256_storeu_ps(out.as_mut_ptr(), w);
                }
            }
            return out;
        }
        self.times(self.numbers(u128::from_le_bytes(*bytes), 0), d, -0.0)
    }
}
