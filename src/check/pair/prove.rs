//! The proof of a finished file: its source and it are run over one text and must say the same, as far
//! as the plan promised.

use crate::{
    bytes::Progress,
    change::{Act, Loss, Plan, Step},
    error::{Error, Result},
    infer::{Outputs, Precision, Tokenizer, outputs},
    model::Model,
};

/// What models are run over where the person gives no text.
pub const TEXT: &str = "This program is free software; you can redistribute it and/or modify it. Building a \
website can be done in 10 simple steps: first choose a name, then write down what people will find there, \
who they are, and how they will come back to it.";
/// Tokens of it.
pub const TOKENS: usize = 64;
/// Mean divergence, in nats, of the same weights in another type: K-quants have sums of their own.
const DECODED: f64 = 1e-8;
/// Mean divergence, in nats, that rounded scales stay below.
const ROUNDED: f64 = 0.01;

/// What is asked of a new file before it gets its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// That it opens, and is what was planned.
    #[default]
    Header,
    /// That it also writes what its source writes, as far as its types allow.
    Text,
}

/// What looks at each file that is made of `model` and gives its verdict, if one was asked for.
///
/// # Errors
/// Those of [`prove`], from what is returned.
pub fn proof(
    model: &Model,
    asked: Proof,
    progress: &dyn Progress,
) -> impl Fn(&Plan, Model) -> Result<Option<String>> {
    move |plan, written| match asked {
        Proof::Header => Ok(None),
        Proof::Text => prove(model, plan, &written, progress).map(Some),
    }
}

/// Runs `model` and the file written by `plan` over a text; returns the verdict. `progress` hears of the bytes read.
///
/// | the gravest loss of the plan | mean divergence that is explained, in nats |
/// |---|---|
/// | none | 0; 1e-8 where weights were decoded or summed |
/// | scales were rounded | 0.01 |
/// | weights were encoded | what the coarsest new type explains |
///
/// # Errors
/// [`Error::Refused`] where the outputs differ more than the plan's losses explain; where either model
/// cannot be run or returns NaN.
pub fn prove(
    model: &Model,
    plan: &Plan,
    written: &Model,
    progress: &dyn Progress,
) -> Result<String> {
    let tokenizer = Tokenizer::of(written)?;
    let text = tokenizer.sample(TEXT);
    let found = outputs::compare(
        &running(model, plan),
        written,
        &text,
        TOKENS,
        Precision::Exact,
        progress,
    )?;
    let said = words(&found);
    let most = match plan.steps.iter().map(Step::loss).max().unwrap_or(Loss::Exact) {
        Loss::Exact if found.identical == found.positions => return Ok(format!("proved: {said}")),
        Loss::Exact if plan.steps.iter().any(|s| matches!(s.act, Act::Recode { .. })) => DECODED,
        // A vector meets the two matrices of an adapter one after the other.
        Loss::Exact if model.tensors.iter().any(|t| t.sum.is_some()) => DECODED,
        Loss::Exact => 0.0,
        Loss::Rounded => ROUNDED,
        Loss::Recoded => explained(plan, tokenizer.len()),
    };
    if found.apart() <= most {
        return Ok(format!("proved: {said}"));
    }
    Err(Error::refused(
        format!(
            "{}: the proof failed: {said}; at most {most:.2e} is explained",
            plan.output.display()
        ),
        "no file was kept; if the source is sound, please report this",
    ))
}

/// The source as it can be run: what it never stored is what the plan assumed.
pub fn running(model: &Model, plan: &Plan) -> Model {
    let mut model = model.clone();
    if !plan.metadata.is_empty() {
        model.metadata = plan.metadata.clone();
    }
    model
}

/// The mean divergence, in nats, that the coarsest new type of `plan` explains: errors halve with every
/// bit and divergence goes with their square. The models of `golden/` diverge by 10 to 110 times
/// `4^-bits`; five times as much is no rounding. A model that knows nothing diverges by at most the
/// logarithm of the vocabulary, and whatever diverges more says less than nothing.
///
/// ```text
/// explained = min(512 * 4^-bits, ln(tokens))      bits: of the coarsest type that anything is encoded in
/// ```
fn explained(plan: &Plan, vocab: usize) -> f64 {
    // Of floats the bits of the mantissa, its hidden one with them, and no others: the exponent costs no precision.
    let bits = |step: &Step| match step.quant.name() {
        "f16" => 11.0,
        "bf16" => 8.0,
        _ => 8.0 * step.bytes() as f64 / step.shape.iter().product::<u64>().max(1) as f64,
    };
    let recoded = plan.steps.iter().filter(|step| step.loss() == Loss::Recoded);
    let coarsest = recoded.map(bits).fold(f64::INFINITY, f64::min);
    (512.0 * 4f64.powf(-coarsest)).min((vocab.max(1) as f64).ln())
}

/// The outputs in words, with both perplexities where they differ.
fn words(found: &Outputs) -> String {
    match found.cosine {
        None if found.identical < found.positions => format!(
            "{}, perplexity {:.3} -> {:.3}",
            found.words(),
            found.first.value,
            found.second.value
        ),
        _ => found.words(),
    }
}
