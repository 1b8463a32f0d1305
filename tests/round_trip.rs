//! Reading and writing are inverse: originals come back byte for byte, made-up models whole.

use std::path::Path;

use proptest::prelude::*;
use regguf::{
    bytes::Input,
    container::{self, Layout, OpenOptions, TensorHead, detect, keyed, stream},
    format::{catalog, container::Skeleton},
    model::{Array, FeedForward, Kind, Metadata, Model, Naming, Role, Sizes, Value, Vocab},
    quant::QuantType,
};

/// The layout of `model` in its own format.
fn lay_out(model: &Model) -> Layout {
    let format = catalog::container(&model.format).unwrap();
    let head = |t: &regguf::model::Tensor| TensorHead {
        name: t.name.clone(),
        shape: t.shape.clone(),
        quant: t.quant,
        bytes: t.bytes(),
    };
    let heads: Vec<_> = model.tensors.iter().map(head).collect();
    match format.format.skeleton {
        Skeleton::Stream => {
            stream::layout(format, &model.header, &model.metadata, &model.vocab, &heads).unwrap()
        }
        _ => keyed::layout(format, &model.header, &model.metadata, &heads).unwrap(),
    }
}

/// A file of `layout` with `data` as the tensors' bytes.
fn fill(layout: &Layout, data: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0xaa; usize::try_from(layout.total).unwrap()];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = usize::try_from(at).unwrap();
        out[at..at + bytes.len()].copy_from_slice(bytes);
    };
    layout.chunks.iter().for_each(|(at, bytes)| put(*at, bytes));
    layout.data.iter().zip(data).for_each(|(at, bytes)| put(*at, bytes));
    out
}

/// The stored bytes of every tensor of a single-file model.
fn stored(model: &Model) -> Vec<Vec<u8>> {
    let read = |t: &regguf::model::Tensor| {
        let (file, at) = t.contiguous().unwrap();
        let mut bytes = vec![0; usize::try_from(t.bytes()).unwrap()];
        model.files[file].read_at(at, &mut bytes).unwrap();
        bytes
    };
    model.tensors.iter().map(read).collect()
}

#[test]
fn originals_come_back_byte_for_byte() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let manifest = std::fs::read(golden.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let mut count = 0;
    for file in manifest["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        // Sets are joined by reading; this file states wrong shapes, which leaves gaps.
        let set = path.contains("-2part") || path.contains("split") || path.contains("splitnt");
        if set || path.ends_with(".dat") || path == "T/E10/ggml-model-f16.from-E6l.gguf" {
            continue;
        }
        let model = container::open(&golden.join(path), &OpenOptions::default()).unwrap();
        let written = fill(&lay_out(&model), &stored(&model));
        let original = std::fs::read(golden.join(path)).unwrap();
        assert!(written == original, "{path}: {} bytes, were {}", written.len(), original.len());
        count += 1;
    }
    assert!(count > 90, "{count} files");
}

#[test]
fn a_set_of_parts_is_what_the_migration_script_joined() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T");
    let options = OpenOptions::default();
    for name in ["ggml-model-f16.bin", "ggml-model-q4_0.bin", "ggml-model-q4_1.bin"] {
        let set = container::open(&golden.join("E3-2part").join(name), &options).unwrap();
        // The file that the script of 30 March 2023 made of the set has the same bytes as this one.
        let whole = container::open(&golden.join("E4").join(name), &options).unwrap();
        assert_eq!(set.files.len(), 2);
        for tensor in &whole.tensors {
            let same = set.tensor(&tensor.name).unwrap();
            let bytes = usize::try_from(tensor.bytes()).unwrap();
            let (mut one, mut two) = (vec![0; bytes], vec![0; bytes]);
            whole.read_rows(tensor, 0, tensor.rows(), &mut one).unwrap();
            set.read_rows(same, 0, same.rows(), &mut two).unwrap();
            assert!(one == two, "{name}: {}", tensor.name);
        }
    }
}

/// Names of the formats that can be written.
fn writable() -> Vec<&'static str> {
    let known = |c: &&regguf::format::container::Container| {
        c.format.skeleton == Skeleton::Keyed
            || c.format.skeleton == Skeleton::Stream && c.format.family == "llama"
    };
    catalog::containers()
        .iter()
        .filter(known)
        .map(regguf::format::container::Container::id)
        .collect()
}

/// Types that a format can store, with rows of 256.
fn types(id: &str) -> Vec<QuantType> {
    let format = catalog::container(id).unwrap();
    let known = |q: &QuantType| match format.format.skeleton {
        Skeleton::Stream => stream::type_id(format, *q, &[]).is_some(),
        // Under a number of today only the bytes of real weights tell a type of one day.
        _ if q.block().once.is_some() => {
            format.type_id(&format!("{}/{}", q.name(), q.dialect())).is_some()
        }
        // Other programs' types are in little-endian files only.
        _ if q.program().is_some() && format.detect.big_endian => false,
        _ => keyed::type_id(format, *q).is_some(),
    };
    QuantType::all().filter(known).collect()
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        (-1e9f32..1e9).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|mut bytes| {
            // Version 1 strips a NUL at the end where the first key has one.
            bytes.push(1);
            Value::String(bytes)
        }),
        prop::collection::vec(any::<i8>().prop_map(Value::I8), 0..9).prop_map(|items| Array::of(
            Kind::I8,
            items
        )
        .into()),
    ]
}

/// A legal model of format `id`.
fn model(id: &'static str) -> impl Strategy<Value = Model> {
    let tokens = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..40);
    let kinds = types(id);
    let pick = prop::collection::vec(0..kinds.len(), 30);
    let metadata = prop::collection::vec(("[a-z][a-z_.]{0,20}", value()), 0..8);
    (tokens, pick, metadata, 1u64..3, 1u64..3, -9f32..9.0).prop_map(
        move |(tokens, pick, extra, layers, heads, score)| {
            let llama = catalog::family("llama").unwrap();
            let format = catalog::container(id).unwrap();
            let stream = format.format.skeleton == Skeleton::Stream;
            let naming = if stream { Naming::Old } else { Naming::Gguf };
            let n = tokens.len() as u64;
            let stated = [
                ("n_vocab", n),
                ("n_embd", 256),
                ("n_head", heads),
                ("n_head_kv", 1),
                ("n_layer", layers),
                ("n_ff", 512),
            ];
            let sizes = Sizes::with(llama, &stated);
            let scores = vec![score; tokens.len()];
            let mut model = Model { format: id.into(), family: "llama".into(), ..Model::default() };
            if stream {
                for (name, value) in [
                    ("n_vocab", n),
                    ("n_embd", 256),
                    ("n_mult", 32),
                    ("n_head", heads),
                    ("n_layer", layers),
                    ("n_rot", 256 / heads),
                    ("ftype", 1),
                ] {
                    model.header.push((name.into(), value.cast_signed()));
                }
                let scored = format.vocab.as_ref().is_some_and(|v| v.score);
                let scores = if scored { scores } else { Vec::new() };
                model.vocab =
                    Vocab { tokens: tokens.into_iter().collect(), scores, ..Vocab::default() };
            } else {
                let mut metadata = Metadata::new();
                metadata.set("general.architecture", "llama");
                extra.into_iter().for_each(|(key, value)| metadata.set(key, value));
                model.metadata = metadata;
            }
            for (role, pick) in
                Role::all(llama, layers, FeedForward::Dense).zip(pick.into_iter().cycle())
            {
                let shape = role.shape(&sizes).unwrap();
                let rows: u64 = shape.iter().rev().skip(1).product();
                let fits = |q: &QuantType| rows.is_multiple_of(q.row_group() as u64);
                let f32 = QuantType::today("f32").unwrap();
                let quant = kinds.get(pick).copied().filter(fits).unwrap_or(f32);
                let name = role.name(naming).unwrap();
                let tensor = regguf::model::Tensor::whole(name, shape, quant, 0, 0).unwrap();
                model.tensors.push(tensor);
            }
            model
        },
    )
}

fn reads_back(model: &Model) {
    let layout = lay_out(model);
    let data: Vec<Vec<u8>> = (0u8..)
        .zip(&model.tensors)
        .map(|(i, t)| vec![i; usize::try_from(t.bytes()).unwrap()])
        .collect();
    let input = Input::memory("made-up", fill(&layout, &data));
    // Of types that once shared a number and a size, made-up bytes say nothing that can be held to.
    let read_as = model.tensors.iter().map(|t| t.quant).collect();
    let format = Some(model.format.clone());
    let options = OpenOptions { format, read_as, ..OpenOptions::default() };
    let read = detect(&input, &options).unwrap().sure(&input).unwrap();
    assert_eq!(read.header, model.header);
    assert_eq!(read.tensors.len(), model.tensors.len());
    for (a, b) in read.tensors.iter().zip(&model.tensors) {
        assert_eq!((&a.name, &a.shape, a.quant), (&b.name, &b.shape, b.quant));
    }
    if model.header.is_empty() {
        assert_eq!(read.metadata, model.metadata);
    } else {
        assert_eq!(read.vocab, model.vocab);
    }
    assert_eq!(stored(&read), data);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn any_legal_model_reads_back(
        model in prop::sample::select(writable()).prop_flat_map(model)
    ) {
        reads_back(&model);
    }
}

#[test]
fn every_writable_format_reads_back() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    for id in writable() {
        for _ in 0..4 {
            reads_back(&model(id).new_tree(&mut runner).unwrap().current());
        }
    }
}
