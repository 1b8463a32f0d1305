//! What llama.cpp demands of a GGUF, as a table: keys by architecture, names of tensors.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use super::schema;

/// `formats/loader/llama.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Loader {
    /// The project, version and files that say so.
    #[expect(dead_code, reason = "for whoever reads the description")]
    pub source: String,
    /// Keys behind the architecture that every model must have.
    pub always: Vec<String>,
    /// Keys behind the architecture whose arrays have one item a block.
    pub per_block: Vec<String>,
    /// By kind of value, the keys that take it; one that begins with a point is behind the architecture.
    pub kinds: BTreeMap<String, HashSet<String>>,
    /// By the end of a matrix's name, the key that its shape follows from.
    pub needs: BTreeMap<String, String>,
    /// Keys that must be there besides, by architecture: every architecture that is known.
    pub architectures: BTreeMap<String, Vec<String>>,
    /// Names of tensors.
    pub tensors: Tensors,
}

/// Names of tensors that some architecture has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Tensors {
    /// What is before `.weight` or `.bias`, with `{n}` for the block's number.
    pub stems: HashSet<String>,
}

impl Loader {
    /// The kind of value that `key` takes in a file of an architecture, where the loader asks for one.
    pub fn kind(&self, architecture: &str, key: &str) -> Option<&str> {
        let behind = key.strip_prefix(architecture).filter(|rest| rest.starts_with('.'));
        let asked = |keys: &HashSet<String>| {
            keys.contains(key) || behind.is_some_and(|rest| keys.contains(rest))
        };
        self.kinds.iter().find(|(_, keys)| asked(keys)).map(|(kind, _)| kind.as_str())
    }

    /// Whether some architecture has a tensor of this name.
    pub fn has_tensor(&self, name: &str) -> bool {
        let plain: Vec<&str> = name
            .split('.')
            .map(|word| if word.parse::<u32>().is_ok() { "{n}" } else { word })
            .collect();
        let plain = plain.join(".");
        let stem = plain.rsplit_once('.').map_or(plain.as_str(), |(stem, _)| stem);
        self.tensors.stems.contains(stem) || self.tensors.stems.contains(&plain)
    }
}

/// Parses and checks the description.
pub(crate) fn parse(_stem: &str, text: &str) -> Result<Loader, String> {
    let loader: Loader = schema::toml(text)?;
    match loader.architectures.iter().find(|(_, keys)| keys.iter().any(String::is_empty)) {
        Some((name, _)) => Err(format!("architectures.{name}: an empty key")),
        None => Ok(loader),
    }
}

#[cfg(test)]
mod tests {
    use crate::format::catalog;

    #[test]
    fn names_lead_to_stems() {
        let loader = catalog::loader();
        for name in ["blk.11.attn_q.weight", "blk.0.ssm_a", "output.weight", "rope_freqs.weight"] {
            assert!(loader.has_tensor(name), "{name}");
        }
        for name in ["v.blk.0.attn_q.weight", "mm.0.weight", "blk.0.extra.weight"] {
            assert!(!loader.has_tensor(name), "{name}");
        }
        assert!(loader.architectures.len() > 100);
    }
}
