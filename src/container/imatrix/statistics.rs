//! Which tensors and layers matter most by an importance matrix, in the measures of llama-imatrix
//! (llama.cpp tools/imatrix, `--show-statistics`).
//!
//! ```text
//! m[c]      mean square of column c: sum / count                     c over all columns of all experts
//! sum       Σ m[c]                       entropy   - Σ p log2 p,  p = m[c] / sum
//! active    share of m[c] > 1e-5         zd        share of m[c] > mean + deviation
//! cosine    between the sums of this matrix and those of the layer before
//! ```

use serde::Serialize;

use super::measured::{Measured, Seen};

/// Means of squares that are not larger than this count as not active.
const INACTIVE: f32 = 1e-5;

/// What is known of the columns of one matrix, experts that no text reached left out.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// The tensor.
    pub name: String,
    /// Columns that were measured.
    pub columns: usize,
    /// The sum of the columns' mean squares: how much the matrix matters, beside those of its kind.
    pub sum: f64,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// Their standard deviation.
    pub deviation: f64,
    /// Which part of the columns is active.
    pub active: f64,
    /// The entropy of their shares of the sum, in bits.
    pub entropy: f64,
    /// The same of the most that N columns can have.
    pub entropy_share: f64,
    /// Which part of the columns is more than a standard deviation above the mean (the ZD score of LLM-MQ).
    pub zd: f64,
    /// The cosine between its sums and those of the same tensor a layer before; none in the first.
    pub cosine: Option<f64>,
}

/// The same of a layer, matrices weighted by their columns.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LayerStatistics {
    /// The number of the layer.
    pub layer: u64,
    /// The mean of its matrices' sums.
    pub sum: f64,
    /// The mean of their ZD scores.
    pub zd: f64,
    /// The mean of their cosines.
    pub cosine: f64,
    #[serde(skip)]
    columns: f64,
}

impl Measured {
    /// Of every matrix, those that do the same side by side, the most important first.
    pub fn statistics(&self) -> Vec<Statistics> {
        let all = self.entries();
        let of = |(name, seen): (&String, &Seen)| {
            let before = in_block(name).and_then(|(layer, rest)| {
                all.get(&format!("blk.{}.{rest}", layer.checked_sub(1)?))
            });
            Statistics::of(name, seen, before)
        };
        let mut found: Vec<Statistics> = all.iter().filter_map(of).collect();
        found.sort_by(|a, b| a.kind().cmp(b.kind()).then(b.sum.total_cmp(&a.sum)));
        found
    }
}

impl Statistics {
    fn of(name: &str, seen: &Seen, before: Option<&Seen>) -> Option<Statistics> {
        let reached = seen.runs().filter(|(_, count)| *count > 0);
        let means: Vec<f32> = reached
            .flat_map(|(sums, count)| sums.iter().map(move |sum| sum / count as f32))
            .collect();
        let n = means.len() as f64;
        let each = || means.iter().map(|mean| f64::from(*mean));
        let part = |holds: &dyn Fn(f64) -> bool| each().filter(|v| holds(*v)).count() as f64 / n;
        let (min, max) =
            (means.iter().copied().reduce(f32::min)?, means.iter().copied().reduce(f32::max)?);
        let sum: f64 = each().sum();
        let mean = sum / n;
        let variance = each().map(|v| v * v).sum::<f64>() / n - mean * mean;
        let deviation = variance.max(0.0).sqrt();
        let shares = each().map(|v| v / sum).filter(|share| *share > 0.0);
        let entropy = -shares.map(|share| share * share.log2()).sum::<f64>();
        Some(Statistics {
            name: name.to_owned(),
            columns: means.len(),
            sum,
            mean,
            min,
            max,
            deviation,
            active: part(&|v| v.abs() > f64::from(INACTIVE)),
            entropy,
            entropy_share: if n > 1.0 { entropy / n.log2() } else { 0.0 },
            zd: part(&|v| deviation > 0.0 && v - mean > deviation),
            cosine: before
                .filter(|b| b.sums.len() == seen.sums.len())
                .map(|b| cosine(&b.sums, &seen.sums)),
        })
    }

    /// What the tensor does: `attn_k` of `blk.0.attn_k.weight`.
    pub fn kind(&self) -> &str {
        let rest = in_block(&self.name).map_or(self.name.as_str(), |(_, rest)| rest);
        rest.strip_suffix(".weight").unwrap_or(rest)
    }

    /// The layer that it is in.
    pub fn layer(&self) -> Option<u64> {
        in_block(&self.name).map(|(layer, _)| layer)
    }
}

/// The statistics of layers, of those of their matrices.
pub fn of_layers(all: &[Statistics]) -> Vec<LayerStatistics> {
    let mut layers = std::collections::BTreeMap::new();
    for one in all {
        let Some(layer) = one.layer() else { continue };
        let empty = LayerStatistics { layer, sum: 0.0, zd: 0.0, cosine: 0.0, columns: 0.0 };
        let own = layers.entry(layer).or_insert(empty);
        let columns = one.columns as f64;
        own.sum += columns * one.sum;
        own.zd += columns * one.zd;
        own.cosine += columns * one.cosine.unwrap_or(0.0);
        own.columns += columns;
    }
    let mean = |own: LayerStatistics| LayerStatistics {
        sum: own.sum / own.columns,
        zd: own.zd / own.columns,
        cosine: own.cosine / own.columns,
        ..own
    };
    layers.into_values().map(mean).collect()
}

/// The number of the block and what follows it.
fn in_block(name: &str) -> Option<(u64, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// The cosine of the angle between two vectors, in float64.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}
