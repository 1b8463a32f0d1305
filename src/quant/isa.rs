//! Instruction sets: one body of code per kernel, compiled once for each, chosen at run time.
//!
//! A kernel is an ordinary `#[inline(always)]` function over slices and small lane arrays.
//! [`per_isa!`](crate::per_isa) compiles it again under each `#[target_feature]` set and picks by an [`Isa`] value.
//! Rust never contracts `a * b + c` and never reorders float sums, so every copy gives the same bits.

#![allow(unsafe_code, reason = "calling a #[target_feature] function is the one unsafe step")]

use std::sync::LazyLock;

/// An instruction set that this machine is known to have: the value is the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

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
    pub const PORTABLE: Isa = Isa(Level::Portable);

    /// The widest instruction set of this machine, or the one that `REGGUF_ISA` names.
    pub fn best() -> Isa {
        *BEST
    }

    /// Every instruction set that this machine has, narrowest first; for tests and benchmarks.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
                all.push(Isa(Level::Avx2));
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                {
                    all.push(Isa(Level::Avx512));
                }
            }
        }
        all
    }

    /// The name that `REGGUF_ISA` takes: `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    #[doc(hidden)]
    pub fn level(self) -> Level {
        self.0
    }
}

/// Defines `fn NAME(isa: Isa, args…)` that runs `BODY(args…)` compiled for `isa`.
///
/// `per_isa! { /// Doc. pub fn encode(rows: &[f32], out: &mut [u8]) = encode_body; }`
/// `BODY` and all it calls in its hot loop must be `#[inline(always)]`. With `= encode_body, up to avx2;`
/// there is no AVX-512 copy, where a measurement showed it to be slower.
#[macro_export]
macro_rules! per_isa {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path $(, up to $most:ident)?;)+) => {$(
        $(#[$doc])*
        #[allow(unsafe_code, clippy::too_many_arguments, reason = "see quant::isa")]
        $vis fn $name(isa: $crate::quant::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,f16c")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                $crate::per_isa! { @widest [$($most)?] ($($arg: $ty),*) $(-> $ret)? = $body; }
                match isa.level() {
                    // SAFETY: an `Isa` of this level exists only where detection found its features.
                    $crate::quant::isa::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above; the widest set includes AVX2.
                    $crate::quant::isa::Level::Avx512 => return unsafe { widest($($arg),*) },
                    $crate::quant::isa::Level::Portable => {}
                }
            }
            let _ = isa;
            $body($($arg),*)
        }
    )+};
    (@widest [avx2] ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:path;) => {
        #[target_feature(enable = "avx2,f16c")]
        fn widest($($arg: $ty),*) $(-> $ret)? { avx2($($arg),*) }
    };
    (@widest [] ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:path;) => {
        #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        fn widest($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
    };
}
