//! Hugging Face checkpoints of many families ([`super::golden`]): there and back, with parts missing, with tokenizers
//! as published, packed in eight bits. That they are converted as llama.cpp's converter does it is tests/golden's.

use std::fs;

use regguf::{Existing, change::export, checkpoint, container, model::Stated};
use serde_json::{Value as Json, json};

use super::golden::{
    converted, converted_to, digest, known, numbers, safetensors, sizes, tokenizer, write,
};

/// The steps that published tokenizers cut text by, for some of which there are several names.
#[test]
fn steps_of_published_tokenizers_have_the_name_of_their_family() {
    let step =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"});
    let falcon = json!([
        {"type": "Punctuation", "behavior": "Contiguous"}, step(true),
        {"type": "Digits", "individual_digits": false}, split("[0-9][0-9][0-9]")
    ]);
    let bloom = json!([split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), step(false)]);
    let digits = json!([{"type": "Digits", "individual_digits": true}, step(true)]);
    for (family, steps, name) in [
        ("falcon", falcon, "falcon"),
        ("bloom", bloom, "bloom"),
        ("command-r", digits.clone(), "command-r"),
        ("cohere2", digits.clone(), "command-r"),
        ("granite", digits.clone(), "refact"),
        ("starcoder2", digits, "starcoder"),
        ("mpt", json!([step(true)]), "mpt"),
    ] {
        let (_, known) = known().into_iter().find(|(name, _)| name == family).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(&known, folder.path());
        let path = folder.path().join("tokenizer.json");
        let mut tokenizer: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": steps});
        fs::write(&path, tokenizer.to_string()).unwrap();
        let model = checkpoint::open(folder.path(), &checkpoint::Options::default()).unwrap();
        assert_eq!(model.metadata.str("tokenizer.ggml.pre"), Some(name), "{family}");
    }
}

/// Qwen's matrices, and others', are wider than their vocabularies; what the converter calls the rest.
#[test]
fn a_matrix_that_is_wider_than_its_vocabulary_is_filled() {
    let (_, known) = known().into_iter().find(|(name, _)| name == "qwen2").unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(&known, folder.path());
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, tokenizer(37, &["<|endoftext|>"]).to_string()).unwrap();
    let open = || checkpoint::open(folder.path(), &checkpoint::Options::default());
    let vocab = open().unwrap().vocab;
    let last: Vec<_> = vocab.tokens.iter().skip(36).collect();
    assert_eq!(last, [&b"<|endoftext|>"[..], b"[PAD37]", b"[PAD38]", b"[PAD39]"]);
    // More tokens than rows are another model's.
    fs::write(&path, tokenizer(43, &["<|endoftext|>"]).to_string()).unwrap();
    assert!(open().unwrap_err().to_string().contains("3 tokens have no row"));
}

/// What divides its scores follows from its shape where a GGUF is read.
#[test]
fn a_gemma_with_scores_of_another_scale_is_refused() {
    let (_, mut known) = known().into_iter().find(|(name, _)| name == "gemma3").unwrap();
    known["config"]["query_pre_attn_scalar"] = json!(7);
    let folder = tempfile::tempdir().unwrap();
    write(&known, folder.path());
    let error = checkpoint::open(folder.path(), &checkpoint::Options::default()).unwrap_err();
    assert!(error.to_string().contains("query_pre_attn_scalar is 7"), "{error}");
}

/// Gemma's norms in halves: the converter adds its one to halves. The digests are those of its file of the same numbers.
#[test]
fn one_is_added_in_the_type_that_is_read() {
    let (_, known) = known().into_iter().find(|(name, _)| name == "gemma").unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(&known, folder.path());
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, bytes)) in tensors_of(&safetensors(&known)) {
        let first = data.len();
        let floats = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        data.extend(floats.flat_map(|number| half::f16::from_f32(number).to_le_bytes()));
        let ends = [first, data.len()];
        header.insert(name, json!({"dtype": "F16", "shape": shape, "data_offsets": ends}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [(header.len() as u64).to_le_bytes().to_vec(), header, data].concat();
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let model = container::open(&converted(folder.path()), &Default::default()).unwrap();
    for (name, theirs) in [
        ("blk.0.attn_norm.weight", "61ff9686e8992640"),
        ("blk.1.ffn_norm.weight", "be02b8af0b88fbe9"),
        ("output_norm.weight", "3656b25062ae67a2"),
    ] {
        assert_eq!(digest(&model, model.tensor(name).unwrap()), theirs, "{name}");
    }
}

/// What that converter leaves in float32 is left so, whatever type is asked for (conversion/base.py: prepare_tensors).
#[test]
fn some_matrices_are_float32_in_every_file_of_floats() {
    for (name, some) in [
        ("gpt2", &["position_embd.weight"][..]),
        ("qwen2moe", &["blk.1.ffn_gate_inp.weight", "blk.1.ffn_gate_inp_shexp.weight"]),
        ("command-r-norms", &["blk.1.attn_q_norm.weight"]),
    ] {
        let (_, known) = known().into_iter().find(|(known, _)| known == name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(&known, folder.path());
        let model = converted_to("f16", folder.path());
        let model = container::open(&model, &Default::default()).unwrap();
        let wide = |name: &str| model.tensor(name).unwrap().quant.name() == "f32";
        assert!(some.iter().all(|name| wide(name)), "{name}");
        assert!(!wide("token_embd.weight"), "{name}");
    }
}

/// Name, shape and bytes of every tensor of a safetensors file.
pub fn tensors_of(bytes: &[u8]) -> std::collections::BTreeMap<String, (Json, Vec<u8>)> {
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, Json> =
        serde_json::from_slice(&bytes[8..start]).unwrap();
    header.remove("__metadata__");
    let tensor = |entry: &Json| {
        let at = sizes(&entry["data_offsets"]);
        (entry["shape"].clone(), bytes[start + at[0]..start + at[1]].to_vec())
    };
    header.iter().map(|(name, entry)| (name.clone(), tensor(entry))).collect()
}

/// There and back: the names, shapes and numbers of transformers' file, a config.json that says the same, and from
/// it the same GGUF again.
#[test]
fn gguf_goes_back_to_the_checkpoint_that_it_was_made_of() {
    let mut seen = 0;
    for (name, known) in known() {
        // The text of a model that sees comes back as a model of its own, with the names that such have; packed weights
        // come back as floats, under the names of floats.
        if ["text_config", "quantization_config"].iter().any(|of| known["config"].get(of).is_some())
        {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        write(&known, folder.path());
        let new = container::open(&converted(folder.path()), &Default::default()).unwrap();
        let back = folder.path().join("back");
        let stated = Stated::default();
        let export = export::plan(new.clone(), back.clone(), "f32", &stated)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        export.write(Existing::Keep, &()).unwrap();
        let made = tensors_of(&fs::read(back.join("model.safetensors")).unwrap());
        let mut wanted = tensors_of(&safetensors(&known));
        // What GGUF has no place for: tables that are computed.
        wanted.retain(|tensor, _| made.contains_key(tensor) || !tensor.ends_with("inv_freq"));
        let names = |all: &std::collections::BTreeMap<String, _>| -> Vec<String> {
            all.keys().cloned().collect()
        };
        assert_eq!(names(&made), names(&wanted), "{name}");
        for (tensor, wanted) in &wanted {
            // GGUF has Gemma's norms with one added, which rounds floats of 32 bits.
            let near = name.starts_with("gemma") && tensor.ends_with("norm.weight");
            let pairs = made[tensor].1.chunks(4).zip(wanted.1.chunks(4));
            let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
            let off = pairs.map(|(a, b)| (float(a) - float(b)).abs()).fold(0.0, f32::max);
            assert_eq!(made[tensor].0, wanted.0, "{name}: {tensor}");
            assert!(off == 0.0 || near && off < 1e-6, "{name}: {tensor}: {off}");
        }
        let config: Json =
            serde_json::from_slice(&fs::read(back.join("config.json")).unwrap()).unwrap();
        let far = &known["config"]["rope_parameters"]["full_attention"];
        for field in ["rope_type", "factor"].iter().filter(|_| !far["factor"].is_null()) {
            assert_eq!(config["rope_scaling"][field], far[field], "{name}: {field}");
        }
        for (field, said) in config.as_object().unwrap() {
            let Some(wanted) = known["config"].get(field).filter(|wanted| !wanted.is_null()) else {
                continue;
            };
            if field.ends_with("token_id") || field.ends_with("dtype") {
                continue;
            }
            if field == "architectures" {
                assert_eq!(said[0], known["class"], "{name}");
                continue;
            }
            let same = |said: &Json, wanted: &Json| match (said.as_f64(), wanted.as_f64()) {
                (Some(said), Some(wanted)) => said as f32 == wanted as f32,
                _ => said == wanted,
            };
            let inside = |(field, said): (&String, &Json)| same(said, &wanted[field]);
            let all = said.as_object().map(|said| said.iter().all(inside));
            assert!(all.unwrap_or(same(said, wanted)), "{name}: {field} is {said}, not {wanted}");
        }
        let again = container::open(&converted(&back), &Default::default()).unwrap();
        assert_eq!(again.tensors.len(), new.tensors.len(), "{name}");
        for (a, b) in again.tensors.iter().zip(&new.tensors) {
            assert_eq!((&a.name, digest(&again, a)), (&b.name, digest(&new, b)), "{name}");
        }
        for (key, value) in new.metadata.iter() {
            let differs = ["general.", "tokenizer."].iter().any(|part| key.starts_with(part));
            let same = again.metadata.get(key) == Some(value);
            assert!(same || differs, "{name}: {key}: {:?}", again.metadata.get(key));
        }
        seen += 1;
    }
    assert!(seen >= 40, "{seen}");
}

/// Without any one of its tensors, or with one of another shape, a checkpoint is refused by that tensor's name.
#[test]
fn what_is_missing_or_misshapen_is_named() {
    let names =
        ["granitemoe-shared", "baichuan", "internlm2", "gpt-oss-mxfp4", "deepseek2-lite", "llama4"];
    for (name, known) in known().into_iter().filter(|(name, _)| names.contains(&name.as_str())) {
        let tensors = known["tensors"].as_array().unwrap();
        for i in 0..tensors.len() {
            for shorter in [false, true] {
                let mut broken = known.clone();
                let list = broken["tensors"].as_array_mut().unwrap();
                if shorter {
                    let rows = list[i][1][0].as_u64().unwrap();
                    list[i][1][0] = json!(rows - 1);
                } else {
                    list.remove(i);
                }
                let folder = tempfile::tempdir().unwrap();
                write(&broken, folder.path());
                let read = checkpoint::open(folder.path(), &checkpoint::Options::default());
                let tensor = tensors[i][0].as_str().unwrap();
                if !shorter && tensor == "lm_head.weight" && read.is_ok() {
                    continue; // The embedding is the output then.
                }
                let error = read.map(|_| ()).unwrap_err().to_string();
                // Experts are counted from the first; of two parts that belong together either may be named.
                let stem = tensor.split(".experts.").next().unwrap();
                // The rows of the embedding say what the output must have.
                let named = error.contains(stem) || stem.contains("embed");
                assert!(named || error.contains("rows"), "{name}: {tensor}: {error}");
                assert_eq!(error.lines().count(), 1, "{error}");
            }
        }
    }
}

/// Whether a checkpoint is packed already.
fn is_packed(known: &Json) -> bool {
    !known["config"]["quantization_config"].is_null()
}

/// A checkpoint with its projections in eight-bit floats, and the same with each number worked out here.
fn in_eight_bits(known: &Json) -> Option<[Vec<u8>; 2]> {
    let tensors = tensors_of(&safetensors(known));
    let files = [true, false].map(|coded| {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        let mut put = |name: &str, dtype: &str, shape: &Json, bytes: &[u8]| {
            let ends = [data.len(), data.len() + bytes.len()];
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": ends});
            header.insert(name.to_owned(), entry);
            data.extend(bytes);
        };
        let mut count = 0;
        for (name, (shape, bytes)) in &tensors {
            let [rows, columns] = sizes(shape)[..] else {
                put(name, "F32", shape, bytes);
                continue;
            };
            if !name.ends_with("_proj.weight") {
                put(name, "F32", shape, bytes);
                continue;
            }
            count += 1;
            let finite = |byte: u8| if byte & 0x7c == 0x7c { byte & 0x83 } else { byte };
            let codes: Vec<u8> = bytes.chunks(4).map(|bytes| finite(bytes[1])).collect();
            let blocks = [rows.div_ceil(16), columns.div_ceil(24)];
            let scale = numbers(&format!("{name} scale"), blocks[0] * blocks[1], 1.0);
            if coded {
                let scale: Vec<u8> = scale.iter().flat_map(|v| v.to_le_bytes()).collect();
                put(name, "F8_E5M2", shape, &codes);
                put(&format!("{name}_scale_inv"), "F32", &json!(blocks), &scale);
            } else {
                let number = |(i, code): (usize, &u8)| {
                    let value = half::f16::from_bits(u16::from(*code) << 8).to_f32();
                    (value * scale[i / columns / 16 * blocks[1] + i % columns / 24]).to_le_bytes()
                };
                let plain: Vec<u8> = codes.iter().enumerate().flat_map(number).collect();
                put(name, "F32", shape, &plain);
            }
        }
        let header = serde_json::to_vec(&header).unwrap();
        let file = [(header.len() as u64).to_le_bytes().to_vec(), header, data].concat();
        (count > 0).then_some(file)
    });
    let [coded, plain] = files;
    Some([coded?, plain?])
}

/// Fused, split and stacked matrices, rows in another order and norms of every family come out of packed ones as
/// they do out of plain ones.
#[test]
fn packed_checkpoints_of_every_family_are_their_numbers() {
    let mut seen = Vec::new();
    for (name, known) in known() {
        // Matrices that transformers has the other way round are not read packed.
        let Some(files) = in_eight_bits(&known).filter(|_| !is_packed(&known) && name != "gpt2")
        else {
            continue;
        };
        let folder = tempfile::tempdir().unwrap();
        let mut made = Vec::new();
        for (file, coded) in files.iter().zip([true, false]) {
            let folder = folder.path().join(if coded { "coded" } else { "plain" });
            fs::create_dir(&folder).unwrap();
            let mut known = known.clone();
            if coded {
                let settings = json!({"quant_method": "fp8", "weight_block_size": [16, 24]});
                known["config"]["quantization_config"] = settings;
            }
            write(&known, &folder);
            fs::write(folder.join("model.safetensors"), file).unwrap();
            made.push(container::open(&converted(&folder), &Default::default()).unwrap());
        }
        let [coded, plain] = &made[..] else { panic!("{name}") };
        assert_eq!(coded.tensors.len(), plain.tensors.len(), "{name}");
        for (a, b) in coded.tensors.iter().zip(&plain.tensors) {
            assert_eq!((&a.name, digest(coded, a)), (&b.name, digest(plain, b)), "{name}");
        }
        seen.push(name);
    }
    assert!(seen.len() >= 12 && seen.iter().any(|name| name == "qwen3moe"), "{seen:?}");
}
