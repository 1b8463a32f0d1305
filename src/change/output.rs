//! Where an output goes: as a person names it, into the folder named, or to a place of its own.

use std::path::{self, Path, PathBuf};

/// The output of a call that was told `named`: that file; `name` in that folder, if it is one, if it is
/// written as one (`out/`) or has to take `several`; `name` in `folder` where nothing was named.
pub fn place(named: Option<&Path>, several: bool, folder: &Path, name: &str) -> PathBuf {
    match named {
        Some(named) if several || named.is_dir() || is_written_as_folder(named) => named.join(name),
        Some(named) => named.to_owned(),
        None => folder.join(name),
    }
}

/// Whether a path ends as only a folder's does.
pub fn is_written_as_folder(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().last();
    last.is_some_and(|byte| path::is_separator(char::from(*byte)))
}
