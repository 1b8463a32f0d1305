//! Writing lists of digests for a folder: `SHA256SUMS`, `checklist.chk`, and digests per tensor.
//!
//! The first two are read by `sha256sum -c` and `md5sum -c` anywhere. All three name files relative
//! to the folder, in the order of their names.

//!
//! ```text
//! SHA256SUMS       64 hex digits, two spaces, name       every file below the folder
//! checklist.chk    32 hex digits, two spaces, name       the same files, MD5, as in Meta's release
//! TENSORSUMS       a section for each file that is a whole model, a line for each tensor
//! ```
//!
//! Where somebody else's list has one of the first two names, it stays, and this program's is beside it, called
//! `regguf.SHA256SUMS`.
use crate::bytes::replace::Existing;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::digest::{self, Algorithm, Outcome};
use super::sums::{escape, is_list_name};
use super::tensors::{TENSORSUMS, TensorList, sums, to_text};
use super::{Options, contents};
use crate::bytes::{
    Progress,
    replace::{check_target, write_small},
};
use crate::check::Finding;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// The lists that [`write()`] makes.
pub const SHA256SUMS: &str = "SHA256SUMS";
/// The MD5 list, named as Meta names its own.
pub const CHECKLIST: &str = "checklist.chk";

/// Digests every file below `folder` in one read each and writes the lists into it.
///
/// # Errors
/// Where a list of an earlier call exists and `existing` is not given, where a file
/// cannot be read or changes meanwhile, where a name cannot be written in a list.
pub fn write(
    folder: &Path,
    options: &Options,
    existing: Existing,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    // Before hours of reading, not after.
    let targets = [own(folder, SHA256SUMS), own(folder, CHECKLIST), folder.join(TENSORSUMS)];
    for target in &targets {
        check_target(target, existing, &[])?;
    }
    let files = files_of(folder)?;
    if files.is_empty() {
        let what = format!("{}: holds no files to list", folder.display());
        return Err(Error::unsupported(what, "name the folder of a model"));
    }
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
    progress.total(files.iter().map(size).sum());
    let outcomes = digest::spread(&files, options.threads, size, |path, threads| {
        digest::file(path, &[Algorithm::Md5, Algorithm::Sha256], threads, &|n| progress.advance(n))
    });
    let (mut sha256, mut md5) = (String::new(), String::new());
    for (path, outcome) in files.iter().zip(outcomes) {
        let digests = match outcome {
            Outcome::Read { digests, .. } => digests,
            Outcome::Failed(error) => return Err(Error::io(path, "read", error)),
            Outcome::Changed => {
                let how = "its size or time moved".to_owned();
                return Err(Error::Changed { path: path.clone(), how });
            }
        };
        let name = name_in(folder, path)?;
        for (list, algorithm) in [(&mut sha256, Algorithm::Sha256), (&mut md5, Algorithm::Md5)] {
            if let Some(digest) = digests.get(&algorithm) {
                list.push_str(&line(&digest.hex, &name));
            }
        }
    }
    let mut tensors = TensorList::new();
    for path in &files {
        // What is no whole model has no tensors to list; verifying says why.
        if let Some(model) = contents::model(path, &options.limits) {
            tensors.insert(name_in(folder, path)?, sums(&model, &|_| ())?);
        }
    }
    let mut written = Vec::new();
    for (target, text) in targets.into_iter().zip([sha256, md5, to_text(&tensors)]) {
        if !text.is_empty() {
            write_small(&target, text.as_bytes(), existing)?;
            written.push(target);
        }
    }
    Ok(written)
}

/// Where this program writes a list: under its usual name, or beside the list of that name that somebody
/// else made. Its own are known by [`TENSORSUMS`], which nobody else writes.
fn own(folder: &Path, name: &str) -> PathBuf {
    let (usual, beside) = (folder.join(name), folder.join(format!("regguf.{name}")));
    let foreign = usual.exists() && !folder.join(TENSORSUMS).exists();
    if foreign || beside.exists() { beside } else { usual }
}

/// The files below a folder that no list should vouch for, each with what is wrong with it.
///
/// # Errors
/// Where the folder cannot be listed.
pub fn damaged(folder: &Path, limits: &Limits) -> Result<Vec<(PathBuf, Finding)>> {
    let of = |path: PathBuf| contents::damage(&path, limits).map(|finding| (path, finding));
    Ok(files_of(folder)?.into_iter().filter_map(of).collect())
}

/// The name of a file as lists have it: relative to the folder, with `/`.
fn name_in(folder: &Path, path: &Path) -> Result<String> {
    let Some(name) = path.strip_prefix(folder).unwrap_or(path).to_str() else {
        let what = format!("{}: its name is not Unicode", path.display());
        return Err(Error::unsupported(what, "rename it"));
    };
    Ok(name.replace(std::path::MAIN_SEPARATOR, "/"))
}

/// One line as GNU writes it, with the escapes it uses for awkward names.
fn line(hex: &str, name: &str) -> String {
    if !name.contains(['\\', '\n', '\r']) {
        return format!("{hex}  {name}\n");
    }
    format!("\\{hex}  {}\n", escape(name))
}

/// The files below a folder that a list should name: all but lists and hidden ones.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let visible = |entry: &walkdir::DirEntry| {
        entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.')
    };
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(visible) {
        let entry = entry.map_err(|error| Error::walk(folder, error))?;
        let is_list = is_list_name(entry.path()) || entry.file_name() == TENSORSUMS;
        if entry.path().is_file() && !is_list {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}
