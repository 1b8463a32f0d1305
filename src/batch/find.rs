//! Models in a tree: files, multi-part sets, shard sets and checkpoint folders, each counted once.
//!
//! A file is a model by its first bytes (`search`); one whose name promises a model and that begins as
//! none is counted too, so that its job fails and nobody misses it. Outputs of earlier batches are known by
//! their receipts and are no inputs again where what they were made from is found in the same tree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::receipt::{self, Receipt};
use crate::check::files::search::{self, Looks};
use crate::checkpoint::adapter;
use crate::container::pieces;
use crate::error::{Result, unicode};
use crate::limits::Limits;

/// What a model consists of on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// One file.
    File,
    /// `model.bin`, `model.bin.1`, …
    Parts,
    /// `model-00001-of-00003.gguf`, …
    Shards,
    /// One file of raw weights without what describes them.
    Weights,
    /// A LoRA adapter as PEFT publishes it: its weights, with their settings beside them.
    Adapter,
    /// A folder with a checkpoint in Meta's or Hugging Face's layout.
    Checkpoint,
    /// `model.gguf.part-0-of-4`, …: what machines made of one output between them.
    Pieces,
}

/// One model.
///
/// In a saved plan paths are as they were seen from where it was made; `name` is what people and receipts call it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Found {
    /// What to open: the file, the first part, the folder.
    pub path: PathBuf,
    /// Its name, relative to the folder that was searched, with `/`.
    pub name: String,
    /// The folder that was searched.
    pub root: PathBuf,
    /// What it consists of.
    pub kind: Kind,
    /// The files that decide its content.
    pub files: Vec<PathBuf>,
    /// Their size together.
    pub bytes: u64,
}

impl Found {
    /// Counts further files among those that decide its content.
    pub fn with(&mut self, files: &[PathBuf]) {
        for file in
            files.iter().filter(|file| !self.files.contains(file)).cloned().collect::<Vec<_>>()
        {
            self.bytes += fs::metadata(&file).map_or(0, |m| m.len());
            self.files.push(file);
        }
    }
}

/// What becomes of models that a batch made from others of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outputs {
    /// They are passed over: nobody converts a file because its own conversion lies beside it.
    PassedOver,
    /// They are models like any other, to be verified.
    Found,
}

/// Finds the models below each of `roots`, a folder or a file, in the order of their names.
///
/// # Errors
/// Where a root is not there or a folder cannot be listed.
///
/// ```text
/// each root      folders, each with its files          hidden ones are passed over
/// each folder    a checkpoint takes its files; sets take theirs; what is left is one model a file
/// ```
///
/// A model that two roots reach, or two names, counts once, by its real path.
pub fn find(roots: &[PathBuf], outputs: Outputs, limits: &Limits) -> Result<Vec<Found>> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for root in roots {
        let mut folders: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        let (files, unlisted) = search::files(root);
        if let Some((_, error)) = unlisted.into_iter().next() {
            return Err(error);
        }
        for path in files.into_iter().filter(|path| path.is_file()) {
            let folder = path.parent().unwrap_or(root).to_path_buf();
            folders.entry(folder).or_default().push(path);
        }
        for (folder, files) in &folders {
            let look = |path: &Path| {
                look(path).filter(|_| outputs == Outputs::Found || !is_output(path, root))
            };
            for (kind, path, files) in in_folder(folder, files, look, limits) {
                let place = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
                if seen.insert(place) {
                    found.push(describe(root, kind, path, files));
                }
            }
        }
    }
    Ok(found)
}

/// A model under its name below the root, with the bytes of all its files.
fn describe(root: &Path, kind: Kind, path: PathBuf, files: Vec<PathBuf>) -> Found {
    let base = if root.is_file() { root.parent().unwrap_or(Path::new("")) } else { root };
    let name = unicode(path.strip_prefix(base).unwrap_or(&path));
    let name = name.replace(std::path::MAIN_SEPARATOR, "/");
    let name = if name.is_empty() { ".".to_owned() } else { name };
    let bytes = files.iter().filter_map(|f| fs::metadata(f).ok()).map(|m| m.len()).sum();
    Found { path, name, root: base.to_path_buf(), kind, files, bytes }
}

/// The last part of a path as text.
fn file_name(path: &Path) -> String {
    unicode(Path::new(path.file_name().unwrap_or_default()))
}

/// The models that the files of one folder form.
///
/// A checkpoint's files are taken before any is looked at alone: its shards would each be a model, too.
fn in_folder(
    folder: &Path,
    files: &[PathBuf],
    look: impl Fn(&Path) -> Option<Looks>,
    limits: &Limits,
) -> Vec<(Kind, PathBuf, Vec<PathBuf>)> {
    let mut found = Vec::new();
    let mut used: BTreeSet<&Path> = BTreeSet::new();
    let checkpoint = checkpoint_files(folder, files);
    if !checkpoint.is_empty() {
        used.extend(checkpoint.iter().map(PathBuf::as_path));
        found.push((Kind::Checkpoint, folder.to_path_buf(), checkpoint.clone()));
    }
    let sets = sets(files);
    for path in files {
        if used.contains(path.as_path()) {
            continue;
        }
        let kind = match look(path) {
            None | Some(Looks::Unfinished) => continue,
            Some(Looks::Weights) if adapter::is_adapter(path, limits).unwrap_or(false) => {
                Some(Kind::Adapter)
            }
            Some(Looks::Weights) => Some(Kind::Weights),
            Some(Looks::Model | Looks::Named) => None,
        };
        let alone = vec![path];
        let set = sets.get(&place_in_set(&file_name(path)).0).unwrap_or(&alone);
        used.extend(set.iter().map(|file| file.as_path()));
        let kind = kind.unwrap_or_else(|| match (set.len(), file_name(path).contains("-of-")) {
            (0 | 1, _) => Kind::File,
            (_, true) => Kind::Shards,
            (_, false) => Kind::Parts,
        });
        let first = set.first().copied().unwrap_or(path).clone();
        let files = match pieces::all(path) {
            _ if kind == Kind::Adapter => adapter::files_of(path),
            Ok(Some((_, pieces))) => pieces,
            _ => set.iter().copied().cloned().collect(),
        };
        found.push((kind, first, files));
    }
    found
}

/// What a file looks like, if it is no part of an output that is yet to be joined.
fn look(path: &Path) -> Option<Looks> {
    search::look(path).filter(|_| receipt::whole_of(path).is_none())
}

/// Whether a file is what a batch made from files that are there below `root`.
///
/// A model that was moved elsewhere together with its receipt is an input like any other, for what it was made from is
/// not there.
fn is_output(path: &Path, root: &Path) -> bool {
    let there = |receipt: Receipt| receipt.inputs.iter().all(|i| root.join(&i.name).exists());
    receipt::path_of(path).exists() && Receipt::of(path).is_none_or(there)
}

/// The weights and descriptions of a checkpoint, where a folder holds one.
///
/// Weights alone are none: without config.json or params.json a `.safetensors` file may be anything.
fn checkpoint_files(folder: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let names: Vec<String> = files.iter().map(|f| file_name(f)).collect();
    let has = |wanted: &str| names.iter().any(|n| n == wanted);
    let meta = |n: &str| n.starts_with("consolidated.") && n.ends_with(".pth");
    let face = |n: &str| {
        n.ends_with(".safetensors") || (n.starts_with("pytorch_model") && n.ends_with(".bin"))
    };
    let is_meta = has("params.json") && names.iter().any(|n| meta(n));
    let is_face = has("config.json") && names.iter().any(|n| face(n));
    if !is_meta && !is_face {
        return Vec::new();
    }
    let describes = |n: &str| n.ends_with(".json") || n == "tokenizer.model";
    let belongs = |n: &str| if is_meta { meta(n) } else { face(n) };
    let chosen = files
        .iter()
        .zip(&names)
        .filter(|(f, n)| (belongs(n) || describes(n)) && !receipt::is_receipt(f));
    let mut chosen: Vec<PathBuf> = chosen.map(|(file, _)| file.clone()).collect();
    // Meta's tokenizer is above the folders of the sizes.
    let above = folder.parent().map(|parent| parent.join("tokenizer.model"));
    if is_meta && !has("tokenizer.model") {
        chosen.extend(above.filter(|path| path.is_file()));
    }
    chosen
}

/// The sets that files belong to by their names, first ones first; a file of its own is a set of one.
fn sets(files: &[PathBuf]) -> HashMap<String, Vec<&PathBuf>> {
    let mut sets: HashMap<String, Vec<(u32, &PathBuf)>> = HashMap::new();
    for file in files.iter().filter(|file| !receipt::is_receipt(file)) {
        let (stem, number) = place_in_set(&file_name(file));
        sets.entry(stem).or_default().push((number, file));
    }
    for set in sets.values_mut() {
        set.sort();
    }
    let of = |(stem, set): (String, Vec<(u32, _)>)| {
        (stem, set.into_iter().map(|(_, file)| file).collect())
    };
    sets.into_iter().map(of).collect()
}

/// What a file of a set shares with the others' names, and its number.
///
/// ```text
/// model-00002-of-00003.gguf     (model--of-00003.gguf, 2)
/// ggml-model-f16.bin.1          (ggml-model-f16.bin, 1)
/// ggml-model-f16.bin            (ggml-model-f16.bin, 0)
/// ```
fn place_in_set(name: &str) -> (String, u32) {
    let numbered = || {
        let (before, after) = name.split_once("-of-")?;
        let digits = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (stem, number) = before.split_at(digits);
        Some((format!("{stem}-of-{after}"), number.parse().ok()?))
    };
    let part = || match name.rsplit_once('.').and_then(|(s, n)| Some((s, n.parse::<u32>().ok()?))) {
        Some((stem, n)) if n > 0 && n < 100 => (stem.to_owned(), n),
        _ => (name.to_owned(), 0),
    };
    numbered().unwrap_or_else(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_counts_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, content).expect("writable");
        };
        write("7B/consolidated.00.pth", b"PK\x03\x04");
        write("7B/consolidated.01.pth", b"PK\x03\x04");
        write("7B/params.json", b"{}");
        write("7B/ggml-model-f16.bin", b"lmgg....");
        write("7B/ggml-model-f16.bin.1", b"lmgg....");
        write("7B/ggml-model-q4_0.bin", b"tjgg....");
        write("hf/config.json", b"{}");
        write("hf/model-00001-of-00002.safetensors", b"........");
        write("hf/model-00002-of-00002.safetensors", b"........");
        write("split-00001-of-00002.gguf", b"GGUF....");
        write("split-00002-of-00002.gguf", b"GGUF....");
        write("made.gguf", b"GGUF....");
        write("made.gguf.receipt.json", b"{}");
        write("notes.txt", b"GGML is a format");
        write(".hidden/x.gguf", b"GGUF....");
        let found = find(&[folder.path().to_path_buf()], Outputs::PassedOver, &Limits::DEFAULT)
            .expect("listable");
        let shown: Vec<(&str, Kind, usize)> =
            found.iter().map(|f| (f.name.as_str(), f.kind, f.files.len())).collect();
        assert_eq!(
            shown,
            [
                ("split-00001-of-00002.gguf", Kind::Shards, 2),
                ("7B", Kind::Checkpoint, 3),
                ("7B/ggml-model-f16.bin", Kind::Parts, 2),
                ("7B/ggml-model-q4_0.bin", Kind::File, 1),
                ("hf", Kind::Checkpoint, 3),
            ]
        );
        let roots = [folder.path().to_path_buf(), folder.path().join("7B")];
        assert_eq!(
            find(&roots, Outputs::PassedOver, &Limits::DEFAULT).expect("listable").len(),
            5,
            "overlapping roots"
        );
        assert_eq!(
            find(&roots, Outputs::Found, &Limits::DEFAULT).expect("listable").len(),
            6,
            "outputs as well"
        );
    }
}
