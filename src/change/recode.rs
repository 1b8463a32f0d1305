//! Rows from one type to another: decoded, checked, encoded and, if wished, measured.
//!
//! ```text
//! 16384 weights at a time: as f32 that is 64 KiB, which stay in the cache of one core
//!
//! stored rows, or sums   --decode-->   f32   --check, encode, check-->   bytes of the new type
//!                                      f32   <--decode, where it is measured--  the same bytes
//! ```
//!
//! | refused, unless the plan keeps it | where |
//! |---|---|
//! | an infinite or NaN weight that goes into a block | before it is encoded |
//! | an infinite or NaN number in what was encoded | after it, with the weight that it was made of |
//!
//! A plan that tells of such numbers (`tells_nan`) lets those pass in the second case that the source had, no others.

use super::plan::{Plan, Step};
use crate::{
    error::{Error, Result},
    model::{
        Tensor,
        sum::{Stretch, rows_at_once},
    },
    quant::{
        QuantType, decode_rows,
        distance::Distance,
        encode::{EncodeRows, float::all_finite},
        isa::Isa,
    },
    remedy::{Remedy, Setting},
};

/// Weights that are decoded and encoded again at once: as f32 they stay in the cache of one core.
const PIECE_WEIGHTS: usize = 16 << 10;

/// Rows on their way through an encoder.
pub(super) struct Recode<'a> {
    /// What the rows are of, what becomes of them and how.
    pub(super) tensor: &'a Tensor,
    pub(super) plan: &'a Plan,
    pub(super) step: &'a Step,
    pub(super) encode: EncodeRows,
    /// How much each column matters, one row a matrix of a stack.
    pub(super) importance: Option<&'a [f32]>,
    /// What each weight is multiplied with before it is encoded.
    pub(super) times: f32,
    pub(super) isa: Isa,
}

/// Where rows come from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// The bytes of all of them.
    Stored(&'a [u8]),
    /// Sums, made when they are wanted.
    Sums(&'a Stretch<'a>),
}

/// Weights on their way: as they were, and as they are read again to be measured.
#[derive(Default)]
pub(super) struct Weights {
    before: Vec<f32>,
    after: Vec<f32>,
}

impl Recode<'_> {
    /// Encodes the rows from `first` on, `from`, into `made`, and measures them if the plan says so.
    /// Returns too whether a number that is none was kept.
    pub(super) fn run(
        &self,
        first: u64,
        from: Origin,
        made: &mut [u8],
        weights: &mut Weights,
    ) -> Result<(Distance, bool)> {
        let (mut distance, mut kept) = (Distance::default(), false);
        let (row_len, row_bytes) = (of(self.tensor.row_len()), of(self.tensor.row_bytes()).max(1));
        let rows = match from {
            Origin::Stored(raw) => raw.len() / row_bytes,
            Origin::Sums(sums) => sums.count(),
        };
        // Bytes of a row as it comes out.
        let row_made = made.len() / rows.max(1);
        // Rows that are coded in fours or eights cannot be cut.
        let group = self.tensor.quant.row_group().max(self.step.quant.row_group());
        let most = match &self.tensor.sum {
            Some(_) => rows_at_once(row_len),
            None => PIECE_WEIGHTS / row_len.max(1),
        };
        let most = (most / group * group).max(group);
        let pieces = made.chunks_mut((most * row_made).max(1));
        for (at, made) in (0..rows).step_by(most).zip(pieces) {
            let Weights { before, after } = weights;
            let piece = at..rows.min(at + most);
            match from {
                Origin::Sums(sums) => sums.make(piece, before),
                Origin::Stored(raw) => {
                    let raw = raw.get(piece.start * row_bytes..piece.end * row_bytes);
                    before.resize(piece.len() * row_len, 0.0);
                    decode_rows(
                        self.tensor.quant,
                        self.isa,
                        raw.unwrap_or_default(),
                        row_len,
                        before,
                    );
                }
            }
            if self.times != 1.0 {
                before.iter_mut().for_each(|weight| *weight *= self.times);
            }
            let first = first + at as u64;
            // Before a block spreads it, so that the weight is named that is wrong.
            if !self.plan.keep_nan {
                check_numbers(self.tensor, first, row_len, before, self.step.quant)?;
            }
            self.encode(first, before, made);
            kept |= check_made(self.plan, self.tensor, self.step, first, made, before)?;
            // Once more decoded, from the bytes as written: what is said of the loss is what a reader will see.
            if self.plan.measure {
                after.resize(before.len(), 0.0);
                decode_rows(self.step.quant, self.isa, made, of(self.step.row_len()), after);
                distance.add(self.isa, before, after);
            }
        }
        Ok((distance, kept))
    }

    /// Encodes rows with the importance that belongs to their matrix of a stack.
    fn encode(&self, first: u64, weights: &[f32], made: &mut [u8]) {
        // Rows that were coded together may be coded one by one now.
        let (row_len, row_bytes) = (of(self.step.row_len()), of(self.step.row_bytes()));
        let Some(importance) = self.importance.filter(|i| i.len() != row_len) else {
            return (self.encode)(self.isa, weights, row_len, self.importance, made);
        };
        // Counted in rows of the output.
        let first = first * (self.tensor.row_len() / self.step.row_len().max(1));
        let per_matrix = rows_per_matrix(&self.step.shape);
        let pairs = weights.chunks_exact(row_len).zip(made.chunks_exact_mut(row_bytes));
        for (r, (row, made)) in (first..).zip(pairs) {
            // Row r is of matrix r / rows: each expert has been measured by itself.
            let from = of(r / per_matrix) * row_len;
            (self.encode)(self.isa, row, row_len, importance.get(from..from + row_len), made);
        }
    }
}

/// A length within rows that are in memory.
fn of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// The rows of one matrix of a stack.
fn rows_per_matrix(shape: &[u64]) -> u64 {
    shape.iter().rev().nth(1).copied().unwrap_or(1).max(1)
}

/// Refuses to encode what is not a number: a block takes its scale from the largest weight, so one
/// NaN or infinity would spoil all its neighbours.
fn check_numbers(
    tensor: &Tensor,
    first: u64,
    row_len: usize,
    weights: &[f32],
    to: QuantType,
) -> Result<()> {
    // Each plain number stays by itself: those are looked at once they are encoded.
    if to.layout().elements == 1 || all_finite(Isa::best(), weights) {
        return Ok(());
    }
    let Some(bad) = weights.iter().position(|w| !w.is_finite()) else { return Ok(()) };
    let value = weights.get(bad).copied().unwrap_or(f32::NAN);
    Err(odd(tensor, first + (bad / row_len) as u64, bad % row_len, value, ""))
}

/// As [`check_rows`] for rows of a step, unless the plan keeps what they find; returns whether it does.
pub(super) fn check_made(
    plan: &Plan,
    tensor: &Tensor,
    step: &Step,
    first: u64,
    made: &[u8],
    before: &[f32],
) -> Result<bool> {
    let row_bytes = of(step.row_bytes()).max(1);
    if step.quant.layout().first_unsound(made, row_bytes).is_none() {
        return Ok(false);
    }
    // The source's own, not made by a type that holds less.
    let is_source_s = || before.is_empty() || !all_finite(Isa::best(), before);
    if plan.keep_nan || plan.tells_nan && is_source_s() {
        return Ok(true);
    }
    check_rows(tensor, (step.quant, of(step.row_len())), first, made, before).map(|()| true)
}

/// Refuses rows of `tensor` from `first` on, in a type and of a length, with an infinite or NaN number.
/// `before` are the weights that were encoded, if any were.
pub(super) fn check_rows(
    tensor: &Tensor,
    (quant, row_len): (QuantType, usize),
    first: u64,
    made: &[u8],
    before: &[f32],
) -> Result<()> {
    let layout = quant.layout();
    let row_bytes = quant.row_bytes(row_len as u64).map_or(1, of).max(1);
    let Some(unit) = layout.first_unsound(made, row_bytes) else { return Ok(()) };
    // Where rows are coded together a unit has columns of each.
    let group = quant.row_group();
    let per_group = layout.units(row_bytes).max(1);
    let top = unit / per_group * group;
    let columns = unit % per_group * layout.elements;
    let mut weights = vec![0.0; group * row_len];
    let rows = made.get(top * row_bytes..(top + group) * row_bytes).unwrap_or_default();
    decode_rows(quant, Isa::best(), rows, row_len, &mut weights);
    let decoded = weights.iter().position(|w| !w.is_finite());
    let (row, column) = decoded.map_or((top, columns), |n| (top + n / row_len, n % row_len));
    // What was encoded says more than what became of it: a block takes its scale from its largest.
    let begin = row * row_len + column / layout.elements * layout.elements;
    let block = before.get(begin..begin + layout.elements).unwrap_or_default();
    let largest = block.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    let (at, value, why) = match largest {
        Some((n, value)) if value.is_finite() => {
            (begin + n, *value, format!(", which {quant} cannot hold"))
        }
        Some((n, value)) => (begin + n, *value, String::new()),
        None => {
            let value = decoded.and_then(|n| weights.get(n)).copied().unwrap_or(f32::NAN);
            (row * row_len + column, value, String::new())
        }
    };
    let (source_row, row_len) = (of(tensor.row_len()).max(1), row_len);
    let first = first * (source_row / row_len).max(1) as u64;
    let (row, column) = (first + (at / row_len) as u64, at % row_len);
    Err(odd(tensor, row, column, value, &why))
}

/// The refusal of one weight.
fn odd(tensor: &Tensor, row: u64, column: usize, value: f32, why: &str) -> Error {
    let what = format!("{}: weight at row {row}, column {column} is {value}{why}", tensor.name);
    let (instead, keep) = match why {
        "" => ("get a sound copy of the source", "write it as it is"),
        _ => ("choose a type of its range, as bf16 or f32", "write what comes out"),
    };
    Error::refused(what, Remedy::from(instead).or(Setting::KeepNan.to(keep)))
}
