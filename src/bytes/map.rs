//! Read-only memory maps, for the runner only: weights are used where they lie.

#![allow(unsafe_code, reason = "mapping a file is unsafe by nature; this is the one place for it")]

use memmap2::Mmap;

use super::Input;
use crate::error::{Error, Result};

/// Maps a whole input file. The caller keeps the map as long as it uses the bytes.
///
/// # Errors
/// [`Error::Unsupported`] for inputs that are not files on disk, [`Error::Io`] where mapping fails.
pub fn map(input: &Input) -> Result<Mmap> {
    let Some(file) = input.file() else {
        let what = format!("{}: only a file on disk can be mapped", input.name());
        return Err(Error::unsupported(what, "extract it first"));
    };
    input.check_unchanged()?;
    // SAFETY: the map is read-only and private to this process; a file cut short by somebody else
    // while it is in use is the documented limit of the runner.
    unsafe { Mmap::map(file) }.map_err(|e| Error::io(input.path(), "map", e))
}
