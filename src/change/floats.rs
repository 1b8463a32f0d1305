//! Floats behind the header words of a file, for models that do not hold them.

use crate::{
    format::container::MatrixRule,
    model::{Array, Kind, Value},
};

/// The floats of as many rows and columns.
pub(super) fn made(rule: MatrixRule, rows: i64, columns: i64) -> Option<Value> {
    let (rows, columns) = (u16::try_from(rows).ok()?, u16::try_from(columns).ok()?);
    let numbers = match rule {
        MatrixRule::MelBands => mel_bands(rows, columns),
    };
    Some(Array::of(Kind::F32, numbers.into_iter().map(Value::F32)).into())
}

/// Sounds reach the model in 16,000 numbers a second: half as many hertz are heard.
const HIGHEST: f64 = 8000.0;
/// Up to here pitches rise evenly, [`EVEN`] hertz apart; then each is the same part above the one before.
const BEND: f64 = 1000.0;
/// Hertz from one pitch to the next below the bend.
const EVEN: f64 = 200.0 / 3.0;
/// Pitches from 1000 hertz to 6400.
const STEPS: f64 = 27.0;

/// How much each frequency of a spectrum counts in each band: a row for each band, which rises from the middle of the
/// band before to its own and falls to that of the next, over an area of one.
///
/// ```text
///           1 |   /\    /\
///             |  /  \  /  \      weight = 2 / (end - begin) * min(rise, fall), no less than 0
///           0 +-/----\/----\--    rise = (f - begin) / (middle - begin), fall = (end - f) / (end - middle)
/// ```
///
/// No number is nearer than one part in 10^10 to where its rounding turns, so every machine gets the same.
///
/// Source: openai/whisper, whisper/audio.py: mel_filters, whose table is of librosa, filters.mel (Slaney's).
fn mel_bands(bands: u16, frequencies: u16) -> Vec<f32> {
    let log_step = 6.4f64.ln() / STEPS;
    let bend = BEND / EVEN;
    let top = bend + (HIGHEST / BEND).ln() / log_step;
    let last = f64::from(bands) + 1.0;
    let middle = |band: u16| {
        let pitch = if f64::from(band) < last { f64::from(band) * (top / last) } else { top };
        if pitch >= bend { BEND * (log_step * (pitch - bend)).exp() } else { EVEN * pitch }
    };
    let hertz = HIGHEST / (f64::from(frequencies) - 1.0);
    let row = |band: u16| {
        let [begin, at, end] = [middle(band), middle(band + 1), middle(band + 2)];
        (0..frequencies).map(move |n| {
            let f = f64::from(n) * hertz;
            // So written that the first of all is -0, as in the table.
            let (rise, fall) = (-(begin - f) / (at - begin), (end - f) / (end - at));
            let least = if rise < fall { rise } else { fall };
            let least = if least < 0.0 { 0.0 } else { least };
            single(f64::from(single(least)) * (2.0 / (end - begin)))
        })
    };
    (0..bands).flat_map(row).collect()
}

/// The nearest float, in which the table is kept at each step.
#[expect(clippy::cast_possible_truncation, reason = "rounded, as the table was")]
fn single(number: f64) -> f32 {
    number as f32
}
