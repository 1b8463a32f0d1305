//! Columns that share a scale and a zero point.
//!
//! Kernels want stretches, not a group for each column: with groups in their order there are as many stretches as
//! groups, with a list (GPTQ's act-order) at most as many as columns.

use std::ops::Range;

use super::part::{Part, Parts, WHOLE, in_memory};
use crate::error::{Error, Result};

/// Which group a column belongs to.
pub enum Groups {
    /// N columns each, one group after the other.
    Runs(u64),
    /// A part says it for each.
    Listed(Part),
}

impl Groups {
    /// Stretches of columns of one group each.
    ///
    /// # Errors
    /// Where the list cannot be read or names a group that does not exist.
    pub fn runs(&self, columns: u64, groups: u64) -> Result<Vec<(Range<usize>, usize)>> {
        let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
        match self {
            Groups::Runs(size) => {
                for (group, first) in (0u64..).zip((0..columns).step_by(in_memory(*size)?)) {
                    let end = (first + size).min(columns);
                    runs.push((in_memory(first)?..in_memory(end)?, in_memory(group)?));
                }
            }
            Groups::Listed(part) => {
                let bytes = part.bytes(0..part.rows, 0..part.columns)?;
                let width = in_memory(part.dtype.width())?;
                for (column, bytes) in bytes.chunks_exact(width).enumerate() {
                    // i64 or i32, as the part says; a negative number names no group.
                    let number = match bytes.first_chunk::<8>() {
                        Some(long) => i64::from_le_bytes(*long),
                        None => bytes.first_chunk().map_or(-1, |b| i32::from_le_bytes(*b).into()),
                    };
                    let group = u64::try_from(number).ok().filter(|group| *group < groups);
                    let Some(group) = group else {
                        let what = format!("{}: column {column} in group {number}", part.name);
                        return Err(Error::refused(format!("{what} of {groups}"), WHOLE));
                    };
                    let group = in_memory(group)?;
                    match runs.last_mut() {
                        Some((run, of)) if *of == group => run.end = column + 1,
                        _ => runs.push((column..column + 1, group)),
                    }
                }
            }
        }
        Ok(runs)
    }
}

/// `scale * (code - zero)`, one rounding.
///
/// The difference is at most 2^8 in size and exact in f32; so is its product with a scale of f16 or bf16, which has at
/// most 11 + 9 bits. Only scales of f32 make it round.
pub fn scaled(codes: &[u8], zero: u32, scale: f32, out: &mut [f32]) {
    let zero = zero.cast_signed();
    for (out, code) in out.iter_mut().zip(codes) {
        #[expect(clippy::cast_precision_loss, reason = "codes and zeros have eight bits")]
        let steps = (i32::from(*code) - zero) as f32;
        *out = scale * steps;
    }
}

/// The refusal of codes, scales and zero points whose shapes do not fit each other.
pub fn unfit(parts: &Parts, codes: &Part, scales: &Part, zeros: &Part) -> Error {
    let [shape, scales, zeros] = [codes, scales, zeros].map(Part::shape);
    let what = format!("the shape {shape} with scales {scales} and qzeros {zeros}");
    parts.odd(&codes.name, what, WHOLE)
}
