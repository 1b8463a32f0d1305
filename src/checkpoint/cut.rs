//! Tensors of Hugging Face that stand for several of GGUF's: cut into views, of which no byte moves.
//!
//! A tensor is taken as groups of rows; the rows of each group go to the roles in turn, in bands or one by one:
//!
//! ```text
//! bands         [a a a b b | a a a b b]     the gate and what it multiplies, of each expert
//! alternating   [a b a b a b | a b a b a b] the same, of gpt-oss
//! ```
//!
//! Where a role has a tensor for each group, its groups are stacked; where it has one matrix, they are one below
//! the other.

use super::Stored;
use crate::{
    error::{Error, Result},
    format::family::{Cut, Family},
    model::{Role, Sizes},
};

/// The cut of a family that a tensor of this name is for, and the layer's number.
pub fn of(family: &'static Family, name: &str) -> Option<(&'static Cut, u64)> {
    family.cuts.iter().find_map(|cut| {
        let (before, after) = cut.hf.split_once("{n}")?;
        let layer = name.strip_prefix(before)?.strip_suffix(after)?;
        Some((cut, layer.parse().ok().filter(|n: &u64| n.to_string() == layer)?))
    })
}

/// The cut that a role is a part of, and which part.
pub fn of_role<'f>(family: &'f Family, role: &Role) -> Option<(&'f Cut, usize)> {
    let place = |cut: &'f Cut| Some((cut, cut.into.iter().position(|part| part.role == role.id)?));
    family.cuts.iter().find_map(place).filter(|_| !role.bias)
}

/// The name of the tensor that a role is cut out of, in checkpoints.
pub fn whole_of(family: &Family, role: &Role) -> Option<String> {
    let (cut, _) = of_role(family, role)?;
    Some(cut.hf.replace("{n}", &role.layer?.to_string()))
}

/// The parts of a tensor of `file`, under the names that their roles would have alone, each with the number of its group.
///
/// # Errors
/// Where the tensor has another shape than the sizes say.
pub fn apart(
    file: &str,
    family: &'static Family,
    (cut, layer): (&Cut, u64),
    stored: &Stored,
    sizes: &Sizes,
) -> Result<Vec<(String, Option<u64>, Stored)>> {
    let odd = || {
        let (name, shape) = (&stored.name, &stored.shape);
        let what = format!(
            "{file}: {name} has the shape {shape:?}, which its sizes in config.json do not give"
        );
        Error::refused(what, "check that config.json is of this model, and no shard missing")
    };
    let of = |symbol: &String| sizes.get(symbol).filter(|n| *n > 0).ok_or_else(odd);
    let groups = cut.groups.as_ref().map_or(Ok(1), of)?;
    let counts = cut.into.iter().map(|part| of(&part.rows)).collect::<Result<Vec<u64>>>()?;
    let rows = counts.iter().fold(0u64, |all, count| all.saturating_add(*count));
    let dims: Vec<(u64, u64)> = stored.shape.iter().copied().zip(stored.stride.clone()).collect();
    let whole = rows.saturating_mul(groups);
    // [experts, 2 ff, width] in bands: groups are 2 ff width numbers apart, rows width, and the second part of expert
    // e begins e 2 ff width + ff width numbers in.
    // Groups, rows of each, numbers of a row: how many, and how far from one to the next.
    let (outer, row, column) = match *dims.as_slice() {
        [outer, row] if cut.vectors => (outer, row, (1, 1)),
        [all, column] if all.0 == whole => {
            ((groups, all.1.saturating_mul(rows)), (rows, all.1), column)
        }
        [outer, column, row] if cut.turned => (outer, row, column),
        [outer, row, column] if !cut.turned => (outer, row, column),
        _ => return Err(odd()),
    };
    let even = !cut.alternate || counts.iter().all(|count| counts.first() == Some(count));
    if outer.0 != groups || row.0 != rows || !even {
        return Err(odd());
    }
    let (mut parts, mut first) = (Vec::new(), 0);
    for (part, count) in cut.into.iter().zip(&counts) {
        let (id, names) = family.roles.get_key_value(&part.role).ok_or_else(odd)?;
        let role = Role { id, names, layer: Some(layer), bias: false };
        let name = role.name(crate::model::Naming::Hf).ok_or_else(odd)?;
        // Alternating, the next row of a part is as many rows further as there are parts.
        let step = if cut.alternate { row.1.saturating_mul(counts.len() as u64) } else { row.1 };
        let view = |group: u64, dims: &[(u64, u64)]| {
            let offset = group.checked_mul(outer.1)?.checked_add(first * row.1)?;
            let (shape, stride) = dims.iter().copied().unzip();
            Some(Stored {
                at: stored.at + stored.bytes_of(offset)?,
                shape,
                stride,
                ..stored.clone()
            })
        };
        if cut.vectors {
            let all = view(0, &[outer, (*count, step)]).ok_or_else(odd)?;
            parts.push((name, None, all));
        } else {
            for group in 0..groups {
                let dims = [(*count, step), column];
                let dims = if part.turned { [dims[1], dims[0]] } else { dims };
                let one = view(group, &dims).ok_or_else(odd)?;
                parts.push((name.clone(), (groups > 1).then_some(group), one));
            }
        }
        first += if cut.alternate { 1 } else { *count };
    }
    Ok(parts)
}
