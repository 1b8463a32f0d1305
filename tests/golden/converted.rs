//! Checkpoints of many families, converted as llama.cpp's converter does it, and run as transformers runs them.

use std::fs;

use libtest_mimic::{Failed, Trial};
use regguf::{
    container,
    infer::{Sampler, Sampling, Session, Want, Weights},
    model::Model,
};
use serde_json::Value as Json;

use super::checkpoints::{compare, converted, known, numbers, write};

/// A test for each.
pub fn all() -> impl Iterator<Item = Trial> {
    known().into_iter().map(|(name, known)| {
        let title = format!("families/checkpoints/{name}");
        Trial::test(title, move || becomes_and_says(&name, &known))
    })
}

/// The file is the converter's, the logits are those of transformers.
fn becomes_and_says(name: &str, known: &Json) -> Result<(), Failed> {
    let above = tempfile::tempdir()?;
    // Models without a name are called after their folder.
    let folder = above.path().join(name);
    fs::create_dir(&folder)?;
    write(known, &folder);
    let model = container::open(&converted(&folder), &Default::default())?;
    let mut wrong = Vec::new();
    compare(name, known, &model, &mut wrong);
    speaks(name, known, &model, &mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Whether the logits are those of transformers.
fn speaks(name: &str, known: &Json, model: &Model, wrong: &mut Vec<String>) {
    let weights = Weights::new(model).unwrap_or_else(|error| panic!("{name}: {error}"));
    let tokens: Vec<u32> = match known["tokens"].as_u64() {
        // A long text is made as weights are.
        Some(count) => {
            let token = |number: &f32| ((number + 0.5) * weights.config.vocab as f32) as u32;
            numbers("tokens", count as usize, 0.0).iter().map(token).collect()
        }
        None => serde_json::from_value(known["tokens"].clone()).unwrap(),
    };
    // Of a long text those after the last tokens.
    let argmax: Vec<u32> = serde_json::from_value(known["argmax"].clone()).unwrap();
    let first = tokens.len() - argmax.len();
    let expected: [Vec<f32>; 2] = serde_json::from_value(known["logits"].clone()).unwrap();
    // Transformers turns by angles in float32, which far from the beginning are off by as much.
    let bound = if known["tokens"].is_u64() { 1e-4 } else { 1e-5 };
    let mut compared = 0;
    let mut compare = |i: usize, found: &[f32]| {
        if i >= first && Sampler::new(Sampling::GREEDY).choose(found) != argmax[i - first] {
            wrong.push(format!("{name}: another token after {i}"));
        }
        let expected = match i {
            0 => &expected[0],
            i if i + 1 == tokens.len() => &expected[1],
            _ => return,
        };
        compared += 1;
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
        let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{name}: {:.1e} of the largest logit", apart / largest);
        if apart.is_nan() || apart > bound * largest {
            wrong.push(format!("{name}: {apart} apart, largest {largest}"));
        }
    };
    // Between two other texts, of which one ends earlier and one has nothing to read.
    let mut session = Session::new(&weights, tokens.len()).side_by_side(1);
    let texts = [&tokens[tokens.len() - 1..], &tokens[..], &[]];
    let take = |text: usize, first: usize, logits: &[f32]| {
        let each = logits.chunks(weights.config.vocab);
        (first..).zip(each).filter(|_| text == 1).for_each(|(i, found)| compare(i, found));
    };
    session.read_each(&texts, Want::All, take).unwrap();
    assert_eq!(compared, 2, "{name}");
}
