//! What a person may say about a file beforehand.

use crate::{limits::Limits, quant::QuantType};

/// What a person may say about a file beforehand.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The format by id, where the person knows it.
    pub format: Option<String>,
    /// How unversioned files store Q4 rows.
    pub blocks: Option<RowStorage>,
    /// Of how many files a set consists.
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
