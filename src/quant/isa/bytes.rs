//! Whole numbers of 8 bits and their products, summed in fours in 32: exact, so every order gives the same.
//!
//! One factor is unsigned, as the instructions want it: a number and a bias, which sums of the other factor take off
//! again. Where no sum of two products overflows 16 bits, these are summed there first; where one could, the number
//! is parted into magnitude and sign, and needs no bias:
//!
//! ```text
//! VNNI            sum = -bias (b0 + b1 + b2 + b3)  +  a0 b0 + a1 b1 + a2 b2 + a3 b3      one step, in 32 bits
//! no overflow     the same, by way of a0 b0 + a1 b1 and a2 b2 + a3 b3 in 16 bits
//! else            |a0 - bias| (± b0) + |a1 - bias| (± b1), …                 in 16 bits: 2 * 128 * 127 at most
//! ```

#![allow(unsafe_code, reason = "the instructions of each set")]
#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::Level;

/// Four numbers of each of sixteen rows, in one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Quads(pub [[u8; 4]; 16]);

/// Vectors that meet a strip together.
pub const GROUP: usize = 8;

/// A step of a set.
#[cfg(target_arch = "x86_64")]
macro_rules! step {
    ($step:expr) => {{
        // SAFETY: a value of a set, and an `Isa` of its level, is the proof that the machine has it; what is loaded or
        // stored is an array of as many bytes as the register has, aligned where the step wants it.
        unsafe { $step }
    }};
}

impl Isa {
    /// The steps of AVX-512 with VNNI, where the machine has it.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn by_sixteen(self) -> Option<Vnni> {
        self.vnni.then_some(Vnni(()))
    }

    /// The steps of AVX2 over half of the rows and four of the vectors, where the machine has it.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn by_eight(self, half: usize, first: usize) -> Option<Avx2> {
        (self.level != Level::Portable).then_some(Avx2 { half, first })
    }
}

/// As many fours, of numbers up to `most` times signed bytes, as 16 bits hold the sums of; none where they do not hold
/// two products.
#[cfg(target_arch = "x86_64")]
pub(super) const fn many(most: u8) -> usize {
    i16::MAX as usize / (2 * 127 * most as usize)
}

/// Some of sixteen rows times `T` of [`GROUP`] vectors, in the registers of a set.
///
/// The loop of `infer::rounded` is written once over this; what differs is the width of a register, and how many
/// sums fit.
///
/// ```text
///              vector 0   vector 1  ..  T         a lane is a row; each step takes four numbers of every row
///  row 0       sum        sum                     and the same four of one vector:
///  row 1       sum        sum
///  ..          ..         ..                      lane r, vector t  +=  sum over i of a[r][i] * b[t][i]
///  row 15      sum        sum
/// ```
pub(crate) trait Set<const T: usize>: Copy {
    /// Whole numbers, one for each row.
    type Whole: Copy;
    /// Numbers, one for each row.
    type Float: Copy;

    /// The first of the vectors.
    fn first(self) -> usize;
    /// `x` for each row.
    fn same(self, x: i32) -> Self::Whole;
    /// Those of the rows that it has.
    fn wholes(self, from: &[i32; 16]) -> Self::Whole;
    /// The same of floats.
    fn floats(self, from: &[f32; 16]) -> Self::Float;
    /// Puts them back where `floats` took them.
    fn store(self, x: Self::Float, to: &mut [f32; 16]);
    /// The sums of the products of fours, `(a - bias) * b`, over all of `rows`, with numbers up to `most`; `offsets`
    /// are the sums of `-bias * b`.
    fn products(
        self,
        offsets: &[i32; GROUP],
        rows: &[Quads],
        xs: &[[[i8; 4]; GROUP]],
        bias: u8,
        most: u8,
    ) -> [Self::Whole; T];
    /// `sum + a * b`
    fn add_whole(self, sum: Self::Whole, a: Self::Whole, b: Self::Whole) -> Self::Whole;
    /// `sum + a[0] * b[0] + a[1] * b[1]`
    fn add_pair(self, sum: Self::Whole, a: &[[i16; 2]; 16], b: [i16; 2]) -> Self::Whole;
    /// `sum + (d * x) * whole`
    fn add_float(self, sum: Self::Float, d: Self::Float, x: f32, whole: Self::Whole)
    -> Self::Float;
    /// `sum + d * x`
    fn add_same(self, sum: Self::Float, d: Self::Float, x: f32) -> Self::Float;
}

/// AVX-512 with VNNI: all rows and vectors.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Vnni(());

#[cfg(target_arch = "x86_64")]
impl Set<GROUP> for Vnni {
    type Whole = __m512i;
    type Float = __m512;

    #[inline(always)]
    fn first(self) -> usize {
        0
    }

    #[inline(always)]
    fn same(self, x: i32) -> __m512i {
        step!(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    fn wholes(self, from: &[i32; 16]) -> __m512i {
        step!(_mm512_loadu_si512(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn floats(self, from: &[f32; 16]) -> __m512 {
        step!(_mm512_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32; 16]) {
        step!(_mm512_storeu_ps(to.as_mut_ptr(), x));
    }

    #[inline(always)]
    fn products(
        self,
        offsets: &[i32; GROUP],
        rows: &[Quads],
        xs: &[[[i8; 4]; GROUP]],
        bias: u8,
        _: u8,
    ) -> [__m512i; GROUP] {
        let mut sums = [self.same(0); GROUP];
        for t in 0..GROUP {
            sums[t] = self.same(if bias > 0 { offsets[t] } else { 0 });
        }
        for (row, x) in rows.iter().zip(xs) {
            // Four bytes of each of sixteen rows meet the four of one vector, which every lane has: 64 products a
            // step.
            let w = step!(_mm512_load_si512(row.0.as_ptr().cast()));
            for t in 0..GROUP {
                sums[t] = step!(_mm512_dpbusd_epi32(sums[t], w, self.same(four(x[t]))));
            }
        }
        sums
    }

    #[inline(always)]
    fn add_whole(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        step!(_mm512_add_epi32(sum, _mm512_mullo_epi32(a, b)))
    }

    #[inline(always)]
    fn add_pair(self, sum: __m512i, a: &[[i16; 2]; 16], b: [i16; 2]) -> __m512i {
        let a = step!(_mm512_loadu_si512(a.as_ptr().cast()));
        step!(_mm512_dpwssd_epi32(sum, a, self.same(two(b))))
    }

    #[inline(always)]
    fn add_float(self, sum: __m512, d: __m512, x: f32, whole: __m512i) -> __m512 {
        step!({
            let d = _mm512_mul_ps(d, _mm512_set1_ps(x));
            _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(whole), sum)
        })
    }

    #[inline(always)]
    fn add_same(self, sum: __m512, d: __m512, x: f32) -> __m512 {
        step!(_mm512_fmadd_ps(d, _mm512_set1_ps(x), sum))
    }
}

/// AVX2: half of the rows and four of the vectors, whose sums fill half of the registers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2 {
    half: usize,
    first: usize,
}

#[cfg(target_arch = "x86_64")]
impl Set<4> for Avx2 {
    type Whole = __m256i;
    type Float = __m256;

    #[inline(always)]
    fn first(self) -> usize {
        self.first
    }

    #[inline(always)]
    fn same(self, x: i32) -> __m256i {
        step!(_mm256_set1_epi32(x))
    }

    #[inline(always)]
    fn wholes(self, from: &[i32; 16]) -> __m256i {
        step!(_mm256_loadu_si256(from.as_chunks::<8>().0[self.half].as_ptr().cast()))
    }

    #[inline(always)]
    fn floats(self, from: &[f32; 16]) -> __m256 {
        step!(_mm256_loadu_ps(from.as_chunks::<8>().0[self.half].as_ptr()))
    }

    #[inline(always)]
    fn store(self, x: __m256, to: &mut [f32; 16]) {
        step!(_mm256_storeu_ps(to.as_chunks_mut::<8>().0[self.half].as_mut_ptr(), x));
    }

    #[inline(always)]
    fn products(
        self,
        offsets: &[i32; GROUP],
        rows: &[Quads],
        xs: &[[[i8; 4]; GROUP]],
        bias: u8,
        most: u8,
    ) -> [__m256i; 4] {
        let line = |row: &Quads| {
            step!(_mm256_load_si256(row.0.as_chunks::<8>().0[self.half].as_ptr().cast()))
        };
        let x = |xs: &[[i8; 4]; GROUP], t: usize| self.same(four(xs[self.first + t]));
        let mut sums = [self.same(0); 4];
        if many(most) == 0 {
            for (row, xs) in rows.iter().zip(xs) {
                let [size, signs] = step!(parted(line(row)));
                for t in 0..4 {
                    let twos = step!(_mm256_maddubs_epi16(size, _mm256_sign_epi8(x(xs, t), signs)));
                    sums[t] = step!(_mm256_add_epi32(sums[t], neighbours(twos)));
                }
            }
            return sums;
        }
        for t in 0..4 {
            sums[t] = self.same(if bias > 0 { offsets[self.first + t] } else { 0 });
        }
        // As many pairs of products as 16 bits hold are added before they are widened.
        for (rows, xs) in rows.chunks(many(most)).zip(xs.chunks(many(most))) {
            let mut twos = [self.same(0); 4];
            for (row, xs) in rows.iter().zip(xs) {
                let w = line(row);
                for t in 0..4 {
                    let more = step!(_mm256_maddubs_epi16(w, x(xs, t)));
                    twos[t] = step!(_mm256_add_epi16(twos[t], more));
                }
            }
            for t in 0..4 {
                sums[t] = step!(_mm256_add_epi32(sums[t], neighbours(twos[t])));
            }
        }
        sums
    }

    #[inline(always)]
    fn add_whole(self, sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        step!(_mm256_add_epi32(sum, _mm256_mullo_epi32(a, b)))
    }

    #[inline(always)]
    fn add_pair(self, sum: __m256i, a: &[[i16; 2]; 16], b: [i16; 2]) -> __m256i {
        let a = step!(_mm256_loadu_si256(a.as_chunks::<8>().0[self.half].as_ptr().cast()));
        step!(_mm256_add_epi32(sum, _mm256_madd_epi16(a, self.same(two(b)))))
    }

    #[inline(always)]
    fn add_float(self, sum: __m256, d: __m256, x: f32, whole: __m256i) -> __m256 {
        step!({
            let d = _mm256_mul_ps(d, _mm256_set1_ps(x));
            _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(whole), sum)
        })
    }

    #[inline(always)]
    fn add_same(self, sum: __m256, d: __m256, x: f32) -> __m256 {
        step!(_mm256_fmadd_ps(d, _mm256_set1_ps(x), sum))
    }
}

/// Any processor: half of the rows and four of the vectors.
#[derive(Clone, Copy)]
pub(crate) struct Plain {
    pub isa: Isa,
    pub half: usize,
    pub first: usize,
}

impl Set<4> for Plain {
    type Whole = [i32; 8];
    type Float = [f32; 8];

    #[inline(always)]
    fn first(self) -> usize {
        self.first
    }

    #[inline(always)]
    fn same(self, x: i32) -> [i32; 8] {
        [x; 8]
    }

    #[inline(always)]
    fn wholes(self, from: &[i32; 16]) -> [i32; 8] {
        from.as_chunks().0[self.half]
    }

    #[inline(always)]
    fn floats(self, from: &[f32; 16]) -> [f32; 8] {
        from.as_chunks().0[self.half]
    }

    #[inline(always)]
    fn store(self, x: [f32; 8], to: &mut [f32; 16]) {
        to.as_chunks_mut().0[self.half] = x;
    }

    #[inline(always)]
    fn products(
        self,
        offsets: &[i32; GROUP],
        rows: &[Quads],
        xs: &[[[i8; 4]; GROUP]],
        bias: u8,
        _: u8,
    ) -> [[i32; 8]; 4] {
        let mut sums = [[0; 8]; 4];
        for t in 0..4 {
            sums[t] = self.same(if bias > 0 { offsets[self.first + t] } else { 0 });
        }
        for (row, xs) in rows.iter().zip(xs) {
            // Two numbers to a word of 32 bits: such pairs the compiler multiplies and adds in one step (pmaddwd).
            let words: [u32; 8] = row.0.as_chunks::<8>().0[self.half].map(u32::from_le_bytes);
            // Numbers 0 and 2, then 1 and 3.
            let pair = |word: u32| [word as i16 & 255, (word >> 16) as i16 & 255];
            let (even, odd) = (words.map(pair), words.map(|word| pair(word >> 8)));
            for t in 0..4 {
                let x = xs[self.first + t].map(i16::from);
                sums[t] = plus_pair(sums[t], &even, [x[0], x[2]]);
                sums[t] = plus_pair(sums[t], &odd, [x[1], x[3]]);
            }
        }
        sums
    }

    #[inline(always)]
    fn add_whole(self, sum: [i32; 8], a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        let mut out = sum;
        for l in 0..8 {
            out[l] += a[l] * b[l];
        }
        out
    }

    #[inline(always)]
    fn add_pair(self, sum: [i32; 8], a: &[[i16; 2]; 16], b: [i16; 2]) -> [i32; 8] {
        plus_pair(sum, &a.as_chunks().0[self.half], b)
    }

    #[inline(always)]
    fn add_float(self, sum: [f32; 8], d: [f32; 8], x: f32, whole: [i32; 8]) -> [f32; 8] {
        let mut out = sum;
        for l in 0..8 {
            out[l] = self.isa.mul_add(d[l] * x, whole[l] as f32, sum[l]);
        }
        out
    }

    #[inline(always)]
    fn add_same(self, sum: [f32; 8], d: [f32; 8], x: f32) -> [f32; 8] {
        let mut out = sum;
        for l in 0..8 {
            out[l] = self.isa.mul_add(d[l], x, sum[l]);
        }
        out
    }
}

/// `sum + a[0] * b[0] + a[1] * b[1]` in every lane.
#[inline(always)]
fn plus_pair(sum: [i32; 8], a: &[[i16; 2]; 8], b: [i16; 2]) -> [i32; 8] {
    let mut out = sum;
    for (out, a) in out.iter_mut().zip(a) {
        *out += i32::from(a[0]) * i32::from(b[0]) + i32::from(a[1]) * i32::from(b[1]);
    }
    out
}

/// Four bytes as the 32 bits that a broadcast takes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn four(x: [i8; 4]) -> i32 {
    i32::from_le_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8])
}

/// The same of two words.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn two(x: [i16; 2]) -> i32 {
    i32::from(x[1]) << 16 | i32::from(x[0] as u16)
}

/// The sums of neighbours.
///
/// Sixteen words become eight of 32 bits: the product with 1 is what widens and adds in one instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn neighbours(words: __m256i) -> __m256i {
    _mm256_madd_epi16(words, _mm256_set1_epi16(1))
}

/// What bytes have more than 128: magnitude, and the same with its sign.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn parted(bytes: __m256i) -> [__m256i; 2] {
    let signed = _mm256_xor_si256(bytes, _mm256_set1_epi8(i8::MIN));
    [_mm256_abs_epi8(signed), signed]
}
