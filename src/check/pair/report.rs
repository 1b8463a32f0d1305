//! What `compare` found, as one value for the terminal, for JSON and for the page.
//!
//! First what files say (keys, vocabulary), then tensors, then what a text showed (perplexity of each, the divergence
//! between the two), and last all of it in one line, the verdict.

use std::fmt::Write;

use serde::Serialize;

use super::compare::{Comparison, TensorDifference, Verdict};
use crate::{
    change::report::Detail,
    columns::{Column, table},
    infer::{Outputs, Perplexity},
    quant::QuantType,
    size::{self, counted},
};

/// A reference and the models compared with it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CompareReport {
    /// Version of this shape.
    pub schema_version: u32,
    /// The reference.
    pub reference: Side,
    /// The others.
    pub candidates: Vec<Candidate>,
}

/// One model.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Side {
    /// Its file.
    pub name: String,
    /// The format it is in.
    pub format: String,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Its perplexity over the text, where both were run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<Perplexity>,
}

/// A model compared with the reference.
///
/// In JSON the fields of [`Side`] and [`Comparison`] are its own, without another level.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The model.
    #[serde(flatten)]
    pub side: Side,
    /// The verdict in one line.
    pub verdict: String,
    /// What differs in the files.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// What differs in what they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Outputs>,
}

impl Candidate {
    /// Whether nothing that matters differs: weights, vocabulary and, where run, outputs. Weights that are
    /// no numbers are never the same.
    ///
    /// Keys do not matter here: a name, a date or the width of a number makes no other model.
    pub fn same(&self) -> bool {
        let c = &self.comparison;
        let weights = c.tensors.iter().all(|t| {
            matches!(t.verdict, Verdict::SameBytes | Verdict::SameWeights) && t.not_finite == 0
        });
        let outputs = self.outputs.as_ref().is_none_or(|o| o.identical == o.positions);
        weights
            && outputs
            && c.vocab.is_empty()
            && c.only_first.is_empty()
            && c.only_second.is_empty()
    }
}

/// The verdict in one line.
///
/// The gravest comes first and is then all that is said: tensors that one side lacks, then other shapes. Else it says
/// how weights differ, which are no numbers, whether the vocabulary is another, and what the outputs say of it.
pub fn verdict(comparison: &Comparison, outputs: Option<&Outputs>) -> String {
    let lacking = comparison.only_first.len() + comparison.only_second.len();
    if lacking > 0 {
        let tensors = counted(lacking, "tensor is", "tensors are");
        return format!("not the same model: {tensors} on one side only");
    }
    let count = |v: Verdict| comparison.tensors.iter().filter(|t| t.verdict == v).count();
    let (other, different, rounded) =
        (count(Verdict::OtherShape), count(Verdict::Different), count(Verdict::Rounded));
    if other > 0 {
        let tensors = counted(other, "tensor has", "tensors have");
        return format!("not the same model: {tensors} another shape");
    }
    let weights = match (different, rounded) {
        (0, 0) => "the same weights".to_owned(),
        // Plain numbers have no scales: there the weights themselves were rounded.
        (0, n) if comparison.tensors.iter().any(has_scales) => {
            format!("scales rounded to f16 in {}", counted(n, "tensor", "tensors"))
        }
        (0, n) => {
            let tensors = counted(n, "tensor is", "tensors are");
            format!("{tensors} apart by no more than an f16 rounds")
        }
        _ => {
            let kinds = |pick: fn(&TensorDifference) -> &str| main_kind(comparison, pick);
            format!("differs as {} differs from {}", kinds(|t| &t.second), kinds(|t| &t.first))
        }
    };
    let odd: Vec<&str> =
        comparison.tensors.iter().filter(|t| t.not_finite > 0).map(|t| t.name.as_str()).collect();
    let weights = match odd.as_slice() {
        [] => weights,
        [first, rest @ ..] => {
            let more =
                if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            format!("{weights}, and infinite or NaN weights in {first}{more}")
        }
    };
    let vocab = if comparison.vocab.is_empty() { "" } else { ", another vocabulary" };
    match outputs {
        None => format!("{weights}{vocab}"),
        Some(o) => format!("{weights}{vocab}: {}", o.words()),
    }
}

/// Whether it is a tensor of blocks whose scales were rounded.
fn has_scales(tensor: &TensorDifference) -> bool {
    let blocks = |name: &str| QuantType::today(name).is_none_or(|q| q.layout().elements > 1);
    tensor.verdict == Verdict::Rounded && blocks(&tensor.second)
}

/// The type that holds most weights of the tensors that differ.
/// A mixture is called after what most of it is: norms and a larger output do not give it their name.
fn main_kind(comparison: &Comparison, pick: fn(&TensorDifference) -> &str) -> String {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for t in comparison.tensors.iter().filter(|t| t.verdict == Verdict::Different) {
        match sums.iter_mut().find(|(name, _)| *name == pick(t)) {
            Some((_, n)) => *n += t.weights,
            None => sums.push((pick(t), t.weights)),
        }
    }
    let most = sums.into_iter().max_by_key(|(_, n)| *n);
    most.map_or_else(String::new, |(name, _)| match name.split_once('/') {
        Some((name, dialect)) => format!("{}/{dialect}", name.to_uppercase()),
        None => name.to_uppercase(),
    })
}

impl CompareReport {
    /// Whether a report by kinds leaves tensors out that differ.
    pub fn is_cut(&self, detail: Detail) -> bool {
        detail == Detail::Kinds
            && self.candidates.iter().any(|c| c.comparison.differing().count() > MOST)
    }

    /// The report for people; its tables fit into lines of `screen` characters, where that is said.
    ///
    /// ```text
    /// a.gguf (gguf-v3, 13.4 GB of weights)            the reference, then the other
    /// b.gguf (gguf-v3, 3.8 GB of weights)
    ///   llama.context_length: 2048 | 4096             what keys say of either
    ///   vocabulary: …
    ///   tensor            types        rmse  …        those that differ
    ///   perplexity: 5.9 ± 0.03 | 6.1 ± 0.03
    ///   outputs: same top token …; KL mean …
    /// differs as Q4_0 differs from F16: …             the verdict
    /// ```
    pub fn text(&self, detail: Detail, screen: Option<usize>) -> String {
        let mut out = String::new();
        for c in &self.candidates {
            for Side { name, format, bytes, .. } in [&self.reference, &c.side] {
                let _ = writeln!(out, "{name} ({format}, {} of weights)", size::text(*bytes));
            }
            for d in &c.comparison.metadata {
                let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".to_owned());
                let _ = writeln!(out, "  {}: {} | {}", d.key, value(&d.first), value(&d.second));
            }
            c.comparison.vocab.iter().chain(&c.comparison.vocab_added).for_each(|line| {
                let _ = writeln!(out, "  vocabulary: {line}");
            });
            tensors(&mut out, &c.comparison, detail, screen);
            let ppl =
                |side: &Side| side.perplexity.map(|p| format!("{:.4} ± {:.4}", p.value, p.error));
            if let (Some(a), Some(b)) = (ppl(&self.reference), ppl(&c.side)) {
                let _ = writeln!(out, "  perplexity: {a} | {b}");
            }
            if let Some(o) = &c.outputs {
                let _ = writeln!(out, "  arithmetic: {}", o.precision.words());
            }
            if let Some(o) = c.outputs.as_ref().filter(|o| o.cosine.is_none()) {
                let _ = writeln!(
                    out,
                    "  outputs: same top token {:.2} % of {} positions; KL mean {:.3e}, median {:.3e}, 99 % {:.3e}, max {:.3e}",
                    o.same_top * 100.0,
                    o.positions,
                    o.kl_mean,
                    o.kl_median,
                    o.kl_p99,
                    o.kl_max
                );
            }
            let _ = writeln!(out, "{}", c.verdict);
        }
        out
    }
}

/// A table of tensors: all of them in detail, else the first of those whose bytes differ.
fn tensors(out: &mut String, comparison: &Comparison, detail: Detail, screen: Option<usize>) {
    for (label, names) in [
        ("only in the first", &comparison.only_first),
        ("only in the second", &comparison.only_second),
    ] {
        if !names.is_empty() {
            let _ = writeln!(out, "  {label}: {}", names.join(", "));
        }
    }
    let shown: Vec<_> = match detail {
        Detail::Tensors => comparison.tensors.iter().collect(),
        Detail::Kinds => comparison.differing().collect(),
    };
    if shown.is_empty() {
        let _ = writeln!(out, "  all {} tensors have the same bytes", comparison.tensors.len());
        return;
    }
    let most = if detail == Detail::Tensors { shown.len() } else { MOST };
    let shown_first = shown.iter().take(most);
    // Where all differ, figures say so.
    let all = shown_first.clone().all(|t| t.verdict == Verdict::Different);
    let mut rows = vec![
        ["tensor", "types", "", "rmse", "max", "snr dB", "cosine"].map(str::to_owned).to_vec(),
    ];
    rows.extend(shown_first.map(|t| {
        let (a, b) = types(&t.first, &t.second);
        vec![
            t.name.clone(),
            if a == b { a.to_owned() } else { format!("{a} | {b}") },
            if all { String::new() } else { t.verdict.words().to_owned() },
            format!("{:.2e}", t.rmse),
            format!("{:.2e}", t.max_error),
            t.snr_db.map_or("-".to_owned(), |v| format!("{v:.1}")),
            format!("{:.7}", t.cosine),
        ]
    }));
    out.push_str(&table(&rows, &COLUMNS, 2, screen));
    if shown.len() > most {
        let _ = writeln!(out, "  … and {} more", shown.len() - most);
    }
}

/// Two types as a table has room for them: without their dialects where they differ otherwise.
fn types<'a>(first: &'a str, second: &'a str) -> (&'a str, &'a str) {
    let name = |quant: &'a str| quant.split('/').next().unwrap_or(quant);
    match name(first) == name(second) {
        true => (first, second),
        false => (name(first), name(second)),
    }
}

/// Tensors that a report by kinds shows.
const MOST: usize = 24;
/// Names, verdicts and types stay longest; of the figures decibels, which say how like two tensors are whatever their
/// scale, then rmse.
const COLUMNS: [Column; 7] = [
    Column::names(22, 9),
    Column::words(10, 6),
    Column::words(9, 7),
    Column::figures(4),
    Column::figures(1),
    Column::figures(5),
    Column::figures(2),
];
