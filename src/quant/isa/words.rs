//! Whole numbers of 16 bits and their products, summed in pairs in 32: exact, so every order gives the same.
//!
//! All sets from SSE2 on have one instruction for it (`pmaddwd`); AVX2 and AVX-512 take 16 and 32 numbers at a time:
//!
//! ```text
//! a     a0  a1  a2  a3  ..  a30 a31         i16
//! b     b0  b1  b2  b3  ..  b30 b31         i16
//! sum  += a0 b0 + a1 b1,  a2 b2 + a3 b3,  ..   16 lanes of i32
//! ```

#![allow(unsafe_code, reason = "the instructions of each set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::Level;

impl Isa {
    /// Adds the products of neighbours, `a[2l] * b[2l] + a[2l + 1] * b[2l + 1]`, to every lane.
    ///
    /// Weights of 12 bits and a sign times activations of 7 (`quant::decode::whole`) take 20 of its 31 bits: room for
    /// two thousand pairs.
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
}
