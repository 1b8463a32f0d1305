//! Storages, and the tensors that are views of them: what the tree of a pickle says of weights.

use std::collections::HashMap;

use super::node::Node;
use crate::{
    bytes::{Input, Source},
    checkpoint::Stored,
    error::Result,
};

/// The numbers behind one or more tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// What names it in the file.
    pub key: String,
    /// Type of its numbers, as `f16`.
    pub dtype: &'static str,
    /// How many numbers it holds.
    pub elements: u64,
}

impl Storage {
    /// Bytes of the whole storage.
    pub fn bytes(&self) -> Option<u64> {
        self.elements.checked_mul(width(self.dtype))
    }
}

/// A named tensor: a view of a storage, in elements.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name in the checkpoint.
    pub name: String,
    /// What it is a view of.
    pub storage: Storage,
    /// Its first element in the storage.
    pub offset: u64,
    /// Its shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Elements from one index to the next, for each dimension.
    pub stride: Vec<u64>,
}

impl View {
    /// The same with the place of its storage known.
    ///
    /// # Errors
    /// [`crate::error::Error::Malformed`] where it leaves its storage.
    pub fn stored(
        self,
        input: &Input,
        format: &str,
        file: usize,
        storage_at: u64,
        big_endian: bool,
    ) -> Result<Stored> {
        let last =
            self.shape.iter().zip(&self.stride).try_fold(self.offset, |at, (n, s)| {
                at.checked_add(n.checked_sub(1)?.checked_mul(*s)?)
            });
        let inside = last.is_some_and(|last| last < self.storage.elements);
        if !inside || self.shape.len() != self.stride.len() {
            let found = format!(
                "shape {:?}, strides {:?} from {} of {} elements",
                self.shape, self.stride, self.offset, self.storage.elements
            );
            let source = Source::new(input, format);
            return Err(source.malformed(
                storage_at,
                self.name,
                found,
                "a view inside its storage",
            ));
        }
        let at = storage_at + self.offset * width(self.storage.dtype);
        let View { name, shape, stride, storage, .. } = self;
        Ok(Stored { name, dtype: storage.dtype, shape, stride, file, at, big_endian })
    }
}

/// Bytes of one number.
pub fn width(dtype: &str) -> u64 {
    match dtype {
        "f64" | "i64" => 8,
        "f32" | "i32" => 4,
        "f16" | "bf16" | "i16" => 2,
        _ => 1,
    }
}

/// The dtype of a storage class.
pub fn dtype(class: &str) -> Option<&'static str> {
    Some(match class {
        "torch.HalfStorage" => "f16",
        "torch.BFloat16Storage" => "bf16",
        "torch.FloatStorage" => "f32",
        "torch.DoubleStorage" => "f64",
        "torch.LongStorage" => "i64",
        "torch.IntStorage" => "i32",
        "torch.ShortStorage" => "i16",
        "torch.CharStorage" | "torch.ByteStorage" | "torch.BoolStorage" => "i8",
        _ => return None,
    })
}

/// Wrappers that training scripts put around the tensors.
const WRAPPERS: [&str; 4] = ["state_dict", "model", "module", "model_state_dict"];

/// The named tensors in an unpickled object: at its top, or under one of the usual wrappers.
pub fn views(input: &Input, format: &str, root: &Node) -> Result<Vec<View>> {
    let source = Source::new(input, format);
    let direct = named(&source, root)?;
    if !direct.is_empty() {
        return Ok(direct);
    }
    for inner in WRAPPERS.iter().filter_map(|w| root.get(w)) {
        let found = named(&source, inner)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(source.malformed(
        0,
        "pickle",
        "no tensors",
        "a dict of tensors by name, as a state_dict is",
    ))
}

fn named(source: &Source, node: &Node) -> Result<Vec<View>> {
    let mut views = Vec::new();
    for (key, value) in node.dict().unwrap_or_default() {
        let Some(name) = key.text() else { continue };
        if let Some(view) = tensor(value) {
            let Some(view) = view else {
                let wanted = "a tensor of a plain type, as torch.save writes it";
                return Err(source.malformed(0, name, "something else", wanted));
            };
            views.push(View { name: name.to_owned(), ..view });
        }
    }
    Ok(views)
}

/// The view that a node describes: `None` where it is no tensor, `Some(None)` where it is a broken one.
fn tensor(node: &Node) -> Option<Option<View>> {
    let [callable, args] = node.list()? else { return None };
    let (callable, args) = (callable.text()?, args.list()?);
    match callable {
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => Some(rebuilt(args)),
        "torch._utils._rebuild_parameter" => tensor(args.first()?),
        "torch._tensor._rebuild_from_type_v2" => {
            let call = [args.first()?.clone(), args.get(2)?.clone()];
            tensor(&Node::List(call.to_vec()))
        }
        _ => None,
    }
}

fn rebuilt(args: &[Node]) -> Option<View> {
    let [id, offset, shape, stride, ..] = args else { return None };
    let (storage, base) = storage(id)?;
    let offset = offset.count()?.checked_add(base)?;
    Some(View {
        name: String::new(),
        storage,
        offset,
        shape: shape.counts()?,
        stride: stride.counts()?,
    })
}

/// The storage that a persistent id names, and where in it a view of it begins. The id is the tuple
/// `("storage", class, key, place, elements)`, in the legacy layout with a sixth item: nothing, or
/// `(view key, offset, elements)` for a storage that is a part of another.
pub fn storage(id: &Node) -> Option<(Storage, u64)> {
    let [id] = id.list()? else { return None };
    let [kind, class, key, _, elements, rest @ ..] = id.list()? else { return None };
    if kind.text() != Some("storage") {
        return None;
    }
    let (key, dtype) = (key.text()?.to_owned(), dtype(class.text()?)?);
    let storage = Storage { key, dtype, elements: elements.count()? };
    let base = match rest.first().and_then(Node::list) {
        Some([_, offset, _]) => offset.count()?,
        _ => 0,
    };
    Some((storage, base))
}

/// Every storage that a tree names, each key once, for layouts that do not list types with them.
pub fn storages(root: &Node) -> HashMap<String, Storage> {
    let mut found = HashMap::new();
    let mut left = vec![root];
    while let Some(node) = left.pop() {
        if let Some((storage, _)) = storage(node) {
            found.entry(storage.key.clone()).or_insert(storage);
        }
        match node {
            Node::List(items) => left.extend(items),
            Node::Dict(pairs) => left.extend(pairs.iter().map(|(_, v)| v)),
            _ => {}
        }
    }
    found
}
