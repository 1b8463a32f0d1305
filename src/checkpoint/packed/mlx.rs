//! MLX, affine: codes of 2 to 8 bits with a scale and a bias for each group of a row.
//!
//! ```text
//! w[r][c] = scales[r][g] * q + biases[r][g]         in f32, two roundings; g = c / group_size
//!
//! weight          [rows, cols * bits / 32]  u32: codes one behind the other, low bits first
//!                                           4 bits, word k: bits 3-0 column 8k, 7-4 column 8k + 1, .. 31-28 8k + 7
//! scales, biases  [rows, cols / group_size] f16, bf16 or f32
//! ```
//!
//! `quantization` of config.json has group_size and bits, and an object of the same for a module that has its own.
//! Source: MLX, mlx/backend/cpu/quantized.cpp: affine_dequantize; mlx-lm, utils.py: load_model.

use serde_json::Value as Json;

use super::{
    codes::unpack,
    part::{FLOATS, Matrix, OF_MODEL, Part, Parts, Rows, in_memory},
};
use crate::{checkpoint::Stored, error::Result};

/// The matrix of a `weight` of words with scales; none of other tensors.
///
/// # Errors
/// Where parts are missing or do not fit what is stated.
pub fn matrix(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let Some(stem) = stored.name.strip_suffix(".weight") else { return Ok(None) };
    let named = |end: &str| format!("{stem}.{end}");
    if stored.dtype.name != "u32" || parts.find(&named("scales")).is_none() {
        return Ok(None);
    }
    // "model.embed_tokens": {"group_size": 64, "bits": 8} beside the numbers for all others.
    let own = parts.setting(stem);
    let setting = |key: &str| own.and_then(|own| own.get(key)).or_else(|| parts.setting(key));
    let number = |key: &str| setting(key).and_then(Json::as_u64).filter(|n| *n > 0);
    let odd = |what: String, next: &str| parts.odd(&stored.name, what, next);
    if let Some(other) = setting("mode").and_then(Json::as_str).filter(|mode| *mode != "affine") {
        return Err(parts.not_yet(&stored.name, format!("the mode {other}"), "affine is read"));
    }
    let (Some(bits), Some(size)) = (number("bits"), number("group_size")) else {
        let what = "config.json states no bits and group_size in quantization".to_owned();
        return Err(parts.not_yet(&stored.name, what, "copy the config.json of this model there"));
    };
    if ![2, 3, 4, 5, 6, 8].contains(&bits) {
        return Err(odd(format!("{bits} bits"), "2 to 6 and 8 bits are read"));
    }
    let words = parts.part(&stored.name, &stored.name, &["u32"])?;
    let scales = parts.part(&stored.name, &named("scales"), &FLOATS)?;
    let biases = parts.part(&stored.name, &named("biases"), &FLOATS)?;
    let columns = scales.columns.saturating_mul(size);
    let fits = (words.rows, words.columns.saturating_mul(32)) == (scales.rows, columns * bits);
    if !fits || (biases.rows, biases.columns) != (scales.rows, scales.columns) {
        let what = format!(
            "words {} of {bits} bits in groups of {size} with scales {} and biases {}",
            words.shape(),
            scales.shape(),
            biases.shape()
        );
        return Err(odd(what, OF_MODEL));
    }
    let used = vec![named("scales"), named("biases")];
    let (name, shape) = (stored.name.clone(), vec![words.rows, columns]);
    let (bits, size) = (in_memory(bits)?, in_memory(size)?);
    let rows = Box::new(Affine { words, scales, biases, bits, size });
    Ok(Some(Matrix { name, shape, parts: used, rows }))
}

/// A matrix of codes with a scale and a bias for each group of `size` columns.
struct Affine {
    words: Part,
    scales: Part,
    biases: Part,
    bits: usize,
    size: usize,
}

impl Rows for Affine {
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let groups = in_memory(self.scales.columns)?;
        let columns = groups * self.size;
        let rows = first..first + (out.len() / columns) as u64;
        let words = self.words.words(rows.clone(), 0..self.words.columns)?;
        let scales = self.scales.floats(rows.clone(), 0..self.scales.columns)?;
        let biases = self.biases.floats(rows, 0..self.biases.columns)?;
        let mut codes = vec![0u8; columns];
        let of_words = words.chunks_exact(in_memory(self.words.columns)?);
        let of_groups = scales.chunks_exact(groups).zip(biases.chunks_exact(groups));
        for ((out, words), (scales, biases)) in
            out.chunks_exact_mut(columns).zip(of_words).zip(of_groups)
        {
            unpack(words, self.bits, &mut codes);
            let groups = codes.chunks_exact(self.size).zip(out.chunks_exact_mut(self.size));
            for ((codes, out), (scale, bias)) in groups.zip(scales.iter().zip(biases)) {
                for (code, out) in codes.iter().zip(out) {
                    *out = scale * f32::from(*code) + bias;
                }
            }
        }
        Ok(())
    }
}
