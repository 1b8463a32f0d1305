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
                match self.level {
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
                match (self.level, L) {
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
}
