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
//! A few formats have a matrix of floats before the vocabulary, a tokenizer's own file in its place or
//! merges behind it, or tell a tensor's name first: their descriptions say so.
//!
//! Reading and writing are two functions: a walk that serves both would hide which checks belong to
//! which. Round-trip tests keep them together.
//!
//! A ggjt file of version 3 for LLaMA, its first bytes:
//!
//! ```text
//! 74 6a 67 67  03 00 00 00                    magic, version
//! 00 7d 00 00  00 10 00 00  00 01 00 00       n_vocab 32000, n_embd 4096, n_mult 256
//! 20 00 00 00  20 00 00 00  80 00 00 00       n_head 32, n_layer 32, n_rot 128
//! 02 00 00 00                                 ftype 2: mostly Q4_0
//! 05 00 00 00  20 e2 81 87 20  00 00 00 00    token 0: 5 bytes, " ⁇ ", score 0
//! ..
//! ```
//!
//! Nothing says how many tensors there are, and no table says where: each record leads to the next by its own numbers.
//! So a wrong one is found at the latest where the next should begin, and every check is made where the field is.

mod record;
mod vocab;
mod walk;
mod write;

pub use write::{layout, type_id};

use std::collections::HashSet;

use super::{OpenOptions, missing, start};
use crate::{
    bytes::{Input, Source},
    error::{Error, Result},
    format::{
        catalog,
        container::{Blocks, Container, Matrix, VocabShape, Word, WordKind},
    },
    limits::Limits,
    model::{Array, Hyper, Kind, Model, Naming, Role, Scaling, Sizes, Tail, Value, rows, spelling},
};
use record::{Head, named};
use walk::Walk;

/// Reads `input` by the rules of `format`.
///
/// # Errors
/// [`Error::Malformed`] at the first field that breaks a rule; a file whose records are whole and are not those of the
/// format is [`Error::Foreign`].
pub(super) fn read(
    format: &'static Container,
    input: &Input,
    options: &OpenOptions,
) -> Result<Model> {
    let source = Source::new(input, format.id()).ordered(format.detect.order());
    let walk = Walk { format, source: &source, limits: options.limits };
    let mut model = Model {
        format: format.id().to_owned(),
        family: format.format.family.clone(),
        files: vec![input.clone()],
        ..Model::default()
    };
    // Each part says where it ends, which is where the next begins: there is no table of contents.
    let mut at = walk.header(&mut model)?;
    if let Some(matrix) = &format.header.matrix {
        at = walk.matrix(matrix, at, &mut model)?;
    }
    if let Some(shape) = &format.vocab {
        at = walk.vocab(shape, at, &mut model)?;
        vocab_to_gguf(shape, &mut model);
    }
    walk.tensors(at, &mut model)?;
    walk.order_rows(&mut model)?;
    Ok(model)
}

/// Checks magic, version, header words and the texts near the beginning only.
pub(super) fn check_header(
    format: &'static Container,
    input: &Input,
    limits: Limits,
) -> Result<()> {
    let source = Source::new(input, format.id()).ordered(format.detect.order());
    Walk { format, source: &source, limits }.header(&mut Model::default())?;
    // Formats that are only recognised: nothing is walked but what their first 4 KB show.
    let texts = &format.detect.signature;
    let head = source.bytes_at(0, input.len().min(4096), 4096, "signature")?;
    let is_there = |text: &String| head.windows(text.len()).any(|w| w == text.as_bytes());
    match texts.first() {
        Some(first) if !texts.iter().any(is_there) => {
            let wanted = format!("{first:?} in the first 4 KB");
            Err(source.malformed(0, "signature", "none", wanted))
        }
        _ => Ok(()),
    }
}

impl Walk<'_> {
    /// Reads magic, version and header words; returns where they end.
    fn header(&self, model: &mut Model) -> Result<u64> {
        let mut at = start::check(self.source, self.format)?;
        let header = &self.format.header;
        for word in &header.fields {
            self.word(word, at, model)?;
            at += 4;
        }
        // Words that a later layout stores and this one takes for granted.
        model.header.extend(header.implied.iter().map(|(name, value)| (name.clone(), *value)));
        Ok(at)
    }

    /// Reads the floats at `at`; returns where they end.
    fn matrix(&self, matrix: &Matrix, at: u64, model: &mut Model) -> Result<u64> {
        // Two header words state its size, which is bounded like that of a text before memory is asked for it.
        let size = |name: &str| model.header(name).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let len = size(&matrix.rows).saturating_mul(size(&matrix.columns)).saturating_mul(4);
        let bytes = self.source.bytes_at(at, len, self.limits.string, &matrix.name)?;
        let floats = bytes.as_chunks().0.iter().map(|b| Value::F32(f32::from_le_bytes(*b)));
        model.metadata.push(matrix.name.clone(), Array::of(Kind::F32, floats).into());
        Ok(at + len)
    }

    /// Reads the header word at `at` and keeps it under its name; a word of two parts is kept as both.
    fn word(&self, word: &Word, at: u64, model: &mut Model) -> Result<()> {
        let name = &word.name;
        // Ranges are what tells formats apart that share a magic: a word out of range ends this walk, not the search.
        let value = match word.kind {
            WordKind::U32 => i64::from(self.source.u32_at(at, name)?),
            WordKind::I32 => i64::from(self.source.i32_at(at, name)?),
            WordKind::F32 => {
                let value = self.source.f32_at(at, name)?;
                if !value.is_finite() {
                    return Err(self.source.malformed(at, name, value, "a number"));
                }
                model.metadata.push(name.clone(), Value::F32(value));
                // Header words are whole numbers; a float is there as its bits.
                model.header.push((name.clone(), value.to_bits().into()));
                return Ok(());
            }
        };
        let max = word.max.unwrap_or(u32::MAX.into());
        if value < word.min || value > max {
            let wanted = format!("{} to {max}", word.min);
            return Err(self.source.malformed(at, name, value, wanted));
        }
        if let Some(equal) = &word.equals
            && model.header(equal) != Some(value)
        {
            let wanted = format!("the value of {equal}");
            return Err(self.source.malformed(at, name, value, wanted));
        }
        match &word.split {
            // As `ftype` of ggml's own programs: 2002 is quantization version 2 and file type 2.
            Some(split) => {
                let (high, low) = (value / split.base, value % split.base);
                if let Some(max) = split.max.filter(|max| low > *max) {
                    let wanted = format!("{} to {max}", word.min);
                    return Err(self.source.malformed(at, name, value, wanted));
                }
                // Where blocks do not depend on it, only some writers state it.
                if high > 0 || matches!(self.format.format.blocks, Blocks::By(_)) {
                    model.header.push((split.high.clone(), high));
                }
                model.header.push((split.low.clone(), low));
            }
            None => model.header.push((name.clone(), value)),
        }
        Ok(())
    }

    /// Reads tensor records from `at` to the end of the file, or to where a whole model ends.
    fn tensors(&self, mut at: u64, model: &mut Model) -> Result<()> {
        let mut seen = HashSet::new();
        // No count is stored: records follow one another to the last byte.
        while self.source.left(at) > 0 {
            let index = model.tensors.len();
            if index as u64 >= self.limits.tensors {
                let wanted = format!("at most {} tensors", self.limits.tensors);
                return Err(self.source.malformed(at, "tensors", "more", wanted));
            }
            let head = match self.record(at, index, &mut seen) {
                Ok(head) => head,
                // Whatever is after the last tensor of a whole model is none of it.
                Err(Error::Malformed(_)) if self.is_whole(model) && !self.begins_record(at) => {
                    model.tails.push(Tail { file: 0, at, bytes: self.source.left(at) });
                    break;
                }
                Err(error) => return Err(error),
            };
            // Weights are stepped over, not read.
            let (tensor, end) = self.tensor(&head, index, model)?;
            model.tensors.push(tensor);
            at = end;
        }
        self.check_names(at, model).map_err(|error| missing::explain(error, self.format, model))
    }

    /// Reads the head of a tensor that has not stood in the file before.
    fn record(&self, at: u64, index: usize, seen: &mut HashSet<String>) -> Result<Head> {
        let head = self.head(at, index)?;
        if !seen.insert(head.name.clone()) {
            let field = format!("tensors[{index}].name");
            let found = format!("{} again", head.name);
            return Err(self.source.malformed(at, field, found, "it once"));
        }
        Ok(head)
    }

    /// Whether everything came that a whole model has.
    fn is_whole(&self, model: &Model) -> bool {
        let needs = &self.format.detect.needs;
        match self.format.tensors_of(&model.header) {
            None if needs.is_empty() => missing::is_whole(model),
            wanted => {
                self.counted(model) >= wanted.unwrap_or(1)
                    && needs.iter().all(|name| model.tensor(name).is_some())
            }
        }
    }

    /// How many tensors there are of those that a whole model has.
    fn counted(&self, model: &Model) -> u64 {
        let optional = &self.format.tensors.optional;
        model.tensors.iter().filter(|t| !optional.contains(&t.name)).count() as u64
    }

    /// Checks that a model file holds the tensors of its family, all of them and once.
    fn check_names(&self, end: u64, model: &mut Model) -> Result<()> {
        // A file that ends behind its vocabulary is one of a vocabulary alone, as llama.cpp's models/ had them.
        let Some(first) = model.tensors.first() else { return Ok(()) };
        let signature = &self.format.detect.signature;
        let signed = |s: &String| model.tensor(s).is_some();
        if let Some(wanted) = signature.first().filter(|_| !signature.iter().any(signed)) {
            let found = format!("{:?} and others", first.name);
            return Err(self.source.malformed(end, "tensors", found, format!("{wanted:?}")));
        }
        self.check_whole(end, model)?;
        if let Some(relative) = self.format.relative(|name| model.tensor(name).is_some()) {
            model.family.clear();
            model.notes.push(format!("it is {relative}, which is read and not converted"));
        }
        let Some(family) = catalog::family(&model.family) else { return Ok(()) };
        for tensor in &model.tensors {
            // What a family's own programs wrote and never read.
            let ignored = family.family.ignored.iter().any(|end| tensor.name.ends_with(end));
            if !ignored && Role::of(family, Naming::Old, &tensor.name).is_none() {
                model
                    .notes
                    .push(format!("{} is no tensor of the {} family", tensor.name, model.family));
            }
        }
        missing::check_whole(self.source, end, model)
    }

    /// Checks shapes that tell layouts apart, that the last tensors came and that all did.
    fn check_whole(&self, end: u64, model: &mut Model) -> Result<()> {
        let word = |name: &str| model.header(name).and_then(|n| u64::try_from(n).ok());
        for (name, wanted) in &self.format.detect.shapes {
            let Some(tensor) = model.tensor(name) else { continue };
            let fits =
                |(size, symbol): (&u64, &String)| symbol == "*" || word(symbol) == Some(*size);
            if tensor.shape.len() != wanted.len() || !tensor.shape.iter().zip(wanted).all(fits) {
                let at = tensor.pieces.first().map_or(end, |piece| piece.at);
                let (field, wanted) = (format!("{name}.ne"), wanted.join(" × "));
                return Err(self.source.malformed(
                    at,
                    field,
                    format!("{:?}", tensor.shape),
                    wanted,
                ));
            }
        }
        // Every record is whole, so only what is missing can say that the file was cut between two of them.
        let stops = |wanted: String| {
            let field = format!("tensors[{}]", model.tensors.len());
            Err(self.source.malformed(end, field, "the end of the file", wanted))
        };
        if let Some(name) = self.format.detect.needs.iter().find(|n| model.tensor(n).is_none()) {
            return stops(format!("{name} among the tensors"));
        }
        let Some(wanted) = self.format.tensors_of(&model.header) else { return Ok(()) };
        let found = self.counted(model);
        if found < wanted {
            return stops(format!("{} more tensors ({wanted} in all)", wanted - found));
        }
        if found > wanted {
            let note = format!("{found} tensors, where a whole model has {wanted}");
            model.notes.push(note);
        }
        Ok(())
    }
}

/// Says under GGUF's keys what the header and the shapes of a whole model say.
pub(super) fn fill_metadata(model: &mut Model) {
    if model.header("n_vocab").is_none() {
        return;
    }
    let Some(family) = catalog::family(&model.family) else { return };
    let hyper = Hyper::new(family, Sizes::of(model), Scaling::None);
    model.metadata.set("general.architecture", family.architecture());
    hyper.sizes.symbols().for_each(|symbol| hyper.put(symbol, &mut model.metadata));
}

/// Puts the vocabulary into GGUF's terms; it stays as it is where that cannot be. Where tokens tell another
/// family that lies in the same container, the model is of no known family.
fn vocab_to_gguf(shape: &VocabShape, model: &mut Model) {
    let Some(family) = catalog::family(&model.family) else { return };
    let Some(rule) = &family.tokenizer else { return };
    let tokens = &model.vocab.tokens;
    let other = |text: &String| tokens.iter().any(|token| token == text.as_bytes());
    if family.family.not_with.iter().any(other) {
        model.family.clear();
        return;
    }
    // The embedding has as many rows as this says, whatever the file stores of texts: the rest are unused tokens.
    let count = model.header(&shape.count).and_then(|n| usize::try_from(n).ok());
    if shape.file {
        let of_file = model.vocab.len();
        model.vocab = spelling::behind(rule, |word| model.header(word), &model.vocab);
        model.vocab.fit(count.unwrap_or(of_file).max(of_file));
        return;
    }
    match spelling::read(rule, &shape.spelling, &model.vocab) {
        Ok(spelled) => {
            model.records = std::mem::replace(&mut model.vocab, spelled.vocab);
            while !model.vocab.is_empty() && Some(model.vocab.len()) < count {
                model.vocab.push_unused();
            }
            model.notes.extend(spelled.notes);
        }
        Err(why) => model.notes.push(format!("the vocabulary is kept as it is stored: {why}")),
    }
}

impl Walk<'_> {
    /// Puts the rows of queries, keys and values into the order that GGUF has.
    fn order_rows(&self, model: &mut Model) -> Result<()> {
        let Some(family) = catalog::family(&model.family) else { return Ok(()) };
        let sizes = Sizes::of(model);
        for tensor in &mut model.tensors {
            let Some(role) = Role::of(family, Naming::Old, &tensor.name) else { continue };
            rows::to_gguf(&role, Naming::Old, &sizes, tensor).ok_or_else(|| {
                let at = tensor.pieces.first().map_or(0, |piece| piece.at);
                let (field, found) = (format!("{}.ne", tensor.name), format!("{:?}", tensor.shape));
                self.source.malformed(at, field, found, "rows of whole heads")
            })?;
        }
        Ok(())
    }
}
