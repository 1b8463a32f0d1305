//! What `inspect --json` prints of one file, made while it is printed: a vocabulary may hold millions of
//! tokens.
//!
//! ```text
//! {"schema_version": 1, …facts…, "header": {…}, "metadata": {…}, "tensors": […], "tokens": […]}
//! {"schema_version": 1, "file": …, "error": …}                     of a file that could not be read
//! ```
//!
//! Lists are there where they are asked for only; an object without `tensors` says nothing of tensors.

use std::path::Path;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{facts::Facts, raw};
use crate::{
    cli::advice,
    cli::json::{Shown, VERSION},
    error::{Error, unicode},
    model::{Model, Tensor, Value},
};

/// The lists that a person asked for.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct ListArgs {
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// List every token
    #[arg(long)]
    pub vocab: bool,
    /// List header words and metadata
    #[arg(long)]
    pub metadata: bool,
}

/// What is known of a file: facts and the lists that were asked for, or why nothing is.
#[derive(Serialize)]
pub(super) struct Data<'a> {
    schema_version: u32,
    #[serde(flatten)]
    known: Known<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Known<'a> {
    Read {
        #[serde(flatten)]
        facts: &'a Facts,
        #[serde(flatten)]
        lists: Lists<'a>,
    },
    Failed {
        file: String,
        error: String,
    },
}

/// The lists of a model, or of raw weights, which are no model: written one item at a time.
struct Lists<'a>(&'a Facts, Option<&'a Model>, &'a ListArgs);

impl<'a> Data<'a> {
    pub fn new(facts: &'a Facts, model: Option<&'a Model>, asked: &'a ListArgs) -> Data<'a> {
        let known = Known::Read { facts, lists: Lists(facts, model, asked) };
        Data { schema_version: VERSION, known }
    }

    pub fn failed(path: &Path, error: &Error) -> Data<'a> {
        let known = Known::Failed { file: unicode(path), error: advice::error(error) };
        Data { schema_version: VERSION, known }
    }
}

impl Serialize for Lists<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Lists(facts, model, asked) = self;
        let mut map = to.serialize_map(None)?;
        let Some(model) = model else {
            if asked.tensors && !facts.raw.is_empty() {
                map.serialize_entry("tensors", &List(|| facts.raw.iter().map(raw::json)))?;
            }
            return map.end();
        };
        if asked.metadata {
            map.serialize_entry("header", &Map(|| model.header.iter().map(|(k, v)| (k, v))))?;
            let keys = || model.metadata.iter().map(|(k, v)| (k, Shown(v)));
            map.serialize_entry("metadata", &Map(keys))?;
        }
        if asked.tensors {
            map.serialize_entry("tensors", &List(|| model.tensors.iter().map(tensor)))?;
        }
        if asked.vocab {
            let token = |(id, token)| Token {
                id,
                text: String::from_utf8_lossy(token).into_owned(),
                score: model.vocab.scores.get(id).map(|score| Value::F32(*score)),
                kind: model.vocab.kinds.get(id).map(|kind| *kind as i32),
            };
            let tokens = || model.vocab.tokens.iter().enumerate().map(token);
            map.serialize_entry("tokens", &List(tokens))?;
        }
        map.end()
    }
}

/// A tensor as data; `pieces` are pairs of a file's number and the place of a first row in it.
fn tensor(t: &Tensor) -> serde_json::Value {
    serde_json::json!({
        "name": t.name, "shape": t.shape, "type": t.quant.name(),
        "dialect": t.quant.dialect(), "bytes": t.bytes(),
        "pieces": t.pieces.iter().map(|p| (p.file, p.at)).collect::<Vec<_>>(),
    })
}

/// A token as data; its text has U+FFFD where its bytes are no UTF-8.
struct Token {
    id: usize,
    text: String,
    score: Option<Value>,
    kind: Option<i32>,
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(4))?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("text", &self.text)?;
        map.serialize_entry("score", &self.score.as_ref().map(Shown))?;
        map.serialize_entry("kind", &self.kind)?;
        map.end()
    }
}

/// What an iterator gives, as a list.
struct List<F>(F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for List<F> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0())
    }
}

/// What an iterator gives, as keys and values.
struct Map<F>(F);

impl<F: Fn() -> I, I: Iterator<Item = (K, V)>, K: Serialize, V: Serialize> Serialize for Map<F> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0())
    }
}
