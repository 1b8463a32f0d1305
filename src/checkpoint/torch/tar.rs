//! The first layout of `torch.save`, until 0.1.10: a tar archive of pickles mixed with raw numbers.
//!
//! ```text
//! sys_info   pickle {"little_endian": true, …}
//! storages   pickle count; for each: pickle (key, place, class), i64 elements, numbers …;
//!            pickle [(view key, root key, offset, elements), …]
//! tensors    pickle count; for each: pickle (id, storage key, class), i32 dims, 4 unused bytes,
//!            i64 sizes[dims], i64 strides[dims], i64 offset
//! pickle     the object; its persistent ids are those of `tensors`
//!
//! a member   512 bytes of header: name at 0 (100), size in octal at 124 (12), "ustar" at 257;
//!            then its bytes, filled up to a multiple of 512; a block that begins with 0 ends the archive
//! ```

use std::collections::HashMap;

use super::{
    node::Node,
    pickle,
    storage::{Storage, View},
};
use crate::{
    bytes::{Input, Source},
    checkpoint::{Stored, Weights, dtype::Dtype},
    error::{Error, Result},
};

/// The id under which errors and reports name this layout; a tar archive is made of blocks of 512 bytes.
const FORMAT: &str = "pth-tar";
const BLOCK: u64 = 512;

/// Whether a file begins with a tar header.
/// By the mark of POSIX's archives; older ones have none, and there the name of torch's first member tells.
pub fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
        || head.starts_with(b"sys_info\0")
        || head.starts_with(b"./sys_info\0")
}

/// Reads the directory of a file in this layout.
///
/// # Errors
/// Where a member is missing or broken, or a tensor lies outside its storage.
pub fn open(input: &Input) -> Result<Weights> {
    let source = Source::new(input, FORMAT);
    let members = members(&source)?;
    let member = |name: &str| {
        let found = members.get(name).copied();
        found.ok_or_else(|| {
            source.malformed(0, "archive", format!("no {name}"), "a file of torch 0.1")
        })
    };
    let (at, end) = member("sys_info")?;
    let (system, _) = pickle::read(&source, at, end)?;
    // Storages before tensors, tensors before the object: each names what the one before it holds.
    let big_endian = system.get("little_endian") == Some(&Node::Bool(false));
    let storages = storages(&source, member("storages")?)?;
    let (at, end) = member("pickle")?;
    let (root, _) = pickle::read(&source, at, end)?;
    let mut by_id = tensors(&source, member("tensors")?, &storages)?;
    let mut tensors = Vec::new();
    for (key, value) in root.dict().unwrap_or_default() {
        let id = value.list().and_then(|id| label(id.first()?));
        if let (Some(name), Some((view, at))) = (key.text(), id.and_then(|id| by_id.remove(&id))) {
            let view = View { name: name.to_owned(), ..view };
            tensors.push(Stored { big_endian, ..view.stored(input, FORMAT, 0, at)? });
        }
    }
    if tensors.is_empty() {
        return Err(source.malformed(at, "pickle", "no tensors", "a dict of tensors by name"));
    }
    Ok(Weights { format: FORMAT, files: vec![input.clone()], tensors, ..Weights::default() })
}

/// Where the members' bytes begin and end, by name.
///
/// # Errors
/// Where a size is no octal number or leads beyond the file, or a name comes twice: which of the two torch would take
/// is not known.
fn members(source: &Source) -> Result<HashMap<String, (u64, u64)>> {
    let mut members = HashMap::new();
    let mut at = 0;
    while source.left(at) >= BLOCK && source.u8_at(at, "member")? != 0 {
        let header = source.bytes_at(at, BLOCK, BLOCK, "member")?;
        let text = |from: usize, to: usize| {
            let field = header.get(from..to).unwrap_or_default();
            let field = field.split(|b| *b == 0).next().unwrap_or_default();
            String::from_utf8_lossy(field).trim().to_owned()
        };
        // Octal digits, as text.
        let size = u64::from_str_radix(&text(124, 136), 8).ok().filter(|s| *s <= source.left(at));
        let Some(size) = size else {
            let wanted = "a size in octal that the file holds";
            return Err(source.malformed(at + 124, "member size", text(124, 136), wanted));
        };
        let name = text(0, 100);
        let begin = at + BLOCK;
        if members.insert(name.trim_start_matches("./").to_owned(), (begin, begin + size)).is_some()
        {
            return Err(source.malformed(
                at,
                "member",
                format!("{name:?} again"),
                "each name once",
            ));
        }
        at = begin + size.div_ceil(BLOCK) * BLOCK;
    }
    Ok(members)
}

/// Storages by key, with the place of their numbers.
///
/// The bytes of the numbers follow the pickle that says how many there are, so the next pickle is found only by reading
/// the one before it.
fn storages(
    source: &Source,
    (at, end): (u64, u64),
) -> Result<HashMap<String, (Storage, u64, u64)>> {
    let (count, mut at) = pickle::read(source, at, end)?;
    let mut storages: HashMap<String, (Storage, u64, u64)> = HashMap::new();
    for _ in 0..count.count().unwrap_or(0) {
        let (entry, next) = pickle::read(source, at, end)?;
        let parsed = match entry.list() {
            Some([key, _, class]) => label(key).zip(class.text().and_then(Dtype::of_storage)),
            _ => None,
        };
        let Some((key, dtype)) = parsed else {
            return Err(source.malformed(
                at,
                "storage",
                format!("{entry:?}"),
                "(key, place, class)",
            ));
        };
        let elements = source.u64_at(next, "storage size")?;
        let storage = Storage { key: key.clone(), dtype, elements };
        let Some(bytes) = storage.bytes().filter(|b| *b <= end.saturating_sub(next + 8)) else {
            return Err(cut(source, next, elements));
        };
        storages.insert(key, (storage, next + 8, 0));
        at = next + 8 + bytes;
    }
    // A view is a storage that begins some elements into another one: it is read there, with the offset kept.
    let (views, _) = pickle::read(source, at, end)?;
    for view in views.list().unwrap_or_default() {
        let parsed = match view.list() {
            Some([target, root, offset, _]) => {
                let root = label(root).and_then(|root| storages.get(&root)).cloned();
                let found = root.zip(offset.count()).map(|((s, at, _), offset)| (s, at, offset));
                label(target).zip(found)
            }
            _ => None,
        };
        let Some((target, storage)) = parsed else {
            return Err(source.malformed(
                at,
                "storage view",
                format!("{view:?}"),
                "a view of a storage",
            ));
        };
        storages.insert(target, storage);
    }
    Ok(storages)
}

/// Views by the id of their tensor, each with the place of its storage.
type Views = HashMap<String, (View, u64)>;

/// Tensors by id, with the place of their storage.
fn tensors(
    source: &Source,
    (at, end): (u64, u64),
    storages: &HashMap<String, (Storage, u64, u64)>,
) -> Result<Views> {
    let (count, mut at) = pickle::read(source, at, end)?;
    let mut tensors = HashMap::new();
    for _ in 0..count.count().unwrap_or(0) {
        let (entry, next) = pickle::read(source, at, end)?;
        let found = match entry.list() {
            Some([id, storage, _]) => {
                label(id).zip(label(storage).and_then(|storage| storages.get(&storage)))
            }
            _ => None,
        };
        let Some((id, (storage, place, base))) = found else {
            return Err(source.malformed(
                at,
                "tensor",
                format!("{entry:?}"),
                "(id, storage, class)",
            ));
        };
        // next: dims (4), unused (4), then sizes, strides and the offset, eight bytes each
        let dims = source.u32_at(next, "tensor dims")?;
        if dims > 8 {
            return Err(source.malformed(next, "tensor dims", dims, "at most 8"));
        }
        let mut numbers = Vec::new();
        // Sizes, strides and the offset, all of 64 bits.
        for i in 0..=u64::from(dims) * 2 {
            numbers.push(source.u64_at(next + 8 + i * 8, "tensor sizes")?);
        }
        let offset = numbers.pop().unwrap_or(0).saturating_add(*base);
        let stride = numbers.split_off(numbers.len() / 2);
        let view =
            View { name: String::new(), storage: storage.clone(), offset, shape: numbers, stride };
        tensors.insert(id, (view, *place));
        at = next + 8 + (u64::from(dims) * 2 + 1) * 8;
    }
    Ok(tensors)
}

/// Ids are integers or text; either way their text tells them apart.
fn label(node: &Node) -> Option<String> {
    match node {
        Node::Text(text) => Some(text.clone()),
        Node::Int(v) => Some(v.to_string()),
        _ => None,
    }
}

/// The error for a storage that goes on beyond the file.
fn cut(source: &Source, at: u64, elements: u64) -> Error {
    source.malformed(at, "storage size", elements, "what the file holds (is it whole?)")
}
