//! The layout of `torch.save` before 1.6: pickles one after the other, then the storages.
//!
//! ```text
//! pickle  0x1950a86a20f9469cfc6c, the magic number
//! pickle  1001, the protocol
//! pickle  {"little_endian": true, …}
//! pickle  the object; its persistent ids name storages by key, class and length
//! pickle  [key, …], the order in which the storages follow
//! i64 elements, numbers …    for each key
//! ```

use std::collections::HashMap;

use super::{node::Node, pickle, storage};
use crate::{
    bytes::{Input, Source},
    checkpoint::{Stored, Weights},
    error::Result,
};

/// The id under which errors and reports name this layout.
const FORMAT: &str = "pth-legacy";
/// The first pickle: protocol 2, the magic number as a long of ten bytes.
const MAGIC: [u8; 14] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Whether a file begins with the magic number's pickle, of whatever protocol.
pub fn is_legacy(head: &[u8]) -> bool {
    head.first() == Some(&0x80) && head.get(2..14) == MAGIC.get(2..)
}

/// Reads the directory of a file in this layout.
///
/// # Errors
/// Where a pickle is broken or asks for what no tensor needs, or a storage is cut short.
pub fn open(input: &Input) -> Result<Weights> {
    let source = Source::new(input, FORMAT);
    let next = |at| pickle::read(&source, at, input.len());
    let (_, at) = next(0)?;
    let (protocol, at) = next(at)?;
    if protocol != Node::Int(1001) {
        return Err(source.malformed(at, "protocol", format!("{protocol:?}"), "1001"));
    }
    let (system, at) = next(at)?;
    let big_endian = system.get("little_endian") == Some(&Node::Bool(false));
    let (root, at) = next(at)?;
    let (keys, mut at) = next(at)?;
    let storages = storage::storages(&root);
    let mut places = HashMap::new();
    for key in keys.list().unwrap_or_default() {
        let Some(storage) = key.text().and_then(|key| storages.get(key)) else {
            let wanted = "the key of a storage that a tensor uses";
            return Err(source.malformed(at, "storage keys", format!("{key:?}"), wanted));
        };
        let field = format!("storage {}", storage.key);
        let elements = source.u64_at(at, &field)?;
        if elements != storage.elements {
            let wanted = format!("{} elements", storage.elements);
            return Err(source.malformed(at, field, elements, wanted));
        }
        places.insert(storage.key.clone(), at + 8);
        let bytes = storage.bytes().filter(|b| *b <= source.left(at + 8));
        let Some(bytes) = bytes else {
            let found = format!("{} bytes to the end", source.left(at + 8));
            let wanted = format!("{elements} elements (is the file whole?)");
            return Err(source.malformed(at, field, found, wanted));
        };
        at += 8 + bytes;
    }
    let mut tensors = Vec::new();
    let found = storage::views(input, FORMAT, &root)?;
    for view in found.views {
        let Some(at) = places.get(&view.storage.key) else {
            let found = format!("no storage {:?}", view.storage.key);
            return Err(source.malformed(at, &view.name, found, "its storage in the file"));
        };
        tensors.push(Stored { big_endian, ..view.stored(input, FORMAT, 0, *at)? });
    }
    let (params, notes) = (found.params, found.notes);
    Ok(Weights { format: FORMAT, files: vec![input.clone()], tensors, params, notes })
}
