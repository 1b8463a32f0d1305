//! Matrices of eight-bit floats with scales.
//!
//! ```text
//! w[r][c] = float8(weight[r][c]) * scale[r / a][c / b]           in f32
//!
//! [128, 128], a matrix of 300 x 200    scales [3, 2]: the last row of blocks has 44 rows, the last column 72 columns
//!
//! scales beside NAME.weight            a, b
//! weight_scale_inv, [rows/a, cols/b]   weight_block_size of the settings, as [128, 128]; edges ragged
//! weight_scale, one number             the whole matrix
//! weight_scale, [rows] or [rows, 1]    one row
//! none, and nothing stated             the whole model was cast: w = float8(weight)
//! ```
//!
//! `scale_inv` is multiplied too: it is the inverse of what the weights were multiplied by.
//! Source: transformers, integrations/finegrained_fp8.py: Fp8Dequantize; compressed-tensors,
//! quantization/lifecycle/forward.py: dequantize; torch, c10/util/Float8_e4m3fn.h, Float8_e5m2.h.

use super::{
    part::{FLOATS, Matrix, OF_MODEL, Part, Parts, Rows, WHOLE, in_memory},
    small::eight_bits,
};
use crate::{checkpoint::Stored, error::Result};

/// The most scales of one matrix: a row's each in the tallest embedding, and blocks of a far larger one.
const MOST_SCALES: u64 = 1 << 22;

/// The matrix of a `weight` of eight-bit floats; none of other tensors.
///
/// # Errors
/// Where it has no scales, or scales of another shape than the settings say, or that are no numbers.
pub fn matrix(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let Some(values) = eight_bits(stored.dtype.name) else { return Ok(None) };
    // Any name with "scale" in the whole checkpoint forbids that: a missing scale must not pass for none.
    // A model that was only cast: nothing is scaled.
    if parts.is_unstated() && !parts.any("scale") {
        let codes = parts.part(&stored.name, &stored.name, &[stored.dtype.name])?;
        let (name, shape, used) = (stored.name.clone(), stored.shape.clone(), Vec::new());
        let block = (codes.rows, codes.columns);
        let rows = Box::new(Fp8 { codes, block, scales: vec![1.0], values });
        return Ok(Some(Matrix { name, shape, parts: used, rows }));
    }
    if !stored.name.ends_with(".weight") {
        return Ok(None);
    }
    let odd = |what: String, next: &str| parts.odd(&stored.name, what, next);
    let named = ["_scale_inv", "_scale"].map(|end| format!("{}{end}", stored.name));
    let name = match named.each_ref().map(|name| parts.find(name).is_some()) {
        [true, false] => &named[0],
        [false, true] => &named[1],
        [false, false] => {
            let what = format!("{} weights without a weight_scale", stored.dtype.name);
            return Err(parts.not_yet(&stored.name, what, WHOLE));
        }
        _ => {
            let what = "both weight_scale and weight_scale_inv".to_owned();
            return Err(odd(what, "remove the one that does not belong to it"));
        }
    };
    let &[rows, columns] = stored.shape.as_slice() else {
        let what = format!("FP8 weights of the shape {:?}", stored.shape);
        return Err(odd(what, "matrices of two dimensions are read"));
    };
    let codes = parts.part(&stored.name, &stored.name, &[stored.dtype.name])?;
    let scale = parts.part(&stored.name, name, &FLOATS)?;
    let blocks = blocks(parts);
    let shape = parts.find(name).map_or(&[][..], |stored| stored.shape.as_slice());
    // Rows and columns that one scale covers. One number or one a row is told by the shape alone, whatever the
    // settings say of blocks.
    let block = match (shape, blocks) {
        ([] | [1], _) => (rows, columns),
        ([n] | [n, 1], _) if *n == rows => (1, columns),
        (shape, Some((a, b))) if *shape == [rows.div_ceil(a), columns.div_ceil(b)] => (a, b),
        ([1, 1], None) => (rows, columns),
        (shape, blocks) => {
            let wanted = match blocks {
                Some((a, b)) => format!("blocks of {a} × {b}"),
                None => "one scale or one a row, for config.json states no blocks".to_owned(),
            };
            let what =
                format!("FP8 weights {:?} with scales {shape:?}, wanted {wanted}", stored.shape);
            return Err(odd(what, OF_MODEL));
        }
    };
    if scale.len() > MOST_SCALES {
        return Err(odd(format!("{} scales", scale.len()), WHOLE));
    }
    let used = vec![stored.name.clone(), name.clone()];
    let scales = scale.floats(0..scale.rows, 0..scale.columns)?;
    let rows_of = Box::new(Fp8 { codes, block, scales, values });
    Ok(Some(Matrix {
        name: stored.name.clone(),
        shape: vec![rows, columns],
        parts: used,
        rows: rows_of,
    }))
}

/// The sizes of blocks that share a scale, as settings state them.
fn blocks(parts: &Parts) -> Option<(u64, u64)> {
    let sizes = parts.setting("weight_block_size").filter(|s| s.is_array());
    let sizes = sizes.or_else(|| parts.of_groups("block_structure"))?;
    let size = |n: usize| sizes.get(n)?.as_u64().filter(|size| *size > 0);
    size(0).zip(size(1))
}

/// A matrix of bytes: what each of the 256 means, and the scales of its blocks.
struct Fp8 {
    codes: Part,
    /// Rows and columns that share a scale.
    block: (u64, u64),
    scales: Vec<f32>,
    values: [f32; 256],
}

impl Rows for Fp8 {
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let columns = in_memory(self.codes.columns)?;
        let (tall, wide) = (self.block.0, in_memory(self.block.1)?);
        let per_row = columns.div_ceil(wide);
        let last = first + (out.len() / columns) as u64;
        let codes = self.codes.bytes(first..last, 0..self.codes.columns)?;
        // A byte is an index into 256 values: no arithmetic on bits.
        let rows = codes.chunks_exact(columns).zip(out.chunks_exact_mut(columns));
        for (row, (codes, out)) in (first..).zip(rows) {
            let place = in_memory(row / tall)?.saturating_mul(per_row);
            let scales = self.scales.get(place..).unwrap_or_default();
            let blocks = codes.chunks(wide).zip(out.chunks_mut(wide)).zip(scales);
            for ((codes, out), scale) in blocks {
                for (code, out) in codes.iter().zip(out) {
                    let [value, ..] = self.values.get(usize::from(*code)..).unwrap_or_default()
                    else {
                        continue;
                    };
                    *out = value * scale;
                }
            }
        }
        Ok(())
    }
}
