//! LoRA adapters of before GGUF become those that today's converter makes, number by number.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regguf::{
    container::{self, OpenOptions},
    model::Model,
    quant::{decode_rows, isa::Isa},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn ggla(name: &str) -> String {
    golden("families/ggla").join(name).display().to_string()
}

/// The model that the adapters belong to.
fn base() -> String {
    golden("T/E8/ggml-model-f16.gguf").display().to_string()
}

fn regguf(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regguf")).args(words).output().unwrap()
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Shape and numbers of every tensor.
fn numbers(model: &Model) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let read = |tensor: &regguf::model::Tensor| {
        let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
        model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
        let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
        let len = usize::try_from(tensor.row_len()).unwrap();
        decode_rows(tensor.quant, Isa::best(), &bytes, len, &mut out);
        (tensor.name.clone(), (tensor.shape.clone(), out))
    };
    model.tensors.iter().map(read).collect()
}

fn open(path: &str) -> Model {
    container::open(Path::new(path), &OpenOptions::default()).unwrap()
}

/// What `input` becomes, with these words behind it.
fn upgraded(input: &str, words: &[&str]) -> (Model, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf").display().to_string();
    let output = regguf(&[&["upgrade", input, "-o", &out], words].concat());
    assert!(output.status.success(), "{input}: {}", says(&output));
    let mut model = open(&out);
    // The bytes outlive the folder.
    let bytes = std::fs::read(&out).unwrap();
    model.files = vec![regguf::bytes::Input::memory("out.gguf", bytes)];
    (model, says(&output))
}

/// Checks an adapter against the one that llama.cpp's convert_lora_to_gguf.py made.
fn assert_is(found: &Model, wanted: &str) {
    let wanted = open(&ggla(wanted));
    let key = |model: &Model, key: &str| model.metadata.get(key).cloned();
    for name in ["general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"] {
        assert_eq!(key(found, name), key(&wanted, name), "{name}");
    }
    assert_eq!(numbers(found), numbers(&wanted));
}

#[test]
fn a_ggla_file_becomes_the_adapter_of_today() {
    for (file, wanted) in [
        ("2023-04-17_meta-names/qv.bin", "gguf-today/qv.gguf"),
        ("2023-04-17_meta-names/vo.bin", "gguf-today/vo.gguf"),
        ("2023-04-17_meta-names/all.bin", "gguf-today/all.gguf"),
        ("2023-12-16_gguf-names/all.bin", "gguf-today/all.gguf"),
    ] {
        let (model, _) = upgraded(&ggla(file), &["--base", &base()]);
        assert_is(&model, wanted);
    }
}

#[test]
fn without_a_base_only_what_needs_no_heads_is_upgraded() {
    let (model, said) = upgraded(&ggla("2023-04-17_meta-names/vo.bin"), &[]);
    assert_is(&model, "gguf-today/vo.gguf");
    assert!(!said.contains("assumed"), "{said}");
    let output = regguf(&["upgrade", &ggla("2023-04-17_meta-names/qv.bin")]);
    let said = says(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("layers.0.attention.wq.weight") && said.contains("--base"), "{said}");
}

#[test]
fn rows_are_left_where_a_person_says_that_they_stand_as_in_ggml() {
    let file = ggla("2023-12-16_gguf-names/all.bin");
    let (by_script, said) = upgraded(&file, &["--base", &base()]);
    assert!(said.contains("--rows ggml"), "{said}");
    let (by_finetune, said) = upgraded(&file, &["--rows", "ggml"]);
    assert!(!said.contains("--rows"), "{said}");
    let (script, finetune) = (numbers(&by_script), numbers(&by_finetune));
    for (name, numbers) in &script {
        let turned =
            name.ends_with("attn_q.weight.lora_b") || name.ends_with("attn_k.weight.lora_b");
        assert_eq!(finetune[name] != *numbers, turned, "{name}");
    }
    let raw = numbers(&open(&file));
    assert_eq!(finetune["blk.0.attn_q.weight.lora_b"], raw["blk.0.attn_q.weight.loraB"]);
}
