//! `--activations q8`: what llama.cpp computes, to the seventh digit.
//!
//! The expectations are llama.cpp's own: its library of llama-cpp-python 0.3.36 on x86-64 with AVX2, repacked
//! weights and flash attention off, keys and values in float32, over the same windows. They are of four tokens, for
//! what two programs round to another integer grows from there on.

use std::path::Path;

use regguf::{
    container::{OpenOptions, open},
    infer::{Precision, Session, Tokenizer, Want, Weights, perplexity::perplexity},
};

/// File of golden/T, and llama.cpp's perplexity of [`TEXT`].
const LLAMA_CPP: [(&str, f64); 12] = [
    ("E10/model-BF16.gguf", 77.455523),
    ("E10/model-IQ4_NL.gguf", 63.492163),
    ("E10/model-Q4_0.gguf", 83.662761),
    ("E10/model-Q4_1.gguf", 66.709741),
    ("E10/model-Q4_K_M.gguf", 69.103413),
    ("E10/model-Q5_0.gguf", 75.993467),
    ("E10/model-Q5_1.gguf", 79.361198),
    ("E10/model-Q8_0.gguf", 77.044999),
    ("E10/model-f16.convert-hf.gguf", 77.074185),
    ("E9/ggml-model-q2_K.gguf", 68.3735),
    ("E8/ggml-model-q4_0.gguf", 83.662761),
    ("E8/ggml-model-q5_1.gguf", 79.361198),
];
const TEXT: &str = "Building a website can be done in ten steps. ";

fn costs(name: &str, precision: Precision) -> f64 {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T").join(name);
    let model = open(&path, &OpenOptions::default()).unwrap();
    let weights = Weights::computed(&model, precision).unwrap();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let tokens = tokenizer.read(&TEXT.repeat(6)).unwrap();
    let bos = tokenizer.leading_bos();
    perplexity(&weights, &tokens, 4, bos, 8, |_| Ok(())).unwrap().value
}

#[test]
fn rounded_activations_give_what_llama_cpp_computes() {
    for (name, expected) in LLAMA_CPP {
        let (rounded, exact) = (costs(name, Precision::Rounded), costs(name, Precision::Exact));
        assert!((rounded / expected - 1.0).abs() < 1e-6, "{name}: {rounded}, not {expected}");
        // Else nothing would have been shown.
        assert!((exact / expected - 1.0).abs() > 1e-4, "{name}: {exact} without rounding");
    }
}

/// File of golden/families, all with GELU, which llama.cpp looks up in a table of halves; and its mean cost, in nats,
/// of [`IDS`] after the first, from the same library.
const WITH_GELU: [(&str, f64); 9] = [
    ("bloom.gguf", 11.371950935),
    ("falcon-grouped.gguf", 13.443681694),
    ("falcon-one-key.gguf", 14.365768802),
    ("gpt2.gguf", 12.622483246),
    ("gptneox-sequential.gguf", 10.929373527),
    ("gptneox.gguf", 11.411215675),
    ("mpt.gguf", 12.269856811),
    ("replit.gguf", 9.652786839),
    ("starcoder.gguf", 12.854666205),
];
const IDS: [u32; 4] = [1, 17, 45, 60];

fn mean_cost(name: &str, precision: Precision) -> f64 {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(name);
    let model = open(&path, &OpenOptions::default()).unwrap();
    let weights = Weights::computed(&model, precision).unwrap();
    let (mut session, mut costs) = (Session::new(&weights, 64), Vec::new());
    let take = |i: usize, logits: &[f32]| {
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        costs.extend(IDS.get(i + 1).map(|id| sum.ln() - f64::from(logits[*id as usize])));
    };
    session.read(&IDS, Want::All, take).unwrap();
    costs.iter().sum::<f64>() / costs.len() as f64
}

#[test]
fn rounded_activations_look_gelu_up_as_llama_cpp_does() {
    for (name, expected) in WITH_GELU {
        let [rounded, exact] =
            [Precision::Rounded, Precision::Exact].map(|precision| mean_cost(name, precision));
        assert!((rounded / expected - 1.0).abs() < 1e-7, "{name}: {rounded}, not {expected}");
        assert!((exact / expected - 1.0).abs() > 1e-6, "{name}: {exact} without rounding");
    }
}
