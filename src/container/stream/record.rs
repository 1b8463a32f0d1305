//! One tensor record: what it says about itself, and where its rows are.
//!
//! ```text
//! ShapeFirst   u32 n_dims, u32 name_len, u32 type, u32 ne[n_dims], name, zeros up to the alignment, data
//! NameFirst    u32 name_len, name, u32 n_dims, u32 ne[n_dims], u32 type, the same
//! ```
//!
//! No size of the data is stored: it follows from type and sizes. So nothing tells where the next record begins but the
//! numbers of this one, and a wrong one makes nonsense of all that follow: each is held against what it may be at once.

use super::walk::Walk;
use crate::{
    container::missing,
    error::Result,
    format::container::{Container, Record},
    model::{Model, Tensor, rows::gathered},
    quant::QuantType,
};

/// The longest tensor name that a record may state, in bytes. Those of 2023 have 48 at most; a length beyond this is
/// no length, but the middle of something else.
const NAME: u32 = 256;
/// The longest head of a record that is looked at.
const HEAD: u64 = 12 + 4 * 4 + NAME as u64;

/// What a record says before its data.
pub(super) struct Head {
    /// Where it begins.
    pub at: u64,
    pub name: String,
    /// The stored type number and where it is.
    pub id: (u32, u64),
    /// As stored, outermost dimension first.
    pub shape: Vec<u64>,
    pub data: u64,
}

/// The name of a field for errors, put together only where there is one.
#[derive(Clone, Copy)]
struct Field {
    index: usize,
    name: &'static str,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tensors[{}].{}", self.index, self.name)
    }
}

impl Walk<'_> {
    /// Reads the head of a tensor record.
    pub(super) fn head(&self, at: u64, index: usize) -> Result<Head> {
        let tensors = &self.format.tensors;
        let (name, id, shape, end);
        match tensors.record {
            Record::ShapeFirst => {
                let dims = self.dims(at, index)?;
                let len = self.name_len(at + 4, index)?;
                // at: dims, + 4: length of the name, + 8: type, + 12: sizes, then the name.
                id = (self.source.u32_at(at + 8, Field { index, name: "type" })?, at + 8);
                let mut sizes = self.sizes(at + 12, dims, index)?;
                // ggml counts ne[0] first, the length of a row; shapes here begin with the rows.
                sizes.reverse();
                shape = sizes;
                name = self.name(at + 12 + 4 * dims, len, index)?;
                end = at + 12 + 4 * dims + len;
            }
            Record::NameFirst => {
                let len = self.name_len(at, index)?;
                name = self.name(at + 4, len, index)?;
                let dims = self.dims(at + 4 + len, index)?;
                // Sizes are stored outermost first here.
                shape = self.sizes(at + 8 + len, dims, index)?;
                let type_at = at + 8 + len + 4 * dims;
                id = (self.source.u32_at(type_at, Field { index, name: "type" })?, type_at);
                end = type_at + 4;
            }
        }
        Ok(Head { at, name, id, shape, data: end.next_multiple_of(tensors.align) })
    }

    /// Whether the file ends inside what begins as the head of a record, as one does that was cut there.
    pub(super) fn begins_record(&self, at: u64) -> bool {
        let tensors = &self.format.tensors;
        let head = self.source.bytes_at(at, self.source.left(at).min(HEAD), HEAD, "tail");
        let (Ok(head), Record::ShapeFirst) = (head, tensors.record) else { return false };
        // As much of a word as there is; none where it is no such number. One that the end of the file cuts is as good
        // as any that begins so.
        let word = |n: usize, most: u32| {
            let there: Vec<u8> = head.iter().skip(4 * n).take(4).copied().collect();
            let bytes = there.iter().enumerate().map(|(i, byte)| u32::from(*byte) << (8 * i));
            let value: u32 = bytes.sum();
            (value <= most && (value > 0 || there.len() < 4)).then_some(value)
        };
        let (Some(dims @ 1..), Some(len)) = (word(0, tensors.max_dims), word(1, NAME)) else {
            return false;
        };
        if let Some(id) = head.get(8..).and_then(|rest| rest.first_chunk())
            && !tensors.types.contains_key(&u32::from_le_bytes(*id).to_string())
        {
            return false;
        }
        let name = 12 + 4 * u64::from(dims);
        let text = head.iter().zip(0..).filter(|(_, at)| *at >= name);
        // The file ends before the name does, and what there is of it is text.
        (head.len() as u64) < name + u64::from(len)
            && text.map(|(byte, _)| byte).all(u8::is_ascii_graphic)
    }

    /// The number of dimensions, 1 to what the format has.
    fn dims(&self, at: u64, index: usize) -> Result<u64> {
        let field = Field { index, name: "n_dims" };
        let (dims, max) = (self.source.u32_at(at, field)?, self.format.tensors.max_dims);
        if dims == 0 || dims > max {
            return Err(self.source.malformed(at, field, dims, format!("1 to {max}")));
        }
        Ok(dims.into())
    }

    /// The length of the name, 1 to 256 bytes.
    fn name_len(&self, at: u64, index: usize) -> Result<u64> {
        let field = Field { index, name: "name_len" };
        let len = self.source.u32_at(at, field)?;
        if len == 0 || len > NAME {
            return Err(self.source.malformed(at, field, len, format!("1 to {NAME}")));
        }
        Ok(len.into())
    }

    /// As many sizes, in the order of the file; programs of the time read them as signed.
    fn sizes(&self, at: u64, dims: u64, index: usize) -> Result<Vec<u64>> {
        let field = Field { index, name: "ne" };
        let mut sizes = Vec::new();
        for at in (0..dims).map(|i| at + 4 * i) {
            let size = self.source.u32_at(at, field)?;
            if size == 0 || size > i32::MAX as u32 {
                return Err(self.source.malformed(at, field, size, format!("1 to {}", i32::MAX)));
            }
            sizes.push(size.into());
        }
        Ok(sizes)
    }

    /// The name, which is text.
    fn name(&self, at: u64, len: u64, index: usize) -> Result<String> {
        let field = Field { index, name: "name" };
        let name = self.source.bytes_at(at, len, NAME.into(), field)?;
        String::from_utf8(name).map_err(|e| {
            let found = format!("{:?}", String::from_utf8_lossy(e.as_bytes()));
            self.source.malformed(at, field, found, "text")
        })
    }

    /// Checks a record against the types of the format and the bytes that are left.
    ///
    /// Returns the tensor and where its data ends.
    ///
    /// # Errors
    /// Where the type is none of the format's, a row is no whole number of blocks, or the file ends before the data
    /// does; the last says how much is missing.
    pub(super) fn tensor(&self, head: &Head, index: usize, model: &Model) -> Result<(Tensor, u64)> {
        let Head { at, name, id: (id, id_at), shape, data } = head;
        let field = |what: &str| format!("tensors[{index}] ({name}).{what}");
        let quant = quant_of(self.format, *id, &model.header).ok_or_else(|| {
            let known: std::collections::BTreeSet<u32> =
                self.format.tensors.types.keys().filter_map(|id| id.parse().ok()).collect();
            let wanted = format!("one of {known:?}");
            self.source.malformed(*id_at, field("type"), id, wanted)
        })?;
        // Some programs cut a tensor into blocks as one long row, whatever its shape: a block then goes on in the next
        // row, and only several rows together are whole.
        let whole = Tensor::whole(name.clone(), shape.clone(), quant, 0, *data);
        let folded = || Tensor::folded(name.clone(), shape.clone(), quant, 0, *data);
        let mut tensor = whole.or_else(folded).ok_or_else(|| {
            let wanted = format!("a multiple of {} for {quant}", quant.layout().elements);
            let found = shape.last().copied().unwrap_or(0);
            self.source.malformed(at + 12, field("ne[0]"), found, wanted)
        })?;
        // The only record that may reach beyond the end is one that was cut: the error says by how much.
        let (left, bytes) = (self.source.left(*data), tensor.bytes());
        if bytes > left {
            let wanted = format!("{bytes} bytes");
            let error =
                self.source.malformed(*data, field("data"), format!("{left} bytes"), wanted);
            return Err(missing::advise(error, model, &tensor, left));
        }
        // What some programs stored otherwise is put right where it is read: no copy of the weights is made for it.
        let ends = |list: &[String]| list.iter().any(|end| name.ends_with(end));
        if ends(&self.format.tensors.transposed) {
            tensor = tensor.transposed().ok_or_else(|| {
                let found = format!("{quant} in {} dimensions", shape.len());
                self.source.malformed(*id_at, field("type"), found, "a matrix of plain floats")
            })?;
        }
        if ends(&self.format.tensors.grouped) {
            let heads = (model.header("n_head"), model.header("n_head_kv"));
            regroup(&mut tensor, heads).ok_or_else(|| {
                let found = shape.first().copied().unwrap_or(0);
                self.source.malformed(at + 12, field("ne[1]"), found, "rows of whole heads")
            })?;
        }
        Ok((tensor, data + bytes))
    }
}

/// Reads rows that are in groups as all queries, all keys, all values; none where they are no whole heads.
fn regroup(tensor: &mut Tensor, heads: (Option<i64>, Option<i64>)) -> Option<()> {
    let heads_of = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    // A group is some queries, their key and their value; GGUF has all queries, then all keys, then all values.
    let (queries, groups) = (heads_of(heads.0)?, heads_of(heads.1)?);
    tensor.take(&gathered(*tensor.shape.first()?, queries, groups)?)
}

/// What a stored type number means in `format` under these header words.
///
/// In a file whose header states a quantization version, it decides the dialect.
fn quant_of(format: &Container, id: u32, header: &[(String, i64)]) -> Option<QuantType> {
    named(format.type_name(id, header)?, format.dialect(header)?)
}

/// The type that a description calls `name` where blocks are of dialect `era`.
pub(super) fn named(name: &str, era: &str) -> Option<QuantType> {
    match name.split_once('/') {
        Some((name, dialect)) => QuantType::find(name, dialect),
        None => QuantType::in_force(name, era),
    }
}
