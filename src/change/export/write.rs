//! Writes a planned export: weights first, row by row and from several threads, then the small files.
//!
//! ```text
//! check_target   every name is free, or may be replaced      before an hour's work, not after it
//! weights        pieces of whole rows, each to the place that the header gives it; a turned matrix as one piece
//! weaves         groups whose rows are of several tensors
//! check_read     no input has changed meanwhile
//! open           the file as anybody would, under its name for the time being; then it gets its own
//! small files    config.json, the tokenizer's
//! ```
//!
//! No two pieces overlap and none waits for another, so their order does not show in the file.

use std::{ops::Range, path::PathBuf};

use rayon::prelude::*;

use super::{Export, Weight};
use crate::{
    bytes::{
        Input, Replace,
        replace::{Commit, check_interrupt, check_target, folder_of, make_folder, write_small},
    },
    change::{Progress, recode::check_rows},
    checkpoint,
    error::{Error, Result},
    format::family::Numbers,
    quant::{decode_rows, isa::Isa},
};

/// Weights of a chunk; about one megabyte of f32.
const CHUNK: u64 = 256 << 10;

impl Export {
    /// Bytes of `model.safetensors`.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The model file's path.
    pub fn target(&self) -> PathBuf {
        self.folder.join("model.safetensors")
    }

    /// Writes the folder.
    ///
    /// # Errors
    /// Where a file is there and is not to be replaced, an input changes or cannot be read, weights are infinite or NaN without
    /// `keep_nan`, or the disk has no room. Weights come first: without them no other file is written.
    pub fn write(&self, commit: impl Into<Commit>, progress: &dyn Progress) -> Result<()> {
        let commit = commit.into();
        // An output that is an input would be read while it is written: refused with the rest of what is there.
        let inputs: Vec<&Input> = self.model.files.iter().collect();
        let path = |name: &str| self.folder.join(name);
        // Of the small files too, before the large one is written: work of an hour should not end at config.json.
        for (name, _) in &self.files {
            check_target(&path(name), commit.existing, &inputs)?;
        }
        let _made = make_folder(&self.folder)?;
        let folders = self.files.iter().map(|(name, _)| make_folder(folder_of(&path(name))));
        let _within = folders.collect::<Result<Vec<_>>>()?;
        let out = Replace::begin(&self.target(), self.total, commit, &inputs)?;
        out.write_at(0, &(self.header.len() as u64).to_le_bytes())?;
        out.write_at(8, &self.header)?;
        self.chunks().into_iter().par_bridge().try_for_each(|(weight, first, rows)| {
            check_interrupt()?;
            self.carry(weight, first, rows, &out, progress)
        })?;
        let begin = 8 + self.header.len() as u64;
        let pieces = self
            .weaves
            .iter()
            .flat_map(|weave| weave.pieces().into_iter().map(move |piece| (weave, piece)));
        pieces.par_bridge().try_for_each(|(weave, piece)| {
            check_interrupt()?;
            weave.piece(&self.model, &piece, self.keep_nan, |at, run| {
                progress.advance(run.len() as u64);
                out.write_at(begin + weave.at + at, run)
            })
        })?;
        self.model.files.iter().try_for_each(Input::check_read)?;
        // What was written is opened as anybody would, before it takes its name.
        let written = checkpoint::weights(out.temp_path(), &self.model.limits)?;
        if written.tensors.len() != self.tensors {
            let what = format!("{}: does not hold what was written", self.target().display());
            return Err(Error::unsupported(what, "it was not kept"));
        }
        out.commit()?;
        self.files.iter().try_for_each(|(name, bytes)| write_small(&path(name), bytes, commit))
    }

    /// All weights, cut into pieces of whole rows: the weight, its first row, how many.
    fn chunks(&self) -> Vec<(&Weight, u64, u64)> {
        let mut chunks = Vec::new();
        for weight in &self.weights {
            let Some(tensor) = self.model.tensors.get(weight.tensor) else { continue };
            if weight.turned {
                // A column needs all rows: such matrices are carried whole.
                chunks.push((weight, 0, tensor.rows()));
                continue;
            }
            let group = tensor.quant.row_group() as u64;
            let step = (CHUNK / tensor.row_len().max(1) / group * group).max(group);
            let Range { start, end } = weight.rows;
            let firsts = (start..end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
            chunks.extend(firsts.map(|first| (weight, first, step.min(end - first))));
        }
        chunks
    }

    /// Refuses rows with numbers that are none.
    fn check(&self, weight: &Weight, first: u64, made: &[u8], before: &[f32]) -> Result<()> {
        match self.model.tensors.get(weight.tensor).filter(|_| !self.keep_nan) {
            Some(tensor) => {
                let row_len = usize::try_from(tensor.row_len()).unwrap_or(usize::MAX);
                check_rows(tensor, (weight.to, row_len), first, made, before)
            }
            None => Ok(()),
        }
    }

    /// Decodes rows of one weight, checks and encodes them, and writes them to their place.
    fn carry(
        &self,
        weight: &Weight,
        first: u64,
        rows: u64,
        out: &Replace,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Some(tensor) = self.model.tensors.get(weight.tensor) else { return Ok(()) };
        let size = |bytes: u64| {
            let large =
                || Error::unsupported("a row is larger than memory", "use a 64-bit machine");
            usize::try_from(bytes).map_err(|_| large())
        };
        let mut raw = vec![0; size(rows * tensor.row_bytes())?];
        self.model.read_rows(tensor, first, rows, &mut raw)?;
        let row_len = size(tensor.row_len())?;
        // Only plain types are written, so a place is a count of weights times their width.
        let width = weight.to.layout().bytes as u64;
        let at = 8
            + self.header.len() as u64
            + weight.at
            + (first - weight.rows.start) * tensor.row_len() * width;
        progress.advance(rows * tensor.row_len() * width);
        // As they are; else by way of float32.
        if tensor.quant == weight.to && !weight.turned && weight.numbers == Numbers::Same {
            self.check(weight, first, &raw, &[])?;
            return out.write_at(at, &raw);
        }
        let isa = Isa::best();
        let mut numbers = vec![0.0; size(rows)? * row_len];
        decode_rows(tensor.quant, isa, &raw, row_len, &mut numbers);
        numbers.iter_mut().for_each(|number| *number = weight.numbers.to_hf(*number));
        let mut row_len = row_len;
        if weight.turned {
            // [rows][row_len] becomes [row_len][rows].
            let column = |n: usize| numbers.iter().skip(n).step_by(row_len);
            numbers = (0..row_len).flat_map(column).copied().collect();
            row_len = size(rows)?;
        }
        let mut made = vec![0; size(rows * tensor.row_len() * width)?];
        (weight.encode)(isa, &numbers, row_len, None, &mut made);
        self.check(weight, first, &made, &numbers)?;
        out.write_at(at, &made)
    }
}
