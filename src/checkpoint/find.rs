//! Which files make a checkpoint: a directory, an index, one shard or one file is named.
//!
//! ```text
//! consolidated.00.pth, consolidated.01.pth       Meta: all from 00 on, without a gap
//! model-00001-of-00002.safetensors, ..           Hugging Face: all that the count says
//! model.safetensors.index.json                   the shards that it names, and which tensor is in which
//! model.safetensors, pytorch_model.bin           one file
//! ```
//!
//! In a folder with several of these safetensors come before `.bin`. Meta's files come first where there is no
//! `config.json`, else last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{Stored, json};
use crate::bytes::replace::folder_of;
use crate::error::{Error, Result};

/// The weight files of a checkpoint, in order, and the folder that its other files lie in.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// Where config.json, params.json and the tokenizer are looked for.
    pub folder: PathBuf,
    /// The files with weights.
    pub files: Vec<PathBuf>,
    /// The file that each tensor is in, where an index says so, and that index.
    pub index: Option<(PathBuf, BTreeMap<String, String>)>,
}

impl Found {
    /// Checks that a shard holds the tensors that the index promises, and none promised of another.
    ///
    /// # Errors
    /// The first tensor that is not where the index says: shards of two revisions have the same names.
    pub(super) fn check_shard(&self, file: &Path, tensors: &[Stored]) -> Result<()> {
        let Some((index, map)) = &self.index else { return Ok(()) };
        let file_name = name_of(file);
        let wrong = |name: &str, found: String| {
            let what = format!("{}: {name} {found}", index.display());
            let next = "the index is of another revision, or the shard is: download both again";
            Err(Error::refused(what, next))
        };
        // Tensors that the index does not name are passed over.
        let present: BTreeSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        for (name, shard) in map {
            match (*shard == file_name, present.contains(name.as_str())) {
                (true, false) => {
                    return wrong(name, format!("should be in {shard}, which does not hold it"));
                }
                (false, true) => {
                    return wrong(name, format!("should be in {shard}; {file_name} holds it"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Finds the weight files that `path` means.
///
/// # Errors
/// Where a directory holds no checkpoint, or a shard of a set is missing.
pub fn find(path: &Path) -> Result<Found> {
    if path.is_dir() {
        return in_folder(path);
    }
    let folder = folder_of(path);
    let name = name_of(path);
    // A member of a set stands for the set, whichever it is.
    let files = if name.ends_with(".index.json") {
        return from_index(path, folder);
    } else if matches!(name.as_str(), "config.json" | "params.json") {
        return in_folder(folder);
    } else if consolidated(&name).is_some() {
        shards(folder, &names_in(folder)?, "consolidated.", ".pth")?
    } else if let Some((stem, _, _, tail)) = shard(&name) {
        shards(folder, &names_in(folder)?, stem, tail)?
    } else {
        vec![path.to_owned()]
    };
    Ok(Found { folder: folder.to_owned(), files, index: None })
}

/// The weights that lie in a folder, if there are any.
///
/// A folder may hold a model twice, as Meta's files beside Hugging Face's: one of them is read, never both.
fn weights_in(folder: &Path) -> Result<Option<Found>> {
    let names = names_in(folder)?;
    let has = |name: &str| names.contains(name);
    let meta = |found: &BTreeSet<String>| found.iter().any(|n| consolidated(n).is_some());
    let found = |files| Ok(Some(Found { folder: folder.to_owned(), files, index: None }));
    if meta(&names) && !has("config.json") {
        return found(shards(folder, &names, "consolidated.", ".pth")?);
    }
    // An index says most: which shards, and which tensor is where. Without one a whole file comes before a set of
    // shards.
    for (index, whole, stem, tail) in [
        ("model.safetensors.index.json", "model.safetensors", "model-", ".safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model-", ".bin"),
    ] {
        if has(index) {
            return from_index(&folder.join(index), folder).map(Some);
        }
        if has(whole) {
            return found(vec![folder.join(whole)]);
        }
        if names.iter().any(|n| shard(n).is_some_and(|(s, _, _, t)| s == stem && t == tail)) {
            return found(shards(folder, &names, stem, tail)?);
        }
    }
    if meta(&names) {
        return found(shards(folder, &names, "consolidated.", ".pth")?);
    }
    // Mistral's own layout: Meta's names and params.json.
    if has("consolidated.safetensors") {
        return found(vec![folder.join("consolidated.safetensors")]);
    }
    Ok(None)
}

/// The checkpoint of a folder: by known names, else the one file that begins as one does.
fn in_folder(folder: &Path) -> Result<Found> {
    if let Some(found) = weights_in(folder)? {
        return Ok(found);
    }
    let names = names_in(folder)?;
    let some: Vec<_> = names.iter().take(4).map(String::as_str).collect();
    // Nothing has a known name: one file that is a checkpoint by its bytes will do, of several nobody knows which.
    let others: Vec<&String> = names.iter().filter(|name| is_lone(folder, name)).collect();
    match others.as_slice() {
        [] => {}
        [one] => {
            let files = vec![folder.join(one)];
            return Ok(Found { folder: folder.to_owned(), files, index: None });
        }
        [one, two, ..] => {
            return Err(Error::Unknown {
                file: folder.display().to_string(),
                looks: format!("a folder with {} checkpoints: {one}, {two} …", others.len()),
                next: "name the one that is meant".into(),
            });
        }
    }
    Err(Error::Unknown {
        file: folder.display().to_string(),
        looks: match some.as_slice() {
            [] => "an empty folder".to_owned(),
            some => format!("a folder with {}, but no weights", some.join(", ")),
        },
        next: match checkpoints_below(folder)?.as_slice() {
            [] => "name a folder with consolidated.00.pth, model.safetensors or pytorch_model.bin, or a file"
                .into(),
            below => format!("name the folder below it that has them: {}", below.join(", ")).into(),
        },
    })
}

/// Whether a file is a checkpoint under a name that says nothing: `model.pt`, `consolidated.00 (1).pth`.
/// What trainers save beside the weights is none.
fn is_lone(folder: &Path, name: &str) -> bool {
    let ends = [".pth", ".pt", ".ckpt", ".bin", ".safetensors"];
    let beside = ["training_args", "optimizer", "scheduler", "rng_state", "adapter_model", "."];
    ends.iter().any(|end| name.ends_with(end))
        && !beside.iter().any(|start| name.starts_with(start))
        && super::is_weights(&folder.join(name)).unwrap_or(false)
}

/// The folders in a folder that hold a checkpoint, as `7B` in `models`.
fn checkpoints_below(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?;
    let below = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let holds = |path: &PathBuf| path.is_dir() && weights_in(path).is_ok_and(|f| f.is_some());
    let mut found: Vec<String> = below.filter(holds).map(|p| p.display().to_string()).collect();
    found.sort_unstable();
    Ok(found)
}

/// The names of the files (not folders) in a folder.
pub(super) fn names_in(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, "read", e))?;
        if !entry.path().is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}

/// The last part of a path.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `NN` of `consolidated.NN.pth`.
fn consolidated(name: &str) -> Option<u32> {
    name.strip_prefix("consolidated.")?.strip_suffix(".pth")?.parse().ok()
}

/// `STEM-`, number, count and `.TAIL` of `STEM-00001-of-00002.TAIL`.
/// `model-00001-of-00002.safetensors` is (`model-`, 1, 2, `.safetensors`).
fn shard(name: &str) -> Option<(&str, u32, u32, &str)> {
    let (head, rest) = name.split_once("-of-")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let (count, tail) = rest.split_at(digits);
    let stem = head.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = head.get(stem.len()..)?.parse().ok()?;
    Some((stem, number, count.parse().ok()?, tail))
}

/// All shards of a set in order; every one must be there.
///
/// How many there must be says the name itself; Meta's do not, and there a gap is all that can be noticed.
///
/// # Errors
/// The first number that is missing, or that one is there twice.
fn shards(folder: &Path, names: &BTreeSet<String>, stem: &str, tail: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut count = 0;
    let mut first = 0u32;
    for name in names {
        if let Some(number) = consolidated(name).filter(|_| stem == "consolidated.") {
            found.push((number, name));
            count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        } else if let Some((_, number, of, _)) = shard(name).filter(|s| s.0 == stem && s.3 == tail)
        {
            found.push((number, name));
            (first, count) = (1, count.max(of));
        }
    }
    found.sort_unstable();
    // Meta counts from 0, shards from 1. A number may also come twice, under two spellings.
    let missing =
        (first..first.saturating_add(count)).find(|n| !found.iter().any(|(number, _)| number == n));
    if missing.is_some() || u32::try_from(found.len()) != Ok(count) {
        let which = missing.map_or("one twice".to_owned(), |n| format!("no number {n}"));
        return Err(Error::Unknown {
            file: folder.display().to_string(),
            looks: format!("a set {stem}…{tail} of {count} shards with {which}"),
            next: "download the missing shard".into(),
        });
    }
    Ok(found.into_iter().map(|(_, name)| folder.join(name)).collect())
}

/// The shards that an index names, each once, in the order of their names.
///
/// Names lead out of the folder in no index that a program wrote, so one that would (`../other`) is refused.
///
/// # Errors
/// Where it is no index, or a shard that it names is not there.
fn from_index(index: &Path, folder: &Path) -> Result<Found> {
    let Some(parsed) = json::read(index)? else {
        return Err(Error::io(index, "open", std::io::ErrorKind::NotFound.into()));
    };
    let map = parsed.get("weight_map").and_then(serde_json::Value::as_object);
    let pair = |(name, shard): (&String, &serde_json::Value)| {
        Some((name.clone(), shard.as_str()?.to_owned()))
    };
    let map: Option<BTreeMap<String, String>> = map.and_then(|m| m.iter().map(pair).collect());
    let Some(map) = map.filter(|m| !m.is_empty()) else {
        return Err(json::malformed(
            index,
            "weight_map",
            "something else",
            "a file for each tensor",
        ));
    };
    let names: BTreeSet<&str> = map.values().map(String::as_str).collect();
    for name in &names {
        if Path::new(name).file_name().is_none_or(|n| n != Path::new(name)) || name.contains('\\') {
            let wanted = "the name of a file beside the index";
            return Err(json::malformed(index, "weight_map", &format!("{name:?}"), wanted));
        }
        if !folder.join(name).is_file() {
            return Err(Error::Unknown {
                file: index.display().to_string(),
                looks: format!("an index that names {name}, which is not there"),
                next: "download the missing shard".into(),
            });
        }
    }
    let files = names.into_iter().map(|name| folder.join(name)).collect();
    Ok(Found { folder: folder.to_owned(), files, index: Some((index.to_owned(), map)) })
}
