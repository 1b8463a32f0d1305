//! Files cut into pieces by bytes, as hosts with a limit on sizes ask for: `x.gguf.part1of2`,
//! `x.gguf-split-a`, `x.gguf.000`. No piece is a model; together, they are one.
//!
//! ```text
//! x.gguf.part1of2    piece 1 of 2
//! x.gguf-split-aa    letters, from aa       split x.gguf x.gguf-split-
//! x.gguf.000         three digits           split -d -a 3 x.gguf x.gguf.
//! ```
//!
//! Unlike shards and parts, which are files of their own, a piece has a header only if it is the first: names are all
//! that there is to go by, so this is asked last.

use std::path::{Path, PathBuf};

use super::{OpenOptions, detect};
use crate::{
    bytes::Input,
    error::{Error, Result},
    model::Model,
    remedy::{Call, Fault, Note},
};

/// Endings of names that are cut without a word for it: `x.gguf.001`, `x.gguf.aa`.
const ENDINGS: [&str; 5] = [".gguf", ".bin", ".safetensors", ".ggml", ".pth"];

/// What a piece's name says.
struct Named {
    whole: String,
    number: u32,
    /// How many there are, where the name says so.
    total: Option<u32>,
    letters: bool,
}

/// A set of pieces, as far as names tell.
struct Set {
    own: Named,
    found: Vec<(u32, String)>,
    /// The number of the first, and how many there are.
    first: u32,
    total: u32,
}

impl Set {
    /// The set that `path` is a piece of; none where its name says nothing of the kind.
    fn of(path: &Path) -> Option<Set> {
        let own = path.file_name().and_then(|n| n.to_str()).and_then(parse)?;
        let found = siblings(path, &own)?;
        let last = found.last().map_or(0, |(number, _)| *number);
        // `split` counts from aa or 000, others from 1: the first that is there tells.
        let zero = own.letters || found.first().is_some_and(|(number, _)| *number == 0);
        let first = u32::from(!zero);
        let total = own.total.unwrap_or(last + 1 - first);
        // A lone piece may be any file with an odd name.
        let lone = found.len() < 2 && total < 2 && own.number == first && own.total.is_none();
        (!lone).then_some(Set { own, found, first, total })
    }

    /// What a piece is, and which others are not there.
    fn looks(&self) -> (String, bool) {
        let there = |n: &u32| self.found.iter().any(|(number, _)| number == n);
        let missing: Vec<String> = (self.first..self.first.saturating_add(self.total.min(1000)))
            .filter(|n| !there(n))
            .map(|n| (n + 1 - self.first).to_string())
            .collect();
        let number = (self.own.number + 1).saturating_sub(self.first);
        let looks =
            format!("is piece {number} of {} of {}, cut by bytes", self.total, self.own.whole);
        match missing.is_empty() {
            true => (looks, true),
            false => (format!("{looks}; missing: piece {}", missing.join(", ")), false),
        }
    }
}

/// The name and the pieces, in order, of the file that `path` is a piece of; none where its name says nothing
/// of the kind.
///
/// # Errors
/// Where a piece is missing.
pub fn all(path: &Path) -> Result<Option<(String, Vec<PathBuf>)>> {
    let Some(set) = Set::of(path) else { return Ok(None) };
    match set.looks() {
        (_, true) => {
            let paths = set.found.iter().map(|(_, name)| path.with_file_name(name)).collect();
            Ok(Some((set.own.whole, paths)))
        }
        (looks, false) => {
            let next = "put all pieces into one folder".into();
            Err(Error::Unknown { file: path.display().to_string(), looks, next })
        }
    }
}

/// Whether a file is a piece of another by its name and what is beside it.
pub fn is_piece(path: &Path) -> bool {
    Set::of(path).is_some()
}

/// What a file is that is a piece of another, where the first piece is there and this is a later one.
pub fn later(path: &Path) -> Option<String> {
    let set = Set::of(path)?;
    let first = set.found.first().is_some_and(|(number, _)| *number == set.first);
    (first && set.own.number != set.first).then(|| set.looks().0)
}

/// Reads a file that is none by itself, as `error` says, together with the others that it is a piece of one
/// file with.
///
/// # Errors
/// `error`, where it is no piece; which pieces are missing; what is wrong with the whole.
pub(super) fn read(path: &Path, error: Error, options: &OpenOptions) -> Result<Model> {
    // A file that is a model by itself is none of this, whatever its name.
    if !matches!(error, Error::Malformed(_) | Error::Unknown { .. }) {
        return Err(error);
    }
    let Some(set) = Set::of(path) else { return Err(error) };
    let (looks, whole) = set.looks();
    let file = path.display().to_string();
    if !whole {
        let next = Call::Join.to("put all pieces into one folder and join one of them");
        return Err(Error::Unknown { file, looks, next });
    }
    let open = |(_, name): &(u32, String)| Input::open(path.with_file_name(name));
    let pieces = set.found.iter().map(open).collect::<Result<Vec<_>>>()?;
    // One input over all of them: nothing is copied to read it.
    let whole = Input::joined(path.with_file_name(&set.own.whole), &pieces);
    let mut model = detect(&whole, options)?.sure(&whole)?;
    let note = Note::of(Fault::Form, format!("{looks}; all are there and read as one"));
    model.notes.push(Note { remedy: Call::Join.on(file).to("make it whole"), ..note });
    Ok(model)
}

/// The pieces beside `path` that are of the same file, in order.
fn siblings(path: &Path, own: &Named) -> Option<Vec<(u32, String)>> {
    let folder: PathBuf = crate::bytes::replace::folder_of(path).to_path_buf();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).ok()? {
        let name = entry.ok()?.file_name().to_string_lossy().into_owned();
        let same = |other: &Named| other.whole == own.whole && other.letters == own.letters;
        if let Some(other) = parse(&name).filter(same) {
            found.push((other.number, name));
        }
    }
    found.sort();
    Some(found)
}

/// The name of the whole and the number, where a name is that of a piece.
fn parse(name: &str) -> Option<Named> {
    for word in [".part", "-part", "-split-", ".split-", "_split_"] {
        let Some((whole, rest)) = name.rsplit_once(word).filter(|(whole, _)| !whole.is_empty())
        else {
            continue;
        };
        let rest = rest.trim_start_matches(['-', '_', '.']);
        let (number, total) = match rest.split_once("of") {
            // What `batch --tensors` leaves is joined by `batch join`.
            Some((n, _)) if n.ends_with(['-', '_']) => return None,
            Some((number, total)) => (number, Some(total.parse().ok()?)),
            None => (rest, None),
        };
        let (number, letters) = count(number)?;
        return Some(Named { whole: whole.to_owned(), number, total, letters });
    }
    let (whole, ending) = name.rsplit_once('.')?;
    let cut = ENDINGS.iter().any(|known| whole.to_ascii_lowercase().ends_with(known));
    // Short endings are many things: only behind the name of a model, and of the length that `split` gives them.
    let long = ending.len() == 3 || ending.len() == 2 && ending.starts_with(['a', 'b']);
    let (number, letters) =
        count(ending).filter(|(_, letters)| cut && long && (*letters == (ending.len() == 2)))?;
    Some(Named { whole: whole.to_owned(), number, total: None, letters })
}

/// The number of a piece, and whether it is written in letters: `aa`, `ab`, as split does.
fn count(text: &str) -> Option<(u32, bool)> {
    if text.is_empty() || text.len() > 4 {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Some((text.parse().ok()?, false));
    }
    let letter = |sum: u32, b: u8| sum * 26 + u32::from(b - b'a');
    let letters = text.bytes().all(|b| b.is_ascii_lowercase());
    letters.then(|| (text.bytes().fold(0, letter), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pieces() {
        let read = |name: &str| parse(name).map(|n| (n.whole, n.number, n.total));
        let of = |whole: &str, number, total| Some((whole.to_owned(), number, total));
        assert_eq!(read("a.gguf.part1of2"), of("a.gguf", 1, Some(2)));
        assert_eq!(read("a.gguf-split-b"), of("a.gguf", 1, None));
        assert_eq!(read("a.gguf-split-ab"), of("a.gguf", 1, None));
        assert_eq!(read("a.gguf.000"), of("a.gguf", 0, None));
        assert_eq!(read("a.gguf.ac"), of("a.gguf", 2, None));
        for name in
            ["a.gguf", "a.gguf.part-0-of-4", "a-00001-of-00002.gguf", "a.bin.1", "a.gguf.md"]
        {
            assert_eq!(read(name), None, "{name}");
        }
    }
}
