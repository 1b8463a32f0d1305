//! Points of code books: 32 of their places, or of their codes, in a register.
//!
//! A point is 8 digits of two bits or 4 of three (`quant::grid`). With AVX-512 a book of up to 1,024 points is searched
//! by permutations of two registers, of 64 codes each, and the codes found are spread into bytes:
//!
//! ```text
//! places   32 x u16        9 8 7 6 | 5 0       lower six bits: where in two registers   upper ones: which two
//! codes    32 x u16        w7 w6 w5 w4 w3 w2 w1 w0
//! digits   64 x u8         w0 | w1 | w2 | w3 | ..
//! ```
//!
//! Elsewhere, and in larger books, each point is loaded by itself, eight bytes or four.

#![allow(unsafe_code, reason = "the instructions of each set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use super::Level;
use super::{Isa, row::Bytes};

/// Thirty-two numbers of sixteen bits, the first in the lowest place.
#[derive(Clone, Copy, Debug)]
pub struct Words(Register);

#[cfg(target_arch = "x86_64")]
type Register = __m512i;
#[cfg(not(target_arch = "x86_64"))]
type Register = [u64; 8];

impl Words {
    /// Those of eight words of four.
    #[inline(always)]
    pub const fn of(words: [u64; 8]) -> Words {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: both are 64 bytes, of which any value is one.
        return Words(unsafe { std::mem::transmute::<[u64; 8], __m512i>(words) });
        #[cfg(not(target_arch = "x86_64"))]
        Words(words)
    }

    /// As eight words.
    #[inline(always)]
    pub fn words(self) -> [u64; 8] {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        return unsafe { std::mem::transmute::<__m512i, [u64; 8]>(self.0) };
        #[cfg(not(target_arch = "x86_64"))]
        self.0
    }

    /// As numbers.
    #[inline(always)]
    pub fn array(self) -> [u16; 32] {
        let words = self.words();
        let mut out = [0; 32];
        for i in 0..32 {
            out[i] = (words[i / 4] >> (16 * (i % 4))) as u16;
        }
        out
    }
}

impl From<[u16; 32]> for Words {
    #[inline(always)]
    fn from(numbers: [u16; 32]) -> Words {
        let mut words = [0; 8];
        for i in 0..32 {
            words[i / 4] |= u64::from(numbers[i]) << (16 * (i % 4));
        }
        Words::of(words)
    }
}

impl Isa {
    /// Whether points are looked up in registers.
    #[inline(always)]
    pub fn searches_books(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.level == Level::Avx512;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// `low | high << 8`, number by number.
    #[inline(always)]
    pub fn places(self, low: &[u8; 32], high: Words) -> Words {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level; 32 bytes are read.
            return Words(unsafe {
                let low = _mm512_cvtepu8_epi16(_mm256_loadu_si256(low.as_ptr().cast()));
                _mm512_or_si512(low, _mm512_slli_epi16::<8>(high.0))
            });
        }
        let mut out = high.array();
        for (out, low) in out.iter_mut().zip(low) {
            *out = *out << 8 | u16::from(*low);
        }
        Words::from(out)
    }

    /// Each of 32 bits as a number, 1 or 0.
    #[inline(always)]
    pub fn ones(self, bits: u32) -> Words {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level.
            return Words(unsafe { _mm512_maskz_set1_epi16(bits, 1) });
        }
        let mut out = [0; 32];
        for (i, out) in out.iter_mut().enumerate() {
            *out = (bits >> i & 1) as u16;
        }
        Words::from(out)
    }

    /// Of eight numbers of sixteen bits, four fields each: `(number >> (step * field)) & mask`.
    #[inline(always)]
    pub fn fields(self, numbers: u128, step: usize, mask: u16) -> Words {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level.
            return Words(unsafe {
                let numbers = std::mem::transmute::<u128, __m128i>(numbers);
                let each = _mm512_permutexvar_epi16(fourths(), _mm512_castsi128_si512(numbers));
                let [a, b, c] = [step, 2 * step, 3 * step].map(|shift| (shift as i64) << 16);
                let shifts = _mm512_set1_epi64(a | b << 16 | c << 32);
                _mm512_and_si512(_mm512_srlv_epi16(each, shifts), _mm512_set1_epi16(mask as i16))
            });
        }
        let mut out = [0; 32];
        for (i, out) in out.iter_mut().enumerate() {
            *out = (numbers >> (16 * (i / 4)) >> (step * (i % 4))) as u16 & mask;
        }
        Words::from(out)
    }

    /// The low bytes of numbers that were shifted to the right.
    #[inline(always)]
    pub fn shifted(self, numbers: Words, shift: usize) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level.
            return Bytes(unsafe {
                _mm512_cvtepi16_epi8(_mm512_srl_epi16(numbers.0, _mm_cvtsi64_si128(shift as i64)))
            });
        }
        let (numbers, mut out) = (numbers.array(), [0; 32]);
        for (out, number) in out.iter_mut().zip(numbers) {
            *out = (number >> shift) as u8;
        }
        Bytes::from(out)
    }

    /// Of a book the codes at 32 places; bits of a place above those of `N` count for nothing.
    #[inline(always)]
    pub fn codes<const N: usize>(self, places: Words, book: &[u16; N]) -> Words {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            let pairs = book.as_chunks::<64>().0;
            // SAFETY: AVX-512 is behind its level; 32 codes are read at a time.
            return Words(unsafe {
                let mut found = [_mm512_setzero_si512(); 16];
                for (found, codes) in found.iter_mut().zip(pairs) {
                    let first = _mm512_loadu_si512(codes.as_ptr().cast());
                    let second = _mm512_loadu_si512(codes.as_ptr().add(32).cast());
                    *found = _mm512_permutex2var_epi16(first, places.0, second);
                }
                // The seventh bit of a place chooses between neighbours, the next between those chosen, ...
                let (mut count, mut bit) = (pairs.len(), 64);
                while count > 1 {
                    let second = _mm512_test_epi16_mask(places.0, _mm512_set1_epi16(bit));
                    count /= 2;
                    for i in 0..count {
                        found[i] = _mm512_mask_mov_epi16(found[2 * i], second, found[2 * i + 1]);
                    }
                    bit *= 2;
                }
                found[0]
            });
        }
        let mut out = places.array();
        for out in &mut out {
            *out = book[usize::from(*out) % N];
        }
        Words::from(out)
    }

    /// The digits of codes, eight of two bits or four of three: 64 of them, those of the codes from `64 / D * part` on,
    /// `D` digits a code.
    #[inline(always)]
    pub fn digits<const D: usize>(self, codes: Words, part: usize) -> [Bytes; 2] {
        const { assert!(D == 8 || D == 4) }
        // Of a number of a code with more digits two are cut out at a time.
        let (bits, mask) = if D == 8 { (2, 0x0303) } else { (3, 0x0707) };
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level.
            return unsafe {
                let (places, shifts) = if D == 8 {
                    (fourths(), _mm512_set1_epi64(0x000c_0008_0004_0000))
                } else {
                    (halves(), _mm512_set1_epi32(0x0006_0000))
                };
                let first = _mm512_set1_epi16((64 / D * part) as i16);
                let each = _mm512_permutexvar_epi16(_mm512_add_epi16(places, first), codes.0);
                // Two digits at the bottom of each sixteen bits, of which the upper goes into a byte of its own.
                let low = _mm512_srlv_epi16(each, shifts);
                let high = _mm512_sll_epi16(low, _mm_cvtsi64_si128(8 - bits));
                let low_bytes = _mm512_set1_epi16(0x00ff);
                let both = _mm512_ternarylogic_epi32::<0xca>(low_bytes, low, high);
                let both = _mm512_and_si512(both, _mm512_set1_epi16(mask));
                [_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both)].map(Bytes)
            };
        }
        let (codes, mut out) = (codes.array(), [[0; 32]; 2]);
        for (i, out) in out.as_flattened_mut().iter_mut().enumerate() {
            let code = codes[64 / D * part + i / D];
            *out = (code >> (bits * (i % D) as i64)) as u8 & mask as u8;
        }
        out.map(Bytes::from)
    }

    /// Words of 32 bits whose lower 28 are four times seven, each seven in a byte.
    #[inline(always)]
    pub fn sevens(self, words: Bytes) -> Bytes {
        const MASKS: [u64; 4] = [0x7f, 0x7f00, 0x007f_0000, 0x7f00_0000];
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels.
            return Bytes(unsafe {
                let masked =
                    |words, mask: u64| _mm256_and_si256(words, _mm256_set1_epi32(mask as i32));
                let first = masked(words.0, MASKS[0]);
                let second = masked(_mm256_slli_epi32::<1>(words.0), MASKS[1]);
                let third = masked(_mm256_slli_epi32::<2>(words.0), MASKS[2]);
                let fourth = masked(_mm256_slli_epi32::<3>(words.0), MASKS[3]);
                let [low, high] =
                    [[first, second], [third, fourth]].map(|[a, b]| _mm256_or_si256(a, b));
                _mm256_or_si256(low, high)
            });
        }
        let mut out = words.words();
        for word in &mut out {
            let mut sevens = 0;
            for (shift, mask) in MASKS.into_iter().enumerate() {
                sevens |= *word << shift & (mask | mask << 32);
            }
            *word = sevens;
        }
        Bytes::of(out)
    }

    /// Bytes of seven bits, with an eighth that makes the number of ones even.
    #[inline(always)]
    pub fn evened(self, sevens: Bytes) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels.
            return Bytes(unsafe {
                // Of each byte the lowest bit becomes the parity of all; bits of other bytes come in above it only.
                let odd = _mm256_xor_si256(sevens.0, _mm256_srli_epi16::<4>(sevens.0));
                let odd = _mm256_xor_si256(odd, _mm256_srli_epi16::<2>(odd));
                let odd = _mm256_xor_si256(odd, _mm256_srli_epi16::<1>(odd));
                let top = _mm256_and_si256(_mm256_slli_epi16::<7>(odd), _mm256_set1_epi8(-128));
                _mm256_or_si256(sevens.0, top)
            });
        }
        let mut out = sevens.array();
        for byte in &mut out {
            *byte |= (byte.count_ones() as u8 & 1) << 7;
        }
        Bytes::from(out)
    }

    /// The lower and the upper halves of eight words of 64 bits.
    #[inline(always)]
    pub fn parted(self, words: &[u8; 64]) -> [Bytes; 2] {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level; 64 bytes are read.
            return unsafe {
                let words = _mm512_loadu_si512(words.as_ptr().cast());
                let upper = _mm512_srli_epi64::<32>(words);
                [_mm512_cvtepi64_epi32(words), _mm512_cvtepi64_epi32(upper)].map(Bytes)
            };
        }
        let mut out = [[0; 8]; 2];
        for (i, four) in words.as_chunks::<4>().0.iter().enumerate() {
            out[i % 2][i / 2] = u32::from_le_bytes(*four);
        }
        out.map(Bytes::of_fours)
    }

    /// Eight bytes as numbers of sixteen bits.
    #[inline(always)]
    pub fn widened(self, bytes: u64) -> u128 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has SSE2.
        return unsafe {
            let bytes = _mm_cvtsi64_si128(bytes as i64);
            std::mem::transmute::<__m128i, u128>(_mm_unpacklo_epi8(bytes, _mm_setzero_si128()))
        };
        #[cfg(not(target_arch = "x86_64"))]
        u128::from_le_bytes(std::array::from_fn(|i| match i % 2 {
            0 => bytes.to_le_bytes()[i / 2],
            _ => 0,
        }))
    }

    /// `this` where a number is zero, else zero.
    #[inline(always)]
    pub fn where_zero(self, numbers: Words, this: u16) -> Words {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level.
            return Words(unsafe {
                let zero = _mm512_testn_epi16_mask(numbers.0, numbers.0);
                _mm512_maskz_set1_epi16(zero, this as i16)
            });
        }
        let mut out = numbers.array();
        for out in &mut out {
            *out = if *out == 0 { this } else { 0 };
        }
        Words::from(out)
    }

    /// Numbers `4 * pair` to `4 * pair + 3`, the two bytes of each four times.
    #[inline(always)]
    pub fn fourfold(self, numbers: Words, pair: usize) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level.
            return Bytes(unsafe {
                let first = _mm512_set1_epi16((pair / 2 * 8) as i16);
                let both = _mm512_permutexvar_epi16(_mm512_add_epi16(fourths(), first), numbers.0);
                match pair % 2 {
                    0 => _mm512_castsi512_si256(both),
                    _ => _mm512_extracti64x4_epi64::<1>(both),
                }
            });
        }
        let four = numbers.words()[pair];
        Bytes::of([0, 16, 32, 48].map(|shift| (four >> shift & 0xffff) * 0x0001_0001_0001_0001))
    }

    /// `a + b`, byte by byte, of which no sum is above 255.
    #[inline(always)]
    pub fn plus(self, a: Bytes, b: Bytes) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels.
            return Bytes(unsafe { _mm256_add_epi8(a.0, b.0) });
        }
        let (a, b) = (a.words(), b.words());
        Bytes::of(std::array::from_fn(|i| a[i] + b[i]))
    }
}

/// Each of the first eight numbers four times.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn fourths() -> __m512i {
    const FIRST: i64 = 0x0001_0001_0001_0001;
    _mm512_setr_epi64(0, FIRST, 2 * FIRST, 3 * FIRST, 4 * FIRST, 5 * FIRST, 6 * FIRST, 7 * FIRST)
}

/// Each of the first sixteen numbers twice.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn halves() -> __m512i {
    const PAIR: i32 = 0x0001_0001;
    let ones = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_mullo_epi32(ones, _mm512_set1_epi32(PAIR))
}
