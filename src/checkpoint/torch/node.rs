//! Values of a normalised pickle: a plain tree, dicts in file order.
//!
//! ```text
//! what Python had                       here
//! {"w": _rebuild_tensor_v2(("storage", …), …)}     Dict[(Text "w", List[Text "torch._utils._rebuild_tensor_v2", List[…]])]
//! ```
//!
//! A call that was never made is a list of its name and its arguments, so that whoever looks for tensors looks for that
//! name. Dicts keep the order of the file, in which a model's tensors come.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// One value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Node {
    /// `None`.
    Nothing,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text; also the names of globals.
    Text(String),
    /// Bytes that are not text.
    Bytes(Vec<u8>),
    /// A list or a tuple.
    List(Vec<Node>),
    /// Keys and values in file order.
    Dict(Vec<(Node, Node)>),
}

impl Node {
    /// Its text, where it is text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its value, where it is a whole number that is not negative.
    /// Sizes, offsets and numbers of elements are such.
    pub fn count(&self) -> Option<u64> {
        match self {
            Node::Int(v) => u64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// Its items, where it is a list or tuple.
    pub fn list(&self) -> Option<&[Node]> {
        match self {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// Its items as whole numbers that are not negative, where they all are.
    pub fn counts(&self) -> Option<Vec<u64>> {
        self.list()?.iter().map(Node::count).collect()
    }

    /// Its keys and values, where it is a dict.
    pub fn dict(&self) -> Option<&[(Node, Node)]> {
        match self {
            Node::Dict(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The value under a text key, where it is a dict that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.dict()?.iter().find(|(k, _)| k.text() == Some(key)).map(|(_, v)| v)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// Builds a tree of whatever comes.
struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain data")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Node, E> {
        Ok(Node::Bool(v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Node, E> {
        Ok(Node::Int(v))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Node, E> {
        i64::try_from(v).map(Node::Int).map_err(|_| E::custom("an integer beyond 64 bits"))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Node, E> {
        Ok(Node::Float(v))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Node, E> {
        Ok(Node::Text(v.to_owned()))
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Node, E> {
        Ok(Node::Text(v))
    }

    fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Node, E> {
        Ok(Node::Bytes(v.to_vec()))
    }

    fn visit_byte_buf<E: de::Error>(self, v: Vec<u8>) -> Result<Node, E> {
        Ok(Node::Bytes(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Node::Dict(pairs))
    }
}
