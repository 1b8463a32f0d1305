//! `--activations q8`: what llama.cpp computes, to the seventh digit.
//!
//! The expectations are llama.cpp's own: its library of llama-cpp-python 0.3.36 on x86-64 with AVX2, repacked
//! weights and flash attention off, keys and values in float32, over the same windows. They are of four tokens, for
//! what two programs round to another integer grows from there on.

use std::path::Path;

use regguf::{
    container::{OpenOptions, open},
    infer::{Precision, Tokenizer, Weights, perplexity::perplexity},
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
