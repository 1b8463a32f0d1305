//! GGUF shard sets: `NAME-00001-of-00003.gguf` and its siblings as one model.
//!
//! ```text
//! shard 1    split.no 0  split.count 3  split.tensors.count N    the model's keys    infos    data
//! shard 2    split.no 1  split.count 3  split.tensors.count N                        infos    data
//! ```
//!
//! Only the first shard has the model's metadata; every shard has its own infos and data. Opening any
//! of them opens the set. The `split.*` keys describe files, not the model, so the model has none.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{
    OpenOptions, detect,
    set::{browser_copy, incomplete},
    start::is_start,
};
use crate::{
    bytes::Input,
    error::{Error, Result},
    model::{Model, Tail, Value},
    remedy::{Call, Fault, Note},
};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Files of one set that are open at once; those of a larger set are opened when they are read.
const MOST_OPEN: usize = 64;

/// The name of shard `number` of `count`, from 1 on, as llama.cpp looks for it.
pub fn name(prefix: &str, number: u64, count: u64) -> String {
    format!("{prefix}-{number:05}-of-{count:05}.gguf")
}

/// What is before the number of a shard, and its number and count, in a name without its ending: `model` and
/// `-00002-of-00003`. All of another name is before.
pub fn cut(stem: &str) -> (&str, &str) {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let base = || {
        let (head, count) = stem.rsplit_once("-of-")?;
        let (base, own) = head.rsplit_once('-')?;
        (number(own) && number(count)).then_some(base.len())
    };
    stem.split_at(base().unwrap_or(stem.len()))
}

/// The keys that say which shard of `count` this is, from 0 on, in the order in which llama-gguf-split
/// writes them.
pub fn keys(number: u16, tensors: i32, count: u16) -> [(&'static str, Value); 3] {
    let count = (COUNT, Value::U16(count));
    [(NUMBER, Value::U16(number)), (TENSORS, Value::I32(tensors)), count]
}

/// Whether a file holds several shards, one behind the other, as `cat` leaves them.
///
/// # Errors
/// Where it cannot be read.
pub fn is_row(path: &Path, options: &OpenOptions) -> Result<bool> {
    let input = Input::open(path)?;
    let model = detect(&input, options)?.sure(&input);
    model.map_or(Ok(false), |model| Ok(next(&model)?.is_some()))
}

/// Opens the shards that are in `paths`, whatever these are called and in whatever order, as one model.
///
/// Their order is that of `split.no`, so a set that was renamed can be put together.
///
/// # Errors
/// Where a file is no shard, is there twice or one is missing.
pub fn gather(paths: &[PathBuf], options: &OpenOptions) -> Result<Model> {
    let mut shards = Vec::new();
    for path in paths {
        let mut rest = Some(Input::open(path)?);
        // A file may hold several, as `cat` leaves them: each begins where the one before ended.
        while let Some(input) = rest.take() {
            let shard = detect(&input, options)?.sure(&input)?;
            rest = next(&shard)?;
            if shard.metadata.u64(COUNT).is_none_or(|count| count < 2) {
                let looks = "is no shard of a set".to_owned();
                return Err(incomplete(&input, looks, Call::Inspect.to("see what it is")));
            }
            shards.push(Model { tails: Vec::new(), ..shard });
        }
    }
    // By what they say of themselves: names were not asked.
    shards.sort_by_key(|shard| shard.metadata.u64(NUMBER));
    let Some(count) = shards.first().and_then(|shard| shard.metadata.u64(COUNT)) else {
        return Err(Error::usage("name the shards".to_owned()));
    };
    let has = |n: &u64| shards.iter().any(|shard| shard.metadata.u64(NUMBER) == Some(*n));
    let missing: Vec<String> =
        (0..count.min(99_999)).filter(|n| !has(n)).map(|n| (n + 1).to_string()).collect();
    if let (false, Some(input)) = (missing.is_empty(), shards.first().and_then(|s| s.files.first()))
    {
        let looks = format!("is of a set of {count}; missing: shard {}", missing.join(", "));
        return Err(incomplete(input, looks, "name all shards of the set"));
    }
    join(shards, count)
}

/// What follows the data of a shard, where that is a model again.
fn next(model: &Model) -> Result<Option<Input>> {
    let (Some(input), Some(tail)) = (model.files.first(), model.tails.first()) else {
        return Ok(None);
    };
    let mut head = vec![0; usize::try_from(tail.bytes.min(16)).unwrap_or(0)];
    input.read_at(tail.at, &mut head)?;
    Ok(is_start(&head).then(|| input.from(tail.at)))
}

/// Completes a model that is one shard of a set; any other model is returned as it is.
///
/// ```text
/// no split.count, or 1               it is whole
/// another shard behind its data      several in one file: each is read where it begins
/// all tensors of the set             the keys were left over
/// named as a shard                   the others are looked for beside it, by their names
/// ```
///
/// # Errors
/// Where shards are missing, or the name does not say which the others are.
pub(super) fn complete(model: Model, options: &OpenOptions) -> Result<Model> {
    let Some(count) = model.metadata.u64(COUNT).filter(|n| *n > 1) else {
        return Ok(without_split(model));
    };
    let Some(input) = model.files.first().cloned() else { return Ok(model) };
    let number = model.metadata.u64(NUMBER).unwrap_or(0).saturating_add(1);
    if next(&model)?.is_some() {
        let mut whole = gather(&[input.path().to_owned()], options)?;
        let text = format!(
            "holds {} shards, one behind the other, as cat leaves them: today's llama.cpp refuses such a file",
            whole.files.len()
        );
        whole.notes.push(Note::of(Fault::Form, text));
        return Ok(whole);
    }
    if is_all(&model) {
        let text = format!(
            "{COUNT} is {count}, and all tensors of the set are here (llama-quantize of early 2024 left such keys): \
             today's llama.cpp looks for the other files"
        );
        let mut whole = without_split(model);
        whole.notes.push(Note::of(Fault::Form, text));
        return Ok(whole);
    }
    let Some(paths) = siblings(input.path(), number, count) else {
        let looks = format!("is shard {number} of {count}, but its name does not say so");
        let next = format!("rename it to NAME-{number:05}-of-{count:05}.gguf beside the others");
        return Err(incomplete(&input, looks, next));
    };
    let absent: Vec<String> =
        paths.iter().filter(|p| !p.exists()).map(|p| p.display().to_string()).collect();
    if !absent.is_empty() {
        let looks = format!("is shard {number} of {count}; missing: {}", absent.join(", "));
        let copy = paths.iter().filter(|p| !p.exists()).find_map(|p| browser_copy(p));
        let next = copy.map_or("put all shards into one folder".to_owned(), |copy| {
            format!("one is there as {:?}: rename it", copy.file_name().unwrap_or_default())
        });
        return Err(incomplete(&input, looks, next));
    }
    let mut shards = Vec::new();
    for path in &paths {
        let input = Input::open(path)?;
        let mut shard = detect(&input, options)?.sure(&input)?;
        if paths.len() > MOST_OPEN {
            shard.files = vec![input.late()];
        }
        shards.push(shard);
    }
    join(shards, count)
}

/// Whether a first shard has every tensor of its set: a file that was made of all shards and kept their keys. No program
/// makes later shards without tensors.
fn is_all(model: &Model) -> bool {
    let tensors = model.tensors.len() as u64;
    tensors > 0
        && model.metadata.u64(NUMBER) == Some(0)
        && model.metadata.u64(TENSORS) == Some(tensors)
}

/// The paths of all shards of a set, if `path` is named as shard `number` of `count`.
fn siblings(path: &Path, number: u64, count: u64) -> Option<Vec<PathBuf>> {
    let own = path.file_name()?.to_str()?;
    let stem = own.strip_suffix(&format!("-{number:05}-of-{count:05}.gguf"))?;
    let sibling = |n| path.with_file_name(name(stem, n, count));
    Some((1..=count.min(99_999)).map(sibling).collect())
}

/// The first shard of the set that `path` is named as a later shard of, where it exists.
pub(super) fn first(path: &Path) -> Option<PathBuf> {
    let (stem, rest) = path.file_name()?.to_str()?.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    // A browser's second download of a shard is none by its name, and still of this set.
    let copy = |(count, _): (&str, &str)| format!("{count}.gguf");
    let rest = rest.split_once(" (").map_or(rest.to_owned(), copy);
    // Names are those of llama-gguf-split, with five digits: nothing else is looked for.
    let later = number.len() == 5 && number.parse::<u32>().is_ok_and(|n| n > 1);
    let first = path.with_file_name(format!("{stem}-00001-of-{rest}"));
    (later && first.is_file()).then_some(first)
}

/// The shards, in order, as one model: the first one's metadata, the tensors of all.
///
/// # Errors
/// Where a shard is not the one that its place asks for, holds a tensor again, or there are not as many tensors as the
/// first says.
fn join(shards: Vec<Model>, count: u64) -> Result<Model> {
    let mut whole = Model::default();
    let (mut stated, mut names) = (None, HashSet::new());
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
        if let Some(twice) = shard.tensors.iter().find(|t| !names.insert(t.name.clone())) {
            let looks = format!("holds {}, which an earlier shard holds too", twice.name);
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
            // Alone a shard's file is number 0; in the set it is this one.
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

/// The model without the keys that say which file of a set it is.
fn without_split(mut model: Model) -> Model {
    for key in [NUMBER, COUNT, TENSORS] {
        model.metadata.remove(key);
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_numbers_of_a_shard_are_cut_off() {
        assert_eq!(cut(name("a-b", 2, 3).trim_end_matches(".gguf")), ("a-b", "-00002-of-00003"));
        for other in ["model", "my-proof-of-concept", "a-1-of-2", "00001-of-00002", ""] {
            assert_eq!(cut(other), (other, ""));
        }
    }
}
