//! Every file that the original programs wrote is read as its manifest, an independent reader or those programs say: one
//! test a file, named after it. Of a file with several cases each case is a test.

mod blocks;
mod checkpoints;
mod converted;
mod facts;
mod families;
mod folders;
mod imatrix;
mod packed;
mod tokenizers;

use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};
use regguf::model::{FeedForward, Naming, Role, Sizes};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn main() {
    let arguments = Arguments::from_args();
    let manifest = std::fs::read(golden().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let text = |file: &serde_json::Value, key: &str| file[key].as_str().unwrap().to_owned();
    let mut tests = Vec::new();
    for file in manifest["files"].as_array().unwrap() {
        let (path, era, kind) = (text(file, "path"), text(file, "era"), text(file, "ftype"));
        // Importance matrices are no models.
        if !path.ends_with(".dat") {
            tests.push(Trial::test(path.clone(), move || opens(&path, &era, &kind)));
        }
    }
    assert!(tests.len() > 100, "{} files", tests.len());
    tests.extend(families::all().chain(blocks::all()).chain(converted::all()));
    tests.extend(folders::all().chain(imatrix::all()).chain(tokenizers::all()));
    libtest_mimic::run(&arguments, tests).exit();
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

/// The format, the family and the vocabulary are those of the program; the shapes are those of the family.
fn opens(path: &str, era: &str, kind: &str) -> Result<(), Failed> {
    let model = regguf::open(golden().join(path))?;
    assert_eq!(model.format, format_of(era, path, kind));
    assert_eq!((model.family.as_str(), model.vocab.len()), ("llama", 512));
    let llama = regguf::format::catalog::family("llama").unwrap();
    let sizes = Sizes::of(&model);
    for tensor in &model.tensors {
        let (_, role) = Role::find(llama, &tensor.name).unwrap();
        assert_eq!(role.shape(&sizes).as_ref(), Some(&tensor.shape), "{}", tensor.name);
    }
    let naming = if path.ends_with(".gguf") { Naming::Gguf } else { Naming::Old };
    if !model.tensors.is_empty() {
        let all = Role::all(llama, 2, FeedForward::Dense)
            .filter(|role| model.tensor(&role.name(naming).unwrap()).is_some());
        assert_eq!((all.count(), model.tensors.len()), (21, 21));
    }
    Ok(())
}
