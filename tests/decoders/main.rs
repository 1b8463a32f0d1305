//! A decoder family that the project does not have, made of choices that it has: one description, no Rust.
//! And today's families against PyTorch: [`today`].

mod checkpoints;
mod gguf;
#[path = "../golden/checkpoints.rs"]
mod golden;
mod mended;
mod model;
mod slow;
mod today;
mod woven;

use model::{Choices, Made};
use regguf::infer::{Session, Want, Weights};

const TOKENS: [u32; 9] = [3, 0, 18, 7, 7, 11, 2, 5, 13];

/// The largest difference between the logits of both after every token, over the largest logit.
fn apart(made: &Made) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.gguf");
    std::fs::write(&path, made.gguf()).unwrap();
    let model = regguf::container::open(&path, &Default::default()).unwrap();
    let weights = Weights::of(&model, made.family(), regguf::infer::Precision::Exact).unwrap();
    let expected = slow::logits(made, &TOKENS);
    let mut session = Session::new(&weights, TOKENS.len());
    let (mut most, mut largest) = (0f64, 0f64);
    let mut compare = |at: usize, found: &[f32]| {
        assert_eq!(found.len(), expected[at].len());
        for (a, b) in found.iter().zip(&expected[at]) {
            most = most.max((f64::from(*a) - b).abs());
            largest = largest.max(b.abs());
        }
    };
    // Some together, the others one by one: the cache holds what the first left.
    session.read(&TOKENS[..5], Want::All, &mut compare).unwrap();
    for (at, token) in TOKENS.iter().enumerate().skip(5) {
        session.read(&[*token], Want::Last, |_, found| compare(at, found)).unwrap();
    }
    most / largest
}

#[test]
fn every_product_of_choices_is_computed_as_described() {
    let activations = ["silu", "gelu_tanh", "gelu_erf", "relu", "relu2"];
    let mut made = 0;
    for norm in ["rms", "layer"] {
        for residual in ["sequential", "parallel", "parallel_of_two", "if_true", "if_false"] {
            for joined in [false, true] {
                for position in ["neighbours", "halves", "learned", "alibi"] {
                    for gated in [false, true] {
                        let activation = activations[made % activations.len()];
                        // These three change with every step, so that each meets every other choice.
                        let (bias, grouped, tied) = (made % 2 == 0, made % 3 == 0, made % 7 == 0);
                        let choices = Choices {
                            norm,
                            residual,
                            joined,
                            position,
                            gated,
                            activation,
                            bias,
                            grouped,
                            tied,
                        };
                        let apart = apart(&Made::new(choices));
                        assert!(apart < 2e-5, "{choices:?}: {apart:.1e} apart");
                        made += 1;
                    }
                }
            }
        }
    }
    assert_eq!(made, 160);
}

#[test]
fn what_no_choice_says_is_refused_by_name() {
    let text = Made::new(Choices::default()).description();
    for (good, bad) in [("\"rms\"", "\"batch\""), ("neighbours", "diagonal"), ("silu", "sine")] {
        let error = regguf::format::family::parse("new", &text.replace(good, bad)).unwrap_err();
        assert!(
            error.contains("unknown variant") && error.contains(bad.trim_matches('"')),
            "{error}"
        );
    }
}
