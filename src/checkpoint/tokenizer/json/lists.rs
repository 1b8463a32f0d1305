//! The lists of a `tokenizer.json`, read only as far as a vocabulary may be long.
//!
//! JSON of few bytes can stand for many values (`[[],[],…]`), and a list does not say how long it is. So lists are kept as
//! text ([`RawValue`]) until the kind of the tokenizer and the limits are known, and are then read item by item, up to
//! the limit and no further.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Value as Json, value::RawValue};

/// The longest description of steps that is read.
const LONGEST_STEPS: usize = 1 << 20;

/// JSON of any kind, which takes many times its length in memory, if it is not long.
/// `normalizer`, `pre_tokenizer` and `post_processor` of published files are a few KB.
pub(super) fn short<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?.get();
    if raw.len() > LONGEST_STEPS {
        let found = format!("{} bytes of steps, of at most {LONGEST_STEPS}", raw.len());
        return Err(de::Error::custom(found));
    }
    serde_json::from_str(raw).map_err(de::Error::custom)
}

/// A list of at most this many items.
pub(super) struct Bounded<T>(pub(super) u64, pub(super) PhantomData<T>);

impl<'de, T: Deserialize<'de>> de::DeserializeSeed<'de> for Bounded<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Bounded<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            push(&mut items, item, self.0)?;
        }
        Ok(items)
    }
}

/// Adds an item, of at most `most`: the count is not known before the end.
fn push<T, E: de::Error>(items: &mut Vec<T>, item: T, most: u64) -> Result<(), E> {
    if items.len() as u64 >= most {
        return Err(E::custom(format_args!("more than {most} tokens or merges")));
    }
    items.push(item);
    Ok(())
}

/// A token that was added after training, with the id that it has.
#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
}

/// A merge: one text with a space in it, or (since tokenizers 0.20) a pair, whose parts may have spaces.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Joined(String),
    Pair(String, String),
}

/// A vocabulary: an object from text to id (BPE) or a list of texts with scores (Unigram).
///
/// ```text
/// BPE, WordPiece     "vocab": {"the": 262, …}
/// Unigram            "vocab": [["▁the", -3.2], …]          the place in the list is the id
/// ```
pub(super) enum Pieces {
    Ids(Vec<(String, u32)>),
    Scores(Vec<(String, f32)>),
}

/// A vocabulary of at most this many entries.
pub(super) struct Within(pub(super) u64);

impl<'de> de::DeserializeSeed<'de> for Within {
    type Value = Pieces;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Pieces, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Within {
    type Value = Pieces;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts and ids, or a list of texts and scores")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Pieces, A::Error> {
        let mut ids = Vec::new();
        while let Some(entry) = map.next_entry()? {
            push(&mut ids, entry, self.0)?;
        }
        Ok(Pieces::Ids(ids))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Pieces, A::Error> {
        let mut scores = Vec::new();
        while let Some(entry) = seq.next_element()? {
            push(&mut scores, entry, self.0)?;
        }
        Ok(Pieces::Scores(scores))
    }
}

/// What `seed` makes of a part of the file.
pub(super) fn seeded<'de, S: de::DeserializeSeed<'de>>(
    seed: S,
    raw: &'de RawValue,
) -> serde_json::Result<S::Value> {
    seed.deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
}

impl Merge {
    /// The left side and the right.
    pub(super) fn parts(&self) -> [&str; 2] {
        match self {
            Merge::Joined(joined) => {
                let (left, right) = joined.split_once(' ').unwrap_or((joined, ""));
                [left, right]
            }
            Merge::Pair(left, right) => [left, right],
        }
    }

    /// `left right`; a space inside a part is written as byte-level BPE writes it.
    pub(super) fn joined(&self) -> String {
        self.parts().map(|part| part.replace(' ', "\u{120}")).join(" ")
    }
}
