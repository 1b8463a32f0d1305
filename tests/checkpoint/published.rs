//! Checkpoints as torch and Hugging Face wrote them, against the files that llama.cpp's converters
//! made from them.

use std::path::{Path, PathBuf};

use regguf::{
    checkpoint::{self, Options, family},
    container::{self, OpenOptions},
    model::{Model, Naming, Role, Tensor},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn checkpoint(name: &str) -> Model {
    checkpoint::open(&golden(name), &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn converted(name: &str) -> Model {
    container::open(&golden(name), &OpenOptions::default())
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn rows(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes() as usize];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    bytes
}

/// What converters write: matrices as they are, vectors as f32.
fn written(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let bytes = rows(model, tensor);
    if tensor.shape.len() > 1 || tensor.quant.name() == "f32" {
        return bytes;
    }
    let half = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32().to_le_bytes();
    bytes.chunks_exact(2).flat_map(half).collect()
}

#[test]
fn every_layout_holds_the_bytes_that_the_converters_wrote() {
    let e4 = converted("T/E4/ggml-model-f16.bin");
    let references =
        [converted("T/E9/ggml-model-f16.gguf"), converted("T/E10/model-f16.convert-hf.gguf")];
    for name in [
        "T/meta/T",
        "T/meta/T/consolidated.00.pth",
        "T/meta-2shard/T",
        "T/meta-2shard/T/consolidated.01.pth",
        "T/meta-legacy/T",
        "T/hf-bin",
        "T/hf-bin-2shard",
        "T/hf-bin-2shard/pytorch_model-00001-of-00002.bin",
        "T/hf-st",
        "T/hf-st/model.safetensors",
        "T/hf-st-2shard",
        "T/hf-st-2shard/model.safetensors.index.json",
    ] {
        let model = checkpoint(name);
        assert_eq!(model.tensors.len(), 21, "{name}");
        for tensor in &model.tensors {
            let ours = written(&model, tensor);
            for reference in &references {
                let theirs = reference.tensor(&tensor.name).unwrap();
                assert_eq!(theirs.shape, tensor.shape, "{name}: {}", tensor.name);
                assert!(ours == rows(reference, theirs), "{name}: {}", tensor.name);
            }
            let meta = Role::of(family(), Naming::Gguf, &tensor.name).unwrap().name(Naming::Old);
            let theirs = e4.tensor(&meta).unwrap();
            assert!(ours == rows(&e4, theirs), "{name}: {meta}");
        }
    }
}

/// `meta-bf16` was saved from the same f32 weights as the f16 files, so the two agree to the
/// precision of bf16, 8 bits.
#[test]
fn bf16_weights_are_those_of_the_other_files_to_eight_bits() {
    let (bf16, f16) = (checkpoint("T/meta-bf16/T"), checkpoint("T/meta/T"));
    for tensor in &bf16.tensors {
        assert_eq!(tensor.quant.name(), "bf16");
        let other = f16.tensor(&tensor.name).unwrap();
        let pairs = rows(&bf16, tensor);
        for (a, b) in pairs.chunks_exact(2).zip(rows(&f16, other).chunks_exact(2)) {
            let a = half::bf16::from_le_bytes([a[0], a[1]]).to_f32();
            let b = half::f16::from_le_bytes([b[0], b[1]]).to_f32();
            assert!((a - b).abs() <= b.abs() / 128.0 + 1e-7, "{}: {a} {b}", tensor.name);
        }
    }
    assert_eq!(bf16.metadata.u64("general.file_type"), Some(32));
}

/// The keys in which two models differ, with both values.
fn differences(ours: &Model, theirs: &Model) -> Vec<(String, Option<String>, Option<String>)> {
    let mut keys: Vec<&str> =
        ours.metadata.iter().chain(theirs.metadata.iter()).map(|(k, _)| k).collect();
    keys.sort_unstable();
    keys.dedup();
    let value = |model: &Model, key: &str| model.metadata.get(key).cloned();
    keys.into_iter()
        .map(|key| (key, value(ours, key), value(theirs, key)))
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(key, a, b)| (key.to_owned(), a.map(|v| v.to_string()), b.map(|v| v.to_string())))
        .collect()
}

#[test]
fn metadata_is_what_convert_hf_to_gguf_writes() {
    let theirs = converted("T/E10/model-f16.convert-hf.gguf");
    assert_eq!(differences(&checkpoint("T/hf-st"), &theirs), []);
    // The name of the folder.
    let found = differences(&checkpoint("T/hf-bin"), &theirs);
    let keys = |found: &[(String, Option<String>, Option<String>)]| -> Vec<String> {
        found.iter().map(|(key, ..)| key.clone()).collect()
    };
    assert_eq!(keys(&found), ["general.name"]);
    // Meta's release has no config.json: special tokens are those of tokenizer.model, which has no
    // padding and does not say whether they go around a text.
    let found = differences(&checkpoint("T/meta/T"), &theirs);
    assert_eq!(
        keys(&found),
        [
            "general.name",
            "tokenizer.ggml.add_bos_token",
            "tokenizer.ggml.add_eos_token",
            "tokenizer.ggml.padding_token_id",
            "tokenizer.ggml.unknown_token_id",
        ]
    );
}

#[test]
fn what_was_dropped_or_assumed_is_said() {
    let notes = checkpoint("T/meta/T").notes.join("\n");
    assert!(notes.contains("rope.freqs dropped"), "{notes}");
    assert!(notes.contains("a context of 2048 tokens, as LLaMA 1 has it"), "{notes}");
}
