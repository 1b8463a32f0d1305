//! Descriptions of containers: how a file is recognised and walked.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

pub use super::records::{Count, Kept, Record, Relative, Tensors, TypesWhere};
use super::schema::{self, Lived};
use crate::bytes::source::ByteOrder;

/// One `formats/container/*.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Container {
    /// What it is.
    pub format: Identity,
    /// How a file of it is recognised.
    pub detect: Detect,
    /// The header after magic and version, for the stream walk and for recognition.
    #[serde(default)]
    pub header: Header,
    /// The vocabulary after the header; none where the format stores none.
    pub vocab: Option<VocabShape>,
    /// The tensor records.
    #[serde(default)]
    pub tensors: Tensors,
    /// Which builds of llama.cpp read it, in words, newest last.
    #[serde(default)]
    pub readers: Vec<Reader>,
    /// What misleads people and programs about it.
    #[serde(default)]
    pub traps: Vec<String>,
}

/// What a container is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Identity {
    /// Its id, equal to the file's name: `ggjt-v2-llama`.
    pub name: String,
    /// What people call it who name no family, where that means this one: `ggjt-v2`.
    #[serde(default)]
    pub short: Option<String>,
    /// Its name for people.
    pub title: String,
    /// When it was written.
    pub lived: Lived,
    /// What header words and tensor names mean: a description in `formats/family`.
    #[serde(default)]
    pub family: String,
    /// The dialect of blocks in force.
    #[serde(default)]
    pub blocks: Blocks,
    /// The code that walks it.
    pub skeleton: Skeleton,
    /// The project, commit, file and function that defined it.
    pub source: String,
}

/// The dialect of blocks: one, or one per version that the header states.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Blocks {
    /// Always this one.
    One(String),
    /// By the value of a header word: `{ by = "quant_version", 0 = "pairs-f32", … }`.
    By(BTreeMap<String, String>),
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks::One(String::new())
    }
}

/// The code that walks a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Skeleton {
    /// Header, vocabulary, tensor records to the end: `src/container/stream.rs`.
    Stream,
    /// Counts, key-values, tensor infos, padded data: `src/container/keyed.rs`.
    Keyed,
    /// A Python checkpoint: `src/checkpoint`.
    Checkpoint,
    /// Recognised by its first bytes only.
    None,
}

/// How a file is recognised.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Detect {
    /// The first bytes, as they are in the file: text, or a list of numbers.
    #[serde(deserialize_with = "bytes")]
    pub begins: Vec<u8>,
    /// Where they are, if not at the start.
    #[serde(default)]
    pub at: u64,
    /// The 32-bit number after them; none where no version follows.
    pub version: Option<u32>,
    /// Whether numbers are big-endian.
    #[serde(default)]
    pub big_endian: bool,
    /// Names of which one must be among the tensors, if there are any; for a format that is only
    /// recognised, texts of which one must be in the first 4 KB.
    #[serde(default)]
    pub signature: Vec<String>,
    /// Tried only where the walk of this other format fails or leaves gaps.
    pub after: Option<String>,
    /// Of the same sizes as this other format: the weights, or the person, decide.
    pub against: Option<String>,
    /// Where the two differ and neither weights nor tokens tell: what a person must know to decide.
    #[serde(default)]
    pub doubt: String,
    /// Against the other format only where the header says one of these: word to value.
    #[serde(default)]
    pub only: Vec<BTreeMap<String, i64>>,
    /// Tokens of which one tells this format from the one in `against`.
    #[serde(default)]
    pub tokens: Vec<String>,
    /// Tensors that must all be there, if there are any: the last that the programs wrote.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Shapes that tensors must have once read, outermost dimension first: header words, or `*`.
    #[serde(default)]
    pub shapes: BTreeMap<String, Vec<String>>,
    /// Tried only when the person names it.
    #[serde(default)]
    pub asked: bool,
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Bytes {
        Text(String),
        List(Vec<u8>),
    }
    Ok(match Bytes::deserialize(from)? {
        Bytes::Text(text) => text.into_bytes(),
        Bytes::List(list) => list,
    })
}

/// The header words, in order.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Header {
    /// The words.
    pub fields: Vec<Word>,
    /// Words that this layout does not store and whose value its programs took for granted.
    #[serde(default)]
    pub implied: BTreeMap<String, i64>,
    /// Floats behind the words.
    pub matrix: Option<Matrix>,
    /// The word that states the type of most matrices; where none is named it is `ftype`, in llama.cpp's
    /// numbers.
    pub file_type: Option<FileTypes>,
}

/// A header word that states the type of most matrices.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileTypes {
    /// Its name.
    pub word: String,
    /// Numbers and types; those of the records where none are given.
    #[serde(default)]
    pub types: BTreeMap<String, String>,
    /// More numbers that mean one of these types and are not written.
    #[serde(default)]
    pub also: BTreeMap<String, String>,
    /// Whether its programs take all matrices in that type and in no other.
    #[serde(default)]
    pub of_all: bool,
}

/// 32-bit floats between header words and vocabulary, row by row; kept as metadata.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Matrix {
    /// The original's name.
    pub name: String,
    /// The header word that counts its rows.
    pub rows: String,
    /// The header word that counts the floats of a row.
    pub columns: String,
    /// What they are computed by for models that do not hold them.
    pub rule: Option<MatrixRule>,
}

/// What floats behind header words are computed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatrixRule {
    /// A row for each band of a spectrum, spaced as pitches are heard.
    MelBands,
}

/// One header word.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Word {
    /// The original's name: `n_embd`.
    pub name: String,
    /// How it is stored.
    #[serde(rename = "type")]
    pub kind: WordKind,
    /// The least legal value.
    #[serde(default)]
    pub min: i64,
    /// The greatest legal value.
    pub max: Option<i64>,
    /// A word before it whose value it repeats.
    pub equals: Option<String>,
    /// Two values in one word: `value = high * base + low`.
    pub split: Option<Split>,
    /// The key of GGUF that states it, where no symbol of the family does.
    pub key: Option<String>,
    /// What is written where nothing states it.
    pub otherwise: Option<i64>,
}

/// How a header word is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WordKind {
    /// An unsigned 32-bit number.
    U32,
    /// A signed 32-bit number.
    I32,
    /// A 32-bit float.
    F32,
}

/// Two values in one header word.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Split {
    /// What divides them.
    pub base: i64,
    /// The name of the quotient.
    pub high: String,
    /// The name of the remainder.
    pub low: String,
    /// The greatest legal remainder.
    pub max: Option<i64>,
}

/// The shape of a stored vocabulary.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct VocabShape {
    /// The header word that counts the records.
    pub count: String,
    /// Whether the count is stored again before the records.
    #[serde(default)]
    pub repeat: bool,
    /// Whether a 32-bit float, the score, follows each text.
    #[serde(default)]
    pub score: bool,
    /// Whether files exist with one record less than the count (GPT4All, spring 2023).
    #[serde(default)]
    pub may_lack_one: bool,
    /// Whether files exist whose converter wrote only the tokenizer's own pieces.
    #[serde(default)]
    pub may_end_early: bool,
    /// The name of a word before the records that counts those stored, fewer than `count`.
    pub stored: Option<String>,
    /// Whether bit 31 of a length marks a special token.
    #[serde(default)]
    pub special_bit: bool,
    /// Whether one length and a tokenizer's own file (SentencePiece, tiktoken) stand for the records.
    #[serde(default)]
    pub file: bool,
    /// The header word that counts the merges behind the records: again a count, then two texts each.
    pub merges: Option<String>,
    /// How texts were spelled; where more than one is named, the texts tell.
    #[serde(default)]
    pub spelling: Vec<Spelling>,
}

/// What the bytes of a stored token are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Spelling {
    /// The token's own bytes.
    Bytes,
    /// What `decode([id])` gave: bytes that are no text by themselves became U+FFFD.
    Decoded,
    /// Every byte as the code point of that number, in UTF-8.
    Latin1,
    /// SentencePiece's pieces: U+2581 for a space.
    Pieces,
    /// The lines of a `vocab.txt`: `##` before what continues a word.
    Wordpiece,
}

impl Spelling {
    /// What it is, in words.
    pub fn text(self) -> &'static str {
        match self {
            Spelling::Bytes => "the token's own bytes",
            Spelling::Decoded => "decoded text: U+FFFD where bytes are no text by themselves",
            Spelling::Latin1 => "every byte as a code point, in UTF-8",
            Spelling::Pieces => "SentencePiece's piece, U+2581 for a space",
            Spelling::Wordpiece => "a line of vocab.txt, ## before what continues a word",
        }
    }
}

/// Builds of llama.cpp that read a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Reader {
    /// The builds: `b264 to b1011`.
    pub builds: String,
    /// What in the container they read: `F16 and F32`.
    pub what: String,
}

impl Detect {
    /// Which byte of a number comes first.
    pub fn order(&self) -> ByteOrder {
        if self.big_endian { ByteOrder::Big } else { ByteOrder::Little }
    }
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.format.name
    }

    /// The dialect of blocks that these header words put in force.
    pub fn dialect(&self, header: &[(String, i64)]) -> Option<&str> {
        match &self.format.blocks {
            Blocks::One(name) => Some(name),
            Blocks::By(map) => {
                let word = map.get("by")?;
                let (_, value) = header.iter().find(|(name, _)| name == word)?;
                map.get(&value.to_string()).map(String::as_str)
            }
        }
    }

    /// The header word that decides about blocks, and its last value; none where nothing has to decide.
    pub fn newest(&self) -> Option<(&str, i64)> {
        let Blocks::By(map) = &self.format.blocks else { return None };
        let last = map.keys().filter_map(|value| value.parse().ok()).max()?;
        Some((map.get("by")?, last))
    }

    /// The dialect of blocks in files that are written today.
    pub fn newest_dialect(&self) -> Option<&str> {
        let last = self.newest().map(|(word, value)| (word.to_owned(), value));
        self.dialect(last.as_slice())
    }

    /// The word that states the type of most matrices, and its number for `name`.
    pub fn file_type(&self, name: &str) -> Option<(&str, i64)> {
        let stated = self.header.file_type.as_ref()?;
        let (id, _) = self.file_types(stated).iter().find(|(_, known)| *known == name)?;
        Some((&stated.word, id.parse().ok()?))
    }

    /// The type that these header words state for most matrices, where the container numbers types itself.
    pub fn stated_type(&self, header: &[(String, i64)]) -> Option<&str> {
        let stated = self.header.file_type.as_ref()?;
        let (_, number) = header.iter().find(|(name, _)| *name == stated.word)?;
        let number = number.to_string();
        let known = self.file_types(stated).get(&number).or_else(|| stated.also.get(&number));
        known.map(String::as_str)
    }

    fn file_types<'a>(&'a self, stated: &'a FileTypes) -> &'a BTreeMap<String, String> {
        if stated.types.is_empty() { &self.tensors.types } else { &stated.types }
    }

    /// What version of its model a file with these tensors is, where it is not the one described.
    pub fn relative(&self, has: impl Fn(&str) -> bool) -> Option<&str> {
        let found = self.tensors.relatives.iter().find(|relative| has(&relative.tensor));
        found.map(|relative| relative.title.as_str())
    }

    /// Why nothing is ever written in it; none where it can be.
    pub fn read_only(&self) -> Option<&'static str> {
        let vocabulary = self.vocab.as_ref();
        let tensors = &self.tensors;
        let reasons = [
            (self.format.family.is_empty(), "no family is described"),
            (self.format.skeleton != Skeleton::Stream, "it is no stream"),
            (vocabulary.is_some_and(|v| v.special_bit), "it marks special tokens"),
            (!tensors.transposed.is_empty(), "its matrices are transposed"),
            (!tensors.grouped.is_empty(), "its rows are in groups"),
        ];
        reasons.into_iter().find(|(is, _)| *is).map(|(_, why)| why)
    }

    /// What a stored type number means: a type's name, with its dialect where it is not the era's.
    pub fn type_name(&self, id: u32, header: &[(String, i64)]) -> Option<&str> {
        let id = id.to_string();
        let special = |w: &&TypesWhere| header.iter().any(|(n, v)| *n == w.word && *v == w.is);
        let by_word = self.tensors.types_where.iter().find(special).and_then(|w| w.types.get(&id));
        by_word.or_else(|| self.tensors.types.get(&id)).map(String::as_str)
    }

    /// How many tensors a whole model with these header words has; none where that is not described.
    pub fn tensors_of(&self, header: &[(String, i64)]) -> Option<u64> {
        let word = |name: &str| header.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        let mut sum = None;
        for count in &self.tensors.whole {
            if count.when.iter().all(|(name, value)| word(name) == Some(*value)) {
                let times = match &count.each {
                    Some(each) => u64::try_from(word(each)?).ok()?,
                    None => 1,
                };
                sum = Some(sum.unwrap_or(0) + count.tensors.checked_mul(times)?);
            }
        }
        sum
    }

    /// The number of a type, by the name that the description gives it.
    pub fn type_id(&self, name: &str) -> Option<u32> {
        let found = self.tensors.types.iter().find(|(_, known)| *known == name)?;
        found.0.parse().ok()
    }
}

/// Parses and checks one description; `stem` is its file's name without `.toml`.
pub(crate) fn parse(stem: &str, text: &str) -> Result<Container, String> {
    let container: Container = schema::toml(text)?;
    let Identity { name, lived, skeleton, .. } = &container.format;
    if name != stem {
        return Err(format!("describes {name}: the file must be named so"));
    }
    lived.check()?;
    if container.detect.begins.is_empty() {
        return Err("detect.begins may not be empty".into());
    }
    let words = &container.header.fields;
    let known = |name: &str| words.iter().any(|w| w.name == name);
    if let Some(vocab) = &container.vocab
        && !known(&vocab.count)
    {
        return Err(format!("vocab.count: no header word {:?}", vocab.count));
    }
    if *skeleton == Skeleton::Stream && (container.tensors.align == 0 || words.is_empty()) {
        return Err("a stream needs header.fields and tensors.align".into());
    }
    if let Some(id) = container.tensors.types.keys().find(|id| id.parse::<u32>().is_err()) {
        return Err(format!("tensors.types: {id:?} is no number"));
    }
    Ok(container)
}
