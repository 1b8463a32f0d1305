//! The names of a tensor by what it does, and how each naming has it: shape, order of rows, numbers.

use serde::Deserialize;

use super::schema::one_or_more;

/// A tensor by what it does. Names hold `{n}` for the layer's number; a naming without such a
/// tensor lacks the name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Names {
    /// Its names before GGUF, the first of which is written; for LLaMA that of Meta's checkpoints.
    #[serde(default, deserialize_with = "one_or_more")]
    pub old: Vec<String>,
    /// Its name in GGUF.
    pub gguf: Option<String>,
    /// Its names in Hugging Face checkpoints, the first of which is written; it has none where its `parts` have.
    #[serde(default, deserialize_with = "one_or_more")]
    pub hf: Vec<String>,
    /// The roles that have its rows in checkpoints and files where each is a tensor, one below the other.
    #[serde(default)]
    pub parts: Vec<Band>,
    /// The second of these is written where a model has this other role.
    pub second_with: Option<String>,
    /// Its shape in symbols, outermost dimension first.
    pub shape: Vec<String>,
    /// The number of its dimensions in Hugging Face checkpoints, where those of one are more or fewer; they are the
    /// outermost ones there.
    pub hf_dims: Option<usize>,
    /// How it is cut where a model is cut into parts.
    #[serde(default)]
    pub split: Split,
    /// In which order its rows are, where that is not GGUF's.
    #[serde(default)]
    pub rows: Rows,
    /// Whether Hugging Face stores its rows in halves instead of pairs (rotary embedding).
    #[serde(default)]
    pub rotary: bool,
    /// Whether Hugging Face stores its dimensions the other way round: inputs, then outputs.
    #[serde(default)]
    pub transposed: bool,
    /// Whether readers of GGUF take it as float32 only, though it is a matrix.
    #[serde(default)]
    pub float32: bool,
    /// What Hugging Face stores in place of its numbers.
    #[serde(default)]
    pub numbers: Numbers,
    /// Whether a model may lack it.
    #[serde(default)]
    pub optional: bool,
    /// Whether a file from before GGUF may lack it.
    #[serde(default)]
    pub optional_old: bool,
    /// Whether a vector of as many numbers as it has rows is added to what it makes: the same name with
    /// `.bias` for `.weight`, or `/b` for `/w` and `/g`.
    #[serde(default)]
    pub bias: Bias,
    /// The flag of `config.json` that says whether a model has it, or its bias where only some have that.
    pub flag: Option<String>,
    /// The symbol that counts the layers that have one, where it is not `n_layer`.
    pub layers: Option<String>,
    /// The symbol that counts the first layers, which have none.
    pub after: Option<String>,
    /// The symbol that says of how many layers only the last has one.
    pub last_of: Option<String>,
    /// The symbol that says of how many layers all but the last have one.
    pub but_last_of: Option<String>,
    /// The symbol without which no model has it; every model of which the symbol is known must.
    pub sized_by: Option<String>,
    /// The symbol with which no model has it.
    pub unless: Option<String>,
    /// Whether only models with experts have it, or only those without; all have it where not said.
    #[serde(default)]
    pub experts: Option<bool>,
}

/// Rows of a tensor that another role has elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// The role.
    pub role: String,
    /// The symbol that counts them.
    pub rows: String,
}

/// In which order the rows of queries, keys and values are in a naming; all queries, all keys, all values
/// where it is not said, as in GGUF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rows {
    /// In files before GGUF.
    pub old: Option<RowOrder>,
    /// In Hugging Face checkpoints.
    pub hf: Option<RowOrder>,
}

/// An order of the rows of queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RowOrder {
    /// Query, key and value of one head, then of the next.
    ByHead,
    /// For each key-value head the queries that share it, its key, its value.
    Grouped,
}

/// What Hugging Face stores in place of a number x of other files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Numbers {
    /// x.
    #[default]
    Same,
    /// x - 1: one is added when the model is computed.
    OneLess,
    /// ln(-x): exp and the sign are put to it when the model is computed.
    LogOfNegative,
}

impl Numbers {
    /// What Hugging Face stores for `number`.
    pub fn to_hf(self, number: f32) -> f32 {
        match self {
            Numbers::Same => number,
            Numbers::OneLess => number - 1.0,
            Numbers::LogOfNegative => single((-f64::from(number)).ln()),
        }
    }

    /// The number for which Hugging Face stores `number`.
    pub fn from_hf(self, number: f32) -> f32 {
        match self {
            Numbers::Same => number,
            Numbers::OneLess => number + 1.0,
            Numbers::LogOfNegative => single(-f64::from(number).exp()),
        }
    }
}

/// The nearest float: what is computed with twice the bits is the same on every machine.
#[expect(clippy::cast_possible_truncation, reason = "rounded")]
fn single(number: f64) -> f32 {
    number as f32
}

/// Whether a tensor has a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Bias {
    /// It has none.
    #[default]
    None,
    /// It has one.
    Always,
    /// It has one in some models.
    Optional,
}

/// How a tensor is cut where a model is cut into parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Split {
    /// Each part has some of the rows.
    Rows,
    /// Each part has a piece of every row.
    Columns,
    /// Every part has all of it.
    #[default]
    Copies,
}

impl Names {
    /// Its names in the namings that have it.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let others = self.old.iter().chain(&self.hf).map(String::as_str);
        others.chain(self.gguf.as_deref())
    }

    /// Whether every layer has one.
    pub fn is_layered(&self) -> bool {
        self.all().any(|name| name.contains("{n}"))
    }

    /// The symbol that counts the layers that have one.
    pub fn counted_by(&self) -> &str {
        self.layers.as_deref().unwrap_or("n_layer")
    }
}
