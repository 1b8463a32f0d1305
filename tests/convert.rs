//! Conversions of checkpoints and back, against the files of llama.cpp's own converters.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    Existing,
    change::{
        self,
        convert::{self, Options},
        export, upgrade,
    },
    checkpoint,
    container::{self, OpenOptions},
    model::{Model, Stated, Tensor},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn raw(path: &Path) -> Model {
    checkpoint::open(path, &checkpoint::Options::default()).unwrap()
}

fn file(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap()
}

fn rows(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes() as usize];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    bytes
}

/// Converts and returns the paths of the outputs.
fn converted(model: Model, folder: &Path, types: &[&str], to: &str) -> Vec<PathBuf> {
    let options = Options {
        types: types.iter().map(|t| (*t).to_owned()).collect(),
        upgrade: upgrade::Options { to: Some(to.to_owned()), ..Default::default() },
        folder: folder.to_owned(),
        ..Options::default()
    };
    let (model, plans) = convert::plan(model, &options).unwrap();
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
    plans.iter().map(|p| p.output.clone()).collect()
}

/// What no type of the older container holds is no reason where every matrix gets another: the advice was the
/// very command that had been typed.
#[test]
fn types_that_an_older_container_never_held_become_those_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = || file(&golden("T/E10/model-BF16.gguf"));
    let paths = converted(model(), folder.path(), &["f16", "q4_0"], "ggjt-v1");
    for (path, quant) in paths.iter().zip(["f16", "q4_0"]) {
        let made = file(path);
        let tensor = made.tensor("layers.0.attention.wq.weight").unwrap();
        assert_eq!((made.format.as_str(), tensor.quant.name()), ("ggjt-v1-llama", quant));
    }
    // Where nobody says a type, there is none.
    let to = Some("ggjt-v1".to_owned());
    let options = upgrade::Options { to, ..Default::default() };
    assert_eq!(upgrade::plan(model(), &options).unwrap_err().exit_code(), 4);
}

/// Same names, types, shapes and bytes.
fn assert_same(ours: &Model, theirs: &Model, what: &str) {
    assert_eq!(ours.tensors.len(), theirs.tensors.len(), "{what}");
    for tensor in &ours.tensors {
        let other =
            theirs.tensor(&tensor.name).unwrap_or_else(|| panic!("{what}: {}", tensor.name));
        assert_eq!(
            (tensor.quant, &tensor.shape),
            (other.quant, &other.shape),
            "{what}: {}",
            tensor.name
        );
        assert!(rows(ours, tensor) == rows(theirs, other), "{what}: {}", tensor.name);
    }
}

#[test]
fn several_types_come_from_one_reading_and_are_those_of_the_original_converters() {
    for name in ["T/meta-2shard/T", "T/hf-bin", "T/hf-st-2shard"] {
        let folder = tempfile::tempdir().unwrap();
        let made = converted(
            raw(&golden(name)),
            folder.path(),
            &["auto", "q8_0", "q4_k_m", "f32"],
            "gguf-v3",
        );
        let endings: Vec<_> =
            made.iter().map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        for (made, ending) in endings.iter().zip(["-F16", "-Q8_0", "-Q4_K_M", "-F32"]) {
            assert!(made.contains("-172K-") && made.ends_with(ending), "{made}");
        }
        assert_same(&file(&made[0]), &file(&golden("T/E10/model-f16.convert-hf.gguf")), name);
        assert_same(&file(&made[1]), &file(&golden("T/E10/model-Q8_0.gguf")), name);
        assert_same(&file(&made[2]), &file(&golden("T/E10/model-Q4_K_M.gguf")), name);
        let f32 = file(&made[3]);
        assert!(f32.tensors.iter().all(|t| t.quant.name() == "f32"));
        assert_eq!(f32.metadata.u64("general.file_type"), Some(0));
        assert_eq!(file(&made[1]).metadata.u64("general.file_type"), Some(7));
    }
}

#[test]
fn outputs_are_the_files_that_the_original_converters_wrote() {
    for (source, to, original) in [
        ("T/hf-st", "gguf-v3", "T/E10/model-f16.convert-hf.gguf"),
        ("T/meta/T", "ggjt-v1", "T/E4/ggml-model-f16.bin"),
        ("T/meta-2shard/T", "ggjt-v1", "T/E4/ggml-model-f16.bin"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let made = converted(raw(&golden(source)), folder.path(), &["f16"], to);
        let (made, original) = (fs::read(&made[0]).unwrap(), fs::read(golden(original)).unwrap());
        assert!(made == original, "{source}: the {to} file differs from the original");
    }
}

#[test]
fn safetensors_written_from_a_gguf_read_as_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    for source in
        ["T/E9/ggml-model-f16.gguf", "T/E10/model-f16.convert-hf.gguf", "G/E9/ggml-model-q4_0.gguf"]
    {
        let original = file(&golden(source));
        let target = folder.path().join(source.replace(['/', '.'], "-"));
        let export = export::plan(original.clone(), target.clone(), "f32", &Stated::default());
        export.unwrap().write(Existing::Keep, &()).unwrap();
        let back = raw(&target);
        for tensor in &back.tensors {
            let from = original.tensor(&tensor.name).unwrap();
            let mut wanted = vec![0.0; from.elements() as usize];
            let isa = regguf::quant::isa::Isa::best();
            regguf::quant::decode_rows(
                from.quant,
                isa,
                &rows(&original, from),
                from.row_len() as usize,
                &mut wanted,
            );
            let wanted: Vec<u8> = wanted.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert!(rows(&back, tensor) == wanted, "{source}: {}", tensor.name);
        }
        assert_eq!(back.vocab.tokens, original.vocab.tokens, "{source}");
        assert_eq!(back.vocab.scores, original.vocab.scores, "{source}");
        for key in [
            "block_count",
            "context_length",
            "attention.head_count_kv",
            "attention.layer_norm_rms_epsilon",
        ] {
            let key = format!("llama.{key}");
            assert_eq!(back.metadata.get(&key), original.metadata.get(&key), "{source}: {key}");
        }
    }
}
