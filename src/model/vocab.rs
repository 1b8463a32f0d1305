//! A vocabulary: tokens as bytes, with scores, kinds and merges where the file has them.

use super::{Array, Metadata, Texts, Value};
use crate::size::counted;

/// What a token is; the numbers are those of `tokenizer.ggml.token_type` and of SentencePiece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
#[non_exhaustive]
pub enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenKind {
    /// The kind with this number; anything else counts as normal, as readers take it.
    pub fn from_id(id: i64) -> TokenKind {
        match id {
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Normal,
        }
    }
}

/// The `tokenizer.ggml.model` of SentencePiece's vocabularies, which llama.cpp calls by the first model that had one.
pub const SENTENCEPIECE: &str = "llama";

/// Tokens that fill rows without a name must never be chosen.
const UNUSED_SCORE: f32 = -10_000.0;

/// The tokens of a model. `scores` and `kinds` are either empty or as long as `tokens`.
///
/// ```text
/// id      tokens       scores    kinds      SentencePiece, LLaMA 1
/// 0       <unk>        0         unknown
/// 1, 2    <s>, </s>    0         control
/// 3…258   <0x00>…      0         byte
/// 259…    ▁▁, ▁t, …    0, -1 …   normal     the order in which they were learned
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocab {
    /// The tokens' texts as stored. GGUF keeps U+2581 for spaces and `<0x0A>` for bytes; older files
    /// keep a plain space and the raw byte.
    pub tokens: Texts,
    /// Scores of a SentencePiece vocabulary.
    pub scores: Vec<f32>,
    /// Kinds of tokens.
    pub kinds: Vec<TokenKind>,
    /// Merges of a byte-pair vocabulary, `left right`.
    pub merges: Texts,
    /// `tokenizer.ggml.model`: `llama` (SentencePiece), `gpt2` (byte-level BPE), …; empty if not said.
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer; empty if not said.
    pub pre: String,
    /// Id of the token that begins a text.
    pub bos: Option<u32>,
    /// Id of the token that ends a text.
    pub eos: Option<u32>,
    /// Id of the unknown token.
    pub unknown: Option<u32>,
    /// Id of the padding token.
    pub padding: Option<u32>,
    /// Id of the token between two texts.
    pub separator: Option<u32>,
    /// Id of the token for what is to be guessed.
    pub mask: Option<u32>,
    /// Whether `bos` is put before every text, where the file says.
    pub add_bos: Option<bool>,
    /// Whether `eos` is put after every text, where the file says.
    pub add_eos: Option<bool>,
    /// Whether a space is put before every text, where the file says.
    pub add_space_prefix: Option<bool>,
    /// Whether runs of spaces become one, where the file says.
    pub remove_extra_whitespaces: Option<bool>,
    /// Whether texts are brought to lower case first, where the file says.
    pub lowercase: Option<bool>,
    /// The chat template, where the file has one.
    pub chat_template: Option<String>,
}

impl Vocab {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The kind of token `id`.
    pub fn kind(&self, id: usize) -> TokenKind {
        self.kinds.get(id).copied().unwrap_or(TokenKind::Normal)
    }

    /// The score of token `id`.
    pub fn score(&self, id: usize) -> f32 {
        self.scores.get(id).copied().unwrap_or(0.0)
    }

    /// Adds a token that no text becomes and that is never chosen.
    pub fn push_unused(&mut self) {
        self.tokens.push(format!("[PAD{}]", self.tokens.len()).into_bytes());
        if !self.scores.is_empty() {
            self.scores.push(UNUSED_SCORE);
        }
        if !self.kinds.is_empty() {
            self.kinds.push(TokenKind::Unused);
        }
    }

    /// Adds unused tokens, or leaves out the last, so that there are as many as `rows`.
    pub fn fit(&mut self, rows: usize) {
        while self.len() < rows {
            self.push_unused();
        }
        self.tokens.truncate(rows);
        self.scores.truncate(rows);
        self.kinds.truncate(rows);
    }

    /// How tokens and rows of the embedding differ, and what [`Vocab::fit`] does about it: what `would be` done or
    /// what `are`.
    pub fn misfit(&self, rows: usize, done: &str) -> String {
        let tokens = self.len();
        let how = if tokens < rows {
            let rows = counted(rows - tokens, "row has", "rows have");
            format!("{rows} no token, which {done} filled with unused ones")
        } else {
            let tokens = counted(tokens - rows, "token has", "tokens have");
            format!("{tokens} no row and {done} left out")
        };
        format!("the vocabulary has {tokens} tokens, the embedding {rows} rows: {how}")
    }

    /// The vocabulary that GGUF metadata describes.
    #[expect(clippy::cast_possible_truncation, reason = "rounded or cut, as readers do")]
    pub fn from_metadata(metadata: &Metadata) -> Vocab {
        let key = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}"));
        let array = |name: &str| key(name).and_then(Value::as_array);
        let texts = |name: &str| match array(name) {
            None => Texts::default(),
            Some(array) => match array.texts() {
                Some(texts) => texts.clone(),
                // As many empty texts as there are values of another kind.
                None => (0..array.len()).map(|_| "").collect(),
            },
        };
        let numbers = |name: &str| {
            array(name).into_iter().flat_map(Array::iter).map(|v| v.as_f64().unwrap_or(0.0))
        };
        let text = |name: &str| key(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let id = |name: &str| key(name).and_then(Value::as_u64).and_then(|v| v.try_into().ok());
        let flag = |name: &str| key(name).and_then(Value::as_bool);
        Vocab {
            tokens: texts("tokens"),
            scores: numbers("scores").map(|v| v as f32).collect(),
            kinds: numbers("token_type").map(|v| TokenKind::from_id(v as i64)).collect(),
            merges: texts("merges"),
            model: text("model"),
            pre: text("pre"),
            bos: id("bos_token_id"),
            eos: id("eos_token_id"),
            unknown: id("unknown_token_id"),
            padding: id("padding_token_id"),
            // The key is spelled so.
            separator: id("seperator_token_id"),
            mask: id("mask_token_id"),
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            add_space_prefix: flag("add_space_prefix"),
            remove_extra_whitespaces: flag("remove_extra_whitespaces"),
            lowercase: flag("normalizer.lowercase"),
            chat_template: metadata.str("tokenizer.chat_template").map(str::to_owned),
        }
    }

    /// Writes it into GGUF metadata, in the order that llama.cpp's converters use.
    pub fn to_metadata(&self, metadata: &mut Metadata) {
        use super::Kind;
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                metadata.set(format!("tokenizer.ggml.{name}"), value);
            }
        };
        let text = |s: &str| (!s.is_empty()).then(|| Value::from(s));
        set("model", text(&self.model));
        set("pre", text(&self.pre));
        if !self.tokens.is_empty() {
            set("tokens", Some(self.tokens.clone().into()));
        }
        if !self.scores.is_empty() {
            let scores = self.scores.iter().map(|s| Value::F32(*s));
            set("scores", Some(Array::of(Kind::F32, scores).into()));
        }
        if !self.kinds.is_empty() {
            let kinds = self.kinds.iter().map(|k| Value::I32(*k as i32));
            set("token_type", Some(Array::of(Kind::I32, kinds).into()));
        }
        if !self.merges.is_empty() {
            set("merges", Some(self.merges.clone().into()));
        }
        set("bos_token_id", self.bos.map(Value::U32));
        set("eos_token_id", self.eos.map(Value::U32));
        set("unknown_token_id", self.unknown.map(Value::U32));
        set("padding_token_id", self.padding.map(Value::U32));
        set("seperator_token_id", self.separator.map(Value::U32));
        set("mask_token_id", self.mask.map(Value::U32));
        set("add_bos_token", self.add_bos.map(Value::Bool));
        set("add_eos_token", self.add_eos.map(Value::Bool));
        set("add_space_prefix", self.add_space_prefix.map(Value::Bool));
        set("remove_extra_whitespaces", self.remove_extra_whitespaces.map(Value::Bool));
        set("normalizer.lowercase", self.lowercase.map(Value::Bool));
        if let Some(template) = &self.chat_template {
            metadata.set("tokenizer.chat_template", template.as_str());
        }
    }
}
