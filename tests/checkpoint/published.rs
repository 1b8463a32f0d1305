//! Checkpoints as torch and Hugging Face wrote them, against the files that llama.cpp's converters
//! made from them.

use std::path::{Path, PathBuf};

use regguf::{
    checkpoint::{self, Options},
    container::{self, OpenOptions},
    model::{Model, Tensor},
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

/// Why our metadata may differ from an original converter's.
const FOLDER: &str = "models without a name are named after their folder";
const SHARDED: &str = "the folder is called hf-st-2shard, whose last part reads as a fine-tune";
const NO_CONFIG: &str = "Meta's release has no tokenizer_config.json, so nothing says whether tokens go \
    around a text, and tokenizer.model has no padding";
const IN_MODEL: &str = "tokenizer.model states its special tokens; without a config.json they are taken from \
    there, or readers would assume them";
const LATER: &str = "convert.py of 2023 did not write it yet; convert_hf_to_gguf does";

/// Every difference in metadata to the files of the original converters, with its reason; the keys
/// that both have are in one order where the converter is convert_hf_to_gguf.
#[test]
fn metadata_is_what_the_original_converters_write_but_for_these_keys() {
    let e9 = "T/E9/ggml-model-f16.gguf";
    let e10 = "T/E10/model-f16.convert-hf.gguf";
    let name = ("general.name", FOLDER);
    let later = [
        ("general.quantization_version", LATER),
        ("general.size_label", LATER),
        ("general.type", LATER),
        ("llama.vocab_size", LATER),
        ("tokenizer.ggml.bos_token_id", IN_MODEL),
        ("tokenizer.ggml.eos_token_id", IN_MODEL),
        ("tokenizer.ggml.pre", LATER),
        ("tokenizer.ggml.unknown_token_id", IN_MODEL),
    ];
    let from_meta = [
        ("tokenizer.ggml.add_bos_token", NO_CONFIG),
        ("tokenizer.ggml.add_eos_token", NO_CONFIG),
        ("tokenizer.ggml.padding_token_id", NO_CONFIG),
        ("tokenizer.ggml.unknown_token_id", IN_MODEL),
    ];
    let sharded = [("general.basename", SHARDED), ("general.finetune", SHARDED), name];
    let with_name = |rest: &[(&'static str, &'static str)]| [&[name], rest].concat();
    for (source, original, allowed) in [
        ("T/hf-st", e10, vec![]),
        ("T/hf-bin", e10, vec![name]),
        ("T/hf-st-2shard", e10, sharded.to_vec()),
        ("T/meta/T", e10, with_name(&from_meta)),
        ("T/meta-2shard/T", e10, with_name(&from_meta)),
        ("T/meta/T", e9, with_name(&later)),
        ("T/meta-2shard/T", e9, with_name(&later)),
    ] {
        let (ours, theirs) = (checkpoint(source), converted(original));
        let found = differences(&ours, &theirs);
        let keys: Vec<&str> = found.iter().map(|(key, ..)| key.as_str()).collect();
        let mut wanted: Vec<&str> = allowed.iter().map(|(key, _)| *key).collect();
        wanted.sort_unstable();
        assert_eq!(keys, wanted, "{source} against {original}: {found:#?}");
        // What a later converter added, the older one lacks; it has no other value.
        let lacking =
            |key: &str| allowed.contains(&(key, LATER)) || allowed.contains(&(key, IN_MODEL));
        for (key, _, theirs) in found.iter().filter(|(key, ..)| lacking(key)) {
            assert_eq!(*theirs, None, "{source} against {original}: {key}");
        }
        if original == e10 {
            let order = |model: &Model, other: &Model| -> Vec<String> {
                let both = model.metadata.iter().filter(|(k, _)| other.metadata.get(k).is_some());
                both.map(|(key, _)| key.to_owned()).collect()
            };
            assert_eq!(order(&ours, &theirs), order(&theirs, &ours), "{source}");
        }
    }
}

#[test]
fn what_was_dropped_or_assumed_is_said() {
    let notes = checkpoint("T/meta/T").notes.to_string();
    assert!(notes.contains("rope.freqs dropped"), "{notes}");
    assert!(notes.contains("a context of 2048 tokens, as LLaMA 1 has it"), "{notes}");
}
