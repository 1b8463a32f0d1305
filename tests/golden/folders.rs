//! Checkpoints as torch, Hugging Face and libraries that pack matrices wrote them: every layout is read as the files that
//! the original programs made from it.

use libtest_mimic::{Failed, Trial};
use regguf::{
    checkpoint::{self, Options, family},
    model::{Model, Naming, Role, Tensor},
};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::{
    golden,
    packed::{known, opened, packed, place, rows},
};

/// Folders and files of one model, saved in float16.
const LAYOUTS: [&str; 12] = [
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
];

/// A test for each.
pub fn all() -> impl Iterator<Item = Trial> {
    let layouts = LAYOUTS.map(|name| Trial::test(name, move || has_the_bytes_of_converters(name)));
    let packings = known().into_iter().map(|case| {
        let title = format!("families/packed/{}", case["name"].as_str().unwrap());
        Trial::test(title, move || is_what_its_library_makes_of_it(&case))
    });
    layouts.into_iter().chain(packings)
}

/// What converters write: matrices as they are, vectors as f32.
fn written(model: &Model, tensor: &Tensor) -> Vec<u8> {
    let bytes = bytes(model, tensor);
    if tensor.shape.len() > 1 || tensor.quant.name() == "f32" {
        return bytes;
    }
    let half = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32().to_le_bytes();
    bytes.chunks_exact(2).flat_map(half).collect()
}

fn bytes(model: &Model, tensor: &Tensor) -> Vec<u8> {
    rows(model, &tensor.name, tensor.rows())
}

fn has_the_bytes_of_converters(name: &str) -> Result<(), Failed> {
    let open = |name: &str| regguf::open(golden().join(name));
    let e4 = open("T/E4/ggml-model-f16.bin")?;
    let references = [open("T/E9/ggml-model-f16.gguf")?, open("T/E10/model-f16.convert-hf.gguf")?];
    let model = checkpoint::open(&golden().join(name), &Options::default())?;
    assert_eq!(model.tensors.len(), 21);
    for tensor in &model.tensors {
        let ours = written(&model, tensor);
        for reference in &references {
            let theirs = reference.tensor(&tensor.name).unwrap();
            assert_eq!(theirs.shape, tensor.shape, "{}", tensor.name);
            assert!(ours == bytes(reference, theirs), "{}", tensor.name);
        }
        let meta =
            Role::of(family(), Naming::Gguf, &tensor.name).unwrap().name(Naming::Old).unwrap();
        assert!(ours == bytes(&e4, e4.tensor(&meta).unwrap()), "{meta}");
    }
    Ok(())
}

fn is_what_its_library_makes_of_it(case: &Json) -> Result<(), Failed> {
    let model = opened(&packed(case), case)?;
    assert_eq!(model.tensors.len(), 21);
    let (_, gguf) = place(&case["shape"]);
    let found = model.tensor(gguf).unwrap();
    let shape: Vec<u64> = serde_json::from_value(case["shape"].clone())?;
    assert_eq!((found.quant.name(), &found.shape), ("f32", &shape));
    for step in [1, 7, 1024] {
        let sum = Sha256::digest(rows(&model, gguf, step));
        let sum: String = sum.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(case["sum"], sum, "{step} rows at a time");
    }
    assert!(model.notes.iter().any(|note| note.contains("1 matrices")), "{:?}", model.notes);
    Ok(())
}
