//! Rows from one type to another: decoded, checked, encoded and, if wished, measured.

use super::plan::{Plan, Step};
use crate::{
    error::{Error, Result},
    model::Tensor,
    quant::{
        QuantType, decode_rows,
        encode::{EncodeRows, float::all_finite},
        isa::Isa,
    },
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
    pub(super) isa: Isa,
}

/// Weights on their way: as they were, and as they are read again to be measured.
#[derive(Default)]
pub(super) struct Weights {
    before: Vec<f32>,
    after: Vec<f32>,
}

impl Recode<'_> {
    /// Encodes the rows from `first` on, `raw`, into `made`, and measures them if the plan says so.
    pub(super) fn run(
        &self,
        first: u64,
        raw: &[u8],
        made: &mut [u8],
        weights: &mut Weights,
    ) -> Result<Distance> {
        let mut distance = Distance::default();
        let (row_len, row_bytes) = (of(self.tensor.row_len()), of(self.tensor.row_bytes()).max(1));
        let rows = raw.len() / row_bytes;
        let row_made = made.len() / rows.max(1);
        let group = self.tensor.quant.row_group().max(self.step.quant.row_group());
        let most = (PIECE_WEIGHTS / row_len.max(1) / group * group).max(group);
        let pieces = raw.chunks(most * row_bytes).zip(made.chunks_mut((most * row_made).max(1)));
        for (first, (raw, made)) in (first..).step_by(most).zip(pieces) {
            let Weights { before, after } = weights;
            before.resize(raw.len() / row_bytes * row_len, 0.0);
            decode_rows(self.tensor.quant, self.isa, raw, row_len, before);
            if !self.plan.keep_nan {
                check_numbers(self.tensor, first, row_len, before, self.step.quant)?;
            }
            self.encode(first, before, made);
            if self.plan.measure {
                after.resize(before.len(), 0.0);
                decode_rows(self.step.quant, self.isa, made, of(self.step.row_len()), after);
                distance.add(before, after);
            }
        }
        Ok(distance)
    }

    /// Encodes rows with the importance that belongs to their matrix of a stack.
    fn encode(&self, first: u64, weights: &[f32], made: &mut [u8]) {
        // Rows that were coded together may be coded one by one now.
        let (row_len, row_bytes) = (of(self.step.row_len()), of(self.step.row_bytes()));
        let Some(importance) = self.importance.filter(|i| i.len() != row_len) else {
            return (self.encode)(self.isa, weights, row_len, self.importance, made);
        };
        let first = first * (self.tensor.row_len() / self.step.row_len().max(1));
        let per_matrix = rows_per_matrix(&self.step.shape);
        let pairs = weights.chunks_exact(row_len).zip(made.chunks_exact_mut(row_bytes));
        for (r, (row, made)) in (first..).zip(pairs) {
            let from = of(r / per_matrix) * row_len;
            (self.encode)(self.isa, row, row_len, importance.get(from..from + row_len), made);
        }
    }
}

/// A length within rows that are in memory.
fn of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

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
    if matches!(to.name(), "f32" | "f16" | "bf16") || all_finite(Isa::best(), weights) {
        return Ok(());
    }
    let Some(bad) = weights.iter().position(|w| !w.is_finite()) else { return Ok(()) };
    let what = format!(
        "{}: weight at row {}, column {} is {}",
        tensor.name,
        first + (bad / row_len) as u64,
        bad % row_len,
        weights.get(bad).copied().unwrap_or(f32::NAN),
    );
    Err(Error::refused(
        what,
        "get a sound copy of the source, or add --keep-nan to encode it as it is",
    ))
}

/// Sums over weights before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Weights compared.
    pub weights: u64,
    /// Sum of the squared differences.
    pub squared_error: f64,
    /// Sum of the squares of the source.
    pub squared_source: f64,
    /// Largest absolute difference.
    pub max_error: f32,
}

impl Distance {
    /// Adds one run of weights.
    pub fn add(&mut self, source: &[f32], copy: &[f32]) {
        for (a, b) in source.iter().zip(copy) {
            let d = a - b;
            self.squared_error += f64::from(d) * f64::from(d);
            self.squared_source += f64::from(*a) * f64::from(*a);
            self.max_error = self.max_error.max(d.abs());
        }
        self.weights += source.len() as u64;
    }

    /// Adds the sums of another part.
    pub fn merge(&mut self, other: Distance) {
        self.weights += other.weights;
        self.squared_error += other.squared_error;
        self.squared_source += other.squared_source;
        self.max_error = self.max_error.max(other.max_error);
    }

    /// Root of the mean squared difference.
    pub fn rmse(&self) -> f64 {
        (self.squared_error / self.weights.max(1) as f64).sqrt()
    }

    /// Signal-to-noise ratio in decibels; none where nothing differs.
    pub fn snr_db(&self) -> Option<f64> {
        (self.squared_error > 0.0)
            .then(|| 10.0 * (self.squared_source / self.squared_error).log10())
    }
}
