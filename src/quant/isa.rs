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
///
/// Beside [`Isa::PORTABLE`] it is made in [`Isa::available`] alone, after the processor was asked, and by the unsafe
/// [`Isa::assume`]; so whoever holds one may call the code that was compiled for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa {
    level: Level,
    /// Whether AVX-512 multiplies bytes (VNNI).
    vnni: bool,
    /// Whether the processor says that it multiplies tiles of them (AMX) besides.
    tiles: bool,
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
    // Narrowest first, so the last is the best.
    let all = Isa::available();
    let wanted = std::env::var("REGGUF_ISA").unwrap_or_default();
    let best = all[all.len() - 1];
    all.into_iter().find(|isa| isa.name() == wanted).unwrap_or(best)
});

impl Isa {
    /// The baseline of the target that this binary was compiled for (SSE2 on x86-64, NEON on ARM64).
    pub const PORTABLE: Isa = Isa::of(Level::Portable);

    /// The widest instruction set of this machine, or the one that `REGGUF_ISA` names.
    ///
    /// The processor is asked once. A name that the machine does not have, or that is none, is passed over; all sets
    /// give the same bits, so the variable is for measurements and for tests.
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
                        let bytes = Isa { vnni: true, ..Isa::of(Level::Avx512) };
                        all.push(bytes);
                        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                        if tiles::named() {
                            all.push(Isa { tiles: true, ..bytes });
                        }
                    }
                }
            }
        }
        all
    }

    /// The name that `REGGUF_ISA` takes: `portable`, `avx2`, `avx512`, `avx512-vnni` or `avx512-amx`.
    pub fn name(self) -> &'static str {
        match self.level {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 if self.tiles => "avx512-amx",
            Level::Avx512 if self.vnni => "avx512-vnni",
            Level::Avx512 => "avx512",
        }
    }

    const fn of(level: Level) -> Isa {
        Isa { level, vnni: false, tiles: false }
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
        Isa { level, vnni, tiles: false }
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

    /// The same of the half at `at` of `bytes`.
    ///
    /// Eight bytes are loaded where there are as many, and one half of them converted: a load of two bytes goes through
    /// the unit that moves bytes between lanes, which kernels of nibbles keep busy.
    #[inline(always)]
    pub fn half_at(self, bytes: &[u8], at: usize) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Avx512
            && let Some(halves) = bytes.get(at..at + 8)
        {
            // SAFETY: AVX-512 is behind its level; eight bytes are read.
            return unsafe {
                let halves = _mm_loadl_epi64(halves.as_ptr().cast());
                _mm_cvtss_f32(_mm_maskz_cvtph_ps(1, halves))
            };
        }
        self.half(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
    }

    /// Asks for the memory `ahead` of `bytes`, which is wanted soon if it is there.
    ///
    /// Line by line of 64 bytes; `ahead` is in bytes.
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
    ///
    /// The compiler has an instruction for it from AVX2 on (FMA) and on ARM64; on x86 before that it would call the C
    /// library for each number.
    #[inline(always)]
    pub fn mul_add(self, w: f32, x: f32, sum: f32) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Portable {
            return rounded_once(w, x, sum);
        }
        w.mul_add(x, sum)
    }

    /// `sum + w * x` in every lane, rounded once.
    ///
    /// The same bits on every set, for a fused multiply-add has but one result. It is the step that dot products grow
    /// by.
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
        $crate::per_isa! { @vnni ($($arg: $ty),*) $(-> $ret)? = [$($told)?] $body; }
        if $isa.vnni() {
            // SAFETY: an `Isa` that multiplies bytes exists only where detection found VNNI.
            return unsafe { bytes($($arg),*) };
        }
    };
    (@vnni ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = [$($told:ident)?] $body:path;) => {
        $crate::per_isa! { @copy bytes "avx2,f16c,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
            Avx512 true ($($arg: $ty),*) $(-> $ret)? = [] [$($told)?] $body; }
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
pub(crate) mod points;
pub(crate) mod row;
pub(super) mod stored;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod tiles;
mod words;
