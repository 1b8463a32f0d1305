//! Files cut short: what is missing, how many bytes of it, counted from the tensors that are there.

use std::collections::HashSet;

use crate::{
    bytes::Source,
    error::{Error, Result},
    format::catalog,
    model::{Model, Naming, Role, Sizes, Tensor},
};

/// Adds to an error about a tensor cut short what else is missing.
pub(super) fn advise(error: Error, model: &Model, cut: &Tensor, left: u64) -> Error {
    let Error::Malformed(mut malformed) = error else { return error };
    let rest = absent(model, &[&cut.name]);
    let bytes = (cut.bytes() - left).saturating_add(rest.bytes);
    malformed.next = match rest.names.len() {
        0 => format!("the file is {bytes} bytes short: download or copy it again"),
        n => format!(
            "the file is about {bytes} bytes short ({n} whole tensors are missing too): download or \
             copy it again"
        ),
    };
    Error::Malformed(malformed)
}

/// An error if tensors of the family are missing, as in a file cut between two records.
pub(super) fn check_whole(source: &Source, end: u64, model: &Model) -> Result<()> {
    let rest = absent(model, &[]);
    let Some(first) = rest.names.first() else { return Ok(()) };
    let error = source.malformed(
        end,
        format!("tensors[{}]", model.tensors.len()),
        "the end of the file",
        format!("{first} and {} more tensors", rest.names.len() - 1),
    );
    let Error::Malformed(mut malformed) = error else { return Err(error) };
    malformed.next =
        format!("the file is about {} bytes short: download or copy it again", rest.bytes);
    Err(Error::Malformed(malformed))
}

/// Whether a model holds every tensor of its family; never of a family that is not described.
pub(super) fn is_whole(model: &Model) -> bool {
    catalog::family(&model.family).is_some()
        && !model.tensors.is_empty()
        && absent(model, &[]).names.is_empty()
}

struct Absent {
    names: Vec<String>,
    bytes: u64,
}

/// The tensors of the family that `model` lacks, but for `known`; their bytes are taken to be those
/// of the same role in another layer.
fn absent(model: &Model, known: &[&str]) -> Absent {
    let mut out = Absent { names: Vec::new(), bytes: 0 };
    let Some(family) = catalog::family(&model.family) else { return out };
    let layers = Sizes::of(model).get("n_layer").unwrap_or(0);
    let sizes: Vec<(&str, u64)> = model
        .tensors
        .iter()
        .filter_map(|t| Some((Role::of(family, Naming::Old, &t.name)?.id, t.bytes())))
        .collect();
    let roles = model.tensors.iter().map(|t| t.name.as_str()).chain(known.iter().copied());
    let roles = roles.filter_map(|name| Role::of(family, Naming::Old, name));
    let there: HashSet<_> = roles.map(|role| (role.id, role.layer, role.bias)).collect();
    for role in Role::all(family, layers, false) {
        let Some(name) = role.name(Naming::Old).filter(|_| !role.names.optional_old) else {
            continue;
        };
        if !there.contains(&(role.id, role.layer, role.bias)) {
            let size = sizes.iter().find(|(id, _)| *id == role.id).map_or(0, |(_, bytes)| *bytes);
            out.bytes = out.bytes.saturating_add(size);
            out.names.push(name);
        }
    }
    out
}
