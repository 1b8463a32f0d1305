//! Whether files are whole: digests, what lists claim of them, and what is evident from the bytes.

pub mod digest;
pub mod download;
pub(crate) mod known;
pub mod lists;
pub(crate) mod search;
pub mod sums;
pub mod tensors;
pub mod verify;

mod contents;
mod diagnose;
mod forms;
mod gather;
mod holes;
mod stores;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

pub use verify::verify;

use super::Finding;
use crate::{limits::Limits, model::Model};
use digest::Digest;

/// How to verify.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lists under whatever name; `-` is standard input.
    pub lists: Vec<PathBuf>,
    /// Digests that the files named by hand should have.
    pub digests: Vec<Digest>,
    /// Files that lists name and that are not there are no failure.
    pub ignore_missing: bool,
    /// Also decode every row and look at the numbers.
    pub deep: bool,
    /// Threads to use; 0 for one a core.
    pub threads: usize,
    /// The model that adapters belong to.
    pub base: Option<Model>,
    /// What files may ask for.
    pub limits: Limits,
}

/// What became of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Status {
    /// Its digest is the claimed one, or nothing is claimed and nothing is wrong with it.
    Ok,
    /// It is not what it should be.
    Failed,
    /// It could not be opened or read.
    Unreadable,
    /// It is not there, which was allowed.
    Missing,
}

/// One file, verified, or a folder of raw weights as the model that they are together.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Checked {
    /// Its name as the list or the command line has it.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The verdict.
    pub status: Status,
    /// Whether a digest from outside the file confirmed it.
    pub confirmed: bool,
    /// Its size, where it could be read.
    pub size: Option<u64>,
    /// Its digests, by the algorithm's name.
    pub digests: BTreeMap<&'static str, String>,
    /// What is to be said about it.
    pub findings: Vec<Finding>,
}

/// One list that took part.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ListChecked {
    /// Where it is.
    pub path: PathBuf,
    /// How many files it names.
    pub entries: usize,
    /// The numbers of its lines in no known form.
    pub malformed_lines: Vec<usize>,
    /// Why it is no list at all, if it is none.
    pub problem: Option<String>,
}

/// A whole verification.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// The version of this structure.
    pub schema_version: u32,
    /// The files, those of lists first and in their order; then the folders.
    pub files: Vec<Checked>,
    /// The lists.
    pub lists: Vec<ListChecked>,
}

impl Verification {
    /// How many files have this verdict.
    pub fn count(&self, status: Status) -> usize {
        self.files.iter().filter(|file| file.status == status).count()
    }

    /// Whether every file and list is good and at least one file was looked at.
    pub fn is_good(&self) -> bool {
        self.count(Status::Failed) + self.count(Status::Unreadable) == 0
            && self.lists.iter().all(|list| list.problem.is_none())
            && self.files.iter().any(|file| file.status == Status::Ok)
    }
}
