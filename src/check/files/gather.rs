//! Which files a verification is about, and what is claimed of each.
//!
//! Lists come first, in their own order, as `md5sum -c` goes through them; then every model file that
//! no list names, and every other file whose download left a record. A file reached by two names (a
//! Hugging Face snapshot links to its blob) counts once.
//!
//! ```text
//! named list        every line of it                  a missing file is a failure: somebody said it should be there
//! named file        itself, and lists in its folder and the two above that
//! folder            its lists, lists above, files that are like models, records of downloads, what sets lack
//! a file that only may be a list    lines of it whose files are there
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::download::{self, Claim};
use super::sums::{self, List, NotAList};
use super::{ListChecked, Options};
use super::{search, stores};
use crate::check::Finding;
use crate::container;

/// Who claims a digest that was given by hand.
pub(super) const GIVEN: &str = "the digest given";
/// Folders above a file in which a list may name it: llama.cpp's is two above `models/7B/`.
const FOLDERS_ABOVE: usize = 3;

/// One file and everything claimed of it.
#[derive(Debug)]
pub(super) struct Subject {
    /// The name to show.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// What its digest should be, and who says so.
    pub(super) claims: Vec<Claim>,
    /// A list names it without knowing its digest.
    pub(super) placeholder: bool,
    /// Somebody expects a model: it was named by hand, or its ending promises one.
    pub(super) promised: bool,
    /// What digests of its tensors should be, and who says so.
    pub(super) tensors: Vec<(String, Claim)>,
    /// What was found while gathering.
    pub(super) findings: Vec<Finding>,
}

/// Everything that a verification looks at.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Files, in the order in which they were met.
    pub(super) subjects: Vec<Subject>,
    /// Lists that were read or could not be.
    pub(super) lists: Vec<ListChecked>,
    /// Every digest that a list gives, with the name it gives it to: tells swapped parts.
    pub(super) listed: Vec<(Digest, String)>,
    /// The subject of each file, by its real path: links and other spellings lead to the same.
    places: HashMap<PathBuf, usize>,
    /// Folders with sets that lack a file, which is told of by itself.
    incomplete: BTreeSet<PathBuf>,
    /// What each list has claimed already: long lists repeat themselves.
    claimed: HashSet<(usize, Digest, Option<String>, PathBuf)>,
}

/// Gathers what the paths, files, lists or folders, hold.
///
/// Claims that lie beside a file, in the names of stores and in records of downloads, are added last, when it is known
/// which files there are.
pub(super) fn gather(paths: &[PathBuf], options: &Options) -> Gathered {
    let mut all = Gathered::default();
    // Lists that were named go first: what they say is what the person asks for.
    for list in &options.lists {
        all.list(list, None);
    }
    for path in paths {
        if path.is_dir() {
            all.folder(path);
        } else if path == Path::new("-") || sums::is_list_name(path) || is_list_by_content(path) {
            all.list(path, None);
        } else {
            all.lists_above(path);
            let name = path.display().to_string();
            let subject = all.subject(name, path.clone());
            subject.promised = true;
            let given = |digest: &Digest| Claim::new(digest.clone(), GIVEN);
            subject.claims.extend(options.digests.iter().map(given));
        }
    }
    for subject in &mut all.subjects {
        subject.claims.extend(download::claims(&subject.path));
    }
    all
}

/// Whether a file given by hand is a list under an unusual name: every line of it is.
fn is_list_by_content(path: &Path) -> bool {
    let small = fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() < 1 << 20);
    if !small || search::has_model_ending(path) {
        return false;
    }
    match List::open(path) {
        Ok(list) => list.malformed.is_empty() || sums::may_be_list(path),
        Err(NotAList::NoForm) => sums::may_be_list(path),
        Err(_) => false,
    }
}

impl Gathered {
    /// Whether a file is a later one of a set whose first file is looked at as well.
    /// Its meaning is then checked with the first: a shard alone lacks layers, and that is no fault of it.
    pub(super) fn is_later(&self, path: &Path) -> bool {
        let first = container::first_of_set(path);
        self.incomplete.contains(path.parent().unwrap_or(Path::new(""))) && is_shard(path)
            || first.is_some_and(|first| {
                self.places.contains_key(&fs::canonicalize(&first).unwrap_or(first))
            })
    }

    /// The subject for a file, new or already met under another name.
    fn subject(&mut self, name: String, path: PathBuf) -> &mut Subject {
        let index = self.index(name, path);
        #[expect(clippy::indexing_slicing, reason = "an index of this list")]
        &mut self.subjects[index]
    }

    /// The number of the subject for a file.
    /// The first name that a file was met under is the one that is shown.
    fn index(&mut self, name: String, path: PathBuf) -> usize {
        let place = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        let index = *self.places.entry(place).or_insert(self.subjects.len());
        if index == self.subjects.len() {
            let (claims, findings) = (Vec::new(), Vec::new());
            let promised = search::has_model_ending(&path) || container::pieces::is_piece(&path);
            let (placeholder, tensors) = (false, Vec::new());
            let subject = Subject { name, path, claims, placeholder, promised, tensors, findings };
            self.subjects.push(subject);
        }
        index
    }

    /// Takes a folder: its lists, those above it, then its models, records, and what sets and stores lack.
    fn folder(&mut self, folder: &Path) {
        let (found, unlisted) = search::files(folder);
        let (lists, files): (Vec<PathBuf>, Vec<PathBuf>) =
            found.into_iter().partition(|path| sums::is_list_name(path));
        self.lists_above(folder);
        for list in lists {
            self.list(&list, Some(folder));
        }
        for list in files.iter().filter(|path| sums::may_be_list(path)) {
            self.list_of_others(list, folder);
        }
        for (path, _) in unlisted {
            self.subject(path.display().to_string(), path);
        }
        // With lists or without: a model file that no list names is looked at for what it is.
        let is_subject =
            |path: &&PathBuf| is_model_like(path) || !download::claims(path).is_empty();
        for path in files.iter().filter(is_subject) {
            self.subject(path.display().to_string(), path.clone());
        }
        for file in stores::unfinished(folder, &files) {
            self.subject(file.display().to_string(), file);
        }
        // An Ollama manifest names layers that are no longer there, or never came.
        for (blob, finding) in files.iter().flat_map(|file| stores::missing_layers(file)) {
            let subject = self.subject(blob.display().to_string(), blob);
            subject.findings = vec![finding];
        }
        for (path, finding) in missing_of_sets(&files) {
            self.incomplete.insert(path.parent().unwrap_or(Path::new("")).to_path_buf());
            self.subject(path.display().to_string(), path).findings.push(finding);
        }
    }

    /// Takes a list; names are shown as the list has them, or with the folder being searched.
    fn list(&mut self, path: &Path, folder: Option<&Path>) {
        if self.lists.iter().any(|list| list.path == path) {
            return;
        }
        let mut used = ListChecked { path: path.to_path_buf(), ..ListChecked::default() };
        let opened = if path == Path::new("-") { List::from_stdin() } else { List::open(path) };
        match opened {
            Ok(list) => {
                used.entries = list.entries.len();
                used.malformed_lines.clone_from(&list.malformed);
                for entry in &list.entries {
                    let file = list.locate(entry);
                    let name = folder.map_or(entry.name.clone(), |_| file.display().to_string());
                    self.claim(&list, entry, name, file);
                }
            }
            Err(problem) => used.problem = Some(problem.reason()),
        }
        self.lists.push(used);
    }

    /// Takes from a file that may be a list what it says of files that are there.
    ///
    /// A `README.md` may have a table of digests, and may speak of files that were never downloaded: of those nothing
    /// is said.
    fn list_of_others(&mut self, path: &Path, folder: &Path) {
        let Ok(list) = List::open(path) else { return };
        let located = list.entries.iter().map(|entry| (entry, list.locate(entry)));
        let there: Vec<_> = located.filter(|(_, file)| file.is_file()).collect();
        let below = |file: &Path| file.starts_with(folder);
        for (entry, file) in there.iter().filter(|(_, file)| below(file)) {
            self.claim(&list, entry, file.display().to_string(), file.clone());
        }
        if !there.is_empty() {
            let (path, entries) = (path.to_path_buf(), there.len());
            self.lists.push(ListChecked { path, entries, ..ListChecked::default() });
        }
    }

    /// Adds what a line of a list says of a file. A line without a digest only says that the file belongs to the list.
    fn claim(&mut self, list: &List, entry: &sums::Entry, name: String, file: PathBuf) {
        let index = self.index(name, file);
        let Some(digest) = entry.digest.clone() else {
            if let Some(subject) = self.subjects.get_mut(index) {
                subject.placeholder = true;
            }
            return;
        };
        let key = (index, digest.clone(), entry.tensor.clone(), list.path.clone());
        if !self.claimed.insert(key) {
            return;
        }
        // JSON is one line or has none worth naming.
        let by = match list.path.extension() {
            Some(ending) if ending == "json" => list.path.display().to_string(),
            _ => format!("{} line {}", list.path.display(), entry.line),
        };
        let (record, size, data) = (Some(list.path.clone()), entry.size, entry.data);
        let claim = Claim { record, size, data, ..Claim::new(digest.clone(), &by) };
        let Some(subject) = self.subjects.get_mut(index) else { return };
        // A digest of one tensor's data says nothing of the file around it.
        match &entry.tensor {
            Some(tensor) => subject.tensors.push((tensor.clone(), claim)),
            None => {
                subject.claims.push(claim);
                self.listed.push((digest, entry.name.clone()));
            }
        }
    }

    /// Uses what lists above a file (in its folder as well) or above a folder say of it.
    ///
    /// llama.cpp's `SHA256SUMS` is two folders above `models/7B/ggml-model-q4_0.bin`, which it names by that path.
    /// All that such a list gives is kept for [`super::diagnose`], which recognises parts under each other's names.
    fn lists_above(&mut self, target: &Path) {
        let Ok(real) = fs::canonicalize(target) else { return };
        let covers = |file: &Path| fs::canonicalize(file).is_ok_and(|file| file.starts_with(&real));
        // What was named is the first of its own ancestors, and is skipped.
        for folder in real.ancestors().skip(1).take(FOLDERS_ABOVE) {
            let Ok(entries) = fs::read_dir(folder) else { continue };
            let mut lists: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
            let own = real.parent() == Some(folder);
            lists.retain(|path| {
                (sums::is_list_name(path) || own && sums::may_be_list(path)) && path.is_file()
            });
            lists.sort();
            for list in lists.iter().filter_map(|path| List::open(path).ok()) {
                let located = list.entries.iter().map(|entry| (entry, list.locate(entry)));
                let named: Vec<_> = located.filter(|(_, file)| covers(file)).collect();
                if named.is_empty() {
                    continue;
                }
                for entry in &list.entries {
                    self.listed.extend(entry.digest.clone().map(|d| (d, entry.name.clone())));
                }
                for (entry, file) in named {
                    // The name as it was typed, with what the list adds below a folder.
                    let below = file.strip_prefix(&real).unwrap_or(Path::new(""));
                    let shown = if below.as_os_str().is_empty() {
                        target.to_path_buf()
                    } else {
                        target.join(below)
                    };
                    self.claim(&list, entry, shown.display().to_string(), shown);
                }
            }
        }
    }
}

/// Whether a file is one of several by its name.
fn is_shard(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("-of-"))
}

/// Whether a file in a folder is looked at though nothing claims anything of it.
fn is_model_like(path: &Path) -> bool {
    let in_blobs = path.parent().is_some_and(|p| p.file_name().is_some_and(|n| n == "blobs"));
    let tokenizer = path.extension().is_some_and(|e| e == "model");
    let piece = || container::pieces::is_piece(path);
    search::look(path).is_some() || in_blobs || tokenizer || path.is_symlink() || piece()
}

/// Files that a set of shards must have and does not: by its index, or by its own numbering.
///
/// A file that lies there under the name that a browser gives a second download (`model (1).gguf`) is told as that.
fn missing_of_sets(files: &[PathBuf]) -> Vec<(PathBuf, Finding)> {
    let mut missing: Vec<(PathBuf, Finding)> = Vec::new();
    let mut seen = HashSet::new();
    let present: BTreeSet<&Path> = files.iter().map(PathBuf::as_path).collect();
    let mut add = |path: PathBuf, why: String| {
        if present.contains(path.as_path()) || !seen.insert(path.clone()) {
            return;
        }
        let finding = match container::browser_copy(&path) {
            Some(copy) => {
                let copy = copy.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let message = format!("is there under a browser's name: rename {copy:?}");
                Finding::failure("browser-copy", message)
            }
            None => Finding::failure("missing-shard", why),
        };
        missing.push((path, finding));
    };
    let name = |path: &Path| {
        path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    };
    for index in files.iter().filter(|path| name(path).ends_with(".index.json")) {
        for shard in index_shards(index) {
            let why = format!("missing: {} names it: download it as well", name(index));
            add(index.with_file_name(shard), why);
        }
    }
    let mut sets = HashSet::new();
    for path in files {
        let siblings = numbered_siblings(&name(path));
        // Of shards every one names the same set.
        let whole = siblings.last().filter(|_| name(path).contains("-of-"));
        if whole.is_some_and(|last| !sets.insert(path.with_file_name(last))) {
            continue;
        }
        for sibling in siblings {
            let why = format!("missing: {} is of the same set: download it as well", name(path));
            add(path.with_file_name(sibling), why);
        }
    }
    missing
}

/// The files that a Hugging Face index names.
fn index_shards(path: &Path) -> BTreeSet<String> {
    let parsed = fs::read(path).ok().and_then(|b| serde_json::from_slice(&b).ok());
    let index: serde_json::Value = parsed.unwrap_or_default();
    let map = index.get("weight_map").and_then(|m| m.as_object());
    let names = map.into_iter().flat_map(|m| m.values()).filter_map(|v| v.as_str());
    // A name with a folder in it would lead out of the model's own folder.
    names.filter(|n| !n.contains(['/', '\\'])).map(str::to_owned).collect()
}

/// The names of the whole set that `model-00002-of-00003.safetensors`, `consolidated.01.pth` or
/// `ggml-model-f16.bin.1` belongs to.
fn numbered_siblings(name: &str) -> Vec<String> {
    const MOST: usize = 10_000;
    if let Some((before, rest)) = name.split_once("-of-") {
        // As wide as the number that is there: `00002` and `2` are different sets.
        let digits = before.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (stem, _) = before.split_at(before.len() - digits);
        let total: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let after = rest.get(total.len()..).unwrap_or_default();
        if after.starts_with(" (") {
            // A browser's copy: what it is a copy of belongs to the set.
            return Vec::new();
        }
        return match total.parse::<usize>() {
            Ok(n) if digits > 0 && n <= MOST => {
                (1..=n).map(|i| format!("{stem}{i:0digits$}-of-{total}{after}")).collect()
            }
            _ => Vec::new(),
        };
    }
    // Only those before it are known: the last file of a set does not say that it is the last.
    let part = name.strip_prefix("consolidated.").and_then(|n| n.strip_suffix(".pth"));
    if let Some(last) = part.and_then(|n| n.parse::<usize>().ok()).filter(|n| *n < 100) {
        return (0..last).map(|i| format!("consolidated.{i:02}.pth")).collect();
    }
    if let Some((stem, last)) = name.rsplit_once('.').filter(|(stem, _)| stem.ends_with(".bin"))
        && let Ok(last @ 1..100) = last.parse::<usize>()
    {
        let later = (1..last).map(|i| format!("{stem}.{i}"));
        return std::iter::once(stem.to_owned()).chain(later).collect();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_told_by_their_numbers() {
        let safetensors = numbered_siblings("model-00002-of-00003.safetensors");
        assert_eq!(safetensors.len(), 3);
        assert_eq!(safetensors[0], "model-00001-of-00003.safetensors");
        assert_eq!(
            numbered_siblings("consolidated.02.pth"),
            ["consolidated.00.pth", "consolidated.01.pth"]
        );
        assert_eq!(
            numbered_siblings("ggml-model-f16.bin.2"),
            ["ggml-model-f16.bin", "ggml-model-f16.bin.1"]
        );
        assert!(numbered_siblings("model.gguf").is_empty());
        assert!(numbered_siblings("a-00001-of-99999999.gguf").is_empty());
    }
}
