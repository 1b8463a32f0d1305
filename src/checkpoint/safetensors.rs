//! The safetensors format: a JSON directory, then the numbers.
//!
//! ```text
//! u64                      length of the header
//! {"NAME": {"dtype": "F16", "shape": [rows, columns], "data_offsets": [begin, end]}, …,
//!  "__metadata__": {"key": "text", …}}
//! numbers                  row by row, little-endian; offsets count from the end of the header
//! ```
//!
//! Source: safetensors, README.md.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::{Stored, Weights, dtype::Dtype};
use crate::{
    bytes::{Input, Source},
    error::{Error, Result},
    limits::Limits,
};

/// The id of the format.
pub const FORMAT: &str = "safetensors";
/// The longest header that the format allows.
const LONGEST: u64 = 100 << 20;
/// The longest that is read: its directory takes ten times its size in memory, and that of the largest
/// model published, with 90 000 tensors, has a tenth of the format's limit.
const LONGEST_READ: u64 = 16 << 20;

/// A tensor's entry in the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header in file order; a name that stands twice is an error, which a plain map would hide.
struct Header(Vec<(String, Entry)>);

/// Whether a file begins as safetensors do.
pub fn is_safetensors(head: &[u8], file_len: u64) -> bool {
    let len = head.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    len.is_some_and(|len| len <= file_len.saturating_sub(8) && len <= LONGEST)
        && head.get(8) == Some(&b'{')
}

/// Reads the directory of a safetensors file.
///
/// # Errors
/// Where the header is no such JSON, a name stands twice, or the tensors overlap, leave holes or do
/// not end with the file.
pub fn open(input: &Input) -> Result<Weights> {
    let source = Source::new(input, FORMAT);
    let len = source.u64_at(0, "header length")?;
    let header = source.bytes_at(8, len, LONGEST_READ, "header")?;
    let header: Header = serde_json::from_slice(&header)
        .map_err(|e| source.malformed(8, "header", e, "a directory of tensors, each name once"))?;
    let data = 8 + len;
    let mut tensors = Vec::new();
    let mut ranges = Vec::new();
    for (name, entry) in header.0 {
        let Some(dtype) = Dtype::of_safetensors(&entry.dtype) else {
            let what = format!("{}: {name}: numbers of the dtype {}", input.name(), entry.dtype);
            return Err(Error::unsupported(what, "not yet: this version does not know it"));
        };
        // A zero must not hide the size of the other dimensions.
        let most = entry.shape.iter().try_fold(dtype.bits, |n, d| n.checked_mul((*d).max(1)));
        let bytes = most.and_then(|_| dtype.bytes(entry.shape.iter().product()));
        let (begin, end) = entry.data_offsets;
        if bytes.is_none() || end.checked_sub(begin) != bytes {
            let found = format!("{begin}..{end} for {} {:?}", dtype.name, entry.shape);
            return Err(source.malformed(
                8,
                format!("{name}.data_offsets"),
                found,
                "the bytes of its shape",
            ));
        }
        if end > source.left(data) {
            let found = format!("{begin}..{end} of {} bytes", source.left(data));
            let wanted = "a range inside the file (is it whole?)";
            return Err(source.malformed(data, format!("{name}.data_offsets"), found, wanted));
        }
        ranges.push((begin, end));
        let stride = dense(&entry.shape);
        let shape = entry.shape;
        tensors.push(Stored {
            name,
            dtype,
            shape,
            stride,
            file: 0,
            at: data + begin,
            big_endian: false,
        });
    }
    ranges.sort_unstable();
    let last = ranges.iter().try_fold(0, |at, (begin, end)| (*begin == at).then_some(*end));
    if last != Some(source.left(data)) {
        let found = last.map_or_else(|| "overlaps or holes".into(), |l| format!("an end at {l}"));
        let wanted = format!("tensors side by side over all {} bytes", source.left(data));
        return Err(source.malformed(data, "data", found, wanted));
    }
    Ok(Weights { format: FORMAT, files: vec![input.clone()], tensors, ..Weights::default() })
}

/// The strides of a tensor without gaps.
pub fn dense(shape: &[u64]) -> Vec<u64> {
    let mut step = 1u64;
    let mut strides = Vec::new();
    for n in shape.iter().rev() {
        strides.push(step);
        step = step.saturating_mul(*n);
    }
    strides.reverse();
    strides
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut names = std::collections::HashSet::new();
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("{name:?} stands twice")));
            }
            if entries.len() as u64 >= Limits::DEFAULT.tensors {
                return Err(A::Error::custom("too many tensors"));
            }
            if name == "__metadata__" {
                map.next_value::<serde::de::IgnoredAny>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Header(entries))
    }
}
