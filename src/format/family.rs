//! Descriptions of families: what numbers and tensor names mean, whatever holds them.
//!
//! A number of a model is a *symbol* (`n_embd`); its [`Size`] says under which names header words, GGUF
//! and `config.json` state it, and what it follows from where none does. Shapes of tensors are given in
//! symbols.

use std::collections::BTreeMap;

use serde::Deserialize;

pub use super::names::{Band, Bias, Names, Numbers, RowOrder, Rows, Split};
use super::{
    arithmetic::Arithmetic,
    schema::{self, one_or_more},
};
use crate::remedy::Setting;

/// One `formats/family/*.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Family {
    /// What it is.
    pub family: Identity,
    /// The numbers of a model by symbol.
    pub sizes: BTreeMap<String, Size>,
    /// In which order converters write them.
    #[serde(default)]
    pub order: Order,
    /// What files before GGUF never stored, and what every loader took for it.
    #[serde(default)]
    pub assumed: Vec<Assumed>,
    /// What is computed with the tensors; none where the runner does not know.
    #[serde(default)]
    pub arithmetic: Option<Arithmetic>,
    /// How vocabularies of files before GGUF become GGUF's; none where they are LLaMA's.
    #[serde(default)]
    pub tokenizer: Option<Tokenizer>,
    /// The tensors by what they do.
    pub roles: BTreeMap<String, Names>,
    /// Tensors of Hugging Face's checkpoints that stand for several of GGUF's.
    #[serde(default)]
    pub cuts: Vec<Cut>,
    /// What a person should know of some checkpoints.
    #[serde(default)]
    pub notes: Vec<Noted>,
}

/// What a person should know of the checkpoints whose symbols are these.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Noted {
    /// What symbols must be.
    pub when: BTreeMap<String, toml::Value>,
    /// The sentence.
    pub says: String,
}

/// A tensor of Hugging Face's checkpoints that stands for several of GGUF's, whose own names there no file has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Cut {
    /// Its name, with `{n}` for the layer's number.
    pub hf: String,
    /// The symbol that counts the groups that its rows are in; one where it is not said.
    pub groups: Option<String>,
    /// What the rows of a group are of, in their order.
    pub into: Vec<CutPart>,
    /// Whether the parts have a row each in turn; else each has all of its rows together.
    #[serde(default)]
    pub alternate: bool,
    /// Whether each group is stored the other way round: inputs, then outputs.
    #[serde(default)]
    pub turned: bool,
    /// Whether each group is a vector, and its numbers count as rows.
    #[serde(default)]
    pub vectors: bool,
    /// Whether the groups are one below the other in two dimensions.
    #[serde(default)]
    pub flat: bool,
}

impl Cut {
    /// Whether its parts are bands of whole rows, as GGUF has them.
    pub fn is_plain(&self) -> bool {
        let upright = self.into.iter().all(|part| !part.turned);
        upright && !(self.alternate || self.turned || self.vectors)
    }
}

/// A part of such a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CutPart {
    /// What it does.
    pub role: String,
    /// The symbol that counts its rows in each group.
    pub rows: String,
    /// Whether GGUF has it the other way round in each group.
    #[serde(default)]
    pub turned: bool,
}

/// What a family is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Identity {
    /// Its id, equal to the file's name.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// `general.architecture`; empty where GGUF has none for it.
    #[serde(default)]
    pub gguf: String,
    /// `architectures` in `config.json`; the first is what is written.
    #[serde(default)]
    pub hf: Vec<String>,
    /// What a person should know of a checkpoint of it that is written.
    #[serde(default)]
    pub hf_note: String,
    /// What else `config.json` says of every model of it.
    #[serde(default)]
    pub config: BTreeMap<String, toml::Value>,
    /// What it says instead of models that have a tensor of this role.
    #[serde(default)]
    pub with_role: BTreeMap<String, BTreeMap<String, toml::Value>>,
    /// What it says instead of models of which this symbol is known.
    #[serde(default)]
    pub with_symbol: BTreeMap<String, BTreeMap<String, toml::Value>>,
    /// Settings of `config.json` that no key of GGUF holds: what they must be where they are there.
    #[serde(default)]
    pub fixed: BTreeMap<String, toml::Value>,
    /// The project, commit and file that defined it.
    #[serde(default)]
    pub source: String,
    /// What reads a GGUF of it, where llama.cpp does not.
    #[serde(default)]
    pub read_by: String,
    /// Tokens that tell files of another family in the same container.
    #[serde(default)]
    pub not_with: Vec<String>,
    /// Whether an adapter whose matrices several families have is taken to be of this one.
    #[serde(default)]
    pub adapted: bool,
    /// Tensors that no reader needs: names that end so.
    #[serde(default)]
    pub ignored: Vec<String>,
    /// What some of its checkpoints write into names, and what it is here.
    #[serde(default)]
    pub respelled: BTreeMap<String, String>,
    /// Keys of GGUF that llama.cpp's converter writes alike for every checkpoint of it.
    #[serde(default)]
    pub keys: BTreeMap<String, toml::Value>,
    /// Architectures in `config.json` of which such a model is a part: its settings are in `text_config`,
    /// its tensors behind `language_model.`.
    #[serde(default)]
    pub within: Vec<String>,
    /// How the names of the other parts' tensors begin there.
    #[serde(default)]
    pub beside: Vec<String>,
    /// What the class of transformers takes for settings that a `config.json` leaves out.
    #[serde(default)]
    pub defaults: BTreeMap<String, toml::Value>,
    /// More of them, of some of the classes in `hf`.
    #[serde(default)]
    pub class_defaults: BTreeMap<String, BTreeMap<String, toml::Value>>,
    /// What llama.cpp's converter says of long and short factors of rotary positions; none where it has no place for
    /// them.
    pub long_factors: Option<LongFactors>,
    /// Whether checkpoints have further layers behind the last, which guess more tokens and are left out.
    #[serde(default)]
    pub beyond: bool,
    /// Texts of the tokens that llama.cpp's converter gives a part in every checkpoint of it that gives the part to none:
    /// the part as in GGUF's `tokenizer.ggml.PART_token_id`.
    #[serde(default)]
    pub tokens: BTreeMap<String, String>,
    /// The text of the token that ends texts wherever there is one, whatever the checkpoint says.
    pub end: Option<String>,
    /// Its name for what cuts its texts, of several that stand for the same; `[tokenizer]` has those of older families.
    #[serde(default)]
    pub pre: String,
    /// What else that converter makes of its SentencePiece vocabularies.
    #[serde(default)]
    pub pieces: Pieces,
}

/// What llama.cpp's converter says of long and short factors of rotary positions, beside the factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongFactors {
    /// What queries and keys are multiplied with.
    Attention,
    /// That there are such factors.
    Type,
}

/// What llama.cpp's converter makes of the SentencePiece vocabularies of some families.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Pieces {
    /// Whether it says of each whether a space goes before a text.
    #[serde(default)]
    pub tells_prefix: bool,
    /// How the texts of tokens begin that are not used; empty where none do.
    #[serde(default)]
    pub unused: String,
    /// What is in place of a text that is the character 0.
    pub nul: Option<String>,
}

/// What GGUF says of a vocabulary and files before it do not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Tokenizer {
    /// `tokenizer.ggml.model`.
    pub model: String,
    /// `tokenizer.ggml.pre`, where byte pairs are merged inside words.
    #[serde(default)]
    pub pre: String,
    /// The text of the token that begins texts, where it is not the one that ends them.
    pub begin: Option<String>,
    /// The text of the token that ends texts.
    pub end: String,
    /// The text of the unknown token, where there is one.
    pub unknown: Option<String>,
    /// The text of the padding token.
    pub padding: Option<String>,
    /// The text of the token between two texts.
    pub separator: Option<String>,
    /// The text of the token for what is to be guessed.
    pub mask: Option<String>,
    /// Tokens for control whose texts do not show it: others are between `<` and `>`.
    #[serde(default)]
    pub special: Vec<String>,
    /// More of them, in models whose header says so.
    pub special_if: Option<SpecialIf>,
}

/// Tokens for control that some models of a family have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SpecialIf {
    /// The header word that tells.
    pub word: String,
    /// What it is in those models.
    pub is: i64,
    /// What it is in the others.
    pub otherwise: i64,
    /// Their texts.
    pub tokens: Vec<String>,
}

/// Where a number of a model is found: what is stated first, then what it follows from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Size {
    /// The header words that state it; containers call one thing by different names.
    #[serde(default, deserialize_with = "one_or_more")]
    pub word: Vec<String>,
    /// Its GGUF key without the architecture before it; whole where it begins `general.` or `tokenizer.`.
    pub key: Option<String>,
    /// Its names in `config.json`, with dots into objects; the first is what is written.
    #[serde(default)]
    pub config: Vec<String>,
    /// The flag of `config.json` without which it is zero, whatever is there.
    pub only_if: Option<String>,
    /// What it follows from; the first that can be had counts.
    #[serde(default)]
    pub from: Vec<Origin>,
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// Whether what it follows from counts before what is stated.
    #[serde(default)]
    pub measured: bool,
    /// Whether `config.json` has it without a fraction where it has none.
    #[serde(default)]
    pub plain: bool,
    /// Whether 0 or false says that there is none.
    #[serde(default)]
    pub nonzero: bool,
    /// Whether `config.json` says null where there is none.
    #[serde(default)]
    pub null: bool,
    /// Whether it may be 0, where other whole numbers may not; `config.json` then lacks it.
    #[serde(default)]
    pub zero: bool,
    /// The numbers that stand for words of `config.json`.
    #[serde(default)]
    pub words: BTreeMap<String, u64>,
    /// Whether only what is stated is written, and nothing where it follows from others.
    #[serde(default)]
    pub only_stated: bool,
    /// Whether no file can be written without it, and why a model may not have it.
    pub needed: Option<String>,
}

/// What a number is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// A whole number.
    #[default]
    Whole,
    /// A 32-bit float.
    Float,
    /// True or false; 0 and 1 in a header.
    Flag,
}

/// What a number follows from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Origin {
    /// The outermost dimension of a role's tensor.
    Rows(String),
    /// The innermost dimension of a role's tensor.
    Columns(String),
    /// The rows of a role over a symbol.
    RowsPer(String, String),
    /// The number of layers that have tensors.
    Layers,
    /// The product of these.
    Product(Vec<Term>),
    /// The sum of these.
    Sum(Vec<Term>),
    /// The first less the second.
    Less(Term, Term),
    /// The first over the second.
    Quotient(Term, Term),
    /// The same, with its fraction.
    Fraction(Term, Term),
    /// The first, where it is stated, over the root of the second.
    OverRoot(String, String),
    /// The shortest number of which that is the first, where it is stated.
    TimesRoot(String, String),
    /// The first over the second, where the second is stated, as a whole number.
    Over(Term, String),
    /// The first, a share of one, of the second.
    Share(String, String),
    /// The first, where it is stated, over the second as a share of one.
    Ratio(String, String),
    /// The same number as another symbol.
    Same(String),
    /// Whether two symbols differ.
    Differ(String, String),
    /// The first number where the model has a tensor of this role, else the second.
    With(String, u64, u64),
    /// A function of `src/model/sizes.rs` that is named so.
    Rule(String),
}

/// A number or a symbol.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Term {
    /// This number.
    Number(u64),
    /// What this symbol is.
    Symbol(String),
}

/// The order in which symbols are written as GGUF keys. `scaling` is that of rotary positions, which has
/// several keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Order {
    /// For files from before GGUF.
    #[serde(default)]
    pub old: Vec<String>,
    /// For checkpoints, as llama.cpp's converter has it.
    #[serde(default)]
    pub hf: Vec<String>,
}

/// A value that files before GGUF never stored. Of several for one symbol the first counts whose `when`
/// holds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Assumed {
    /// The symbol; `scaling` for that of rotary positions.
    pub symbol: String,
    /// What is taken for it.
    pub value: toml::Value,
    /// What symbols must be.
    #[serde(default)]
    pub when: BTreeMap<String, toml::Value>,
    /// Why this value.
    pub because: String,
    /// What overrides it, where something does.
    #[serde(default)]
    pub setting: Option<Setting>,
    /// Whether no reader of GGUF does without it, so that a GGUF without it gets it too.
    #[serde(default)]
    pub required: bool,
    /// Words in a file's name that speak against it.
    #[serde(default)]
    pub unless_named: Vec<String>,
}

impl Size {
    /// Its whole GGUF key in `architecture`.
    pub fn gguf_key(&self, architecture: &str) -> Option<String> {
        let key = self.key.as_ref()?;
        Some(if ["general.", "tokenizer."].iter().any(|whole| key.starts_with(whole)) {
            key.clone()
        } else {
            format!("{architecture}.{key}")
        })
    }
}

impl Family {
    /// What is before its keys: `general.architecture`, or its own name where GGUF has none for it.
    pub fn architecture(&self) -> &str {
        let Identity { gguf, name, .. } = &self.family;
        if gguf.is_empty() { name } else { gguf }
    }

    /// Its `tokenizer.ggml.pre`; empty where its vocabularies differ in that.
    pub fn pre(&self) -> &str {
        self.tokenizer.as_ref().map_or(&self.family.pre, |rule| &rule.pre)
    }

    /// Whether its checkpoints are read: it is known in which order converters write their keys.
    pub fn is_read(&self) -> bool {
        !self.order.hf.is_empty()
    }

    /// The whole GGUF key of a symbol.
    pub fn key(&self, symbol: &str) -> Option<String> {
        self.sizes.get(symbol)?.gguf_key(self.architecture())
    }
}

/// Parses and checks one description; `stem` is its file's name without `.toml`.
///
/// # Errors
/// Where it is no TOML of this shape, is named otherwise than its file, or speaks of a role or a number that it does not
/// define: the place, and what is wrong there.
pub fn parse(stem: &str, text: &str) -> Result<Family, String> {
    let family: Family = schema::toml(text)?;
    if family.family.name != stem {
        return Err(format!("describes {}: the file must be named so", family.family.name));
    }
    for (role, names) in &family.roles {
        let layered = names.is_layered();
        if names.all().next().is_none() || names.all().any(|n| n.contains("{n}") != layered) {
            return Err(format!("roles.{role}: {{n}} must be in all names or in none"));
        }
    }
    let known = |symbol: &str| symbol == "scaling" || family.sizes.contains_key(symbol);
    let bands = family.roles.values().flat_map(|names| &names.parts);
    if let Some(band) = bands.clone().find(|band| !family.roles.contains_key(&band.role)) {
        return Err(format!("parts: {}: no such role", band.role));
    }
    let shapes = family.roles.values().flat_map(|names| &names.shape);
    let shapes = shapes.chain(bands.map(|band| &band.rows));
    let orders = family.order.old.iter().chain(&family.order.hf);
    let assumed = family.assumed.iter().flat_map(|a| a.when.keys().chain([&a.symbol]));
    let layers = family.roles.values().flat_map(|names| {
        let Names { layers, after, last_of, but_last_of, sized_by, unless, .. } = names;
        [layers, after, last_of, but_last_of, sized_by, unless].into_iter().flatten()
    });
    let parts = family.cuts.iter().flat_map(|cut| &cut.into);
    if let Some(part) = parts.clone().find(|part| !family.roles.contains_key(&part.role)) {
        return Err(format!("cuts: {}: no such role", part.role));
    }
    let cuts = family.cuts.iter().filter_map(|cut| cut.groups.as_ref());
    let cuts = cuts.chain(parts.map(|part| &part.rows));
    let named = shapes.chain(orders).chain(assumed).chain(layers).chain(cuts);
    if let Some(symbol) = named.into_iter().find(|symbol| !known(symbol)) {
        return Err(format!("{symbol}: no such symbol among the sizes"));
    }
    Ok(family)
}
