//! Between bytes and models: what a file is, and what is in it.
//!
//! [`open`] is all that most callers need: it detects the format, reads the headers, finds the other
//! files of a set, and returns a [`Model`] whose weights are still on disk. [`stream::layout`] and
//! [`keyed::layout`] are the way back.

pub mod detect;
pub mod imatrix;
#[doc(hidden)]
pub mod keyed;
mod lookalike;
mod missing;
mod parts;
#[doc(hidden)]
pub mod pieces;
mod plausible;
#[doc(hidden)]
pub mod shards;
#[doc(hidden)]
pub mod stream;
#[doc(hidden)]
pub mod tail;

use std::path::{Path, PathBuf};

pub use detect::{Detected, Verdict, detect};

use crate::{
    bytes::{Input, Source},
    error::{Error, Result},
    format::{
        catalog,
        container::{Container, Skeleton},
    },
    limits::Limits,
    model::Model,
    quant::QuantType,
};

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
pub enum RowStorage {
    /// The scales of a row first, as on 10 March 2023.
    Planar,
    /// Block after block.
    Blocked,
}

/// Opens a model: one file, or the set that a file belongs to.
///
/// # Errors
/// [`Error::Malformed`] where a file breaks the rules of its format; [`Error::Unknown`] where nobody
/// knows what it is, where it could be several things or where files of a set are missing;
/// [`Error::Unsupported`] for formats that are known and have no tensors to read here.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Model> {
    let first = parts::first(path);
    let input = Input::open(&first)?;
    let detected = detect(&input, options)?;
    let model = match detected.sure(&input) {
        Err(error) => pieces::read(&first, error, options)?,
        Ok(model) => model,
    };
    let model = parts::complete(model, options)?;
    let mut model = shards::complete(model, options)?;
    plausible::byte_order(&mut model)?;
    plausible::all_zero(&mut model)?;
    model.notes.extend(lookalike::wrong_extension(&first, &model));
    let tails: Vec<String> =
        model.tails.iter().map(|tail| tail::sentence(&model, tail)).collect::<Result<_>>()?;
    model.notes.extend(tails);
    stream::fill_metadata(&mut model);
    Ok(model)
}

/// Opens one file as it is, without looking for others of its set.
///
/// # Errors
/// As [`open`].
pub fn open_alone(input: &Input, options: &OpenOptions) -> Result<Model> {
    let mut model = detect(input, options)?.sure(input)?;
    stream::fill_metadata(&mut model);
    Ok(model)
}

/// Whether `path` is a later file of a set whose first file exists: `x.bin.1`, `x-00002-of-00003.gguf`.
pub fn is_later_part(path: &Path) -> bool {
    first_of_set(path).is_some()
}

/// The first file of the set that `path` is a later file of, where it exists.
pub fn first_of_set(path: &Path) -> Option<PathBuf> {
    let first = parts::first(path);
    if first != path { Some(first) } else { shards::first(path) }
}

/// Whether an upgrade mends what a reader found wrong with the form of a file.
pub fn upgrade_mends(model: &Model) -> bool {
    model.notes.iter().any(|note| note.contains("an upgrade mends it"))
}

/// The name that a browser gave to a file's second download, where that is there: `x (1).gguf`.
pub fn browser_copy(path: &Path) -> Option<PathBuf> {
    let (stem, ending) = path.file_name()?.to_str()?.rsplit_once('.')?;
    let named = |n: u8| path.with_file_name(format!("{stem} ({n}).{ending}"));
    (1..10).map(named).find(|copy| copy.is_file())
}

/// Whether a file begins as a model of some known format does.
pub fn has_magic(path: &Path) -> Result<bool> {
    let input = Input::open(path)?;
    let mut head = vec![0; usize::try_from(input.len().min(16)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    Ok(is_start(&head))
}

/// Whether bytes begin as a model of some known format does.
fn is_start(head: &[u8]) -> bool {
    let model = |c: &&Container| matches!(c.format.skeleton, Skeleton::Stream | Skeleton::Keyed);
    let begins = |c: &Container| head.starts_with(&c.detect.begins);
    catalog::containers().iter().filter(model).any(begins)
}

/// Where everything of a file goes, before the first byte is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Every byte that is not weights: offset and bytes, in order.
    pub chunks: Vec<(u64, Vec<u8>)>,
    /// The offset of each tensor's data, in the order of the heads.
    pub data: Vec<u64>,
    /// The length of the file.
    pub total: u64,
}

/// What a layout must know about a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorHead {
    /// Its name in the file.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Its type.
    pub quant: QuantType,
    /// The bytes of its data.
    pub bytes: u64,
}

/// Checks the first bytes and the version of a file; returns where they end.
fn check_start(source: &Source, format: &Container) -> Result<u64> {
    let (at, begins) = (format.detect.at, &format.detect.begins);
    let len = begins.len() as u64;
    let found = source.bytes_at(at, len, len, "magic")?;
    if found != *begins {
        let found = format!("{:?}", String::from_utf8_lossy(&found));
        let wanted = format!("{:?}", String::from_utf8_lossy(begins));
        return Err(source.malformed(at, "magic", found, wanted));
    }
    let end = at + len;
    let Some(version) = format.detect.version else { return Ok(end) };
    let found = source.u32_at(end, "version")?;
    if found != version {
        return Err(source.malformed(end, "version", found, version.to_string()));
    }
    Ok(end + 4)
}

/// The first bytes and the version of a file.
fn start(format: &Container) -> Vec<u8> {
    let mut out = format.detect.begins.clone();
    if let Some(version) = format.detect.version {
        let bytes = version.to_le_bytes();
        out.extend(if format.detect.big_endian { version.to_be_bytes() } else { bytes });
    }
    out
}

/// An error about a set of files, with what to do.
fn incomplete(input: &Input, looks: String, next: &str) -> Error {
    Error::Unknown { file: input.name(), looks, next: next.to_owned() }
}
