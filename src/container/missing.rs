//! Files that lack tensors: what is missing, how many bytes of it, counted from the tensors that are there,
//! and whether a cut can have taken it.
//!
//! A stream states neither how many tensors it has nor where they are, so a file that ends between two records looks
//! whole. What should be there says the family: every role in every layer that the header counts.
//!
//! ```text
//! a file cut inside a tensor      the walk fails there; `advise` counts what was to follow
//! a file cut between two          the walk ends well; `check_whole` notices what is missing
//! a part that somebody took out   whole layers are there and others not, in no order: no cut makes that
//! ```

use std::collections::HashSet;

use crate::{
    bytes::Source,
    error::{Error, Result},
    format::{catalog, container::Container, family::Family},
    model::{FeedForward, Model, Naming, Role, Sizes, Tensor},
    remedy::Call,
    size::counted,
};

/// Adds to an error about a tensor cut short what else is missing.
///
/// It is the middle of a download: the tensor that is cut, and all that were to follow it.
pub(super) fn advise(error: Error, model: &Model, cut: &Tensor, left: u64) -> Error {
    let Error::Malformed(mut malformed) = error else { return error };
    let family = catalog::family(&model.family);
    let rest = family.map_or_else(Absent::default, |family| absent(family, model, &[&cut.name]));
    let bytes = (cut.bytes() - left).saturating_add(rest.bytes);
    let short = counted(bytes, "byte", "bytes");
    malformed.next = match rest.names.len() {
        0 => format!("the file is {short} short: download or copy it again"),
        n => format!(
            "the file is about {short} short ({} missing too): download or copy it again",
            counted(n, "whole tensor is", "whole tensors are")
        ),
    }
    .into();
    Error::Malformed(malformed)
}

/// An error if tensors of the family are missing, as in a file cut between two records.
///
/// Only families that are described can be missed; the error is at `end`, where the next record would begin.
pub(super) fn check_whole(source: &Source, end: u64, model: &Model) -> Result<()> {
    let Some(family) = catalog::family(&model.family) else { return Ok(()) };
    let rest = absent(family, model, &[]);
    let Some(first) = rest.names.first() else { return Ok(()) };
    let wanted = match rest.names.len() {
        1 => first.clone(),
        n => format!("{first} and {}", counted(n - 1, "more tensor", "more tensors")),
    };
    Err(source.malformed(
        end,
        format!("tensors[{}]", model.tensors.len()),
        "the end of the file",
        wanted,
    ))
}

/// What is wrong with a file whose records are whole to its last byte and are not those that `format` wants:
/// whose tensors they are, and whether a cut can have taken the others.
///
/// ```text
/// names of no family          the format's own signature decides: a part, or something unknown
/// names of another family     that family's tensors in the form of this one
/// its own, the last layer not whole     a cut: how many bytes are short
/// its own, others missing     a part of a model
/// ```
pub(super) fn explain(error: Error, format: &Container, model: &Model) -> Error {
    let Error::Malformed(malformed) = error else { return error };
    let (name, title) = (&malformed.file, &format.format.title);
    let n = counted(model.tensors.len(), "tensor", "tensors");
    let foreign = |what: String, next: &str| Error::foreign(format!("{name}: {what}"), next);
    // Names tell whose tensors they are, also where the header is another family's; its own comes first.
    let mut families = named_so(model);
    families.sort_by_key(|family| family.family.name != format.format.family);
    let titles: Vec<&str> = families.iter().map(|family| family.family.title.as_str()).collect();
    let titles = titles.join(" or ");
    if titles.is_empty() {
        let signature = &format.detect.signature;
        let signed = signature.iter().any(|text| model.tensor(text).is_some());
        return match signed && catalog::family(&format.format.family).is_none() {
            true => foreign(format!("{title}: {n}, and not {}", malformed.wanted), PART),
            false => {
                let next = Call::Explain.to("its records are whole: see what is known");
                Error::Malformed(malformed).advising(next)
            }
        };
    }
    let own = families.first().filter(|family| family.family.name == format.format.family);
    let Some(own) = own else {
        let what = format!("{n} named as those of {titles}, in the form of {title}");
        return foreign(what, OTHER_FORM);
    };
    // Tokens may have told that it is another family's with the same names.
    let model = &Model { family: own.family.name.clone(), ..model.clone() };
    let rest = absent(own, model, &[]);
    let Some(first) = rest.names.first() else { return Error::Malformed(malformed) };
    let lacks = rest.names.len();
    let whole = counted(model.tensors.len(), "tensor is", "tensors are");
    let lacking = counted(lacks, "is", "are");
    let what =
        format!("a part of {titles} ({title}): {whole} whole, {lacking} missing, {first} first");
    if is_a_cut(own, model, &rest) {
        let short = match rest.bytes {
            0 => String::new(),
            bytes => format!(": about {} short", counted(bytes, "byte", "bytes")),
        };
        let next = format!("it is {what}{short}: download or copy it again");
        return Error::Malformed(malformed).advising(next);
    }
    foreign(format!("is {what}"), PART)
}

/// What to do with a part of a model that its writer left so.
const PART: &str = "known, not converted: that takes the whole model";
/// What to do with tensors in the form of another family, which another candidate may know better.
pub(super) const OTHER_FORM: &str = "known, not converted: no program is known that wrote them so";

/// The families that know the names of the tensors: those that know most of them, and at least half.
/// GPT-2 and StarCoder, for one, share theirs.
fn named_so(model: &Model) -> Vec<&'static Family> {
    let known = |family: &'static Family| {
        let known = |t: &&Tensor| Role::of(family, Naming::Old, &t.name).is_some();
        (model.tensors.iter().filter(known).count(), family)
    };
    let known: Vec<(usize, &'static Family)> = catalog::families().iter().map(known).collect();
    let most = known.iter().map(|(n, _)| *n).max().unwrap_or(0);
    let known = known.into_iter().filter(|(n, _)| *n == most && 2 * *n >= model.tensors.len());
    known.map(|(_, family)| family).collect()
}

/// Whether a file can have been cut between two records: only the layer that comes last is not whole.
fn is_a_cut(family: &'static Family, model: &Model, lacks: &Absent) -> bool {
    let layer = |name: &str| {
        let role = Role::of(family, Naming::Old, name)?;
        Some((role.names.counted_by(), role.layer?))
    };
    let last = model.tensors.last().and_then(|t| layer(&t.name));
    // A cut takes what comes after it. Layers follow one another, so every layer that is begun and lacks something
    // must be the last one; what is missing of whole layers says nothing, for it may all have come later.
    let begun: HashSet<_> = model.tensors.iter().filter_map(|t| layer(&t.name)).collect();
    let lacking = lacks.names.iter().filter_map(|name| layer(name));
    lacking.filter(|layer| begun.contains(layer)).all(|layer| Some(layer) == last)
}

/// Whether a model holds every tensor of its family; never of a family that is not described.
pub(super) fn is_whole(model: &Model) -> bool {
    let whole = |family| absent(family, model, &[]).names.is_empty();
    !model.tensors.is_empty() && catalog::family(&model.family).is_some_and(whole)
}

/// Tensors that are not there, by their names, and about how many bytes they have.
#[derive(Default)]
struct Absent {
    names: Vec<String>,
    bytes: u64,
}

/// The tensors of `family` that `model` lacks, but for `known`; their bytes are taken to be those
/// of the same role in another layer.
fn absent(family: &'static Family, model: &Model, known: &[&str]) -> Absent {
    let mut out = Absent::default();
    let numbers = Sizes::of(model);
    let layers = |symbol: &str| numbers.get(symbol).unwrap_or(0);
    // Layers of one model are alike, so what is missing has the bytes of its like in another layer.
    let sizes: Vec<(&str, u64)> = model
        .tensors
        .iter()
        .filter_map(|t| Some((Role::of(family, Naming::Old, &t.name)?.id, t.bytes())))
        .collect();
    let roles = model.tensors.iter().map(|t| t.name.as_str()).chain(known.iter().copied());
    let roles = roles.filter_map(|name| Role::of(family, Naming::Old, name));
    let there: HashSet<_> = roles.map(|role| (role.id, role.layer, role.bias)).collect();
    for role in Role::counted(family, layers, FeedForward::Dense) {
        let Some(name) = role.name(Naming::Old).filter(|_| !role.names.optional_old) else {
            continue;
        };
        if !there.contains(&(role.id, role.layer, role.bias)) {
            // Of a role that no layer has, nothing is known: 0.
            let size = sizes.iter().find(|(id, _)| *id == role.id).map_or(0, |(_, bytes)| *bytes);
            out.bytes = out.bytes.saturating_add(size);
            out.names.push(name);
        }
    }
    out
}
