//! Where edited metadata goes: into new files, or into the header of the file that has it.
//!
//! ```text
//! new file      the edited header, tensors at new places            a plan of copies, one for each file of a set
//! in place      bytes of the header from the first to the last that differ
//!               only where no tensor would move: the header keeps its length up to padding
//! ```
//!
//! The second is written through a journal (`bytes::journal`): killed at any moment, the file is as before, or the next
//! call completes it.

use std::path::{Path, PathBuf};

use super::{
    Difference, Edit, apply, differences,
    rules::{self, Demands},
};
use crate::{
    bytes::{Input, journal},
    change::{Plan, Step, Target, output::place},
    container::{self, OpenOptions, keyed::data_start, shards},
    error::{Error, Result},
    model::{Metadata, Model, Tensor, Vocab},
};

/// What edits do to a model: the plans of its files, each with its own metadata, and what differs.
///
/// `output` names the new file, or the folder for it; beside the input by default. Every file of a set of
/// shards is planned, for a set is only whole with all of them.
///
/// # Errors
/// Where the model is no GGUF, an edit cannot be done or llama.cpp would refuse its result, unless that is waived.
pub fn plans(
    model: &Model,
    edits: &[Edit],
    output: Option<&Path>,
    demands: Demands,
) -> Result<(Vec<Plan>, Vec<Difference>)> {
    let target = Target::own(model)?;
    let mut keys = model.metadata.clone();
    apply(&mut keys, edits)?;
    let changed = differences(&model.metadata, &keys);
    let vocab = Vocab::from_metadata(&keys);
    let after = Model { metadata: keys.clone(), vocab, ..model.clone() };
    rules::check(model, &after, &changed, demands)?;
    let mut plans = Vec::new();
    for (index, file) in model.files.iter().enumerate() {
        let own = own_metadata(file, model)?;
        let in_file = |t: &&Tensor| t.pieces.first().is_some_and(|piece| piece.file == index);
        let mut plan = Plan {
            metadata: if index == 0 { with_split(&keys, &own) } else { own },
            header: model.header.clone(),
            steps: Step::all(model)
                .filter(|s| source(model, s).as_ref().is_some_and(in_file))
                .collect(),
            keep_nan: true,
            ..Plan::new(renamed(file.path(), output), target)
        };
        plan.lay_out()?;
        plans.push(plan);
    }
    Ok((plans, changed))
}

/// The bytes of a file's header that an edit changes, where no tensor has to move.
#[derive(Debug)]
pub struct Patch<'a> {
    file: &'a Input,
    at: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Patch<'_> {
    /// What has to be written into the file of the first of `plans`.
    ///
    /// # Errors
    /// [`Error::Refused`] where the tensors would not stay where they are.
    pub fn new<'a>(model: &'a Model, plans: &[Plan]) -> Result<Patch<'a>> {
        let (Some(plan), Some(file)) = (plans.first(), model.files.first()) else {
            return Err(Error::unsupported("a model without a file", ""));
        };
        let place = |step: &Step| source(model, step)?.contiguous().map(|(_, at)| at);
        let places = plan.steps.iter().map(place);
        let header = plan.layout.chunks.first().map(|(_, bytes)| bytes.as_slice());
        let mut after = header.unwrap_or_default().to_vec();
        let stay = places.eq(plan.layout.data.iter().map(|at| Some(*at)));
        if plan.steps.is_empty() && file.len() == data_start(&plan.metadata, after.len() as u64) {
            after.resize(usize::try_from(file.len()).unwrap_or(after.len()), 0);
        }
        if !stay || plan.steps.is_empty() && after.len() as u64 != file.len() {
            let what = format!("{}: the tensors would not stay where they are", file.name());
            return Err(Error::refused(what, "write a new file instead"));
        }
        let mut before = vec![0; after.len()];
        file.read_at(0, &mut before)?;
        let differ = |(a, b): (&u8, &u8)| a != b;
        let first = before.iter().zip(&after).position(differ).unwrap_or(after.len());
        let last = before.iter().zip(&after).rposition(differ).map_or(first, |last| last + 1);
        for bytes in [&mut before, &mut after] {
            bytes.truncate(last);
            bytes.drain(..first);
        }
        Ok(Patch { file, at: first as u64, before, after })
    }

    /// How many bytes lie between the first and the last that changes.
    pub fn len(&self) -> usize {
        self.after.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.after.is_empty()
    }

    /// Writes them into the file; returns how many.
    ///
    /// # Errors
    /// Where the file has changed meanwhile or cannot be written.
    pub fn write(&self) -> Result<usize> {
        self.file.check_unchanged()?;
        if !self.is_empty() {
            let (path, len) = (self.file.path(), self.file.len());
            journal::rewrite(path, len, self.at, &self.before, &self.after)?;
        }
        Ok(self.len())
    }
}

/// The metadata of one file of a model as it has it, with what says its place in a set.
/// A set that is open has the keys of its first file without those that say so; of each file they are read again.
fn own_metadata(file: &Input, model: &Model) -> Result<Metadata> {
    if model.files.len() == 1 {
        return Ok(model.metadata.clone());
    }
    let (format, limits) = (Some(model.format.clone()), model.limits);
    let options = OpenOptions { format, limits, ..OpenOptions::default() };
    Ok(container::open_alone(file, &options)?.metadata)
}

/// `keys` with the keys of `own` that say a file's place in a set, where these are there.
///
/// They come back to the places that they had, so that an edit of one value changes the bytes of that value alone.
fn with_split(keys: &Metadata, own: &Metadata) -> Metadata {
    let mut all = Metadata::new();
    let place = |key: &str| own.iter().position(|(own, _)| own == key).unwrap_or(usize::MAX);
    let split = own.iter().filter(|(key, _)| key.starts_with("split."));
    let mut left = split.map(|(key, value)| (place(key), key, value)).peekable();
    let mut put = |all: &mut Metadata, before: usize| {
        while let Some((_, key, value)) = left.next_if(|(at, ..)| *at < before) {
            all.push(key.to_owned(), value.clone());
        }
    };
    for (key, value) in keys.iter() {
        put(&mut all, place(key));
        all.push(key.to_owned(), value.clone());
    }
    put(&mut all, usize::MAX);
    all
}

/// The tensor that a step is of.
fn source<'a>(model: &'a Model, step: &Step) -> Option<&'a Tensor> {
    model.tensors.get(step.source)
}

/// Where the edited copy of `file` goes: `-edited` is before what makes it one of a set.
fn renamed(file: &Path, output: Option<&Path>) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (base, rest) = shards::cut(name.strip_suffix(".gguf").unwrap_or(&name));
    let folder = file.parent().unwrap_or(Path::new(""));
    let named = output.map(|out| {
        let text = out.to_string_lossy().into_owned();
        // A set takes its numbers along, whatever it is called.
        let own = text.strip_suffix(".gguf").filter(|_| !rest.is_empty() && !out.is_dir());
        own.map_or(out.to_owned(), |own| PathBuf::from(format!("{own}{rest}.gguf")))
    });
    let fresh = match &named {
        None => format!("{base}-edited{rest}.gguf"),
        Some(_) => name.clone(),
    };
    place(named.as_deref(), 1, folder, &fresh)
}
