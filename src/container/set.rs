//! What the readers of sets of files share.

use std::path::{Path, PathBuf};

use crate::{bytes::Input, error::Error, remedy::Remedy};

/// The name that a browser gave to a file's second download, where that is there: `x (1).gguf`.
pub fn browser_copy(path: &Path) -> Option<PathBuf> {
    let (stem, ending) = path.file_name()?.to_str()?.rsplit_once('.')?;
    let named = |n: u8| path.with_file_name(format!("{stem} ({n}).{ending}"));
    (1..10).map(named).find(|copy| copy.is_file())
}

/// An error about a set of files, with what to do.
pub(super) fn incomplete(input: &Input, looks: String, next: impl Into<Remedy>) -> Error {
    Error::Unknown { file: input.name(), looks, next: next.into() }
}
