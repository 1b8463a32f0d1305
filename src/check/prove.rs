//! The proof of a finished file: its source and it are run over one text and must say the same, as far
//! as the plan promised.

use std::path::Path;

use crate::{
    change::{Loss, Plan, Step},
    container::{self, OpenOptions},
    error::{Error, Result},
    infer::{Outputs, outputs},
    model::Model,
};

/// What models are run over where the person gives no text.
pub const TEXT: &str = "This program is free software; you can redistribute it and/or modify it. Building a \
website can be done in 10 simple steps: first choose a name, then write down what people will find there, \
who they are, and how they will come back to it.";
/// Tokens of it.
pub const TOKENS: usize = 64;
/// Mean divergence, in nats, that rounded scales stay below.
const ROUNDED: f64 = 0.01;
/// Mean divergence beyond which a re-encoded model is another model.
const RECODED: f64 = 2.0;

/// Runs `model` and the file written by `plan` over a text; answers the verdict.
///
/// # Errors
/// [`Error::Refused`] where the outputs differ more than the plan's losses explain; where either model
/// cannot be run.
pub fn prove(model: &Model, plan: &Plan, written: &Path) -> Result<String> {
    let options =
        OpenOptions { format: Some(plan.target.id().to_owned()), ..OpenOptions::default() };
    let new = container::open(written, &options)?;
    let found = outputs::compare(&running(model, plan), &new, TEXT, TOKENS)?;
    let worst = plan.steps.iter().map(Step::loss).max().unwrap_or(Loss::Exact);
    let holds = match worst {
        Loss::Exact => found.identical == found.positions,
        Loss::Rounded => found.kl_mean <= ROUNDED,
        Loss::Recoded => found.kl_mean <= RECODED,
    };
    let said = words(&found);
    if holds {
        return Ok(said);
    }
    Err(Error::refused(
        format!("{}: the proof failed: {said}", plan.output.display()),
        "the file was not kept; please report this",
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

fn words(found: &Outputs) -> String {
    let n = found.positions;
    if found.identical == n {
        return format!("proved: identical outputs on {n} positions");
    }
    format!(
        "proved: same likeliest token on {:.1} % of {n} positions, mean KL divergence {:.2e}, perplexity {:.3} -> {:.3}",
        found.same_top * 100.0,
        found.kl_mean,
        found.first.value,
        found.second.value
    )
}
