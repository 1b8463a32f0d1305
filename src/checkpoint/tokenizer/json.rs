//! Reads Hugging Face's `tokenizer.json`: byte-level BPE vocabularies (GPT-2, LLaMA 3, …) and
//! SentencePiece ones in its dress (LLaMA 1 and 2, Mistral), and WordPiece's (BERT).
//!
//! A GGUF file names its pre-tokenizer by one word, `tokenizer.ggml.pre`. llama.cpp's converter finds
//! the word by encoding a test text and looking up the digest of the ids, which knows only
//! vocabularies that somebody registered. Here the steps of `pre_tokenizer` are written out as regular
//! expressions and compared with those that each name stands for: that also knows a vocabulary
//! that was extended or trained anew.
//! Compare: llama.cpp, conversion/base.py: get_vocab_base, gguf-py vocab.py: SpecialVocab.
//!
//! | `model.type` | `byte_fallback` | GGUF's model | scores |
//! |---|---|---|---|
//! | BPE, or absent | false | gpt2, cut as `pre` says | none |
//! | BPE | true | llama | the order of the merges, counted down from 0 |
//! | Unigram | either | llama | as stored |
//! | WordPiece | either | bert | none |
//!
//! Lists stay text until it is known how many items they may have: a file of a few megabytes of brackets must not
//! become gigabytes.

use std::{collections::HashMap, fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Value as Json, value::RawValue};

use crate::{
    error::{Error, Malformed, Result},
    limits::Limits,
    model::{
        TokenKind, Vocab,
        pretokenizer::{DIGIT, DIGITS, GPT2, PUNCTUATION, PreTokenizer},
        spelling,
    },
    remedy::{Notes, Remedy},
};

/// What a `tokenizer.json` holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenizerJson {
    /// The vocabulary as a GGUF file stores it. `bos` and `eos` are those that its template adds;
    /// `tokenizer_config.json` and `config.json` may name others.
    pub vocab: Vocab,
    /// Added tokens and their ids, among them all special ones.
    pub added: Vec<(String, u32)>,
    /// What could not be taken over, as sentences.
    pub notes: Notes,
}

/// The file with its lists as they are written: how long they may be is the caller's to say.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    model: ModelPart<'a>,
    #[serde(default, borrow)]
    added_tokens: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "short")]
    normalizer: Json,
    #[serde(default, deserialize_with = "short")]
    pre_tokenizer: Json,
    #[serde(default, deserialize_with = "short")]
    post_processor: Json,
}

/// Its lists, read.
struct Lists {
    vocab: Pieces,
    merges: Vec<Merge>,
    added: Vec<Added>,
}

/// The longest description of steps that is read.
const LONGEST_STEPS: usize = 1 << 20;

/// JSON of any kind, which takes many times its length in memory, if it is not long.
fn short<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?.get();
    if raw.len() > LONGEST_STEPS {
        let found = format!("{} bytes of steps, of at most {LONGEST_STEPS}", raw.len());
        return Err(de::Error::custom(found));
    }
    serde_json::from_str(raw).map_err(de::Error::custom)
}

/// A list of at most this many items.
struct Bounded<T>(u64, PhantomData<T>);

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

/// `model` of the file; vocabulary and merges stay text until their kind is known.
#[derive(Deserialize)]
struct ModelPart<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    vocab: &'a RawValue,
    #[serde(default, borrow)]
    merges: Option<&'a RawValue>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u32>,
}

/// A token that was added after training, with the id that it has.
#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// A merge: one text with a space in it, or (since tokenizers 0.20) a pair.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

/// A vocabulary: an object from text to id (BPE) or a list of texts with scores (Unigram).
enum Pieces {
    Ids(Vec<(String, u32)>),
    Scores(Vec<(String, f32)>),
}

/// A vocabulary of at most this many entries.
struct Within(u64);

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
fn seeded<'de, S: de::DeserializeSeed<'de>>(
    seed: S,
    raw: &'de RawValue,
) -> serde_json::Result<S::Value> {
    seed.deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
}

impl TokenizerJson {
    /// Reads the JSON `bytes` of the file called `file`.
    ///
    /// # Errors
    /// Where it is no such JSON, or a kind of tokenizer that GGUF's LLaMA files cannot hold.
    pub fn parse(file: &str, bytes: &[u8], limits: &Limits) -> Result<TokenizerJson> {
        let malformed = |at, field: &str, found: String, wanted: &str| {
            Error::Malformed(Box::new(Malformed {
                file: file.to_owned(),
                format: "tokenizer.json".to_owned(),
                field: field.to_owned(),
                at,
                found,
                wanted: wanted.to_owned(),
                next: Remedy::default(),
            }))
        };
        let broken = |part: &[u8], error: serde_json::Error| {
            // Parts are slices of the file: the distance of the two addresses is their place in it.
            let begin = (part.as_ptr() as u64).saturating_sub(bytes.as_ptr() as u64);
            let at = begin + offset(part, error.line(), error.column());
            malformed(at, "json", error.to_string(), "a tokenizer of the tokenizers library")
        };
        let parsed: File = serde_json::from_slice(bytes).map_err(|error| broken(bytes, error))?;
        let most = limits.tokens;
        let read = |raw: &RawValue, error| broken(raw.get().as_bytes(), error);
        let vocab = parsed.model.vocab;
        let lists = Lists {
            vocab: seeded(Within(most), vocab).map_err(|error| read(vocab, error))?,
            merges: parsed.model.merges.map_or(Ok(Vec::new()), |raw| {
                seeded(Bounded(most, PhantomData), raw).map_err(|error| read(raw, error))
            })?,
            added: parsed.added_tokens.map_or(Ok(Vec::new()), |raw| {
                seeded(Bounded(most, PhantomData), raw).map_err(|error| read(raw, error))
            })?,
        };
        let unsupported = |what: &str| {
            let next = "use the model's tokenizer.model if it has one";
            Error::unsupported(format!("{file}: not yet: {what}"), next)
        };
        let kind = parsed.model.kind.as_deref().unwrap_or("BPE");
        let byte_fallback = parsed.model.byte_fallback.unwrap_or(false);
        let mut out = match (kind, byte_fallback) {
            ("BPE", false) => byte_level(file, &parsed, &lists)?,
            ("BPE", true) => sentencepiece(&parsed, &lists),
            ("Unigram", _) => unigram(&parsed, &lists),
            ("WordPiece", _) => word_piece(&parsed, &lists),
            (other, _) => return Err(unsupported(&format!("a tokenizer of type {other:?}"))),
        };
        let count = out.pieces.len() + lists.added.len();
        out.add(&lists.added, kind == "BPE" && !byte_fallback);
        let Some(last) = out.pieces.keys().max() else {
            return Err(malformed(0, "model.vocab", "no tokens".into(), "a vocabulary"));
        };
        // Ids may have holes, but not more than some reserved ranges.
        let most = limits.tokens.min(count as u64 + (1 << 17));
        if u64::from(*last) >= most {
            let found = format!("id {last} among {count} tokens");
            return Err(malformed(0, "model.vocab", found, &format!("ids below {most}")));
        }
        let last = *last;
        out.finish(last, &parsed)
    }
}

/// Where line `line`, column `column` (both from 1) of `text` begins.
fn offset(text: &[u8], line: usize, column: usize) -> u64 {
    let before: usize =
        text.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)) as u64
}

/// A vocabulary while its tokens come in.
struct Parts {
    pieces: HashMap<u32, (String, f32, TokenKind)>,
    scored: bool,
    vocab: Vocab,
    added: Vec<(String, u32)>,
    notes: Notes,
}

/// A byte-level vocabulary: texts are bytes as printable characters, and no scores.
fn byte_level(file: &str, parsed: &File, lists: &Lists) -> Result<Parts> {
    let (stages, mut notes) = stages(&parsed.pre_tokenizer);
    let ignore_merges = parsed.model.ignore_merges.unwrap_or(false);
    let mut alike = PreTokenizer::recognise(&stages);
    let first = alike.clone().next();
    // Several names may cut alike: the one that also treats merges alike, else the first, with a note.
    let Some(pre) = alike.find(|pre| pre.ignore_merges == ignore_merges).or(first) else {
        return Err(Error::unsupported(
            format!("{file}: no tokenizer.ggml.pre is known for the steps {stages:?}"),
            "this pre-tokenizer decides where words are cut; a wrong name would give wrong tokens",
        ));
    };
    if pre.ignore_merges != ignore_merges {
        notes.push(format!(
            "ignore_merges is {ignore_merges}, but readers take {:?} to mean the opposite",
            pre.name()
        ));
    }
    let vocab = Vocab { model: "gpt2".to_owned(), pre: pre.name().to_owned(), ..Vocab::default() };
    let mut parts = Parts::new(vocab, false, notes);
    if let Pieces::Ids(ids) = &lists.vocab {
        for (text, id) in ids {
            parts.pieces.insert(*id, (text.clone(), 0.0, TokenKind::Normal));
        }
    }
    parts.vocab.merges = lists.merges.iter().map(|m| m.joined().into_bytes()).collect();
    if parts.vocab.merges.is_empty() {
        parts.notes.push("the file holds no merges, so no text can be encoded".to_owned());
    }
    Ok(parts)
}

/// A SentencePiece BPE vocabulary: its scores were lost, but the list of merges has their order.
fn sentencepiece(parsed: &File, lists: &Lists) -> Parts {
    let vocab = Vocab { model: "llama".to_owned(), ..Vocab::default() };
    let mut parts = Parts::new(vocab, true, Notes::default());
    parts.notes.push("scores are made from the order of the merges");
    let mut rank = HashMap::new();
    for merge in &lists.merges {
        // A piece that two merges make counts from the first of them.
        let next = rank.len();
        rank.entry(merge.parts().concat()).or_insert(next);
    }
    // Characters that no merge makes follow, as in a tokenizer.model; they never compete.
    let unmerged = -(rank.len() as f32);
    if let Pieces::Ids(ids) = &lists.vocab {
        for (text, id) in ids {
            let (score, kind) = match rank.get(text) {
                _ if is_byte(text) => (0.0, TokenKind::Byte),
                _ if Some(text) == parsed.model.unk_token.as_ref() => (0.0, TokenKind::Unknown),
                Some(rank) => (-(*rank as f32), TokenKind::Normal),
                None => (unmerged, TokenKind::Normal),
            };
            parts.pieces.insert(*id, (text.clone(), score, kind));
        }
    }
    parts.vocab.add_space_prefix = prefix_space(parsed).filter(|yes| !yes);
    parts
}

/// A SentencePiece Unigram vocabulary, stored with its scores.
fn unigram(parsed: &File, lists: &Lists) -> Parts {
    let vocab = Vocab { model: "llama".to_owned(), ..Vocab::default() };
    let note = "this vocabulary is Unigram; LLaMA readers will merge by score, which may give \
                other tokens";
    let mut parts = Parts::new(vocab, true, Notes::default());
    parts.notes.push(note);
    if let Pieces::Scores(scores) = &lists.vocab {
        for (id, (text, score)) in (0u32..).zip(scores) {
            let kind = match () {
                () if is_byte(text) => TokenKind::Byte,
                () if Some(id) == parsed.model.unk_id => TokenKind::Unknown,
                () => TokenKind::Normal,
            };
            parts.pieces.insert(id, (text.clone(), *score, kind));
        }
    }
    parts.vocab.add_space_prefix = prefix_space(parsed).filter(|yes| !yes);
    parts
}

/// WordPiece's vocabulary, in which GGUF marks what begins a word.
fn word_piece(parsed: &File, lists: &Lists) -> Parts {
    let normalizers = steps(&parsed.normalizer, "normalizers");
    let lowercase = normalizers.iter().find_map(|step| step.get("lowercase")?.as_bool());
    let vocab = Vocab { model: "bert".to_owned(), lowercase, ..Vocab::default() };
    let mut parts = Parts::new(vocab, false, Notes::default());
    if let Pieces::Ids(ids) = &lists.vocab {
        for (text, id) in ids {
            let word = String::from_utf8_lossy(&spelling::word(text.as_bytes())).into_owned();
            parts.pieces.insert(*id, (word, 0.0, TokenKind::Normal));
        }
    }
    parts
}

impl Parts {
    /// Parts of a vocabulary that has no tokens yet.
    fn new(vocab: Vocab, scored: bool, notes: Notes) -> Parts {
        Parts { pieces: HashMap::new(), scored, vocab, added: Vec::new(), notes }
    }

    /// Takes in the added tokens: special ones control, others as typed by people.
    fn add(&mut self, added: &[Added], guess: bool) {
        for Added { id, content, special } in added {
            let unknown = self.pieces.get(id).is_some_and(|(.., k)| *k == TokenKind::Unknown);
            let (text, kind) = match () {
                () if unknown => (content.clone(), TokenKind::Unknown),
                () if *special || (guess && looks_special(content)) => {
                    (content.clone(), TokenKind::Control)
                }
                () => (content.replace('\u{2581}', " "), TokenKind::UserDefined),
            };
            self.pieces.insert(*id, (text, 0.0, kind));
            self.added.push((content.clone(), *id));
        }
    }

    /// Tokens in the order of their ids up to `last`; ids that name nothing are filled.
    fn finish(mut self, last: u32, parsed: &File) -> Result<TokenizerJson> {
        for id in 0..=last {
            let hole = || (format!("[PAD{id}]"), 0.0, TokenKind::Unused);
            let (text, score, kind) = self.pieces.remove(&id).unwrap_or_else(hole);
            self.vocab.tokens.push(text.into_bytes());
            self.vocab.kinds.push(kind);
            if self.scored {
                self.vocab.scores.push(score);
            }
        }
        let first = self.vocab.kinds.iter().position(|kind| *kind == TokenKind::Unknown);
        self.vocab.unknown = first.and_then(|id| id.try_into().ok());
        self.template(&parsed.post_processor);
        Ok(TokenizerJson { vocab: self.vocab, added: self.added, notes: self.notes })
    }

    /// The tokens that `post_processor` puts around every text.
    fn template(&mut self, processor: &Json) {
        let steps: Vec<&Json> = match processor.get("processors").and_then(Json::as_array) {
            Some(steps) => steps.iter().collect(),
            None => vec![processor],
        };
        // Of `[SpecialToken] Sequence [SpecialToken]` the first and the last go around a text; one item alone adds
        // nothing.
        for step in steps {
            match step.get("type").and_then(Json::as_str) {
                Some("ByteLevel") => {
                    self.vocab.add_bos.get_or_insert(false);
                    self.vocab.add_eos.get_or_insert(false);
                }
                Some("TemplateProcessing") => {
                    let single = step.get("single").and_then(Json::as_array);
                    let single = single.map(Vec::as_slice).unwrap_or_default();
                    if single.len() < 2 {
                        continue;
                    }
                    let id = |item: Option<&Json>| {
                        let name = item?.get("SpecialToken")?.get("id")?.as_str()?;
                        self.added.iter().find(|(text, _)| text == name).map(|(_, id)| *id)
                    };
                    let (bos, eos) = (id(single.first()), id(single.last()));
                    self.vocab.bos = bos.or(self.vocab.bos);
                    self.vocab.eos = eos.or(self.vocab.eos);
                    self.vocab.add_bos = bos.map(|_| true).or(self.vocab.add_bos);
                    self.vocab.add_eos = eos.map(|_| true).or(self.vocab.add_eos);
                }
                _ => {}
            }
        }
    }
}

impl Merge {
    /// The left side and the right.
    fn parts(&self) -> [&str; 2] {
        match self {
            Merge::Joined(joined) => {
                let (left, right) = joined.split_once(' ').unwrap_or((joined, ""));
                [left, right]
            }
            Merge::Pair(left, right) => [left, right],
        }
    }

    /// `left right`; a space inside a part is written as byte-level BPE writes it.
    fn joined(&self) -> String {
        self.parts().map(|part| part.replace(' ', "\u{120}")).join(" ")
    }
}

/// Whether a token is for control though not marked so: some published files forget.
/// Source: llama.cpp, conversion/base.py: does_token_look_special.
fn looks_special(text: &str) -> bool {
    let between = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// Whether a token is a byte: `<0x0A>`.
fn is_byte(text: &str) -> bool {
    text.strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

/// Whether a SentencePiece tokenizer puts a space before a text, where the file says.
fn prefix_space(parsed: &File) -> Option<bool> {
    let is = |step: &&Json, kind: &str| step.get("type").and_then(Json::as_str) == Some(kind);
    let scheme = steps(&parsed.pre_tokenizer, "pretokenizers")
        .iter()
        .find(|step| is(step, "Metaspace"))
        .map(|step| match step.get("prepend_scheme").and_then(Json::as_str) {
            Some(scheme) => scheme != "never",
            None => step.get("add_prefix_space").and_then(Json::as_bool).unwrap_or(true),
        });
    let normalizers = steps(&parsed.normalizer, "normalizers");
    let prepends = normalizers.iter().any(|step| is(step, "Prepend"));
    scheme.or((!normalizers.is_empty()).then_some(prepends))
}

/// A step, or the steps of a `Sequence`.
fn steps<'a>(step: &'a Json, list: &str) -> Vec<&'a Json> {
    match step.get(list).and_then(Json::as_array) {
        Some(list) => list.iter().collect(),
        None if step.is_null() => Vec::new(),
        None => vec![step],
    }
}

/// The steps of a pre-tokenizer as the expressions by which they cut.
fn stages(pre_tokenizer: &Json) -> (Vec<String>, Notes) {
    let (mut stages, mut notes) = (Vec::new(), Notes::default());
    for step in steps(pre_tokenizer, "pretokenizers") {
        let text = |name: &str| step.get(name).and_then(Json::as_str);
        let flag = |name: &str, default| step.get(name).and_then(Json::as_bool).unwrap_or(default);
        match text("type").unwrap_or_default() {
            "ByteLevel" => {
                if flag("add_prefix_space", false) {
                    notes.push("a space goes before every text (add_prefix_space)".to_owned());
                }
                if flag("use_regex", true) {
                    stages.push(GPT2.to_owned());
                }
            }
            // `123` as three words, or as one.
            "Digits" if flag("individual_digits", false) => stages.push(DIGIT.to_owned()),
            "Digits" => stages.push(DIGITS.to_owned()),
            "Punctuation" => stages.push(PUNCTUATION.to_owned()),
            "Split" => {
                let pattern = step.get("pattern");
                let part = |name| pattern.and_then(|p| p.get(name)).and_then(Json::as_str);
                match (part("Regex"), part("String")) {
                    (Some(regex), _) => stages.push(regex.to_owned()),
                    (None, Some(literal)) => stages.push(regex::escape(literal)),
                    (None, None) => stages.push("Split".to_owned()),
                }
            }
            other => stages.push(other.to_owned()),
        }
    }
    (stages, notes)
}
