//! Files of other families than LLaMA, as the original programs wrote them, upgraded: the tensors, tokens and
//! merges that today's converter makes of the checkpoints they come from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    change::{self, Loss, convert, export, quantize, upgrade},
    container::{self, OpenOptions},
    error::Error,
    model::{Model, Stated, Tensor},
    quant::{decode_rows, isa::Isa},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families").join(name)
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn bytes(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(tensor.bytes()).unwrap()];
    model.read_rows(tensor, 0, tensor.rows(), &mut out).unwrap();
    out
}

fn numbers(model: &Model, tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
    let row_len = usize::try_from(tensor.row_len()).unwrap();
    decode_rows(tensor.quant, Isa::best(), &bytes(model, tensor), row_len, &mut out);
    out
}

/// Every old file of a family in golden/.
fn old(family: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for era in fs::read_dir(golden(family)).unwrap() {
        let entries = fs::read_dir(era.unwrap().path()).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.sort();
    files
}

#[test]
fn old_files_become_what_todays_converter_makes() {
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for (family, today) in [("gpt-2", "gpt2.gguf")] {
        let today = open(&golden(today));
        for path in old(family) {
            let at = path.display();
            let era = path.parent().and_then(Path::file_name).unwrap();
            let output = folder.path().join(format!("{}.gguf", era.display()));
            let options = upgrade::Options { output: Some(output.clone()), ..Default::default() };
            let (model, plan) =
                upgrade::plan(open(&path), &options).unwrap_or_else(|e| panic!("{e}"));
            change::carry(&model, std::slice::from_ref(&plan), false, &()).unwrap();
            let new = open(&output);
            assert_eq!(new.vocab.tokens, today.vocab.tokens, "{at}");
            assert_eq!(new.vocab.kinds, today.vocab.kinds, "{at}");
            assert_eq!(new.vocab.merges, today.vocab.merges, "{at}");
            let special = |v: &regguf::model::Vocab| (v.bos, v.eos, v.pre.clone(), v.model.clone());
            assert_eq!(special(&new.vocab), special(&today.vocab), "{at}");
            for (key, value) in today.metadata.iter() {
                let own = key.starts_with(today.metadata.architecture());
                assert!(!own || new.metadata.get(key) == Some(value), "{at}: {key}");
            }
            assert_eq!(new.tensors.len(), today.tensors.len(), "{at}");
            let plain = path.file_stem().unwrap().to_string_lossy().ends_with("f16");
            for tensor in &today.tensors {
                let made =
                    new.tensor(&tensor.name).unwrap_or_else(|| panic!("{at}: {}", tensor.name));
                assert_eq!(made.shape, tensor.shape, "{at}: {}", tensor.name);
                // One converter wrote the positions in halves.
                if plain && made.quant == tensor.quant {
                    assert_eq!(
                        numbers(&new, made),
                        numbers(&today, tensor),
                        "{at}: {}",
                        tensor.name
                    );
                    compared += 1;
                }
            }
            // What was not rounded says what the old file said.
            for (step, made) in plan.steps.iter().zip(&new.tensors) {
                if step.loss() == Loss::Exact {
                    let source = &model.tensors[step.source];
                    assert_eq!(numbers(&model, source), numbers(&new, made), "{at}: {}", step.name);
                }
            }
            let proved = regguf::check::prove::prove(&model, &plan, &new)
                .unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(proved.starts_with("proved"), "{at}: {proved}");
        }
    }
    assert!(compared > 20);
}

#[test]
fn the_other_verbs_take_them_too_or_say_why_not() {
    let model = open(&golden("gpt-2/2023-03-23_ckpt_transposed/ggml-model-f16.bin"));
    let options =
        convert::Options { types: vec!["f16".into(), "q8_0".into()], ..Default::default() };
    assert_eq!(convert::plan(model.clone(), &options).unwrap().1.len(), 2);
    let types = vec![change::ftype::FileType::parse("q4_0").unwrap()];
    let options = quantize::Options { types, ..Default::default() };
    quantize::plan(model.clone(), &options).unwrap();
    let refused = |error: Error| assert_eq!(error.exit_code(), 4, "{error}");
    let stated = Stated::default();
    refused(export::plan(model.clone(), PathBuf::from("out"), "f16", &stated).unwrap_err());
    for to in ["ggjt-v3", "ggml", "ggml-gpt-2"] {
        let options = upgrade::Options { to: Some(to.into()), ..Default::default() };
        refused(upgrade::plan(model.clone(), &options).unwrap_err());
    }
    // The same container holds StarCoder, which is another family; and nobody knows what this is.
    let bytes = fs::read(golden("gpt-2/2023-03-23_ckpt_transposed/ggml-model-f16.bin")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [("<|endoftext|>", "<fim_prefix>\n"), ("\u{20}the", "thxe")] {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + from.len()].copy_from_slice(to.as_bytes());
        if to.starts_with("<fim") {
            // The token is as long as its text says.
            changed[at - 4] = 12;
            changed.remove(at + 12);
        }
        let path = folder.path().join("other.bin");
        fs::write(&path, changed).unwrap();
        let error = upgrade::plan(open(&path), &upgrade::Options::default()).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
    }
    // Matrices as the first programs stored them.
    let mut turned = model;
    let matrix = turned.tensors.iter_mut().find(|t| t.name == "model/h0/attn/c_attn/w").unwrap();
    matrix.shape.reverse();
    refused(upgrade::plan(turned, &upgrade::Options::default()).unwrap_err());
}
