//! Whole numbers of 16 bits and their products, summed in pairs in 32: exact, so every order gives the same.

#![allow(unsafe_code, reason = "the instructions of each set")]

#[cfg(target_arch = "x86_64")]
use std::{arch::x86_64::*, mem::transmute_copy};

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::Level;

impl Isa {
    /// Adds the products of neighbours, `a[2l] * b[2l] + a[2l + 1] * b[2l + 1]`, to every lane.
    #[inline(always)]
    pub fn add_pairs(self, sum: &mut [i32; 16], a: &[i16; 32], b: &[i16; 32]) {
        #[cfg(target_arch = "x86_64")]
        {
            let (sum, a, b) = (sum.as_mut_ptr(), a.as_ptr(), b.as_ptr());
            // SAFETY: AVX2 and AVX-512 are behind their levels; each array has 64 bytes.
            unsafe {
                match self.0 {
                    Level::Avx512 => {
                        let (a, b) = (_mm512_loadu_si512(a.cast()), _mm512_loadu_si512(b.cast()));
                        let all = _mm512_loadu_si512(sum.cast());
                        let all = _mm512_add_epi32(all, _mm512_madd_epi16(a, b));
                        _mm512_storeu_si512(sum.cast(), all);
                    }
                    Level::Avx2 => {
                        for at in [0, 1] {
                            let sum = sum.cast::<__m256i>().add(at);
                            let (a, b) = (a.add(16 * at).cast(), b.add(16 * at).cast());
                            let (a, b) = (_mm256_loadu_si256(a), _mm256_loadu_si256(b));
                            let all = _mm256_loadu_si256(sum);
                            let all = _mm256_add_epi32(all, _mm256_madd_epi16(a, b));
                            _mm256_storeu_si256(sum, all);
                        }
                    }
                    Level::Portable => {
                        for at in [0, 1, 2, 3] {
                            let sum = sum.cast::<__m128i>().add(at);
                            let (a, b) = (a.add(8 * at).cast(), b.add(8 * at).cast());
                            let (a, b) = (_mm_loadu_si128(a), _mm_loadu_si128(b));
                            let all = _mm_loadu_si128(sum);
                            _mm_storeu_si128(sum, _mm_add_epi32(all, _mm_madd_epi16(a, b)));
                        }
                    }
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        for (l, sum) in sum.iter_mut().enumerate() {
            let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
            *sum += product(2 * l) + product(2 * l + 1);
        }
    }

    /// `sum[l] + a[l][0] * b[0] + a[l][1] * b[1]` in every lane. Written out where `L` is what a register of the set
    /// has; elsewhere the compiler finds the instruction.
    #[inline(always)]
    pub fn add_pair<const L: usize>(
        self,
        sum: [i32; L],
        a: &[[i16; 2]; L],
        b: [i16; 2],
    ) -> [i32; L] {
        #[cfg(target_arch = "x86_64")]
        {
            let (from, both) = (a.as_ptr(), i32::from(b[1]) << 16 | i32::from(b[0] as u16));
            // SAFETY: AVX2 and AVX-512 are behind their levels; `a` and `sum` have as many bytes as the register.
            unsafe {
                match (self.0, L) {
                    (Level::Avx512, 16) => {
                        let products = _mm512_madd_epi16(
                            _mm512_loadu_si512(from.cast()),
                            _mm512_set1_epi32(both),
                        );
                        return transmute_copy(&_mm512_add_epi32(transmute_copy(&sum), products));
                    }
                    (Level::Avx2, 8) => {
                        let a = _mm256_loadu_si256(from.cast());
                        let products = _mm256_madd_epi16(a, _mm256_set1_epi32(both));
                        return transmute_copy(&_mm256_add_epi32(transmute_copy(&sum), products));
                    }
                    _ => {}
                }
            }
        }
        let mut out = sum;
        for (out, a) in out.iter_mut().zip(a) {
            *out += i32::from(a[0]) * i32::from(b[0]) + i32::from(a[1]) * i32::from(b[1]);
        }
        out
    }

    /// The nibbles of sixteen bytes, the low ones first, less `bias`; above them the bits of `fifth`, if there are any.
    #[inline(always)]
    pub fn nibble_words(self, bytes: &[u8; 16], fifth: Option<u32>, bias: i16) -> [i16; 32] {
        let mut out = [0; 32];
        #[cfg(target_arch = "x86_64")]
        if self.0 != Level::Portable {
            // SAFETY: AVX2 as above; sixteen bytes are read and twice sixteen words written.
            unsafe {
                let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.as_ptr().cast()));
                let mut words =
                    [_mm256_and_si256(bytes, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(bytes)];
                if let Some(fifth) = fifth {
                    let each = _mm256_setr_epi16(
                        1,
                        2,
                        4,
                        8,
                        16,
                        32,
                        64,
                        128,
                        256,
                        512,
                        1024,
                        2048,
                        4096,
                        8192,
                        16384,
                        i16::MIN,
                    );
                    for (words, fifth) in words.iter_mut().zip([fifth, fifth >> 16]) {
                        let bits = _mm256_and_si256(_mm256_set1_epi16(fifth as i16), each);
                        let set = _mm256_cmpeq_epi16(bits, each);
                        *words =
                            _mm256_or_si256(*words, _mm256_and_si256(set, _mm256_set1_epi16(16)));
                    }
                }
                for (out, words) in out.as_chunks_mut::<16>().0.iter_mut().zip(words) {
                    let words = _mm256_sub_epi16(words, _mm256_set1_epi16(bias));
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), words);
                }
            }
            return out;
        }
        let fifth = fifth.unwrap_or(0);
        let (low, high) = out.split_at_mut(16);
        for (j, ((low, high), byte)) in low.iter_mut().zip(high).zip(bytes).enumerate() {
            let above = |shift| ((fifth >> (j + shift) & 1) << 4) as i16;
            *low = (i16::from(byte & 15) | above(0)) - bias;
            *high = (i16::from(byte >> 4) | above(16)) - bias;
        }
        out
    }
}
