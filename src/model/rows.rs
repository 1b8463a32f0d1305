//! Orders of the rows of queries, keys and values: whole rows move, so quantized ones move as they are.
//!
//! GGUF has all queries, all keys, all values. Elsewhere the rows of a head, or of a group of heads, are
//! together:
//!
//! ```text
//! by head   q0 k0 v0  q1 k1 v1  q2 k2 v2  q3 k3 v3
//! grouped   q0 q1 k0 v0  q2 q3 k1 v1
//! GGUF      q0 q1 q2 q3  k0 k1 …  v0 v1 …
//! ```

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Join, Naming, Piece, Role, Sizes, Tensor};
use crate::format::family::{Band, Family, RowOrder};

/// How the rows of queries, keys and values are in an adapter, which bears the names of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "command", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Standing {
    /// As in Hugging Face's models: convert-lora-to-ggml.py left them so.
    Hf,
    /// As in ggml's models: llama.cpp's finetune trained them so.
    Ggml,
}

/// Puts rows that are as `naming` has them into GGUF's order; none where they are no whole heads.
pub fn to_gguf(role: &Role, naming: Naming, sizes: &Sizes, tensor: &mut Tensor) -> Option<()> {
    moved(role, naming, sizes, tensor, gathered)
}

/// Puts rows that are in GGUF's order as `naming` has them; none where they are no whole heads.
pub fn from_gguf(role: &Role, naming: Naming, sizes: &Sizes, tensor: &mut Tensor) -> Option<()> {
    moved(role, naming, sizes, tensor, scattered)
}

/// Takes the bands of rows that `order` gives; nothing where the naming has GGUF's order already.
fn moved(
    role: &Role,
    naming: Naming,
    sizes: &Sizes,
    tensor: &mut Tensor,
    order: fn(u64, u64, u64) -> Option<Vec<Range<u64>>>,
) -> Option<()> {
    let rows = match naming {
        Naming::Old => role.names.rows.old,
        Naming::Hf => role.names.rows.hf,
        Naming::Gguf => None,
    };
    let Some(rows) = rows else { return Some(()) };
    let heads = sizes.get("n_head")?;
    let groups = match rows {
        RowOrder::ByHead => heads,
        RowOrder::Grouped => sizes.get("n_head_kv")?,
    };
    let bands = order(*tensor.shape.first()?, heads, groups)?;
    tensor.take(&bands)
}

/// The bands of rows in groups, in GGUF's order: of `rows` rows of `heads` queries and `groups` keys and
/// values.
///
/// ```text
/// head  = rows / (heads + 2 groups)          rows of one head
/// group = head * (heads / groups + 2)        rows of a group: its queries, one key head, one value head
///
/// heads 4, groups 2, head 1    in groups   q0 q1 k0 v0 | q2 q3 k1 v1       rows 0 to 7
///                              bands       0..2 4..6 | 2..3 6..7 | 3..4 7..8
/// ```
///
/// None where heads do not divide by groups, or rows by heads.
pub fn gathered(rows: u64, heads: u64, groups: u64) -> Option<Vec<Range<u64>>> {
    let (head, group) = sizes(rows, heads, groups)?;
    // All queries, the key head, the value head: GGUF's order already.
    if groups == 1 {
        return Some(vec![Range { start: 0, end: rows }]);
    }
    let queries = group - 2 * head;
    let mut bands = Vec::new();
    for (first, len) in [(0, queries), (queries, head), (queries + head, head)] {
        bands.extend((0..groups).map(|g| g * group + first).map(|at| at..at + len));
    }
    Some(bands)
}

/// The bands of rows in GGUF's order, in groups.
/// What [`gathered`] does, undone: of the same example 0..2 4..5 6..7 | 2..4 5..6 7..8.
pub fn scattered(rows: u64, heads: u64, groups: u64) -> Option<Vec<Range<u64>>> {
    let (head, group) = sizes(rows, heads, groups)?;
    let queries = group - 2 * head;
    let (keys, values) = (heads * head, (heads + groups) * head);
    let bands = (0..groups).flat_map(|g| {
        let parts = [(g * queries, queries), (keys + g * head, head), (values + g * head, head)];
        parts.map(|(at, len)| at..at + len)
    });
    Some(bands.collect())
}

/// The roles that have the rows of one where each is a tensor.
pub fn parts(family: &'static Family, whole: &Role) -> Option<Vec<Role>> {
    let part = |band: &Band| {
        let (id, names) = family.roles.get_key_value(&band.role)?;
        Some(Role { id, names, ..*whole })
    };
    whole.names.parts.iter().map(part).collect()
}

/// The tensors that one is where each part is one, in their order; none where their rows are not all of its rows.
pub fn apart(role: &Role, sizes: &Sizes, tensor: &Tensor) -> Option<Vec<Tensor>> {
    let mut first = 0;
    let mut parts = Vec::new();
    for band in &role.names.parts {
        let end = first + sizes.get(&band.rows)?;
        let mut part = tensor.clone();
        part.take(&[Range { start: first, end }])?;
        parts.push(part);
        first = end;
    }
    (tensor.shape.first() == Some(&first)).then_some(parts)
}

/// One tensor of its parts, one below the other; none where they do not fit each other.
pub fn together(parts: &[&Tensor]) -> Option<Tensor> {
    let mut whole = (*parts.first()?).clone();
    let vector = whole.shape.len() == 1;
    let plain = |t: &&Tensor| t.sum.is_none() && t.orders.is_empty() && t.fold == 1;
    let fits = |t: &&Tensor| {
        let rows = t.join == Join::Rows || vector || t.pieces.len() == 1;
        t.quant == whole.quant && t.shape.get(1..) == whole.shape.get(1..) && plain(t) && rows
    };
    if !parts.iter().all(fits) {
        return None;
    }
    *whole.shape.first_mut()? = parts.iter().filter_map(|t| t.shape.first()).sum();
    whole.pieces = parts.iter().flat_map(|t| t.pieces.clone()).collect();
    whole.join = if vector { Join::Columns } else { Join::Rows };
    Some(whole)
}

/// The rows of a head and of a group.
fn sizes(rows: u64, heads: u64, groups: u64) -> Option<(u64, u64)> {
    let all = groups.checked_mul(2)?.checked_add(heads)?;
    let whole = groups > 0 && heads.is_multiple_of(groups) && rows.is_multiple_of(all);
    whole.then(|| (rows / all, rows / all * (heads / groups + 2)))
}

impl Tensor {
    /// Leaves these bands of rows, in this order; of a vector, of numbers. None where a band crosses its end,
    /// or rows cannot be taken apart.
    pub fn take(&mut self, bands: &[Range<u64>]) -> Option<()> {
        let vector = self.shape.len() == 1;
        let layout = self.quant.layout();
        let group = layout.rows as u64;
        let plain =
            self.sum.is_none() && self.orders.is_empty() && self.fold == 1 && self.span.is_none();
        // Of pieces side by side each has a part of every row, and a band would have to be cut out of all.
        let joined = self.join == Join::Rows || vector || self.pieces.len() == 1;
        if !plain || !joined || vector && layout.elements != 1 {
            return None;
        }
        let width = layout.bytes as u64;
        let mut pieces = Vec::new();
        for band in bands {
            if !band.start.is_multiple_of(group) || !band.end.is_multiple_of(group) {
                return None;
            }
            // A band may go over several pieces, as of shards: each gives its share.
            let mut base = 0;
            for piece in &self.pieces {
                let len = if vector { piece.row_bytes / width } else { piece.rows };
                let (from, to) = (band.start.max(base), band.end.min(base + len));
                if from < to {
                    let first = from - base;
                    pieces.push(match vector {
                        false => Piece {
                            at: piece.at + first / group * group * piece.row_stride,
                            rows: to - from,
                            ..piece.clone()
                        },
                        true if piece.element.is_some() => return None,
                        true => Piece {
                            at: piece.at + first * width,
                            row_bytes: (to - from) * width,
                            row_stride: (to - from) * width,
                            ..piece.clone()
                        },
                    });
                }
                base += len;
            }
            if band.end > base {
                return None;
            }
        }
        // Numbers of a vector stand side by side, as columns of its one row.
        if vector && pieces.len() > 1 {
            self.join = Join::Columns;
        }
        self.pieces = pieces;
        *self.shape.first_mut()? = bands.iter().map(|band| band.end - band.start).sum();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bytes::Input, model::Model, quant::QuantType};

    /// A tensor whose rows, or numbers, are 0, 1, 2 …
    fn model(rows: u16, vector: bool) -> Model {
        let f32 = QuantType::today("f32").unwrap();
        let width = if vector { 1 } else { 2 };
        let numbers = (0..rows).flat_map(|row| vec![f32::from(row).to_le_bytes(); width]);
        let bytes: Vec<u8> = numbers.flatten().collect();
        let shape = if vector { vec![rows.into()] } else { vec![rows.into(), 2] };
        let tensor = Tensor::whole("x".into(), shape, f32, 0, 0).unwrap();
        Model { files: vec![Input::memory("x", bytes)], tensors: vec![tensor], ..Model::default() }
    }

    fn order(model: &Model) -> Vec<u16> {
        let tensor = &model.tensors[0];
        let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
        model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
        let width = if tensor.shape.len() == 1 { 4 } else { 8 };
        let number = |row: &[u8]| f32::from_le_bytes(*row.first_chunk().unwrap()) as u16;
        bytes.chunks(width).map(number).collect()
    }

    #[test]
    fn rows_are_gathered_and_scattered() {
        for vector in [false, true] {
            // Four queries of two rows over two keys and values.
            let mut grouped = model(16, vector);
            grouped.tensors[0].take(&gathered(16, 4, 2).unwrap()).unwrap();
            let wanted = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];
            assert_eq!(order(&grouped), wanted, "{vector}");
            grouped.tensors[0].take(&scattered(16, 4, 2).unwrap()).unwrap();
            assert_eq!(order(&grouped), (0..16).collect::<Vec<_>>(), "{vector}");
            // Each head for itself.
            let mut by_head = model(6, vector);
            by_head.tensors[0].take(&gathered(6, 2, 2).unwrap()).unwrap();
            assert_eq!(order(&by_head), [0, 3, 1, 4, 2, 5], "{vector}");
            by_head.tensors[0].take(&[1..3, 5..6]).unwrap();
            assert_eq!((order(&by_head), by_head.tensors[0].shape[0]), (vec![3, 1, 5], 3));
            assert!(by_head.tensors[0].take(&[0..1, 2..4]).is_none());
        }
        assert!(gathered(15, 4, 2).is_none() && gathered(16, 4, 3).is_none());
        assert!(scattered(16, 4, 0).is_none());
    }
}
