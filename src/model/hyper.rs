//! The numbers of a model in one view: what its file says, what a person states, what must be assumed.
//!
//! ```text
//! stated by a person  >  said by the file  >  following from others and from shapes  >  assumed, and told
//! ```
//!
//! The left ones go before the right ones. Of an old file all that it never stored is assumed, of a GGUF only what no
//! reader does without.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::{
    Metadata, Model, Naming, Scaling, Sizes, Value,
    rows::Standing,
    scaling::decimal,
    sizes::{as_word, of_kind},
};
use crate::{
    bytes::Input,
    error::{Error, Result},
    format::{
        catalog,
        container::{Container, Skeleton, Word},
        family::{self, Family, Kind},
    },
    remedy::{Means, Note, Notes, Setting},
};

/// What a person says about a model that its file does not, or says wrong.
///
/// Each is also a flag of the commands that read models; what is left out is taken from the file, or assumed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stated {
    /// The epsilon of the norms.
    pub eps: Option<f32>,
    /// The context length in tokens.
    pub context: Option<u32>,
    /// The base of rotary positions.
    pub rope_base: Option<f32>,
    /// The factor by which positions are scaled down.
    pub rope_scale: Option<f32>,
    /// The `tokenizer.model` whose vocabulary counts.
    pub vocab: Option<PathBuf>,
    /// Whether a vocabulary is fitted to the rows of the embedding.
    pub pad_vocab: bool,
    /// The model that an adapter belongs to.
    pub base: Option<PathBuf>,
    /// How the rows of an adapter are ordered.
    pub rows: Option<Standing>,
}

/// A value that had to be assumed.
///
/// It is a sentence in every report, with what overrides it: a model with another value loads, and talks worse.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Assumed {
    /// The key, as `llama.context_length`.
    pub key: String,
    /// The value taken.
    pub value: String,
    /// Why this one.
    pub because: String,
    /// What overrides it, where something does.
    pub setting: Option<Setting>,
}

/// The value on one line, and that another can be stated.
impl From<&Assumed> for Note {
    fn from(assumed: &Assumed) -> Note {
        let state = assumed.setting.map(|setting| setting.to("state another"));
        Note::new(assumed.to_string(), state.unwrap_or_default())
    }
}

impl fmt::Display for Assumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Assumed { key, value, because, .. } = self;
        write!(f, "assumed: {key} = {value} ({because})")
    }
}

/// The numbers of a model.
///
/// ```
/// use regguf::model::{Hyper, Stated};
/// # fn main() -> regguf::error::Result<()> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/T/E4/ggml-model-q4_0.bin");
/// # if !std::path::Path::new(path).exists() { return Ok(()); }
/// // What a person states is above what the file says, and that above what is assumed.
/// let stated = Stated { context: Some(4096), ..Stated::default() };
/// let hyper = Hyper::of(&regguf::open(path)?, &stated)?;
/// let assumed: Vec<&str> = hyper.assumed().iter().map(|value| value.key.as_str()).collect();
/// assert!(assumed.contains(&"llama.rope.freq_base") && !assumed.contains(&"llama.context_length"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hyper {
    /// The family in whose symbols they are given.
    pub family: &'static Family,
    /// The numbers by symbol: stated, following from others, or assumed.
    pub sizes: Sizes,
    /// How rotary positions are stretched.
    pub scaling: Scaling,
    assumed: Vec<Assumed>,
    /// What was noticed, as sentences.
    notes: Notes,
    /// The symbols that a file gets beside what it has: those stated by a person, and those assumed.
    added: Vec<&'static str>,
}

impl Hyper {
    /// The numbers of `model`, of which a person states some.
    ///
    /// # Errors
    /// Where no family describes the model.
    pub fn of(model: &Model, stated: &Stated) -> Result<Hyper> {
        let Some(family) = Family::of(model)? else {
            let architecture = model.metadata.architecture();
            let what = format!("the architecture {architecture:?} has no description here");
            return Err(Error::unsupported(what, "keep it as GGUF"));
        };
        Ok(Hyper::within(family, model, stated))
    }

    /// The numbers of `model`, which is of `family`, of which a person states some.
    pub fn within(family: &'static Family, model: &Model, stated: &Stated) -> Hyper {
        let sizes = Sizes::within(family, model);
        let mut hyper = Hyper::new(family, sizes, Scaling::of(&model.metadata));
        let before_gguf = catalog::container(&model.format)
            .is_some_and(|c| c.format.skeleton == Skeleton::Stream);
        hyper.state(stated);
        hyper.assume(model, before_gguf);
        hyper
    }

    /// These numbers and nothing assumed.
    pub fn new(family: &'static Family, sizes: Sizes, scaling: Scaling) -> Hyper {
        let (assumed, notes, added) = (Vec::new(), Notes::default(), Vec::new());
        Hyper { family, sizes, scaling, assumed, notes, added }
    }

    /// Takes what a person states of the symbols that the family has; it goes before what the file says.
    fn state(&mut self, stated: &Stated) {
        for (symbol, value) in stated.values() {
            if self.family.sizes.contains_key(symbol) {
                self.sizes.set(symbol, value);
                self.added.push(symbol);
            }
        }
        if let Some(factor) = stated.rope_scale {
            self.scaling = Scaling::Linear(factor);
            self.added.push("scaling");
        }
    }

    /// Assumes what is not known: of a file from before GGUF all that those never stored, else only what no
    /// reader does without.
    fn assume(&mut self, model: &Model, before_gguf: bool) {
        // In the order of the description: what an entry asks for (`when`) may have been assumed by one before it.
        for entry in &self.family.assumed {
            let symbol = entry.symbol.as_str();
            let known = match symbol {
                "scaling" => self.scaling != Scaling::None,
                symbol => self.sizes.value(symbol).is_some(),
            };
            let wanted = before_gguf || entry.required && !model.tensors.is_empty();
            if known || !wanted || !entry.when.iter().all(|(s, v)| self.holds(s, v)) {
                continue;
            }
            let value = match self.family.sizes.get(symbol) {
                Some(size) => of_toml(size.kind, &entry.value),
                None => entry.value.as_str().map(Value::from),
            };
            let Some(value) = value else { continue };
            let key = self.family.key(symbol);
            self.assumed.push(Assumed {
                key: key.unwrap_or_else(|| match symbol {
                    "scaling" => format!("{}.rope.scaling.type", self.family.family.gguf),
                    other => other.to_owned(),
                }),
                value: written(&value),
                because: entry.because.clone(),
                setting: entry.setting,
            });
            if symbol == "scaling" {
                self.notes.extend(speaks_against(model, entry));
            } else {
                self.sizes.set(symbol, value);
                self.added.push(symbol);
            }
        }
    }

    /// Whether a symbol is what a description says.
    pub fn holds(&self, symbol: &str, wanted: &toml::Value) -> bool {
        let kind = self.family.sizes.get(symbol).map_or(Kind::Whole, |size| size.kind);
        let wanted = of_toml(kind, wanted);
        wanted.is_some() && wanted.as_ref() == self.sizes.value(symbol)
    }

    /// What had to be assumed.
    pub fn assumed(&self) -> &[Assumed] {
        &self.assumed
    }

    /// What a person should know.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// All numbers as keys of GGUF, in the order in which converters from `naming` write them.
    ///
    /// # Errors
    /// Where a number is missing that no file does without.
    pub fn keys(&self, naming: Naming) -> Result<Metadata> {
        for (symbol, size) in &self.family.sizes {
            if let Some(what) = size.needed.as_ref().filter(|_| self.sizes.value(symbol).is_none())
            {
                let what = format!("{symbol}, {what}, is nowhere said");
                return Err(Error::unsupported(what, "get a whole copy of the model"));
            }
        }
        let order =
            if naming == Naming::Hf { &self.family.order.hf } else { &self.family.order.old };
        let mut keys = Metadata::new();
        order.iter().for_each(|symbol| self.put(symbol, &mut keys));
        Ok(keys)
    }

    /// The keys that converters write for every model of the family, one with this many tokens.
    pub fn more_keys(&self, tokens: u32) -> impl Iterator<Item = (String, Value)> {
        self.family.family.keys.iter().filter_map(move |(key, value)| {
            // A token that there is not cannot be named.
            let id = value.as_integer().and_then(|id| u32::try_from(id).ok());
            let value = match value {
                _ if id.is_some() => id.filter(|id| *id < tokens).map(Value::U32),
                toml::Value::Boolean(flag) => Some(Value::Bool(*flag)),
                other => other.as_str().map(Value::from),
            };
            Some((key.clone(), value?))
        })
    }

    /// Sets in `keys` what a person states and what had to be assumed.
    pub fn amend(&self, keys: &mut Metadata) {
        self.added.iter().for_each(|symbol| self.put(symbol, keys));
    }

    /// Sets the keys of one symbol.
    ///
    /// Nothing where the symbol has no key in GGUF, is not known, or follows from others and is only written where it
    /// was stated.
    pub(crate) fn put(&self, symbol: &str, keys: &mut Metadata) {
        let architecture = self.family.architecture();
        if symbol == "scaling" {
            return self.scaling.put(architecture, keys);
        }
        let Some(size) = self.family.sizes.get(symbol) else { return };
        let (Some(key), Some(value)) = (size.gguf_key(architecture), self.sizes.value(symbol))
        else {
            return;
        };
        if size.only_stated && !self.sizes.is_stated(symbol) {
            return;
        }
        keys.set(key, narrow(value));
    }

    /// The header words of a file from before GGUF: of the `counts` that are given, of these numbers, of `model`, which
    /// has them, or what is written where nothing says.
    ///
    /// # Errors
    /// Where the container is of another family, or a word cannot be had.
    pub fn words(
        &self,
        format: &Container,
        model: &Model,
        counts: &[(&str, i64)],
    ) -> Result<Vec<(String, i64)>> {
        if format.format.family != self.family.family.name {
            let what =
                format!("{} does not hold {}", format.format.title, self.family.family.title);
            return Err(Error::unsupported(what, "keep it as GGUF"));
        }
        // The first that says it:
        //
        //     a word that can be one number only     that number
        //     counts                                 of what will be written
        //     sizes                                  by the symbol whose word it is; 0 where none is written so
        //     the model's own header, its key, `otherwise` of the description
        let word = |word: &Word| -> Option<i64> {
            let name = word.name.as_str();
            if word.max == Some(word.min) {
                return word.max;
            }
            if let Some((_, count)) = counts.iter().find(|(known, _)| *known == name) {
                return Some(*count);
            }
            let mut sizes = self.family.sizes.iter();
            let named = sizes.find(|(_, size)| size.word.iter().any(|word| word == name));
            let symbol = named.map_or(name, |(symbol, _)| symbol);
            let none = named.filter(|(_, size)| size.nonzero).map(|_| 0);
            let key = || word.key.as_ref().and_then(|key| as_word(model.metadata.get(key)?));
            let known = self.sizes.value(symbol).and_then(as_word).or(none);
            known.or_else(|| model.header(name)).or_else(key).or(word.otherwise)
        };
        let words = format.header.fields.iter().map(|field| match word(field) {
            Some(value) => Ok((field.name.clone(), value)),
            None => {
                let (title, name) = (&format.format.title, &field.name);
                let what = format!("{title}: nothing gives its header word {name}");
                Err(Error::unsupported(what, "keep it as GGUF"))
            }
        });
        words.collect()
    }

    /// The numbers as header words of any container, under each of their names there.
    pub fn all_words(&self) -> impl Iterator<Item = (String, i64)> {
        self.family.sizes.iter().flat_map(|(symbol, size)| {
            let value = self.sizes.value(symbol).and_then(as_word);
            size.word.iter().filter_map(move |word| Some((word.clone(), value?)))
        })
    }

    /// What programs of a container without a word for it take otherwise, as sentences.
    /// LLaMA 2's epsilon of 1e-5, say, in a ggjt file: its programs had 1e-6 in their code, or took a flag.
    pub fn unknown_to(&self, format: &Container) -> Vec<String> {
        let mut notes = Vec::new();
        for entry in self.family.assumed.iter().filter(|entry| entry.when.is_empty()) {
            let Some(size) = self.family.sizes.get(&entry.symbol) else { continue };
            let stored = format.header.fields.iter().any(|word| size.word.contains(&word.name));
            let theirs = of_toml(size.kind, &entry.value);
            let own = self.sizes.value(&entry.symbol);
            if let (Some(own), Some(theirs), false) = (own, theirs, stored)
                && *own != theirs
            {
                let symbol = self.family.key(&entry.symbol).unwrap_or(entry.symbol.clone());
                let (own, theirs) = (written(own), written(&theirs));
                let title = &format.format.title;
                notes.push(format!(
                    "{title} has no word for {symbol} = {own}: its programs take {theirs}"
                ));
            }
        }
        notes
    }

    /// The numbers as `config.json` of Hugging Face states them.
    ///
    /// ```text
    /// n_embd     4096     "hidden_size": 4096
    /// scaling    linear   "rope_scaling": {"type": "linear", "factor": 2.0}
    /// a symbol that is not known       left out, or null or false where the family's class wants the field
    /// ```
    pub fn config_json(&self) -> Map<String, Json> {
        let mut config = Map::new();
        for (name, value) in &self.family.family.config {
            config.insert(name.clone(), json!(value));
        }
        for (symbol, size) in &self.family.sizes {
            let Some(name) = size.config.first() else { continue };
            let Some(value) = self.sizes.value(symbol) else {
                let none = match size.kind {
                    _ if size.null => Json::Null,
                    Kind::Flag if size.nonzero => false.into(),
                    _ => continue,
                };
                put_inside(&mut config, name, none);
                continue;
            };
            let none = size.zero && value.as_u64() == Some(0);
            if none || size.only_stated && !self.sizes.is_stated(symbol) {
                continue;
            }
            let word = size.words.iter().find(|(_, number)| Some(**number) == value.as_u64());
            let json: Json = match *value {
                _ if word.is_some() => word.map(|(word, _)| word.as_str()).into(),
                Value::Bool(flag) => flag.into(),
                ref other if !size.words.is_empty() => {
                    let word = size.words.iter().find(|(_, n)| other.as_u64() == Some(**n));
                    word.map(|(word, _)| word.as_str()).into()
                }
                Value::F32(v) if size.plain && v.fract() == 0.0 => {
                    v.to_string().parse::<i64>().unwrap_or_default().into()
                }
                Value::F32(v) => decimal(v),
                ref other => other.as_u64().into(),
            };
            if let Some(flag) = &size.only_if {
                put_inside(&mut config, flag, json!(json.as_f64() != Some(0.0)));
            }
            put_inside(&mut config, name, json);
        }
        if self.family.order.hf.iter().any(|symbol| symbol == "scaling") {
            config.insert("rope_scaling".to_owned(), self.scaling.config_json());
        }
        config
    }
}

impl Stated {
    /// Whether any of it is a number.
    pub fn has_numbers(&self) -> bool {
        self.rope_scale.is_some() || self.values().next().is_some()
    }

    /// The numbers that a person states, by symbol.
    fn values(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let all = [
            ("eps", self.eps.map(Value::F32)),
            ("n_ctx", self.context.map(Value::U32)),
            ("rope_base", self.rope_base.map(Value::F32)),
        ];
        all.into_iter().filter_map(|(symbol, value)| Some((symbol, value?)))
    }

    /// Sets in the keys of a GGUF of an architecture without a description what a person states. All
    /// architectures name these alike but for the epsilon, whose name is that of the norm.
    pub fn amend(&self, keys: &mut Metadata) {
        let architecture = keys.architecture().to_owned();
        let layer_norm = format!("{architecture}.attention.layer_norm_epsilon");
        for (symbol, value) in self.values() {
            let key = match symbol {
                "eps" if keys.get(&layer_norm).is_some() => layer_norm.clone(),
                "eps" => format!("{architecture}.attention.layer_norm_rms_epsilon"),
                "n_ctx" => format!("{architecture}.context_length"),
                _ => format!("{architecture}.rope.freq_base"),
            };
            keys.set(key, value);
        }
        if let Some(factor) = self.rope_scale {
            Scaling::Linear(factor).put(&architecture, keys);
        }
    }
}

/// A value of a description as what its symbol is.
fn of_toml(kind: Kind, value: &toml::Value) -> Option<Value> {
    let value = match value {
        toml::Value::Integer(number) => Value::I64(*number),
        toml::Value::Float(number) => Value::F64(*number),
        toml::Value::Boolean(flag) => Value::Bool(*flag),
        _ => return None,
    };
    of_kind(kind, &value)
}

/// Whole numbers as GGUF has them, in 32 bits.
/// Readers ask for `u32` by its kind and refuse a `u64` of the same value.
fn narrow(value: &Value) -> Value {
    match *value {
        Value::U64(v) => u32::try_from(v).map_or(Value::U64(v), Value::U32),
        ref other => other.clone(),
    }
}

/// As people write it, and as the flag takes it.
fn written(value: &Value) -> String {
    match value {
        Value::F32(small) if *small < 1e-3 => format!("{small:e}"),
        Value::String(text) => String::from_utf8_lossy(text).into_owned(),
        value => value.to_string(),
    }
}

/// Sets a field; dots in its name lead into objects.
fn put_inside(json: &mut Map<String, Json>, name: &str, value: Json) {
    match name.split_once('.') {
        None => {
            json.insert(name.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = json.entry(first).or_insert_with(|| json!({}));
            if let Some(inner) = inner.as_object_mut() {
                put_inside(inner, rest, value);
            }
        }
    }
}

/// A sentence about a file whose name speaks against what is assumed.
fn speaks_against(model: &Model, entry: &family::Assumed) -> Option<Note> {
    let path = model.files.first().map(Input::path)?;
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    // `superhot`, `-16k` and `8k.`, but not the 8k of 128k.
    let holds = |word: &&String| {
        name.match_indices(word.as_str()).any(|(at, _)| {
            let (before, after) = (name.get(..at), name.get(at + word.len()..));
            !before.is_some_and(|text| text.ends_with(|c: char| c.is_ascii_digit()))
                && !after.is_some_and(|text| text.starts_with(|c: char| c.is_alphabetic()))
        })
    };
    let word = entry.unless_named.iter().find(holds)?;
    Some(Note::new(
        format!(
            "the file's name says {word}: such models were trained with scaled positions, by a factor that its \
             makers name, and reach a greater length"
        ),
        Means::from(Setting::RopeScale).with(Setting::Context).to("say both"),
    ))
}
