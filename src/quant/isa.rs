//! Instruction sets: one body of code per kernel, compiled once for each, chosen at run time.
//!
//! A kernel is an ordinary `#[inline(always)]` function over slices and small lane arrays.
//! [`per_isa!`](crate::per_isa) compiles it again under each `#[target_feature]` set and picks by an [`Isa`] value.
//! Rust never contracts `a * b + c` and never reorders float sums, and where a kernel asks for a fused multiply-add
//! ([`Isa::mul_add`]) every set rounds once, so every copy gives the same bits.
//!
//! The compiler finds vector code in most of them. Where measurements show that it does not, or only in
//! some surroundings, [`Isa`] has the few steps over sixteen lanes that are written out for each set.

#![allow(unsafe_code, reason = "calling a #[target_feature] function is the one unsafe step")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::half::f32_from_half;

/// An instruction set that this machine is known to have: the value is the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa {
    level: Level,
    /// Whether AVX-512 multiplies bytes (VNNI).
    vnni: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "which levels exist depends on the target")]
#[doc(hidden)]
pub enum Level {
    Portable,
    Avx2,
    Avx512,
}

static BEST: LazyLock<Isa> = LazyLock::new(|| {
    let all = Isa::available();
    let wanted = std::env::var("REGGUF_ISA").unwrap_or_default();
    let best = all[all.len() - 1];
    all.into_iter().find(|isa| isa.name() == wanted).unwrap_or(best)
});

impl Isa {
    /// The baseline of the target that this binary was compiled for (SSE2 on x86-64, NEON on ARM64).
    pub const PORTABLE: Isa = Isa::of(Level::Portable);

    /// The widest instruction set of this machine, or the one that `REGGUF_ISA` names.
    pub fn best() -> Isa {
        *BEST
    }

    /// Every instruction set that this machine has, narrowest first; for tests and benchmarks.
    pub fn available() -> Vec<Isa> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "nothing to add"))]
        let mut all = vec![Isa::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("fma")
            {
                all.push(Isa::of(Level::Avx2));
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                {
                    all.push(Isa::of(Level::Avx512));
                    if is_x86_feature_detected!("avx512vnni") {
                        all.push(Isa { vnni: true, ..Isa::of(Level::Avx512) });
                    }
                }
            }
        }
        all
    }

    /// The name that `REGGUF_ISA` takes: `portable`, `avx2`, `avx512` or `avx512-vnni`.
    pub fn name(self) -> &'static str {
        match self.level {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 if self.vnni => "avx512-vnni",
            Level::Avx512 => "avx512",
        }
    }

    const fn of(level: Level) -> Isa {
        Isa { level, vnni: false }
    }

    #[doc(hidden)]
    pub fn vnni(self) -> bool {
        self.vnni
    }

    #[doc(hidden)]
    pub fn level(self) -> Level {
        self.level
    }

    /// The set `level`, with VNNI or without, where code runs that is compiled for it.
    ///
    /// # Safety
    /// The machine has it.
    #[doc(hidden)]
    // SAFETY: the caller's promise, above.
    pub const unsafe fn assume(level: Level, vnni: bool) -> Isa {
        Isa { level, vnni }
    }

    /// The value of a half, exactly; a NaN as some NaN.
    #[inline(always)]
    pub fn half(self, half: u16) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if self.level != Level::Portable {
            // SAFETY: an `Isa` of these levels exists only where detection found F16C.
            return unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half.into()))) };
        }
        f32_from_half(half)
    }

    /// Asks for the memory `ahead` of `bytes`, which is wanted soon if it is there.
    #[inline(always)]
    pub fn prefetch(self, bytes: &[u8], ahead: usize) {
        #[cfg(target_arch = "x86_64")]
        for at in (0..bytes.len()).step_by(64) {
            let place = bytes.as_ptr().wrapping_add(ahead + at);
            // SAFETY: a hint, which reads nothing, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (bytes, ahead);
    }

    /// `w * x + sum`, rounded once.
    #[inline(always)]
    pub fn mul_add(self, w: f32, x: f32, sum: f32) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Portable {
            return rounded_once(w, x, sum);
        }
        w.mul_add(x, sum)
    }

    /// `sum + w * x` in every lane, rounded once.
    #[inline(always)]
    pub fn add_product(self, sum: &mut [f32; 16], w: &[f32; 16], x: &[f32; 16]) {
        #[cfg(target_arch = "x86_64")]
        {
            let (to, w, x) = (sum.as_mut_ptr(), w.as_ptr(), x.as_ptr());
            // SAFETY: AVX2 with FMA and AVX-512 are behind their levels; each array has sixteen numbers.
            unsafe {
                match self.level {
                    Level::Avx512 => {
                        let (w, x) = (_mm512_loadu_ps(w), _mm512_loadu_ps(x));
                        _mm512_storeu_ps(to, _mm512_fmadd_ps(w, x, _mm512_loadu_ps(to)));
                        return;
                    }
                    Level::Avx2 => {
                        for at in [0, 8] {
                            let (w, x) = (_mm256_loadu_ps(w.add(at)), _mm256_loadu_ps(x.add(at)));
                            let to = to.add(at);
                            _mm256_storeu_ps(to, _mm256_fmadd_ps(w, x, _mm256_loadu_ps(to)));
                        }
                        return;
                    }
                    Level::Portable => {}
                }
            }
        }
        for l in 0..16 {
            sum[l] = self.mul_add(w[l], x[l], sum[l]);
        }
    }

    /// The lanes of four sums as four numbers, added in halves as `infer::dot::total` does:
    ///
    /// ```text
    /// a, b, c, d         16 lanes each
    /// [a a a a b b b b]  lanes l and l + 8 added; the same of c and d
    /// [a a b b c c d d]  lanes l and l + 4 added
    /// [a - b - c - d -]  lanes l and l + 2, then l and l + 1
    /// ```
    #[inline(always)]
    pub fn totals(self, sums: &[[f32; 16]; 4]) -> [f32; 4] {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512 {
            let mut out = [0.0; 4];
            // SAFETY: AVX-512 as above; each sum has sixteen numbers and `out` has four.
            unsafe {
                let [a, b, c, d] = sums.each_ref().map(|sum| _mm512_loadu_ps(sum.as_ptr()));
                // Quarters 0 and 1 of both beside each other, and 2 and 3.
                let ab = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                    _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
                );
                let cd = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                    _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
                );
                let all = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
                );
                let all = _mm512_add_ps(all, _mm512_permute_ps::<0b01_00_11_10>(all));
                let all = _mm512_add_ps(all, _mm512_permute_ps::<0b10_11_00_01>(all));
                let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
                let all = _mm512_permutexvar_ps(firsts, all);
                _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(all));
            }
            return out;
        }
        sums.map(|mut lanes| {
            for half in [8, 4, 2, 1] {
                for l in 0..half {
                    lanes[l] += lanes[l + half];
                }
            }
            lanes[0]
        })
    }

    /// `d * (w - bias) - m` for the nibbles of sixteen bytes, the low ones and the high ones.
    #[inline(always)]
    pub fn nibbles(self, bytes: &[u8; 16], bias: i8, d: f32, m: f32) -> [[f32; 16]; 2] {
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

    /// Of sixteen levels those that the low nibbles of sixteen bytes name, and those of the high ones, as bytes.
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
                    let w = _mm512_mask_or_epi32(w, fifth, w, _mm512_set1_epi32(16));
                    let w = _mm512_cvtepi32_ps(_mm512_sub_epi32(w, _mm512_set1_epi32(bias.into())));
                    let w = _mm512_mul_ps(w, _mm512_set1_ps(d));
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(w, _mm512_set1_ps(m)));
                }
            }
            return out;
        }
        let (bytes, nibbles) = (u128::from_le_bytes(*bytes), u128::MAX / 255 * 15);
        let above = self.fifth_bits(high).map(u128::from);
        let low = bytes & nibbles | above[0] | above[1] << 64;
        let low = self.times(self.numbers(low, bias), d, m);
        let high = bytes >> 4 & nibbles | above[2] | above[3] << 64;
        [low, self.times(self.numbers(high, bias), d, m)]
    }

    /// Thirty-two bytes, each less `bias`, times the signed byte `2 * pair` of `scales` the first half and times the
    /// next the second.
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
    #[inline(always)]
    pub fn numbers(self, bytes: u128, bias: i8) -> [f32; 16] {
        let mut out = [0.0; 16];
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: AVX2 and AVX-512 are behind their levels; sixteen numbers are written.
            unsafe {
                let bytes = std::mem::transmute::<u128, __m128i>(bytes);
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
}

/// Bit `i` of eight as bit 4 of byte `i`: a copy in each, all but one bit of it taken away, that one carried up.
#[inline(always)]
fn fifth_bits(bits: u32) -> u64 {
    const EACH: u64 = u64::MAX / 255;
    let one = (u64::from(bits & 255) * EACH) & 0x8040_2010_0804_0201;
    ((one + EACH * 0x7f) >> 3) & (EACH * 16)
}

/// `w * x + sum` rounded once, for processors of before 2013, which have no instruction for it.
///
/// ```text
/// whole = w * x            exact: 24 and 24 bits fit into the 53 of a float64
/// near  = whole + sum      rounded to 53 bits, `rest` is what that left out, exactly (Knuth)
/// odd   = near, one unit toward `rest` where `rest` is not zero and near's last bit is
/// ```
///
/// A float64 with the last bit set is never halfway between two float32, so rounding `odd` is rounding
/// the exact sum (Boldo and Melquiond 2008).
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn rounded_once(w: f32, x: f32, sum: f32) -> f32 {
    let (whole, sum) = (f64::from(w) * f64::from(x), f64::from(sum));
    let near = whole + sum;
    let other = near - whole;
    let rest = (whole - (near - other)) + (sum - other);
    let bits = near.to_bits();
    let inexact = (rest > 0.0) | (rest < 0.0);
    let away = (rest > 0.0) == (near > 0.0);
    let step = if inexact & (bits & 1 == 0) { if away { 1 } else { u64::MAX } } else { 0 };
    f64::from_bits(bits.wrapping_add(step)) as f32
}

/// Defines `fn NAME(isa: Isa, args…)` that runs `BODY(args…)` compiled for `isa`.
///
/// `per_isa! { /// Doc. pub fn encode(rows: &[f32], out: &mut [u8]) = encode_body; }`
/// `BODY` and all it calls in its hot loop must be `#[inline(always)]`. Written `BODY[isa]` it is told
/// the set that it is compiled for, a constant there, as its first argument. With `, up to avx2` there
/// is no AVX-512 copy, where a measurement showed it to be slower. With `, avx2 other` a function
/// `other` with `#[target_feature(enable = "avx2")]` does the work from AVX2 on. With `, and vnni` there is a
/// fourth copy, for AVX-512 with VNNI.
#[macro_export]
macro_rules! per_isa {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident $(<const $n:ident: usize>)?
        ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
        = $body:path $([$told:ident])? $(, up to $most:ident)? $(, avx2 $wide:path)? $(, and $more:ident)?;)+) => {$(
        $(#[$doc])*
        #[allow(unsafe_code, clippy::too_many_arguments, reason = "see quant::isa")]
        $vis fn $name $(<const $n: usize>)?
            (isa: $crate::quant::isa::Isa, $($arg: $ty),*) $(-> $ret)?
        {
            #[cfg(target_arch = "x86_64")]
            {
                $crate::per_isa! { @copy avx2 "avx2,f16c,fma" Avx2 false $(<const $n: usize>)?
                    ($($arg: $ty),*) $(-> $ret)? = [$($wide)?] [$($told)?] $body; }
                $crate::per_isa! { @widest [$($most)?] $(<const $n: usize>)?
                    ($($arg: $ty),*) $(-> $ret)? = [$($wide)?] [$($told)?] $body; }
                $crate::per_isa! { @bytes [$($more)?] isa ($($arg: $ty),*) $(-> $ret)?
                    = [$($told)?] $body; }
                match isa.level() {
                    // SAFETY: an `Isa` of this level exists only where detection found its features.
                    $crate::quant::isa::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above; the widest set includes AVX2.
                    $crate::quant::isa::Level::Avx512 => return unsafe { widest($($arg),*) },
                    $crate::quant::isa::Level::Portable => {}
                }
            }
            let _ = isa;
            $body($({ let $told = $crate::quant::isa::Isa::PORTABLE; $told },)? $($arg),*)
        }
    )+};
    (@bytes [] $($rest:tt)*) => {};
    (@bytes [vnni] $isa:ident ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?
        = [$($told:ident)?] $body:path;) => {
        $crate::per_isa! { @copy bytes "avx2,f16c,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
            Avx512 true ($($arg: $ty),*) $(-> $ret)? = [] [$($told)?] $body; }
        if $isa.vnni() {
            // SAFETY: an `Isa` that multiplies bytes exists only where detection found VNNI.
            return unsafe { bytes($($arg),*) };
        }
    };
    (@widest [avx2] $(<const $n:ident: usize>)? ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?
        = [$($wide:path)?] [$($told:ident)?] $body:path;) => {
        #[target_feature(enable = "avx2,f16c,fma")]
        fn widest $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? { avx2 $(::<$n>)? ($($arg),*) }
    };
    (@widest [] $($rest:tt)*) => {
        $crate::per_isa! { @copy widest "avx2,f16c,fma,avx512f,avx512bw,avx512vl,avx512dq" Avx512 false $($rest)* }
    };
    (@copy $name:ident $features:literal $level:ident $vnni:literal $(<const $n:ident: usize>)?
        ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = [$wide:path] [] $body:path;) => {
        #[inline]
        #[target_feature(enable = $features)]
        fn $name $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? { $wide($($arg),*) }
    };
    (@copy $name:ident $features:literal $level:ident $vnni:literal $(<const $n:ident: usize>)?
        ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = [] [$($told:ident)?] $body:path;) => {
        #[target_feature(enable = $features)]
        fn $name $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
            $(
                // SAFETY: this function runs only where the machine has the set.
                let $told = unsafe {
                    $crate::quant::isa::Isa::assume($crate::quant::isa::Level::$level, $vnni)
                };
            )?
            $body($($told,)? $($arg),*)
        }
    };
}

pub(crate) mod bytes;
#[cfg(test)]
mod tests;
mod words;
