//! Types per tensor so that a file fits a size: the smallest error that the bytes can buy.
//!
//! Some rows of every tensor are encoded in every type that fits them, and the noise is measured:
//!
//! ```text
//! damage = weights · Σ i·(w - q)² / Σ i·w²        i: importance of the column, 1 without a matrix
//! ```
//!
//! All tensors begin with their smallest type. Then the step that takes away most damage a byte is
//! taken again and again while it fits. Steps run along the lower convex hull of (bytes, damage) of
//! a tensor, so a poor type between two good ones does not stop the way. The rows looked at depend on
//! the shape alone, and ties go to the tensor that comes first, so the same call makes the same file.

use std::{fmt, sync::Arc};

use rayon::prelude::*;

use super::mix::TypeName;
use crate::{
    change::Step,
    error::{Error, Result},
    model::{Model, Tensor},
    quant::{QuantType, decode_rows, encode, isa::Isa},
    remedy::Setting,
    size,
};

/// How large the output may be.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Goal {
    /// Bytes of the whole file.
    Bytes(u64),
    /// Bits per weight over all tensors.
    Bits(f64),
}

impl Goal {
    /// Reads a size: a number of bytes, or one with a unit (`4.5GB`).
    ///
    /// # Errors
    /// [`Error::Usage`] where it is none, or no byte at all.
    pub fn size(text: &str) -> Result<Goal> {
        match size::read(text)? {
            0 => Err(Error::usage(format!("{text}: wanted a size, as 4.5G or 4200Mi"))),
            bytes => Ok(Goal::Bytes(bytes)),
        }
    }

    /// Reads bits per weight.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is no positive number.
    pub fn bits(text: &str) -> Result<Goal> {
        match text.parse::<f64>() {
            Ok(bits) if bits.is_finite() && bits > 0.0 => Ok(Goal::Bits(bits)),
            _ => Err(Error::usage(format!("{text:?} are no bits per weight, as 4.25"))),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Goal::Bytes(bytes) => write!(out, "types chosen to fit {bytes} bytes"),
            Goal::Bits(bits) => write!(out, "types chosen to fit {bits} bits a weight"),
        }
    }
}

/// The types that a tensor may get, from small to large.
const LADDER: &[TypeName] = &[
    "iq2_xxs", "iq2_s", "q2_k", "iq3_xxs", "q3_k", "iq4_xs", "q4_0", "q4_k", "q5_0", "q5_k",
    "q6_k", "q8_0", "f16",
];

/// Weights of one tensor that are looked at.
const SAMPLE: u64 = 64 << 10;
/// Padding between tensors in the file.
const ALIGN: u64 = 32;

/// One way to store a tensor.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: TypeName,
    bytes: u64,
    damage: f64,
}

/// Chooses a type for every step whose type is not fixed; `about` is what the file takes besides
/// tensors.
///
/// # Errors
/// Where even the smallest types do not fit.
pub fn fit(
    model: &Model,
    steps: &[Step],
    fixed: &[Option<TypeName>],
    importance: &(dyn Fn(usize) -> Option<Arc<[f32]>> + Sync),
    goal: Goal,
    about: u64,
) -> Result<Vec<TypeName>> {
    let weights: u64 = steps.iter().map(|s| s.shape.iter().product::<u64>()).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bits are positive; what is too much for 64 bits is enough for anything"
    )]
    // A goal in bytes is of the file, one in bits of the tensors.
    let room = match goal {
        Goal::Bytes(bytes) => bytes.saturating_sub(about + ALIGN * steps.len() as u64),
        Goal::Bits(bits) => (bits * weights as f64 / 8.0) as u64,
    };
    // Of each tensor the types that are worth their bytes, smallest first; of a fixed one that alone.
    let ways: Vec<Vec<Way>> = steps
        .par_iter()
        .zip(fixed)
        .enumerate()
        .map(|(i, (step, fixed))| match fixed {
            Some(name) => {
                let quant = QuantType::today(name).unwrap_or(step.quant);
                Ok(vec![Way { name, bytes: bytes(step, quant).unwrap_or(0), damage: 0.0 }])
            }
            None => Ok(hull(ways(model, step, importance(i).as_deref())?)),
        })
        .collect::<Result<_>>()?;
    let least: u64 = ways.iter().filter_map(|w| w.first()).map(|w| w.bytes).sum();
    if least > room {
        let bits = least as f64 * 8.0 / weights.max(1) as f64;
        return Err(Error::unsupported(
            format!(
                "the smallest types make {least} bytes of tensors ({bits:.2} bits a weight), the goal leaves {room}"
            ),
            "give a larger goal, or an importance matrix: it makes smaller types usable",
        ));
    }
    let mut at = vec![0; ways.len()];
    let mut left = room - least;
    loop {
        // What the next better type of tensor i takes away, for each byte that it costs.
        let gain = |i: usize, n: usize| {
            let (a, b) = (ways.get(i)?.get(n)?, ways.get(i)?.get(n + 1)?);
            let cost = b.bytes - a.bytes;
            (cost <= left).then_some((i, cost, (a.damage - b.damage) / cost as f64))
        };
        let steps = at.iter().enumerate().filter_map(|(i, n)| gain(i, *n));
        // Of equals the first, so that the same call makes the same file.
        let best = steps.reduce(|best, next| if next.2 > best.2 { next } else { best });
        let Some((i, cost, _)) = best else { break };
        left -= cost;
        #[expect(clippy::indexing_slicing, reason = "an index of this list")]
        {
            at[i] += 1;
        }
    }
    Ok(ways.iter().zip(at).filter_map(|(w, n)| w.get(n)).map(|w| w.name).collect())
}

/// Bytes of a step in a type; none where blocks do not fill its rows.
fn bytes(step: &Step, quant: QuantType) -> Option<u64> {
    Some(step.rows() * quant.row_bytes(step.shape.last().copied()?)?)
}

/// Every way to store a tensor, with the damage that it does to a sample of its rows.
fn ways(model: &Model, step: &Step, importance: Option<&[f32]>) -> Result<Vec<Way>> {
    let Some(tensor) = model.tensors.get(step.source) else { return Ok(Vec::new()) };
    let sample = Sample::take(model, tensor, importance)?;
    let mut ways = Vec::new();
    for name in LADDER {
        let blind = importance.is_none() && encode::needs_importance(name);
        let Some(quant) = QuantType::today(name).filter(|_| !blind) else { continue };
        let (Some(encode), Some(bytes)) = (encode::encoder(name), bytes(step, quant)) else {
            continue;
        };
        let weights = step.shape.iter().product::<u64>() as f64;
        ways.push(Way { name, bytes, damage: weights * sample.noise(quant, encode) });
    }
    match ways.is_empty() {
        true => Err(Error::unsupported(
            format!("{}: no type fits its rows", step.name),
            Setting::TensorType.to("give its type"),
        )),
        false => Ok(ways),
    }
}

/// The ways from the smallest on along which every further byte buys less than the one before.
///
/// ```text
/// damage | a
///        |   poor              above the line from a to b: passed over
///        |       b
///        |         worse       larger than b and no better
///        |               c
///        +------------------ bytes
/// ```
fn hull(mut ways: Vec<Way>) -> Vec<Way> {
    ways.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.damage.total_cmp(&b.damage)));
    let mut hull: Vec<Way> = Vec::new();
    for way in ways {
        if hull.last().is_some_and(|last| way.damage >= last.damage || way.bytes == last.bytes) {
            continue;
        }
        let slope = |a: &Way, b: &Way| (a.damage - b.damage) / (b.bytes - a.bytes) as f64;
        // Above the line from a to this way b is passed over: its bytes buy less than those of the longer step.
        while let [.., a, b] = hull.as_slice()
            && slope(a, b) <= slope(b, &way)
        {
            hull.pop();
        }
        hull.push(way);
    }
    hull
}

/// Rows of a tensor, evenly spread, with the imatrix data of their columns.
struct Sample {
    row_len: usize,
    rows: Vec<f32>,
    importance: Option<Vec<Vec<f32>>>,
}

impl Sample {
    /// Decodes up to [`SAMPLE`] weights, whole rows spread evenly over the tensor, with the importance of their
    /// columns.
    fn take(model: &Model, tensor: &Tensor, importance: Option<&[f32]>) -> Result<Sample> {
        let row_len = usize::try_from(tensor.row_len()).unwrap_or(usize::MAX);
        let group = tensor.quant.row_group() as u64;
        let groups = (tensor.rows() / group).max(1);
        let wanted = (SAMPLE / tensor.row_len().max(1) / group).clamp(1, groups);
        let per_matrix = tensor.shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
        let mut rows = vec![0.0; row_len * usize::try_from(wanted * group).unwrap_or(0)];
        let mut raw = vec![0; usize::try_from(tensor.row_bytes() * group).unwrap_or(0)];
        let mut columns = Vec::new();
        for (n, out) in (0..wanted).zip(rows.chunks_exact_mut(row_len * tensor.quant.row_group())) {
            // Evenly spread over all rows, whatever their number.
            let first = (n * groups / wanted) * group;
            model.read_rows(tensor, first, group, &mut raw)?;
            decode_rows(tensor.quant, Isa::best(), &raw, row_len, out);
            for row in first..first + group {
                let from = usize::try_from(row / per_matrix).unwrap_or(0) * row_len;
                let own = importance.and_then(|i| i.get(from..from + row_len));
                columns.push(own.unwrap_or_default().to_vec());
            }
        }
        let importance = importance.is_some().then_some(columns);
        Ok(Sample { row_len, rows, importance })
    }

    /// Weighted noise over weighted signal.
    fn noise(&self, quant: QuantType, encode: encode::EncodeRows) -> f64 {
        let row_bytes = quant.row_bytes(self.row_len as u64).and_then(|n| usize::try_from(n).ok());
        let (mut made, mut again) = (vec![0; row_bytes.unwrap_or(0)], vec![0.0; self.row_len]);
        let (mut noise, mut signal) = (0.0, 0.0);
        for (r, row) in self.rows.chunks_exact(self.row_len).enumerate() {
            let weights = self.importance.as_ref().and_then(|i| i.get(r)).map(Vec::as_slice);
            encode(Isa::best(), row, self.row_len, weights, &mut made);
            decode_rows(quant, Isa::best(), &made, self.row_len, &mut again);
            for (c, (w, q)) in row.iter().zip(&again).enumerate() {
                let i = weights.and_then(|w| w.get(c)).map_or(1.0, |i| f64::from(*i));
                let (w, q) = (f64::from(*w), f64::from(*q));
                noise += i * (w - q) * (w - q);
                signal += i * w * w;
            }
        }
        if signal > 0.0 { noise / signal } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bits_are_read() {
        assert_eq!(Goal::size("4.5G").unwrap(), Goal::Bytes(4_500_000_000));
        assert_eq!(Goal::size("2Mi").unwrap(), Goal::Bytes(2 << 20));
        assert_eq!(Goal::size("123").unwrap(), Goal::Bytes(123));
        for word in ["", "G", "4x", "-1G", "nan", "infG", "0", "0.5"] {
            assert!(Goal::size(word).is_err(), "{word}");
        }
        assert_eq!(Goal::bits("4.25").unwrap(), Goal::Bits(4.25));
        assert!(Goal::bits("0").is_err());
    }

    #[test]
    fn only_ways_that_pay_are_kept() {
        let way = |name, bytes, damage| Way { name, bytes, damage };
        let all = vec![
            way("a", 10, 100.0),
            way("poor", 20, 95.0),
            way("b", 30, 40.0),
            way("worse", 35, 41.0),
            way("c", 60, 10.0),
        ];
        let names: Vec<_> = hull(all).iter().map(|w| w.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
