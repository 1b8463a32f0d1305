//! What a person may say about a file beforehand.

use crate::{limits::Limits, quant::QuantType};

/// What a person may say about a file beforehand.
///
/// ```no_run
/// use std::path::Path;
/// use regguf::container::{OpenOptions, RowStorage, open};
///
/// // A file of 10 March 2023, whose header is that of the day after.
/// let options = OpenOptions { blocks: Some(RowStorage::Planar), ..OpenOptions::default() };
/// let model = open(Path::new("ggml-model-q4_0.bin"), &options)?;
/// # Ok::<(), regguf::error::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The format by id, where the person knows it.
    /// As `formats/container` names it, `ggjt-v1-llama`; only this one is tried then.
    pub format: Option<String>,
    /// How unversioned files store Q4 rows.
    pub blocks: Option<RowStorage>,
    /// Of how many files a set consists.
    /// Held against what the shapes say, never believed instead.
    pub n_parts: Option<u32>,
    /// What tensors are whose number and size several types had.
    pub read_as: Vec<QuantType>,
    /// What a file may ask for.
    pub limits: Limits,
}

/// How the Q4 rows of an unversioned file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "command", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum RowStorage {
    /// The scales of a row first, as on 10 March 2023.
    Planar,
    /// Block after block.
    Blocked,
}
