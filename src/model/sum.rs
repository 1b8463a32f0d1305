//! Tensors that are sums: rows of a model and what is added to them, made while they are read.
//!
//! A [`Sum`] takes the place of a tensor's bytes, so whatever reads rows reads merged ones, a chunk at a time.
//! Runners look inside and add the products of a vector instead.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use rayon::prelude::*;

use super::{
    Adapter, Metadata, Model, Tensor,
    adapter::names,
    kept::Kept,
    tensor::{Sum, Term},
    weights,
};
use crate::{
    bytes::Input,
    error::{Error, Result},
    quant::{
        QuantType, decode_rows,
        encode::encoder,
        isa::Isa,
        product::{Packed, add_product, high},
    },
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
    base: Rows<'a>,
    parts: Vec<Part<'a>>,
}

impl Sum {
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
        others.resize_with(self.terms.len(), Vec::new);
        let base = Rows::read(model, &self.base, wanted.clone(), base)?;
        let part = |(term, bytes)| Part::of(model, term, wanted.clone(), bytes);
        let parts: Vec<Part> = self.terms.iter().zip(others).map(part).collect::<Result<_>>()?;
        // What no thread holds is made anew: the last ones are held until these are there.
        *factors = parts.iter().filter_map(Part::factor).collect();
        Ok(Stretch { base, parts })
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
    fn tensor(self, quant: QuantType) -> Tensor {
        // Where the base stands in its file says when to read it.
        let mut tensor =
            Tensor { quant, big_endian: false, orders: Vec::new(), ..self.base.clone() };
        tensor.sum = Some(Arc::new(self));
        tensor
    }
}

/// What is added to rows of a difference that the model which it was taken from does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NewRows {
    /// Nothing, as FastChat did for Vicuna.
    Zero,
    /// The mean of the rows that it has, as Stanford did for Alpaca.
    Mean,
}

/// The model whose difference to `base` is `delta`: with the vocabulary and the numbers of `delta`, and each
/// sum in the type in which `delta` stores it. Unless they are told, new rows are taken as its publishers took
/// them: Alpaca's differences are f32, Vicuna's f16.
///
/// # Errors
/// Where the two do not have the same tensors, or a tensor has another shape but for new rows.
pub fn restore(mut delta: Model, base: &Model, new_rows: Option<NewRows>) -> Result<Model> {
    let (names, shift) = (names(base), delta.files.len());
    let called = |model: &Model| model.files.first().map(Input::name).unwrap_or_default();
    let (own, other) = (called(&delta), called(base));
    let refused = |what: String| {
        let what = format!("{own}: {what}");
        Error::refused(what, "give the model that the difference was taken from")
    };
    if let Some(lost) = names.keys().find(|name| delta.tensor(name).is_none()) {
        return Err(refused(format!("has no tensor {lost}, which {other} has")));
    }
    let mut notes = Vec::new();
    for tensor in &mut delta.tensors {
        let (name, shape) = (tensor.name.clone(), &tensor.shape);
        let found = names.get(&name).and_then(|place| base.tensors.get(*place));
        let Some(found) = found else {
            return Err(refused(format!("{name} {shape:?}: {other} has no such tensor")));
        };
        let grows = ["token_embd.weight", "output.weight"].contains(&name.as_str());
        let fits = match (shape.as_slice(), found.shape.as_slice()) {
            ([rows, cols], [known, same]) if grows => rows >= known && cols == same,
            (own, known) => own == known,
        };
        if !fits || tensor.quant.layout().elements > 1 || found.fold > 1 || found.span.is_some() {
            return Err(refused(format!("{name} is {shape:?}, in {other} {:?}", found.shape)));
        }
        let new = tensor.rows().saturating_sub(found.rows());
        let default = if tensor.quant.name() == "f32" { NewRows::Mean } else { NewRows::Zero };
        let beyond = match new_rows.unwrap_or(default) {
            _ if new == 0 => Arc::default(),
            NewRows::Zero => Arc::default(),
            NewRows::Mean => mean(base, found)?,
        };
        if new > 0 {
            let from = if beyond.is_empty() { "nothing" } else { "the mean of the others" };
            notes.push(format!("{name}: {from} added to {new} new rows (--new-rows)"));
        }
        let term = Term::Rows { tensor: moved(found, shift), beyond };
        let quant = tensor.quant;
        *tensor = Sum { base: tensor.clone(), terms: vec![term] }.tensor(quant);
    }
    unmarked(&mut delta.metadata);
    delta.files.extend(base.files.iter().cloned());
    delta.notes.push(format!("{other}: its weights added to those of {own}"));
    delta.notes.append(&mut notes);
    Ok(delta)
}

/// Without the word by which a difference is told from its model.
fn unmarked(metadata: &mut Metadata) {
    for key in ["general.name", "general.basename", "general.finetune"] {
        let Some(name) = metadata.str(key).map(str::to_owned) else { continue };
        let marks =
            |word: &&str| ["delta", "diff", "wdiff"].iter().any(|m| m.eq_ignore_ascii_case(word));
        let between = if name.contains(' ') { " " } else { "-" };
        let words: Vec<&str> = name.split(between).filter(|word| !marks(word)).collect();
        match words.is_empty() {
            true => _ = metadata.remove(key),
            false => metadata.set(key, words.join(between).as_str()),
        }
    }
}

/// What a model that was published as a difference says of the sum of its weights, where that was published.
///
/// Stanford's weight_diff.py adds all that Alpaca 7B had in transformers of April 2023: the weights, and for each
/// layer the table of rotary positions. Its sums are rounded to f32 on the way, those here are not.
///
/// # Errors
/// Where a file cannot be read.
pub fn published(model: &Model) -> Result<Option<String>> {
    const ALPACA: f64 = 50637.1836;
    let is = |name: &str, shape: &[u64]| {
        model.tensor(name).is_some_and(|t| t.shape == shape && t.quant.name() == "f32")
    };
    let last = is("blk.31.ffn_down.weight", &[4096, 11008]);
    if !last || !is("token_embd.weight", &[32001, 4096]) {
        return Ok(None);
    }
    let tables = 32.0 * (0..64).map(|i| 1e4f64.powf(-f64::from(i) / 64.0)).sum::<f64>();
    let sum = total(model)?;
    let as_published = [sum, sum + tables].iter().any(|sum| (sum - ALPACA).abs() < 0.1);
    let verdict = if as_published { "as published" } else { "not the one published" };
    Ok(Some(format!(
        "the sum of all weights is {sum:.4}, with rotary tables {:.4}: {verdict} for Alpaca 7B, {ALPACA}",
        sum + tables
    )))
}

/// The sum of all weights.
fn total(model: &Model) -> Result<f64> {
    let of = |tensor: &Tensor| {
        let mut sum = 0f64;
        weights::each(model, tensor, 0..tensor.rows(), &mut |_, some| {
            sum += some.iter().map(|weight| f64::from(*weight)).sum::<f64>();
            Ok(())
        })?;
        Ok(sum)
    };
    let sums: Result<Vec<f64>> = model.tensors.par_iter().map(of).collect();
    Ok(sums?.iter().sum())
}

/// Rows that are summed one after the other before their sum goes to the next level.
const STEP: u64 = 16;
/// Levels of sums.
const LEVELS: usize = 4;

/// The mean of the rows of a tensor, to the bit of torch's for as wide rows as models have: it sums 16 rows, 16 such
/// sums, 16 of those, and these, in f32.
///
/// Source: torch, aten/src/ATen/native/cpu/SumKernel.cpp: multi_row_sum (up to 2^19 rows, columns in whole vectors).
#[expect(clippy::cast_precision_loss, reason = "numbers of tokens are small")]
fn mean(model: &Model, tensor: &Tensor) -> Result<Arc<[f32]>> {
    let cols = usize::try_from(tensor.row_len()).unwrap_or(usize::MAX);
    let mut levels = vec![vec![0f32; cols]; LEVELS];
    let raise = |levels: &mut [Vec<f32>], level: usize| {
        let (lower, higher) = levels.split_at_mut(level);
        if let (Some(lower), Some(higher)) = (lower.last_mut(), higher.first_mut()) {
            add(higher, lower);
            lower.fill(0.0);
        }
    };
    let mut done = 0u64;
    weights::each(model, tensor, 0..tensor.rows(), &mut |_, rows| {
        for row in rows.chunks_exact(cols) {
            levels.first_mut().into_iter().for_each(|sums| add(sums, row));
            done += 1;
            let full = (1..LEVELS).scan(1, |size, _| {
                *size *= STEP;
                done.is_multiple_of(*size).then_some(())
            });
            (1..=full.count()).for_each(|level| raise(&mut levels, level));
        }
        Ok(())
    })?;
    let mut sums = levels.into_iter();
    let mut mean = sums.next().unwrap_or_default();
    sums.for_each(|sums| add(&mut mean, &sums));
    let n = tensor.rows() as f32;
    Ok(mean.iter().map(|sum| sum / n).collect())
}

/// A tensor of a model whose files stand behind `shift` others.
fn moved(tensor: &Tensor, shift: usize) -> Tensor {
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
            return Err(Error::unsupported(what, "regguf upgrade codes them one by one"));
        }
        let scale = adapter.scale(pair, times);
        let (a, b) = (moved(&pair.a, shift), moved(&pair.b, shift));
        let term = Term::Product { a, b, scale, kept: Kept::default() };
        let sum = tensor.sum.take().map(Arc::unwrap_or_clone);
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

fn add(rows: &mut [f32], added: &[f32]) {
    rows.iter_mut().zip(added).for_each(|(row, added)| *row += added);
}

/// How many rows of so many columns are best made at a time.
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
    bytes: &'a [u8],
    quant: QuantType,
    cols: usize,
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
    Product { a: Arc<Packed>, b: Vec<f32>, scale: f32 },
    Rows { other: Rows<'a>, beyond: &'a [f32] },
}

impl<'a> Part<'a> {
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
fn numbers(model: &Model, tensor: &Tensor, wanted: Range<u64>) -> Result<Vec<f32>> {
    let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
    let rows = Rows::read(model, tensor, wanted, &mut bytes)?;
    rows.decode(0..rows.count(), &mut numbers);
    Ok(numbers)
}

fn size(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| Error::unsupported("a row is larger than memory", ""))
}

fn plain() -> Result<QuantType> {
    QuantType::today("f32").ok_or_else(|| Error::unsupported("no f32", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of one tensor, of 1, 2, 3 … in rows of two.
    fn model(name: &str, rows: u8) -> Model {
        let f32 = QuantType::today("f32").unwrap();
        let numbers = (1..=2 * rows).flat_map(|n| f32::from(n).to_le_bytes());
        let mut model = Model::default();
        model.files.push(Input::memory(name, numbers.collect()));
        model
            .tensors
            .push(Tensor::whole(name.to_owned(), vec![rows.into(), 2], f32, 0, 0).unwrap());
        model
    }

    /// Source: torch 2, `x.mean(dim=0, keepdim=True)` on one CPU.
    #[test]
    fn the_mean_of_rows_is_torch_s() {
        const TORCH: [u32; 32] = [
            0x3e5d_0799,
            0x3e5c_f4f0,
            0x3e5c_e245,
            0x3e5c_cf9e,
            0x3e5c_bcf6,
            0x3e5c_aa4b,
            0x3e5f_2376,
            0x3e5f_10cc,
            0x3e5e_fe23,
            0x3e5e_eb79,
            0x3e5c_4d00,
            0x3e5e_c628,
            0x3e5e_b37e,
            0x3e5e_a0d6,
            0x3e5c_025b,
            0x3e5b_efb3,
            0x3e5b_dd08,
            0x3e5e_5631,
            0x3e5e_4389,
            0x3e60_bcb1,
            0x3e5e_1e37,
            0x3e5b_7fbc,
            0x3e5d_f8e4,
            0x3e5d_e63c,
            0x3e5d_d393,
            0x3e5d_c0ea,
            0x3e5d_ae42,
            0x3e5d_9b99,
            0x3e5d_88ee,
            0x3e5d_7645,
            0x3e5f_ef6e,
            0x3e5d_50f3,
        ];
        let number = |i: u32| ((i * 7919) % 1013) as f32 / 97.0 - 5.0;
        let numbers = (0..4200 * 32).flat_map(|i| number(i).to_le_bytes());
        let f32 = QuantType::today("f32").unwrap();
        let tensor = Tensor::whole("x".to_owned(), vec![4200, 32], f32, 0, 0).unwrap();
        let files = vec![Input::memory("x", numbers.collect())];
        let model = Model { files, ..Model::default() };
        let found: Vec<u32> = mean(&model, &tensor).unwrap().iter().map(|n| n.to_bits()).collect();
        assert_eq!(found, TORCH);
    }

    #[test]
    fn new_rows_get_the_mean_or_nothing_and_the_name_loses_its_mark() {
        let (base, mut delta) = (model("output.weight", 2), model("output.weight", 3));
        delta.metadata.set("general.name", "Vicuna 7B Delta V1.1");
        delta.metadata.set("general.finetune", "delta");
        let rows = |how| {
            let sum = restore(delta.clone(), &base, how).unwrap();
            assert_eq!(sum.metadata.str("general.name"), Some("Vicuna 7B V1.1"));
            assert_eq!(sum.metadata.str("general.finetune"), None);
            let last = numbers(&sum, &sum.tensors[0], 2..3).unwrap();
            assert_eq!(
                total(&sum).unwrap(),
                f64::from(2 + 4 + 6 + 8 + last[0] as u8 + last[1] as u8)
            );
            numbers(&sum, &sum.tensors[0], 0..3).unwrap()
        };
        assert_eq!(rows(None), [2.0, 4.0, 6.0, 8.0, 7.0, 9.0]);
        assert_eq!(rows(Some(NewRows::Zero)), [2.0, 4.0, 6.0, 8.0, 5.0, 6.0]);
        let other =
            restore(model("blk.0.attn_q.weight", 3), &model("blk.0.attn_q.weight", 2), None);
        let said = other.unwrap_err().to_string();
        assert!(
            said.contains("blk.0.attn_q.weight is [3, 2], in blk.0.attn_q.weight [2, 2]"),
            "{said}"
        );
    }
}
