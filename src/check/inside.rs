//! What a file holds, for a verification: opened as a model where it is one, its structure checked,
//! its numbers where that was asked for, its tensors where a list knows them.

use std::io::Read;
use std::path::Path;

use super::{Finding, numbers, structure, tensors};
use crate::bytes::open_regular;
use crate::checkpoint::{self, Misfit};
use crate::container::{OpenOptions, open};
use crate::error::Error;
use crate::model::Model;

/// The first four bytes of the files that [`open`] reads.
const MAGICS: [&[u8; 4]; 6] = [b"lmgg", b"fmgg", b"tjgg", b"algg", b"GGUF", b"FUGG"];

/// Whether a file begins as a ggml, ggmf, ggjt or GGUF model does.
pub fn is_model(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = open_regular(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && MAGICS.contains(&&magic)
}

/// Whether a file is raw weights by its name and its first bytes; other archives and pickles, as a
/// trainer's settings, are none.
pub(super) fn is_weights(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let named = name.ends_with(".safetensors")
        || name.ends_with(".pth")
        || name.starts_with("pytorch_model") && name.ends_with(".bin");
    named && path.is_file() && checkpoint::is_weights(path).unwrap_or(false)
}

/// Opens a file that is a model, or the first file of a set; `None` for other files and for the later
/// files of a set, which are checked with the first. Raw weights are opened each by itself.
///
/// # Errors
/// What is wrong with it, as a finding.
pub(super) fn open_first(path: &Path) -> Result<Option<Model>, Box<Finding>> {
    if is_weights(path) {
        return checkpoint::alone(path).map(Some).map_err(|error| Box::new(fault(path, &error)));
    }
    if !is_model(path) {
        return Ok(None);
    }
    match open(path, &OpenOptions::default()) {
        Ok(model) => {
            let first = model.files.first().is_some_and(|file| file.path() == path);
            Ok(first.then_some(model))
        }
        Err(error) => Err(Box::new(fault(path, &error))),
    }
}

/// An error of opening a file as a finding about it, which need not name the file again.
fn fault(path: &Path, error: &Error) -> Finding {
    let said = error.to_string();
    let said = said.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&said);
    let code = match error {
        Error::Malformed(m) if m.next.contains("bytes short") => "truncated",
        Error::Malformed(_) => "malformed",
        Error::Unknown { .. } => "unknown",
        Error::Unsupported { .. } => return Finding::note("unsupported", said),
        Error::Changed { .. } => "changed",
        Error::Refused { .. } => "inconsistent",
        _ => "unreadable",
    };
    Finding::failure(code, said)
}

/// The structure of a model file, and its numbers with `deep`.
pub(super) fn check(path: &Path, deep: bool, progress: &(dyn Fn(u64) + Sync)) -> Vec<Finding> {
    let model = match open_first(path) {
        Ok(Some(model)) => model,
        Ok(None) => return Vec::new(),
        Err(finding) => return vec![*finding],
    };
    let mut findings = structure::check(&model);
    findings.extend(model.notes.iter().map(|note| Finding::note("note", note.as_str())));
    if deep {
        match numbers::check(&model, progress) {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(fault(path, &error)),
        }
    }
    findings
}

/// A folder of raw weights as the model that it is, put together as a conversion would; `None` where it
/// is no checkpoint.
pub(super) fn check_folder(folder: &Path) -> Option<Vec<Finding>> {
    let model = match checkpoint::open(folder, &checkpoint::Options { misfit: Misfit::Leave }) {
        Ok(model) => model,
        Err(Error::Unknown { .. }) => return None,
        Err(error) => return Some(vec![fault(folder, &error)]),
    };
    let mut findings = structure::meaning(&model);
    let files = model.files.iter().filter(|file| file.file().is_some()).count();
    let message = format!(
        "a model of {} tensors and {} tokens in {files} file{}",
        model.tensors.len(),
        model.vocab.len(),
        if files == 1 { "" } else { "s" },
    );
    findings.push(Finding::note("model", message));
    findings.extend(model.notes.iter().map(|note| Finding::note("note", note.as_str())));
    Some(findings)
}

/// Compares the tensors of a model with the list that knows them, if one does.
pub(super) fn compare_tensors(path: &Path) -> Option<Finding> {
    let listed = tensors::listed(path)?;
    let model = open_first(path).ok().flatten()?;
    Some(match tensors::sums(&model, &|_| ()) {
        Ok(found) => tensors::compare(&found, &listed),
        Err(error) => fault(path, &error),
    })
}
