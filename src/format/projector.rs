//! Models with their vision tensors in one file, and what llama.cpp calls both parts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::schema;

/// A description in `formats/projector`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Projector {
    /// The programs and files that say so.
    #[expect(dead_code, reason = "for whoever reads the description")]
    pub source: String,
    /// `general.architecture` of such a file.
    pub architecture: String,
    /// That of the model alone, where llama.cpp calls it otherwise.
    pub model: Option<String>,
    /// How names of vision tensors begin.
    pub tensors: Vec<String>,
    /// How keys that speak of vision begin, behind the architecture.
    pub dropped: Vec<String>,
    /// How names begin, in llama.cpp's terms, of tensors that are read as float32 only.
    pub float32: Vec<String>,
    /// How names end, in llama.cpp's terms, of matrices whose rows are in halves of each head, and in pairs there.
    #[serde(default)]
    pub halves: Vec<String>,
    /// Vectors of the projector that are rows of the model's matrices.
    #[serde(default)]
    pub taken: BTreeMap<String, Taken>,
    /// Parts of names of matrices that are one in llama.cpp's terms, and that part of its name, in front.
    #[serde(default)]
    pub fused: BTreeMap<String, Vec<String>>,
    /// Kernels over several frames, by their names in llama.cpp's terms, each of which is a tensor there.
    #[serde(default)]
    pub frames: BTreeMap<String, Frames>,
    /// Beginnings of names, in llama.cpp's terms, that go on with a place in a list, and that list, behind the
    /// architecture, of the numbers that llama.cpp has there.
    #[serde(default)]
    pub placed: BTreeMap<String, String>,
    /// By how much fewer the tokens of an image are than its patches, along a side.
    pub side: Option<Side>,
    /// Parts of names and what llama.cpp calls them; they are looked for in alphabetical order.
    pub names: BTreeMap<String, String>,
    /// Keys of the projector, and keys behind the architecture that have their values.
    pub keys: BTreeMap<String, String>,
    /// Keys of the projector whose values follow from something.
    #[serde(default)]
    pub derived: BTreeMap<String, Derived>,
    /// Keys of the projector whose values are always the same.
    pub fixed: BTreeMap<String, Fixed>,
    /// Keys of the model that llama.cpp calls otherwise, both behind the architecture.
    #[serde(default)]
    pub renamed: BTreeMap<String, String>,
    /// Lists among them that llama.cpp reads padded with zeros, and the length to pad to.
    #[serde(default)]
    pub padded: BTreeMap<String, usize>,
    /// Keys behind the architecture that the model lacks, and their values.
    #[serde(default)]
    pub lacking: BTreeMap<String, Fixed>,
    /// Those that only models of a long context lack.
    pub long: Option<Long>,
}

/// What a key of the projector follows from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[non_exhaustive]
pub enum Derived {
    /// The rows of the tensor of that name.
    Rows(String),
    /// The first item of a list behind the architecture, counted from one.
    First(String),
    /// One divided by a number behind the architecture.
    Inverse(String),
    /// A flag for each of N, set where a list behind the architecture has its number.
    Marks {
        /// The list.
        list: String,
        /// How many there are.
        count: String,
    },
    /// Along a side of the square that the rows of a tensor fill, times a number behind the architecture.
    Square {
        /// The tensor.
        rows: String,
        /// The number.
        times: String,
    },
}

/// How a kernel over several frames is stored: `[out × channels, frames, height, width]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Frames {
    /// The number of channels, behind the architecture.
    pub channels: String,
    /// The tensors that the frames are.
    pub into: Vec<String>,
}

/// A row of a matrix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Taken {
    /// The matrix.
    pub of: String,
    /// The row, from 0 on.
    pub row: u64,
}

/// What models lack whose context is long.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Long {
    /// The shortest such context.
    pub context: u64,
    /// Keys behind the architecture, and their values.
    pub lacking: BTreeMap<String, Fixed>,
}

/// Keys behind the architecture of the sizes of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Side {
    /// Tokens that an image becomes.
    pub tokens: String,
    /// Pixels along a side of an image.
    pub image: String,
    /// Pixels along a side of a patch.
    pub patch: String,
    /// What readers take where no file says it.
    pub usual: u64,
}

/// A value of a key.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Fixed {
    /// Yes or no.
    Flag(bool),
    /// A size.
    Size(u32),
    /// A number.
    Number(f32),
    /// A word.
    Word(String),
    /// Some numbers.
    Numbers(Vec<f32>),
}

/// Parses a description.
pub(crate) fn parse(_stem: &str, text: &str) -> Result<Projector, String> {
    schema::toml(text)
}
