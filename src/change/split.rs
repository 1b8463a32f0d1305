//! GGUF files split into shards and joined again, each tensor's bytes as they are.
//!
//! Shards are those of llama-gguf-split, name for name and byte for byte: tensors stay in their order, a new
//! shard begins where the next one would be too large or have too many, the first has the model's
//! metadata and all have the keys that say their place. Joined, they are the file that was split.

use std::path::{Path, PathBuf};

use super::{
    Plan, Step, Target,
    output::{is_written_as_folder, place},
};
use crate::{
    container::{keyed::DEFAULT_ALIGNMENT, notes_of_new, shards},
    error::{Error, Result},
    model::Model,
};

/// Where a new shard begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Most {
    /// After N tensors.
    Tensors(u64),
    /// Before the tensor that would bring the data of its shard beyond N bytes.
    Bytes(u64),
}

/// What a person asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The beginning of the shards' names, or a folder for them; by default the input's own.
    pub output: Option<PathBuf>,
    /// How much a shard holds.
    pub most: Most,
    /// Whether the first shard holds the metadata alone.
    pub bare_first: bool,
}

impl Default for Options {
    /// As llama-gguf-split does it: 128 tensors a shard, beside the input.
    fn default() -> Self {
        Options { output: None, most: Most::Tensors(128), bare_first: false }
    }
}

/// The plans of the shards of `model`.
///
/// # Errors
/// Where it is no GGUF, or there would be more shards than their keys can count.
pub fn split(model: &Model, options: &Options) -> Result<Vec<Plan>> {
    let target = Target::own(model)?;
    let groups = groups(model, options);
    let whole = model.files.first().map(|f| f.path().to_owned()).unwrap_or_default();
    let named = options.output.as_deref();
    let as_folder = named.is_some_and(|out| out.is_dir() || is_written_as_folder(out));
    let prefix = match named.filter(|_| !as_folder) {
        Some(prefix) => prefix.to_owned(),
        None => place(named, 1, folder(&whole), &stem(&whole)),
    };
    let prefix = prefix.display().to_string();
    let prefix = prefix.strip_suffix(".gguf").unwrap_or(&prefix);
    // split.no and split.count are u16, split.tensors.count is i32.
    let (count, tensors) = (u16::try_from(groups.len()), i32::try_from(model.tensors.len()));
    let (Ok(count), Ok(tensors)) = (count, tensors) else {
        let what = format!("{} shards are more than their keys can count", groups.len());
        return Err(Error::refused(what, "let a shard hold more"));
    };
    let mut plans = Vec::new();
    for (number, group) in (0..count).zip(groups) {
        let path = PathBuf::from(shards::name(prefix, u64::from(number) + 1, count.into()));
        let mut plan = Plan { keep_nan: true, ..Plan::new(path, target) };
        if number == 0 {
            (plan.metadata, plan.header) = (model.metadata.clone(), model.header.clone());
            plan.notes = notes_of_new(model, true);
        }
        for (key, value) in shards::keys(number, tensors, count) {
            plan.metadata.push(key.to_owned(), value);
        }
        let tensor = |n: usize| Some(Step::copy(n, model.tensors.get(n)?));
        plan.steps = group.into_iter().filter_map(tensor).collect();
        plan.lay_out()?;
        plan.pad_header();
        plans.push(plan);
    }
    Ok(plans)
}

/// The tensors of every shard.
fn groups(model: &Model, options: &Options) -> Vec<Vec<usize>> {
    let mut groups = vec![Vec::new()];
    if options.bare_first {
        groups.push(Vec::new());
    }
    let mut bytes = 0;
    for (n, tensor) in model.tensors.iter().enumerate() {
        // With its padding, as it will lie in the file.
        let own = tensor.bytes().next_multiple_of(DEFAULT_ALIGNMENT);
        let full = match options.most {
            Most::Tensors(most) => n > 0 && (n as u64).is_multiple_of(most),
            // A tensor that is larger by itself has a shard of its own.
            Most::Bytes(most) => bytes > 0 && bytes + own > most,
        };
        if full {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += own;
        if let Some(group) = groups.last_mut() {
            group.push(n);
        }
    }
    groups
}

/// The plan of the one file that the shards of `model` make.
///
/// # Errors
/// Where it is no GGUF.
pub fn join(model: &Model, output: Option<&Path>) -> Result<Plan> {
    let target = Target::own(model)?;
    let first = model.files.first().map(|f| f.path().to_owned()).unwrap_or_default();
    let stem = stem(&first);
    let name = match model.files.len() {
        1 => format!("{stem}-joined.gguf"),
        _ => format!("{stem}.gguf"),
    };
    let mut plan = Plan {
        metadata: model.metadata.clone(),
        header: model.header.clone(),
        steps: Step::all(model).collect(),
        notes: notes_of_new(model, true),
        keep_nan: true,
        ..Plan::new(place(output, 1, folder(&first), &name), target)
    };
    plan.lay_out()?;
    Ok(plan)
}

/// The folder of a file, empty for a bare name.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// A file's name without its ending and what makes it one of a set.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    shards::cut(name.strip_suffix(".gguf").unwrap_or(&name)).0.to_owned()
}
