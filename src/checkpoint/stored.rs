//! A tensor as a checkpoint stores it, and the directory of one file of them.

use serde_json::Value as Json;

use super::dtype::Dtype;
use crate::{
    bytes::Input,
    error::{Error, Result},
    model::Piece,
    quant::QuantType,
    remedy::Notes,
};

/// The directory of one file of weights.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Weights {
    /// The id of the file's format.
    pub format: &'static str,
    /// The inputs that the tensors point into: the file, and unpacked entries of it.
    pub files: Vec<Input>,
    /// Its tensors in file order.
    pub tensors: Vec<Stored>,
    /// The model's settings, where they are beside the tensors: what params.json has.
    pub params: Option<Json>,
    /// What a person should know.
    pub notes: Notes,
}

/// A tensor as a checkpoint stores it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stored {
    /// Its name in the checkpoint.
    pub name: String,
    /// The type of its numbers.
    pub dtype: &'static Dtype,
    /// Its shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Elements from one index to the next, for each dimension.
    pub stride: Vec<u64>,
    /// Index of its input.
    pub file: usize,
    /// Where its first number is there.
    pub at: u64,
    /// Whether its numbers are big-endian.
    pub big_endian: bool,
}

impl Stored {
    /// The type of its rows.
    ///
    /// # Errors
    /// Where its numbers are no weights: whole numbers, truth values, floats that only packed matrices have.
    pub fn quant(&self) -> Result<QuantType> {
        let float = self.dtype.is_float() || self.dtype.is_blocks();
        QuantType::today(self.dtype.name).filter(|_| float).ok_or_else(|| {
            let what = format!("{}: weights of type {}", self.name, self.dtype.name);
            Error::unsupported(what, "not yet: f16, bf16, f32 and f64 are read as weights")
        })
    }

    /// Bytes of N numbers side by side, where they fill whole bytes or blocks.
    pub fn bytes_of(&self, numbers: u64) -> Option<u64> {
        if !self.dtype.is_blocks() {
            return self.dtype.bytes(numbers);
        }
        let layout = QuantType::today(self.dtype.name)?.layout();
        let (elements, bytes) = (layout.elements as u64, layout.bytes as u64);
        let whole = numbers.is_multiple_of(elements);
        whole.then(|| (numbers / elements).checked_mul(bytes)).flatten()
    }

    /// Takes out dimensions of one, and puts as many behind the others as `dimensions` want.
    pub fn fold_ones(&mut self, dimensions: usize) {
        let both = self.shape.iter().copied().zip(self.stride.iter().copied());
        let mut kept: Vec<(u64, u64)> = both.filter(|(n, _)| *n != 1).collect();
        kept.resize(kept.len().max(dimensions), (1, 1));
        (self.shape, self.stride) = kept.into_iter().unzip();
    }

    /// Its rows as one piece of a tensor.
    ///
    /// ```text
    /// shape [3, 2, 4], stride [16, 8, 1]     6 rows of 4 numbers, 8 apart: 16 = 2 * 8, so one distance is enough
    /// shape [3, 2, 4], stride [20, 8, 1]     refused: rows at uneven distances
    /// shape [2, 4],    stride [1, 2]         turned: numbers 2 apart, rows 1 apart
    /// ```
    ///
    /// # Errors
    /// Where it is a single number or has no elements, where one number stands for many, rows overlap or have no one
    /// distance, or rows go across blocks.
    pub fn piece(&self) -> Result<Piece> {
        let width = self.dtype.width();
        let odd = |what: &str| {
            let what =
                format!("{}: {what}: shape {:?}, strides {:?}", self.name, self.shape, self.stride);
            Error::unsupported(what, "not yet: save it with .contiguous()")
        };
        let (Some(&columns), Some(&step)) = (self.shape.last(), self.stride.last()) else {
            return Err(odd("a single number"));
        };
        let outer = || self.shape.iter().zip(&self.stride).rev().skip(1);
        if self.shape.contains(&0) {
            return Err(odd("no elements"));
        }
        if self.shape.iter().zip(&self.stride).any(|(n, s)| *n > 1 && *s == 0) {
            return Err(odd("one number many times"));
        }
        let bytes = |numbers| self.bytes_of(numbers).ok_or_else(|| odd("rows of no whole blocks"));
        let row_bytes = bytes(columns)?;
        // Rows are found by one stride, so every outer dimension must continue the one inside it.
        let row_stride = outer().find(|(n, _)| **n > 1).map_or(columns, |(_, s)| *s);
        let mut next = row_stride;
        for (n, stride) in outer() {
            if *n > 1 && *stride != next {
                return Err(odd("rows at uneven distances"));
            }
            next = next.saturating_mul(*n);
        }
        if step == 1 && row_stride < columns && outer().any(|(n, _)| *n > 1) {
            return Err(odd("rows that overlap"));
        }
        let element = match u8::try_from(width) {
            _ if step != 1 && columns > 1 && self.dtype.is_blocks() => {
                return Err(odd("rows across blocks"));
            }
            Ok(width) if step != 1 && columns > 1 => Some((width, step * u64::from(width))),
            _ => None,
        };
        Ok(Piece {
            file: self.file,
            at: self.at,
            rows: outer().map(|(n, _)| n).product(),
            row_bytes,
            row_stride: bytes(row_stride)?,
            element,
        })
    }
}
