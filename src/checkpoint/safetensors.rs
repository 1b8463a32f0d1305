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

use std::{
    borrow::Cow,
    fmt,
    io::{BufReader, Read},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
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
/// The longest that is read: its directory takes some four times its size in memory, and that of the largest
/// model published, with 90 000 tensors, has a tenth of the format's limit.
const LONGEST_READ: u64 = 48 << 20;

/// A tensor's entry in the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    /// Outermost first.
    shape: Vec<u64>,
    /// In bytes from the end of the header; the second is behind the last byte.
    data_offsets: (u64, u64),
}

/// The header in file order: tensors that begin N bytes after it, and where each ends. A name that
/// is there twice is an error, which a plain map would hide.
#[derive(Default)]
struct Header {
    tensors: Vec<Stored>,
    ends: Vec<u64>,
    /// The first tensor of a type that is not known, and what it is called.
    unknown: Option<(String, String)>,
}

/// Whether a file begins as safetensors do.
pub fn is_safetensors(head: &[u8], file_len: u64) -> bool {
    let len = head.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    len.is_some_and(|len| len <= file_len.saturating_sub(8) && len <= LONGEST)
        && head.get(8) == Some(&b'{')
}

/// Reads the directory of a safetensors file.
///
/// # Errors
/// Where the header is no such JSON, a name is there twice, or the tensors overlap, leave holes or do
/// not end with the file.
pub fn open(input: &Input, limits: &Limits) -> Result<Weights> {
    let source = Source::new(input, FORMAT);
    let len = source.u64_at(0, "header length")?;
    let header = source.bytes_at(8, len, LONGEST_READ, "header")?;
    let mut json = serde_json::Deserializer::from_slice(&header);
    let read = json.deserialize_map(HeaderVisitor { most: limits.tensors });
    let read = read
        .and_then(|read| json.end().map(|()| read))
        .map_err(|e| source.malformed(8, "header", e, "a directory of tensors, each name once"))?;
    drop(header);
    if let Some((name, dtype)) = read.unknown {
        let what = format!("{}: {name}: numbers of the dtype {dtype}", input.name());
        return Err(Error::unsupported(what, "not yet: this version does not know it"));
    }
    let (data, mut tensors) = (8 + len, read.tensors);
    let mut ranges = Vec::new();
    for (tensor, end) in tensors.iter_mut().zip(read.ends) {
        let (begin, dtype) = (tensor.at, tensor.dtype);
        // A zero must not hide the size of the other dimensions.
        let most = tensor.shape.iter().try_fold(dtype.bits, |n, d| n.checked_mul((*d).max(1)));
        let bytes = most.and_then(|_| dtype.bytes(tensor.shape.iter().product()));
        let field = || format!("{}.data_offsets", tensor.name);
        if bytes.is_none() || end.checked_sub(begin) != bytes {
            let found = format!("{begin}..{end} for {} {:?}", dtype.name, tensor.shape);
            return Err(source.malformed(8, field(), found, "the bytes of its shape"));
        }
        if end > source.left(data) {
            let found = format!("{begin}..{end} of {} bytes", source.left(data));
            let wanted = "a range inside the file (is it whole?)";
            return Err(source.malformed(data, field(), found, wanted));
        }
        ranges.push((begin, end));
        tensor.at = data + begin;
    }
    ranges.sort_unstable();
    let last = ranges.iter().try_fold(0, |at, (begin, end)| (*begin == at).then_some(*end));
    // The format forbids holes, so that no file is also one of another format (README.md).
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
    let mut strides = Vec::with_capacity(shape.len());
    for n in shape.iter().rev() {
        strides.push(step);
        step = step.saturating_mul(*n);
    }
    strides.reverse();
    strides
}

/// Where the last tensor's numbers end by what a header says, counted from the header's own end; none where it
/// is no directory of tensors.
pub fn extent(header: impl Read) -> Option<u64> {
    #[derive(Deserialize)]
    struct Ends {
        data_offsets: Option<(u64, u64)>,
    }
    struct Last;
    impl<'de> Visitor<'de> for Last {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
            let mut last = 0;
            while map.next_key::<IgnoredAny>()?.is_some() {
                let ends: Ends = map.next_value()?;
                last = last.max(ends.data_offsets.map_or(0, |(_, end)| end));
            }
            Ok(last)
        }
    }
    let mut header = serde_json::Deserializer::from_reader(BufReader::new(header));
    header.deserialize_map(Last).ok()
}

/// Reads the header entry by entry, so that one of millions of tensors is refused before it is in memory.
struct HeaderVisitor {
    /// The most tensors.
    most: u64,
}

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        while let Some(name) = map.next_key::<String>()? {
            if header.tensors.len() as u64 >= self.most {
                return Err(A::Error::custom(format_args!("more than {} tensors", self.most)));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Entry { dtype, shape, data_offsets: (at, end) } = map.next_value()?;
            let Some(dtype) = Dtype::of_safetensors(&dtype) else {
                header.unknown.get_or_insert((name, dtype.into_owned()));
                continue;
            };
            let stride = dense(&shape);
            let (file, big_endian) = (0, false);
            header.tensors.push(Stored { name, dtype, shape, stride, file, at, big_endian });
            header.ends.push(end);
        }
        let mut names: Vec<&str> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair.first() == pair.last()) {
            Some([name, ..]) => Err(A::Error::custom(format_args!("{name:?} is there twice"))),
            _ => Ok(header),
        }
    }
}
