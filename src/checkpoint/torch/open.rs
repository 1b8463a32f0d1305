//! Opens a file of `torch.save` in whichever layout it has, and reads the layout of today: a zip archive.

use std::collections::HashMap;

use super::{legacy, pickle, storage::views, tar, zip::Archive};
use crate::{
    bytes::{Input, Source},
    checkpoint::{Stored, Weights},
    error::Result,
    limits::Limits,
};

/// Whether a file begins as one of the three layouts does.
pub fn is_torch(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || legacy::is_legacy(head) || tar::is_tar(head)
}

/// Reads the directory of a file written by `torch.save`.
///
/// # Errors
/// [`crate::error::Error::Malformed`] naming the rule that the file breaks.
pub fn open(input: &Input, limits: &Limits) -> Result<Weights> {
    let mut head = vec![0; usize::try_from(input.len().min(512)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    if legacy::is_legacy(&head) {
        legacy::open(input)
    } else if tar::is_tar(&head) {
        tar::open(input)
    } else {
        open_zip(input, limits)
    }
}

/// Reads a zip archive: `data.pkl` as data, then where the entries of the storages lie.
///
/// ```text
/// NAME/data.pkl        the object, whose tensors are views: storage, offset, sizes, strides
/// NAME/byteorder       "little" or "big"; older files lack it and are little-endian
/// NAME/data/0, 1, …    the numbers of each storage, which several views may share
/// ```
///
/// Entries that are stored are read where they lie; packed ones, which torch.save never makes and other programs do,
/// are unpacked as they are asked for, and are further files of the model.
fn open_zip(input: &Input, limits: &Limits) -> Result<Weights> {
    let archive = Archive::open(input, limits)?;
    // The folder is called after the file that was saved, so that only the ending of the name is known.
    let bad = |field: &str, found: String, wanted: &str| {
        Source::new(input, "pth-zip").malformed(0, field, found, wanted)
    };
    let mut pickles =
        archive.entries().iter().filter_map(|e| Some((e, e.name.strip_suffix("data.pkl")?)));
    let (Some((entry, folder)), None) = (pickles.next(), pickles.next()) else {
        let names: Vec<_> = archive.entries().iter().take(3).map(|e| e.name.as_str()).collect();
        let found = format!("an archive of {}", names.join(", "));
        return Err(bad("directory", found, "one data.pkl, as torch.save writes"));
    };
    let read = if entry.stored {
        pickle::read(&Source::new(input, "pth-zip"), entry.at, entry.at + entry.len)
    } else {
        let small =
            Input::memory(format!("{}!{}", input.name(), entry.name), archive.small(entry)?);
        pickle::read(&Source::new(&small, "pth-zip"), 0, small.len())
    };
    // What is wrong with it may be damage, which its sum shows.
    let (root, _) = read.or_else(|error| archive.small(entry).and(Err(error)))?;
    let order =
        archive.entry(&format!("{folder}byteorder")).map(|e| archive.small(e)).transpose()?;
    let big_endian = order.is_some_and(|o| o == b"big");
    let mut files = vec![archive.input().clone()];
    let mut unpacked = HashMap::new();
    let mut tensors = Vec::new();
    let found = views(input, "pth-zip", &root)?;
    for view in found.views {
        let name = format!("{folder}data/{}", view.storage.key);
        let Some(entry) = archive.entry(&name) else {
            return Err(bad(
                &view.name,
                format!("no entry {name:?}"),
                "its storage (is the file whole?)",
            ));
        };
        // A cut download has short entries, and a view of one would end in another's numbers.
        let bytes = view.storage.bytes().unwrap_or(u64::MAX);
        if entry.len != bytes {
            return Err(bad(&name, format!("{} bytes", entry.len), &format!("{bytes} bytes")));
        }
        let (file, at) = if entry.stored {
            (0, entry.at)
        } else {
            let file = *unpacked.entry(name).or_insert_with(|| {
                files.push(archive.unpacked(entry));
                files.len() - 1
            });
            (file, 0)
        };
        tensors.push(Stored { big_endian, ..view.stored(input, "pth-zip", file, at)? });
    }
    let (params, notes) = (found.params, found.notes);
    Ok(Weights { format: "pth-zip", files, tensors, params, notes })
}
