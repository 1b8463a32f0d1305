//! Storages, and the tensors that are views of them: what the tree of a pickle says of weights.
//!
//! ```text
//! torch._utils._rebuild_tensor_v2(
//!     ("storage", torch.HalfStorage, "0", "cpu", 131072000),    persistent id: class, key, place, elements
//!     0, (32000, 4096), (4096, 1), ..)                          offset, shape, strides, all in elements
//! ```
//!
//! A view may be any window of its storage, transposed too. What can be read of it is what has one distance between
//! numbers and one between rows ([`Stored::piece`]).

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{globals, node::Node};
use crate::{
    bytes::{Input, Source},
    checkpoint::{Stored, dtype::Dtype, names},
    error::Result,
    remedy::Notes,
};

/// The numbers behind one or more tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// What names it in the file.
    pub key: String,
    /// Type of its numbers.
    pub dtype: &'static Dtype,
    /// How many numbers it holds.
    pub elements: u64,
}

impl Storage {
    /// Bytes of the whole storage.
    pub fn bytes(&self) -> Option<u64> {
        self.dtype.bytes(self.elements)
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
    /// The same, of a storage of bytes taken as numbers of another type.
    fn of(self, dtype: &'static Dtype) -> Option<View> {
        let bytes = self.storage.bytes()?;
        let elements = bytes.checked_mul(8)? / dtype.bits;
        Some(View { storage: Storage { dtype, elements, ..self.storage }, ..self })
    }

    /// The same with the place of its storage known, as of a machine that stores low bytes first.
    ///
    /// # Errors
    /// [`crate::error::Error::Malformed`] where it leaves its storage.
    pub fn stored(
        self,
        input: &Input,
        format: &str,
        file: usize,
        storage_at: u64,
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
        let at = storage_at + self.offset * self.storage.dtype.width();
        let View { name, shape, stride, storage, .. } = self;
        Ok(Stored { name, dtype: storage.dtype, shape, stride, file, at, big_endian: false })
    }
}

/// What a tree says of weights.
#[derive(Debug, Default)]
pub struct Found {
    /// The named tensors.
    pub views: Vec<View>,
    /// The model's settings, as params.json has them, where they are beside the tensors.
    pub params: Option<Json>,
    /// What was left aside.
    pub notes: Notes,
}

/// The named tensors in an unpickled object. Of several dicts of tensors, as trainers save them with
/// their optimizer's, the one that has most of a known model's tensors counts, else the largest.
///
/// # Errors
/// Where there is no tensor, or one lies outside its storage or has a shape that is no shape.
pub fn views(input: &Input, format: &str, root: &Node) -> Result<Found> {
    let source = Source::new(input, format);
    let mut groups = Vec::new();
    gather(&source, root, "", &mut groups)?;
    let weight = |views: &[View]| {
        let names: Vec<&str> = views.iter().map(|v| v.name.as_str()).collect();
        (names::known(&names), names.len())
    };
    let best = groups.iter().map(|(_, views)| weight(views)).max();
    let place = groups.iter().position(|(_, views)| Some(weight(views)) == best);
    let Some((path, views)) = place.map(|place| groups.swap_remove(place)) else {
        let wanted = "a dict of tensors by name, as a state_dict is";
        return Err(source
            .malformed(0, "pickle", "no tensors", wanted)
            .advising("name the file that holds the weights"));
    };
    let mut found = Found { views, ..Found::default() };
    let beside = root.dict().unwrap_or_default();
    if !path.is_empty() {
        let top = path.split('.').next();
        let names = beside.iter().filter_map(|(key, _)| key.text().filter(|key| Some(*key) != top));
        let aside: Vec<&str> = names.collect();
        if !aside.is_empty() {
            found.notes.push(format!("read from {path}; left aside: {}", aside.join(", ")));
        }
    }
    let named = beside.iter().filter(|(key, _)| key.text().is_some_and(|k| SETTINGS.contains(&k)));
    found.params = named.filter_map(|(_, value)| settings(value)).next();
    Ok(found)
}

/// Under what names trainers save a model's settings.
const SETTINGS: [&str; 7] =
    ["model_args", "params", "args", "config", "model_config", "hparams", "hyper_parameters"];

/// A dict or namespace of the settings that params.json has.
fn settings(node: &Node) -> Option<Json> {
    let pairs = node.dict().or_else(|| match object(node) {
        Some((globals::NAMESPACE, state)) => state.dict(),
        _ => None,
    })?;
    let value = |node: &Node| match node {
        Node::Int(v) => Some(Json::from(*v)),
        Node::Float(v) => Some(Json::from(*v)),
        Node::Bool(v) => Some(Json::from(*v)),
        Node::Text(v) => Some(Json::from(v.as_str())),
        _ => None,
    };
    let pairs = pairs.iter().filter_map(|(k, v)| Some((k.text()?.to_owned(), value(v)?)));
    let settings = Json::Object(pairs.collect());
    (settings.get("dim").is_some() && settings.get("n_layers").is_some()).then_some(settings)
}

/// Dicts of tensors, each with its path from the root.
type Groups = Vec<(String, Vec<View>)>;

/// Collects the dicts of tensors in a tree.
///
/// ```text
/// {"model": {"w": tensor, …}, "averaged": {"w": tensor, …}, "step": 7}
///   groups   ("model", [w, …]), ("averaged", [w, …])
/// ```
fn gather(source: &Source, node: &Node, path: &str, groups: &mut Groups) -> Result<()> {
    let mut views = Vec::new();
    if module(node).is_some() {
        add(source, "", node, &mut views)?;
    }
    for (key, value) in node.dict().unwrap_or_default() {
        let Some(name) = key.text() else { continue };
        add(source, name, value, &mut views)?;
        if value.dict().is_some() || (path.is_empty() && module(value).is_some()) {
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            gather(source, value, &path, groups)?;
        }
    }
    if !views.is_empty() {
        groups.push((path.to_owned(), views));
    }
    Ok(())
}

/// Adds the tensor that a node is, or the tensors of the module that it is.
fn add(source: &Source, name: &str, node: &Node, views: &mut Vec<View>) -> Result<()> {
    if let Some(state) = module(node) {
        for part in ["_parameters", "_buffers", "_modules"] {
            for (key, value) in state.get(part).and_then(Node::dict).unwrap_or_default() {
                let Some(key) = key.text() else { continue };
                // A module in place of its weight is under the weight's name already.
                let named = name.strip_suffix(key).is_some_and(|n| n.ends_with('.'));
                let name = match name {
                    "" => key.to_owned(),
                    name if named => name.to_owned(),
                    name => format!("{name}.{key}"),
                };
                add(source, &name, value, views)?;
            }
        }
    } else if let Some(view) = tensor(node) {
        let Some(view) = view else {
            let wanted = "a tensor of a plain type, as torch.save writes it";
            return Err(source.malformed(0, name, "something else", wanted));
        };
        views.push(View { name: name.to_owned(), ..view });
    }
    Ok(())
}

/// An object with the state that was put on it: its class and its state.
fn object(node: &Node) -> Option<(&str, &Node)> {
    let [made, state] = node.list()? else { return None };
    let [class, _] = made.list()? else { return None };
    Some((class.text()?, state))
}

/// The state of one of torch's modules.
fn module(node: &Node) -> Option<&Node> {
    object(node).filter(|(class, _)| class.starts_with(globals::MODULES)).map(|(_, state)| state)
}

/// The view that a node describes: `None` where it is no tensor, `Some(None)` where it is a broken one.
fn tensor(node: &Node) -> Option<Option<View>> {
    let [callable, args] = node.list()? else { return None };
    let (callable, args) = (callable.text()?, args.list()?);
    match callable {
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => Some(rebuilt(args)),
        "torch._utils._rebuild_tensor_v3" => {
            let dtype = args.get(6).and_then(Node::text).and_then(Dtype::of_torch);
            Some(dtype.and_then(|dtype| rebuilt(args)?.of(dtype)))
        }
        "torch._utils._rebuild_parameter" => tensor(args.first()?),
        "torch._tensor._rebuild_from_type_v2" => {
            let call = [args.first()?.clone(), args.get(2)?.clone()];
            tensor(&Node::List(call.to_vec()))
        }
        _ => None,
    }
}

/// The view that the arguments of `_rebuild_tensor` and its kin describe.
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
    let (key, class) = (key.text()?.to_owned(), class.text()?);
    let dtype = match class {
        "torch.storage.UntypedStorage" => Dtype::of_safetensors("U8"),
        class => Dtype::of_storage(class),
    }?;
    let storage = Storage { key, dtype, elements: elements.count()? };
    let base = match rest.first().and_then(Node::list) {
        Some([_, offset, _]) => offset.count()?,
        _ => 0,
    };
    Some((storage, base))
}

/// Every storage that a tree names, each key once, for layouts that do not list types with them.
/// By a list of what is left to look at, not by calls in each other: how deep the tree is the file decides.
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
