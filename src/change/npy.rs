//! Tensors decoded into NumPy's files: `.npy` for one, `.npz` for several.
//!
//! An `.npy` is a header in ASCII, padded to a multiple of 64 bytes, and the numbers in order, here
//! little-endian f32. An `.npz` is a zip archive of such, stored as they are.
//!
//! ```text
//! 93 4e 55 4d 50 59  01 00  76 00                   magic, version 1.0, length of the text: 118
//! {'descr': '<f4', 'fortran_order': False, 'shape': (4096, 11008), }      and spaces, then a line feed
//! numbers                                            from byte 128 on: a multiple of 64
//! ```

use std::path::Path;

use super::Progress;
use crate::{
    bytes::{
        Input, Replace,
        replace::{Commit, check_interrupt},
    },
    error::Result,
    model::{Model, Tensor, weights},
};

/// Where the numbers of a tensor go in an archive, and all that is around them.
struct Entry<'a> {
    tensor: &'a Tensor,
    name: String,
    head: Vec<u8>,
    at: u64,
}

/// Numbers of four bytes in a tensor.
fn size(tensor: &Tensor) -> u64 {
    tensor.shape.iter().product::<u64>() * 4
}

/// Bytes that [`one`] or [`all`] will write, but for headers.
pub fn bytes(tensors: &[&Tensor]) -> u64 {
    tensors.iter().map(|tensor| size(tensor)).sum()
}

/// Writes one tensor as `.npy`.
///
/// # Errors
/// Where its type is not decoded here, a file cannot be read or the output not be written.
pub fn one(
    model: &Model,
    tensor: &Tensor,
    output: &Path,
    commit: Commit,
    progress: &dyn Progress,
) -> Result<()> {
    let head = header(tensor);
    let total = head.len() as u64 + size(tensor);
    let out = begin(model, output, total, commit)?;
    out.write_at(0, &head)?;
    numbers(model, tensor, &out, head.len() as u64, progress)?;
    finish(model, out)
}

/// Writes several tensors as `.npz`.
///
/// # Errors
/// As [`one`].
pub fn all(
    model: &Model,
    tensors: &[&Tensor],
    output: &Path,
    commit: Commit,
    progress: &dyn Progress,
) -> Result<()> {
    let mut at = 0;
    let mut entries = Vec::new();
    for tensor in tensors {
        let (name, head) = (format!("{}.npy", tensor.name), header(tensor));
        let before = at;
        at += LOCAL + name.len() as u64 + WIDE + head.len() as u64 + size(tensor);
        entries.push(Entry { tensor, name, head, at: before });
    }
    let central: u64 = entries.iter().map(|e| CENTRAL + e.name.len() as u64 + WIDE_CENTRAL).sum();
    let out = begin(model, output, at + central + END, commit)?;
    let mut directory = Vec::new();
    for entry in &entries {
        let local = entry.at + LOCAL + entry.name.len() as u64 + WIDE;
        out.write_at(local, &entry.head)?;
        let body = local + entry.head.len() as u64;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&entry.head);
        sum.combine(&numbers(model, entry.tensor, &out, body, progress)?);
        let crc = sum.finalize();
        out.write_at(entry.at, &entry.local(crc))?;
        directory.extend(entry.central(crc));
    }
    out.write_at(at, &directory)?;
    out.write_at(at + central, &end(entries.len() as u64, central, at))?;
    finish(model, out)
}

/// Begins an output that is none of the model's files.
fn begin(model: &Model, output: &Path, total: u64, commit: Commit) -> Result<Replace> {
    let inputs: Vec<&Input> = model.files.iter().collect();
    Replace::begin(output, total, commit, &inputs)
}

/// Gives the output its name, if nothing of the model changed meanwhile.
fn finish(model: &Model, out: Replace) -> Result<()> {
    model.files.iter().try_for_each(Input::check_read)?;
    out.commit().map(drop)
}

/// Decodes a tensor to `at`; returns the sum of its bytes.
fn numbers(
    model: &Model,
    tensor: &Tensor,
    out: &Replace,
    at: u64,
    progress: &dyn Progress,
) -> Result<crc32fast::Hasher> {
    let mut sum = crc32fast::Hasher::new();
    let mut bytes = Vec::new();
    weights::each(model, tensor, 0..tensor.rows(), &mut |first, weights| {
        check_interrupt()?;
        bytes.clear();
        bytes.extend(weights.iter().flat_map(|weight| weight.to_le_bytes()));
        sum.update(&bytes);
        progress.advance(bytes.len() as u64);
        out.write_at(at + first * tensor.row_len() * 4, &bytes)
    })?;
    Ok(sum)
}

/// What is before the numbers: magic, version 1.0, length, and a dictionary as Python writes it.
fn header(tensor: &Tensor) -> Vec<u8> {
    let sizes: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
    // A tuple of one has its comma.
    let shape = if sizes.len() == 1 { format!("{},", sizes.join("")) } else { sizes.join(", ") };
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    const BEFORE: usize = 10;
    let padded = (BEFORE + text.len() + 1).next_multiple_of(64) - BEFORE - 1;
    text = format!("{text:<padded$}\n");
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    [b"\x93NUMPY\x01\x00".as_slice(), &length, text.as_bytes()].concat()
}

/// Bytes of a local header, of the field with its wide sizes, of a directory's entry, of its field, and of
/// what ends the archive. The wide fields are always there: no size has to be asked.
const LOCAL: u64 = 30;
const WIDE: u64 = 20;
const CENTRAL: u64 = 46;
const WIDE_CENTRAL: u64 = 28;
const END: u64 = 56 + 20 + 22;

/// Fields of 2, 4 or 8 bytes, one behind the other.
fn fields(fields: &[(u64, usize)]) -> Vec<u8> {
    fields.iter().flat_map(|(value, width)| value.to_le_bytes().into_iter().take(*width)).collect()
}

/// What a field of 32 bits has where the wide field beside it counts.
const NARROW: u64 = u32::MAX as u64;

impl Entry<'_> {
    /// Bytes of the file inside the archive: header and numbers.
    fn bytes(&self) -> u64 {
        self.head.len() as u64 + size(self.tensor)
    }

    /// Version 4.5 (for the wide field), UTF-8, stored, 1 January 1980, sum, sizes, lengths.
    ///
    /// Sizes are 2^32 - 1 here and true in the wide field, which any reader of large archives takes; the date is the
    /// first that a zip can state, so that the same tensors give the same file.
    fn common(&self, crc: u32, extra: u64) -> Vec<u8> {
        let name = self.name.len() as u64;
        fields(&[
            (45, 2),
            (0x800, 2),
            (0, 2),
            (0, 2),
            (0x21, 2),
            (crc.into(), 4),
            (NARROW, 4),
            (NARROW, 4),
            (name, 2),
            (extra, 2),
        ])
    }

    /// The header before the file.
    fn local(&self, crc: u32) -> Vec<u8> {
        let wide = fields(&[(1, 2), (16, 2), (self.bytes(), 8), (self.bytes(), 8)]);
        [b"PK\x03\x04".as_slice(), &self.common(crc, WIDE), self.name.as_bytes(), &wide].concat()
    }

    /// The file's entry in the directory at the end.
    fn central(&self, crc: u32) -> Vec<u8> {
        let rest = fields(&[(0, 2), (0, 2), (0, 2), (0, 4), (NARROW, 4)]);
        let wide = fields(&[(1, 2), (24, 2), (self.bytes(), 8), (self.bytes(), 8), (self.at, 8)]);
        let common = self.common(crc, WIDE_CENTRAL);
        let name = self.name.as_bytes();
        [b"PK\x01\x02".as_slice(), &fields(&[(45, 2)]), &common, &rest, name, &wide].concat()
    }
}

/// The wide end of the directory, where it is, and the narrow end, which points there.
fn end(n: u64, bytes: u64, at: u64) -> Vec<u8> {
    let wide = [(44, 8), (45, 2), (45, 2), (0, 4), (0, 4), (n, 8), (n, 8), (bytes, 8), (at, 8)];
    let narrow = [(0, 2), (0, 2), (0xffff, 2), (0xffff, 2), (NARROW, 4), (NARROW, 4), (0, 2)];
    [
        b"PK\x06\x06".as_slice(),
        &fields(&wide),
        b"PK\x06\x07",
        &fields(&[(0, 4), (at + bytes, 8), (1, 4)]),
        b"PK\x05\x06",
        &fields(&narrow),
    ]
    .concat()
}
