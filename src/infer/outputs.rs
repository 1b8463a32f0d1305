//! Two models over one text: how far apart are their outputs?
//!
//! Both read the same tokens in windows of one length. At every position the distribution over the next
//! token is compared: likeliest token, Kullback–Leibler divergence from the first model to the second,
//! and whether all logits have the same bits. Perplexity is that of the tokens that follow.

use serde::Serialize;

use super::{Precision, Session, Tokenizer, Want, Weights};
use crate::{
    bytes::{Progress, replace::check_interrupt},
    error::{Error, Result},
    model::Model,
    remedy::Setting,
};

/// How the outputs of two models differ over a text.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Outputs {
    /// What both computed with.
    #[serde(rename = "activations")]
    pub precision: Precision,
    /// Positions compared.
    pub positions: usize,
    /// Positions at which both give every logit the same bits.
    pub identical: usize,
    /// Share of positions at which both find the same token likeliest.
    pub same_top: f64,
    /// Mean divergence from the first model, in nats.
    pub kl_mean: f64,
    /// Its median.
    pub kl_median: f64,
    /// Its 99th percentile.
    pub kl_p99: f64,
    /// Its maximum.
    pub kl_max: f64,
    /// Divergence at each position.
    pub kl: Vec<f64>,
    /// Cosine between the two vectors of the text, each the mean over its tokens, of models that make vectors; such
    /// have no next token, so no divergence and no perplexity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Perplexity of the first model.
    pub first: Perplexity,
    /// Perplexity of the second model.
    pub second: Perplexity,
}

/// A perplexity and its standard error.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Perplexity {
    /// The estimate.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Perplexity {
    /// The perplexity of tokens that cost N nats each; its error by the delta method.
    ///
    /// `value = e^mean`, `error = e^mean * sqrt(variance / n)`; 1 and 0 for no tokens.
    pub fn of(costs: &[f64]) -> Perplexity {
        let n = costs.len().max(1) as f64;
        let mean = costs.iter().sum::<f64>() / n;
        let variance = costs.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Perplexity { value: mean.exp(), error: mean.exp() * (variance / n).sqrt() }
    }
}

/// Tokens read at a time.
const WINDOW: usize = 256;

/// Runs both models over `text`, at most `most` tokens of it, split as the first one splits it, in `precision`;
/// `progress` hears of the bytes of weights that are read, once for each window.
///
/// # Errors
/// Where a model cannot be run, or the text is too short to compare anything.
pub fn compare(
    first: &Model,
    second: &Model,
    text: &str,
    most: usize,
    precision: Precision,
    progress: &dyn Progress,
) -> Result<Outputs> {
    let tokenizer = Tokenizer::of(if first.vocab.is_empty() { second } else { first })?;
    let mut tokens = tokenizer.read(text)?;
    tokens.truncate(most);
    if tokens.len() < 2 {
        let what = "the text is shorter than two tokens: there is nothing to compare";
        return Err(Error::unsupported(what, Setting::Text.to("give a longer one")));
    }
    let weights = |model| Weights::computed(model, precision);
    let (a, b) = (weights(first)?, weights(second)?);
    if a.config.vocab != b.config.vocab {
        let what = format!("outputs over {} and {} tokens", a.config.vocab, b.config.vocab);
        return Err(Error::unsupported(what, "they cannot be compared"));
    }
    let mut sums = Sums::default();
    if a.config.whole_text && b.config.whole_text {
        tokens.truncate(a.config.context.min(b.config.context));
        progress.total(a.pass_bytes() + b.pass_bytes());
        let vectors =
            |weights| Session::new(weights, tokens.len()).heard(progress).vectors(&tokens);
        sums.add_vectors(&vectors(&a)?, &vectors(&b)?, a.config.width);
        return Ok(sums.finish(precision));
    }
    let windows = tokens.chunks(WINDOW);
    progress.total(windows.len() as u64 * (a.pass_bytes() + b.pass_bytes()));
    for window in windows {
        check_interrupt()?;
        let mut logits: Vec<Vec<f32>> = Vec::with_capacity(window.len());
        let session = |weights| Session::new(weights, window.len()).heard(progress);
        session(&a).read(window, Want::All, |_, l| logits.push(l.to_vec()))?;
        session(&b).read(window, Want::All, |at, l| {
            if let Some(reference) = logits.get(at) {
                sums.add(reference, l, window.get(at + 1).copied());
            }
        })?;
    }
    Ok(sums.finish(precision))
}

/// What is counted while positions pass.
#[derive(Default)]
struct Sums {
    kl: Vec<f64>,
    identical: usize,
    same_top: usize,
    first: Vec<f64>,
    second: Vec<f64>,
    positions: usize,
    cosine: Option<f64>,
}

impl Sums {
    /// The vectors of one text's tokens: `[T][width]` each.
    fn add_vectors(&mut self, a: &[f32], b: &[f32], width: usize) {
        let pairs = a.chunks_exact(width).zip(b.chunks_exact(width));
        let alike =
            |(a, b): &(&[f32], &[f32])| a.iter().zip(*b).all(|(x, y)| x.to_bits() == y.to_bits());
        self.positions = pairs.len();
        self.identical = pairs.filter(alike).count();
        // Of the sum instead of the mean: a cosine does not see the difference.
        let sum = |all: &[f32]| {
            let mut sum = vec![0.0; width];
            for vector in all.chunks_exact(width) {
                sum.iter_mut().zip(vector).for_each(|(sum, v)| *sum += f64::from(*v));
            }
            sum
        };
        let (a, b) = (sum(a), sum(b));
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        self.cosine = Some(dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt());
    }

    /// One position: the logits of both models, and the token that follows, where one does.
    fn add(&mut self, a: &[f32], b: &[f32], next: Option<u32>) {
        self.positions += 1;
        self.identical += usize::from(a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits()));
        self.same_top += usize::from(top(a) == top(b));
        // p = softmax(a), q = softmax(b):  KL(p | q) = sum p (ln p - ln q), in nats
        // ln p[i] = a[i] - ln sum e^a
        let (la, lb) = (log_sum(a), log_sum(b));
        let kl = a.iter().zip(b).map(|(x, y)| {
            let p = f64::from(*x) - la;
            p.exp() * (p - (f64::from(*y) - lb))
        });
        // Rounding can bring a divergence of nothing a little below nothing.
        self.kl.push(kl.sum::<f64>().max(0.0));
        if let Some(next) = next.and_then(|t| usize::try_from(t).ok()) {
            // -ln p(next): what the token costs each model, for its perplexity.
            let cost = |l: &[f32], sum: f64| l.get(next).map(|v| sum - f64::from(*v));
            self.first.extend(cost(a, la));
            self.second.extend(cost(b, lb));
        }
    }

    fn finish(self, precision: Precision) -> Outputs {
        let positions = self.positions;
        let mut sorted = self.kl.clone();
        sorted.sort_by(f64::total_cmp);
        // The value below which this share of all is.
        let rank = |share: f64| {
            let at = (share * positions.saturating_sub(1) as f64).round() as usize;
            sorted.get(at).copied().unwrap_or(0.0)
        };
        let n = positions.max(1) as f64;
        Outputs {
            precision,
            positions,
            identical: self.identical,
            same_top: self.same_top as f64 / n,
            kl_mean: self.kl.iter().sum::<f64>() / n,
            kl_median: rank(0.5),
            kl_p99: rank(0.99),
            kl_max: rank(1.0),
            kl: self.kl,
            cosine: self.cosine,
            first: Perplexity::of(&self.first),
            second: Perplexity::of(&self.second),
        }
    }
}

impl Outputs {
    /// How far apart the two are: the mean divergence, or of vectors what their cosine lacks of one.
    pub fn apart(&self) -> f64 {
        self.cosine.map_or(self.kl_mean, |cosine| 1.0 - cosine)
    }

    /// How far apart the two are, in words.
    pub fn words(&self) -> String {
        let n = self.positions;
        match self.cosine {
            _ if self.identical == n => format!("identical outputs on {n} positions"),
            Some(cosine) => format!("vectors of a text of {n} tokens with a cosine of {cosine:.6}"),
            None => format!(
                "the same likeliest token on {:.2} % of {n} positions, mean KL divergence {:.2e}",
                self.same_top * 100.0,
                self.kl_mean
            ),
        }
    }
}

/// The likeliest token, the first of equals.
fn top(logits: &[f32]) -> usize {
    let best = logits.iter().enumerate().reduce(|a, b| if b.1 > a.1 { b } else { a });
    best.map_or(0, |(i, _)| i)
}

/// `ln sum e^logit`, in float64.
fn log_sum(logits: &[f32]) -> f64 {
    // The largest is taken out before the exponentials, and put back behind the logarithm.
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|v| (f64::from(*v) - max).exp()).sum::<f64>().ln()
}
