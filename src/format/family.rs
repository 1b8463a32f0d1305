//! Descriptions of families: what header words and tensor names mean, whatever holds them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{arithmetic::Arithmetic, catalog};

/// One `formats/family/*.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// What it is.
    pub family: Identity,
    /// Header word to GGUF key.
    #[serde(default)]
    pub header: BTreeMap<String, String>,
    /// GGUF keys whose values follow from shapes: key to symbol.
    #[serde(default)]
    pub derived: BTreeMap<String, String>,
    /// GGUF keys that files before GGUF never stored, and what every loader took for them.
    #[serde(default)]
    pub assumed: BTreeMap<String, toml::Value>,
    /// What is computed with the tensors; none where the runner does not know.
    #[serde(default)]
    pub arithmetic: Option<Arithmetic>,
    /// The tensors by what they do.
    pub roles: BTreeMap<String, Names>,
}

/// What a family is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Its id, equal to the file's name.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// `general.architecture`.
    pub gguf: String,
    /// Tensors that no reader needs: names that end so.
    #[serde(default)]
    pub ignored: Vec<String>,
}

/// A tensor by what it does. Names hold `{n}` where the layer's number stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Its name before GGUF, which is that of Meta's checkpoints.
    pub old: String,
    /// Its name in GGUF.
    pub gguf: String,
    /// Its name in Hugging Face checkpoints.
    pub hf: String,
    /// Its shape in symbols, outermost dimension first.
    pub shape: Vec<String>,
    /// How it is cut where a model is cut into parts.
    pub split: Split,
    /// Whether Hugging Face stores its rows in halves instead of pairs (rotary embedding).
    #[serde(default)]
    pub rotary: bool,
    /// Whether a model may lack it.
    #[serde(default)]
    pub optional: bool,
    /// Whether only models with experts have it, or only those without; all have it where not said.
    #[serde(default)]
    pub experts: Option<bool>,
}

/// How a tensor is cut where a model is cut into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Each part has some of the rows.
    Rows,
    /// Each part has a piece of every row.
    Columns,
    /// Every part has all of it.
    Copies,
}

/// Parses and checks one description; `stem` is its file's name without `.toml`.
pub(crate) fn parse(stem: &str, text: &str) -> Result<Family, String> {
    let family: Family = catalog::toml(text)?;
    if family.family.name != stem {
        return Err(format!("describes {}: the file must be named so", family.family.name));
    }
    for (role, names) in &family.roles {
        let layered = |name: &str| name.contains("{n}");
        if layered(&names.old) != layered(&names.gguf) || layered(&names.old) != layered(&names.hf)
        {
            return Err(format!("roles.{role}: {{n}} must stand in all names or in none"));
        }
    }
    Ok(family)
}
