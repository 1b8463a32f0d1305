//! What a plan will do and what it did, as text for people and as JSON; one value for both.
//!
//! ```text
//! input.bin (ggjt-v1-llama)                                        what was read
//! wrote output.gguf (gguf-v3, 110.7 KB) in 0.0 s                   or "would write", of a dry run
//!     16 tensors  q4_0/pairs-f32 -> q4_0  rescaled  rounded: …     one line for what tensors have in common
//! assumed, for the file does not say:                              each with what overrides it
//! note: …
//! ```

use std::fmt::Write;

use serde::Serialize;

use super::{Loss, Outcome, Plan, Step, StepOutcome};
use crate::{
    bytes::{Input, replace::Durability},
    columns::{Column, table},
    model::{Model, Piece, Tensor, loader},
    remedy::{Notes, Setting},
    size,
};

/// How much a report for people tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail {
    /// What tensors have in common.
    #[default]
    Kinds,
    /// A line for each tensor too.
    Tensors,
}

/// A plan in words and figures, with its outcome once there is one.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Version of this shape.
    pub schema_version: u32,
    /// The files read.
    pub inputs: Vec<String>,
    /// The format they are in.
    pub from: String,
    /// The file written, or to be written.
    pub output: String,
    /// The format it is in.
    pub to: String,
    /// Bytes of the output.
    pub bytes: u64,
    /// Whether it has been written.
    pub written: bool,
    /// Seconds that it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What happens to the tensors, by kind.
    pub tensors: Vec<Group>,
    /// One line a tensor.
    pub steps: Vec<Line>,
    /// Values that no old file stores.
    pub assumed: Vec<Assumption>,
    /// What was noticed.
    pub notes: Notes,
    /// What running both files showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
}

/// Tensors that share their types and what happens to them.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Group {
    /// Type before, with its dialect.
    pub from: String,
    /// Type after.
    pub to: String,
    /// `copied`, `reordered`, `rescaled`, `computed`, `decoded`, `encoded`,
    /// `merged` or `restored`.
    pub how: &'static str,
    /// Whether every weight stays the same.
    pub exact: bool,
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes in the output.
    pub bytes: u64,
    /// Blocks whose scale was looked at.
    pub blocks: u64,
    /// Blocks whose scale was rounded.
    pub rounded_blocks: u64,
    /// The largest relative change of a scale.
    pub max_relative_change: f32,
    /// Root mean squared error of encoded weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rmse: Option<f64>,
    /// Signal-to-noise ratio of encoded weights in decibels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snr_db: Option<f64>,
    /// Weights that are infinite or NaN, before or after; no figure counts them.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_finite: u64,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Line {
    /// Its name in the source, in the target's terms.
    pub name: String,
    /// Its shape, outermost first.
    pub shape: Vec<u64>,
    /// Type before.
    pub from: String,
    /// Type after.
    pub to: String,
    /// What happens to it.
    pub how: &'static str,
    /// Where its data begins in the output.
    pub at: u64,
    /// Its bytes in the output.
    pub bytes: u64,
    /// Root mean squared error, once encoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rmse: Option<f64>,
    /// Largest error, once encoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error: Option<f32>,
    /// Signal-to-noise ratio in decibels, once encoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snr_db: Option<f64>,
    /// Weights that are infinite or NaN, before or after; no figure counts them.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_finite: u64,
}

/// What a line of each tensor has: where, which, of what shape, from what to what, how, how well.
const COLUMNS: [Column; 6] = [
    Column::figures(1),
    Column::names(20, 9),
    Column::words(8, 3),
    Column::words(11, 8),
    Column::words(6, 2),
    Column::words(11, 5),
];

impl Line {
    /// The line as cells of a table: place, name, shape, types, what happens, what it cost.
    fn cells(&self) -> Vec<String> {
        let measured = match (self.rmse, self.max_error, self.snr_db) {
            _ if self.not_finite > 0 => format!("{} weights are infinite or NaN", self.not_finite),
            (Some(rmse), Some(max), Some(snr)) => {
                format!("snr {snr:.1} dB, rmse {rmse:.3e}, max {max:.3e}")
            }
            (Some(_), ..) => "no weight changed".to_owned(),
            _ => String::new(),
        };
        vec![
            format!("{:#x}", self.at),
            self.name.clone(),
            format!("{:?}", self.shape),
            format!("{} -> {}", self.from, self.to),
            self.how.to_owned(),
            measured,
        ]
    }
}

/// An assumed value.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Assumption {
    /// The key.
    pub key: String,
    /// The value taken.
    pub value: String,
    /// Why.
    pub because: String,
    /// What overrides it, where something does.
    #[serde(skip)]
    pub setting: Option<Setting>,
    /// The flag of a command for that; empty until a command names it.
    pub flag: String,
}

/// Whether a count is left out of JSON.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Report {
    /// The report of a plan; `outcome` once it has been carried out.
    pub fn new(model: &Model, plan: &Plan, outcome: Option<&Outcome>) -> Report {
        let mut groups: Vec<(Group, StepOutcome)> = Vec::new();
        let (mut lines, mut odd) = (Vec::new(), Vec::new());
        for (i, step) in plan.steps.iter().enumerate() {
            let Some(source) = model.tensors.get(step.source) else { continue };
            let done = outcome.and_then(|o| o.steps.get(i)).copied().unwrap_or_default();
            let how = how(model, source, plan, step);
            let (from, to) = (source.stored().to_string(), step.quant.to_string());
            let measured = done.distance.weights > 0;
            if done.kept_odd {
                odd.push(step.name.as_str());
            }
            lines.push(Line {
                name: step.name.clone(),
                shape: step.shape.clone(),
                from: from.clone(),
                to: to.clone(),
                how,
                at: plan.layout.data.get(i).copied().unwrap_or(0),
                bytes: step.bytes(),
                rmse: measured.then(|| done.distance.rmse()),
                max_error: measured.then_some(done.distance.max_error),
                snr_db: done.distance.snr_db(),
                not_finite: done.distance.not_finite,
            });
            // Groups in the order in which their first tensor comes.
            let at = groups.iter().position(|(g, _)| g.from == from && g.to == to && g.how == how);
            let at = at.unwrap_or_else(|| {
                let exact = step.loss() == Loss::Exact;
                let group = Group { from, to, how, exact, ..Group::EMPTY };
                groups.push((group, StepOutcome::default()));
                groups.len() - 1
            });
            #[expect(clippy::indexing_slicing, reason = "found in this list, or just pushed")]
            let (group, sum) = &mut groups[at];
            group.tensors += 1;
            group.bytes += step.bytes();
            sum.scales = sum.scales.merge(done.scales);
            sum.distance.merge(done.distance);
        }
        let tensors = groups.into_iter().map(|(mut group, sum)| {
            group.blocks = sum.scales.blocks;
            group.rounded_blocks = sum.scales.changed;
            group.max_relative_change = sum.scales.max_relative_change;
            if sum.distance.weights > 0 {
                group.rmse = Some(sum.distance.rmse());
                group.snr_db = sum.distance.snr_db();
                group.not_finite = sum.distance.not_finite;
            }
            group
        });
        let mut notes = plan.notes.clone();
        notes.extend(match outcome {
            // Of a finished file what was seen in it; of a plan what its description tells.
            Some(outcome) => outcome.refused.clone(),
            None => {
                plan.described(&model.family).as_ref().map(loader::objections).unwrap_or_default()
            }
        });
        if outcome.is_some_and(|outcome| outcome.durability == Durability::Cached) {
            notes.push(
                "flushing it is left to the system: a power cut within the next minute may damage it".to_owned(),
            );
        }
        if !odd.is_empty() {
            notes.push(format!("infinite or NaN weights were written: {}", odd.join(", ")));
        }
        let assumed = plan.assumed.iter().map(|a| Assumption {
            key: a.key.clone(),
            value: a.value.clone(),
            because: a.because.clone(),
            setting: a.setting,
            flag: String::new(),
        });
        Report {
            schema_version: 1,
            inputs: model.sources().into_iter().map(Input::name).collect(),
            from: model.format.clone(),
            output: plan.output.display().to_string(),
            to: plan.target.id().to_owned(),
            bytes: plan.layout.total,
            written: outcome.is_some(),
            seconds: outcome.map(|o| o.seconds),
            tensors: tensors.collect(),
            steps: lines,
            assumed: assumed.collect(),
            notes,
            verdict: outcome.and_then(|o| o.verdict.clone()),
        }
    }

    /// The report for people; its table fits into lines of `screen` characters, where that is said.
    pub fn text(&self, detail: Detail, screen: Option<usize>) -> String {
        let mut out = String::new();
        let verb = if self.written { "wrote" } else { "would write" };
        let _ = writeln!(out, "{} ({})", self.inputs.join(" + "), self.from);
        let time = self.seconds.map(|s| format!(" in {s:.1} s")).unwrap_or_default();
        let _ =
            writeln!(out, "{verb} {} ({}, {}){time}", self.output, self.to, size::text(self.bytes));
        for group in &self.tensors {
            let types = match group.from == group.to {
                true => group.to.clone(),
                false => format!("{} -> {}", group.from, group.to),
            };
            let tensors = if group.tensors == 1 { "tensor" } else { "tensors" };
            let _ =
                write!(out, "  {:>4} {tensors:<7}  {types:<28} {:<10}", group.tensors, group.how);
            let _ = writeln!(out, " {}", self.loss(group));
        }
        if detail == Detail::Tensors {
            let rows: Vec<Vec<String>> = self.steps.iter().map(Line::cells).collect();
            out += &table(&rows, &COLUMNS, 4, screen);
        }
        if !self.assumed.is_empty() {
            let _ = writeln!(out, "assumed, for the file does not say:");
        }
        for a in &self.assumed {
            let change = if a.flag.is_empty() { "" } else { "; change with " };
            let _ = writeln!(out, "  {} = {} ({}{change}{})", a.key, a.value, a.because, a.flag);
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        if let Some(verdict) = &self.verdict {
            let _ = writeln!(out, "{verdict}");
        }
        out
    }

    /// What happened to the weights of a group, in words: how exact it is, and by what figure.
    fn loss(&self, group: &Group) -> String {
        let now = self.written;
        match group.how {
            "merged" => match group.rmse.zip(group.snr_db) {
                Some((rmse, snr)) => {
                    format!("summed in f32; then rmse {rmse:.3e}, snr {snr:.1} dB")
                }
                None => "summed in f32".to_owned(),
            },
            "restored" => match group.rmse.zip(group.snr_db) {
                Some((rmse, snr)) => {
                    format!(
                        "summed, rounded to {}; then rmse {rmse:.3e}, snr {snr:.1} dB",
                        group.from
                    )
                }
                None => format!("summed, rounded to {}", group.from),
            },
            "computed" => "codes of a quantized checkpoint times their scales, in f32".to_owned(),
            "copied" => "the same bytes".to_owned(),
            "reordered" => "lossless: the same weights, bit for bit".to_owned(),
            "decoded" | "turned" => "lossless: F32 holds every weight".to_owned(),
            "rescaled" if now && group.rounded_blocks == 0 => {
                format!("lossless: each of {} scales is an f16", group.blocks)
            }
            "rescaled" if now => format!(
                "rounded: {} of {} scales changed, at most by {:.2e} relative",
                group.rounded_blocks, group.blocks, group.max_relative_change
            ),
            "rescaled" => "rounds: f32 scales become f16 (at most 4.9e-4 relative)".to_owned(),
            _ if group.not_finite > 0 => {
                format!("{} weights are infinite or NaN", group.not_finite)
            }
            _ => match (group.rmse, group.snr_db) {
                (Some(rmse), Some(snr)) => {
                    format!("lossy: rmse {rmse:.3e}, snr {snr:.1} dB")
                }
                (Some(_), None) => "no weight changed".to_owned(),
                _ => "lossy".to_owned(),
            },
        }
    }
}

/// What happens to a tensor, in one word: also on the way to where its step takes it up.
///
/// | word | what is meant |
/// |---|---|
/// | `copied` | the same bytes |
/// | `reordered` | the same codes in other places, or numbers in the other byte order |
/// | `rescaled` | the same codes with scales of f16 |
/// | `computed` | numbers that a packed checkpoint's codes and scales make |
/// | `decoded`, `encoded` | written as F32, or in another type |
/// | `turned` | decoded, with rows as columns |
/// | `merged`, `restored` | a sum in f32, or one that is rounded to the type of the published difference |
fn how(model: &Model, source: &Tensor, plan: &Plan, step: &Step) -> &'static str {
    let computed = |piece: &Piece| model.files.get(piece.file).is_some_and(Input::is_made);
    let turned = source.big_endian != plan.target.big_endian();
    match step.how() {
        _ if source.sum.as_ref().is_some_and(|sum| sum.is_turned()) => "turned",
        _ if source.sum.is_some() && !source.is_f32() => "restored",
        _ if source.sum.is_some() => "merged",
        "copied" if source.quant.layout().elements == 1 && source.pieces.iter().any(computed) => {
            "computed"
        }
        "copied" if source.is_moved() || source.pieces.iter().any(computed) || turned => {
            "reordered"
        }
        how => how,
    }
}

impl Group {
    const EMPTY: Group = Group {
        from: String::new(),
        to: String::new(),
        how: "",
        exact: false,
        tensors: 0,
        bytes: 0,
        blocks: 0,
        rounded_blocks: 0,
        max_relative_change: 0.0,
        rmse: None,
        snr_db: None,
        not_finite: 0,
    };
}
