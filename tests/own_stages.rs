//! Families with a layout of their own, RWKV and Whisper: models of many sizes in every older stage of the container
//! become the file that is made at once in the present one, and go back where the older one can be written.

use std::{fs, path::Path};

use proptest::prelude::*;
use regguf::{
    Existing,
    change::{self, upgrade},
    container::{self, OpenOptions, TensorHead, stream},
    format::{catalog, container::Container},
    model::{Array, FeedForward, Kind, Metadata, Naming, Role, Sizes, Value, Vocab},
    quant::{QuantType, encode::encoder, isa::Isa, permute::transform},
};

/// A model in bytes of one layout: what is before the tensors, and each with its rows.
struct Made {
    header: Vec<(String, i64)>,
    metadata: Metadata,
    vocab: Vocab,
    tensors: Vec<(TensorHead, Vec<u8>)>,
}

/// Numbers that say how large a model is: layers, blocks a row, wider feed-forward, texts, seed.
type Size = (u64, u64, u64, u64, u32);

fn size() -> impl Strategy<Value = Size> {
    (1u64..4, 1u64..4, 1u64..4, 1u64..9, any::<u32>())
}

fn made(container: &Container, size: Size, name: &str, dialect: &str, version: i64) -> Made {
    let family = catalog::family(&container.format.family).unwrap();
    let (layers, blocks, wider, texts, seed) = size;
    let (width, vocab) = (32 * blocks, texts + 5);
    let of = |word: &str| match word {
        "n_vocab" => vocab,
        "n_audio_ctx" | "n_text_ctx" => 8,
        "n_audio_state" | "n_text_state" | "n_embed" => width,
        "n_audio_head" | "n_text_head" => 2,
        "n_audio_layer" | "n_text_layer" | "n_layer" => layers,
        "n_mels" | "filters.n_mel" => 4,
        "filters.n_fft" => 201,
        other => panic!("{other}"),
    };
    let symbols = family.sizes.iter().filter_map(|(symbol, size)| {
        let known = size.word.first().map(|word| of(word));
        let rest = [("n_ff", wider * width), ("n_audio_ff", wider * width), ("n_att", width)];
        let fixed = [("one", 1), ("three", 3)];
        let rest = rest.into_iter().chain(fixed).find(|(s, _)| s == symbol).map(|(_, n)| n);
        known.or(rest).map(|value| (symbol.as_str(), value))
    });
    let stated: Vec<(&str, u64)> = symbols.collect();
    let sizes = Sizes::with(family, &stated);
    let mut header = Vec::new();
    let number = container.file_type(name).unwrap().1;
    for field in &container.header.fields {
        match &field.split {
            Some(split) => {
                header.push((split.high.clone(), version));
                header.push((split.low.clone(), number));
            }
            None if field.name == "data_type" => header.push((field.name.clone(), number)),
            None => header.push((field.name.clone(), of(&field.name) as i64)),
        }
    }
    let mut state = seed | 1;
    let mut draw = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let (mut metadata, mut words) = (Metadata::new(), Vocab::default());
    if let Some(matrix) = &container.header.matrix {
        let items = (0..4 * 201).map(|n| Value::F32(n as f32));
        metadata.set(&matrix.name, Value::Array(Array::of(Kind::F32, items)));
        (0..texts).for_each(|n| words.tokens.push(format!("t{n}")));
    }
    let kept = |name: &str| name.contains("emb.weight") || name.contains("head.weight");
    let layer = |_: &str| layers;
    let tensors = Role::counted(family, layer, FeedForward::Dense).filter_map(|role| {
        let tensor = role.name(Naming::Old)?;
        let shape = role.shape(&sizes)?;
        let quant = match tensor.as_str() {
            t if t.ends_with("positional_embedding")
                || t.contains("conv") && t.ends_with("bias") =>
            {
                "f32"
            }
            _ if shape.len() == 3 && name != "f32" => "f16",
            _ if shape.len() == 1 => "f32",
            t if kept(t) => "f16",
            _ => name,
        };
        let quant = QuantType::in_force(quant, dialect).unwrap();
        let elements: u64 = shape.iter().product();
        let bytes = quant.row_bytes(elements).unwrap();
        let block = quant.layout().bytes;
        // Sound scales in a block's first halves, any nibbles behind them: 0x2c.. to 0x2f.. are halves and floats
        // between 0.06 and 0.12, and tiny ones.
        let scales = if name.ends_with('0') || name.ends_with('2') { 2 } else { 4 };
        let data = (0..bytes as usize).map(|at| match (quant.name(), at % block) {
            ("f16", n) => {
                if n == 1 {
                    0x2c | draw() & 3
                } else {
                    draw()
                }
            }
            ("f32", n) => {
                if n == 3 {
                    0x3d
                } else {
                    draw()
                }
            }
            // Which weight is by itself, and what it is.
            ("q4_1_o", 4) => draw() & 31,
            ("q4_1_o", 5) => 0,
            (_, n) if n < scales || block == 24 && n < 8 => {
                if n % 2 == 1 {
                    0x2c | draw() & 3
                } else {
                    draw()
                }
            }
            _ => draw(),
        });
        let data = data.collect();
        Some((TensorHead { name: tensor, shape, quant, bytes }, data))
    });
    let tensors = tensors.collect();
    Made { header, metadata, vocab: words, tensors }
}

/// The file of `made` in a container whose blocks are of this dialect.
fn file(container: &Container, made: &Made, dialect: &str) -> Vec<u8> {
    let older = |(head, data): &(TensorHead, Vec<u8>)| {
        let quant = QuantType::in_force(head.quant.name(), dialect).unwrap();
        let elements: u64 = head.shape.iter().product();
        let mut head = head.clone();
        let mut out = data.clone();
        if quant != head.quant {
            head.bytes = quant.row_bytes(elements).unwrap();
            out = vec![0; head.bytes as usize];
            let way = transform(head.quant, quant).unwrap();
            way.run(Isa::PORTABLE, elements as usize, data, &mut out);
            head.quant = quant;
        }
        (head, out)
    };
    let (heads, data): (Vec<TensorHead>, Vec<Vec<u8>>) = made.tensors.iter().map(older).unzip();
    let layout =
        stream::layout(container, &made.header, &made.metadata, &made.vocab, &heads).unwrap();
    let mut out = vec![0; layout.total as usize];
    let places = layout.chunks.iter().map(|(at, bytes)| (*at, bytes));
    for (at, bytes) in places.chain(layout.data.iter().copied().zip(&data)) {
        out[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }
    out
}

/// What `bytes` become in the container `to`.
fn written(bytes: &[u8], to: Option<&str>, exact: bool, folder: &Path) -> Vec<u8> {
    let old = folder.join("old.bin");
    fs::write(&old, bytes).unwrap();
    let model = container::open(&old, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let output = Some(folder.join("new.bin"));
    let to = to.map(str::to_owned);
    let options = upgrade::Options { output, to, exact, ..Default::default() };
    let (model, plan) = upgrade::plan(model, &options).unwrap_or_else(|e| panic!("{e}"));
    change::carry(&model, std::slice::from_ref(&plan), Existing::Replace, &()).unwrap();
    fs::read(folder.join("new.bin")).unwrap()
}

/// Upgraded, an older stage is the file made at once; where its container is still written, it comes back.
fn goes_there_and_back(old: &str, new: &str, size: Size, stages: &[(i64, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (catalog::container(old).unwrap(), catalog::container(new).unwrap());
    for name in ["f32", "f16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"] {
        // Quantizers write a version, converters never did.
        let floats = matches!(name, "f32" | "f16");
        let wanted = made(new, size, name, "halves-f16", if floats { 0 } else { 2 });
        let wanted = file(new, &wanted, "halves-f16");
        for (version, dialect) in stages.iter().filter(|(version, _)| !floats || *version == 0) {
            let bytes = file(old, &made(old, size, name, "halves-f16", *version), dialect);
            let found = written(&bytes, None, false, folder.path());
            assert!(found == wanted, "{name}: {version} {dialect}");
            if old.id() != new.id() {
                let back = written(&wanted, Some(old.id()), false, folder.path());
                assert!(back == bytes, "{name}: back");
            }
        }
    }
}

/// The weights of blocks of a type that is gone, worked out here.
fn weights(name: &str, bytes: &[u8]) -> Vec<f32> {
    let half = |at: &[u8]| half::f16::from_le_bytes([at[0], at[1]]).to_f32();
    let (size, front) = match name {
        "q4_2" => (10, 2),
        "q4_3" => (12, 4),
        _ => (24, 8),
    };
    let block = |block: &[u8]| -> Vec<f32> {
        let (scale, least) = match name {
            "q4_2" => (half(block), -8.0 * half(block)),
            _ => (half(block), half(&block[2..])),
        };
        let codes = block[front..].iter().flat_map(|byte| [byte & 15, byte >> 4]);
        let mut all: Vec<f32> = codes.map(|code| f32::from(code) * scale + least).collect();
        if name == "q4_1_o" {
            all[usize::from(block[4])] = half(&block[6..]);
        }
        all
    };
    bytes.chunks(size).flat_map(block).collect()
}

/// Types that version 101 lacks: exactly as float32, else as what it has that holds them best.
fn becomes_its_weights(size: Size) {
    let folder = tempfile::tempdir().unwrap();
    let old = catalog::container("rwkv-v100").unwrap();
    for name in ["q4_1_o", "q4_2", "q4_3"] {
        let made = made(old, size, name, "pairs-f32", 0);
        let bytes = file(old, &made, "pairs-f32");
        for exact in [true, false] {
            fs::write(folder.path().join("101.bin"), written(&bytes, None, exact, folder.path()))
                .unwrap();
            let new =
                container::open(&folder.path().join("101.bin"), &OpenOptions::default()).unwrap();
            assert_eq!((new.format.as_str(), new.tensors.len()), ("rwkv-v101", made.tensors.len()));
            for (head, data) in &made.tensors {
                let tensor = new.tensor(&head.name).unwrap();
                let mut found = vec![0; usize::try_from(tensor.bytes()).unwrap()];
                new.read_rows(tensor, 0, tensor.rows(), &mut found).unwrap();
                if head.quant.name() != name {
                    assert!(found == *data && tensor.quant == head.quant, "{}", head.name);
                    continue;
                }
                let (numbers, mut wanted) = (weights(name, data), found.clone());
                let row_len = usize::try_from(tensor.row_len()).unwrap();
                assert!(!exact || tensor.quant.name() == "f32", "{name}: {}", tensor.quant);
                let encode = encoder(tensor.quant.name()).unwrap();
                encode(Isa::PORTABLE, &numbers, row_len, None, &mut wanted);
                assert!(found == wanted, "{name}, exact {exact}: {}", head.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rwkv_goes_from_its_first_version_to_the_last_and_back(size in size()) {
        goes_there_and_back("rwkv-v100", "rwkv-v101", size, &[(0, "pairs-f32")]);
    }

    #[test]
    fn types_that_rwkv_has_no_more_become_their_weights(size in size()) {
        becomes_its_weights(size);
    }

    /// Versions 0 and 1 are written with the plain number of the type and with 1000 more; the last with 2000 more.
    #[test]
    fn whisper_goes_from_every_spelling_to_the_last(size in size()) {
        let stages = [(0, "pairs-f32"), (1, "halves-f32"), (2, "halves-f16")];
        goes_there_and_back("whisper", "whisper", size, &stages);
    }
}
