//! Every file that the original programs wrote opens as its manifest says.

use std::path::{Path, PathBuf};

use regguf::{
    container::{self, OpenOptions},
    model::{Model, Naming, Role, Sizes},
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

struct Original {
    path: String,
    era: String,
    ftype: String,
    model: Model,
}

fn originals() -> Vec<Original> {
    let manifest = std::fs::read(golden().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let text = |file: &serde_json::Value, key: &str| file[key].as_str().unwrap().to_owned();
    let mut out = Vec::new();
    let mut failures = Vec::new();
    for file in manifest["files"].as_array().unwrap() {
        let path = text(file, "path");
        if path.ends_with(".dat") {
            continue;
        }
        match container::open(&golden().join(&path), &OpenOptions::default()) {
            Ok(model) => {
                let (era, ftype) = (text(file, "era"), text(file, "ftype"));
                out.push(Original { path, era, ftype, model });
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    out
}

/// The format that an era's programs wrote.
fn format_of(era: &str, path: &str, ftype: &str) -> &'static str {
    let planar = matches!((era, ftype), ("E1", "q4_0" | "q4_1") | ("E2a" | "E2a-2part", "q4_1"));
    match era {
        _ if planar => "ggml-llama-planar",
        "E1" | "E2" | "E2a" | "E2-2part" | "E2a-2part" => "ggml-llama",
        "E3" | "E3-2part" => "ggmf-v1-llama",
        "E4q80" if ftype == "q8_0" => "ggjt-v1-llama-q8-day",
        "E4" | "E4b" | "E4q42" | "E4q42b" | "E4q43" | "E4q80" => "ggjt-v1-llama",
        // convert.py wrote version 1 in every era.
        "E5" | "E6" | "E6k" | "E6l" if matches!(ftype, "f16" | "f32") => "ggjt-v1-llama",
        "E5" => "ggjt-v2-llama",
        "E6" | "E6k" | "E6l" => "ggjt-v3-llama",
        "E6l-q64" => "ggjt-v3-llama-super-64",
        "E7" => "gguf-v1",
        "E7-q64" => "gguf-v1-super-64",
        "E8" => "gguf-v2",
        _ if path.contains("big-endian") => "gguf-v3-be",
        _ => "gguf-v3",
    }
}

#[test]
fn every_original_is_what_its_manifest_says() {
    for Original { path, era, ftype, model } in originals() {
        assert_eq!(model.format, format_of(&era, &path, &ftype), "{path}");
        assert_eq!(model.family, "llama", "{path}");
        assert_eq!(model.vocab.len(), 512, "{path}");
    }
}

#[test]
fn every_original_has_the_shapes_of_its_family() {
    let llama = regguf::format::catalog::family("llama").unwrap();
    for Original { path, model, .. } in originals() {
        let sizes = Sizes::of(&model);
        for tensor in &model.tensors {
            let (_, role) = Role::find(llama, &tensor.name).unwrap();
            assert_eq!(role.shape(&sizes).as_ref(), Some(&tensor.shape), "{path}: {}", tensor.name);
        }
        let naming = if path.ends_with(".gguf") { Naming::Gguf } else { Naming::Old };
        if !model.tensors.is_empty() {
            let all = Role::all(llama, 2, false)
                .filter(|r| model.tensor(&r.name(naming).unwrap()).is_some());
            assert_eq!(all.count(), model.tensors.len(), "{path}");
            assert_eq!(model.tensors.len(), 21, "{path}");
        }
    }
}
