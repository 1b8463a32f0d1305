//! Today's families, each a description, against logits of transformers on the same numbers:
//! golden/families/today, of which golden/README.md says how they were made.

use std::{fs, path::Path};

use regguf::{
    container,
    infer::{Sampler, Sampling, Session, Want, Weights},
    model::Model,
};
use serde_json::Value as Json;

use super::gguf::{self, Tensor, Value};
use super::golden::numbers;

/// What is known of each family: name, and the file of golden/families/today.
fn known() -> Vec<(String, Json)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families/today");
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&fs::read(&path).unwrap()).unwrap())
    };
    let all: Vec<_> = fs::read_dir(folder).unwrap().map(of).collect();
    assert!(all.len() >= 8, "{} families", all.len());
    all
}

fn tensors(known: &Json) -> Vec<Tensor> {
    let of = |entry: &Json| {
        let name = entry[0].as_str().unwrap();
        let sizes = entry[1].as_array().unwrap().iter();
        let shape: Vec<usize> = sizes.map(|v| v.as_u64().unwrap() as usize).collect();
        let around = f32::from(u8::from(shape.len() == 1 && name.ends_with("weight")));
        (name.to_owned(), shape.clone(), numbers(name, shape.iter().product(), around))
    };
    known["tensors"].as_array().unwrap().iter().map(of).collect()
}

fn model(known: &Json, tensors: &[Tensor]) -> Model {
    let architecture = Value::Text(known["architecture"].as_str().unwrap().to_owned());
    let mut keys = vec![("general.architecture".to_owned(), architecture)];
    for (key, value) in known["keys"].as_object().unwrap() {
        let value = match value {
            Json::Bool(flag) => Value::Flag(*flag),
            value if value.is_u64() => Value::Size(value.as_u64().unwrap() as u32),
            value => Value::Number(value.as_f64().unwrap() as f32),
        };
        keys.push((key.clone(), value));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("today.gguf");
    fs::write(&path, gguf::bytes(&keys, tensors)).unwrap();
    container::open(&path, &Default::default()).unwrap()
}

#[test]
fn logits_are_those_of_transformers() {
    for (name, known) in known() {
        let weights = Weights::new(&model(&known, &tensors(&known)));
        let weights = weights.unwrap_or_else(|error| panic!("{name}: {error}"));
        let tokens: Vec<u32> = serde_json::from_value(known["tokens"].clone()).unwrap();
        let argmax: Vec<u32> = serde_json::from_value(known["argmax"].clone()).unwrap();
        let expected: [Vec<f32>; 2] = serde_json::from_value(known["logits"].clone()).unwrap();
        let mut at = 0;
        let compare = |i: usize, found: &[f32]| {
            assert_eq!(Sampler::new(Sampling::GREEDY).choose(found), argmax[i], "{name}: {i}");
            let expected = match i {
                0 => &expected[0],
                i if i + 1 == tokens.len() => &expected[1],
                _ => return,
            };
            at += 1;
            assert_eq!(found.len(), expected.len(), "{name}");
            let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
            let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            println!("{name}: {:.1e} of the largest logit", apart / largest);
            assert!(apart <= 1e-5 * largest, "{name}: {apart} apart, largest {largest}");
        };
        Session::new(&weights, tokens.len()).read(&tokens, Want::All, compare).unwrap();
        assert_eq!(at, 2, "{name}");
    }
}

/// A tensor that the family does not describe would be left out of what is computed.
#[test]
fn what_is_not_described_is_not_left_out() {
    let (_, known) = known().into_iter().find(|(name, _)| name == "qwen2").unwrap();
    let mut more = tensors(&known);
    more.push(("blk.1.attn_q_norm.weight".to_owned(), vec![8], vec![1.0; 8]));
    let error = Weights::new(&model(&known, &more)).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("blk.1.attn_q_norm.weight: "), "{error}");
    assert_eq!(error.exit_code(), 4);
}
