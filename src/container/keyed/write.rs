//! The way back: GGUF's bytes for keys, values and tensor infos.
//!
//! ```text
//! magic version n n  key kind value …  name dims sizes type offset …  zeros  data 0 zeros  data 1 zeros  …
//!                                                                            ^ offset 0, at a multiple of the alignment
//! ```

use super::{ALIGNMENT, DEFAULT_ALIGNMENT, LONGEST_NAME, MOST_DIMS, NUL, is_alignment, type_id};
use crate::{
    container::{Layout, TensorHead, start},
    error::{Error, Result},
    format::container::Container,
    model::{Array, Kind, Metadata, Value},
};

/// Lays out a file of `format`: every byte but the weights, and where the weights go.
///
/// Data begins at multiples of `general.alignment`, in the order of `heads`, without gaps; the last
/// tensor is padded too.
///
/// # Errors
/// [`Error::Unsupported`] where a type is not one of the format's, a name is too long, a tensor has
/// too many dimensions or a number does not fit its field.
pub fn layout(
    format: &Container,
    header: &[(String, i64)],
    metadata: &Metadata,
    heads: &[TensorHead],
) -> Result<Layout> {
    let align = metadata.u64(ALIGNMENT).filter(|n| is_alignment(*n));
    let align = align.unwrap_or(DEFAULT_ALIGNMENT);
    // Version 1: counts and lengths of 32 bits, and from quantize of its day strings that end in a NUL.
    let wide = format.detect.version != Some(1);
    let nul = !wide && header.iter().any(|(name, value)| name == NUL && *value == 1);
    let mut out = Out {
        nul,
        bytes: start::bytes(format),
        wide,
        big_endian: format.detect.big_endian,
        id: format.id(),
    };
    out.size(heads.len() as u64)?;
    out.size(metadata.len() as u64)?;
    for (key, value) in metadata.iter() {
        out.string(key.as_bytes())?;
        out.u32(value.kind() as u32);
        out.value(value)?;
    }
    // Offsets count from the start of the data, whose place is known when all infos are.
    let mut offset = 0;
    let mut offsets = Vec::new();
    for head in heads {
        let cannot = |why: &str| cannot(format.id(), &format!("{} {why}", head.name));
        // ggml has room for less: whether llama.cpp loads a file, the loader's rules say.
        if head.name.len() as u64 >= LONGEST_NAME {
            return Err(cannot(&format!("has a name of {LONGEST_NAME} bytes or more")));
        }
        if head.shape.len() > MOST_DIMS as usize {
            return Err(cannot(&format!("has more than {MOST_DIMS} dimensions")));
        }
        let id = type_id(format, head.quant)
            .ok_or_else(|| cannot(&format!("is {}, which it never had", head.quant)))?;
        out.string(head.name.as_bytes())?;
        out.u32(u32::try_from(head.shape.len()).unwrap_or(u32::MAX));
        for size in head.shape.iter().rev() {
            out.size(*size)?;
        }
        out.u32(id);
        out.u64(offset);
        offsets.push(offset);
        offset = (offset + head.bytes).next_multiple_of(align);
    }
    let end = out.bytes.len() as u64;
    if heads.is_empty() {
        return Ok(Layout { chunks: vec![(0, out.bytes)], data: Vec::new(), total: end });
    }
    // Where there are tensors, the header is padded, and so is the last of them.
    let base = end.next_multiple_of(align);
    out.bytes.resize(usize::try_from(base).unwrap_or(usize::MAX), 0);
    let mut layout =
        Layout { chunks: vec![(0, out.bytes)], data: Vec::new(), total: base + offset };
    for (offset, head) in offsets.into_iter().zip(heads) {
        let at = base + offset;
        layout.data.push(at);
        let gap = (at + head.bytes).next_multiple_of(align) - (at + head.bytes);
        if gap > 0 {
            let gap = usize::try_from(gap).unwrap_or(usize::MAX);
            layout.chunks.push((at + head.bytes, vec![0; gap]));
        }
    }
    Ok(layout)
}

/// The bytes so far, and how the format writes numbers and strings.
///
/// | version | counts, lengths, sizes | kinds | strings |
/// |---|---|---|---|
/// | 1 | 32 bits | without the 64-bit ones | as their bytes, or with a NUL that counts |
/// | 2, 3 | 64 bits | all thirteen | as their bytes |
struct Out<'a> {
    nul: bool,
    bytes: Vec<u8>,
    wide: bool,
    big_endian: bool,
    id: &'a str,
}

impl Out<'_> {
    /// A number, its bytes in the order of the format.
    fn put<const N: usize>(&mut self, mut little: [u8; N]) {
        if self.big_endian {
            little.reverse();
        }
        self.bytes.extend(little);
    }

    /// Four bytes, for kinds, types and numbers of dimensions.
    fn u32(&mut self, value: u32) {
        self.put(value.to_le_bytes());
    }

    /// Eight bytes, for offsets in every version.
    fn u64(&mut self, value: u64) {
        self.put(value.to_le_bytes());
    }

    /// A count or length: 64 bits, but 32 in version 1.
    fn size(&mut self, value: u64) -> Result<()> {
        if self.wide {
            self.u64(value);
            return Ok(());
        }
        let value = u32::try_from(value);
        self.u32(value.map_err(|_| cannot(self.id, "a count is larger than 32 bits"))?);
        Ok(())
    }

    /// Length, then bytes; the NUL counts.
    fn string(&mut self, bytes: &[u8]) -> Result<()> {
        self.size(bytes.len() as u64 + u64::from(self.nul))?;
        self.bytes.extend(bytes);
        self.bytes.extend(self.nul.then_some(0));
        Ok(())
    }

    /// A value without its kind, which is before it.
    fn value(&mut self, value: &Value) -> Result<()> {
        self.allow(value.kind())?;
        match value {
            Value::U8(v) => self.put([*v]),
            Value::I8(v) => self.put(v.to_le_bytes()),
            Value::Bool(v) => self.put([u8::from(*v)]),
            Value::U16(v) => self.put(v.to_le_bytes()),
            Value::I16(v) => self.put(v.to_le_bytes()),
            Value::U32(v) => self.put(v.to_le_bytes()),
            Value::I32(v) => self.put(v.to_le_bytes()),
            Value::F32(v) => self.put(v.to_le_bytes()),
            Value::U64(v) => self.put(v.to_le_bytes()),
            Value::I64(v) => self.put(v.to_le_bytes()),
            Value::F64(v) => self.put(v.to_le_bytes()),
            Value::String(bytes) => self.string(bytes)?,
            Value::Array(array) => self.array(array)?,
        }
        Ok(())
    }

    /// Kind, count, items: what makes an item of an array of arrays, too.
    ///
    /// Numbers go over as the bytes that they are kept in, a million at once; only big-endian files have each turned
    /// round.
    fn array(&mut self, array: &Array) -> Result<()> {
        self.allow(array.kind())?;
        self.u32(array.kind() as u32);
        self.size(array.len() as u64)?;
        if let Some(texts) = array.texts() {
            return texts.iter().try_for_each(|text| self.string(text));
        }
        for array in array.arrays().unwrap_or_default() {
            self.array(array)?;
        }
        let (start, bytes) = (self.bytes.len(), array.bytes().unwrap_or_default());
        self.bytes.extend_from_slice(bytes);
        if self.big_endian {
            let fresh = self.bytes.get_mut(start..).unwrap_or_default();
            fresh.chunks_exact_mut(array.kind().width().max(1)).for_each(<[u8]>::reverse);
        }
        Ok(())
    }

    /// Refuses the kinds that came with version 2.
    fn allow(&self, kind: Kind) -> Result<()> {
        if !self.wide && matches!(kind, Kind::U64 | Kind::I64 | Kind::F64) {
            return Err(cannot(self.id, &format!("it has no {} values", kind.name())));
        }
        Ok(())
    }
}

/// The error for what a container has no place for.
fn cannot(id: &str, why: &str) -> Error {
    Error::unsupported(format!("{id}: cannot be written: {why}"), "write gguf-v3 instead")
}
