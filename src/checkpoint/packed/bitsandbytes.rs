//! bitsandbytes: codes of four bits into a table (nf4, fp4), and bytes with a scale a row (int8).
//!
//! ```text
//! w[i] = quant_map[q] * absmax[i / blocksize]       in f32, i counts over the whole matrix
//!
//! weight                    u8: two codes a byte, the upper half first
//!                           byte j: bits 7-4 are the code of number 2j, bits 3-0 that of 2j + 1
//! weight.quant_map          f32, 16
//! weight.absmax             f32; or u8 where they are quantized once more:
//!                           absmax[j] = nested_quant_map[absmax[j]] * nested_absmax[j / nested_blocksize] + nested_offset
//! weight.quant_state.bitsandbytes__nf4, __fp4   u8: JSON of shape, blocksize, nested_blocksize, nested_offset
//!
//! w[r][c] = weight[r][c] * SCB[r] * (1 / 127)       in f32, from the left
//!
//! weight                    i8
//! SCB                       f32, one a row
//! weight_format             u8: 0, rows as they are
//! ```
//!
//! Source: bitsandbytes, functional.py: QuantState, dequantize_4bit; backends/default/ops.py; _ops.py:
//! int8_vectorwise_dequant; nn/modules.py: Linear8bitLt.

use serde_json::Value as Json;

use super::part::{Matrix, Part, Parts, Rows, WHOLE, in_memory};
use crate::{checkpoint::Stored, error::Result};

/// The longest state: a dozen numbers and words.
const LONGEST_STATE: u64 = 1 << 16;
/// One over 127, as the library writes it.
/// Its kernel multiplies by this constant, which is not the same as to divide by 127.
const PER_STEP: f32 = 7.874_016e-3;

/// The matrix of a `weight` of four bits; none of other tensors.
///
/// # Errors
/// Where parts are missing or do not fit.
pub fn four_bits(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let name = &stored.name;
    let named = |end: &str| format!("{name}.{end}");
    if parts.find(&named("absmax")).is_none() {
        return Ok(None);
    }
    let odd = |what: String| parts.odd(name, what, WHOLE);
    // Both kinds are read alike: the table of 16 values is stored with the weights.
    let kinds = ["quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4"];
    let kind = kinds.into_iter().find(|kind| parts.find(&named(kind)).is_some());
    let Some(kind) = kind else {
        return Err(odd("no quant_state.bitsandbytes__nf4 or __fp4 beside it".to_owned()));
    };
    let state = parts.part(name, &named(kind), &["u8"])?;
    let read = |end: &str, types: &[&str]| parts.part(name, &named(end), types);
    let bytes = state.bytes(0..1, 0..state.len().min(LONGEST_STATE))?;
    let state: Json = serde_json::from_slice(&bytes)
        .map_err(|error| parts.odd(&named(kind), format!("no JSON: {error}"), WHOLE))?;
    let number = |key: &str| state.get(key).and_then(Json::as_u64).filter(|n| *n > 0);
    let sizes = state.get("shape").and_then(Json::as_array).map(Vec::as_slice);
    let (Some([rows, columns]), Some(block)) = (sizes, number("blocksize")) else {
        return Err(parts.odd(&named(kind), "no shape of a matrix, or no blocksize", WHOLE));
    };
    let (rows, columns) = (rows.as_u64().unwrap_or(0), columns.as_u64().unwrap_or(0));
    // Stored as [bytes, 1]: the shape is in the state alone.
    let codes = read_flat(parts, name, &["u8"])?;
    let count = rows.saturating_mul(columns);
    let absmax = read("absmax", &["f32", "u8"])?;
    if count == 0 || codes.len() != count.div_ceil(2) || absmax.len() != count.div_ceil(block) {
        return Err(odd(format!(
            "{} bytes and {} absmax for [{rows}, {columns}] in blocks of {block}",
            codes.len(),
            absmax.len()
        )));
    }
    let table = |end: &str, n: usize| -> Result<Vec<f32>> {
        let part = read(end, &["f32"])?;
        let table = part.floats(0..1, 0..part.columns.min(n as u64))?;
        let short = || parts.odd(&part.name, format!("{} numbers, wanted {n}", part.len()), WHOLE);
        (table.len() == n && part.len() == n as u64).then_some(table).ok_or_else(short)
    };
    let map = table("quant_map", 16)?;
    // Double quantization: blocks of absmax have an absmax of their own, around a mean that was taken off (the
    // offset).
    let twice = if absmax.dtype.name == "u8" {
        let (map, scales) = (table("nested_quant_map", 256)?, read("nested_absmax", &["f32"])?);
        let block = number("nested_blocksize").unwrap_or(256);
        let offset = state.get("nested_offset").and_then(crate::checkpoint::json::float);
        let Some(offset) = offset.filter(|_| scales.len() == absmax.len().div_ceil(block)) else {
            let what = format!("nested_absmax {} of blocks of {block}", scales.shape());
            return Err(odd(format!("{what}, or no nested_offset")));
        };
        Some(Nested { map, scales, block, offset })
    } else {
        None
    };
    let ends = ["absmax", "quant_map", "nested_absmax", "nested_quant_map", kind];
    let used = ends.map(named).to_vec();
    let rows_of = Box::new(FourBits { codes, absmax, twice, map, columns, count, block });
    let (name, shape) = (name.clone(), vec![rows, columns]);
    Ok(Some(Matrix { name, shape, parts: used, rows: rows_of }))
}

/// A part whose numbers are one behind the other, whatever its shape.
fn read_flat(parts: &Parts, name: &str, types: &[&str]) -> Result<Part> {
    let mut part = parts.part(name, name, types)?;
    (part.rows, part.columns) = (1, part.len());
    Ok(part)
}

/// Scales that are quantized themselves.
struct Nested {
    map: Vec<f32>,
    scales: Part,
    block: u64,
    offset: f32,
}

/// A matrix of codes of four bits; `twice` where its scales are codes too.
struct FourBits {
    codes: Part,
    absmax: Part,
    twice: Option<Nested>,
    map: Vec<f32>,
    columns: u64,
    count: u64,
    /// Numbers that share an absmax.
    block: u64,
}

impl FourBits {
    /// The scales of blocks from `first` to before `last`.
    fn scales(&self, first: u64, last: u64) -> Result<Vec<f32>> {
        let Some(twice) = &self.twice else { return self.absmax.floats(0..1, first..last) };
        let codes = self.absmax.bytes(0..1, first..last)?;
        // Blocks of scales, counted over all of them; those that hold the first and the last are read whole.
        let begin = first / twice.block;
        let scales = twice.scales.floats(0..1, begin..last.div_ceil(twice.block))?;
        let scale = |(j, code): (u64, u8)| {
            let place = usize::try_from(j / twice.block - begin).unwrap_or(usize::MAX);
            let value = twice.map.get(usize::from(code)).copied().unwrap_or(f32::NAN);
            let scale = scales.get(place).copied().unwrap_or(f32::NAN);
            value * scale + twice.offset
        };
        Ok((first..).zip(codes).map(scale).collect())
    }
}

impl Rows for FourBits {
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()> {
        // Blocks do not end where rows do: everything is counted in numbers of the whole matrix.
        let begin = first * self.columns;
        let end = (begin + out.len() as u64).min(self.count);
        let codes = self.codes.bytes(0..1, begin / 2..end.div_ceil(2))?;
        let scales = self.scales(begin / self.block, end.div_ceil(self.block))?;
        let (mut at, mut out) = (begin, out);
        for scale in scales {
            let next = ((at / self.block + 1) * self.block).min(end);
            let (now, rest) = std::mem::take(&mut out).split_at_mut(in_memory(next - at)?);
            // 16 products a block in place of one a number; the result is the same.
            let table: Vec<f32> = self.map.iter().map(|value| value * scale).collect();
            for (i, out) in (at..).zip(now) {
                let byte = codes.get(in_memory(i / 2 - begin / 2)?).copied().unwrap_or(0);
                let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
                *out = table.get(usize::from(code)).copied().unwrap_or(f32::NAN);
            }
            (at, out) = (next, rest);
        }
        Ok(())
    }
}

/// The matrix of a `weight` of bytes with an `SCB`; none of other tensors.
///
/// # Errors
/// Where the scales do not fit, or rows are in an order of some device.
pub fn eight_bits(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let Some(stem) = stored.name.strip_suffix(".weight") else { return Ok(None) };
    let (scale, format) = (format!("{stem}.SCB"), format!("{stem}.weight_format"));
    if stored.dtype.name != "i8" || parts.find(&scale).is_none() {
        return Ok(None);
    }
    let codes = parts.part(&stored.name, &stored.name, &["i8"])?;
    let scales = parts.part(&stored.name, &scale, &["f32", "f16"])?;
    if scales.len() != codes.rows {
        let what = format!("{} rows with {} scales", codes.rows, scales.len());
        return Err(parts.odd(&stored.name, what, WHOLE));
    }
    // Tiles of Turing and Ampere have other numbers here.
    if let Some(part) = parts.optional(&format, &["u8"])? {
        let order = part.bytes(0..1, 0..1)?.first().copied().unwrap_or(0);
        if order != 0 {
            let what = format!("weight_format {order}, wanted 0 (rows as they are)");
            return Err(parts.not_yet(&format, what, "save it with today's library"));
        }
    }
    let (name, shape) = (stored.name.clone(), vec![codes.rows, codes.columns]);
    let used = vec![scale, format];
    Ok(Some(Matrix { name, shape, parts: used, rows: Box::new(EightBits { codes, scales }) }))
}

/// A matrix of bytes with a scale for each row.
struct EightBits {
    codes: Part,
    scales: Part,
}

impl Rows for EightBits {
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let columns = in_memory(self.codes.columns)?;
        let rows = first..first + (out.len() / columns) as u64;
        let codes = self.codes.bytes(rows.clone(), 0..self.codes.columns)?;
        let scales = match self.scales.rows {
            1 => self.scales.floats(0..1, rows)?,
            _ => self.scales.floats(rows, 0..1)?,
        };
        let all = codes.chunks_exact(columns).zip(out.chunks_exact_mut(columns));
        for ((codes, out), scale) in all.zip(scales) {
            for (code, out) in codes.iter().zip(out) {
                *out = f32::from(code.cast_signed()) * scale * PER_STEP;
            }
        }
        Ok(())
    }
}
