//! Tensor types of other programs' GGUF files, which llama.cpp does not know under these numbers.

use serde::Deserialize;

use super::schema;

/// A type that another program than llama.cpp wrote.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Foreign {
    /// Its number in the file.
    pub id: u32,
    /// Its name, in lower case as all types have it here: `iq4_ks`.
    pub name: String,
    /// The program that writes it.
    pub program: String,
    /// When it was written, as far as known.
    #[serde(default)]
    pub dates: String,
    /// Weights of a block; 0 where nothing is known.
    #[serde(default)]
    pub elements: u64,
    /// Bytes of a block.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes of every row beside its blocks.
    #[serde(default)]
    pub row: u64,
    /// Bytes of every tensor beside its rows.
    #[serde(default)]
    pub tensor: u64,
    /// The name and dialect of the description that decodes a row of it, where its scale is read before each
    /// row: one for the whole tensor is behind its rows. None where nothing decodes it.
    #[serde(default)]
    pub rows: String,
    /// What is wrong with files of another size, where it is the program that wrote them wrong.
    #[serde(default)]
    pub broken: String,
    /// What is wrong with tensors whose rows are no whole blocks of what decodes them.
    #[serde(default)]
    pub torn: String,
    /// What nothing in a file tells of it.
    #[serde(default)]
    pub unsure: String,
}

impl Foreign {
    /// The bytes of a tensor of `rows` rows of `row_len` weights; none where the sizes are not known.
    pub fn size(&self, rows: u64, row_len: u64) -> Option<u64> {
        let blocks = row_len.checked_div(self.elements)?;
        let row = blocks.checked_mul(self.bytes)?.checked_add(self.row)?;
        rows.checked_mul(row)?.checked_add(self.tensor)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "type")]
    types: Vec<Foreign>,
}

/// Parses and checks one list.
pub(crate) fn parse(_stem: &str, text: &str) -> Result<Vec<Foreign>, String> {
    let File { types } = schema::toml(text)?;
    match types.iter().find(|t| t.name.is_empty() || t.elements > 0 && t.bytes == 0) {
        Some(wrong) => Err(format!("type {}: wants a name, and bytes with its elements", wrong.id)),
        None => Ok(types),
    }
}
