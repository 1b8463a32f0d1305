//! What a file holds, for a verification: opened as a model where it is one, its structure checked,
//! its numbers where that was asked for, its tensors where a list knows them.

use std::path::Path;

use super::{diagnose, search, tensors};
use crate::bytes::{Input, open_regular};
use crate::check::{
    Finding, Severity,
    models::{numbers, structure},
};
use crate::checkpoint::{self, Misfit};
use crate::container::tail::{self, Kind};
use crate::container::{OpenOptions, Verdict, detect, has_magic, open, open_alone, pieces};
use crate::error::Error;
use crate::limits::Limits;
use crate::model::{Model, Tail};
use crate::remedy::Note;

/// Whether a file is raw weights by its name and its first bytes; other archives and pickles, as a
/// trainer's settings, are none.
pub(super) fn is_weights(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let named = name.ends_with(".safetensors")
        || name.ends_with(".pth")
        || name == "adapter_model.bin"
        || name.starts_with("pytorch_model") && name.ends_with(".bin");
    named && path.is_file() && checkpoint::is_weights(path).unwrap_or(false)
}

/// What a file turned out to be.
pub(super) enum Held {
    /// A model, or the first file of a set with the whole set.
    Model(Box<Model>),
    /// A later file of a set, by itself or with the set; its meaning is checked with the first.
    Later(Box<Model>),
    /// Something known that is not looked into, or a model with a fault.
    Told(Finding),
    /// No model: what it looks like, as `inspect` says it.
    Other(Note),
}

/// Opens a file, and with the first of a set the others; a later one by itself where the set is looked
/// at elsewhere (`alone`). Raw weights are opened each by itself.
///
/// ```text
/// raw weights                     with an adapter's settings where it is one, else its tensors alone
/// a later piece cut by bytes      nothing of it can be read by itself
/// a later shard of a set          alone, for the first brings the set
/// anything else                   as `inspect` opens it
/// ```
pub(super) fn held(path: &Path, alone: bool, limits: &Limits) -> Held {
    if is_weights(path) {
        // Of an adapter its settings say more, where they are there.
        let adapter = match checkpoint::adapter::is_adapter(path, limits) {
            Ok(true) => checkpoint::adapter::open(path, limits),
            _ => checkpoint::alone(path, limits),
        };
        // What is not understood with its settings is read without them: the tensors by themselves.
        let opened = match adapter {
            Err(Error::Unknown { .. } | Error::Unsupported { .. }) => {
                checkpoint::alone(path, limits)
            }
            opened => opened,
        };
        return match opened {
            Ok(model) => Held::Model(Box::new(model)),
            Err(error) => Held::Told(fault(path, &error)),
        };
    }
    let options = OpenOptions { limits: *limits, ..OpenOptions::default() };
    if let Some(piece) = pieces::later(path) {
        return Held::Told(Finding::note("piece", piece));
    }
    if alone {
        return match Input::open(path).and_then(|input| open_alone(&input, &options)) {
            Ok(model) => Held::Later(Box::new(model)),
            Err(error) => Held::Told(fault(path, &error)),
        };
    }
    match open(path, &options) {
        Ok(model) if begins_with(&model, path) => Held::Model(Box::new(model)),
        Ok(model) => Held::Later(Box::new(model)),
        Err(Error::Unknown { looks, next, .. }) if !has_magic(path).unwrap_or(false) => {
            Held::Other(Note::new(looks, next))
        }
        // Two readings, or a format that is recognised and not read: the file is not at fault.
        Err(error) => Held::Told(match verdict(path, &options) {
            Some(Verdict::Either(..)) => Finding::note("ambiguous", &error),
            Some(Verdict::Sure(_)) if matches!(error, Error::Foreign { .. }) => {
                Finding::note("known", &error)
            }
            _ => fault(path, &error),
        }),
    }
}

/// Whether a model's first bytes are those of the file at `path`.
fn begins_with(model: &Model, path: &Path) -> bool {
    let first = model.files.first().and_then(|file| file.sources().into_iter().next());
    first.is_some_and(|file| file.path() == path)
}

/// What a file is of which no model was read.
fn verdict(path: &Path, options: &OpenOptions) -> Option<Verdict> {
    let detected = Input::open(path).and_then(|input| detect(&input, options));
    detected.ok().map(|detected| detected.verdict)
}

/// The model that a file is or begins, where nothing is wrong with it.
pub(super) fn model(path: &Path, limits: &Limits) -> Option<Box<Model>> {
    match held(path, false, limits) {
        Held::Model(model) => Some(model),
        _ => None,
    }
}

/// An error of opening a file as a finding about it, which need not name the file again.
///
/// | error | code | failure |
/// |---|---|---|
/// | malformed, and bytes are short | `truncated` | yes |
/// | malformed else | `malformed` | yes |
/// | unknown | `unknown` | yes |
/// | foreign: no model by itself | `incomplete` | yes |
/// | unsupported: sound, and not read here | `unsupported` | no |
/// | changed while it was read | `changed` | yes |
/// | refused: parts do not fit each other, or a bound is passed | `inconsistent` | yes |
/// | anything else | `unreadable` | yes |
fn fault(path: &Path, error: &Error) -> Finding {
    let said = Note::from(error).within(path);
    let code = match error {
        Error::Malformed(m) if m.next.to_string().contains("bytes short") => "truncated",
        Error::Malformed(_) => "malformed",
        Error::Unknown { .. } => "unknown",
        Error::Foreign { .. } => "incomplete",
        Error::Unsupported { .. } => return Finding::note("unsupported", said),
        Error::Changed { .. } => "changed",
        Error::Refused { .. } => "inconsistent",
        _ => "unreadable",
    };
    Finding::failure(code, said)
}

/// The structure of a model, and its numbers with `deep`.
pub(super) fn check(
    path: &Path,
    model: &Model,
    deep: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> Vec<Finding> {
    let mut findings = structure::check(model);
    // Archives state the sum of every entry: they are read once more for it.
    let sums = model.files.iter().try_for_each(Input::check_read);
    findings.extend(sums.err().map(|error| fault(path, &error)));
    // The reader notes what follows the data, too: it is told here once, with its severity.
    let tails = tails(model);
    let notes = model.notes.iter().filter(|note| tails.iter().all(|tail| tail.message != **note));
    findings.extend(notes.map(|note| Finding::note("note", note.clone())));
    findings.extend(tails);
    if deep {
        match numbers::check(model, progress) {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(fault(path, &error)),
        }
    }
    findings
}

/// What is wrong with a file by itself, its bytes unread but for what its structure needs.
///
/// For whoever only wants to know whether to go on: the first failure, and no digest.
pub(super) fn damage(path: &Path, limits: &Limits) -> Option<Finding> {
    let size = path.metadata().map_or(0, |m| m.len());
    let found = match held(path, false, limits) {
        Held::Model(model) => check(path, &model, false, &|_| ()),
        Held::Later(model) => check_later(path, &model),
        Held::Told(finding) => vec![finding],
        Held::Other(looks) if search::has_model_ending(path) => {
            vec![Finding::failure("unknown", format!("no model: it {looks}"))]
        }
        Held::Other(_) => Vec::new(),
    };
    let evident = diagnose::evident(path, size, &[]).filter(|_| search::look(path).is_some());
    evident.into_iter().chain(found).find(|finding| finding.severity == Severity::Failure)
}

/// What follows the data of a model's files. So few zeros as fill a page are no more than padding.
fn tails(model: &Model) -> Vec<Finding> {
    let said = |tail: &Tail| {
        let message = tail::sentence(model, tail).ok()?;
        let input = model.files.get(tail.file)?;
        let padding =
            tail.bytes < tail::MOST_PADDING && tail::kind(input, tail.at).ok()? == Kind::Zeros;
        let severity = if padding { Severity::Note } else { Severity::Failure };
        Some(Finding::new(severity, "too-long", message))
    };
    model.tails.iter().filter_map(said).collect()
}

/// Where the tensors of a later file of a set lie.
pub(super) fn check_later(path: &Path, model: &Model) -> Vec<Finding> {
    let alone = model.files.first().is_some_and(|file| file.path() == path);
    if alone {
        structure::extents(model).into_iter().chain(tails(model)).collect()
    } else {
        Vec::new()
    }
}

/// Whether a file is one of those that are beside weights: settings in JSON, a tokenizer.
pub(super) fn is_companion(path: &Path) -> bool {
    let ends = |ending: &str| path.extension().is_some_and(|e| e == ending);
    let json = || {
        let file = open_regular(path).map(std::io::BufReader::new);
        file.is_ok_and(|f| serde_json::from_reader::<_, serde::de::IgnoredAny>(f).is_ok())
    };
    ends("model") || ends("json") && json()
}

/// A folder of raw weights as the model that it is, put together as a conversion would; `None` where it
/// is no checkpoint.
/// A vocabulary that does not fit is no fault of the weights (`Misfit::Leave`).
pub(super) fn check_folder(folder: &Path, limits: Limits) -> Option<Vec<Finding>> {
    let options = checkpoint::Options { misfit: Misfit::Leave, limits, ..Default::default() };
    let model = match checkpoint::open(folder, &options) {
        Ok(model) => model,
        Err(Error::Unknown { .. }) => return None,
        Err(error) => return Some(vec![fault(folder, &error)]),
    };
    let mut findings = structure::meaning(&model);
    let files = model.files.iter().filter(|file| file.is_on_disk()).count();
    let message = format!(
        "a model of {} tensors and {} tokens in {files} file{}",
        model.tensors.len(),
        model.vocab.len(),
        if files == 1 { "" } else { "s" },
    );
    findings.push(Finding::note("model", message));
    findings.extend(model.notes.iter().map(|note| Finding::note("note", note.clone())));
    Some(findings)
}

/// Compares the tensors of a model with the list that knows them, if one does.
pub(super) fn compare_tensors(path: &Path, limits: &Limits) -> Option<Finding> {
    let listed = tensors::listed(path)?;
    let model = model(path, limits)?;
    Some(match tensors::sums(&model, &|_| ()) {
        Ok(found) => tensors::compare(&found, &listed),
        Err(error) => fault(path, &error),
    })
}
