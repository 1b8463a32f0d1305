//! Tensors that are sums: rows of a model and what is added to them, made while they are read.
//!
//! ```text
//! row r of the sum = row r of the base
//!                  + scale * (B[r][0] A[0] + .. + B[r][rank - 1] A[rank - 1])        Term::Product, an adapter
//!                  + row r of another tensor, or `beyond` where that has none         Term::Rows, a difference
//!         or       = column r of the base's band                                      Term::Turned, one term alone
//! ```
//!
//! A is read whole and packed once, B and the other rows come with the rows of the base. All is added in f32.
//!
//! A [`Sum`] takes the place of a tensor's bytes, so whatever reads rows reads merged ones, a chunk at a time.
//! Runners look inside and add the products of a vector instead.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    Adapter, Model, Tensor,
    kept::Kept,
    tensor::{Sum, Term},
    weights,
};
use crate::{
    error::{Error, Result},
    quant::{
        QuantType, decode_rows,
        encode::encoder,
        isa::Isa,
        product::{Packed, add_product, high},
    },
    remedy::Call,
};

/// Weights that are summed at a time: as f32 they stay in the cache of one core.
const BLOCK: usize = 48 << 10;

/// What a thread needs for one sum after the other.
#[derive(Debug, Default)]
pub struct Room {
    /// Rows as they are stored: of what is added to, and of what is added.
    base: Vec<u8>,
    others: Vec<Vec<u8>>,
    /// Matrices A of the sum that was read last: the next rows are mostly of the same.
    factors: Vec<Arc<Packed>>,
}

/// Some rows of a sum whose terms are read.
#[derive(Debug)]
pub struct Stretch<'a> {
    /// What is added to.
    base: Rows<'a>,
    /// What is added, first to last.
    parts: Vec<Part<'a>>,
}

impl Sum {
    /// Whether it is no sum but the base turned.
    pub fn is_turned(&self) -> bool {
        self.terms.iter().any(|term| matches!(term, Term::Turned { .. }))
    }

    /// Reads what rows `wanted` are made of.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn rows<'a>(
        &'a self,
        model: &Model,
        wanted: Range<u64>,
        room: &'a mut Room,
    ) -> Result<Stretch<'a>> {
        let Room { base, others, factors } = room;
        if let [Term::Turned { rows, step, below }] = self.terms.as_slice() {
            let base = self.turned(model, (*rows, *step, below.as_ref()), wanted, base)?;
            return Ok(Stretch { base, parts: Vec::new() });
        }
        others.resize_with(self.terms.len(), Vec::new);
        let base = Rows::read(model, &self.base, wanted.clone(), base)?;
        let part = |(term, bytes)| Part::of(model, term, wanted.clone(), bytes);
        let parts: Vec<Part> = self.terms.iter().zip(others).map(part).collect::<Result<_>>()?;
        // What no thread holds is made anew: the last ones are held until these are there.
        *factors = parts.iter().filter_map(Part::factor).collect();
        Ok(Stretch { base, parts })
    }

    /// Some rows of bands that are turned, each with what is below it.
    ///
    /// ```text
    /// base, rows 2, step 3      turned, below 1
    /// a b c    band 0           a d
    /// d e f                     b e
    /// . . .    of no band       c f
    /// g h i    band 1           x y      row 0 of what is below
    /// j k l                     g j      and so on
    /// ```
    fn turned<'a>(
        &self,
        model: &Model,
        (rows, step, below): (u64, u64, Option<&(Tensor, u64)>),
        wanted: Range<u64>,
        bytes: &'a mut Vec<u8>,
    ) -> Result<Rows<'a>> {
        let columns = self.base.row_len();
        let under = below.map_or(0, |(_, rows)| *rows);
        let (cols, width) = (size(rows)?, size(columns)?);
        bytes.clear();
        let mut at = wanted.start;
        while at < wanted.end {
            let band = at / (columns + under);
            let first = band * (columns + under);
            let end = wanted.end.min(first + columns + under);
            let (from, to) = ((at - first).min(columns), (end - first).min(columns));
            if from < to {
                let stored = numbers(model, &self.base, band * step..band * step + rows)?;
                for column in size(from)?..size(to)? {
                    let turned = stored.iter().skip(column).step_by(width).take(cols);
                    bytes.extend(turned.flat_map(|number| number.to_le_bytes()));
                }
            }
            if let Some((tensor, _)) = below.filter(|_| end > first + columns) {
                let from = band * under + at.max(first + columns) - first - columns;
                let rows = from..band * under + end - first - columns;
                let stored = numbers(model, tensor, rows)?;
                bytes.extend(stored.iter().flat_map(|number| number.to_le_bytes()));
            }
            at = end;
        }
        Ok(Rows { bytes, quant: plain()?, cols, row_bytes: cols.saturating_mul(4) })
    }

    /// Makes rows `first .. first + n` in the type `quant`, plain numbers, into `out`.
    pub(super) fn read(
        &self,
        model: &Model,
        quant: QuantType,
        first: u64,
        n: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let mut room = Room::default();
        let rows = self.rows(model, first..first + n, &mut room)?;
        rows.write(quant, out)
    }

    /// The tensor that it is, in the type `quant`: plain numbers.
    pub(crate) fn tensor(self, quant: QuantType) -> Tensor {
        // Where the base is in its file says when to read it.
        let mut tensor =
            Tensor { quant, big_endian: false, orders: Vec::new(), ..self.base.clone() };
        tensor.sum = Some(Arc::new(self));
        tensor
    }
}

/// A tensor of a model whose files are behind `shift` others.
pub(super) fn moved(tensor: &Tensor, shift: usize) -> Tensor {
    let mut tensor = tensor.clone();
    tensor.pieces.iter_mut().for_each(|piece| piece.file += shift);
    tensor
}

/// Adds the products of `adapter`, `times` over, to the matrices of `model`: in f32, whatever they are stored in.
///
/// # Errors
/// Where the model has no such matrix or one of another shape.
pub fn merge(model: &mut Model, adapter: &Adapter, times: f32) -> Result<()> {
    let f32 = plain()?;
    let places = adapter.fits(model)?;
    let shift = model.files.len();
    model.files.extend(adapter.files.iter().cloned());
    let (mut said, mut quantized) = (BTreeMap::<String, Vec<&str>>::new(), None);
    for (pair, place) in adapter.pairs.iter().zip(places) {
        let Some(tensor) = model.tensors.get_mut(place) else { continue };
        if tensor.fold > 1 || tensor.span.is_some() {
            let what = format!("{}: is coded across its rows, which cannot be merged", tensor.name);
            return Err(Error::unsupported(what, Call::Upgrade.to("code them one by one")));
        }
        let scale = adapter.scale(pair, times);
        let (a, b) = (moved(&pair.a, shift), moved(&pair.b, shift));
        let term = Term::Product { a, b, scale, kept: Kept::default() };
        let sum = tensor.sum.take().map(Arc::unwrap_or_clone);
        // A second adapter is one more term of the same sum.
        let mut sum = sum.unwrap_or_else(|| Sum { base: tensor.clone(), terms: Vec::new() });
        if sum.base.quant.layout().elements > 1 {
            quantized = Some(sum.base.quant);
        }
        sum.terms.push(term);
        *tensor = sum.tensor(f32);
        let part = pair.target.rsplit('.').nth(1).unwrap_or(&pair.target);
        said.entry(format!("rank {}, scale {scale}", pair.rank())).or_default().push(part);
    }
    for (what, mut parts) in said {
        let count = parts.len();
        parts.sort_unstable();
        parts.dedup();
        let (name, parts) = (&adapter.name, parts.join(", "));
        model.notes.push(format!("{name}: added to {count} tensors ({parts}), {what}"));
    }
    if let Some(quant) = quantized {
        model.notes.push(format!(
            "the model is quantized already ({quant}): the adapter was trained on its original weights, \
             and to quantize the sum again loses more; merge into f16 weights where you have them"
        ));
    }
    Ok(())
}

/// Adds a row to another, number by number.
pub(super) fn add(rows: &mut [f32], added: &[f32]) {
    rows.iter_mut().zip(added).for_each(|(row, added)| *row += added);
}

/// How many rows of N columns are best made at a time.
pub fn rows_at_once(cols: usize) -> usize {
    let high = high(Isa::best());
    (BLOCK / cols.max(1)).max(high) / high * high
}

impl Stretch<'_> {
    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.base.count()
    }

    /// The sums of those of `wanted` that are there, in place of what is in `out`.
    pub fn make(&self, wanted: Range<usize>, out: &mut Vec<f32>) {
        self.base.decode(wanted.clone(), out);
        let wanted = wanted.start..wanted.end.min(self.count());
        for part in &self.parts {
            match part {
                Part::Product { a, b, scale } => {
                    let rank = b.len() / self.count().max(1);
                    let b = b.get(wanted.start * rank..wanted.end * rank).unwrap_or_default();
                    add_product(Isa::best(), out, b, a, *scale);
                }
                Part::Rows { other, beyond } => {
                    let mut added = Vec::new();
                    other.decode(wanted.clone(), &mut added);
                    // New rows of a vocabulary are behind the last of the other tensor.
                    let there = added.len().min(out.len());
                    let (known, new) = out.split_at_mut(there);
                    add(known, &added);
                    new.chunks_mut(self.base.cols.max(1)).for_each(|row| add(row, beyond));
                }
            }
        }
    }

    /// All of them in the type `quant`, plain numbers, into `out`.
    ///
    /// # Errors
    /// Where no sums are made in that type.
    pub fn write(&self, quant: QuantType, out: &mut [u8]) -> Result<()> {
        let encode = encoder(quant.name())
            .ok_or_else(|| Error::unsupported(format!("no sums are made in {quant}"), ""))?;
        let row_made = (out.len() / self.count().max(1)).max(1);
        let (mut rows, at_once) = (Vec::new(), rows_at_once(self.base.cols));
        for (n, out) in out.chunks_mut(at_once.saturating_mul(row_made)).enumerate() {
            self.make(n * at_once..(n + 1) * at_once, &mut rows);
            encode(Isa::best(), &rows, self.base.cols, None, out);
        }
        Ok(())
    }
}

/// Rows of a stored tensor, some of which are decoded at a time.
#[derive(Debug)]
struct Rows<'a> {
    /// Whole rows, one behind the other.
    bytes: &'a [u8],
    quant: QuantType,
    /// Weights of a row.
    cols: usize,
    /// Bytes of a row.
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    /// Reads those of `wanted` that `tensor` has.
    fn read(
        model: &Model,
        tensor: &Tensor,
        wanted: Range<u64>,
        bytes: &'a mut Vec<u8>,
    ) -> Result<Rows<'a>> {
        let wanted = wanted.start.min(tensor.rows())..wanted.end.min(tensor.rows());
        let cols = size(tensor.row_len())?;
        // Rows that are coded together are decoded together.
        if tensor.quant.row_group() > 1 || tensor.quant.stranger().is_some() {
            bytes.clear();
            weights::each(model, tensor, wanted, &mut |_, some| {
                bytes.extend(some.iter().flat_map(|number| number.to_le_bytes()));
                Ok(())
            })?;
            return Ok(Rows { bytes, quant: plain()?, cols, row_bytes: cols.saturating_mul(4) });
        }
        let n = wanted.end - wanted.start;
        bytes.resize(size(n.saturating_mul(tensor.row_bytes()))?, 0);
        model.read_rows(tensor, wanted.start, n, bytes)?;
        Ok(Rows { bytes, quant: tensor.quant, cols, row_bytes: size(tensor.row_bytes())? })
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.bytes.len() / self.row_bytes.max(1)
    }

    /// Those of `wanted` that are there, as numbers in place of what is in `out`.
    fn decode(&self, wanted: Range<usize>, out: &mut Vec<f32>) {
        let wanted = wanted.start.min(self.count())..wanted.end.min(self.count());
        out.resize(wanted.len() * self.cols, 0.0);
        let bytes = self.bytes.get(wanted.start * self.row_bytes..wanted.end * self.row_bytes);
        if !wanted.is_empty() {
            decode_rows(self.quant, Isa::best(), bytes.unwrap_or_default(), self.cols, out);
        }
    }
}

/// A term of a sum at some of its rows.
#[derive(Debug)]
enum Part<'a> {
    /// `scale * b a`: all of A, packed, and of B `[rows][rank]`.
    Product { a: Arc<Packed>, b: Vec<f32>, scale: f32 },
    /// Rows of another tensor, as many as it has, and what is added to the rest.
    Rows { other: Rows<'a>, beyond: &'a [f32] },
}

impl<'a> Part<'a> {
    /// Reads what a term needs for the rows `wanted`: of a product rows of B and all of A, unless another thread holds
    /// that.
    fn of(
        model: &Model,
        term: &'a Term,
        wanted: Range<u64>,
        bytes: &'a mut Vec<u8>,
    ) -> Result<Part<'a>> {
        match term {
            Term::Product { a, b, scale, kept } => {
                let make = || Ok(Packed::of(&numbers(model, a, 0..a.rows())?, size(a.row_len())?));
                let (a, b) = (kept.or_made(make)?, numbers(model, b, wanted)?);
                Ok(Part::Product { a, b, scale: *scale })
            }
            Term::Rows { tensor, beyond } => {
                Ok(Part::Rows { other: Rows::read(model, tensor, wanted, bytes)?, beyond })
            }
            // It is alone, and made in place of the base.
            Term::Turned { .. } => Err(Error::unsupported("rows that are turned and added to", "")),
        }
    }

    fn factor(&self) -> Option<Arc<Packed>> {
        match self {
            Part::Product { a, .. } => Some(Arc::clone(a)),
            Part::Rows { .. } => None,
        }
    }
}

/// Rows of a stored tensor as numbers.
pub(super) fn numbers(model: &Model, tensor: &Tensor, wanted: Range<u64>) -> Result<Vec<f32>> {
    let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
    let rows = Rows::read(model, tensor, wanted, &mut bytes)?;
    rows.decode(0..rows.count(), &mut numbers);
    Ok(numbers)
}

fn size(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| Error::unsupported("a row is larger than memory", ""))
}

pub(crate) fn plain() -> Result<QuantType> {
    QuantType::today("f32").ok_or_else(|| Error::unsupported("no f32", ""))
}
