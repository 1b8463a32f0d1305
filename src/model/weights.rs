//! The weights of a tensor as numbers, some rows at a time.

use std::ops::Range;

use super::{Model, Tensor};
use crate::{
    bytes::replace::check_interrupt,
    error::{Error, Result},
    quant::{decode_rows, isa::Isa},
};

/// Weights that are decoded at a time.
const CHUNK: u64 = 256 << 10;

impl Model {
    /// The weights of some rows of `tensor`, row after row, each of [`Tensor::row_len`] numbers. All of them
    /// are in memory at once; [`each`] hands on some at a time.
    ///
    /// ```
    /// # fn main() -> regguf::error::Result<()> {
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/T/E4/ggml-model-q4_0.bin");
    /// # if !std::path::Path::new(path).exists() { return Ok(()); }
    /// let model = regguf::open(path)?;
    /// let tensor = model.tensor("tok_embeddings.weight").expect("every LLaMA has one");
    /// let weights = model.decode(tensor, 3..5)?;
    /// assert_eq!(weights.len() as u64, 2 * tensor.row_len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`each`].
    pub fn decode(&self, tensor: &Tensor, rows: Range<u64>) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        each(self, tensor, rows, &mut |_, weights| {
            out.extend_from_slice(weights);
            Ok(())
        })?;
        Ok(out)
    }
}

/// Decodes `rows` of a tensor and hands them on, some at a time, each time with the number of the first.
///
/// # Errors
/// Where there are no such rows, the type is not decoded here, or a file cannot be read; those of `take`.
pub fn each(
    model: &Model,
    tensor: &Tensor,
    rows: Range<u64>,
    take: &mut dyn FnMut(u64, &[f32]) -> Result<()>,
) -> Result<()> {
    if let Some(readable) = tensor.with_scale() {
        return each(model, &readable, rows, take);
    }
    if tensor.quant.stranger().is_some() {
        let what = format!("{} is {}, which is not decoded here", tensor.name, tensor.quant);
        return Err(Error::unsupported(what, "ask the program that wrote it"));
    }
    if rows.start > rows.end || rows.end > tensor.rows() {
        let what = format!("{}: has the rows 0..{}", tensor.name, tensor.rows());
        return Err(Error::refused(what, "name some of these"));
    }
    let memory = |n: u64| {
        usize::try_from(n).map_err(|_| Error::unsupported("a row is larger than memory", ""))
    };
    let group = tensor.quant.row_group() as u64;
    let step = (CHUNK / tensor.row_len().max(1)).max(1).next_multiple_of(group);
    let row_len = memory(tensor.row_len())?;
    let (mut bytes, mut weights) = (Vec::new(), Vec::new());
    let mut first = rows.start / group * group;
    while first < rows.end {
        check_interrupt()?;
        let n = step.min(tensor.rows() - first);
        bytes.resize(memory(n.saturating_mul(tensor.row_bytes()))?, 0);
        weights.resize(memory(n.saturating_mul(tensor.row_len()))?, 0.0);
        model.read_rows(tensor, first, n, &mut bytes)?;
        decode_rows(tensor.quant, Isa::best(), &bytes, row_len, &mut weights);
        let wanted = rows.start.max(first)..rows.end.min(first + n);
        let place = |row: u64| memory((row - first).saturating_mul(tensor.row_len()));
        let inside = weights.get(place(wanted.start)?..place(wanted.end)?);
        take(wanted.start, inside.unwrap_or_default())?;
        first += n;
    }
    Ok(())
}
