//! What the weights of a tensor are like: their range, how they spread, what is odd among them.

use rayon::prelude::*;
use serde::Serialize;

use crate::{
    bytes::Progress,
    error::Result,
    model::{Model, Tensor, weights},
    size,
};

/// Bars of a histogram.
const BARS: usize = 32;
/// Weights further from the mean than N standard deviations are outliers.
const FAR: f64 = 6.0;

/// The weights of one tensor in numbers. What is infinite or NaN counts in no other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// How many weights there are.
    pub weights: u64,
    /// Bits that each takes, with its share of scales.
    pub bits: f64,
    /// The least and the greatest.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// How many are zero.
    pub zeros: u64,
    /// Rows that are nothing but zeros.
    pub zero_rows: u64,
    /// Weights further from the mean than six standard deviations.
    pub outliers: u64,
    /// Infinite weights and those that are no numbers.
    pub not_finite: u64,
    /// How many lie in each of as many equal stretches between the least and the greatest.
    pub histogram: Vec<u64>,
}

impl Statistics {
    /// Reads a tensor, twice where it is not constant.
    ///
    /// # Errors
    /// Where its type is not decoded here or a file cannot be read.
    pub fn of(model: &Model, tensor: &Tensor) -> Result<Statistics> {
        let row_len = usize::try_from(tensor.row_len()).unwrap_or(usize::MAX).max(1);
        let mut sums = Sums::default();
        weights::each(model, tensor, 0..tensor.rows(), &mut |_, weights| {
            weights.chunks(row_len).for_each(|row| sums.add(row));
            Ok(())
        })?;
        let mut found = sums.told();
        found.weights = tensor.rows() * tensor.row_len();
        found.bits = tensor.bytes() as f64 * 8.0 / (found.weights.max(1) as f64);
        if found.max > found.min {
            found.histogram = vec![0; BARS];
            weights::each(model, tensor, 0..tensor.rows(), &mut |_, weights| {
                weights.iter().for_each(|w| found.place(f64::from(*w)));
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Those of several tensors; none where a type is not decoded here. `progress` hears of the bytes read.
    ///
    /// # Errors
    /// As [`Statistics::of`].
    pub fn of_all(
        model: &Model,
        tensors: &[&Tensor],
        progress: &dyn Progress,
    ) -> Result<Vec<Option<Statistics>>> {
        progress.total(tensors.iter().map(|tensor| tensor.bytes()).sum());
        let tell = |tensor: &&Tensor| -> Result<Option<Statistics>> {
            let found = tensor.is_decodable().then(|| Statistics::of(model, tensor)).transpose();
            progress.advance(tensor.bytes());
            found
        };
        tensors.par_iter().map(tell).collect()
    }

    /// Counts a weight in its bar, and among the outliers where it is one.
    fn place(&mut self, weight: f64) {
        if !weight.is_finite() {
            return;
        }
        let share = (weight - self.min) / (self.max - self.min) * BARS as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 32")]
        let bar = (share as usize).min(BARS - 1);
        if let Some(count) = self.histogram.get_mut(bar) {
            *count += 1;
        }
        self.outliers += u64::from((weight - self.mean).abs() > FAR * self.deviation);
    }

    /// What is odd among the weights, in words.
    pub fn oddities(&self) -> Vec<String> {
        let odd = [
            (self.zero_rows, "zero row", "zero rows"),
            (self.outliers, "outlier", "outliers"),
            (self.not_finite, "infinite or NaN", "infinite or NaN"),
        ];
        let some = odd.into_iter().filter(|(n, ..)| *n > 0);
        some.map(|(n, one, many)| size::counted(n, one, many)).collect()
    }

    /// The histogram in N characters, the longest bar full; empty where all weights are equal.
    ///
    /// Each character stands for the sum of neighbouring bars, in eighths of the longest, rounded up: a bar that is not
    /// empty is seen.
    pub fn drawn(&self, width: usize) -> String {
        let bars = self.histogram.chunks(self.histogram.len().div_ceil(width.max(1)).max(1));
        let bars: Vec<u64> = bars.map(|bars| bars.iter().sum()).collect();
        let most = bars.iter().copied().max().unwrap_or(0).max(1);
        const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let step = |n: &u64| usize::try_from((n * 8).div_ceil(most)).unwrap_or(8);
        bars.iter()
            .map(|n| step(n).checked_sub(1).and_then(|s| STEPS.get(s)).unwrap_or(&' '))
            .collect()
    }
}

/// What one reading gathers. Squares are of distances from the first weight, lest a large mean eats them.
///
/// ```text
/// s = the first finite weight      mean = s + sum(w - s) / n
///                                  deviation = sqrt(sum((w - s)^2) / n - (mean - s)^2)
/// ```
#[derive(Default)]
struct Sums {
    shift: Option<f64>,
    n: u64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
    zeros: u64,
    zero_rows: u64,
    not_finite: u64,
}

impl Sums {
    /// Takes a row. A zero with a sign is a zero too.
    fn add(&mut self, row: &[f32]) {
        let zeros = row.iter().filter(|w| **w == 0.0).count();
        self.zeros += zeros as u64;
        self.zero_rows += u64::from(zeros == row.len());
        for weight in row.iter().map(|w| f64::from(*w)) {
            if !weight.is_finite() {
                self.not_finite += 1;
                continue;
            }
            if self.shift.is_none() {
                (self.min, self.max) = (weight, weight);
            }
            let from = weight - *self.shift.get_or_insert(weight);
            self.n += 1;
            self.sum += from;
            self.squares += from * from;
            (self.min, self.max) = (self.min.min(weight), self.max.max(weight));
        }
    }

    /// The sums as statistics. Rounding may make a variance of nothing negative, so it is kept at zero.
    fn told(&self) -> Statistics {
        let n = self.n.max(1) as f64;
        let mean = self.sum / n;
        Statistics {
            min: self.min,
            max: self.max,
            mean: self.shift.unwrap_or(0.0) + mean,
            deviation: (self.squares / n - mean * mean).max(0.0).sqrt(),
            zeros: self.zeros,
            zero_rows: self.zero_rows,
            not_finite: self.not_finite,
            ..Statistics::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bytes::Input, quant::QuantType};

    fn of(rows: &[[f32; 4]]) -> Statistics {
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|w| w.to_le_bytes()).collect();
        let quant = QuantType::today("f32").expect("a type");
        let shape = vec![rows.len() as u64, 4];
        let tensor = Tensor::whole("t".into(), shape, quant, 0, 0).expect("a tensor");
        let files = vec![Input::memory("made", bytes)];
        Statistics::of(&Model { files, ..Model::default() }, &tensor).expect("read")
    }

    #[test]
    fn numbers_are_those_of_the_weights() {
        let inf = f32::INFINITY;
        let found = of(&[[1.0, 3.0, -2.0, 0.0], [0.0; 4], [inf, f32::NAN, 5.0, 1.0]]);
        assert_eq!((found.weights, found.bits, found.not_finite), (12, 32.0, 2));
        assert_eq!((found.min, found.max, found.mean), (-2.0, 5.0, 0.8));
        assert_eq!((found.zeros, found.zero_rows, found.outliers), (5, 1, 0));
        // (1 + 9 + 4 + 25 + 1) / 10 - 0.64
        assert!((found.deviation - 3.36f64.sqrt()).abs() < 1e-12);
        assert_eq!(found.histogram.iter().sum::<u64>(), 10);
        assert_eq!((found.histogram[0], found.histogram[31]), (1, 1));
        assert_eq!(found.drawn(32).chars().count(), 32);
        assert_eq!(found.drawn(4), "▂█▂▂");
    }

    #[test]
    fn one_far_weight_is_an_outlier_and_equal_ones_have_no_histogram() {
        let mut rows = vec![[1.0, -1.0, 1.0, -1.0]; 50];
        rows[7][2] = 40.0;
        assert_eq!(of(&rows).outliers, 1);
        let equal = of(&[[1e7; 4]; 3]);
        assert_eq!(
            (equal.deviation, equal.histogram.len(), equal.drawn(8)),
            (0.0, 0, String::new())
        );
    }
}
