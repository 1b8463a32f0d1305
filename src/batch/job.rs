//! What is to be done with one model of a batch.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::find::Found;
use crate::remedy::Note;

/// Bytes a second of a job that moves rows, for the estimate only.
pub const MOVED_PER_SECOND: f64 = 400e6;
/// What is to be done with one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// The model.
    pub model: Found,
    /// The format it has.
    pub from: String,
    /// What will be written.
    pub outputs: Vec<Output>,
    /// A rough estimate of the time.
    pub seconds: f64,
    /// What is lost or assumed, in words.
    pub risk: String,
    /// Why nothing needs to be done, where nothing does.
    pub skip: Option<Note>,
    /// Why it cannot be done, where it cannot.
    pub problem: Option<Note>,
}

/// One file to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Output {
    /// Where.
    pub path: PathBuf,
    /// The quantization type asked for, where one was.
    pub kind: Option<String>,
    /// The container it is written in.
    pub to: String,
    /// Its size.
    pub bytes: u64,
}
