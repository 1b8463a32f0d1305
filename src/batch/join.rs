//! Joins the parts that machines wrote of one output, where each took some of its tensors.
//!
//! A worker of `--tensors --shard i/n` writes `OUT.part-i-of-n`: the bytes of the whole output from one
//! place to another, with a receipt of its own. Where the cuts are follows from the plan of the output
//! alone, so the parts fit each other wherever they were made. Joining checks that every part has the
//! digest of its receipt and that all were made from the same inputs in the same way, lays them end to
//! end, opens the result as what it should be, and only then gives it its name and the receipt that an
//! undivided batch would have left. The parts go last: a join that is killed is simply run again.
//!
//! ```text
//! OUT.part-0-of-3  header, a, b      receipt: options + part 0/3, digest
//! OUT.part-1-of-3  c, d              receipt: options + part 1/3, digest
//! OUT.part-2-of-3  e, padding        receipt: options + part 2/3, digest
//! OUT              end to end        receipt: options, digest: as if one machine had made it
//! ```

use crate::bytes::replace::Commit;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::find::{Found, Kind};
use super::job::{Job, MOVED_PER_SECOND, Output};
use super::receipt::{self, FileState, Receipt, State, TOOL};
use super::shard::Shard;
use crate::bytes::replace::{check_interrupt, folder_of};
use crate::bytes::{Input, Replace, hex};
use crate::change::{Progress, Target};
use crate::container::{self, OpenOptions};
use crate::error::{Error, Result};
use crate::remedy::{Note, Setting};

/// Bytes copied at a time.
const PIECE: usize = 4 << 20;

/// The outputs of which there are parts below each of `roots`: a job for each, with what is missing as
/// its problem.
///
/// # Errors
/// Where a root is not there or a folder cannot be listed.
pub fn jobs(roots: &[PathBuf]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for root in roots {
        let mut sets: BTreeMap<PathBuf, BTreeMap<usize, BTreeSet<Shard>>> = BTreeMap::new();
        for entry in WalkDir::new(root).sort_by_file_name() {
            let entry = entry.map_err(|error| Error::walk(root, error))?;
            if let Some((whole, shard)) = receipt::whole_of(&receipt::subject(entry.path())) {
                sets.entry(whole).or_default().entry(shard.count()).or_default().insert(shard);
            }
        }
        for (output, counts) in sets {
            // Somebody may have begun with another number of machines; the set that is whole counts.
            let missing = |(count, there): (&usize, &BTreeSet<Shard>)| count - there.len();
            let Some((count, there)) = counts.iter().min_by_key(|set| missing(*set)) else {
                continue;
            };
            jobs.push(job(root, &output, *count, there));
        }
    }
    Ok(jobs)
}

/// The most missing parts that are named.
const NAMED: usize = 100;

/// The job of one output; which parts are missing is its problem.
fn job(root: &Path, output: &Path, count: usize, there: &BTreeSet<Shard>) -> Job {
    let missing = Shard::all(count).filter(|s| !there.contains(s)).map(|s| s.to_string());
    let missing: Vec<String> = missing.take(NAMED).collect();
    let files: Vec<PathBuf> = there.iter().map(|shard| receipt::part_of(output, *shard)).collect();
    let bytes = files.iter().filter_map(|f| fs::metadata(f).ok()).map(|m| m.len()).sum();
    let name = output.strip_prefix(root).unwrap_or(output).to_string_lossy();
    let model = Found {
        path: output.to_owned(),
        name: name.replace(std::path::MAIN_SEPARATOR, "/"),
        root: root.to_owned(),
        kind: Kind::Pieces,
        files,
        bytes,
    };
    let receipt = model.files.iter().find_map(|part| Receipt::of(part));
    let to = receipt.map(|r| target(&r.options).to_owned()).unwrap_or_default();
    Job {
        from: format!("{count} parts"),
        outputs: vec![Output { path: output.to_owned(), kind: None, to, bytes }],
        seconds: bytes as f64 / MOVED_PER_SECOND,
        risk: "exact".to_owned(),
        skip: None,
        problem: (!missing.is_empty()).then(|| {
            let which = missing.join(", ");
            let next = Setting::Shard.of(which).to("run the same batch");
            Note::new("not all parts are there", next)
        }),
        model,
    }
}

/// The format that the parts were made for, as their receipts have it.
fn target(options: &Value) -> &str {
    options.get("to").and_then(Value::as_str).unwrap_or("gguf-v3")
}

/// What all parts of an output agree on.
///
/// # Errors
/// Where a part is unfinished, or was made from something else or in another way.
pub fn agreed(parts: &[PathBuf]) -> Result<(Receipt, Vec<FileState>)> {
    let mut whole: Option<Receipt> = None;
    let mut states = Vec::new();
    for path in parts {
        let again = |what: &str| {
            let shard = receipt::whole_of(path).map_or(String::new(), |(_, s)| s.to_string());
            let next = Setting::Shard.of(shard).to("run the same batch again");
            Error::refused(format!("{}: {what}", path.display()), next)
        };
        let Some(mut receipt) = Receipt::of(path) else { return Err(again("has no receipt")) };
        let Some(state) = receipt.output.take().filter(|_| receipt.state == State::Finished) else {
            return Err(again("is not finished"));
        };
        states.push(state);
        // Another version may cut elsewhere, or encode otherwise.
        if receipt.tool != TOOL {
            return Err(again(&format!("was made by {}", receipt.tool)));
        }
        if let Some(options) = receipt.options.as_object_mut() {
            options.remove("part");
        }
        (receipt.state, receipt.replaces) = (State::Started, None);
        match &whole {
            None => whole = Some(receipt),
            Some(first) if first.makes_the_same(&receipt) => {}
            Some(_) => return Err(again("was made from other inputs or in another way")),
        }
    }
    let none = || Error::refused("no parts to join", Setting::Shard.to("run the batch first"));
    Ok((whole.ok_or_else(none)?, states))
}

/// Lays the parts end to end, checked, ready to get the name of the output.
///
/// # Errors
/// Where a part is not what its receipt says, or the result is not a whole model file.
pub fn lay(
    output: &Path,
    parts: &[PathBuf],
    states: &[FileState],
    options: &Value,
    commit: Commit,
    progress: &dyn Progress,
) -> Result<Replace> {
    let inputs: Vec<Input> = parts.iter().map(Input::open).collect::<Result<_>>()?;
    let total = inputs.iter().map(Input::len).sum();
    let out = Replace::begin(output, total, commit, &inputs.iter().collect::<Vec<_>>())?;
    let mut buffer = vec![0; PIECE];
    let mut to = 0;
    for (input, state) in inputs.iter().zip(states) {
        let mut digest = Sha256::new();
        let mut at = 0;
        while at < input.len() {
            check_interrupt()?;
            let size = usize::try_from(input.len() - at).unwrap_or(PIECE).min(PIECE);
            let piece = buffer.get_mut(..size).unwrap_or_default();
            input.read_at(at, piece)?;
            digest.update(&*piece);
            out.write_at(to, piece)?;
            (at, to) = (at + size as u64, to + size as u64);
            progress.advance(size as u64);
        }
        let found = hex(&digest.finalize());
        if found != state.sha256 {
            let what = format!("{}: is not what its receipt says", input.name());
            return Err(Error::refused(
                what,
                Setting::Shard.to("remove it and run the batch again"),
            ));
        }
    }
    let format = Some(Target::find(target(options))?.id().to_owned());
    let written = Input::look(out.temp_path())?;
    container::detect(&written, &OpenOptions { format, ..Default::default() })?.sure(&written)?;
    Ok(out)
}

/// Removes the parts of an output, of any number of machines, with their receipts: what is still as a
/// batch made it.
pub fn remove_parts(output: &Path, threads: usize) {
    for entry in fs::read_dir(folder_of(output)).into_iter().flatten().flatten() {
        let part = receipt::subject(&entry.path());
        let ours = receipt::whole_of(&part).filter(|(w, _)| w.file_name() == output.file_name());
        let receipt = ours.and_then(|_| Receipt::of(&part));
        // Of a part that is gone already only the receipt is left.
        let made =
            receipt.and_then(|r| r.output).filter(|o| !part.exists() || o.is_still(&part, threads));
        if made.is_some() {
            // What cannot be removed is found, and proved joined, by the next run.
            let _ = fs::remove_file(&part);
            let _ = fs::remove_file(receipt::path_of(&part));
        }
    }
}
