//! Between bytes and models: what a file is, and what is in it.
//!
//! [`open`] is all that most callers need: it detects the format, reads the headers, finds the other
//! files of a set, and returns a [`Model`] whose weights are still on disk. [`stream::layout`] and
//! [`keyed::layout`] are the way back.
//!
//! ```text
//! path --parts::first--> first file of a set
//!      --detect--------> candidates by magic and version, each walked: stream (ggml to ggjt) or keyed (GGUF)
//!      --pieces--------> where that failed: files cut by bytes, as one
//!      --parts, shards-> the other files of a set
//!      --plausible-----> byte order and zeros, by some of the weights
//!      --> Model         headers in memory, weights as ranges of files
//! ```
//!
//! What is read before anything is believed: the header, the vocabulary and the head of every tensor. Weights are not
//! read, but for samples where sizes alone do not decide.

pub mod detect;
pub mod imatrix;
#[doc(hidden)]
pub mod keyed;
mod layout;
mod lookalike;
mod mended;
mod missing;
mod options;
mod parts;
pub(crate) mod pieces;
mod plausible;
mod set;
pub(crate) mod shards;
mod start;
#[doc(hidden)]
pub mod stream;
#[doc(hidden)]
pub mod tail;

use std::path::{Path, PathBuf};

pub use detect::{Detected, Verdict, detect};
pub use layout::{Layout, TensorHead};
pub(crate) use mended::notes_of_new;
pub use mended::upgrade_mends;
pub use options::{OpenOptions, RowStorage};
pub use set::browser_copy;
pub use start::has_magic;

use crate::{bytes::Input, error::Result, model::Model};

/// Opens a model: one file, or the set that a file belongs to.
///
/// # Errors
/// [`Malformed`](crate::error::Error::Malformed) where a file breaks the rules of its format; [`Unknown`](crate::error::Error::Unknown) where nobody
/// knows what it is, where it could be several things or where files of a set are missing;
/// [`Unsupported`](crate::error::Error::Unsupported) for formats that are known and have no tensors to read here.
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
    Ok(Model { limits: options.limits, ..model })
}

/// Opens one file as it is, without looking for others of its set.
///
/// The parts of [`open`] that look at other files or at weights are left out.
///
/// # Errors
/// As [`open`].
pub fn open_alone(input: &Input, options: &OpenOptions) -> Result<Model> {
    let mut model = detect(input, options)?.sure(input)?;
    stream::fill_metadata(&mut model);
    Ok(Model { limits: options.limits, ..model })
}

/// Whether `path` is a later file of a set whose first file exists: `x.bin.1`, `x-00002-of-00003.gguf`.
///
/// By its name and by what is there: nothing is opened.
pub fn is_later_part(path: &Path) -> bool {
    first_of_set(path).is_some()
}

/// The first file of the set that `path` is a later file of, where it exists.
pub fn first_of_set(path: &Path) -> Option<PathBuf> {
    let first = parts::first(path);
    if first != path { Some(first) } else { shards::first(path) }
}
