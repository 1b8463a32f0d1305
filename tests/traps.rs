//! What misleads: same magic, other content; sets of files that do not fit together.

use std::path::{Path, PathBuf};

use regguf::{
    bytes::Input,
    container::{self, OpenOptions, RowStorage, Verdict, detect},
    error::{Error, Result},
    model::Model,
    remedy::Setting,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T").join(name)
}

fn open(path: &Path) -> Result<Model> {
    container::open(path, &OpenOptions::default())
}

fn memory(bytes: Vec<u8>) -> Result<Model> {
    let input = Input::memory("made-up", bytes);
    detect(&input, &OpenOptions::default())?.sure(&input)
}

/// A copy of golden files in a folder of its own, under new names.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in files {
        std::fs::copy(golden(from), folder.path().join(to)).unwrap();
    }
    folder
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A stream file whose weights are all `byte`.
fn with_weights(name: &str, byte: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(golden(name)).unwrap();
    let model = open(&golden(name)).unwrap();
    for tensor in &model.tensors {
        let from = usize::try_from(tensor.pieces[0].at).unwrap();
        bytes[from..from + usize::try_from(tensor.bytes()).unwrap()].fill(byte);
    }
    bytes
}

#[test]
fn planar_rows_and_blocks_are_told_by_the_weights() {
    let dialect = |name: &str| open(&golden(name)).unwrap().tensors[0].quant.dialect();
    assert_eq!(dialect("E1/ggml-model-q4_0.bin"), "planar-f32");
    assert_eq!(dialect("E1/ggml-model-q4_1.bin"), "planar-f32");
    assert_eq!(dialect("E2a/ggml-model-q4_0.bin"), "pairs-f32");
    assert_eq!(dialect("E2a/ggml-model-q4_1.bin"), "planar-f32");
    assert_eq!(dialect("E2/ggml-model-q4_1.bin"), "pairs-f32");
}

#[test]
fn a_negative_scale_does_not_mislead() {
    // From 25 April 2023 the scales of Q4_0 have either sign.
    for name in ["E1/ggml-model-q4_0.bin", "E2/ggml-model-q4_0.bin"] {
        let mut bytes = std::fs::read(golden(name)).unwrap();
        let model = open(&golden(name)).unwrap();
        for tensor in model.tensors.iter().filter(|t| t.quant.name() == "q4_0") {
            let layout = tensor.quant.layout();
            let row = usize::try_from(tensor.row_bytes()).unwrap();
            let planar = tensor.quant.dialect() == "planar-f32";
            let step = if planar { 4 } else { layout.bytes };
            for r in 0..usize::try_from(tensor.rows()).unwrap() {
                for unit in (0..row / layout.bytes).step_by(2) {
                    let at = usize::try_from(tensor.pieces[0].at).unwrap() + r * row + unit * step;
                    bytes[at + 3] ^= 0x80;
                }
            }
        }
        assert_eq!(memory(bytes).unwrap().format, model.format);
    }
}

#[test]
fn weights_that_do_not_tell_are_asked_about() {
    let bytes = with_weights("E2/ggml-model-q4_0.bin", 0);
    let input = Input::memory("zeros", bytes);
    let detected = detect(&input, &OpenOptions::default()).unwrap();
    assert!(matches!(&detected.verdict, Verdict::Either(two, _) if two.len() == 2));
    let Err(Error::Unknown { looks, next, .. }) = detected.sure(&input) else { panic!() };
    let means = &next.steps()[0].means;
    assert_eq!(means, &["planar", "blocked"].map(|order| Setting::Blocks.of(order)), "{looks}");
    for (blocks, id) in
        [(RowStorage::Planar, "ggml-llama-planar"), (RowStorage::Blocked, "ggml-llama")]
    {
        let options = OpenOptions { blocks: Some(blocks), ..OpenOptions::default() };
        assert_eq!(detect(&input, &options).unwrap().sure(&input).unwrap().format, id);
    }
}

#[test]
fn gptq_imports_are_read() {
    // ftype 4: Q4_1 with F16 embedding and output. The header word is the only difference.
    let mut bytes = std::fs::read(golden("E2/ggml-model-q4_1.bin")).unwrap();
    bytes[28] = 4;
    let model = memory(bytes).unwrap();
    assert_eq!((model.format.as_str(), model.header("ftype")), ("ggml-llama", Some(4)));
}

#[test]
fn a_vocabulary_one_short_is_read() {
    for name in ["E2/ggml-model-q4_0.bin", "E3/ggml-model-q4_0.bin", "E4/ggml-model-q4_0.bin"] {
        let mut bytes = std::fs::read(golden(name)).unwrap();
        let at = if name.starts_with("E2") { 4 } else { 8 };
        let n = u32_at(&bytes, at);
        bytes[at..at + 4].copy_from_slice(&(n + 1).to_le_bytes());
        let model = memory(bytes).unwrap();
        assert_eq!(model.vocab.len(), 512, "{name}");
        assert_eq!(model.header("n_vocab"), Some(513), "{name}");
        assert!(model.notes.iter().any(|note| note.contains("one more")), "{name}");
    }
}

#[test]
fn type_6_was_q8_0_for_a_day() {
    let day = open(&golden("E4q80/ggml-model-q8_0.bin")).unwrap();
    let later = open(&golden("E4b/ggml-model-q8_0.bin")).unwrap();
    assert_eq!(day.format, "ggjt-v1-llama-q8-day");
    assert_eq!(later.format, "ggjt-v1-llama");
    assert_eq!(day.tensors[0].quant, later.tensors[0].quant);
    let q5_0 = open(&golden("E4b/ggml-model-q5_0.bin")).unwrap();
    assert_eq!(q5_0.tensors[0].quant.to_string(), "q5_0/pairs");
}

#[test]
fn super_blocks_of_64_are_told_by_sizes() {
    for (name, id) in [
        ("E6l-q64/ggml-model-q4_K_M.qkk64.bin", "ggjt-v3-llama-super-64"),
        ("E7-q64/ggml-model-q4_K_M.qkk64.gguf", "gguf-v1-super-64"),
    ] {
        let model = open(&golden(name)).unwrap();
        assert_eq!(model.format, id);
        assert!(model.tensors.iter().any(|t| t.quant.dialect() == "super-64"));
    }
}

#[test]
fn grouped_heads_follow_from_shapes() {
    let path = golden("../G/E6l/ggml-model-q4_0.bin");
    let model = open(&path).unwrap();
    assert_eq!(model.metadata.u64("llama.attention.head_count"), Some(8));
    assert_eq!(model.metadata.u64("llama.attention.head_count_kv"), Some(2));
    assert_eq!(model.metadata.u64("llama.rope.dimension_count"), Some(16));
}

#[test]
fn super_blocks_across_rows_are_read() {
    let model = open(&golden("E6k/ggml-model-q4_0.bin")).unwrap();
    let output = model.tensor("output.weight").unwrap();
    assert_eq!(output.shape, [512, 64]);
    assert_eq!((output.fold, output.rows(), output.row_len()), (4, 128, 256));
}

#[test]
fn any_part_opens_the_set() {
    let one = open(&golden("E3-2part/ggml-model-q4_0.bin")).unwrap();
    let two = open(&golden("E3-2part/ggml-model-q4_0.bin.1")).unwrap();
    assert_eq!(one.tensors, two.tensors);
    assert_eq!(one.files[0].path(), two.files[0].path());
    assert_eq!(one.tensor("tok_embeddings.weight").unwrap().shape, [512, 64]);
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let says = |files: &[(&str, &str)], open_as: &str, words: &[&str]| {
        let folder = folder(files);
        let error = open(&folder.path().join(open_as)).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let part = |n: usize| ["E3-2part/ggml-model-q4_0.bin", "E3-2part/ggml-model-q4_0.bin.1"][n];
    says(&[(part(0), "x.bin")], "x.bin", &["first of 2 parts", "x.bin.1"]);
    says(&[(part(1), "x.bin.1")], "x.bin.1", &["is part 1 of 2", "missing", "x.bin"]);
    says(&[(part(0), "x.bin"), (part(0), "x.bin.1")], "x.bin", &["x.bin.1: is a copy of", "x.bin"]);
    says(
        &[(part(0), "x.bin"), ("E3-2part/ggml-model-f16.bin.1", "x.bin.1")],
        "x.bin.1",
        &["x.bin.1: says ftype 1", "says 2"],
    );
}

#[test]
fn a_set_may_not_lose_or_double_shards() {
    let shard = |n: usize| format!("E10/split-Q4_K_M-0000{n}-of-00003.gguf");
    let open_with = |files: [usize; 3], first: &str| {
        let from: Vec<String> = files.iter().map(|n| shard(*n)).collect();
        let to: Vec<String> = (1..=3).map(|n| format!("m-0000{n}-of-00003.gguf")).collect();
        let pairs: Vec<_> = from.iter().zip(&to).map(|(f, t)| (f.as_str(), t.as_str())).collect();
        let folder = folder(&pairs);
        open(&folder.path().join(first)).map(|m| m.tensors.len()).map_err(|e| e.to_string())
    };
    assert_eq!(open_with([1, 2, 3], "m-00001-of-00003.gguf"), Ok(21));
    assert_eq!(open_with([1, 2, 3], "m-00003-of-00003.gguf"), Ok(21));
    let error = open_with([1, 2, 2], "m-00001-of-00003.gguf").unwrap_err();
    assert!(error.contains("m-00003") && error.contains("holds shard 2 of 3"), "{error}");
    let two = folder(&[(&shard(1), "m-00001-of-00003.gguf"), (&shard(2), "m-00002-of-00003.gguf")]);
    let error = open(&two.path().join("m-00002-of-00003.gguf")).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("m-00003-of-00003.gguf"), "{error}");
    let renamed = folder(&[(&shard(2), "x.gguf")]);
    let error = open(&renamed.path().join("x.gguf")).unwrap_err().to_string();
    assert!(error.contains("rename"), "{error}");
}

#[test]
fn opening_a_set_leaves_no_split_keys() {
    let model = open(&golden("E10/splitnt-f16-00003-of-00004.gguf")).unwrap();
    assert_eq!((model.files.len(), model.tensors.len()), (4, 21));
    assert!(model.metadata.iter().all(|(key, _)| !key.starts_with("split.")));
}

#[test]
fn a_wrong_extension_is_a_note() {
    let folder =
        folder(&[("E9/ggml-model-q4_0.gguf", "x.bin"), ("E4/ggml-model-q4_0.bin", "y.gguf")]);
    for name in ["x.bin", "y.gguf"] {
        let model = open(&folder.path().join(name)).unwrap();
        assert!(model.notes.iter().any(|note| note.contains("extension")), "{:?}", model.notes);
    }
}

/// All weights of a model, tensor by tensor.
fn weights(model: &Model) -> Vec<Vec<u8>> {
    let read = |tensor: &regguf::model::Tensor| {
        let mut out = vec![0; usize::try_from(tensor.bytes()).unwrap()];
        model.read_rows(tensor, 0, tensor.rows(), &mut out).unwrap();
        out
    };
    model.tensors.iter().map(read).collect()
}

#[test]
fn shapes_counted_in_bytes_are_put_right() {
    let made = open(&golden("E10/ggml-model-f16.from-E6l.gguf")).unwrap();
    let source = open(&golden("E4/ggml-model-f16.bin")).unwrap();
    assert!(made.notes.iter().any(|note| note.contains("shapes")), "{:?}", made.notes);
    assert_eq!(made.tensor("token_embd.weight").unwrap().shape, [512, 64]);
    let sorted = |model: &Model| {
        let mut all = weights(model);
        all.sort();
        all
    };
    assert!(sorted(&made) == sorted(&source));
}

#[test]
fn weights_that_were_not_swapped_are_read_as_they_stand() {
    // convert_hf_to_gguf.py --bigendian of 2025 swaps the header and leaves the weights.
    let whole = open(&golden("E10/model-f16.big-endian.gguf")).unwrap();
    let mut bytes = std::fs::read(golden("E10/model-f16.big-endian.gguf")).unwrap();
    for tensor in &whole.tensors {
        let from = usize::try_from(tensor.contiguous().unwrap().1).unwrap();
        let data = &mut bytes[from..][..usize::try_from(tensor.bytes()).unwrap()];
        data.chunks_exact_mut(tensor.quant.layout().bytes).for_each(<[u8]>::reverse);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.gguf"), bytes).unwrap();
    let left = open(&folder.path().join("x.gguf")).unwrap();
    assert!(left.notes.iter().any(|note| note.contains("little-endian")), "{:?}", left.notes);
    assert!(!whole.notes.iter().any(|note| note.contains("little-endian")));
    assert!(weights(&left) == weights(&whole));
}
