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

    /// The bits under `mask` of each of 32 bytes, after a shift to the right.
    ///
    /// By instructions, not left to the compiler: it put two such lines together where they are joined, and loaded
    /// them by a gather, which halved the speed of Q6_K.
    /// A shift moves whole words of 64 bits, so bits of the byte above come in at the top of each byte; the mask, which
    /// must not be wider than `8 - shift` bits, takes them away again.
    #[inline(always)]
    pub fn bits(self, bytes: &[u8; 32], shift: usize, mask: u8) -> [u64; 4] {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels; 32 bytes are read.
            unsafe {
                let words = _mm256_loadu_si256(bytes.as_ptr().cast());
                let words = _mm256_srl_epi64(words, _mm_cvtsi64_si128(shift as i64));
                let words = _mm256_and_si256(words, _mm256_set1_epi8(mask as i8));
                return std::mem::transmute::<__m256i, [u64; 4]>(words);
            }
        }
        let words: [[u8; 8]; 4] = std::array::from_fn(|i| bytes.as_chunks().0[i]);
        words.map(|word| (u64::from_le_bytes(word) >> shift) & (u64::MAX / 255 * u64::from(mask)))
    }

    /// `low | high << shift` in each byte.
    ///
    /// `high << shift` must stay below 256 in every byte, for here too whole words are shifted.
    #[inline(always)]
    pub fn joined(self, low: [u64; 4], high: [u64; 4], shift: usize) -> [u64; 4] {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels.
            unsafe {
                let [low, high] = std::mem::transmute::<[[u64; 4]; 2], [__m256i; 2]>([low, high]);
                let high = _mm256_sll_epi64(high, _mm_cvtsi64_si128(shift as i64));
                return std::mem::transmute::<__m256i, [u64; 4]>(_mm256_or_si256(low, high));
            }
        }
        std::array::from_fn(|i| low[i] | high[i] << shift)
    }

    /// Of sixteen levels those that the low nibbles of sixteen bytes name, and those of the high ones, as bytes.
    ///
    /// One instruction (`pshufb`) looks sixteen bytes up in a table of sixteen.
    #[inline(always)]
    pub fn named(self, bytes: &[u8; 16], levels: &[i8; 16]) -> [u128; 2] {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 as above has the shuffle; sixteen bytes and levels are read.
            unsafe {
                let (bytes, levels) = (bytes.as_ptr().cast(), levels.as_ptr().cast());
                let (bytes, levels) = (_mm_loadu_si128(bytes), _mm_loadu_si128(levels));
                let nibbles = _mm_set1_epi8(15);
                let low = _mm_shuffle_epi8(levels, _mm_and_si128(bytes, nibbles));
                let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), nibbles);
                return std::mem::transmute::<[__m128i; 2], [u128; 2]>([
                    low,
                    _mm_shuffle_epi8(levels, high),
                ]);
            }
        }
        [0, 4].map(|shift| {
            let level = |byte: u8| levels[usize::from(byte >> shift & 15)] as u8;
            u128::from_le_bytes(bytes.map(level))
        })
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
        let fifth = self.fifth_bits(high);
        let low = bytes & nibbles | both([fifth[0], fifth[1]]);
        let low = self.times(self.numbers(low, bias), d, m);
        let high = bytes >> 4 & nibbles | both([fifth[2], fifth[3]]);
        [low, self.times(self.numbers(high, bias), d, m)]
    }

    /// Thirty-two bytes, each less `bias`, times the signed byte `2 * pair` of `scales` the first half and times the
    /// next the second.
    ///
    /// `scales` are sixteen signed bytes, one for each 16 numbers of a super-block, `pair` is which 32 of its 256
    /// numbers these are. A product has 13 bits and a sign at most, see `quant::decode::whole`.
    #[inline(always)]
    pub fn scaled(self, bytes: [u64; 4], bias: i16, scales: u128, pair: usize) -> [i16; 32] {
        let mut out = [0i16; 32];
        #[cfg(target_arch = "x86_64")]
        {
            let from = bytes.as_ptr();
            // SAFETY: AVX2 and AVX-512 are behind their levels; 32 bytes are read, 32 words written.
            unsafe {
                match self.level {
                    Level::Avx512 => {
                        let w = _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast()));
                        let w = _mm512_sub_epi16(w, _mm512_set1_epi16(bias));
                        let all = std::mem::transmute::<u128, __m128i>(scales);
                        // Sixteen scales as words; a permutation gives each half of the numbers its own.
                        let all = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(all));
                        let first = _mm512_set1_epi16(2 * pair as i16);
                        let one = _mm512_set1_epi16(1);
                        let place = _mm512_mask_add_epi16(first, 0xffff_0000, first, one);
                        let w = _mm512_mullo_epi16(w, _mm512_permutexvar_epi16(place, all));
                        _mm512_storeu_si512(out.as_mut_ptr().cast(), w);
                        return out;
                    }
                    Level::Avx2 => {
                        for half in [0, 1] {
                            let w =
                                _mm256_cvtepu8_epi16(_mm_loadu_si128(from.add(2 * half).cast()));
                            let w = _mm256_sub_epi16(w, _mm256_set1_epi16(bias));
                            // Byte 2 * pair of the scales, and the one above it.
                            let scale = (scales >> (16 * pair + 8 * half)) as i8;
                            let w = _mm256_mullo_epi16(w, _mm256_set1_epi16(scale.into()));
                            _mm256_storeu_si256(out.as_mut_ptr().add(16 * half).cast(), w);
                        }
                        return out;
                    }
                    Level::Portable => {}
                }
            }
        }
        for (i, word) in bytes.iter().enumerate() {
            let scale = i16::from((scales >> (16 * pair + 8 * (i / 2))) as i8);
            for (out, byte) in out[8 * i..8 * i + 8].iter_mut().zip(word.to_le_bytes()) {
                *out = (i16::from(byte) - bias) * scale;
            }
        }
        out
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
