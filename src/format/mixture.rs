//! Rules for the types of a model's tensors that another program has, as a table.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::schema;

/// A description in `formats/mixture`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Mixture {
    /// The program, commit and functions that have them.
    #[expect(dead_code, reason = "for whoever reads the description")]
    pub source: String,
    /// File types that it refuses.
    pub refused: Vec<String>,
    /// Names in files that its readers do not know.
    pub strange: Vec<String>,
    /// What it is for, by `general.architecture`.
    pub architectures: BTreeMap<String, Kept>,
    /// Matrices that some file types favour.
    pub roles: Vec<Favoured>,
}

/// Patterns of the names of an architecture's tensors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Kept {
    /// Those that are not quantized.
    pub kept: Vec<String>,
    /// Those that keep an outermost dimension of 1.
    #[serde(default)]
    pub outermost: Vec<String>,
    /// Blocks that some file types favour over what the roles of their matrices say.
    pub ends: Option<Favoured>,
}

/// Matrices of one role.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Favoured {
    /// Their names.
    pub patterns: Vec<String>,
    /// The type that they become, by file type.
    pub becomes: BTreeMap<String, String>,
    /// The type of the first few.
    #[serde(default)]
    pub first: BTreeMap<String, First>,
}

/// The first few matrices of a role.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct First {
    /// How many.
    pub count: u64,
    /// The type that they become.
    pub becomes: String,
}

/// Parses a description.
pub(crate) fn parse(_stem: &str, text: &str) -> Result<Mixture, String> {
    schema::toml(text)
}
