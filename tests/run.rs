//! The runner against the programs and the independent float32 pass of golden/README.md.
//!
//! `REGGUF_GOLDEN` may name a larger folder of the same kind (with model S and all eras).

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use regguf::{
    container::{self, OpenOptions},
    infer::{Sampler, Sampling, Session, Special, Tokenizer, Want, Weights},
    model::Model,
};
use serde_json::Value as Json;

fn golden() -> PathBuf {
    env::var_os("REGGUF_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), PathBuf::from)
}

fn json(path: &Path) -> Json {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

fn numbers(json: &Json) -> Vec<f32> {
    json.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap()
}

/// The manifest's files that are here and can be run: path, entry.
fn files() -> Vec<(PathBuf, Json)> {
    let manifest = ["manifest.json", "MANIFEST.json"].map(|name| golden().join(name));
    let manifest = json(manifest.iter().find(|path| path.exists()).expect("a manifest"));
    let entries = manifest["files"].as_array().unwrap().clone();
    let path = |entry: &Json| golden().join(entry["path"].as_str().unwrap());
    entries.into_iter().map(|e| (path(&e), e)).filter(|(path, _)| path.exists()).collect()
}

/// The epsilon that the model was made with, which no file before GGUF says.
fn with_epsilon(mut model: Model, path: &Path) -> Model {
    let made_with = if path.starts_with(golden().join("T")) { 1e-6f32 } else { 1e-5 };
    model.metadata.set("llama.attention.layer_norm_rms_epsilon", made_with);
    model
}

fn argmax(logits: &[f32]) -> u32 {
    Sampler::new(Sampling::GREEDY).choose(logits)
}

#[test]
fn logits_equal_an_independent_float32_pass() {
    let mut compared = 0;
    for (path, entry) in files() {
        // Files of both kinds hold the numbers of a half-precision checkpoint.
        let how = entry["how"].as_str().unwrap_or_default();
        let Some("f16" | "f32") = entry["ftype"].as_str() else { continue };
        let model = path.strip_prefix(golden()).unwrap().iter().next().unwrap();
        let reference = json(&golden().join(model).join("reference_logits.json"));
        let name = path.display().to_string();
        let model = with_epsilon(open(&path), &path);
        if model.tensors.is_empty() {
            continue;
        }
        let ids: Vec<u32> = reference["prompt_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_u64().unwrap() as u32)
            .collect();
        let tokenizer = Tokenizer::new(&model.vocab).unwrap();
        let text = reference["prompt_text"].as_str().unwrap();
        // The prompt was cut to its first tokens.
        assert_eq!(tokenizer.encode_whole(text, Special::Text)[..ids.len()], ids, "{name}");
        // No reference describes halves made from other checkpoints.
        if how.contains("bf16") || how.contains("meta-f32") {
            continue;
        }
        // Converters had faults: they scrambled the keys of models with fewer key heads (July to September 2023),
        // today's converter of old files reads the widths of halves wrong, and that of February 2025
        // left halves as they were when it wrote big-endian files.
        let scrambled = ["G/E6l", "G/E7/ggml-model-f16.from-hf", "big-endian-native"];
        if scrambled.iter().any(|part| name.contains(part))
            || how.contains("convert_llama_ggml_to_gguf")
        {
            continue;
        }
        let reference = &reference["results"]["f16"];
        let weights = Weights::new(&model).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut argmaxes = Vec::new();
        let mut last = Vec::new();
        Session::new(&weights, 64)
            .read(&ids, Want::All, |_, logits| {
                argmaxes.push(argmax(logits) as f32);
                last = logits.to_vec();
            })
            .unwrap();
        assert_eq!(argmaxes, numbers(&reference["argmax_per_position"]), "{name}");
        let expected = numbers(&reference["last_logits"]);
        let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
        let apart = last.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{name}: {:.1e} of the largest logit", apart / largest);
        assert!(apart <= 1e-4 * largest, "{name}: {apart} apart, largest {largest}");
        compared += 1;
    }
    assert!(compared >= 8, "{compared} files");
}

/// A converter of February 2025 left halves as they were when it wrote big-endian files: some scales are NaN.
#[test]
fn a_model_that_returns_no_number_says_nothing() {
    let model = open(&golden().join("T/E10/model-q8_0.big-endian.gguf"));
    let weights = Weights::new(&model).unwrap();
    let mut said = 0;
    let read = Session::new(&weights, 8).read(&[1, 2, 3], Want::All, |_, _| said += 1);
    let error = read.unwrap_err().to_string();
    assert!(error.contains("model-q8_0.big-endian.gguf returns NaN") && said == 0, "{error}");
}

/// Each era's own program printed this text. Where ours parts from it, the two tokens must have been
/// nearly as likely: the eras computed with quantized activations.
#[test]
fn greedy_text_is_that_of_each_era() {
    let (mut same, mut near, mut far) = (0, 0, Vec::new());
    for (path, entry) in files() {
        let name = entry["path"].as_str().unwrap();
        let era = entry["era"].as_str().unwrap_or_default();
        let Some(expected) = entry["greedy"].as_str() else { continue };
        // The programs of these days computed LayerNorm where the model has RMS norm.
        if ["E1", "E2a", "E2a-2part"].contains(&era) {
            continue;
        }
        let model = with_epsilon(open(&path), &path);
        let weights = Weights::new(&model).unwrap();
        let tokenizer = Tokenizer::new(&model.vocab).unwrap();
        let prompt = "This program is free software";
        let mut session = Session::new(&weights, 128);
        let mut tokens = tokenizer.encode_whole(prompt, Special::Text);
        let (mut decoder, mut said) = (tokenizer.decoder(), String::new());
        let mut expected = expected.trim_start();
        for token in &tokens {
            said += &decoder.push(&tokenizer, *token);
        }
        expected = expected.strip_prefix(&said).unwrap_or_else(|| panic!("{name}: {expected}"));
        // A token of ours may be the beginning of a longer one of theirs: then they part one step before.
        let mut before: Option<(f32, Vec<f32>, &str)> = None;
        for _ in 0..32 {
            let mut after = Vec::new();
            session.read(&tokens, Want::Last, |_, logits| after = logits.to_vec()).unwrap();
            let token = argmax(&after);
            if tokenizer.ends(token) || expected.is_empty() {
                break;
            }
            let piece = decoder.push(&tokenizer, token);
            match expected.strip_prefix(piece.as_str()) {
                Some(rest) => {
                    before = Some((after[token as usize], after, expected));
                    expected = rest;
                }
                None => {
                    let gap = |best: f32, logits: &[f32], text: &str, longer: usize| {
                        let fits = |t: &u32| {
                            let piece = tokenizer.piece(*t);
                            piece.len() > longer && text.as_bytes().starts_with(piece)
                        };
                        let theirs = (0..tokenizer.len() as u32).filter(fits);
                        theirs.map(|t| best - logits[t as usize]).min_by(f32::total_cmp)
                    };
                    let here = gap(after[token as usize], &after, expected, 0);
                    let earlier = before.as_ref().and_then(|(best, logits, text)| {
                        gap(*best, logits, text, text.len() - expected.len())
                    });
                    let gap = here.into_iter().chain(earlier).min_by(f32::total_cmp);
                    println!("{name}: ours {piece:?}, theirs {expected:?}, gap {gap:?}");
                    // The program of E3 parts by 3.1 with Q4_0, alone. Its vectors have 4 bits there: built
                    // with f32 vectors and no other change, it writes our text.
                    let alone = ["E3", "E3-2part"].contains(&era) && name.contains("q4_0");
                    if gap.is_none_or(|gap| gap >= if alone { 4.0 } else { 1.0 }) {
                        far.push(name.to_owned());
                    }
                    near += 1;
                    expected = "";
                    break;
                }
            }
            tokens = vec![token];
        }
        assert!(expected.trim().is_empty(), "{name}: still {expected:?}");
        same += 1;
    }
    println!("{same} files, {near} of them part at a near-tie");
    assert!(far.is_empty(), "{far:?}");
    assert!(same >= 40 && near * 4 < same, "{same} files, {near} near-ties");
}

#[test]
fn batch_and_threads_change_nothing() {
    let path = golden().join("G/E7/ggml-model-q4_0.gguf");
    let model = open(&path);
    let weights = Weights::new(&model).unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 500 + 1).collect();
    let all = |threads: usize, batch: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut session = Session::new(&weights, 64);
            let mut bits = Vec::new();
            for tokens in tokens.chunks(batch) {
                let take = |_, logits: &[f32]| bits.extend(logits.iter().map(|v| v.to_bits()));
                session.read(tokens, Want::All, take).unwrap();
            }
            bits
        })
    };
    let expected = all(1, 40);
    assert!(all(3, 40) == expected);
    assert!(all(2, 1) == expected);
    assert!(all(1, 7) == expected);
}
