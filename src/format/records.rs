//! Descriptions of tensor records: how they are laid out, what their type numbers mean, which matrices are stored
//! otherwise than others, and how many tensors a whole model has.
//!
//! ```text
//! [tensors] of a description     one record of a file
//! record, max_dims               n_dims  length  type  sizes  name
//! types, types_where                             ^ what this number means
//! align                                                            zeros up to a multiple, then data
//! transposed, grouped, repeated                                    how the rows of some matrices are put there
//! whole, optional                how many records there are, which no file says
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;

/// The shape of tensor records.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Tensors {
    /// The most dimensions a record may have.
    #[serde(default)]
    pub max_dims: u32,
    /// Data begins at a multiple of this in the file; 1 where it follows the name at once.
    #[serde(default)]
    pub align: u64,
    /// Whether whole sets of files `x`, `x.1`, `x.2` … were written.
    #[serde(default)]
    pub parts: bool,
    /// Stored numbers and the types they mean, `name` or `name/dialect`. A keyed container's types
    /// are GGUF's; what is here replaces some.
    #[serde(default)]
    pub types: BTreeMap<String, String>,
    /// Numbers that mean something else where a header word has this value.
    #[serde(default)]
    pub types_where: Vec<TypesWhere>,
    /// In which order a record says what it is.
    #[serde(default)]
    pub record: Record,
    /// Ends of names of matrices that are stored transposed.
    #[serde(default)]
    pub transposed: Vec<String>,
    /// Ends of names of matrices whose rows are stored in groups, one per key-value head: its queries,
    /// its key, its value.
    #[serde(default)]
    pub grouped: Vec<String>,
    /// Ends of names of matrices that hold the one key head and the one value head once per query head.
    #[serde(default)]
    pub repeated: Vec<String>,
    /// What the programs never quantize, though it is a matrix.
    #[serde(default)]
    pub kept: Kept,
    /// The roles in the order in which the programs read them and take no other; those that every layer has
    /// are together.
    #[serde(default)]
    pub order: Vec<String>,
    /// Tensors that tell another version of the model, which nothing here describes.
    #[serde(default)]
    pub relatives: Vec<Relative>,
    /// How many tensors a whole model has.
    #[serde(default)]
    pub whole: Vec<Count>,
    /// Tensors that are not counted in `whole`.
    #[serde(default)]
    pub optional: Vec<String>,
}

/// Ends of names of matrices that are not quantized with the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Kept {
    /// These are F32 always.
    #[serde(default)]
    pub f32: Vec<String>,
    /// These are F16 wherever others are not F32.
    #[serde(default)]
    pub f16: Vec<String>,
    /// These stay as they are.
    #[serde(default)]
    pub float: Vec<String>,
}

impl Kept {
    /// Whether the matrix of this name is one of them.
    pub fn has(&self, name: &str) -> bool {
        let mut all = self.f32.iter().chain(&self.f16).chain(&self.float);
        all.any(|end| name.ends_with(end.as_str()))
    }
}

/// A version of a model that lies in the same container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Relative {
    /// A tensor that only it has.
    pub tensor: String,
    /// Its name for people.
    pub title: String,
}

/// Stored type numbers where a header word has a value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TypesWhere {
    /// The header word.
    pub word: String,
    /// Its value.
    pub is: i64,
    /// What numbers mean then.
    pub types: BTreeMap<String, String>,
}

/// The order of a tensor record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Record {
    /// Number of dimensions, length of the name, type, sizes with the innermost first, name.
    #[default]
    ShapeFirst,
    /// Length of the name, name, number of dimensions, sizes with the outermost first, type.
    NameFirst,
}

/// N tensors, once or for each of what a header word counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Count {
    /// How many.
    pub tensors: u64,
    /// The header word that says how often.
    pub each: Option<String>,
    /// Only where the header says so: word to value.
    #[serde(default)]
    pub when: BTreeMap<String, i64>,
}
