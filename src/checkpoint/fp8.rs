//! Matrices of eight-bit floats with scales, decoded row by row while they are read.
//!
//! ```text
//! w[r][c] = float8(weight[r][c]) * scale[r / a][c / b]           in f32
//!
//! scales beside NAME.weight            a, b
//! weight_scale_inv, [rows/a, cols/b]   weight_block_size of the settings, as [128, 128]; edges ragged
//! weight_scale, one number             the whole matrix
//! weight_scale, [rows] or [rows, 1]    one row
//! ```
//!
//! `scale_inv` is multiplied too: it is the inverse of what the weights were multiplied by.
//! Source: transformers, integrations/finegrained_fp8.py: Fp8Dequantize; compressed-tensors,
//! quantization/lifecycle/forward.py: dequantize; torch, c10/util/Float8_e4m3fn.h, Float8_e5m2.h.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value as Json;

use super::{Stored, assemble::Draft, dtype::Dtype, safetensors};
use crate::{
    bytes::Input,
    error::{Error, Result},
    quant::{decode_rows, isa::Isa},
};

/// What the scales of activations end in: a runner of such weights needs them, their values do not.
const OF_ACTIVATIONS: [&str; 2] = [".input_scale", ".activation_scale"];
/// The most scales of one matrix: a row's each in the tallest embedding, and blocks of a far larger one.
const MOST_SCALES: u64 = 1 << 22;
/// Numbers that are decoded at a time.
const STEP: usize = 1 << 16;

/// One matrix and what decodes it.
struct Matrix {
    codes: Input,
    at: u64,
    columns: u64,
    /// Rows and columns that share a scale.
    block: (u64, u64),
    scales: Vec<f32>,
    values: [f32; 256],
}

/// Puts in place of every matrix of eight-bit floats one of f32, which decodes it when it is read, and takes
/// its scales away. How many there were.
///
/// # Errors
/// Where a matrix has no scales, or scales of another shape than the settings say, or that are no numbers.
pub fn decode(draft: &mut Draft, shards: &mut [Vec<Stored>], stated: Option<&Json>) -> Result<u64> {
    let is_code = |t: &Stored| values(t.dtype).is_some() && t.name.ends_with(".weight");
    let all = || shards.iter().flatten();
    let scales: HashMap<String, Stored> = all()
        .filter(|t| t.name.ends_with(".weight_scale_inv") || t.name.ends_with(".weight_scale"))
        .map(|t| (t.name.clone(), t.clone()))
        .collect();
    let blocks = stated.and_then(blocks);
    let f32 = Dtype::of_safetensors("F32");
    let mut used = Vec::new();
    for stored in shards.iter_mut().flatten().filter(|t| is_code(t)) {
        let beside =
            ["_scale_inv", "_scale"].map(|end| scales.get(&format!("{}{end}", stored.name)));
        let odd = |what: String, next: &str| {
            Error::unsupported(format!("{}: {}: {what}", draft.name(), stored.name), next)
        };
        let scale = match beside {
            [Some(scale), None] | [None, Some(scale)] => scale,
            [None, None] => {
                let what = format!("{} weights without a weight_scale", stored.dtype.name);
                return Err(odd(what, "check that the download is complete"));
            }
            _ => {
                let what = "both weight_scale and weight_scale_inv".to_owned();
                return Err(odd(what, "remove the one that does not belong to it"));
            }
        };
        let (&[rows, columns], Some(values)) = (stored.shape.as_slice(), values(stored.dtype))
        else {
            let what = format!("FP8 weights of the shape {:?}", stored.shape);
            return Err(odd(what, "not yet: matrices of two dimensions are read"));
        };
        if rows == 0 || columns == 0 || stored.stride != safetensors::dense(&stored.shape) {
            return Err(odd(
                "FP8 weights with gaps".to_owned(),
                "not yet: save it with .contiguous()",
            ));
        }
        let block = match (scale.shape.as_slice(), blocks) {
            ([] | [1], _) => (rows, columns),
            ([n] | [n, 1], _) if *n == rows => (1, columns),
            (shape, Some((a, b))) if *shape == [rows.div_ceil(a), columns.div_ceil(b)] => (a, b),
            ([1, 1], None) => (rows, columns),
            (shape, blocks) => {
                let wanted = match blocks {
                    Some((a, b)) => format!("blocks of {a} × {b}"),
                    None => "one scale or one a row, for config.json states no blocks".to_owned(),
                };
                let what = format!(
                    "FP8 weights {:?} with scales {shape:?}, wanted {wanted}",
                    stored.shape
                );
                return Err(odd(what, "check that config.json is of this model"));
            }
        };
        let scales = numbers(draft, scale)?;
        if let Some(bad) = scales.iter().find(|s| !s.is_finite()) {
            let what = format!("{}: {}: a scale of {bad}", draft.name(), scale.name);
            return Err(Error::refused(what, "check the download against its published SHA-256"));
        }
        used.push(scale.name.clone());
        let Some(codes) = draft.files.get(stored.file).cloned() else { continue };
        let matrix = Arc::new(Matrix { codes, at: stored.at, columns, block, scales, values });
        let len = rows.saturating_mul(columns).saturating_mul(4);
        let made = Input::made(&stored.name, len, move |at, out| matrix.read(at, out));
        (stored.file, stored.at, stored.big_endian) = (draft.files.len(), 0, false);
        stored.dtype = f32.unwrap_or(stored.dtype);
        draft.files.push(made);
    }
    if !used.is_empty() {
        let spent = |t: &Stored| {
            used.contains(&t.name) || OF_ACTIVATIONS.iter().any(|end| t.name.ends_with(end))
        };
        shards.iter_mut().for_each(|shard| shard.retain(|t| !spent(t)));
    }
    Ok(used.len() as u64)
}

/// The sizes of blocks that share a scale, as settings state them.
fn blocks(stated: &Json) -> Option<(u64, u64)> {
    let groups = || stated.get("config_groups")?.as_object()?.values().next();
    let of_group = || groups()?.get("weights")?.get("block_structure");
    let sizes = stated.get("weight_block_size").filter(|s| s.is_array()).or_else(of_group)?;
    let size = |n: usize| sizes.get(n)?.as_u64().filter(|size| *size > 0);
    size(0).zip(size(1))
}

/// The numbers of a small tensor.
fn numbers(draft: &Draft, stored: &Stored) -> Result<Vec<f32>> {
    let n = stored.shape.iter().product::<u64>();
    let what = || format!("{}: {}: {n} scales", draft.name(), stored.name);
    let n = usize::try_from(n).ok().filter(|_| n > 0 && n <= MOST_SCALES);
    let (Some(n), Some(file)) = (n, draft.files.get(stored.file)) else {
        return Err(Error::unsupported(what(), "check that the download is complete"));
    };
    if stored.stride != safetensors::dense(&stored.shape) {
        return Err(Error::unsupported(what(), "not yet: save it with .contiguous()"));
    }
    let quant = stored.quant()?;
    let width = usize::try_from(stored.dtype.width()).unwrap_or(8);
    let mut bytes = vec![0; n * width];
    file.read_at(stored.at, &mut bytes)?;
    if stored.big_endian {
        quant.swap_bytes(&mut bytes);
    }
    let mut numbers = vec![0.0; n];
    decode_rows(quant, Isa::best(), &bytes, n, &mut numbers);
    Ok(numbers)
}

impl Matrix {
    /// Bytes of the decoded matrix from `at` on: whole numbers, as rows are read.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let mut codes = vec![0; STEP.min(out.len() / 4)];
        let mut first = at / 4;
        for out in out.chunks_mut(STEP * 4) {
            let codes = codes.get_mut(..out.len() / 4).unwrap_or_default();
            self.codes.read_at(self.at + first, codes)?;
            let (mut row, mut column) = (first / self.columns, first % self.columns);
            first += codes.len() as u64;
            let wide = self.columns.div_ceil(self.block.1);
            let mut pairs = codes.iter().zip(out.chunks_exact_mut(4)).peekable();
            while pairs.peek().is_some() {
                // A stretch of one row that shares a scale.
                let end = ((column / self.block.1 + 1) * self.block.1).min(self.columns);
                let place = row / self.block.0 * wide + column / self.block.1;
                let place = usize::try_from(place).unwrap_or(usize::MAX);
                let scale = self.scales.get(place).copied().unwrap_or(f32::NAN);
                let stretch = usize::try_from(end - column).unwrap_or(usize::MAX);
                for (code, out) in pairs.by_ref().take(stretch) {
                    let [value, ..] = self.values.get(usize::from(*code)..).unwrap_or_default()
                    else {
                        continue;
                    };
                    out.copy_from_slice(&(value * scale).to_le_bytes());
                }
                column = end;
                if column == self.columns {
                    (row, column) = (row + 1, 0);
                }
            }
        }
        Ok(())
    }
}

/// The value of each code of a type of eight-bit floats: sign, exponent, mantissa from the highest bit.
///
/// ```text
/// e4m3fn   s eeee mmm   bias 7; no infinities; s 1111 111 is no number
/// e5m2     s eeeee mm   bias 15; the upper byte of an f16
/// ```
fn values(dtype: &Dtype) -> Option<[f32; 256]> {
    let (mantissa, bias) = match dtype.name {
        "float8_e4m3fn" => (3, 7),
        "float8_e5m2" => (2, 15),
        _ => return None,
    };
    let mut values = [0.0; 256];
    for (code, value) in (0u8..=255).zip(&mut values) {
        let (high, low) =
            (i32::from(code & 0x7f) >> mantissa, f32::from(code & ((1 << mantissa) - 1)));
        let whole = f32::from(1u8 << mantissa);
        let size = match (high, mantissa) {
            _ if mantissa == 3 && code & 0x7f == 0x7f => f32::NAN,
            (31, 2) if low == 0.0 => f32::INFINITY,
            (31, 2) => f32::NAN,
            (0, _) => low / whole * 2f32.powi(1 - bias),
            (high, _) => (1.0 + low / whole) * 2f32.powi(high - bias),
        };
        *value = if code & 0x80 == 0 { size } else { -size };
    }
    Some(values)
}
