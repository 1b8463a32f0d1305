//! A file whose bytes stand for two models, which it cannot tell apart: it is run as either.
//!
//! The same weights with their rows in another order, or added up otherwise, are no model: what they say of a text
//! costs them far more.

use std::path::Path;

use crate::{
    bytes::Input,
    container::{self, OpenOptions, detect::Verdict},
    error::{Error, Result},
    infer::{Precision, Tokenizer, outputs},
    model::Model,
};

/// What every model has read often, so that it costs the right reading little: sentences of Apache's and GNU's licences.
const TEXT: &str = "You may reproduce and distribute copies of the Work or Derivative Works thereof in any medium, with \
or without modifications, and in Source or Object form, provided that You meet the following conditions. You may copy \
and distribute verbatim copies of the Program's source code as you receive it, in any medium, provided that you \
conspicuously and appropriately publish on each copy an appropriate copyright notice and disclaimer of warranty.";
/// Tokens of it.
const TOKENS: usize = 128;
/// How many times as much a text has to cost in the other reading for the weights to speak.
const CLEARLY: f64 = 1.5;

/// Why the file at `path` could not be opened; where it may be of two formats, with what the runner says of either.
pub fn told(path: &Path, options: &OpenOptions, error: Error) -> Error {
    let Error::Unknown { file, mut looks, next } = error else { return error };
    if let Ok(Some(said)) = of_file(path, options) {
        looks = format!("{looks}; {said}");
    }
    Error::Unknown { file, looks, next }
}

/// What the runner says of the file at `path` where it may be of two formats; none where there are not two.
///
/// # Errors
/// Where it cannot be read, or not be run.
pub fn of_file(path: &Path, options: &OpenOptions) -> Result<Option<String>> {
    let detected = container::detect(&Input::open(path)?, options)?;
    let Verdict::Either(formats, _) = detected.verdict else { return Ok(None) };
    let [one, two] = formats.as_slice() else { return Ok(None) };
    let read = |id: &str| {
        let options = OpenOptions { format: Some(id.to_owned()), ..options.clone() };
        container::open(path, &options)
    };
    let (one, two) = (read(one.id())?, read(two.id())?);
    let text = Tokenizer::of(&one)?.sample(TEXT);
    said(&one, &two, &text).map(Some)
}

/// What `text` costs in two readings of one file, and which of them that bears out.
///
/// # Errors
/// Where it cannot be run.
pub fn said(one: &Model, two: &Model, text: &str) -> Result<String> {
    let found = outputs::compare(one, two, text, TOKENS, Precision::Exact, &())?;
    // Whoever guesses among all tokens does as well as this.
    let guess = Tokenizer::of(one)?.len() as f64;
    let costs = [(&one.format, found.first.value), (&two.format, found.second.value)];
    let [(first, a), (second, b)] = costs;
    let knows = |own: f64, other: f64| own * CLEARLY < other && own * CLEARLY < guess;
    let better = match (knows(a, b), knows(b, a)) {
        (true, _) => format!("the weights bear out {first}"),
        (_, true) => format!("the weights bear out {second}"),
        _ => "which does not tell".to_owned(),
    };
    Ok(format!("run as {first} it has a perplexity of {a:.3}, as {second} {b:.3}: {better}"))
}
