//! What is in the files of a quantization beside tensors: the keys that llama-quantize sets, and the cut into shards.
//!
//! ```text
//! general.quantization_version   general.file_type   overrides   quantize.imatrix.*   ARCHITECTURE.block_count
//! ```
//!
//! in this order and behind all other keys, so that the file is llama-quantize's byte for byte.

use std::path::PathBuf;

use super::Job;
use crate::{
    change::{Plan, Step},
    model::{Metadata, Value},
    remedy::Notes,
};

impl Job<'_> {
    /// Sets what llama-quantize sets, in its order.
    pub(super) fn stamp(&self, metadata: &mut Metadata, file_type: u32) {
        // A key that is set is moved to the end, as in the files of llama-quantize.
        let mut last = |key: &str, value: Value| {
            metadata.remove(key);
            metadata.push(key.to_owned(), value);
        };
        last("general.quantization_version", Value::U32(2));
        last("general.file_type", Value::U32(file_type));
        for (key, value) in &self.options.overrides {
            last(key, value.clone());
        }
        let importance = &self.options.importance;
        if !importance.is_empty() {
            last("quantize.imatrix.file", Value::String(short(&importance.file)));
            if let Some(text) = importance.datasets.first() {
                last("quantize.imatrix.dataset", Value::String(short(text)));
            }
            let entries = u32::try_from(importance.len()).unwrap_or(u32::MAX);
            last("quantize.imatrix.entries_count", Value::U32(entries));
            if importance.chunks > 0 {
                last("quantize.imatrix.chunks_count", Value::U32(importance.chunks));
            }
        }
        if let Some(blocks) = self.blocks {
            let arch = self.shape.architecture.clone();
            last(&format!("{arch}.block_count"), Value::U32(blocks));
        }
    }

    /// Cuts a plan at the borders of the input's files.
    ///
    /// A tensor goes where its first byte came from. Sizes are no longer those that a limit once made, which
    /// llama-quantize's `--keep-split` leaves so too.
    pub(super) fn shards(&self, whole: &Plan) -> Vec<Plan> {
        let count = self.model.files.len().max(1);
        let tensors = i32::try_from(whole.steps.len()).unwrap_or(i32::MAX);
        let file = |step: &Step| {
            let pieces = self.model.tensors.get(step.source).map(|t| &t.pieces);
            pieces.and_then(|p| p.first()).map_or(0, |p| p.file)
        };
        let shard = |n: usize| {
            let mut plan = whole.clone();
            plan.steps.retain(|s| file(s) == n);
            // Keys and notes are in the first shard only, as llama-gguf-split writes them.
            if n > 0 {
                plan.metadata = Metadata::new();
                plan.notes = Notes::default();
            }
            if count > 1 {
                let word = |n: usize| Value::U16(u16::try_from(n).unwrap_or(u16::MAX));
                plan.metadata.push("split.no".into(), word(n));
                plan.metadata.push("split.count".into(), word(count));
                plan.metadata.push("split.tensors.count".into(), Value::I32(tensors));
            }
            let stem = whole.output.display().to_string();
            let stem = stem.strip_suffix(".gguf").unwrap_or(&stem);
            let name = format!("{stem}-{:05}-of-{count:05}.gguf", n + 1);
            plan.output = PathBuf::from(name);
            plan
        };
        (0..count).map(shard).collect()
    }
}

/// At most 127 bytes: llama-quantize holds such a text in 128, with a zero at its end.
fn short(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    bytes.get(..127).unwrap_or(bytes).to_vec()
}
