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

mod lists;

use std::{collections::HashMap, marker::PhantomData};

use serde::Deserialize;
use serde_json::{Value as Json, value::RawValue};

use self::lists::{Added, Bounded, Merge, Pieces, Within, seeded, short};
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
///
/// ```text
/// {"model": {"type": "BPE", "vocab": {"a": 0, …}, "merges": ["t h", …]},    merges in the order of their ranks
///  "added_tokens": [{"id": 32000, "content": "<pad>", "special": true}, …],
///  "normalizer": …, "pre_tokenizer": …, "post_processor": …}                 a step, or a `Sequence` of steps
/// ```
///
/// Its `decoder`, `padding` and `truncation` have no place in a GGUF and are not read.
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

/// `model` of the file; vocabulary and merges stay text until their kind is known.
/// Where there is no `type` it is byte pairs.
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
        // Every hole becomes a token: an id of four billion in a short file would be gigabytes.
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
///
/// By id, for a file lists texts in any order, and added tokens may take the place of others.
struct Parts {
    pieces: HashMap<u32, (String, f32, TokenKind)>,
    scored: bool,
    vocab: Vocab,
    added: Vec<(String, u32)>,
    notes: Notes,
}

/// A byte-level vocabulary: texts are bytes as printable characters, and no scores.
///
/// # Errors
/// Where no name is known for the way in which it cuts words: a GGUF has but that name.
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
///
/// ```text
/// merges    "▁ t"   "h e"   "▁t he"       scores    ▁t 0   he -1   ▁the -2   a piece of no merge -3
/// ```
///
/// Readers join the pair of the highest score first, so the order of the merges is all that a score has to say.
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
/// Its list has no ids: the place in it is the id.
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
/// Whether capitals are made small is a step of `normalizer`; readers of GGUF are told by a key.
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
    ///
    /// Where `guess` is set, a text that looks like one for control counts as such though the file does not say so: the
    /// converter guesses in byte-level vocabularies only.
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
    ///
    /// ```text
    /// "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]         a text begins with <s>, and
    ///                                                                                nothing ends it
    /// ```
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

/// Whether a token is for control though not marked so: some published files forget.
/// Source: llama.cpp, conversion/base.py: does_token_look_special.
pub(super) fn looks_special(text: &str) -> bool {
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
///
/// ```text
/// normalizer      Prepend "▁", Replace " " by "▁"                               LLaMA 1 and 2
/// pre_tokenizer   Metaspace, prepend_scheme "first", "always" or "never"        newer files
///                 Metaspace, add_prefix_space true or false                     older ones
/// ```
///
/// A Metaspace step counts before a normalizer, as the last to change the text.
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
///
/// ```text
/// GPT-2      ByteLevel                                          GPT-2's expression, which that step has inside
/// LLaMA 3    Split by an expression, ByteLevel without its own  the one expression
/// Falcon     Punctuation, ByteLevel, Digits, Split              four, applied one after the other
/// ```
///
/// Steps that are not known stay as their names, so that no pre-tokenizer is taken for another that lacks them.
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
