//! Importance matrices: for each column of each matrix, the mean square of what it is multiplied with.
//!
//! Two file formats, both read by llama.cpp (tools/imatrix) and by `quantize --imatrix`:
//!
//! ```text
//! .dat   i32 entries, then for each: i32 length, name, i32 calls, i32 columns, f32 mean * calls …,
//!        then i32 windows, i32 length, name of the text
//! GGUF   general.type = "imatrix", imatrix.datasets, .chunk_count, .chunk_size, and for each matrix
//!        NAME.in_sum2 (sums of squares) and NAME.counts (vectors seen)
//! ```

use std::collections::BTreeMap;

use super::layer::Tap;
use crate::{
    container::{TensorHead, keyed},
    error::{Error, Result},
    format::catalog,
    model::{Metadata, Value},
    quant::QuantType,
};

/// What was seen so far, by GGUF tensor name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    entries: BTreeMap<String, Entry>,
}

/// What one tensor was multiplied with.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    /// Sums of squares, column by column, expert after expert.
    sums: Vec<f32>,
    /// Vectors seen by each expert, or by the one matrix.
    counts: Vec<u32>,
}

impl Tap for Importance {
    fn see(&mut self, name: &str, (expert, experts): (usize, usize), cols: usize, xs: &[f32]) {
        let entry = self.entries.entry(name.to_owned()).or_default();
        entry.counts.resize(experts, 0);
        entry.sums.resize(experts * cols, 0.0);
        let sums = &mut entry.sums[expert * cols..(expert + 1) * cols];
        for x in xs.chunks_exact(cols) {
            entry.counts[expert] += 1;
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += x * x;
            }
        }
    }
}

impl Importance {
    /// How many matrices were seen.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none was seen.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of a `.dat` file about `windows` windows of `context` tokens of the text `dataset`.
    pub fn to_dat(&self, dataset: &str, windows: u32, context: u32) -> Vec<u8> {
        let mut out = (self.entries.len() as u32).to_le_bytes().to_vec();
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        };
        for (name, entry) in &self.entries {
            text(&mut out, name);
            let most = entry.counts.iter().copied().max().unwrap_or(0);
            let calls = most.div_ceil(context.max(1));
            out.extend(calls.to_le_bytes());
            out.extend((entry.sums.len() as u32).to_le_bytes());
            let cols = entry.sums.len() / entry.counts.len().max(1);
            for (i, sum) in entry.sums.iter().enumerate() {
                // An expert that was never asked counts every column alike.
                let mean = match entry.counts[i / cols] {
                    0 => 1.0,
                    count => sum / count as f32,
                };
                out.extend((mean * calls as f32).to_le_bytes());
            }
        }
        out.extend(windows.to_le_bytes());
        text(&mut out, dataset);
        out
    }

    /// The bytes of a GGUF file of the same.
    ///
    /// # Errors
    /// Where a name does not fit the format.
    pub fn to_gguf(&self, dataset: &str, windows: u32, context: u32) -> Result<Vec<u8>> {
        let missing = || Error::unsupported("the description of gguf-v3 is missing", "");
        let format = catalog::container("gguf-v3").ok_or_else(missing)?;
        let quant = QuantType::today("f32").ok_or_else(missing)?;
        let mut metadata = Metadata::new();
        metadata.set("general.type", "imatrix");
        metadata.set("imatrix.datasets", Value::strings([dataset]));
        metadata.set("imatrix.chunk_count", windows);
        metadata.set("imatrix.chunk_size", context);
        let mut heads = Vec::new();
        let mut data: Vec<Vec<u8>> = Vec::new();
        for (name, entry) in &self.entries {
            let experts = entry.counts.len();
            let counts: Vec<f32> = entry.counts.iter().map(|count| *count as f32).collect();
            let cols = (entry.sums.len() / experts.max(1)) as u64;
            let parts = [("in_sum2", cols, &entry.sums), ("counts", 1, &counts)];
            for (kind, cols, numbers) in parts {
                heads.push(TensorHead {
                    name: format!("{name}.{kind}"),
                    shape: vec![experts as u64, cols],
                    quant,
                    bytes: numbers.len() as u64 * 4,
                });
                data.push(numbers.iter().flat_map(|v| v.to_le_bytes()).collect());
            }
        }
        let layout = keyed::layout(format, &[], &metadata, &heads)?;
        let mut out = vec![0; usize::try_from(layout.total).unwrap_or(0)];
        let parts = layout.chunks.iter().map(|(at, bytes)| (*at, bytes));
        for (at, bytes) in parts.chain(layout.data.iter().copied().zip(&data)) {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            out[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(out)
    }
}
