//! "Is my download good?" without the network.
//!
//! Everything that could know is asked: lists of digests, Hugging Face caches and `--local-dir`
//! records, Ollama and Git LFS stores, pointers beside files, the public digests of the LLaMA-1 files,
//! and the structure of the file itself. Every file is read once, whatever the number of claims.
//!
//! ```text
//! gather    paths, lists, records   ->  subjects: a file, and every claim about it
//! spread    all threads             ->  size and digests of each, and its stretches of zeros: one reading
//! judge     in the order of gather  ->  missing or unreadable; changed meanwhile; else compare
//! compare   claims                  ->  wrong: why (diagnose); right: confirmed
//!           what is in it           ->  structure, numbers (with deep), holes
//! models    folders of raw weights  ->  the whole model, where every file of it is good
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::contents::{self, Held};
use super::digest::{self, Digest, Outcome};
use super::download::Claim;
use super::gather::{GIVEN, Gathered, Subject, gather};
use super::holes::{self, Zeros};
use super::{Checked, Options, Status, Verification, diagnose, known, tensors};
use crate::bytes::Progress;
use crate::check::{Finding, Severity, models::adapter, worst};
use crate::limits::Limits;

/// Verifies files, lists and folders.
///
/// A fault of one file ends nothing: it becomes a finding of that file, and the others are looked at all the same.
pub fn verify(paths: &[PathBuf], options: &Options, progress: &dyn Progress) -> Verification {
    let gathered = gather(paths, options);
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let size = |subject: &Subject| std::fs::metadata(&subject.path).map_or(0, |m| m.len());
    progress.total(gathered.subjects.iter().map(size).sum());
    let outcomes = digest::spread(&gathered.subjects, threads, size, |subject, threads| {
        // One reading gives all: every digest that is claimed, and where there are zeros.
        let algorithms = diagnose::algorithms(&subject.claims);
        let (mut zeros, read) = (Zeros::default(), |n| progress.advance(n));
        let watch = &mut |bytes: &[u8]| zeros.take(bytes);
        let outcome = digest::file_watched(&subject.path, &algorithms, threads, &read, watch);
        (outcome, zeros.finish())
    });
    let judged = gathered.subjects.iter().zip(outcomes);
    // One after the other: an opened model may be large, and what takes time has been done.
    let files = judged.map(|(subject, read)| judge(subject, read, &gathered, options));
    let mut files: Vec<Checked> = files.collect();
    files.extend(models(paths, &files, options.limits));
    Verification { schema_version: 1, files, lists: gathered.lists }
}

/// The folders of raw weights among `paths` as models, but for those with a file that is bad by itself.
///
/// Shards of a checkpoint can each be sound and still lack a layer between them: that shows in the whole alone.
fn models(paths: &[PathBuf], files: &[Checked], limits: Limits) -> Vec<Checked> {
    let inside = |file: &Path| paths.iter().any(|path| path.is_dir() && file.starts_with(path));
    let weights = |file: &&Checked| inside(&file.path) && contents::is_weights(&file.path);
    let folders: BTreeSet<&Path> =
        files.iter().filter(weights).filter_map(|file| file.path.parent()).collect();
    let sound = |folder: &&Path| {
        let mut of = files.iter().filter(|file| file.path.parent() == Some(*folder));
        of.all(|file| matches!(file.status, Status::Ok | Status::Missing))
    };
    let model = |folder: &Path| {
        let mut findings = contents::check_folder(folder, limits)?;
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let failed = worst(&findings) == Some(Severity::Failure);
        Some(Checked {
            name: folder.display().to_string(),
            path: folder.to_path_buf(),
            status: if failed { Status::Failed } else { Status::Ok },
            confirmed: false,
            size: None,
            digests: BTreeMap::new(),
            findings,
        })
    };
    folders.into_iter().filter(sound).filter_map(model).collect()
}

/// What came of reading a file, and the stretches of zeros in it.
type Read = (Outcome, Vec<(u64, u64)>);

/// What came of one file: a file that cannot be read fails, one that is missing does unless that was to be ignored.
///
/// | what came of it | status |
/// |---|---|
/// | it is not there, and missing files are to be ignored | missing, unless something explains why it lacks |
/// | it is not there or cannot be read | unreadable |
/// | its size or time changed meanwhile | failed: no digest of it means anything |
/// | it was read | as it compares with what is claimed |
fn judge(subject: &Subject, (outcome, zeros): Read, all: &Gathered, options: &Options) -> Checked {
    let mut checked = Checked {
        name: subject.name.clone(),
        path: subject.path.clone(),
        status: Status::Failed,
        confirmed: false,
        size: None,
        digests: BTreeMap::new(),
        findings: subject.findings.clone(),
    };
    match outcome {
        Outcome::Failed(error) => {
            // What was found while gathering explains why it is missing, so it is told even where missing files are
            // ignored.
            let missing = error.kind() == io::ErrorKind::NotFound;
            let ignored = missing && options.ignore_missing && subject.findings.is_empty();
            checked.status = if ignored { Status::Missing } else { Status::Unreadable };
            if checked.findings.is_empty() {
                checked.findings.push(unreadable(&subject.path, &error));
            }
        }
        Outcome::Changed => checked.findings.push(Finding::failure(
            "changed",
            "changed while it was read: verify it again when nothing writes to it",
        )),
        Outcome::Read { size, digests } => {
            checked.size = Some(size);
            let found: Vec<Digest> = digests.into_values().collect();
            checked.digests = found.iter().map(|d| (d.algorithm.name(), d.hex.clone())).collect();
            let found = Found { size, digests: &found, zeros: &zeros };
            compare(subject, &found, all, options, &mut checked);
        }
    }
    checked
}

/// Why a file could not be read; a link to nothing is what an unfinished download leaves.
fn unreadable(path: &Path, error: &io::Error) -> Finding {
    let link = path.symlink_metadata().is_ok_and(|m| m.is_symlink());
    if error.kind() == io::ErrorKind::NotFound && link {
        let target = std::fs::read_link(path).unwrap_or_default();
        let message = format!(
            "a link to {}, which is not there: the download is incomplete, run it again",
            target.display()
        );
        return Finding::failure("missing-blob", message);
    }
    let code = match error.kind() {
        io::ErrorKind::NotFound => "missing",
        _ => "unreadable",
    };
    // "(os error 2)" helps nobody.
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    Finding::failure(code, text)
}

/// What a file that could be read turned out to have.
struct Found<'a> {
    size: u64,
    digests: &'a [Digest],
    zeros: &'a [(u64, u64)],
}

/// Compares a file that could be read with everything claimed of it.
///
/// | what is so | finding |
/// |---|---|
/// | a claim does not hold | what explains it best; a warning where the digest given by hand does hold |
/// | no claim fails, a size or the first bytes are wrong all the same | that fault |
/// | structure or numbers are wrong | as they are; not again where the mismatch was explained by them |
/// | the file is one of the published ones | `known`, and it counts as confirmed |
/// | nothing fails and nobody vouches for it | `unconfirmed` |
fn compare(
    subject: &Subject,
    found: &Found,
    all: &Gathered,
    options: &Options,
    checked: &mut Checked,
) {
    let path = &subject.path;
    let held = contents::held(path, all.is_later(path), &options.limits);
    let &Found { size, digests: found, zeros } = found;
    // What is in the file is asked whether or not digests agree: where they do not it may say why, where nobody gives
    // one it is all that there is.
    let mut inside = match &held {
        Held::Model(model) => {
            let mut found = contents::check(path, model, options.deep, &|_| ());
            found.extend(adapter::check(model, options.base.as_ref()));
            found
        }
        Held::Later(model) => contents::check_later(path, model),
        Held::Told(finding) => vec![finding.clone()],
        Held::Other(_) => Vec::new(),
    };
    let model = match &held {
        Held::Model(model) => Some(&**model),
        _ => None,
    };
    // A list may give the digest of the tensors' data alone, which stays when metadata are edited.
    let of_data = |claim: &Claim| {
        let digest = tensors::digest(model?, None, claim.digest.algorithm).ok()?;
        Some(digest == claim.digest)
    };
    let holds = |claim: &&Claim| {
        found.contains(&claim.digest) || claim.data && of_data(claim) == Some(true)
    };
    // One that does not hold is enough: it may be of bytes that another list never saw.
    let wrong = subject.claims.iter().find(|claim| !holds(claim));
    // What a person gave by hand is what they want the file to be, whatever a list says.
    let vouched = subject.claims.iter().any(|claim| claim.by == GIVEN && holds(&claim));
    let as_claimed = !subject.claims.is_empty() && (wrong.is_none() || vouched);
    if let Held::Model(model) | Held::Later(model) = &held {
        // What the weights say already, where all were decoded, is said once.
        let holes = holes::check(path, model, zeros);
        inside.extend(holes.into_iter().filter(|hole| !inside.contains(hole)).collect::<Vec<_>>());
    }
    if as_claimed {
        // Whoever published the file published these zeros and these bytes after its data.
        let published = |f: &&mut Finding| ["hole", "zero-norm", "too-long"].contains(&f.code);
        let soften = |f: &mut Finding| f.severity = f.severity.min(Severity::Warning);
        inside.iter_mut().filter(published).for_each(soften);
    }
    if let Some(claim) = wrong {
        let mismatch = diagnose::Mismatch {
            path,
            size,
            claim,
            claims: &subject.claims,
            found,
            listed: &all.listed,
            structure: &inside,
        };
        let mut finding = mismatch.explain();
        if vouched {
            finding.severity = finding.severity.min(Severity::Warning);
        }
        checked.findings.push(finding);
    } else if let Some(finding) = diagnose::evident(path, size, &subject.claims) {
        checked.findings.push(finding);
    }
    // What explains the mismatch is said once; of raw weights cut short the directory is gone as well.
    let raw = contents::is_weights(path);
    let unfinished = checked.findings.iter().any(|finding| finding.code == "unfinished");
    let told = unfinished || raw && worst(&checked.findings) == Some(Severity::Failure);
    let fresh = inside.into_iter().filter(|finding| {
        let said = told && finding.severity == Severity::Failure;
        !said && !checked.findings.contains(finding)
    });
    let fresh: Vec<Finding> = fresh.collect();
    checked.findings.extend(fresh);
    checked.confirmed = as_claimed;
    // Then a list of the tensors, where there is one for this file: it may vouch for what no list of files knows.
    if !checked.confirmed {
        let compared = contents::compare_tensors(path, &options.limits);
        checked.confirmed = wrong.is_none() && compared.as_ref().is_some_and(is_good);
        checked.findings.extend(compared);
    }
    checked.findings.extend(tensors::compare_claims(model, &subject.tensors, checked.confirmed));
    if let Some(known) = found.iter().find_map(known::find) {
        checked.confirmed = true;
        checked.findings.push(Finding::note("known", known.describe()));
    }
    // A text file beside a model is no fault; what was named as a model, or ends as one, and is none, is.
    if let Held::Other(looks) = &held
        && subject.promised
        && worst(&checked.findings) != Some(Severity::Failure)
        && !contents::is_companion(path)
    {
        checked.findings.push(unknown(looks, checked.confirmed));
    }
    checked.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let failed = worst(&checked.findings) == Some(Severity::Failure);
    checked.status = if failed { Status::Failed } else { Status::Ok };
    if !failed && !checked.confirmed {
        let whole = match held {
            Held::Model(_) | Held::Later(_) => "its structure is whole",
            Held::Told(_) | Held::Other(_) => "it was read whole",
        };
        let message = if subject.placeholder {
            format!("the list names it without knowing its digest; {whole}")
        } else {
            format!("no list or record gives its digest; {whole}")
        };
        checked.findings.push(Finding::note("unconfirmed", message));
    }
}

/// What is said of a file that somebody takes for a model and that is none.
/// Where its digest is right it is what it should be, whatever that is.
fn unknown(looks: &str, confirmed: bool) -> Finding {
    if confirmed {
        return Finding::note(
            "unknown",
            format!("no model, though its digest is right: it {looks}"),
        );
    }
    Finding::failure("unknown", format!("no model: it {looks}"))
}

fn is_good(finding: &Finding) -> bool {
    finding.severity < Severity::Failure
}
