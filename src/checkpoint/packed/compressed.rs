//! Whole numbers of compressed-tensors: packed into words, or a byte each.
//!
//! ```text
//! w[r][c] = scale[r][g] * (q - z)                   in f32, and exact there for scales of 16 bits
//!
//! pack-quantized
//! weight_packed      [rows, ceil(cols * bits / 32)]  q + 2^(bits - 1), one behind the other, low bits first
//! weight_shape       [2]                             rows, cols
//! weight_zero_point  [ceil(rows * bits / 32), groups]  z + 2^(bits - 1) down each column; absent where z is 0
//! weight_g_idx       [cols]                          the group of each column; absent where they follow one another
//!
//! int-quantized, naive-quantized
//! weight             [rows, cols]                    i8
//! weight_zero_point  as weight_scale                 i8; absent where z is 0
//!
//! weight_scale       [rows, groups]; [rows] or [rows, 1]: one a row; one number: the whole matrix
//! ```
//!
//! The library computes in the type of the scales, which rounds this.
//! Source: compressed-tensors, compressors/pack_quantized/helpers.py, quantization/lifecycle/forward_helpers.py.

use serde_json::Value as Json;

use super::{
    codes::{code, unpack},
    groups::{Groups, scaled},
    part::{FLOATS, Matrix, OF_MODEL, Part, Parts, Rows, WHOLE, in_memory},
};
use crate::{
    checkpoint::Stored,
    error::{Error, Result},
};

/// The matrix of a `weight_packed` of whole numbers; none of other tensors.
///
/// # Errors
/// Where parts are missing or do not fit.
pub fn packed(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let Some(stem) = stored.name.strip_suffix("_packed") else { return Ok(None) };
    if !stem.ends_with(".weight") || stored.dtype.name != "i32" {
        return Ok(None);
    }
    let named = |end: &str| format!("{stem}{end}");
    let odd = |what: String, next: &str| parts.odd(&stored.name, what, next);
    let words = parts.part(&stored.name, &stored.name, &["i32"])?;
    let shape = parts.part(&stored.name, &named("_shape"), &["i64", "i32"])?;
    let bytes = shape.bytes(0..1, 0..shape.columns.min(2))?;
    let width = in_memory(shape.dtype.width())?;
    let sizes = bytes.chunks_exact(width).map(|b| {
        let low = b.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        u64::from(low)
    });
    let &[rows, columns] = sizes.collect::<Vec<_>>().as_slice() else {
        return Err(odd("a weight_shape that is no pair".to_owned(), WHOLE));
    };
    // Where nothing is stated, 4 bits come first; two widths can fit only where a row is no longer than a word.
    // The type of a word says nothing of its bits: what is stated must fit, else the width decides.
    let fits = |bits: &u64| {
        rows == words.rows && columns > 0 && (columns * bits).div_ceil(32) == words.columns
    };
    let bits = match parts.of_groups("num_bits").and_then(Json::as_u64) {
        Some(bits) => (1..=8).contains(&bits).then_some(bits).filter(fits),
        None => [4, 8, 2].into_iter().find(fits),
    };
    let Some(bits) = bits else {
        let said = parts.of_groups("num_bits").map_or("some".to_owned(), Json::to_string);
        let what = format!("[{rows}, {columns}] of {said} bits in words {}", words.shape());
        return Err(odd(what, OF_MODEL));
    };
    let scales = Scales::new(parts, &stored.name, &named("_scale"), rows, columns)?;
    let zeros = parts.optional(&named("_zero_point"), &["i32", "i8"])?;
    let groups = scales.groups;
    // A symmetric type has none: the code in the middle is zero.
    let zeros = match zeros {
        None => Zeros::None,
        Some(zeros) if zeros.dtype.name == "i8" => Zeros::Bytes(zeros),
        Some(zeros) if (zeros.rows, zeros.columns) == ((rows * bits).div_ceil(32), groups) => {
            Zeros::Words(zeros)
        }
        Some(zeros) => {
            let what = format!("weight_zero_point {} of {groups} groups", zeros.shape());
            return Err(odd(what, WHOLE));
        }
    };
    let listed = parts.optional(&named("_g_idx"), &["i32", "i64"])?;
    let order = match listed {
        Some(list) if list.len() == columns => Groups::Listed(list),
        Some(list) => {
            return Err(odd(format!("weight_g_idx of {}, wanted {columns}", list.len()), WHOLE));
        }
        None => Groups::Runs(columns / groups),
    };
    let used = ["_packed", "_shape", "_scale", "_zero_point", "_g_idx"].map(named).to_vec();
    matrix(stem, [rows, columns], used, Whole { words, columns, bits, scales, zeros, order })
}

/// The matrix of a `weight` of bytes with a `weight_scale`; none of other tensors.
///
/// # Errors
/// Where parts are missing or do not fit.
pub fn bytes(parts: &Parts, stored: &Stored) -> Result<Option<Matrix>> {
    let scale = format!("{}_scale", stored.name);
    let is_whole = stored.name.ends_with(".weight") && stored.dtype.name == "i8";
    if !is_whole || parts.find(&scale).is_none() {
        return Ok(None);
    }
    let words = parts.part(&stored.name, &stored.name, &["i8"])?;
    let (rows, columns) = (words.rows, words.columns);
    let scales = Scales::new(parts, &stored.name, &scale, rows, columns)?;
    let zero = format!("{}_zero_point", stored.name);
    let zeros = parts.optional(&zero, &["i8"])?.map_or(Zeros::None, Zeros::Bytes);
    let order = Groups::Runs(columns / scales.groups);
    let used = vec![stored.name.clone(), scale, zero];
    let whole = Whole { words, columns, bits: 8, scales, zeros, order };
    matrix(&stored.name, [rows, columns], used, whole)
}

/// The matrix of its parts, once their shapes fit each other.
fn matrix(
    name: &str,
    shape: [u64; 2],
    parts: Vec<String>,
    mut whole: Whole,
) -> Result<Option<Matrix>> {
    whole.order.runs(whole.columns, whole.scales.groups)?;
    if let Zeros::Bytes(zeros) = whole.zeros {
        whole.zeros = Zeros::Bytes(whole.scales.same_shape(zeros)?);
    }
    let name = name.to_owned();
    Ok(Some(Matrix { name, shape: shape.to_vec(), parts, rows: Box::new(whole) }))
}

/// The scales of a matrix, row by row.
struct Scales {
    part: Part,
    /// How many a row has.
    groups: u64,
    /// Whether one number is every row's.
    one: bool,
}

impl Scales {
    /// The scales of a matrix of `rows` by `columns`: one, one a row, or one for each group of a row.
    fn new(parts: &Parts, codes: &str, name: &str, rows: u64, columns: u64) -> Result<Scales> {
        let mut part = parts.part(codes, name, &FLOATS)?;
        let shape = parts.find(name).map_or(&[][..], |stored| stored.shape.as_slice());
        let (one, groups) = match shape {
            [] | [1] | [1, 1] => (true, 1),
            [n] if *n == rows => (false, 1),
            [n, groups] if *n == rows && columns.is_multiple_of((*groups).max(1)) => {
                (false, *groups)
            }
            _ => {
                let what = format!("scales {shape:?} of a matrix [{rows}, {columns}]");
                return Err(parts.odd(name, what, WHOLE));
            }
        };
        // A negative or missing size means one scale a row, which has been counted already.
        let size = parts.of_groups("group_size").and_then(Json::as_u64);
        if let Some(size) = size.filter(|size| groups > 1 && size * groups != columns) {
            let what = format!("{columns} columns in {groups} groups of {size}");
            return Err(parts.odd(codes, what, OF_MODEL));
        }
        if !one {
            (part.rows, part.columns) = (rows, groups);
        }
        Ok(Scales { part, groups, one })
    }

    /// A part of one number for each scale, laid out as they are.
    fn same_shape(&self, mut part: Part) -> Result<Part> {
        if part.len() != self.part.len() {
            let what = format!("{}: {} for {} scales", part.name, part.shape(), self.part.shape());
            return Err(Error::refused(what, WHOLE));
        }
        (part.rows, part.columns) = (self.part.rows, self.part.columns);
        Ok(part)
    }

    /// Where the numbers of rows are, and how many a row takes.
    fn rows(&self, first: u64, n: u64) -> (std::ops::Range<u64>, usize) {
        if self.one {
            (0..1, 0)
        } else {
            (first..first + n, usize::try_from(self.groups).unwrap_or(0))
        }
    }
}

/// Where zero points are.
enum Zeros {
    None,
    /// Packed down each column.
    Words(Part),
    Bytes(Part),
}

/// A matrix of whole numbers of `bits` bits in words, low bits first.
struct Whole {
    words: Part,
    columns: u64,
    bits: u64,
    scales: Scales,
    zeros: Zeros,
    order: Groups,
}

impl Rows for Whole {
    fn rows(&self, first: u64, out: &mut [f32]) -> Result<()> {
        let columns = in_memory(self.columns)?;
        let n = (out.len() / columns) as u64;
        let (of_scales, per_row) = self.scales.rows(first, n);
        let scales = self.scales.part.floats(of_scales.clone(), 0..self.scales.part.columns)?;
        let (bits, groups) = (in_memory(self.bits)?, in_memory(self.scales.groups)?);
        let runs = self.order.runs(self.columns, self.scales.groups)?;
        // What stands for zero where codes begin at none.
        let middle = 1u32 << (self.bits - 1);
        // Zero points are packed down the rows: the first word that has bits of row `first`.
        let begin = first * self.bits / 32;
        let zeros = match &self.zeros {
            Zeros::None => Vec::new(),
            Zeros::Words(part) => {
                let end = ((first + n) * self.bits).div_ceil(32);
                part.words(begin..end, 0..part.columns)?
            }
            Zeros::Bytes(part) => {
                let bytes = part.bytes(of_scales, 0..part.columns)?;
                // Moved by the middle, as packed codes are: q - z stays the same.
                bytes
                    .into_iter()
                    .map(|b| middle.wrapping_add_signed(b.cast_signed().into()))
                    .collect()
            }
        };
        let stored = self.words.bytes(first..first + n, 0..self.words.columns)?;
        let row_bytes = stored.len() / in_memory(n.max(1))?;
        let (mut codes, mut words) = (vec![0u8; columns], Vec::new());
        for (r, (out, stored)) in
            out.chunks_exact_mut(columns).zip(stored.chunks_exact(row_bytes.max(1))).enumerate()
        {
            if self.words.dtype.name == "i8" {
                // Two's complement: the highest bit turned makes it a number above -128.
                codes.iter_mut().zip(stored).for_each(|(code, byte)| *code = byte ^ 0x80);
            } else {
                let all = stored.chunks_exact(4).filter_map(|b| b.first_chunk());
                words.clear();
                words.extend(all.map(|b| u32::from_le_bytes(*b)));
                unpack(&words, bits, &mut codes);
            }
            for (run, group) in &runs {
                let place = r * per_row + group;
                let zero = match &self.zeros {
                    Zeros::None => middle,
                    Zeros::Words(_) => {
                        let at = in_memory((first + r as u64) * self.bits - begin * 32)?;
                        let word = |n: usize| zeros.get(n * groups + group).copied().unwrap_or(0);
                        code(&[word(at / 32), word(at / 32 + 1)], at % 32, (1 << bits) - 1)
                    }
                    Zeros::Bytes(_) => zeros.get(place).copied().unwrap_or(middle),
                };
                let scale = scales.get(place).copied().unwrap_or(f32::NAN);
                let codes = codes.get(run.clone()).unwrap_or_default();
                scaled(codes, zero, scale, out.get_mut(run.clone()).unwrap_or_default());
            }
        }
        Ok(())
    }
}
