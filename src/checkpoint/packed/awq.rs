//! AWQ as its `gemm` kernels want it: codes of 4 bits in words that run along the rows of the stored matrix, which is
//! the transpose.
//!
//! ```text
//! w[r][c] = scales[g][r] * (q - z)                  in f32, and exact there; g = c / group_size
//!
//! qweight [in, out / 8]      one word: rows 8k to 8k + 7 of column c, as nibbles from the lowest
//!                            0 2 4 6 1 3 5 7
//! qzeros  [groups, out / 8]  the same of z
//! scales  [groups, out]      f16
//!
//! bits of a word   31-28  27-24  23-20  19-16  15-12  11-8  7-4  3-0
//! row, + 8k            7      5      3      1      6     4    2    0
//! ```
//!
//! A zero point is the stored nibble itself; GPTQ's files store one less.
//! AutoAWQ computes the product in f16, which is this one rounded.
//! Source: AutoAWQ, awq/utils/packing_utils.py: dequantize_gemm, AWQ_ORDER.

use super::{
    groups::{Groups, scaled, unfit},
    part::{FLOATS, Matrix, OF_MODEL, Part, Parts, Rows, in_memory},
};
use crate::{checkpoint::Stored, error::Result};

/// The nibble of each of eight rows.
const NIBBLES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The matrix of a `qweight` of AWQ; none of other tensors.
///
/// # Errors
/// Where parts are missing or do not fit.
pub fn matrix(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let Some(stem) = stored.name.strip_suffix(".qweight") else { return Ok(None) };
    // GPTQ calls its codes qweight too.
    if !is_awq(parts, stem) {
        return Ok(None);
    }
    let named = |end: &str| format!("{stem}.{end}");
    let odd = |what: String, next: &str| parts.odd(&stored.name, what, next);
    let number = |keys: [&str; 2]| keys.into_iter().find_map(|key| parts.setting(key)?.as_i64());
    // Other versions, `gemv` among them, lay words out otherwise.
    let version = parts.word("version").map(str::to_lowercase);
    if let Some(other) = version.filter(|version| version != "gemm") {
        return Err(parts.not_yet(&stored.name, format!("AWQ of version {other}"), "gemm is read"));
    }
    let bits = number(["bits", "w_bit"]).unwrap_or(4);
    if bits != 4 {
        return Err(parts.not_yet(&stored.name, format!("AWQ of {bits} bits"), "4 bits are read"));
    }
    let part = |end: &str, types: &[&str]| parts.part(&stored.name, &named(end), types);
    let codes = part("qweight", &["i32"])?;
    let (zeros, scales) = (part("qzeros", &["i32"])?, part("scales", &FLOATS)?);
    // The stored matrix is [in, out]: its rows are the columns of the one that is made.
    let (inputs, groups, outputs) = (codes.rows, scales.rows, scales.columns);
    if codes.columns * 8 != outputs || (zeros.rows, zeros.columns) != (groups, codes.columns) {
        return Err(unfit(parts, &codes, &scales, &zeros));
    }
    let size = match number(["group_size", "q_group_size"]) {
        Some(-1) => inputs,
        Some(size) if size > 0 => size.unsigned_abs(),
        _ => inputs / groups,
    };
    if size * groups != inputs {
        let what = format!("{inputs} columns in {groups} groups of {size}");
        return Err(odd(what, OF_MODEL));
    }
    let used = ["qweight", "qzeros", "scales"].map(named);
    let groups = Groups::Runs(size);
    Ok(Some(Matrix {
        name: named("weight"),
        shape: vec![outputs, inputs],
        parts: used.to_vec(),
        rows: Box::new(Awq { codes, zeros, scales, groups }),
    }))
}

/// Whether a `qweight` is one of AWQ: the settings say it, or where they say nothing the shapes.
pub fn is_awq(parts: &Parts, stem: &str) -> bool {
    let columns = |end: &str| parts.find(&format!("{stem}.{end}"))?.shape.last().copied();
    match parts.word("quant_method") {
        None => columns("scales") == columns("qweight").map(|n| n.saturating_mul(8)),
        method => method == Some("awq"),
    }
}

/// A matrix of codes, zero points and scales, and which columns share these.
struct Awq {
    codes: Part,
    zeros: Part,
    scales: Part,
    groups: Groups,
}

impl Rows for Awq {
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let inputs = in_memory(self.codes.rows)?;
        let n = out.len() / inputs;
        let rows = first..first + n as u64;
        // One word has a number of eight rows.
        // Whole words, which may hold rows before and behind.
        let eights = rows.start / 8..rows.end.div_ceil(8);
        let wide = in_memory(eights.end - eights.start)?;
        let words = self.codes.words(0..self.codes.rows, eights.clone())?;
        let zeros = self.zeros.words(0..self.zeros.rows, eights.clone())?;
        let scales = self.scales.floats(0..self.scales.rows, rows)?;
        let runs = self.groups.runs(self.codes.rows, self.scales.rows)?;
        let mut codes = vec![0u8; inputs];
        for (r, out) in out.chunks_exact_mut(inputs).enumerate() {
            let row = in_memory(first - eights.start * 8)? + r;
            // The nibble depends on the row alone: it is the same one in each word of codes and of zero points.
            let shift = NIBBLES.get(row % 8).map_or(0, |nibble| 4 * nibble);
            let nibble = |word: &u32| word >> shift & 15;
            for (code, word) in codes.iter_mut().zip(words.iter().skip(row / 8).step_by(wide)) {
                *code = nibble(word).to_le_bytes()[0];
            }
            for (run, group) in &runs {
                let zero = zeros.get(group * wide + row / 8).map_or(0, nibble);
                let scale = scales.get(group * n + r).copied().unwrap_or(f32::NAN);
                let codes = codes.get(run.clone()).unwrap_or_default();
                scaled(codes, zero, scale, out.get_mut(run.clone()).unwrap_or_default());
            }
        }
        Ok(())
    }
}
