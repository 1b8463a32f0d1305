//! GGUF shard sets: `NAME-00001-of-00003.gguf` and its siblings as one model.
//!
//! Only the first shard has the model's metadata; every shard has its own infos and data. Opening any
//! of them opens the set. The `split.*` keys describe files, not the model, so the model has none.

use std::path::{Path, PathBuf};

use super::{OpenOptions, detect, incomplete};
use crate::{
    bytes::Input,
    error::Result,
    model::{Model, Tail},
};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Completes a model that is one shard of a set; any other model is answered as it is.
pub(super) fn complete(model: Model, options: &OpenOptions) -> Result<Model> {
    let Some(count) = model.metadata.u64(COUNT).filter(|n| *n > 1) else {
        return Ok(without_split(model));
    };
    let Some(input) = model.files.first().cloned() else { return Ok(model) };
    let number = model.metadata.u64(NUMBER).unwrap_or(0).saturating_add(1);
    let Some(paths) = siblings(input.path(), number, count) else {
        let looks = format!("is shard {number} of {count}, but its name does not say so");
        let next = format!("rename it to NAME-{number:05}-of-{count:05}.gguf beside the others");
        return Err(incomplete(&input, looks, &next));
    };
    let absent: Vec<String> =
        paths.iter().filter(|p| !p.exists()).map(|p| p.display().to_string()).collect();
    if !absent.is_empty() {
        let looks = format!("is shard {number} of {count}; missing: {}", absent.join(", "));
        let copy = paths.iter().filter(|p| !p.exists()).find_map(|p| super::browser_copy(p));
        let next = copy.map_or("put all shards into one folder".to_owned(), |copy| {
            format!("one is there as {:?}: rename it", copy.file_name().unwrap_or_default())
        });
        return Err(incomplete(&input, looks, &next));
    }
    let mut shards = Vec::new();
    for path in &paths {
        let input = Input::open(path)?;
        shards.push(detect(&input, options)?.sure(&input)?);
    }
    join(shards, count)
}

/// The paths of all shards of a set, if `path` is named as shard `number` of `count`.
fn siblings(path: &Path, number: u64, count: u64) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-{number:05}-of-{count:05}.gguf"))?;
    let sibling = |n| path.with_file_name(format!("{stem}-{n:05}-of-{count:05}.gguf"));
    Some((1..=count.min(99_999)).map(sibling).collect())
}

/// The first shard of the set that `path` is named as a later shard of, where it exists.
pub(super) fn first(path: &Path) -> Option<PathBuf> {
    let (stem, rest) = path.file_name()?.to_str()?.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let later = number.len() == 5 && number.parse::<u32>().is_ok_and(|n| n > 1);
    let first = path.with_file_name(format!("{stem}-00001-of-{rest}"));
    (later && first.is_file()).then_some(first)
}

fn join(shards: Vec<Model>, count: u64) -> Result<Model> {
    let mut whole = Model::default();
    let mut stated = None;
    for (index, shard) in shards.into_iter().enumerate() {
        let Some(input) = shard.files.first().cloned() else { continue };
        let number = shard.metadata.u64(NUMBER).unwrap_or(0);
        if number != index as u64 || shard.metadata.u64(COUNT) != Some(count) {
            let of = shard.metadata.u64(COUNT).unwrap_or(1);
            let looks = format!(
                "holds shard {} of {of}, where shard {} of {count} should be: a copy of another shard or \
                 a file of another set",
                number.saturating_add(1),
                index + 1
            );
            return Err(incomplete(&input, looks, "put the right file in its place"));
        }
        if let Some(name) = shard.tensors.iter().find(|t| whole.tensor(&t.name).is_some()) {
            let looks = format!("holds {}, which an earlier shard holds too", name.name);
            return Err(incomplete(&input, looks, "put the right file in its place"));
        }
        if index == 0 {
            stated = shard.metadata.u64(TENSORS);
            let (tensors, files, tails) = (Vec::new(), Vec::new(), Vec::new());
            whole = Model { tensors, files, tails, ..shard.clone() };
        } else {
            whole.notes.extend(shard.notes);
        }
        whole.files.push(input);
        whole.tails.extend(shard.tails.into_iter().map(|tail| Tail { file: index, ..tail }));
        whole.tensors.extend(shard.tensors.into_iter().map(|mut tensor| {
            tensor.pieces.iter_mut().for_each(|piece| piece.file = index);
            tensor
        }));
    }
    let found = whole.tensors.len() as u64;
    if let (Some(stated), Some(input)) = (stated, whole.files.first())
        && stated != found
    {
        let looks = format!("says that the set holds {stated} tensors; it holds {found}");
        return Err(incomplete(input, looks, "get the whole set again"));
    }
    Ok(without_split(whole))
}

fn without_split(mut model: Model) -> Model {
    for key in [NUMBER, COUNT, TENSORS] {
        model.metadata.remove(key);
    }
    model
}
