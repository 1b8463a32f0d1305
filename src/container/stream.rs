//! ggml, ggmf, ggjt and their relatives: header words, vocabulary, tensor records to the last byte.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic |
//! | 4 | version, where the format has one |
//! | 4 each | header words |
//! | 4 + n, + 4 | per token: length, text, and the score where the format has one |
//! | 4, 4, 4 | per tensor: number of dimensions, length of the name, type |
//! | 4 each | per tensor: sizes, innermost dimension first |
//! | n | per tensor: name, then zeros up to the alignment, then data |
//!
//! Reading and writing are two functions: a walk that serves both would hide which checks belong to
//! which. Round-trip tests keep them together.

use std::collections::HashSet;

use super::{Layout, OpenOptions, TensorHead, missing};
use crate::{
    bytes::{Input, Source},
    error::{Error, Result},
    format::{
        catalog,
        container::{Container, VocabShape, Word, WordKind},
    },
    limits::Limits,
    model::{Hyper, Model, Naming, Role, Scaling, Sizes, Tail, Tensor, Value, Vocab},
    quant::QuantType,
};

/// The longest tensor name that a record may state.
const NAME: u64 = 256;

/// Reads `input` by the rules of `format`.
pub(super) fn read(
    format: &'static Container,
    input: &Input,
    options: &OpenOptions,
) -> Result<Model> {
    let source = Source::new(input, format.id()).big_endian(format.detect.big_endian);
    let walk = Walk { format, source: &source, limits: options.limits };
    let mut model = Model {
        format: format.id().to_owned(),
        family: format.format.family.clone(),
        files: vec![input.clone()],
        ..Model::default()
    };
    let mut at = walk.header(&mut model)?;
    if let Some(shape) = &format.vocab {
        at = walk.vocab(shape, at, &mut model)?;
    }
    walk.tensors(at, &mut model)?;
    Ok(model)
}

/// Checks magic, version, header words and the texts near the beginning only.
pub(super) fn check_header(format: &'static Container, input: &Input) -> Result<()> {
    let source = Source::new(input, format.id()).big_endian(format.detect.big_endian);
    let limits = Limits::DEFAULT;
    Walk { format, source: &source, limits }.header(&mut Model::default())?;
    let texts = &format.detect.signature;
    let head = source.bytes_at(0, input.len().min(4096), 4096, "signature")?;
    let stands = |text: &String| head.windows(text.len()).any(|w| w == text.as_bytes());
    match texts.first() {
        Some(first) if !texts.iter().any(stands) => {
            let wanted = format!("{first:?} in the first 4 KB");
            Err(source.malformed(0, "signature", "none", wanted))
        }
        _ => Ok(()),
    }
}

struct Walk<'a> {
    format: &'static Container,
    source: &'a Source<'a>,
    limits: Limits,
}

impl Walk<'_> {
    /// Reads magic, version and header words; answers where they end.
    fn header(&self, model: &mut Model) -> Result<u64> {
        let mut at = super::check_start(self.source, self.format)?;
        for word in &self.format.header.fields {
            self.word(word, at, model)?;
            at += 4;
        }
        Ok(at)
    }

    fn word(&self, word: &Word, at: u64, model: &mut Model) -> Result<()> {
        let name = &word.name;
        let value = match word.kind {
            WordKind::U32 => i64::from(self.source.u32_at(at, name)?),
            WordKind::I32 => i64::from(self.source.i32_at(at, name)?),
            WordKind::F32 => {
                let value = self.source.f32_at(at, name)?;
                model.metadata.push(name.clone(), Value::F32(value));
                // Header words are whole numbers; a float stands there as its bits.
                model.header.push((name.clone(), value.to_bits().into()));
                return Ok(());
            }
        };
        let max = word.max.unwrap_or(u32::MAX.into());
        if value < word.min || value > max {
            let wanted = format!("{} to {max}", word.min);
            return Err(self.source.malformed(at, name, value, wanted));
        }
        match &word.split {
            Some(split) => {
                model.header.push((split.high.clone(), value / split.base));
                model.header.push((split.low.clone(), value % split.base));
            }
            None => model.header.push((name.clone(), value)),
        }
        Ok(())
    }

    /// Reads the vocabulary at `at`; answers where it ends.
    fn vocab(&self, shape: &VocabShape, mut at: u64, model: &mut Model) -> Result<u64> {
        let count = model.header(&shape.count).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        if shape.repeat {
            let again = self.source.u32_at(at, "vocab.count")?;
            if u64::from(again) != count {
                let wanted = format!("{count}, as {} says", shape.count);
                return Err(self.source.malformed(at, "vocab.count", again, wanted));
            }
            at += 4;
        }
        for i in 0..count {
            if i + 1 == count && shape.may_lack_one && self.is_record(at) {
                model.notes.push(format!(
                    "the header counts {count} tokens, one more than are stored (as GPT4All's converter \
                     did): token {i} has no text"
                ));
                break;
            }
            let len = self.source.u32_at(at, format_args!("vocab[{i}].len"))?;
            at += 4;
            let text = format_args!("vocab[{i}].text");
            model.vocab.tokens.push(self.source.bytes_at(
                at,
                len.into(),
                self.limits.string,
                text,
            )?);
            at += u64::from(len);
            if shape.score {
                let score = self.source.f32_at(at, format_args!("vocab[{i}].score"))?;
                model.vocab.scores.push(score);
                at += 4;
            }
        }
        Ok(at)
    }

    /// Whether a tensor record of the family stands at `at`, where a token was expected.
    fn is_record(&self, at: u64) -> bool {
        let (Some(family), Ok(head)) =
            (catalog::family(&self.format.format.family), self.head(at, 0))
        else {
            return false;
        };
        Role::of(family, Naming::Old, &head.name).is_some()
    }

    fn tensors(&self, mut at: u64, model: &mut Model) -> Result<()> {
        let mut seen = HashSet::new();
        while self.source.left(at) > 0 {
            let index = model.tensors.len();
            if index as u64 >= self.limits.tensors {
                let wanted = format!("at most {} tensors", self.limits.tensors);
                return Err(self.source.malformed(at, "tensors", "more", wanted));
            }
            let head = match self.record(at, index, &mut seen) {
                Ok(head) => head,
                // Whatever stands after the last tensor of a whole model is none of it.
                Err(Error::Malformed(_)) if missing::is_whole(model) => {
                    model.tails.push(Tail { file: 0, at, bytes: self.source.left(at) });
                    break;
                }
                Err(error) => return Err(error),
            };
            let (tensor, end) = self.tensor(&head, index, model)?;
            model.tensors.push(tensor);
            at = end;
        }
        self.check_names(at, model)
    }

    /// Reads the head of a tensor that has not stood in the file before.
    fn record(&self, at: u64, index: usize, seen: &mut HashSet<String>) -> Result<Head> {
        let head = self.head(at, index)?;
        if !seen.insert(head.name.clone()) {
            let (field, found) = (Field { index, name: "name" }, format!("{} again", head.name));
            return Err(self.source.malformed(at, field, found, "it once"));
        }
        Ok(head)
    }

    /// Reads the head of a tensor record.
    fn head(&self, at: u64, index: usize) -> Result<Head> {
        let field = |name: &'static str| Field { index, name };
        let n_dims = self.source.u32_at(at, field("n_dims"))?;
        let max = self.format.tensors.max_dims;
        if n_dims == 0 || n_dims > max {
            let wanted = format!("1 to {max}");
            return Err(self.source.malformed(at, field("n_dims"), n_dims, wanted));
        }
        let len = u64::from(self.source.u32_at(at + 4, field("name_len"))?);
        if len == 0 || len > NAME {
            let wanted = format!("1 to {NAME}");
            return Err(self.source.malformed(at + 4, field("name_len"), len, wanted));
        }
        let id = self.source.u32_at(at + 8, field("type"))?;
        let mut shape = Vec::new();
        for i in 0..u64::from(n_dims) {
            let size = self.source.u32_at(at + 12 + 4 * i, field("ne"))?;
            if size == 0 || size > i32::MAX as u32 {
                let wanted = format!("1 to {}", i32::MAX);
                return Err(self.source.malformed(at + 12 + 4 * i, field("ne"), size, wanted));
            }
            shape.insert(0, u64::from(size));
        }
        let name_at = at + 12 + 4 * u64::from(n_dims);
        let name = self.source.bytes_at(name_at, len, NAME, field("name"))?;
        let name = String::from_utf8(name).map_err(|e| {
            let found = format!("{:?}", String::from_utf8_lossy(e.as_bytes()));
            self.source.malformed(name_at, field("name"), found, "text")
        })?;
        let data = (name_at + len).next_multiple_of(self.format.tensors.align);
        Ok(Head { at, name, id, shape, data })
    }

    /// Checks a record against the types of the format and the bytes that are left.
    fn tensor(&self, head: &Head, index: usize, model: &Model) -> Result<(Tensor, u64)> {
        let Head { at, name, id, shape, data } = head;
        let field = |what: &str| format!("tensors[{index}] ({name}).{what}");
        let quant = quant_of(self.format, *id, &model.header).ok_or_else(|| {
            let known: std::collections::BTreeSet<u32> =
                self.format.tensors.types.keys().filter_map(|id| id.parse().ok()).collect();
            let wanted = format!("one of {known:?}");
            self.source.malformed(at + 8, field("type"), id, wanted)
        })?;
        let whole = Tensor::whole(name.clone(), shape.clone(), quant, 0, *data);
        let folded = || Tensor::folded(name.clone(), shape.clone(), quant, 0, *data);
        let tensor = whole.or_else(folded).ok_or_else(|| {
            let wanted = format!("a multiple of {} for {quant}", quant.layout().elements);
            let found = shape.last().copied().unwrap_or(0);
            self.source.malformed(at + 12, field("ne[0]"), found, wanted)
        })?;
        let (left, bytes) = (self.source.left(*data), tensor.bytes());
        if bytes > left {
            let wanted = format!("{bytes} bytes");
            let error =
                self.source.malformed(*data, field("data"), format!("{left} bytes"), wanted);
            return Err(missing::advise(error, model, &tensor, left));
        }
        Ok((tensor, data + bytes))
    }

    /// Checks that a model file holds the tensors of its family, all of them and once.
    fn check_names(&self, end: u64, model: &mut Model) -> Result<()> {
        let Some(first) = model.tensors.first() else { return Ok(()) };
        let signature = &self.format.detect.signature;
        let signed = |s: &String| model.tensor(s).is_some();
        if let Some(wanted) = signature.first().filter(|_| !signature.iter().any(signed)) {
            let found = format!("{:?} and others", first.name);
            return Err(self.source.malformed(end, "tensors", found, format!("{wanted:?}")));
        }
        let Some(family) = catalog::family(&model.family) else { return Ok(()) };
        for tensor in &model.tensors {
            let ignored = family.family.ignored.iter().any(|end| tensor.name.ends_with(end));
            if !ignored && Role::of(family, Naming::Old, &tensor.name).is_none() {
                model
                    .notes
                    .push(format!("{} is no tensor of the {} family", tensor.name, model.family));
            }
        }
        missing::check_whole(self.source, end, model)
    }
}

/// Says under GGUF's keys what the header and the shapes of a whole model say.
pub(super) fn fill_metadata(model: &mut Model) {
    if model.header("n_vocab").is_none() {
        return;
    }
    let Some(family) = catalog::family(&model.family) else { return };
    let hyper = Hyper::new(family, Sizes::of(model), Scaling::None);
    model.metadata.set("general.architecture", family.family.gguf.as_str());
    hyper.sizes.symbols().for_each(|symbol| hyper.put(symbol, &mut model.metadata));
}

#[derive(Clone, Copy)]
struct Field {
    index: usize,
    name: &'static str,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tensors[{}].{}", self.index, self.name)
    }
}

struct Head {
    at: u64,
    name: String,
    id: u32,
    shape: Vec<u64>,
    data: u64,
}

/// What a stored type number means in `format` under these header words.
fn quant_of(format: &Container, id: u32, header: &[(String, i64)]) -> Option<QuantType> {
    named(format.type_name(id)?, format.dialect(header)?)
}

fn named(name: &str, era: &str) -> Option<QuantType> {
    match name.split_once('/') {
        Some((name, dialect)) => QuantType::find(name, dialect),
        None => QuantType::in_force(name, era),
    }
}

/// The number that `format` stores for `quant` under these header words; none if it never had it.
pub fn type_id(format: &Container, quant: QuantType, header: &[(String, i64)]) -> Option<u32> {
    let era = format.dialect(header)?;
    let fits = |(_, name): &(&String, &String)| named(name, era) == Some(quant);
    format.tensors.types.iter().find(fits).and_then(|(id, _)| id.parse().ok())
}

/// Lays out a file of `format`: every byte but the weights, and where the weights go.
///
/// # Errors
/// [`Error::Unsupported`] where a header word is missing, a type is not one of the format's, a tensor
/// has too many dimensions or a number does not fit its field.
pub fn layout(
    format: &Container,
    header: &[(String, i64)],
    vocab: &Vocab,
    heads: &[TensorHead],
) -> Result<Layout> {
    let mut layout = Layout::default();
    let mut out = super::start(format);
    let word = |name: &str| -> Result<i64> {
        let found = header.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value).ok_or_else(|| cannot(format, &format!("no {name} is known")))
    };
    for field in &format.header.fields {
        let value = match &field.split {
            Some(split) => word(&split.high)? * split.base + word(&split.low)?,
            None => word(&field.name)?,
        };
        let bytes = u32::try_from(value).map(u32::to_le_bytes);
        out.extend(bytes.map_err(|_| cannot(format, &format!("{} is {value}", field.name)))?);
    }
    if let Some(shape) = &format.vocab {
        if shape.repeat {
            out.extend(number(format, word(&shape.count)?.unsigned_abs())?);
        }
        for (i, token) in vocab.tokens.iter().enumerate() {
            out.extend(number(format, token.len() as u64)?);
            out.extend(token);
            if shape.score {
                out.extend(vocab.score(i).to_le_bytes());
            }
        }
    }
    let mut base = 0;
    for head in heads {
        if head.shape.len() > format.tensors.max_dims as usize {
            let what = format!("{} has {} dimensions", head.name, head.shape.len());
            return Err(cannot(format, &what));
        }
        let id = type_id(format, head.quant, header).ok_or_else(|| {
            let names: Vec<&str> = format.tensors.types.values().map(String::as_str).collect();
            let what = format!("{} is {}; it has {}", head.name, head.quant, names.join(", "));
            cannot(format, &what)
        })?;
        out.extend(number(format, head.shape.len() as u64)?);
        out.extend(number(format, head.name.len() as u64)?);
        out.extend(id.to_le_bytes());
        for size in head.shape.iter().rev() {
            out.extend(number(format, *size)?);
        }
        out.extend(head.name.as_bytes());
        let at = (base + out.len() as u64).next_multiple_of(format.tensors.align);
        out.resize(usize::try_from(at - base).unwrap_or(usize::MAX), 0);
        layout.chunks.push((base, std::mem::take(&mut out)));
        layout.data.push(at);
        base = at + head.bytes;
    }
    layout.total = base + out.len() as u64;
    if !out.is_empty() {
        layout.chunks.push((base, out));
    }
    Ok(layout)
}

fn number(format: &Container, value: u64) -> Result<[u8; 4]> {
    let fits = i32::try_from(value).ok().and_then(|v| u32::try_from(v).ok());
    fits.map(u32::to_le_bytes)
        .ok_or_else(|| cannot(format, &format!("{value} is too large a number")))
}

fn cannot(format: &Container, why: &str) -> Error {
    let what = format!("{}: cannot be written: {why}", format.id());
    Error::unsupported(what, "write gguf-v3 instead")
}
