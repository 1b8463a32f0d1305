//! Thirty-two bytes of a row in a register: numbers of eight bits or fewer on their way to a product.
//!
//! They are kept in a register's own type and not as words. Taken apart and put together again, words that were loaded
//! at once are loaded one by one: the compiler then gathers them, which halved the speed of Q6_K.

#![allow(unsafe_code, reason = "the instructions of each set")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::{
    Level,
    bytes::{many, neighbours, parted},
};

/// Thirty-two bytes, the first in the lowest place.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub(super) Register);

#[cfg(target_arch = "x86_64")]
pub(super) type Register = __m256i;
#[cfg(not(target_arch = "x86_64"))]
pub(super) type Register = [u64; 4];

/// A byte in every place of a word.
const EACH: u64 = u64::MAX / 255;

impl Bytes {
    /// Those of four words.
    #[inline(always)]
    pub fn of(words: [u64; 4]) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: both are 32 bytes, of which any value is one.
        return Bytes(unsafe { std::mem::transmute::<[u64; 4], __m256i>(words) });
        #[cfg(not(target_arch = "x86_64"))]
        Bytes(words)
    }

    /// Those of eight words of four.
    #[inline(always)]
    pub fn of_fours(words: [u32; 8]) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        return Bytes(unsafe { std::mem::transmute::<[u32; 8], __m256i>(words) });
        #[cfg(not(target_arch = "x86_64"))]
        Bytes(std::array::from_fn(|i| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32))
    }

    /// As eight words of four.
    #[inline(always)]
    pub fn fours(self) -> [u32; 8] {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        return unsafe { std::mem::transmute::<__m256i, [u32; 8]>(self.0) };
        #[cfg(not(target_arch = "x86_64"))]
        std::array::from_fn(|i| (self.0[i / 2] >> (32 * (i % 2))) as u32)
    }

    /// As four words.
    #[inline(always)]
    pub fn words(self) -> [u64; 4] {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        return unsafe { std::mem::transmute::<__m256i, [u64; 4]>(self.0) };
        #[cfg(not(target_arch = "x86_64"))]
        self.0
    }

    /// The lower sixteen and the upper ones.
    #[inline(always)]
    pub fn halves(self) -> [u128; 2] {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        return unsafe { std::mem::transmute::<__m256i, [u128; 2]>(self.0) };
        #[cfg(not(target_arch = "x86_64"))]
        {
            let [a, b, c, d] = self.0;
            [super::stored::both([a, b]), super::stored::both([c, d])]
        }
    }

    /// As bytes.
    #[inline(always)]
    pub fn array(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (out, word) in out.as_chunks_mut().0.iter_mut().zip(self.words()) {
            *out = word.to_le_bytes();
        }
        out
    }
}

impl From<[u8; 32]> for Bytes {
    #[inline(always)]
    fn from(bytes: [u8; 32]) -> Bytes {
        Bytes::of(std::array::from_fn(|i| u64::from_le_bytes(bytes.as_chunks().0[i])))
    }
}

impl Isa {
    /// The bits under `mask` of each of 32 bytes, after a shift to the right.
    ///
    /// A shift moves whole words of 64 bits, so bits of the byte above come in at the top of each byte; the mask, which
    /// must not be wider than `8 - shift` bits, takes them away again.
    #[inline(always)]
    pub fn bits(self, bytes: &[u8; 32], shift: usize, mask: u8) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels; 32 bytes are read.
            return Bytes(unsafe {
                let words = _mm256_loadu_si256(bytes.as_ptr().cast());
                let words = _mm256_srl_epi64(words, _mm_cvtsi64_si128(shift as i64));
                _mm256_and_si256(words, _mm256_set1_epi8(mask as i8))
            });
        }
        let words = Bytes::from(*bytes).words();
        Bytes::of(words.map(|word| (word >> shift) & (EACH * u64::from(mask))))
    }

    /// `low | high << shift` in each byte.
    ///
    /// `high << shift` must stay below 256 in every byte, for here too whole words are shifted.
    #[inline(always)]
    pub fn joined(self, low: Bytes, high: Bytes, shift: usize) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels.
            return Bytes(unsafe {
                let high = _mm256_sll_epi64(high.0, _mm_cvtsi64_si128(shift as i64));
                _mm256_or_si256(low.0, high)
            });
        }
        let (low, high) = (low.words(), high.words());
        Bytes::of(std::array::from_fn(|i| low[i] | high[i] << shift))
    }

    /// The nibbles of sixteen bytes, the low ones first.
    #[inline(always)]
    pub fn halved(self, bytes: &[u8; 16]) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels; sixteen bytes are read.
            return Bytes(unsafe {
                let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
                let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
                _mm256_and_si256(both, _mm256_set1_epi8(15))
            });
        }
        let words = bytes.as_chunks().0;
        let [first, second] = [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])];
        Bytes::of([first, second, first >> 4, second >> 4].map(|word| word & (EACH * 15)))
    }

    /// The nibbles of twice sixteen bytes, of each as [`Isa::halved`] has them.
    ///
    /// ```text
    /// [a b]          loaded
    /// [a a b b]      each twice
    /// [a A b B]      every second one shifted by a nibble, and of all the lower nibbles
    /// ```
    #[inline(always)]
    pub fn halved_both(self, bytes: [&[u8; 16]; 2]) -> [Bytes; 2] {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            // SAFETY: AVX-512 is behind its level; sixteen bytes are read of each.
            return unsafe {
                let a = _mm_loadu_si128(bytes[0].as_ptr().cast());
                let b = _mm_loadu_si128(bytes[1].as_ptr().cast());
                let both = _mm512_castsi256_si512(_mm256_set_m128i(b, a));
                let twice = _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3);
                let twice = _mm512_permutexvar_epi64(twice, both);
                let nibbles = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
                let nibbles = _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
                [
                    Bytes(_mm512_castsi512_si256(nibbles)),
                    Bytes(_mm512_extracti64x4_epi64::<1>(nibbles)),
                ]
            };
        }
        [self.halved(bytes[0]), self.halved(bytes[1])]
    }

    /// Of sixteen levels those that the nibbles of sixteen bytes name, those of the low ones first.
    #[inline(always)]
    pub fn named(self, bytes: &[u8; 16], levels: &[i8; 16]) -> Bytes {
        self.leveled(self.halved(bytes), levels)
    }

    /// Of sixteen levels those at 32 places below sixteen.
    #[inline(always)]
    pub fn leveled(self, places: Bytes, levels: &[i8; 16]) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels; sixteen levels are read.
            return Bytes(unsafe {
                let levels = _mm_loadu_si128(levels.as_ptr().cast());
                _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), places.0)
            });
        }
        Bytes::from(places.array().map(|place| levels[usize::from(place & 15)] as u8))
    }

    /// Each of 32 bits as bit 4 of a byte: byte `i` is `0x10` where bit `i` is set, else 0, which is what the nibbles
    /// of 32 five-bit numbers lack.
    #[inline(always)]
    pub fn fifth_bits(self, bits: u32) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels.
            return Bytes(unsafe { _mm256_and_si256(where_set(bits), _mm256_set1_epi8(16)) });
        }
        Bytes::of([0, 8, 16, 24].map(|at| super::fifth_bits(bits >> at)))
    }

    /// Each byte more by `bias`, after those were made negative whose bit of `signs` is set.
    #[inline(always)]
    pub fn signed(self, bytes: Bytes, signs: u32, bias: u8) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        {
            let bias = bias as i8;
            // SAFETY: AVX2 and AVX-512 are behind their levels.
            unsafe {
                match self.level {
                    Level::Avx512 => {
                        let bias = _mm256_set1_epi8(bias);
                        let above = _mm256_add_epi8(bias, bytes.0);
                        return Bytes(_mm256_mask_sub_epi8(above, signs, bias, bytes.0));
                    }
                    Level::Avx2 => {
                        // x less -1, and both turned round: -x.
                        let minus = where_set(signs);
                        let turned = _mm256_sub_epi8(_mm256_xor_si256(bytes.0, minus), minus);
                        return Bytes(_mm256_add_epi8(turned, _mm256_set1_epi8(bias)));
                    }
                    Level::Portable => {}
                }
            }
        }
        let mut out = bytes.array();
        for (i, out) in out.iter_mut().enumerate() {
            let minus = (signs >> i & 1) as u8;
            *out = (*out ^ minus.wrapping_neg()).wrapping_add(minus).wrapping_add(bias);
        }
        Bytes::from(out)
    }

    /// The sign of each byte turned round, which adds 128 to it.
    #[inline(always)]
    pub fn above(self, bytes: Bytes) -> Bytes {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2 is behind both levels.
            return Bytes(unsafe { _mm256_xor_si256(bytes.0, _mm256_set1_epi8(-128)) });
        }
        Bytes::of(bytes.words().map(|word| word ^ (EACH * 128)))
    }

    /// Each byte twice.
    ///
    /// Scales of 32 numbers become scales of 16, of which [`Isa::scaled`] takes two for each 32 numbers.
    #[inline(always)]
    pub fn doubled(self, bytes: u64) -> u128 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has SSE2.
        return unsafe {
            let bytes = _mm_cvtsi64_si128(bytes as i64);
            std::mem::transmute::<__m128i, u128>(_mm_unpacklo_epi8(bytes, bytes))
        };
        #[cfg(not(target_arch = "x86_64"))]
        u128::from_le_bytes(std::array::from_fn(|i| bytes.to_le_bytes()[i / 2]))
    }

    /// The bytes at even places, then those at odd ones.
    #[inline(always)]
    pub fn even_first(self, bytes: u128) -> u128 {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: AVX2, and the shuffle of sixteen bytes with it, is behind both levels.
            return unsafe {
                let bytes = std::mem::transmute::<u128, __m128i>(bytes);
                let places = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
                std::mem::transmute::<__m128i, u128>(_mm_shuffle_epi8(bytes, places))
            };
        }
        let bytes = bytes.to_le_bytes();
        u128::from_le_bytes(std::array::from_fn(|i| bytes[i % 8 * 2 + i / 8]))
    }

    /// Each byte, less `bias`, times the signed byte `2 * pair` of `scales` the first half and times the next the
    /// second.
    #[inline(always)]
    pub fn scaled(self, bytes: Bytes, bias: i16, scales: u128, pair: usize) -> [i16; 32] {
        let mut out = [0i16; 32];
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: AVX2 and AVX-512 are behind their levels; 32 words are written.
            unsafe {
                match self.level {
                    Level::Avx512 => {
                        let w = _mm512_cvtepu8_epi16(bytes.0);
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
                        let halves = [
                            _mm256_castsi256_si128(bytes.0),
                            _mm256_extracti128_si256::<1>(bytes.0),
                        ];
                        for (half, bytes) in halves.into_iter().enumerate() {
                            let w = _mm256_cvtepu8_epi16(bytes);
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
        for (i, (out, byte)) in out.iter_mut().zip(bytes.array()).enumerate() {
            let scale = i16::from((scales >> (16 * pair + 8 * (i / 16))) as i8);
            *out = (i16::from(byte) - bias) * scale;
        }
        out
    }

    /// The sums of the products of fours, `(a - bias) * b`, in sixteen lanes. No `a` is above `most`; `fours` are the
    /// sums of `-bias * b`.
    ///
    /// Number `i` of `a` meets number `i` of `b`; lane `l` sums those of 4l to 4l + 3. `most` decides between the ways
    /// that [`super::bytes`] draws. Without a bias `fours` are not read.
    #[inline(always)]
    pub fn quads(
        self,
        a: [Bytes; 2],
        b: &[i8; 64],
        fours: &[i32; 16],
        bias: u8,
        most: u8,
    ) -> [i32; 16] {
        // VNNI: u8 times i8, four products and a sum in one instruction.
        let mut out = if bias > 0 { *fours } else { [0; 16] };
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            if self.vnni {
                // SAFETY: VNNI, and AVX-512 with it, is behind its flag; 64 bytes and sixteen sums are read.
                return unsafe {
                    let a = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a[0].0), a[1].0);
                    let b = _mm512_loadu_si512(b.as_ptr().cast());
                    let sums = _mm512_loadu_si512(out.as_ptr().cast());
                    let sums = _mm512_dpbusd_epi32(sums, a, b);
                    std::mem::transmute::<__m512i, [i32; 16]>(sums)
                };
            }
            let halves = a.iter().zip(b.as_chunks::<32>().0);
            for (out, (a, b)) in out.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
                // SAFETY: AVX2 is behind both levels; 32 bytes and eight sums are read, eight sums written.
                unsafe {
                    let b = _mm256_loadu_si256(b.as_ptr().cast());
                    let sums = if many(most) > 0 {
                        let sums = _mm256_loadu_si256(out.as_ptr().cast());
                        _mm256_add_epi32(sums, neighbours(_mm256_maddubs_epi16(a.0, b)))
                    } else {
                        // 255 * 127 twice does not fit 16 bits: |a - 128| and, on the other factor, its sign.
                        let [size, signs] = parted(a.0);
                        neighbours(_mm256_maddubs_epi16(size, _mm256_sign_epi8(b, signs)))
                    };
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), sums);
                }
            }
            return out;
        }
        // One product at a time overflows nothing, whatever the largest number is.
        let _ = most;
        let a = a.map(Bytes::array);
        let a = a.as_flattened();
        for (l, out) in out.iter_mut().enumerate() {
            for i in 4 * l..4 * l + 4 {
                *out += i32::from(a[i]) * i32::from(b[i]);
            }
        }
        out
    }

    /// Adds products to sums, those of lane `l` times the signed byte `4 * part + l / 4` of `scales`: each for 16 of
    /// 64 numbers.
    #[inline(always)]
    pub fn add_scaled(self, sums: &mut [i32; 16], products: &[i32; 16], scales: u128, part: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            let (to, from) = (sums.as_mut_ptr(), products.as_ptr());
            // SAFETY: AVX2 and AVX-512 are behind their levels; each array has sixteen numbers.
            unsafe {
                let all = std::mem::transmute::<u128, __m128i>(scales);
                match self.level {
                    Level::Avx512 => {
                        // All sixteen are widened, once for all parts; a permutation has four of them four times.
                        let all = _mm512_cvtepi8_epi32(all);
                        let fours =
                            _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                        let places = _mm512_add_epi32(fours, _mm512_set1_epi32(4 * part as i32));
                        let scales = _mm512_permutexvar_epi32(places, all);
                        let more = _mm512_mullo_epi32(_mm512_loadu_si512(from.cast()), scales);
                        let sum = _mm512_add_epi32(_mm512_loadu_si512(to.cast()), more);
                        _mm512_storeu_si512(to.cast(), sum);
                        return;
                    }
                    Level::Avx2 => {
                        let eight = _mm256_cvtepi8_epi32(_mm_srl_epi64(
                            if part < 2 { all } else { _mm_bsrli_si128::<8>(all) },
                            _mm_cvtsi64_si128(32 * (part as i64 % 2)),
                        ));
                        for half in 0..2 {
                            let fours = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
                            let places = _mm256_add_epi32(fours, _mm256_set1_epi32(2 * half));
                            let scales = _mm256_permutevar8x32_epi32(eight, places);
                            let at = 8 * half as usize;
                            let more = _mm256_loadu_si256(from.add(at).cast());
                            let more = _mm256_mullo_epi32(more, scales);
                            let sum = _mm256_loadu_si256(to.add(at).cast());
                            _mm256_storeu_si256(to.add(at).cast(), _mm256_add_epi32(sum, more));
                        }
                        return;
                    }
                    Level::Portable => {}
                }
            }
        }
        for (l, (sum, product)) in sums.iter_mut().zip(products).enumerate() {
            *sum += product * i32::from((scales >> (8 * (4 * part + l / 4))) as i8);
        }
    }

    /// Each byte as a number, the sign with it, times `d`.
    #[inline(always)]
    pub fn numbered(self, bytes: Bytes, d: f32) -> [[f32; 16]; 2] {
        let [low, high] = bytes.halves();
        [self.times(self.numbers(low, 0), d, -0.0), self.times(self.numbers(high, 0), d, -0.0)]
    }
}

/// Each of 32 bits as a byte: all ones where it is set, else zero.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn where_set(bits: u32) -> __m256i {
    // The byte of each eight in eight places, of which each keeps one bit.
    let places = _mm256_setr_epi64x(0, EACH as i64, 2 * EACH as i64, 3 * EACH as i64);
    let each = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let all = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), places);
    _mm256_cmpeq_epi8(_mm256_and_si256(all, each), each)
}
