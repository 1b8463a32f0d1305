//! What narrowing scales from f32 to f16 costs.
//!
//! An f16 has eleven significant bits where an f32 has 24, so a scale changes by up to 2^-11 of itself, and every weight
//! of its block with it; by more below 2^-14, where a half has fewer bits. A scale that becomes zero or infinite is
//! counted apart, since a relative change says nothing about it.

use super::isa::Isa;

/// Makes other rows of rows of `row_len` weights.
pub(super) type Run = fn(isa: Isa, row_len: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss;

/// What narrowing the scales of some blocks did to them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ScaleLoss {
    /// Blocks seen.
    pub blocks: u64,
    /// Blocks of which a scale or minimum was rounded.
    pub changed: u64,
    /// The largest change of a scale relative to itself, of a minimum relative to the larger of it
    /// and the scale; over- and underflown blocks do not count here.
    pub max_relative_change: f32,
    /// Blocks that became zero, or constant, since the scale is too small for f16.
    pub underflow: u64,
    /// Blocks of which a scale or minimum is too large for f16.
    pub overflow: u64,
}

impl ScaleLoss {
    /// Both losses together.
    pub fn merge(self, other: ScaleLoss) -> ScaleLoss {
        ScaleLoss {
            blocks: self.blocks + other.blocks,
            changed: self.changed + other.changed,
            max_relative_change: self.max_relative_change.max(other.max_relative_change),
            underflow: self.underflow + other.underflow,
            overflow: self.overflow + other.overflow,
        }
    }

    /// Counts a block whose scale and minimum were `old` and are `new`.
    #[inline(always)]
    pub(super) fn count(&mut self, old: [f32; 2], new: [f32; 2]) {
        let [d, m] = old;
        let gone = |i: usize| new[i] == 0.0 && old[i] != 0.0;
        let over = |i: usize| new[i].is_infinite() && old[i].is_finite();
        let change = |i: usize, against: f32| {
            if new[i] == old[i] || old[i].is_nan() {
                0.0
            } else {
                (new[i] - old[i]).abs() / against
            }
        };
        let largest = change(0, d.abs()).max(change(1, m.abs().max(d.abs())));
        let underflow = gone(0) || d == 0.0 && gone(1);
        let overflow = over(0) || over(1);
        self.blocks += 1;
        self.changed += u64::from(largest > 0.0);
        self.underflow += u64::from(underflow);
        self.overflow += u64::from(overflow);
        let counted = if underflow || overflow { 0.0 } else { largest };
        self.max_relative_change = self.max_relative_change.max(counted);
    }
}
