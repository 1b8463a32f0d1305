//! Sixteen numbers side by side, one block or sub-block a lane, and the roundings that encoders use.
//!
//! Plain arrays: the compiler turns the loops into whatever vectors the instruction set has: one register of AVX-512,
//! two of AVX2, four of SSE2 or NEON.
//!
//! Branches of the originals become masks. `if better { scale = new }` is `scale = new.where_set(better, scale)`: both
//! sides are worked out in every lane, and a division by zero in a lane whose result is not taken does no harm.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// How many blocks are side by side.
pub const LANES: usize = 16;

/// One number a lane.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(64))]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// Zero in every lane.
    pub const ZERO: Lanes = Lanes([0.0; LANES]);

    /// The same number in every lane.
    #[inline(always)]
    pub fn splat(x: f32) -> Lanes {
        Lanes([x; LANES])
    }

    /// `f` of every lane.
    #[inline(always)]
    pub fn map(self, f: impl Fn(f32) -> f32) -> Lanes {
        let mut out = Lanes::ZERO;
        for (out, a) in out.0.iter_mut().zip(&self.0) {
            *out = f(*a);
        }
        out
    }

    /// `f` of every lane of two.
    #[inline(always)]
    pub fn zip(self, other: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
        let mut out = Lanes::ZERO;
        for (out, (a, b)) in out.0.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *out = f(*a, *b);
        }
        out
    }

    /// Every lane without its sign.
    #[inline(always)]
    pub fn magnitude(self) -> Lanes {
        self.map(f32::abs)
    }

    /// The square root of every lane.
    #[inline(always)]
    pub fn sqrt(self) -> Lanes {
        self.map(f32::sqrt)
    }

    /// The smaller, `self` where nothing is smaller: C `MIN(other, self)`.
    #[inline(always)]
    pub fn at_most(self, other: Lanes) -> Lanes {
        self.zip(other, |a, b| if b < a { b } else { a })
    }

    /// The larger, `self` where nothing is larger.
    ///
    /// Of a number and NaN it is `self`, on either side, as for C `MAX(other, self)`.
    #[inline(always)]
    pub fn at_least(self, other: Lanes) -> Lanes {
        self.zip(other, |a, b| if b > a { b } else { a })
    }

    /// The nearest integer, ties to even, of lanes that are known to lie within ±[`EXACT`].
    #[inline(always)]
    pub fn nearest(self) -> Lanes {
        // At 1.5 * 2^23 a unit of f32 is 1: the addition rounds, the subtraction is exact.
        self + Lanes::splat(MAGIC) - Lanes::splat(MAGIC)
    }

    /// [`nearest_int`] of every lane; NaN may stay what it is.
    #[inline(always)]
    pub fn nearest_int(self) -> Lanes {
        if self.magnitude().above(Lanes::splat(EXACT)).any() {
            return self.map(|x| nearest_int(x) as f32);
        }
        self.nearest()
    }

    /// Where a lane of `test` is set: the lane of `self`, else of `other`.
    #[inline(always)]
    pub fn where_set(self, test: Mask, other: Lanes) -> Lanes {
        let mut out = other;
        for ((out, a), set) in out.0.iter_mut().zip(&self.0).zip(&test.0) {
            *out = if *set != 0 { *a } else { *out };
        }
        out
    }

    /// Which lanes are larger than those of `other`.
    #[inline(always)]
    pub fn above(self, other: Lanes) -> Mask {
        let mut out = Mask::NONE;
        for (out, (a, b)) in out.0.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *out = -i32::from(a > b);
        }
        out
    }

    /// Which lanes are equal to those of `other`.
    #[inline(always)]
    pub fn equal(self, other: Lanes) -> Mask {
        let mut out = Mask::NONE;
        for (out, (a, b)) in out.0.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *out = -i32::from(a == b);
        }
        out
    }
}

/// One yes (all bits) or no (none) a lane.
///
/// Of 32 bits, as wide as a float, so that a mask and what it masks have the same registers.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Mask(pub [i32; LANES]);

impl Mask {
    /// No lane.
    pub const NONE: Mask = Mask([0; LANES]);

    /// The lanes that are not set.
    #[inline(always)]
    pub fn not(self) -> Mask {
        let mut out = self;
        for out in &mut out.0 {
            *out = !*out;
        }
        out
    }

    /// Either.
    #[inline(always)]
    pub fn or(self, other: Mask) -> Mask {
        let mut out = self;
        for (out, other) in out.0.iter_mut().zip(&other.0) {
            *out |= *other;
        }
        out
    }

    /// Both.
    #[inline(always)]
    pub fn and(self, other: Mask) -> Mask {
        let mut out = self;
        for (out, other) in out.0.iter_mut().zip(&other.0) {
            *out &= *other;
        }
        out
    }

    /// Whether any lane is set.
    #[inline(always)]
    pub fn any(self) -> bool {
        self.0.iter().fold(0, |any, set| any | set) != 0
    }
}

/// Up to here [`Lanes::nearest`] is right and the same as [`nearest_int`].
pub const EXACT: f32 = 4_194_303.0;

/// 1.5 * 2^23.
const MAGIC: f32 = 12_582_912.0;

/// The nearest integer, ties to even, as ggml `nearest_int`: outside ±2^22 the same wrong number.
///
/// The sum with 1.5 * 2^23 has the integer in its low 23 bits, 2^22 too high. NaN gives 0, which is
/// what the one NaN that x86 arithmetic itself makes gives there.
#[inline(always)]
pub fn nearest_int(x: f32) -> i32 {
    let x = if x.is_nan() { 0.0 } else { x };
    ((x + MAGIC).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

macro_rules! lane_operator {
    ($($trait:ident $method:ident $op:tt),*) => {$(
        impl $trait for Lanes {
            type Output = Lanes;
            #[inline(always)]
            fn $method(self, other: Lanes) -> Lanes {
                self.zip(other, |a, b| a $op b)
            }
        }
    )*};
}
lane_operator!(Add add +, Sub sub -, Mul mul *, Div div /);

impl Neg for Lanes {
    type Output = Lanes;
    #[inline(always)]
    fn neg(self) -> Lanes {
        self.map(|a| -a)
    }
}
