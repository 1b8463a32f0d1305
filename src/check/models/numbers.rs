//! The numbers themselves: NaN, infinity, absurd sizes and rows of zeros, per tensor.
//!
//! Rows are read and decoded in pieces of `PIECE_BYTES` of weights, over all threads of the pool, each in
//! memory of its own that stays in its cache; what is kept of a piece is a handful of counts, so memory
//! does not grow with the model.
//!
//! | code | what it means | how grave |
//! |---|---|---|
//! | `nan`, `infinite` | weights that are no numbers, and the first row with one | failure |
//! | `absurd-scale` | above 1e9; or above 1, and above 10^4 times what other rows reach on average | warning |
//! | `zero-rows` | up to half of the rows are zero, or a tensor of one row | note |
//! | `zero-rows` | more than half of them | warning |
//! | `all-zero` | every matrix of the model is zero | failure |

use rayon::prelude::*;
use serde::Serialize;

use crate::bytes::replace::check_interrupt;
use crate::check::Finding;
use crate::error::Result;
use crate::model::{Model, Tensor};
use crate::per_isa;
use crate::quant::{decode_rows, isa::Isa};
use crate::size::counted;

/// Bytes of decoded weights that one thread holds at a time.
const PIECE_BYTES: u64 = 512 << 10;
/// A weight this many times the tensor's usual largest is absurd: a damaged scale, not an outlier.
const ABSURD_RATIO: f64 = 1e4;
/// A weight of this size is absurd whatever its neighbours are.
const ABSURD_SIZE: f32 = 1e9;

/// What the weights of one tensor, or of some of its rows, are like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// Weights that are not a number.
    pub nan: u64,
    /// Infinite weights.
    pub infinite: u64,
    /// The first row with a NaN or an infinity.
    pub first_bad_row: Option<u64>,
    /// The largest finite weight, without its sign.
    pub largest: f32,
    /// The row it is in.
    pub largest_row: u64,
    /// Rows of nothing but zeros.
    pub zero_rows: u64,
    /// All rows.
    pub rows: u64,
    /// The sum of every row's largest weight, but for the row with the largest of all.
    #[serde(skip)]
    sum_of_others: f64,
}

impl Numbers {
    /// Takes one row.
    fn row(&mut self, row: u64, weights: &[f32]) {
        let largest = largest(Isa::best(), weights);
        const INFINITY: u32 = 0x7f80_0000;
        self.rows += 1;
        let mut finite = f32::from_bits(largest);
        if largest >= INFINITY {
            self.nan += weights.iter().filter(|w| w.is_nan()).count() as u64;
            self.infinite += weights.iter().filter(|w| w.is_infinite()).count() as u64;
            self.first_bad_row.get_or_insert(row);
            let rest = weights.iter().filter(|w| w.is_finite());
            finite = rest.fold(0.0, |most, w| most.max(w.abs()));
        }
        self.reach(finite, row);
        self.zero_rows += u64::from(largest == 0);
    }

    /// Joins what two stretches of rows are like; `later` comes after.
    fn join(mut self, later: &Numbers) -> Numbers {
        self.nan += later.nan;
        self.infinite += later.infinite;
        self.first_bad_row = self.first_bad_row.or(later.first_bad_row);
        self.reach(later.largest, later.largest_row);
        self.sum_of_others += later.sum_of_others;
        self.zero_rows += later.zero_rows;
        self.rows += later.rows;
        self
    }

    /// Takes the largest weight of a row, or of the rows that `largest` was the largest of.
    fn reach(&mut self, largest: f32, row: u64) {
        // Of the two the smaller is one of the others, whichever came first: the sum stays that of all but the
        // largest.
        let other = self.largest.min(largest);
        if largest > self.largest {
            (self.largest, self.largest_row) = (largest, row);
        }
        self.sum_of_others += f64::from(other);
    }

    /// The largest weight beside what the other rows reach on average; 1 where there are none.
    ///
    /// ```text
    /// ratio = largest / (sum of the other rows' largest / (rows - 1))
    /// ```
    ///
    /// A flipped bit in a scale moves one block of one row; outliers of trained models stand in every row.
    fn ratio(&self) -> f64 {
        if self.rows < 2 || self.sum_of_others == 0.0 {
            return 1.0;
        }
        f64::from(self.largest) * (self.rows - 1) as f64 / self.sum_of_others
    }
}

/// The bits of the largest weight without its sign, in whose order floats are; infinity is above every
/// number and NaN above infinity.
#[inline(always)]
fn largest_of(weights: &[f32]) -> u32 {
    weights.iter().map(|w| w.to_bits() & 0x7fff_ffff).fold(0, u32::max)
}

per_isa! {
    fn largest(weights: &[f32]) -> u32 = largest_of;
}

/// Decodes every row of a tensor; `progress` hears of stored bytes as they are done.
///
/// # Errors
/// Where the file cannot be read or changes meanwhile.
pub fn measure(model: &Model, tensor: &Tensor, progress: &(dyn Fn(u64) + Sync)) -> Result<Numbers> {
    let len = tensor.row_len();
    let group = tensor.quant.row_group().max(1) as u64;
    let rows = tensor.rows();
    if len == 0 || rows == 0 {
        return Ok(Numbers::default());
    }
    // A row of a million weights is a piece by itself.
    let piece = (PIECE_BYTES / 4 / len).max(1).next_multiple_of(group);
    let pieces: Vec<u64> = (0..rows.div_ceil(piece)).collect();
    let measure = |held: &mut Held, i| {
        check_interrupt()?;
        let first = i * piece;
        let n = piece.min(rows - first);
        let (bytes, numbers) = measure_rows(model, tensor, first, n, held)?;
        progress(bytes);
        Ok(numbers)
    };
    let measured: Result<Vec<Numbers>> = if model.only_forward(tensor) {
        let held = &mut Held::default();
        pieces.into_iter().map(|i| measure(held, i)).collect()
    } else {
        pieces.into_par_iter().map_init(Held::default, measure).collect()
    };
    Ok(measured?.iter().fold(Numbers::default(), Numbers::join))
}

/// Bytes and weights of one piece, whose memory serves the next one too.
type Held = (Vec<u8>, Vec<f32>);

/// Reads and decodes rows from `first` on; returns the bytes that were read and what the weights are like.
fn measure_rows(
    model: &Model,
    tensor: &Tensor,
    first: u64,
    n: u64,
    (bytes, out): &mut Held,
) -> Result<(u64, Numbers)> {
    let size = |n: u64| usize::try_from(n).map_err(|_| too_large(tensor));
    let len = size(tensor.row_len())?;
    let stored = n.checked_mul(tensor.row_bytes()).ok_or_else(|| too_large(tensor))?;
    bytes.resize(size(stored)?, 0);
    model.read_rows(tensor, first, n, bytes)?;
    let weights = n.checked_mul(tensor.row_len()).ok_or_else(|| too_large(tensor))?;
    out.resize(size(weights)?, 0.0);
    decode_rows(tensor.quant, Isa::best(), bytes, len, out);
    let mut numbers = Numbers::default();
    for (row, weights) in (first..).zip(out.chunks_exact(len)) {
        numbers.row(row, weights);
    }
    Ok((stored, numbers))
}

fn too_large(tensor: &Tensor) -> crate::error::Error {
    let what = format!("{}: a row of {} weights is too long", tensor.name, tensor.row_len());
    crate::error::Error::unsupported(what, "")
}

/// Decodes the whole model and says what is wrong with its numbers.
///
/// # Errors
/// Where a file cannot be read or changes meanwhile.
pub fn check(model: &Model, progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let (mut matrices, mut zero_matrices) = (0, 0);
    for tensor in model.tensors.iter().filter(|t| t.quant.stranger().is_none()) {
        let numbers = measure(model, tensor, progress)?;
        let is_zero = numbers.rows > 0 && numbers.zero_rows == numbers.rows;
        if tensor.dims() > 1 {
            matrices += 1;
            zero_matrices += u64::from(is_zero);
        }
        findings.extend(judge(&numbers).map(|finding| finding.about(&tensor.name)));
    }
    for file in &model.files {
        file.check_unchanged()?;
    }
    if matrices > 0 && zero_matrices == matrices {
        // The very first quantizer did this on x86: it rounded every weight to zero.
        let message = "every matrix is zero: whatever wrote this file did not work";
        findings.insert(0, Finding::failure("all-zero", message));
    }
    Ok(findings)
}

/// What is wrong with the numbers of one tensor.
fn judge(numbers: &Numbers) -> impl Iterator<Item = Finding> {
    let weights = |n| counted(n, "weight is", "weights are");
    let bad = numbers.first_bad_row.map(|row| {
        let (code, message) = match (numbers.nan, numbers.infinite) {
            (nan, 0) => ("nan", format!("{} NaN, the first in row {row}", weights(nan))),
            (0, inf) => ("infinite", format!("{} infinite, the first in row {row}", weights(inf))),
            (nan, inf) => {
                ("nan", format!("{} NaN, {inf} infinite, the first in row {row}", weights(nan)))
            }
        };
        Finding::failure(code, message)
    });
    let size = numbers.largest;
    let absurd = size > ABSURD_SIZE || (size > 1.0 && numbers.ratio() > ABSURD_RATIO);
    let absurd = absurd.then(|| {
        let row = numbers.largest_row;
        let message = format!(
            "row {row} reaches {size:e}, {:.0} times what other rows reach on average: a damaged scale?",
            numbers.ratio()
        );
        Finding::warning("absurd-scale", message)
    });
    let zero = (numbers.zero_rows > 0).then(|| match (numbers.zero_rows, numbers.rows) {
        (1, 1) => Finding::note("zero-rows", "all zero"),
        (zero, rows) if zero == rows => Finding::warning("zero-rows", "every row is zero"),
        (zero, rows) => {
            let message = format!("{zero} of {rows} rows are zero");
            // Vocabularies are padded with rows of zeros; half a matrix of them is something else.
            let many = zero * 2 > rows;
            if many {
                Finding::warning("zero-rows", message)
            } else {
                Finding::note("zero-rows", message)
            }
        }
    });
    [bad, absurd, zero].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Input;
    use crate::quant::QuantType;

    fn model(name: &str, row_len: u64, bytes: Vec<u8>) -> Model {
        let quant = QuantType::today(name).expect("a type");
        let rows = bytes.len() as u64 / quant.row_bytes(row_len).expect("whole blocks");
        let tensor = Tensor::whole("w".into(), vec![rows, row_len], quant, 0, 0).expect("a tensor");
        let files = vec![Input::memory("w", bytes)];
        Model { files, tensors: vec![tensor], ..Model::default() }
    }

    fn f32_model(rows: &[[f32; 4]]) -> Model {
        model("f32", 4, rows.iter().flatten().flat_map(|w| w.to_le_bytes()).collect())
    }

    fn codes(model: &Model) -> Vec<(&'static str, String)> {
        let findings = check(model, &|_| ()).expect("readable");
        findings.into_iter().map(|f| (f.code, f.message.text)).collect()
    }

    #[test]
    fn bad_numbers_are_counted_and_placed() {
        let mut rows = vec![[0.5, -0.25, 0.0, 1.0]; 20];
        assert!(codes(&f32_model(&rows)).is_empty());
        rows[7][2] = f32::NAN;
        rows[9][1] = f32::NEG_INFINITY;
        rows[9][0] = f32::INFINITY;
        let found = codes(&f32_model(&rows));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, "1 weight is NaN, 2 infinite, the first in row 7");
        rows[7][2] = 0.0;
        assert_eq!(codes(&f32_model(&rows))[0].0, "infinite");
    }

    #[test]
    fn a_flipped_exponent_bit_shows() {
        let mut rows = vec![[0.01f32, -0.02, 0.005, 0.0]; 20];
        rows[3][0] = f32::from_bits(rows[3][0].to_bits() ^ (1 << 30));
        assert_eq!(codes(&f32_model(&rows))[0].0, "absurd-scale");
    }

    #[test]
    fn a_nan_scale_of_a_block_is_found() {
        let mut bytes = vec![0x11; 18 * 64];
        let q8 = f32_model(&[[1.0; 4]]);
        assert!(codes(&q8).is_empty());
        bytes[18 * 10..18 * 10 + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
        let found = codes(&model("q4_0", 64, bytes));
        assert_eq!(found[0], ("nan", "32 weights are NaN, the first in row 5".to_owned()));
    }

    #[test]
    fn zeros_are_told() {
        let mut rows = vec![[0.0; 4]; 10];
        assert_eq!(codes(&f32_model(&rows))[0].0, "all-zero");
        rows[0][0] = 1.0;
        assert_eq!(codes(&f32_model(&rows)), [("zero-rows", "9 of 10 rows are zero".to_owned())]);
    }

    #[test]
    fn pieces_do_not_change_the_result() {
        let rows: Vec<[f32; 4]> = (0..600_000)
            .map(|i| [i as f32, 1.0, if i == 500_001 { f32::NAN } else { 0.0 }, 2.0])
            .collect();
        let model = f32_model(&rows);
        let numbers = measure(&model, &model.tensors[0], &|_| ()).expect("readable");
        assert_eq!((numbers.rows, numbers.nan, numbers.first_bad_row), (600_000, 1, Some(500_001)));
        assert_eq!((numbers.largest, numbers.largest_row), (599_999.0, 599_999));
    }
}
