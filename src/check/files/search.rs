//! Which files below a folder are models: by what is in them, and by names that promise one.
//!
//! Every verb that takes a folder searches it here, so that none passes over what another finds. A
//! file counts once, under the name that says most of it: a Hugging Face snapshot links to its blob.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::download;
use crate::error::Error;
use crate::{checkpoint, container};

/// Endings that promise a model, whatever the file holds.
const ENDINGS: [&str; 9] =
    ["bin", "gguf", "ggml", "ggmf", "ggjt", "pth", "pt", "ckpt", "safetensors"];

/// Why a file is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Looks {
    /// It begins as a model does.
    Model,
    /// It begins as raw weights do, and is named so.
    Weights,
    /// Its name promises a model; it begins as none.
    Named,
    /// A download program has not finished with it.
    Unfinished,
}

/// What a file looks like; `None` where it is nothing to look into.
pub fn look(path: &Path) -> Option<Looks> {
    let named = has_model_ending(path);
    if is_apple_double(path) {
        return None;
    }
    if download::unfinished(path).is_some_and(|record| record == path) {
        return Some(Looks::Unfinished);
    }
    if container::has_magic(path).unwrap_or(false) {
        return Some(Looks::Model);
    }
    if named && path.is_file() && checkpoint::is_weights(path).unwrap_or(false) {
        return Some(Looks::Weights);
    }
    named.then_some(Looks::Named)
}

/// Whether a file's name promises a model: `.gguf`, `.bin`, `.bin.1` of a set of parts.
pub fn has_model_ending(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    let name = name.to_string_lossy().to_ascii_lowercase();
    let ends = |name: &str| name.rsplit_once('.').is_some_and(|(_, e)| ENDINGS.contains(&e));
    let numbered = name.rsplit_once('.').filter(|(_, n)| n.parse::<u8>().is_ok());
    ends(&name) || numbered.is_some_and(|(stem, _)| stem.ends_with(".bin"))
}

/// Whether a file is what macOS keeps of another's attributes on foreign disks: `._model.gguf`.
pub fn is_apple_double(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("._"))
}

/// Every file below `root` once, in the order of their names; links that lead nowhere among them.
/// Hidden files and folders are passed over: download programs and version control keep their own
/// records there. What cannot be listed comes with the reason.
pub fn files(root: &Path) -> (Vec<PathBuf>, Vec<(PathBuf, Error)>) {
    let (mut found, mut unlisted): (Vec<PathBuf>, _) = (Vec::new(), Vec::new());
    let mut places: HashMap<PathBuf, usize> = HashMap::new();
    let walk = WalkDir::new(root).sort_by_file_name().follow_links(true);
    for entry in walk.into_iter().filter_entry(is_visible) {
        let path = match entry {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) => entry.into_path(),
            // A link into a folder above itself shows nothing that the walk does not see anyway.
            Err(error) if error.loop_ancestor().is_some() => continue,
            Err(error) => match leads_nowhere(&error) {
                Some(path) => path,
                None => {
                    let path = error.path().unwrap_or(root).to_path_buf();
                    unlisted.push((path, Error::walk(root, error)));
                    continue;
                }
            },
        };
        let place = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        let index = *places.entry(place).or_insert(found.len());
        match found.get_mut(index) {
            None => found.push(path),
            Some(other) if path.is_symlink() && !other.is_symlink() => *other = path,
            Some(_) => {}
        }
    }
    found.sort();
    (found, unlisted)
}

/// Whether it is named outright, or not hidden by a dot.
fn is_visible(entry: &DirEntry) -> bool {
    entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.')
}

/// The link behind an error, where what it points to is not there.
fn leads_nowhere(error: &walkdir::Error) -> Option<PathBuf> {
    let missing = error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound);
    error.path().filter(|path| missing && path.is_symlink()).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_promise_a_model() {
        for name in ["a.gguf", "A.BIN", "ggml-model-f16.bin.1", "x.pt", "x.safetensors"] {
            assert!(has_model_ending(Path::new(name)), "{name}");
        }
        for name in ["a.gguf.json", "a.1", "tokenizer.model", "bin", "a.bin.txt"] {
            assert!(!has_model_ending(Path::new(name)), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_blob_counts_under_its_snapshots_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = folder.path().join("blobs");
        let snapshot = folder.path().join("snapshots/abc");
        fs::create_dir_all(&blobs).expect("a folder");
        fs::create_dir_all(&snapshot).expect("a folder");
        fs::write(blobs.join("0123"), "GGUF").expect("writable");
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, snapshot.join(name)).expect("a link");
        };
        link("../../blobs/0123", "model.gguf");
        link("../../blobs/4567", "gone.gguf");
        link("../..", "round");
        let names = files(folder.path()).0;
        let names: Vec<_> = names.iter().filter_map(|p| p.file_name()).collect();
        assert_eq!(names, ["gone.gguf", "model.gguf"]);
    }
}
