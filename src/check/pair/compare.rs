//! Two models side by side: metadata, vocabulary, and every weight.
//!
//! Rows of both are decoded and compared as they stream by; sums are folded in file order, so figures
//! do not depend on the number of threads. Tensors of one type are held against each other as bytes first:
//! where these are the same, no weight has to be decoded.
//!
//! ```text
//! rmse    = sqrt(sum (x - y)^2 / n)               n: all weights, those that are no numbers too
//! snr_db  = 10 log10(sum x^2 / sum (x - y)^2)     x of the first, which is the signal
//! cosine  = sum x y / sqrt(sum x^2 * sum y^2)
//! ```

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use crate::{
    bytes::{Progress, replace::check_interrupt},
    change::{self, vocabulary::to_gguf},
    error::Result,
    format::catalog,
    model::{
        Model, Tensor, Value, Vocab,
        role::{Naming, Role, scaled_by},
    },
    quant::{decode_rows, isa::Isa},
};

/// How two models differ.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// Metadata keys with different values, or that one side lacks.
    pub metadata: Vec<KeyDifference>,
    /// Differences of the vocabularies, as sentences; empty where they are the same.
    pub vocab: Vec<String>,
    /// What only one of the files says about the same tokens, as sentences.
    pub vocab_added: Vec<String>,
    /// The tensors that both have, in the order of the first.
    pub tensors: Vec<TensorDifference>,
    /// Names that only the first has.
    pub only_first: Vec<String>,
    /// Names that only the second has.
    pub only_second: Vec<String>,
}

impl Comparison {
    /// The tensors whose bytes differ.
    pub fn differing(&self) -> impl Iterator<Item = &TensorDifference> {
        self.tensors.iter().filter(|tensor| tensor.verdict != Verdict::SameBytes)
    }
}

/// A metadata key that differs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct KeyDifference {
    /// The key.
    pub key: String,
    /// Its value in the first model, if any.
    pub first: Option<String>,
    /// Its value in the second model, if any.
    pub second: Option<String>,
}

/// How one tensor differs between two models.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TensorDifference {
    /// Its GGUF name.
    pub name: String,
    /// Its type in the first model.
    pub first: String,
    /// Its type in the second model.
    pub second: String,
    /// Weights in it.
    pub weights: u64,
    /// How alike the two are.
    pub verdict: Verdict,
    /// Root mean squared difference.
    pub rmse: f64,
    /// Largest absolute difference.
    pub max_error: f64,
    /// Signal-to-noise ratio in decibels; none where nothing differs.
    pub snr_db: Option<f64>,
    /// Cosine of the angle between the two.
    pub cosine: f64,
    /// Weights that are infinite or NaN on either side; no figure counts them.
    pub not_finite: u64,
}

/// How alike two tensors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// The same type and bytes.
    SameBytes,
    /// Every weight is the same f32, bit for bit.
    SameWeights,
    /// Weights differ by no more than a rounded scale makes them.
    Rounded,
    /// Weights differ.
    Different,
    /// The shapes differ; nothing else was compared.
    OtherShape,
}

impl Verdict {
    /// One or two words for a table.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::SameBytes => "same bytes",
            Verdict::SameWeights => "same weights",
            Verdict::Rounded => "rounded",
            Verdict::Different => "different",
            Verdict::OtherShape => "other shape",
        }
    }
}

/// Half a unit in the last place of f16: what rounding a scale changes a weight by, relatively.
///
/// f16 has 11 bits of mantissa, so a rounded scale is off by at most 2^-11 of itself, and so is each weight of its
/// block.
const SCALE_ROUNDING: f64 = 1.0 / 2048.0;
/// Weights decoded at a time.
const CHUNK_WEIGHTS: u64 = 256 << 10;

/// Compares two models tensor by tensor; `progress` hears of the bytes that are read of both.
///
/// # Errors
/// Where a file cannot be read.
pub fn compare(first: &Model, second: &Model, progress: &dyn Progress) -> Result<Comparison> {
    let (first, second) = (&first.readable(), &second.readable());
    first.check_decodable()?;
    second.check_decodable()?;
    // Copies of heads and a repeated embedding are one tensor here: what a container stores twice is no difference.
    let [first, second] = [&change::once(first)?, &change::once(second)?];
    // By what they do, and not by their names: Meta's, transformers' and GGUF's differ.
    let names = |m: &Model| m.tensors.iter().map(|t| common_name(m, &t.name)).collect::<Vec<_>>();
    let (a_names, b_names) = (names(first), names(second));
    let seconds: HashMap<&String, &Tensor> = b_names.iter().zip(&second.tensors).collect();
    let pairs = a_names.iter().zip(&first.tensors);
    let pairs: Vec<_> =
        pairs.filter_map(|(name, a)| Some((name, a, *seconds.get(name)?))).collect();
    let read = pairs.iter().filter(|(_, a, b)| a.shape == b.shape);
    progress.total(read.map(|(_, a, b)| a.bytes() + b.bytes()).sum());
    let tensors = pairs
        .iter()
        .map(|(name, a, b)| compare_tensors(name, (first, a), (second, b), progress))
        .collect::<Result<_>>()?;
    let lacking = |names: &[String], others: &[String]| {
        let others: HashSet<&String> = others.iter().collect();
        // What only multiplies a matrix has been counted with that.
        let counted = |n: &&String| scaled_by(n).is_some_and(|matrix| others.contains(&matrix));
        names.iter().filter(|n| !others.contains(n) && !counted(n)).cloned().collect::<Vec<_>>()
    };
    let (vocab, vocab_added) = compare_vocabs(first, second);
    Ok(Comparison {
        metadata: compare_keys(first, second),
        vocab,
        vocab_added,
        tensors,
        only_first: lacking(&a_names, &b_names),
        only_second: lacking(&b_names, &a_names),
    })
}

/// A tensor's GGUF name, so that files from before it can be compared with later ones.
fn common_name(model: &Model, name: &str) -> String {
    let role = catalog::family(&model.family).and_then(|f| Role::find(f, name));
    role.and_then(|(_, role)| role.name(Naming::Gguf)).unwrap_or_else(|| name.to_owned())
}

/// The keys that differ or that only one has, without those of the vocabulary that are no ids.
fn compare_keys(first: &Model, second: &Model) -> Vec<KeyDifference> {
    let tokens = |key: &str| key.starts_with("tokenizer.ggml.") && !key.ends_with("_id");
    let [firsts, seconds]: [HashMap<&str, &Value>; 2] =
        [first, second].map(|model| model.metadata.iter().collect());
    let mut keys: Vec<&str> = first.metadata.iter().map(|(k, _)| k).collect();
    keys.extend(second.metadata.iter().map(|(k, _)| k).filter(|k| !firsts.contains_key(k)));
    keys.into_iter()
        .filter(|key| !tokens(key))
        .filter_map(|key| {
            let (a, b) = (firsts.get(key).copied(), seconds.get(key).copied());
            // 32 as u32 and 32 as u64 are one value: converters changed their minds about widths.
            let same = a == b
                || a.zip(b).is_some_and(|(a, b)| a.as_f64().is_some() && a.as_f64() == b.as_f64());
            (!same).then(|| KeyDifference {
                key: key.to_owned(),
                first: a.map(ToString::to_string),
                second: b.map(ToString::to_string),
            })
        })
        .collect()
}

/// The vocabulary of `model` in the terms of GGUF: older files write the same tokens otherwise.
fn in_gguf_terms(model: &Model) -> Cow<'_, Vocab> {
    let old = model.vocab.kinds.is_empty() && !model.vocab.is_empty();
    match model.header("n_vocab").and_then(|n| n.try_into().ok()) {
        Some(n_vocab) if old => Cow::Owned(to_gguf(&model.vocab, n_vocab).vocab),
        _ => Cow::Borrowed(&model.vocab),
    }
}

/// What differs, and what only one of the two says.
fn compare_vocabs(first: &Model, second: &Model) -> (Vec<String>, Vec<String>) {
    let (a, b) = (in_gguf_terms(first), in_gguf_terms(second));
    let mut found = Vec::new();
    if a.len() != b.len() {
        found.push(format!("{} tokens against {}", a.len(), b.len()));
    }
    let both = a.len().min(b.len());
    let mut count = |what: &str, differs: &dyn Fn(usize) -> bool| {
        let ids: Vec<usize> = (0..both).filter(|id| differs(*id)).collect();
        if let Some(first) = ids.first() {
            found.push(format!("{} tokens with another {what}, the first is {first}", ids.len()));
        }
    };
    let scored = |model: &Model| model.vocab.scores.iter().any(|score| *score != 0.0);
    count("text", &|id| a.tokens.get(id) != b.tokens.get(id));
    if scored(first) && scored(second) {
        count("score", &|id| a.score(id) != b.score(id));
    }
    if !a.kinds.is_empty() && !b.kinds.is_empty() {
        count("kind", &|id| a.kind(id) != b.kind(id));
    }
    let says =
        |model: &Model| [("kinds", !model.vocab.kinds.is_empty()), ("scores", scored(model))];
    let one_sided = says(first).into_iter().zip(says(second)).filter_map(|((what, a), (_, b))| {
        let side = match (a, b) {
            (true, false) => "first",
            (false, true) => "second",
            _ => return None,
        };
        Some(format!("only the {side} says the {what} of its tokens"))
    });
    (found, one_sided.collect())
}

/// Sums over one run of weights.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// Of `(x - y)^2`.
    squared_error: f64,
    /// Of `x^2`.
    aa: f64,
    /// Of `y^2`.
    bb: f64,
    /// Of `x y`.
    ab: f64,
    /// The largest `|x - y|`.
    max_error: f64,
    /// The largest `|x - y|` over the larger of both.
    max_relative: f64,
    /// Whether any weight is another f32, two NaNs of other bits among them.
    bits_differ: bool,
    /// Whether any stored byte is another.
    bytes_differ: bool,
    /// Pairs that are in none of the sums.
    not_finite: u64,
}

impl Sums {
    /// The sums of both stretches.
    fn merge(mut self, other: Sums) -> Sums {
        self.squared_error += other.squared_error;
        self.aa += other.aa;
        self.bb += other.bb;
        self.ab += other.ab;
        self.max_error = self.max_error.max(other.max_error);
        self.max_relative = self.max_relative.max(other.max_relative);
        self.bits_differ |= other.bits_differ;
        self.bytes_differ |= other.bytes_differ;
        self.not_finite += other.not_finite;
        self
    }

    /// Takes weights of both sides. `max_relative` is of the larger of each two, so that neither side is the measure.
    fn add(&mut self, a: &[f32], b: &[f32]) {
        for (x, y) in a.iter().zip(b) {
            self.bits_differ |= x.to_bits() != y.to_bits();
            if !(x.is_finite() && y.is_finite()) {
                self.not_finite += 1;
                continue;
            }
            let (x, y) = (f64::from(*x), f64::from(*y));
            let d = (x - y).abs();
            self.squared_error += d * d;
            self.aa += x * x;
            self.bb += y * y;
            self.ab += x * y;
            self.max_error = self.max_error.max(d);
            if d > 0.0 {
                self.max_relative = self.max_relative.max(d / x.abs().max(y.abs()));
            }
        }
    }
}

/// Compares one tensor: shapes, then bytes where the types are one, then weights, all in f64.
///
/// | what is so | what is done |
/// |---|---|
/// | the shapes differ | nothing is read |
/// | one type, and every byte is the same, and every weight is finite | nothing is decoded |
/// | anything else | the rows of both are decoded and summed; where factors beside them differ, multiplied before |
///
/// What can only be read forward (a packed stream) is read once, so there the bytes are compared on the way.
fn compare_tensors(
    name: &str,
    (first, a): (&Model, &Tensor),
    (second, b): (&Model, &Tensor),
    progress: &dyn Progress,
) -> Result<TensorDifference> {
    let difference = |verdict, s: Sums| TensorDifference {
        name: name.to_owned(),
        first: a.quant.to_string(),
        second: b.quant.to_string(),
        weights: a.elements(),
        verdict,
        rmse: (s.squared_error / a.elements().max(1) as f64).sqrt(),
        max_error: s.max_error,
        snr_db: (s.squared_error > 0.0).then(|| 10.0 * (s.aa / s.squared_error).log10()),
        cosine: if s.bits_differ { s.ab / (s.aa * s.bb).sqrt() } else { 1.0 },
        not_finite: s.not_finite,
    };
    if a.shape != b.shape {
        return Ok(difference(Verdict::OtherShape, Sums::default()));
    }
    // Whole groups of rows on both sides, in steps of about a quarter of a million weights.
    let group = a.quant.row_group().max(b.quant.row_group()) as u64;
    let step = (CHUNK_WEIGHTS / a.row_len().max(1) / group * group).max(group);
    let firsts: Vec<u64> =
        (0..a.rows()).step_by(usize::try_from(step).unwrap_or(usize::MAX)).collect();
    let rows = |at: &u64| *at..a.rows().min(at + step);
    // What can only be read forward is not read twice.
    let again = !first.only_forward(a) && !second.only_forward(b);
    let [x, y] = [scales(first, a)?, scales(second, b)?];
    // Equal factors change no verdict: only other ones are multiplied in.
    let scales = (x != y).then_some([x, y]);
    let again = again && scales.is_none();
    if a.quant == b.quant && again && alike((first, a), (second, b), &firsts, &rows)? {
        progress.advance(a.bytes() + b.bytes());
        return Ok(difference(Verdict::SameBytes, Sums::default()));
    }
    let parts = firsts
        .par_iter()
        .map_init(Default::default, |[x, y]: &mut [Piece; 2], at| {
            check_interrupt()?;
            x.read(first, a, rows(at))?;
            y.read(second, b, rows(at))?;
            x.decode(a);
            y.decode(b);
            if let Some([of_a, of_b]) = &scales {
                x.scale(a, *at, of_a);
                y.scale(b, *at, of_b);
            }
            let mut sums = Sums { bytes_differ: x.bytes != y.bytes, ..Sums::default() };
            sums.add(&x.weights, &y.weights);
            progress.advance((x.bytes.len() + y.bytes.len()) as u64);
            Ok(sums)
        })
        .collect::<Result<Vec<_>>>()?;
    let sums = parts.into_iter().fold(Sums::default(), Sums::merge);
    // From the strictest down. Rounded asks for one name of type: other types differ by more than their scales.
    let verdict = match sums {
        s if !s.bits_differ && !s.bytes_differ && a.quant == b.quant && scales.is_none() => {
            Verdict::SameBytes
        }
        s if !s.bits_differ => Verdict::SameWeights,
        s if a.quant.name() == b.quant.name()
            && s.max_relative <= SCALE_ROUNDING
            && s.not_finite == 0 =>
        {
            Verdict::Rounded
        }
        _ => Verdict::Different,
    };
    Ok(difference(verdict, sums))
}

/// What the weights of a matrix are multiplied with, where a tensor beside it says that: one number, or one for each
/// matrix of a stack.
fn scales(model: &Model, tensor: &Tensor) -> Result<Vec<f32>> {
    let stem = tensor.name.strip_suffix(".weight");
    match stem.and_then(|stem| model.tensor(&format!("{stem}.scale"))) {
        Some(scale) => model.decode(scale, 0..scale.rows()),
        None => Ok(Vec::new()),
    }
}

/// Whether every byte of two tensors of one type is the same, and every weight of them is finite.
fn alike(
    (first, a): (&Model, &Tensor),
    (second, b): (&Model, &Tensor),
    firsts: &[u64],
    rows: &(impl Fn(&u64) -> Range<u64> + Sync),
) -> Result<bool> {
    let differ = AtomicBool::new(false);
    let row_bytes = len(a.row_bytes());
    firsts.par_iter().try_for_each_init(Default::default, |[x, y]: &mut [Piece; 2], at| {
        if !differ.load(Ordering::Relaxed) {
            check_interrupt()?;
            x.read(first, a, rows(at))?;
            y.read(second, b, rows(at))?;
            let same =
                x.bytes == y.bytes && a.quant.layout().first_unsound(&x.bytes, row_bytes).is_none();
            differ.fetch_or(!same, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(!differ.into_inner())
}

/// Some rows of a tensor; its memory is used again for the next ones.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    weights: Vec<f32>,
}

impl Piece {
    /// Reads rows as they are stored, in place of those before.
    fn read(&mut self, model: &Model, tensor: &Tensor, rows: Range<u64>) -> Result<()> {
        let count = rows.end - rows.start;
        self.bytes.resize(len(count * tensor.row_bytes()), 0);
        model.read_rows(tensor, rows.start, count, &mut self.bytes)
    }

    fn decode(&mut self, tensor: &Tensor) {
        let row_len = len(tensor.row_len());
        self.weights.resize(self.bytes.len() / len(tensor.row_bytes()).max(1) * row_len, 0.0);
        decode_rows(tensor.quant, Isa::best(), &self.bytes, row_len, &mut self.weights);
    }

    /// Multiplies rows from `first` on with what belongs to their matrix.
    fn scale(&mut self, tensor: &Tensor, first: u64, scales: &[f32]) {
        let per_matrix = tensor.rows() / (scales.len() as u64).max(1);
        for (row, weights) in (first..).zip(self.weights.chunks_mut(len(tensor.row_len()).max(1))) {
            let Some(scale) = scales.get(len(row / per_matrix.max(1))) else { return };
            weights.iter_mut().for_each(|weight| *weight *= scale);
        }
    }
}

fn len(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
