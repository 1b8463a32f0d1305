//! Sets of parts: `x.bin`, `x.bin.1`, `x.bin.2` … as one model.
//!
//! ```text
//! part 0     header  vocabulary  wq rows 0..n/2     wo columns 0..n/2      norm
//! part 1     header  vocabulary  wq rows n/2..n     wo columns n/2..n      norm
//! ```
//!
//! Every part has the whole header, the whole vocabulary and every tensor's name; matrices are cut by
//! rows or by columns as the family's table says, vectors are in every part. How many parts belong
//! together follows from the width of the first part's token embedding.

use std::path::{Path, PathBuf};

use super::{OpenOptions, detect, set::incomplete};
use crate::{
    bytes::Input,
    error::{Error, Result},
    format::{catalog, family::Split},
    model::{Join, Model, Naming, Piece, Role, Tail, Tensor},
};

/// The most parts that a set may have; the largest LLaMA had eight.
const MOST: u64 = 64;

/// Bytes of two parts that are compared to find one part copied over another.
const SAMPLE: u64 = 64 << 10;

/// Bytes of the longest row that is compared.
const LONGEST: u64 = 1 << 20;

/// The path of a set's first part, where `path` is a later one and the first exists.
pub(super) fn first(path: &Path) -> PathBuf {
    let base = path.with_extension("");
    if number(path).is_some() && base.is_file() { base } else { path.to_owned() }
}

/// The number of a later part, by the end of its name.
fn number(path: &Path) -> Option<u64> {
    let end = path.extension()?.to_str()?;
    end.parse().ok().filter(|n| (1..MOST).contains(n))
}

/// Part `n` of the set that begins with `first`.
fn part(first: &Path, n: u64) -> PathBuf {
    let mut name = first.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Completes a model that is the first part of a set; any other model is returned as it is.
///
/// llama.cpp had a table of widths until April 2023 (4096 one part, 5120 two, 6656 four, 8192 eight), which was wrong
/// for models that somebody had put together, so `--n_parts` was there to say it. Shapes tell it of either.
///
/// # Errors
/// Where a part is missing or is of another model, or a person says another number than the shapes do.
pub(super) fn complete(mut model: Model, options: &OpenOptions) -> Result<Model> {
    let parts = catalog::container(&model.format).is_some_and(|c| c.tensors.parts);
    let Some(input) = model.files.first().cloned().filter(|_| parts) else { return Ok(model) };
    let Some(expected) = expected(&model, &input)? else { return Ok(model) };
    if expected > 1
        && let Some(n) = number(input.path())
    {
        let base = input.path().with_extension("");
        let looks = format!("is part {n} of {expected}; missing: {}", base.display());
        return Err(incomplete(&input, looks, "put all parts into one folder"));
    }
    if let Some(said) = options.n_parts
        && u64::from(said) != expected
    {
        let what =
            format!("{}: its shapes are those of {expected} parts, not {said}", input.name());
        return Err(Error::refused(what, "let the shapes tell how many there are"));
    }
    let extra = part(input.path(), expected);
    if extra.exists() {
        model.notes.push(format!("{} does not belong to it and was not read", extra.display()));
    }
    if expected == 1 {
        return Ok(model);
    }
    let paths: Vec<PathBuf> = (1..expected).map(|n| part(input.path(), n)).collect();
    let absent: Vec<String> =
        paths.iter().filter(|p| !p.exists()).map(|p| p.display().to_string()).collect();
    if !absent.is_empty() {
        let looks = format!("is the first of {expected} parts; missing: {}", absent.join(", "));
        return Err(incomplete(&input, looks, "put all parts into one folder"));
    }
    let options = OpenOptions { format: Some(model.format.clone()), ..options.clone() };
    let mut all = vec![model];
    for path in &paths {
        let input = Input::open(path)?;
        let model = detect(&input, &options)?.sure(&input)?;
        check_part(&all, &model, &input)?;
        all.push(model);
    }
    join(all)
}

/// How many parts a set has, by the shapes of its first.
///
/// `n_embd` over the row length of a matrix that is cut by columns: 4096 over 4096 is one part, 8192 over 1024 eight.
/// None where the family has no such matrix.
///
/// # Errors
/// Where it is no whole number: header and tensors are then of different models.
fn expected(model: &Model, input: &Input) -> Result<Option<u64>> {
    let Some(family) = catalog::family(&model.family) else { return Ok(None) };
    // The first matrix that is cut by columns: its rows are as long as the model is wide, divided by the parts.
    let split = model.tensors.iter().find_map(|t| {
        let role = Role::of(family, Naming::Old, &t.name)?;
        (role.split() == Split::Columns && role.names.shape.last()? == "n_embd").then_some(t)
    });
    let width = model.header("n_embd").and_then(|n| u64::try_from(n).ok());
    let (Some(tensor), Some(width)) = (split, width) else { return Ok(None) };
    let here = tensor.row_len();
    let parts = width / here;
    // No remainder: the cut is even in every set that Meta published.
    if parts * here != width || !(1..=MOST).contains(&parts) {
        let looks = format!("{} is {here} wide in a model {width} wide", tensor.name);
        return Err(incomplete(input, looks, "the header and the tensors are of different models"));
    }
    Ok(Some(parts))
}

/// Checks that `model` is a further part of the set whose first parts are `all`.
fn check_part(all: &[Model], model: &Model, input: &Input) -> Result<()> {
    let Some(first) = all.first() else { return Ok(()) };
    let of = |model: &Model| model.files.first().map(Input::name).unwrap_or_default();
    let wrong = |looks: String| {
        let what = format!("{}: {looks}: these are parts of different models", input.name());
        Err(Error::refused(what, "put the parts of one model into one folder"))
    };
    // Every part was written by the same run, so whatever is not cut is the same byte for byte.
    // From the cheapest to the dearest: header words, tokens, shapes, then bytes.
    for ((name, one), (_, two)) in first.header.iter().zip(&model.header) {
        if one != two {
            return wrong(format!("says {name} {two}, {} says {one}", of(first)));
        }
    }
    if first.vocab != model.vocab {
        return wrong("has another vocabulary than the first part".to_owned());
    }
    if first.tensors.len() != model.tensors.len() {
        let (one, two) = (first.tensors.len(), model.tensors.len());
        return wrong(format!("has {two} tensors, the first part {one}"));
    }
    for (one, two) in first.tensors.iter().zip(&model.tensors) {
        if (&one.name, one.quant, &one.shape) != (&two.name, two.quant, &two.shape) {
            return wrong(format!(
                "{} {:?} {} is where the first part has {} {:?} {}",
                two.name, two.shape, two.quant, one.name, one.shape, one.quant
            ));
        }
    }
    for other in all {
        if is_copy(other, model)? {
            return wrong(format!("is a copy of {}", of(other)));
        }
    }
    match differing(first, model)? {
        Some(name) => wrong(format!("{name} differs from that of {}", of(first))),
        None => Ok(()),
    }
}

/// The first tensor that every part repeats whole and that is not the same in two.
fn differing<'a>(one: &'a Model, two: &Model) -> Result<Option<&'a str>> {
    let family = catalog::family(&one.family);
    for (a, b) in one.tensors.iter().zip(&two.tensors) {
        let role = family.and_then(|f| Role::of(f, Naming::Old, &a.name));
        if role.is_some_and(|r| r.split() != Split::Copies) {
            continue;
        }
        // Vectors that every part repeats are small, and read whole: in parts of two models they differ.
        let step = (SAMPLE / a.row_bytes().max(1)).max(1);
        for first in (0..a.rows()).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let rows = step.min(a.rows() - first);
            let mut bytes = vec![0; usize::try_from(rows * a.row_bytes()).unwrap_or(0)];
            let mut other = bytes.clone();
            one.read_rows(a, first, rows, &mut bytes)?;
            two.read_rows(b, first, rows, &mut other)?;
            if bytes != other {
                return Ok(Some(&a.name));
            }
        }
    }
    Ok(None)
}

/// Whether two parts hold the same bytes where they must hold different pieces.
///
/// As where one part was downloaded twice, under two names.
fn is_copy(one: &Model, two: &Model) -> Result<bool> {
    let Some(family) = catalog::family(&one.family) else { return Ok(false) };
    for (a, b) in one.tensors.iter().zip(&two.tensors) {
        let role = Role::of(family, Naming::Old, &a.name);
        if role.is_none_or(|r| r.split() == Split::Copies) || a.row_bytes() > LONGEST {
            continue;
        }
        // The other way round: pieces of one matrix are never alike, unless they are all of one byte.
        let rows = (SAMPLE / a.row_bytes().max(1)).clamp(1, a.rows());
        let mut first = vec![0; usize::try_from(rows * a.row_bytes()).unwrap_or(0)];
        let mut second = first.clone();
        one.read_rows(a, 0, rows, &mut first)?;
        two.read_rows(b, 0, rows, &mut second)?;
        let blank = first.iter().all(|byte| Some(byte) == first.first());
        if blank {
            continue;
        }
        return Ok(first == second);
    }
    Ok(false)
}

/// The parts as one model: each tensor that is cut gets the pieces of all parts.
///
/// No row is put together here: the pieces of a row that is cut stay in their files and are read one after another,
/// which works with blocks too, for every piece of a row is whole blocks.
fn join(mut all: Vec<Model>) -> Result<Model> {
    let rest = all.split_off(1);
    let Some(mut whole) = all.pop() else {
        return Err(Error::usage("a set of no parts".to_owned()));
    };
    let family = catalog::family(&whole.family);
    for tensor in &mut whole.tensors {
        let role = family.and_then(|f| Role::of(f, Naming::Old, &tensor.name));
        let split = role.map_or(Split::Copies, |r| r.split());
        // By rows the parts are one below the other, by columns side by side in every row.
        let axis = match split {
            Split::Copies => continue,
            Split::Rows => 0,
            Split::Columns => tensor.shape.len().saturating_sub(1),
        };
        tensor.join = if split == Split::Rows { Join::Rows } else { Join::Columns };
        for (file, part) in (1..).zip(&rest) {
            let Some(other) = part.tensor(&tensor.name) else { continue };
            add(tensor, other, axis, file);
        }
    }
    for (file, part) in (1..).zip(rest) {
        whole.tails.extend(part.tails.into_iter().map(|tail| Tail { file, ..tail }));
        whole.files.extend(part.files);
    }
    whole.notes.push(format!("joined from {} parts", whole.files.len()));
    Ok(whole)
}

/// Adds the pieces of `other`, which are in file `file`, along dimension `axis`.
fn add(tensor: &mut Tensor, other: &Tensor, axis: usize, file: usize) {
    if let (Some(size), Some(more)) = (tensor.shape.get_mut(axis), other.shape.get(axis)) {
        *size += more;
    }
    let moved = |piece: &Piece| Piece { file, ..piece.clone() };
    tensor.pieces.extend(other.pieces.iter().map(moved));
}
