//! Raw weights to GGUF against a plain copy of the same file, both warm.
//!
//! The checkpoint is one layer of Meta's LLaMA with a large vocabulary in a `.pth` archive of f16
//! weights; `REGGUF_BENCH_MB` sets its size.

use std::{fs, path::Path};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use regguf::{
    Existing,
    change::{self, convert},
    checkpoint,
};
use zip::CompressionMethod::Stored;

#[path = "../checkpoint/torch.rs"]
mod torch;

const WIDTH: usize = 1024;
const PARAMS: &str =
    r#"{"dim": 1024, "n_layers": 1, "n_heads": 8, "norm_eps": 1e-6, "vocab_size": -1}"#;

/// Writes the checkpoint into `folder`.
fn checkpoint(folder: &Path, bytes: usize) {
    let vocab = bytes / 4 / WIDTH;
    let matrix = [WIDTH, WIDTH];
    let layer = |name: &str| format!("layers.0.{name}.weight");
    let mut tensors = vec![
        ("tok_embeddings.weight".to_owned(), vec![vocab, WIDTH]),
        ("norm.weight".to_owned(), vec![WIDTH]),
        ("output.weight".to_owned(), vec![vocab, WIDTH]),
        (layer("attention_norm"), vec![WIDTH]),
        (layer("ffn_norm"), vec![WIDTH]),
    ];
    for name in ["attention.wq", "attention.wk", "attention.wv", "attention.wo"] {
        tensors.push((layer(name), matrix.to_vec()));
    }
    for name in ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"] {
        tensors.push((layer(name), matrix.to_vec()));
    }
    let views: Vec<_> = tensors
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| torch::View::whole(name, "HalfStorage", &i.to_string(), shape))
        .collect();
    let keys: Vec<String> = (0..views.len()).map(|i| i.to_string()).collect();
    let weights = vec![0x3c; 2 * vocab.max(WIDTH) * WIDTH];
    let storages: Vec<_> = keys
        .iter()
        .zip(&views)
        .map(|(key, view)| (key.as_str(), &weights[..2 * view.elements]))
        .collect();
    let file = torch::archive(&torch::state_dict(&views, false), &storages, Stored);
    fs::write(folder.join("consolidated.00.pth"), file).unwrap();
    fs::write(folder.join("params.json"), PARAMS).unwrap();
}

fn benchmark(c: &mut Criterion) {
    let megabytes: usize =
        std::env::var("REGGUF_BENCH_MB").ok().and_then(|v| v.parse().ok()).unwrap_or(64);
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path(), megabytes << 20);
    let input = folder.path().join("consolidated.00.pth");
    let output = folder.path().join("out");
    let mut group = c.benchmark_group("pth");
    group.sample_size(10).throughput(Throughput::Bytes(fs::metadata(&input).unwrap().len()));
    group.bench_function("copy", |b| b.iter(|| fs::copy(&input, &output).unwrap()));
    group.bench_function("convert", |b| {
        b.iter(|| {
            let model = checkpoint::open(&input, &checkpoint::Options::default()).unwrap();
            let options = convert::Options {
                types: vec!["f16".to_owned()],
                output: Some(output.clone()),
                ..convert::Options::default()
            };
            let (model, plans) = convert::plan(model, &options).unwrap();
            change::carry(&model, &plans, Existing::Replace, &()).unwrap()
        });
    });
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
