//! NVFP4 and MXFP4: floats of four bits, e2m1, with a small float for each 16 or 32 of a row.
//!
//! ```text
//! weight_packed or weight  [rows, cols / 2]   u8: the lower half is the even column
//!                          bits of a byte: 7-4 column 2j + 1, 3-0 column 2j; each s ee m
//!
//! compressed-tensors NVFP4   w = e2m1 * (e4m3(weight_scale[r][c / 16]) / weight_global_scale)
//! modelopt NVFP4             w = e2m1 * (e4m3(weight_scale[r][c / 16]) * weight_scale_2)
//! compressed-tensors MXFP4   w = e2m1 * 2^(weight_scale[r][c / 32] - 127)
//! ```
//!
//! In f32, one rounding for each sign. e2m1 is s ee m: 0 0.5 1 1.5 2 3 4 6, and the same below zero.
//! Source: compressed-tensors, compressors/nvfp4/base.py, compressors/mxfp4/base.py, quantization/lifecycle/
//! forward_helpers.py: _dequantize; modelopt, torch/quantization/qtensor/nvfp4_tensor.py: NVFP4QTensor.dequantize.

use super::{
    mxfp4::apart,
    part::{Blocks, Matrix, Part, Parts, Rows, WHOLE, in_memory},
    small::{E2M1, eight_bits},
};
use crate::{
    checkpoint::{Stored, dtype::NVFP4},
    error::{Error, Result},
};

/// The matrix of codes of four bits with a scale beside them; none of other tensors.
///
/// # Errors
/// Where parts are missing or do not fit.
pub fn matrix(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let Some((stem, four)) = Four::of(parts, stored)? else { return Ok(None) };
    let shape = vec![four.codes.rows, four.codes.columns * 2];
    Ok(Some(Matrix { name: stem.to_owned(), shape, parts: used(stem), rows: Box::new(four) }))
}

/// GGUF's blocks of a matrix of NVFP4 whose name `stays`, where its rows are whole ones; none of other tensors.
///
/// ```text
/// GGUF's block of 64   four bytes of scales, then for each 16 numbers 8 bytes: code j, and above it j + 8
/// ```
///
/// Nothing is rounded: every bit moves, and the number of the whole matrix goes beside it.
/// Source: llama.cpp, conversion/base.py: _nvfp4_pack.
///
/// # Errors
/// Where parts are missing or do not fit.
pub fn blocks(
    parts: &Parts,
    stored: &Stored,
    stays: &dyn Fn(&str) -> bool,
) -> Result<Option<Blocks>> {
    let Some((stem, four)) = Four::of(parts, stored)?.filter(|(stem, _)| stays(stem)) else {
        return Ok(None);
    };
    let Four { codes, scales, whole, .. } = four;
    let (rows, columns) = (codes.rows, codes.columns * 2);
    // The number of the whole matrix as GGUF has it, beside the blocks: always a factor.
    let scale = match whole {
        _ if !columns.is_multiple_of(NUMBERS) => return Ok(None),
        Of::Over(over) => 1.0 / over,
        Of::Times(times) => times,
        Of::Exponent => return Ok(None),
    };
    // What rounds the activations: each program keeps it the way round it keeps the other.
    // compressed-tensors divides by the global number, modelopt multiplies: GGUF multiplies.
    let module = stem.strip_suffix("weight").unwrap_or(stem);
    let of_input = ["input_global_scale", "input_scale"].map(|end| format!("{module}{end}"));
    let mut beside = vec![("scale", scale)];
    for (name, over) in of_input.iter().zip([true, false]) {
        let Some(part) = parts.optional(name, &["f32"])? else { continue };
        let found = part.floats(0..1, 0..1)?.first().copied().unwrap_or(1.0);
        beside.push(("input_scale", if over { 1.0 / found } else { found }));
    }
    let per_row = columns / NUMBERS;
    let len = per_row.saturating_mul(BYTES).saturating_mul(rows);
    let fill = move |at: u64, out: &mut [u8]| -> Result<()> {
        let (first, count) = (at / BYTES, out.len() as u64 / BYTES);
        if !at.is_multiple_of(BYTES) || count * BYTES != out.len() as u64 {
            return Err(Error::unsupported(format!("a part of a block at {at:#x}"), ""));
        }
        let rows = first / per_row..(first + count).div_ceil(per_row);
        let skip = in_memory(first - rows.start * per_row)?;
        let all_codes = codes.bytes(rows.clone(), 0..codes.columns)?;
        let all_scales = scales.bytes(rows, 0..scales.columns)?;
        let of_blocks = all_codes.as_chunks::<32>().0.iter().zip(all_scales.as_chunks::<4>().0);
        for (block, (codes, scales_of)) in
            out.chunks_exact_mut(in_memory(BYTES)?).zip(of_blocks.skip(skip))
        {
            // GGUF's scale has no sign, and 0x7f is no number: a scale that is neither cannot be moved.
            if let Some(byte) = scales_of.iter().find(|byte| **byte >= 0x7f) {
                let bad = eight_bits("float8_e4m3fn")
                    .and_then(|all| all.get(usize::from(*byte)).copied());
                return Err(scales.bad(bad.unwrap_or(f32::NAN)));
            }
            let (head, halves) = block.split_at_mut(scales_of.len());
            head.copy_from_slice(scales_of);
            for (codes, halves) in codes.chunks_exact(8).zip(halves.chunks_exact_mut(8)) {
                apart(codes, halves);
            }
        }
        Ok(())
    };
    Ok(Some(Blocks {
        name: stem.to_owned(),
        dtype: &NVFP4,
        shape: vec![rows, columns],
        stride: vec![columns, 1],
        parts: used(stem),
        beside,
        len,
        fill: Box::new(fill),
    }))
}

/// Numbers of a block of GGUF's.
const NUMBERS: u64 = 64;
/// Bytes of one.
const BYTES: u64 = 36;

/// The names of what a matrix is made of.
fn used(stem: &str) -> Vec<String> {
    ["_packed", "_scale", "_global_scale", "_scale_2"].map(|end| format!("{stem}{end}")).to_vec()
}

/// What the scale of a group is made of beside its stored byte.
enum Of {
    /// An e4m3 over the number of the whole matrix.
    Over(f32),
    /// An e4m3 times that number.
    Times(f32),
    /// A power of two.
    Exponent,
}

/// A matrix of codes of four bits, `group` of which share a scale, and what all scales are divided by or multiplied
/// with.
struct Four {
    codes: Part,
    scales: Part,
    group: usize,
    whole: Of,
}

impl Four {
    /// The parts of codes of four bits with a scale beside them, and the name of their matrix; none of other tensors.
    fn of<'s>(parts: &Parts, stored: &'s Stored) -> Result<Option<(&'s str, Four)>> {
        let stem = stored.name.strip_suffix("_packed").unwrap_or(&stored.name);
        let scale = format!("{stem}_scale");
        if stored.dtype.name != "u8" || !stem.ends_with(".weight") || parts.find(&scale).is_none() {
            return Ok(None);
        }
        let codes = parts.part(&stored.name, &stored.name, &["u8"])?;
        let types = ["float8_e4m3fn", "u8", "float8_e8m0fnu"];
        let scales = parts.part(&stored.name, &scale, &types)?;
        let number = |end: &str| -> Result<Option<f32>> {
            let Some(part) = parts.optional(&format!("{stem}{end}"), &["f32"])? else {
                return Ok(None);
            };
            let found = part.floats(0..1, 0..1)?.first().copied().unwrap_or(0.0);
            if found > 0.0 { Ok(Some(found)) } else { Err(part.bad(found)) }
        };
        let (over, times) = (number("_global_scale")?, number("_scale_2")?);
        let odd = |what: &str| Err(parts.odd(&stored.name, what, WHOLE));
        // The type of the scales tells MXFP4 from NVFP4, the name of the other number one library's NVFP4 from the
        // other's.
        let (group, whole) = match (scales.dtype.name, over, times) {
            ("float8_e4m3fn", Some(over), None) => (16, Of::Over(over)),
            ("float8_e4m3fn", None, Some(times)) => (16, Of::Times(times)),
            ("float8_e4m3fn", None, None) => {
                return odd("no weight_global_scale and no weight_scale_2");
            }
            ("u8" | "float8_e8m0fnu", None, None) => (32, Of::Exponent),
            _ => return odd("scales of two kinds"),
        };
        let columns = codes.columns * 2;
        if scales.rows != codes.rows || scales.columns * group != columns {
            let what =
                format!("codes {} with scales {}, one for {group}", codes.shape(), scales.shape());
            return Err(parts.odd(&stored.name, what, WHOLE));
        }
        Ok(Some((stem, Four { codes, scales, group: in_memory(group)?, whole })))
    }
}

impl Rows for Four {
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let columns = in_memory(self.codes.columns * 2)?;
        let rows = first..first + (out.len() / columns) as u64;
        let codes = self.codes.bytes(rows.clone(), 0..self.codes.columns)?;
        let scales = self.scales.bytes(rows, 0..self.scales.columns)?;
        let e4m3 = eight_bits("float8_e4m3fn").unwrap_or([f32::NAN; 256]);
        let mut values = E2M1;
        if let (Of::Times(_), Some(zero)) = (&self.whole, values.get_mut(8)) {
            // modelopt's table has no zero with a sign.
            *zero = 0.0;
        }
        let groups = codes.chunks_exact(self.group / 2).zip(out.chunks_exact_mut(self.group));
        for ((codes, out), byte) in groups.zip(scales) {
            let small = || e4m3.get(usize::from(byte)).copied().unwrap_or(f32::NAN);
            let scale = match self.whole {
                Of::Over(over) => small() / over,
                Of::Times(times) => small() * times,
                // 2^-127 has no exponent of its own in f32.
                Of::Exponent if byte == 0 => f32::from_bits(0x0040_0000),
                Of::Exponent => f32::from_bits(u32::from(byte) << 23),
            };
            if !scale.is_finite() {
                return Err(self.scales.bad(scale));
            }
            for (code, out) in codes.iter().zip(out.chunks_exact_mut(2)) {
                let value =
                    |code: u8| values.get(usize::from(code)).copied().unwrap_or(0.0) * scale;
                if let [even, odd] = out {
                    (*even, *odd) = (value(code & 15), value(code >> 4));
                }
            }
        }
        Ok(())
    }
}
