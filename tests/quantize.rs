//! Every tensor that llama-quantize makes of a model, byte for byte, in every file type and mode.
//!
//! `golden/newest-T.json` holds a digest a tensor, made by the llama-quantize that the Python package
//! llama-cpp-python 0.3.36 carries, from the
//! model that `golden/T/E10/splitnt-f16-*.gguf` holds in four shards.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    Existing,
    change::{
        carry,
        choose::{ftype::FileType, target_size::Goal},
        quantize::{Options, plan},
    },
    checkpoint,
    container::{self, OpenOptions, imatrix::Importance},
    error::Result,
    limits::Limits,
    model::{Model, Value},
};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(path)
}

fn source() -> Model {
    open(&golden("T/E10/splitnt-f16-00001-of-00004.gguf"))
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap()
}

fn importance() -> Importance {
    Importance::read(&golden("T/E10/imatrix.dat"), &Limits::DEFAULT).unwrap()
}

/// Plans and writes; returns what was written.
fn made(model: Model, options: &Options) -> Result<Model> {
    let (model, plans) = plan(model, options)?;
    carry(&model, &plans, Existing::Replace, &())?;
    Ok(open(&plans[0].output))
}

/// SHA-256 over all bytes of a tensor.
fn digest(model: &Model, name: &str) -> String {
    let tensor = model.tensor(name).unwrap();
    let mut bytes = vec![0; tensor.bytes() as usize];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn to(word: &str, output: &Path) -> Options {
    let types = vec![FileType::parse(word).unwrap()];
    Options { types, output: Some(output.to_owned()), ..Options::default() }
}

#[test]
fn every_type_and_mode_has_the_original_bytes() {
    let text = fs::read(golden("newest-T.json")).unwrap();
    let golden: Json = serde_json::from_slice(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    for run in golden["runs"].as_array().unwrap() {
        let (word, mode) = (run["type"].as_str().unwrap(), run["mode"].as_str().unwrap());
        let mut options = to(word, &output);
        options.pure = mode == "pure";
        if mode == "imatrix" {
            options.importance = importance();
        }
        let made = made(source(), &options);
        let Some(tensors) = run["tensors"].as_object() else {
            assert!(made.is_err(), "{word} {mode}");
            continue;
        };
        let made = made.unwrap();
        assert_eq!(made.tensors.len(), tensors.len());
        assert_eq!(made.metadata.u64("general.file_type"), run["file_type"].as_u64());
        for (tensor, (name, wanted)) in made.tensors.iter().zip(tensors) {
            assert_eq!(&tensor.name, name, "{word} {mode}");
            let quant = tensor.quant.name().to_uppercase();
            assert_eq!(
                (quant.as_str(), digest(&made, name).as_str()),
                (wanted[0].as_str().unwrap(), wanted[1].as_str().unwrap()),
                "{word} {mode} {name}"
            );
        }
        if mode != "imatrix" {
            assert_eq!(fs::metadata(&output).unwrap().len(), run["bytes"], "{word} {mode}");
        }
    }
}

#[test]
fn several_types_in_one_pass_have_the_bytes_of_single_ones() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["q4_0", "Q5_K_M", "copy"];
    let types = words.map(|w| FileType::parse(w).unwrap()).to_vec();
    let output = Some(folder.path().to_owned());
    let options = Options { types, output, ..Options::default() };
    let (model, plans) = plan(source(), &options).unwrap();
    carry(&model, &plans, Existing::Keep, &()).unwrap();
    for (word, name) in words.iter().zip(["Q4_0", "Q5_K_M", "COPY"]) {
        let together = folder.path().join(format!("splitnt-{name}.gguf"));
        let alone = folder.path().join("alone.gguf");
        made(source(), &to(word, &alone)).unwrap();
        assert_eq!(fs::read(together).unwrap(), fs::read(&alone).unwrap(), "{word}");
    }
}

#[test]
fn quantizing_again_needs_a_word_and_changes_nothing_within_a_type() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["a.gguf", "b.gguf"].map(|n| folder.path().join(n));
    let once = made(source(), &to("q8_0", &first)).unwrap();
    let refused = plan(once.clone(), &to("q4_0", &second)).unwrap_err();
    let refused = regguf::cli::advice::error(&refused);
    assert!(refused.contains("--allow-requantize") && refused.contains("q8_0"), "{refused}");
    made(once.clone(), &to("q8_0", &second)).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    let options = Options { allow_requantize: true, measure: true, ..to("q4_0", &second) };
    let (model, plans) = plan(once, &options).unwrap();
    assert!(plans[0].notes.iter().any(|n| n.contains("were quantized before")));
    let outcome = carry(&model, &plans, Existing::Replace, &()).unwrap().remove(0);
    for (step, done) in plans[0].steps.iter().zip(&outcome.steps) {
        let encoded = step.quant.name() == "q4_0";
        assert_eq!(done.distance.weights > 0, encoded, "{}", step.name);
        if encoded {
            let snr = done.distance.snr_db().unwrap();
            assert!((15.0..30.0).contains(&snr), "{}: {snr} dB", step.name);
        }
    }
}

#[test]
fn what_lacks_imatrix_data_is_named_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let mut options = to("q8_0", &output);
    options.tensor_types =
        vec![(regguf::change::choose::mix::Pattern::new("ffn_down").unwrap(), "iq3_xxs")];
    // Rows of 192 fall back to a type that needs none.
    made(source(), &options).unwrap();
    let mut options = Options { importance: importance(), ..to("q4_0", &output) };
    options.importance.retain(&[], &["blk.1".to_owned()]);
    let (_, plans) = plan(source(), &options).unwrap();
    let note = plans[0].notes.iter().find(|n| n.starts_with("no imatrix data for")).unwrap();
    assert!(note.contains("blk.1.ffn_up.weight") && !note.contains("blk.0."), "{note}");
}

#[test]
fn pruned_layers_leave_no_gap() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let mut options = Options { importance: importance(), ..to("q4_0", &output) };
    options.prune = [0].into();
    let pruned = made(source(), &options).unwrap();
    assert_eq!(pruned.metadata.u64("llama.block_count"), Some(1));
    assert_eq!(pruned.tensors.len(), 12);
    let whole = folder.path().join("whole.gguf");
    options = Options { importance: importance(), ..to("q4_0", &whole) };
    let whole = made(source(), &options).unwrap();
    for part in ["attn_q", "ffn_down", "ffn_norm"] {
        let [now, before] = [0, 1].map(|n| format!("blk.{n}.{part}.weight"));
        assert_eq!(digest(&pruned, &now), digest(&whole, &before), "{part}");
    }
    options.prune = [2].into();
    let refused = |options: &Options| plan(source(), options).unwrap_err().to_string();
    assert!(refused(&options).contains("no layer 2"));
    options.prune = [0, 1].into();
    assert!(refused(&options).contains("no layer would be left"));
}

#[test]
fn metadata_is_what_llama_quantize_sets() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let mut options = Options { importance: importance(), ..to("q4_k", &output) };
    options.importance.file = "x".repeat(200);
    options.overrides =
        vec![("general.name".to_owned(), Value::from("new")), ("my.key".to_owned(), Value::U32(7))];
    let made = made(source(), &options).unwrap();
    let keys: Vec<_> = made.metadata.iter().map(|(k, _)| k.to_owned()).collect();
    assert_eq!(
        keys[keys.len() - 8..],
        [
            "general.quantization_version",
            "general.file_type",
            "general.name",
            "my.key",
            "quantize.imatrix.file",
            "quantize.imatrix.dataset",
            "quantize.imatrix.entries_count",
            "quantize.imatrix.chunks_count",
        ]
    );
    assert_eq!(made.metadata.str("quantize.imatrix.file").map(str::len), Some(127));
    assert_eq!(made.metadata.u64("quantize.imatrix.entries_count"), Some(14));
    assert_eq!(made.metadata.u64("general.file_type"), Some(15));
    assert_eq!(made.metadata.str("general.name"), Some("new"));
}

/// ggml does not count outermost dimensions of 1: llama-quantize writes a stack of one expert as the
/// matrix that it is.
#[test]
fn stacks_of_one_are_matrices() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = source();
    let tensor = model.tensors.iter_mut().find(|t| t.name == "blk.0.ffn_up.weight").unwrap();
    tensor.shape.insert(0, 1);
    let one = made(model, &to("q4_0", &folder.path().join("one.gguf"))).unwrap();
    let plain = made(source(), &to("q4_0", &folder.path().join("plain.gguf"))).unwrap();
    assert_eq!(one.tensor("blk.0.ffn_up.weight"), plain.tensor("blk.0.ffn_up.weight"));
}

#[test]
fn shards_stay_shards() {
    let folder = tempfile::tempdir().unwrap();
    let [split, whole] = ["split.gguf", "whole.gguf"].map(|n| folder.path().join(n));
    let (model, plans) =
        plan(source(), &Options { keep_split: true, ..to("q5_k", &split) }).unwrap();
    carry(&model, &plans, Existing::Keep, &()).unwrap();
    assert_eq!(plans.len(), 4);
    let split = open(&folder.path().join("split-00001-of-00004.gguf"));
    let whole = made(source(), &to("q5_k", &whole)).unwrap();
    assert_eq!((split.files.len(), split.tensors.len()), (4, whole.tensors.len()));
    assert_eq!(split.metadata, whole.metadata);
    for tensor in &whole.tensors {
        assert_eq!(digest(&split, &tensor.name), digest(&whole, &tensor.name), "{}", tensor.name);
    }
}

#[test]
fn older_containers_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.bin");
    let made_old =
        made(source(), &Options { to: Some("ggjt-v1".into()), ..to("q4_1", &old) }).unwrap();
    assert_eq!(made_old.format, "ggjt-v1-llama");
    assert_eq!(made_old.header("ftype"), Some(3));
    let tensor = made_old.tensor("layers.1.feed_forward.w2.weight").unwrap();
    assert_eq!(tensor.quant.to_string(), "q4_1/pairs-f32");
    let again = folder.path().join("again.gguf");
    assert!(plan(made_old.clone(), &to("q8_0", &again)).is_err());
    let options = Options { allow_requantize: true, ..to("q8_0", &again) };
    let again = made(made_old.clone(), &options).unwrap();
    assert_eq!(again.tensor("blk.1.ffn_down.weight").unwrap().quant.name(), "q8_0");
    assert!(plan(source(), &Options { to: Some("ggjt-v1".into()), ..to("q4_k", &old) }).is_err());
    assert!(plan(source(), &to("q4_2", &old)).is_err());
}

/// What the programs of March to June 2023 wrote, whole files: each in its era's last way.
#[test]
fn files_of_older_containers_are_the_original_ones() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("old.bin");
    let two = &["q4_0", "q4_1"][..];
    let five = &["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"][..];
    for (era, to_format, words) in [
        ("E1", "ggml-llama-planar", two),
        ("E2", "ggml", two),
        ("E3", "ggmf-v1", two),
        ("E4b", "ggjt-v1", &["q4_0", "q4_1", "q4_2", "q4_3", "q5_0", "q5_1", "q8_0"]),
        ("E5", "ggjt-v2", five),
        ("E6", "ggjt-v3", five),
    ] {
        for word in words {
            // The later programs were given the same weights.
            let source = if matches!(era, "E5" | "E6") { "E4b" } else { era };
            let source = open(&golden(&format!("T/{source}/ggml-model-f16.bin")));
            made(source, &Options { to: Some(to_format.into()), ..to(word, &output) }).unwrap();
            let original = golden(&format!("T/{era}/ggml-model-{word}.bin"));
            assert!(fs::read(&output).unwrap() == fs::read(original).unwrap(), "{era} {word}");
        }
    }
}

/// The checkpoint in one step has the weights of the GGUF file that the original converter made of it.
#[test]
fn a_checkpoint_is_quantized_in_one_pass() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one.gguf", "two.gguf"].map(|n| folder.path().join(n));
    let raw = checkpoint::open(&golden("T/hf-st"), &checkpoint::Options::default()).unwrap();
    let one = made(raw, &to("q4_k_m", &one)).unwrap();
    let two = made(source(), &to("q4_k_m", &two)).unwrap();
    assert_eq!(one.tensors.len(), two.tensors.len());
    for tensor in &two.tensors {
        assert_eq!(digest(&one, &tensor.name), digest(&two, &tensor.name), "{}", tensor.name);
    }
}

#[test]
fn types_fit_a_size() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let sized = |goal| {
        let options =
            Options { goal: Some(goal), output: Some(output.clone()), ..Options::default() };
        let (model, plans) = plan(source(), &options)?;
        Ok::<_, regguf::error::Error>((model, plans))
    };
    let mut before = 0;
    for size in [120_000, 150_000, 200_000, 300_000] {
        let (model, plans) = sized(Goal::Bytes(size)).unwrap();
        let total = plans[0].layout.total;
        assert!(total <= size && total > before, "{total} for {size}");
        before = total;
        carry(&model, &plans, Existing::Replace, &()).unwrap();
        assert_eq!(fs::metadata(&output).unwrap().len(), total);
    }
    let (model, plans) = sized(Goal::Bits(6.0)).unwrap();
    let weights: u64 = model.tensors.iter().map(regguf::model::Tensor::elements).sum();
    let bytes: u64 = plans[0].steps.iter().map(regguf::change::Step::bytes).sum();
    let bits = bytes as f64 * 8.0 / weights as f64;
    assert!((5.5..=6.0).contains(&bits), "{bits}");
    assert!(sized(Goal::Bytes(50_000)).is_err());
}
