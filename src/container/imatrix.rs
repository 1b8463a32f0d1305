//! Importance matrices: how much each column of a weight matrix matters, measured on text.
//!
//! [`Measured`] is what a file of either kind holds, [`Importance`] what an encoder gets of it: sum / count, as
//! llama.cpp tools/quantize `load_imatrix` computes it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

pub use self::{measured::Measured, statistics::Statistics};
use crate::{bytes::Input, error::Result, limits::Limits};

mod measured;
pub(crate) mod statistics;

/// The imatrix data of a model's matrices.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    /// The file, as it was named.
    pub file: String,
    /// The texts that it was measured on.
    pub datasets: Vec<String>,
    /// Pieces of text that it was measured on; 0 where the file does not say.
    pub chunks: u32,
    /// By the name of the tensor, one number a column, for stacks one run of columns an expert.
    entries: BTreeMap<String, Arc<[f32]>>,
}

impl Importance {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// Where it cannot be read, breaks the rules of its format, holds nothing or an infinite number.
    pub fn read(path: &Path, limits: &Limits) -> Result<Importance> {
        Importance::of(&Input::open(path)?, limits)
    }

    /// Reads an opened file of either kind.
    ///
    /// # Errors
    /// As [`Importance::read`].
    pub fn of(input: &Input, limits: &Limits) -> Result<Importance> {
        let measured = Measured::of(input, limits)?;
        let texts = measured.datasets.iter();
        Ok(Importance {
            file: input.name(),
            datasets: texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect(),
            chunks: measured.chunks,
            entries: measured
                .means()
                .map(|(name, means)| (name.to_owned(), means.into()))
                .collect(),
        })
    }

    /// Keeps the entries whose name contains one of `include`, all where it is empty, and drops
    /// those whose name contains one of `exclude`.
    ///
    /// As llama-quantize takes `--include-weights` and `--exclude-weights`.
    pub fn retain(&mut self, include: &[String], exclude: &[String]) {
        self.entries.retain(|name, _| {
            let in_any = |parts: &[String]| parts.iter().any(|p| name.contains(p.as_str()));
            (include.is_empty() || in_any(include)) && !in_any(exclude)
        });
    }

    /// Number of matrices.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is known about the tensor of this name.
    ///
    /// As many numbers as the tensor has columns; for stacks of experts as many times more.
    pub fn get(&self, name: &str) -> Option<&Arc<[f32]>> {
        self.entries.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_included_and_excluded_by_their_parts() {
        let names = ["blk.0.up", "blk.1.up", "out"];
        let mut measured = Measured::default();
        names.iter().for_each(|name| measured.add(name, (0, 1), 1, &[1.0]));
        let all = measured.to_gguf(1).unwrap();
        let kept = |include: &[&str], exclude: &[&str]| {
            let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
            let mut all =
                Importance::of(&Input::memory("i.gguf", all.clone()), &Limits::DEFAULT).unwrap();
            all.retain(&own(include), &own(exclude));
            all.entries.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(kept(&["up"], &[]), ["blk.0.up", "blk.1.up"]);
        assert_eq!(kept(&[], &["blk.1", "out"]), ["blk.0.up"]);
        assert_eq!(kept(&[], &[]).len(), 3);
    }
}
