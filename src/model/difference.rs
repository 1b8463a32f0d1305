//! Models that were published as a difference to another's weights.
//!
//! ```text
//! restore   W = delta + base        the result has the tokens and numbers of the delta (Vicuna, Alpaca)
//! added     W = base + delta        the result has those of the base: the delta has none
//! rows that the base lacks          delta + 0, or delta + the mean of the base's rows
//! ```
//!
//! Nothing is added here: a tensor becomes a sum, whose rows are added when they are read.

use std::sync::Arc;

use rayon::prelude::*;

use super::{
    Metadata, Model, Tensor,
    adapter::names,
    sum::{add, moved, plain},
    tensor::{Sum, Term},
    weights,
};
use crate::{
    bytes::Input,
    error::{Error, Result},
    remedy::{Note, Notes, Setting},
};

/// What is added to rows of a difference that the model which it was taken from does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "command", derive(clap::ValueEnum))]
#[non_exhaustive]
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
///
/// ```text
/// Alpaca, rows of the embedding     delta    base    result
/// 0 to 31999                        d        b       d + b
/// 32000, the token for padding      d        -       d, or d + the mean of all b
/// ```
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
    let mut notes = Notes::default();
    for tensor in &mut delta.tensors {
        let (name, shape) = (tensor.name.clone(), &tensor.shape);
        let found = names.get(&name).and_then(|place| base.tensors.get(*place));
        let Some(found) = found else {
            return Err(refused(format!("{name} {shape:?}: {other} has no such tensor")));
        };
        // Fine-tunes add tokens, so only what has a row for each token may have more rows than the base.
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
            let choose = Setting::NewRows.to("choose what they get");
            notes.push(Note::new(format!("{name}: {from} added to {new} new rows"), choose));
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

/// The model `base` with the weights of `delta` added to its own: a difference that has no tokens and no settings.
///
/// # Errors
/// Where the two do not have the same tensors in the same shapes.
pub fn added(mut base: Model, delta: Model) -> Result<Model> {
    let f32 = plain()?;
    let (places, shift) = (names(&base), base.files.len());
    let called = |model: &Model| model.files.first().map(Input::name).unwrap_or_default();
    let (own, other) = (called(&delta), called(&base));
    let refused = |what: String| {
        let what = format!("{own}: {what}");
        Error::refused(what, "give the model that the difference was taken from")
    };
    if let Some(lost) = places.keys().find(|name| delta.tensor(name).is_none()) {
        return Err(refused(format!("has no tensor {lost}, which {other} has")));
    }
    for tensor in &delta.tensors {
        let (name, shape) = (&tensor.name, &tensor.shape);
        let found = places.get(name).and_then(|place| base.tensors.get_mut(*place));
        let Some(found) = found.filter(|found| found.sum.is_none()) else {
            return Err(refused(format!("{name} {shape:?}: {other} has no such tensor")));
        };
        if found.shape != *shape || found.fold > 1 || found.span.is_some() {
            return Err(refused(format!("{name} is {shape:?}, in {other} {:?}", found.shape)));
        }
        let term = Term::Rows { tensor: moved(tensor, shift), beyond: Arc::default() };
        *found = Sum { base: found.clone(), terms: vec![term] }.tensor(f32);
    }
    base.notes.push(format!("{own}: its weights added to those of {other}"));
    base.files.extend(delta.files);
    Ok(base)
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
    // 32 layers with a table of 64 numbers each, 10000^(-i / 64).
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
/// In f64, tensor by tensor in their order, so that it does not depend on the number of threads.
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
    // level 0: up to 16 rows; 1: up to 16 sums of level 0; 2: of level 1; 3: all else
    let mut levels = vec![vec![0f32; cols]; LEVELS];
    let raise = |levels: &mut [Vec<f32>], level: usize| {
        // The sum of a level goes into the next and starts again from zero.
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
            // As many levels are full as 16, 256, 4096 divide the rows so far.
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

#[cfg(test)]
mod tests {
    use super::{super::sum::numbers, *};
    use crate::quant::QuantType;

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
