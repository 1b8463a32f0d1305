//! Sizes and offsets of blocks, computed from the fields of their descriptions.
//!
//! ```text
//! Storage::Block     [front] [unit 0: field 0, field 1, ..] [unit 1: ..] ..
//! Storage::Planar    [field 0 of every unit] [field 1 of every unit] ..
//! rows > 1           [fronts of all rows] [unit 0 of all rows together] [unit 1 of all rows] ..
//! ```
//!
//! A size is never written down: 18 bytes of Q4_0 are an f16 and sixteen bytes, as its description says.

use crate::format::block::{Block, Field, Kind, Storage};

/// How many bytes a unit of coding has and where its fields are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BlockLayout {
    /// Weights of one row in a unit.
    pub elements: usize,
    /// Bytes of a unit.
    pub bytes: usize,
    /// Rows that a unit spans: more than one only for row-interleaved types.
    pub rows: usize,
    /// Unit after unit, or field after field.
    pub storage: Storage,
    /// Bytes of a row before its units. Those of all rows of a group are before the group's units.
    pub front: usize,
    /// The fields that are there, and their offsets.
    pub front_fields: Vec<(usize, Field)>,
    /// The fields of a unit and their offsets in it.
    pub fields: Vec<(usize, Field)>,
    /// The name of the code that decodes it.
    pub kernel: &'static str,
}

impl BlockLayout {
    pub(crate) fn new(block: &'static Block) -> BlockLayout {
        let (fields, bytes) = placed(&block.fields);
        let (front_fields, front) = placed(&block.front);
        let Block { elements, rows, storage, kernel, .. } = block;
        BlockLayout {
            elements: *elements,
            bytes,
            rows: *rows,
            storage: *storage,
            front,
            front_fields,
            fields,
            kernel,
        }
    }

    /// How many units a group of rows has, of which each takes as many bytes.
    pub fn units(&self, row_bytes: usize) -> usize {
        row_bytes.saturating_sub(self.front) * self.rows / self.bytes
    }

    /// Bytes of a row of `row_len` weights; none if units do not fill it.
    pub fn row_bytes(&self, row_len: u64) -> Option<u64> {
        let elements = self.elements as u64;
        if !row_len.is_multiple_of(elements) {
            return None;
        }
        let bytes = (row_len / elements).checked_mul(self.bytes as u64)?;
        (bytes / self.rows as u64).checked_add(self.front as u64)
    }

    /// Joins pieces of one row: the columns of the first, then those of the second. `out` is as long
    /// as all of them. Units are one after another; where the storage is planar, each field does.
    pub fn put_side_by_side(&self, pieces: &[&[u8]], out: &mut [u8]) {
        let mut to = 0;
        let mut put = |bytes: &[u8]| {
            out[to..to + bytes.len()].copy_from_slice(bytes);
            to += bytes.len();
        };
        match self.storage {
            Storage::Block => pieces.iter().for_each(|piece| put(piece)),
            Storage::Planar => {
                for (at, field) in &self.fields {
                    for piece in pieces {
                        let units = piece.len() / self.bytes;
                        put(&piece[at * units..(at + field.bytes()) * units]);
                    }
                }
            }
        }
    }

    /// Turns every number of `data` round, between little- and big-endian.
    ///
    /// `data` is whole units, or exactly one row where the storage is planar. Types with something before their
    /// units are none of big-endian files.
    pub fn swap_bytes(&self, data: &mut [u8]) {
        assert_eq!(self.front, 0, "no big-endian file has rows that begin with their scale");
        assert!(data.len().is_multiple_of(self.bytes), "whole units of {} bytes", self.bytes);
        let units = data.len() / self.bytes;
        match self.storage {
            Storage::Block if self.fields.len() == 1 => swap(self.fields[0].1.kind, data),
            Storage::Block => {
                for unit in data.chunks_exact_mut(self.bytes) {
                    for (at, field) in &self.fields {
                        swap(field.kind, &mut unit[*at..*at + field.bytes()]);
                    }
                }
            }
            Storage::Planar => {
                for (at, field) in &self.fields {
                    swap(field.kind, &mut data[at * units..(at + field.bytes()) * units]);
                }
            }
        }
    }
}

/// Fields one after the other with their offsets, and the bytes of all.
fn placed(fields: &[Field]) -> (Vec<(usize, Field)>, usize) {
    let mut bytes = 0;
    let mut placed = Vec::with_capacity(fields.len());
    for field in fields {
        placed.push((bytes, field.clone()));
        bytes += field.bytes();
    }
    (placed, bytes)
}

/// Bytes of a number in the other order; numbers of one byte have none.
fn swap(kind: Kind, data: &mut [u8]) {
    match kind.bytes() {
        2 => data.as_chunks_mut::<2>().0.iter_mut().for_each(|number| number.reverse()),
        4 => data.as_chunks_mut::<4>().0.iter_mut().for_each(|number| number.reverse()),
        8 => data.as_chunks_mut::<8>().0.iter_mut().for_each(|number| number.reverse()),
        _ => {}
    }
}
