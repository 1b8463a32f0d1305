//! Tensors left out of a GGUF, or taken from another one: blocks that predict further tokens, vision tensors that
//! are wanted in a file of their own, a tensor that was lost.
//!
//! Counts and arrays of one item a block follow: they shrink with the last blocks, and grow with those of the other
//! file, from whose metadata they then come.
//!
//! ```text
//! model of 2 blocks, drop blk.1         blk.0                    block_count 1
//! the same, take blk.2 from another     blk.0 blk.1 blk.2        block_count 3, arrays from the other file
//! drop blk.0                            blk.1 alone              refused: blocks are counted from 0, without gaps
//! ```
//!
//! What is taken is not copied: the model gets the other file among its own, and the tensor says that its bytes lie
//! there.

use std::{collections::BTreeSet, path::PathBuf};

use regex::Regex;

use super::{choose::mix, prune};
use crate::{
    bytes::Input,
    container::{self, OpenOptions},
    error::{Error, Result, named},
    format::catalog,
    model::{Metadata, Model, Tensor},
    remedy::{Call, Notes, Remedy, Setting},
    size,
};

/// Which tensors go and which come.
#[derive(Clone, Debug, Default)]
pub struct Graft {
    /// Tensors whose names one of these finds are left out.
    pub drop: Vec<Regex>,
    /// Tensors of other files whose names these find are taken.
    pub take: Vec<(PathBuf, Regex)>,
}

impl Graft {
    /// Changes the model as asked; `notes` say what was done.
    ///
    /// # Errors
    /// Where nothing has such a name, a tensor is there already, or counts would be wrong afterwards.
    pub(super) fn apply(&self, model: &mut Model, notes: &mut Notes) -> Result<()> {
        if self.drop.is_empty() && self.take.is_empty() {
            return Ok(());
        }
        if !super::keys::are_gguf(model) {
            let what = "tensors are left out of GGUF files, and taken into them, and this is none";
            return Err(Error::unsupported(what, "upgrade the file first, then its GGUF"));
        }
        for pattern in &self.drop {
            leave_out(model, pattern, notes)?;
        }
        // Each file is opened once and kept: counts of blocks may have to come from it.
        let mut others = Vec::new();
        for (path, pattern) in &self.take {
            let limits = model.limits;
            let other = container::open(path, &OpenOptions { limits, ..OpenOptions::default() })?;
            take(model, &other, pattern, notes)?;
            others.push(other);
        }
        counts(model, &others, notes)
    }
}

/// Leaves out every tensor that a pattern finds, and the keys of vision where no vision tensor is left.
fn leave_out(model: &mut Model, pattern: &Regex, notes: &mut Notes) -> Result<()> {
    // By one pattern at a time, so that one which finds nothing is named.
    let mut gone: Vec<Tensor> = Vec::new();
    model.tensors.retain(|tensor| {
        let found = pattern.is_match(&tensor.name);
        gone.extend(found.then(|| tensor.clone()));
        !found
    });
    if gone.is_empty() {
        let what = format!("the pattern {pattern}, to be left out, finds no tensor");
        return Err(Error::refused(what, names()));
    }
    if model.tensors.is_empty() {
        let what = format!(
            "the pattern {pattern}, to be left out, finds every tensor: nothing would be left"
        );
        return Err(Error::refused(what, names()));
    }
    notes.push(format!("left out: {}", told(&gone)));
    let had_vision = gone.iter().any(|t| is_vision(&t.name));
    if had_vision && !model.tensors.iter().any(|t| is_vision(&t.name)) {
        let start = format!("{}.vision.", model.metadata.architecture());
        let keys: Vec<String> = model.metadata.iter().map(|(key, _)| key.to_owned()).collect();
        let of_vision =
            keys.iter().filter(|key| key.starts_with(&start) || key.starts_with("clip."));
        let gone = of_vision.filter(|key| model.metadata.remove(key).is_some()).count();
        if gone > 0 {
            notes.push(format!("{gone} keys that speak of vision left out too"));
        }
    }
    Ok(())
}

/// Whether a name is one of a vision tower (`v.`) or of what leads from it into the text model (`mm.`), as llama.cpp and
/// Ollama call them.
pub(super) fn is_vision(name: &str) -> bool {
    name.starts_with("v.") || name.starts_with("mm.")
}

/// What to do where a pattern finds no tensor.
fn names() -> Remedy {
    Call::Tensors.on("FILE").to("look at their names")
}

/// Takes the tensors that a pattern finds in another file. Their bytes stay there: the model gets that file too.
/// A tensor that is there already is not replaced: which of the two is meant, a person says by leaving one out.
fn take(model: &mut Model, other: &Model, pattern: &Regex, notes: &mut Notes) -> Result<()> {
    let from = other.files.first().map(Input::name).unwrap_or_default();
    let found = other.tensors.iter().filter(|tensor| pattern.is_match(&tensor.name));
    let mut found: Vec<Tensor> = found.cloned().collect();
    if found.is_empty() {
        let what = format!("the pattern {pattern}, to be taken from {from}, finds no tensor");
        return Err(Error::refused(what, names()));
    }
    if let Some(there) = found.iter().find(|tensor| model.tensor(&tensor.name).is_some()) {
        let what = format!("to be taken from {from}: {} is there already", there.name);
        return Err(Error::refused(what, Setting::Drop.to("leave the model's own out")));
    }
    let before = model.files.len();
    for piece in found.iter_mut().flat_map(|tensor| &mut tensor.pieces) {
        // Their files come behind the model's own.
        piece.file += before;
    }
    notes.push(format!("taken from {}: {}", named(from.as_ref()), told(&found)));
    model.files.extend(other.files.iter().cloned());
    for tensor in found {
        // Where the other file has it: behind the nearest tensor before it there that is here too.
        let before = other.tensors.iter().take_while(|t| t.name != tensor.name);
        let place = |t: &Tensor| model.tensors.iter().position(|own| own.name == t.name);
        let at = before.filter_map(place).last().map_or(model.tensors.len(), |at| at + 1);
        model.tensors.insert(at, tensor);
    }
    Ok(())
}

/// Some tensors as a person is told of them.
fn told(tensors: &[Tensor]) -> String {
    let bytes = size::text(tensors.iter().map(Tensor::bytes).sum());
    let first = tensors.first().map_or("", |tensor| tensor.name.as_str());
    match tensors.len() {
        1 => format!("{first}, {bytes}"),
        n => {
            let more = size::counted(n - 1, "more tensor", "more tensors");
            format!("{first} and {more}, {bytes}")
        }
    }
}

/// Makes counts and arrays fit the blocks that are there.
///
/// # Errors
/// Where a block in between would have no tensors, or more blocks come and no other file says what they are like.
fn counts(model: &mut Model, others: &[Model], notes: &mut Notes) -> Result<()> {
    let architecture = model.metadata.architecture().to_owned();
    let key = format!("{architecture}.block_count");
    let Some(stated) = model.metadata.u64(&key) else { return Ok(()) };
    // The blocks that have tensors, `blk.N.…`, after all that was left out and taken.
    let present: BTreeSet<u64> =
        model.tensors.iter().filter_map(|t| mix::block_of(&t.name)).collect();
    let now = present.last().map_or(0, |last| last + 1);
    // Readers count blocks from 0 on, without gaps.
    if let Some(gap) = (0..now).find(|n| !present.contains(n)) {
        let what = format!("block {gap} would have no tensors, and block {} would", now - 1);
        return Err(Error::refused(
            what,
            Remedy::from("leave out blocks from the end only")
                .or(Call::Quantize.on("").with(Setting::PruneLayers).to("leave out any")),
        ));
    }
    if now == stated || now == 0 {
        return Ok(());
    }
    let Ok(count) = u32::try_from(now) else { return Ok(()) };
    if now < stated {
        // Arrays of one item a block lose the items of those that went.
        prune::counts(&mut model.metadata, &(now..stated).collect());
        // A count of 0 says no more than no key, which files without such blocks have.
        let ahead = format!("{architecture}.nextn_predict_layers");
        if model.metadata.u64(&ahead) == Some(0) {
            model.metadata.remove(&ahead);
        }
    } else {
        // Only a file whose own count is the new one knows what each block has.
        let fits = |other: &&Model| {
            other.metadata.architecture() == architecture && other.metadata.u64(&key) == Some(now)
        };
        let Some(other) = others.iter().find(fits) else {
            let what = format!("there would be {now} blocks, and {key} is {stated}");
            return Err(Error::refused(
                what,
                "take blocks from a file of the same architecture that has as many",
            ));
        };
        grow(&mut model.metadata, &other.metadata, &architecture);
    }
    model.metadata.set(key.clone(), count);
    notes.push(format!("{key} is {count}, no longer {stated}"));
    Ok(())
}

/// Takes what is said of each block, and of blocks that predict further tokens, from the other file.
///
/// A single number that is true of every block stays; an array has an item for each, and can only come as a whole.
fn grow(metadata: &mut Metadata, other: &Metadata, architecture: &str) {
    let per_block = catalog::loader().per_block.iter().map(String::as_str);
    for word in per_block.chain(["nextn_predict_layers"]) {
        let key = format!("{architecture}.{word}");
        let is_array =
            |value: &&crate::model::Value| word.starts_with("nextn") || value.as_array().is_some();
        if let Some(value) = other.get(&key).filter(is_array) {
            metadata.set_as(&key, value.clone(), other);
        }
    }
}
