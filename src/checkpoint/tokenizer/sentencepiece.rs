//! Reads SentencePiece's `tokenizer.model`: pieces, scores and kinds from its protobuf.
//!
//! A protobuf message is fields one after another: a varint `number << 3 | wire type`, then a varint
//! (wire type 0), 8 bytes (1), a varint length and as many bytes (2), or 4 bytes (5). Of the model:
//!
//! ```text
//! ModelProto      1 pieces (repeated)   2 trainer_spec   3 normalizer_spec
//! SentencePiece   1 piece: text         2 score: f32     3 type: 1 normal … 6 byte
//! TrainerSpec     3 model_type: 1 unigram, 2 bpe, 3 word, 4 char    40..43 unk, bos, eos, pad id
//! NormalizerSpec  1 name                2 precompiled_charsmap
//!                 3 add_dummy_prefix    4 remove_extra_whitespaces
//! ```
//!
//! Source: sentencepiece, sentencepiece_model.proto.

use std::{fmt::Display, path::Path};

use crate::{
    bytes::Input,
    error::{Error, Malformed, Result},
    limits::Limits,
    model::{TokenKind, Vocab},
};

/// What a `tokenizer.model` holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SentencePiece {
    /// Text, score and kind of every piece; spaces are U+2581.
    pub pieces: Vec<(Vec<u8>, f32, TokenKind)>,
    /// How pieces were chosen; LLaMA's are [`Algorithm::Bpe`].
    pub algorithm: Algorithm,
    /// Ids of the unknown, beginning, end and padding pieces, where there are such.
    pub unknown: Option<u32>,
    /// See `unknown`.
    pub bos: Option<u32>,
    /// See `unknown`.
    pub eos: Option<u32>,
    /// See `unknown`.
    pub padding: Option<u32>,
    /// Name of the rule that rewrites characters first; LLaMA's is `identity`.
    pub normalizer: String,
    /// Whether that rule rewrites anything.
    pub rewrites: bool,
    /// Whether a space goes before every text.
    pub add_dummy_prefix: bool,
    /// Whether runs of spaces become one, and those at the ends none.
    pub remove_extra_whitespaces: bool,
}

/// How a model segments text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
#[non_exhaustive]
pub enum Algorithm {
    Unigram,
    Bpe,
    Word,
    Char,
}

/// A field's value; texts keep their offset for the messages inside them.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8], usize),
    Fixed64,
}

/// A message of `file` with its offset there.
/// Errors say where in the whole file a field is, however deep the message lies.
#[derive(Clone, Copy)]
struct Message<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// No `tokenizer.model` is larger than this.
const LONGEST: u64 = 64 << 20;

impl SentencePiece {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`SentencePiece::parse`], or where it cannot be read.
    pub fn open(path: &Path, limits: &Limits) -> Result<SentencePiece> {
        let input = Input::open(path)?;
        let mut bytes = vec![0; usize::try_from(input.len().min(LONGEST)).unwrap_or(0)];
        input.read_at(0, &mut bytes)?;
        SentencePiece::parse(&input.name(), &bytes, limits)
    }

    /// Reads the protobuf `bytes` of the file called `file`.
    ///
    /// # Errors
    /// Where the bytes are no such model, with the offset and field.
    pub fn parse(file: &str, bytes: &[u8], limits: &Limits) -> Result<SentencePiece> {
        let mut model = SentencePiece {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            unknown: Some(0),
            bos: Some(1),
            eos: Some(2),
            padding: None,
            normalizer: String::new(),
            rewrites: false,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        };
        let whole = Message { file, bytes, at: 0 };
        whole.each("model", |number, at, value| {
            match (number, value) {
                (1, Field::Bytes(bytes, at)) => {
                    if model.pieces.len() as u64 >= limits.tokens {
                        let most = format!("at most {} pieces", limits.tokens);
                        return Err(whole.malformed(at, "pieces", &"more", &most));
                    }
                    let field = format!("pieces[{}]", model.pieces.len());
                    model.pieces.push(piece(Message { file, bytes, at }, &field)?);
                }
                (2, Field::Bytes(bytes, at)) => model.trainer(Message { file, bytes, at })?,
                (3, Field::Bytes(bytes, at)) => model.rules(Message { file, bytes, at })?,
                (1..=3, _) => return Err(whole.malformed(at, "model", &"a number", "a message")),
                _ => {}
            }
            Ok(())
        })?;
        if model.pieces.is_empty() {
            return Err(whole.malformed(0, "pieces", &"none", "a SentencePiece model with pieces"));
        }
        // An id may name a piece that is not there, as padding does in most models.
        let count = model.pieces.len() as u64;
        for id in [&mut model.unknown, &mut model.bos, &mut model.eos, &mut model.padding] {
            *id = id.filter(|id| u64::from(*id) < count);
        }
        Ok(model)
    }

    /// Field 2, `trainer_spec`: the algorithm, and the ids of special pieces.
    ///
    /// Fields of other numbers are passed over: they are settings of the training.
    fn trainer(&mut self, message: Message<'_>) -> Result<()> {
        // Ids are int32: -1 for "none" is a varint of ten bytes.
        let id = |v: u64| u32::try_from(v).ok().filter(|v| *v <= i32::MAX as u32);
        message.each("trainer_spec", |number, at, value| {
            match (number, value) {
                (3, Field::Varint(v)) => {
                    self.algorithm = match v {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        3 => Algorithm::Word,
                        4 => Algorithm::Char,
                        v => {
                            let field = "trainer_spec.model_type";
                            return Err(message.malformed(at, field, &v, "1 to 4"));
                        }
                    }
                }
                (40, Field::Varint(v)) => self.unknown = id(v),
                (41, Field::Varint(v)) => self.bos = id(v),
                (42, Field::Varint(v)) => self.eos = id(v),
                (43, Field::Varint(v)) => self.padding = id(v),
                _ => {}
            }
            Ok(())
        })
    }

    /// Field 3, `normalizer_spec`: what is done to a text first.
    fn rules(&mut self, message: Message<'_>) -> Result<()> {
        message.each("normalizer_spec", |number, _, value| {
            match (number, value) {
                (1, Field::Bytes(name, _)) => {
                    self.normalizer = String::from_utf8_lossy(name).into_owned();
                }
                (2, Field::Bytes(map, _)) => self.rewrites = !map.is_empty(),
                (3, Field::Varint(v)) => self.add_dummy_prefix = v != 0,
                (4, Field::Varint(v)) => self.remove_extra_whitespaces = v != 0,
                _ => {}
            }
            Ok(())
        })
    }

    /// The vocabulary that a GGUF file stores for this model.
    pub fn vocab(&self) -> Vocab {
        Vocab {
            tokens: self.pieces.iter().map(|(text, ..)| text.clone()).collect(),
            scores: self.pieces.iter().map(|(_, score, _)| *score).collect(),
            kinds: self.pieces.iter().map(|(.., kind)| *kind).collect(),
            model: "llama".to_owned(),
            bos: self.bos,
            eos: self.eos,
            unknown: self.unknown,
            padding: self.padding,
            ..Vocab::default()
        }
    }
}

/// One `SentencePiece`: text, score and kind.
fn piece(message: Message<'_>, name: &str) -> Result<(Vec<u8>, f32, TokenKind)> {
    let mut piece = (Vec::new(), 0.0, TokenKind::Normal);
    message.each(name, |number, at, value| {
        match (number, value) {
            (1, Field::Bytes(text, _)) => piece.0 = text.to_vec(),
            (2, Field::Fixed32(bytes)) => piece.1 = f32::from_le_bytes(bytes),
            (3, Field::Varint(v @ 1..=6)) => piece.2 = TokenKind::from_id(v.cast_signed()),
            (3, Field::Varint(v)) => {
                return Err(message.malformed(at, &format!("{name}.type"), &v, "1 to 6"));
            }
            (1..=3, _) => {
                let wanted = "a text, a float and a number as fields 1, 2 and 3";
                return Err(message.malformed(at, name, &format!("field {number}"), wanted));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

impl<'a> Message<'a> {
    /// Calls `take` with the number, offset and value of every field.
    fn each(
        self,
        name: &str,
        mut take: impl FnMut(u64, usize, Field<'a>) -> Result<()>,
    ) -> Result<()> {
        let mut rest = self.bytes;
        while !rest.is_empty() {
            let at = self.at + self.bytes.len() - rest.len();
            let cut = || self.malformed(at, name, &"an incomplete field", "a whole protobuf field");
            let key = varint(&mut rest).ok_or_else(cut)?;
            let value = match key & 7 {
                0 => Field::Varint(varint(&mut rest).ok_or_else(cut)?),
                1 => {
                    rest = rest.get(8..).ok_or_else(cut)?;
                    Field::Fixed64
                }
                2 => {
                    let len = varint(&mut rest).ok_or_else(cut)?;
                    let len = usize::try_from(len).map_err(|_| cut())?;
                    let (bytes, after) = rest.split_at_checked(len).ok_or_else(cut)?;
                    let at = self.at + self.bytes.len() - rest.len();
                    rest = after;
                    Field::Bytes(bytes, at)
                }
                5 => {
                    let (bytes, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
                    rest = after;
                    Field::Fixed32(*bytes)
                }
                other => {
                    let found = format!("wire type {other}");
                    return Err(self.malformed(at, name, &found, "wire type 0, 1, 2 or 5"));
                }
            };
            if key >> 3 == 0 {
                return Err(self.malformed(at, name, &"field number 0", "a protobuf field"));
            }
            take(key >> 3, at, value)?;
        }
        Ok(())
    }

    /// An error at a byte of the protobuf.
    fn malformed(self, at: usize, field: &str, found: &dyn Display, wanted: &str) -> Error {
        Error::Malformed(Box::new(Malformed {
            file: self.file.to_owned(),
            format: "sentencepiece".to_owned(),
            field: field.to_owned(),
            at: at as u64,
            found: found.to_string(),
            wanted: wanted.to_owned(),
            next: "check the download: a tokenizer.model of LLaMA has 499,723 bytes".into(),
        }))
    }
}

/// Takes a varint off `rest`: seven bits a byte, lowest first, the top bit set on all but the last.
///
/// ```text
/// ac 02     0x2c + (2 << 7) = 300
/// ```
///
/// None where the bytes end before it does, or it has more than 64 bits.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
