//! GPTQ: codes of 2, 3, 4 or 8 bits in words that run down the columns of the stored matrix, which is the transpose.
//!
//! ```text
//! w[r][c] = scales[g][r] * (q - z)                  in f32, and exact there; g = g_idx[c], else c / group_size
//!
//! qweight [in * bits / 32, out]   q of (r, c): bits from bits * c on of the words of column r, low bit first
//! qzeros  [groups, out * bits / 32]  z of (g, r): bits from bits * r on of the words of row g
//!                                 gptq: the stored number + 1; gptq_v2: the stored number
//! scales  [groups, out]           f16
//! g_idx   [in]                    the group of each column; absent where groups follow one another
//!
//! 4 bits, word k of column r      bits 31-28  ..  7-4     3-0
//! column of the matrix            8k + 7      ..  8k + 1  8k
//! 3 bits, 32 columns in 3 words   0 to 9 and two bits of 10 | the third of 10, 11 to 20 and one bit of 21 |
//!                                 the other two of 21, 22 to 31
//! ```
//!
//! With 3 bits a code may begin in one word and end in the next. AutoGPTQ computes the product in f16, which is this
//! one rounded. Its older
//! class (qlinear_cuda_old) keeps only N bits of the sum; the one for g_idx, ExLlama's kernels and llama.cpp's
//! converter keep all of it, as is done here.
//! Source: AutoGPTQ, nn_modules/qlinear/qlinear_cuda.py: pack, forward; GPTQModel, FORMAT.GPTQ_V2.

use serde_json::Value as Json;

use super::{
    awq::is_awq,
    codes::{code, unpack},
    groups::{Groups, scaled, unfit},
    part::{FLOATS, Matrix, OF_MODEL, Part, Parts, Rows, WHOLE, in_memory},
};
use crate::{checkpoint::Stored, error::Result};

/// The matrix of a `qweight` of GPTQ; none of other tensors.
///
/// # Errors
/// Where parts are missing or do not fit.
pub fn matrix(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let Some(stem) = stored.name.strip_suffix(".qweight") else { return Ok(None) };
    let named = |end: &str| format!("{stem}.{end}");
    // AWQ has tensors of these names as well, with the codes in another order.
    let known = matches!(parts.word("quant_method"), None | Some("gptq"));
    // The first files had zero points in floats.
    if !known || is_awq(parts, stem) || parts.find(&named("zeros")).is_some() {
        return Ok(None);
    }
    let part = |end: &str, types: &[&str]| parts.part(&stored.name, &named(end), types);
    let codes = part("qweight", &["i32"])?;
    let (zeros, scales) = (part("qzeros", &["i32"])?, part("scales", &FLOATS)?);
    let places = parts.optional(&named("g_idx"), &["i32", "i64"])?;
    let odd = |what: String, next: &str| parts.odd(&stored.name, what, next);
    let (outputs, groups) = (codes.columns, scales.rows);
    if (scales.columns, zeros.rows) != (outputs, groups) {
        return Err(unfit(parts, &codes, &scales, &zeros));
    }
    // A row of zero points has one for each output, packed: 32 * words = bits * outputs.
    let bits = 32 * zeros.columns / outputs;
    let stated = parts.setting("bits").and_then(Json::as_u64);
    // Shapes cannot be mistaken; where the settings say otherwise, they are of another model.
    // GPTQModel may give some layers other bits and groups.
    let each_its_own = parts.setting("dynamic").is_some();
    if ![2, 3, 4, 8].contains(&bits) || 32 * zeros.columns != outputs * bits {
        let what = format!("{bits} bits by the shape {} of its qzeros", zeros.shape());
        return Err(parts.not_yet(&stored.name, what, "2, 3, 4 and 8 bits are read"));
    }
    if stated.is_some_and(|stated| stated != bits) && !each_its_own {
        let stated = stated.unwrap_or(0);
        return Err(parts.not_yet(
            &stored.name,
            format!("{bits} bits by its shapes, config.json says {stated}"),
            OF_MODEL,
        ));
    }
    let inputs = 32 * codes.rows / bits;
    if 32 * codes.rows != inputs * bits {
        return Err(odd(format!("{} words of {bits} bits", codes.rows), WHOLE));
    }
    // AutoGPTQ takes one off every zero point before it is packed. A stored 15 of four bits is then 16: the sum is
    // not masked.
    let plus = match parts.word("checkpoint_format") {
        None | Some("gptq") => 1,
        Some("gptq_v2") => 0,
        Some(other) => {
            let what = format!("checkpoint_format {other}");
            return Err(odd(what, "gptq and gptq_v2 are read"));
        }
    };
    let size = parts.setting("group_size").and_then(Json::as_i64);
    let size = size.filter(|_| !each_its_own).and_then(|size| match size {
        -1 => Some(inputs),
        size => u64::try_from(size).ok().filter(|size| *size > 0),
    });
    let size = match size {
        Some(size) if inputs.div_ceil(size) == groups => size,
        None if inputs.is_multiple_of(groups) => inputs / groups,
        size => {
            let said = size.map_or(String::new(), |size| format!(" of {size}"));
            let what = format!("{inputs} columns in {groups} groups{said}");
            return Err(odd(what, OF_MODEL));
        }
    };
    let by_act = parts.setting("desc_act").and_then(Json::as_bool);
    let order = match &places {
        Some(places) if places.len() != inputs => {
            let what = format!("g_idx of {}, wanted {inputs}", places.len());
            return Err(odd(what, WHOLE));
        }
        Some(places) => Groups::Listed(places.clone()),
        // Columns were quantized in the order of their activations: without the list nobody knows which group one is
        // in.
        None if by_act == Some(true) && groups > 1 => {
            return Err(odd("desc_act without a g_idx beside it".to_owned(), WHOLE));
        }
        None => Groups::Runs(size),
    };
    // Read once now, so that a group that does not exist is told before anything is written.
    order.runs(inputs, groups)?;
    let used = ["qweight", "qzeros", "scales", "g_idx"].map(named);
    Ok(Some(Matrix {
        name: named("weight"),
        shape: vec![outputs, inputs],
        parts: used.to_vec(),
        rows: Box::new(Gptq { codes, zeros, scales, order, bits, plus, inputs }),
    }))
}

/// A matrix of codes of `bits` bits down its columns.
struct Gptq {
    codes: Part,
    zeros: Part,
    scales: Part,
    order: Groups,
    bits: u64,
    /// What is added to stored zero points.
    plus: u32,
    inputs: u64,
}

impl Rows for Gptq {
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let inputs = in_memory(self.inputs)?;
        let n = out.len() / inputs;
        let rows = first..first + n as u64;
        // A row of the matrix is a column of what is stored: a stripe of every stored row is read.
        let words = self.codes.words(0..self.codes.rows, rows.clone())?;
        let scales = self.scales.floats(0..self.scales.rows, rows.clone())?;
        // Whole words of zero points, which may hold some of rows before and behind.
        let begin = rows.start * self.bits / 32;
        let end = (rows.end * self.bits).div_ceil(32);
        let zeros = self.zeros.words(0..self.zeros.rows, begin..end)?;
        let per_group = in_memory(end - begin)?;
        let runs = self.order.runs(self.inputs, self.scales.rows)?;
        let bits = in_memory(self.bits)?;
        let mask = (1u32 << bits) - 1;
        let (mut codes, mut column) = (vec![0u8; inputs], Vec::new());
        for (r, out) in out.chunks_exact_mut(inputs).enumerate() {
            column.clear();
            column.extend(words.iter().skip(r).step_by(n.max(1)));
            unpack(&column, bits, &mut codes);
            // The bit at which this row's zero point begins, counted from the first word that was read.
            let place = in_memory((first + r as u64) * self.bits - begin * 32)?;
            for (run, group) in &runs {
                let words = zeros.get(group * per_group..).unwrap_or_default();
                let zero = code(words, place, mask) + self.plus;
                let scale = scales.get(group * n + r).copied().unwrap_or(f32::NAN);
                let codes = codes.get(run.clone()).unwrap_or_default();
                let out = out.get_mut(run.clone()).unwrap_or_default();
                scaled(codes, zero, scale, out);
            }
        }
        Ok(())
    }
}
