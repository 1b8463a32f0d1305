//! Hugging Face checkpoints of many families, made on the spot: `golden/families/checkpoints` has their names and
//! shapes, what llama.cpp's converter made of them and what transformers says; golden/README.md says how it was made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regguf::{
    Existing,
    change::{self, convert, upgrade},
    checkpoint,
    model::{Model, Tensor, Value},
};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

/// Numbers within a half of `around`, from a generator that the name seeds (splitmix64).
pub fn numbers(name: &str, count: usize, around: f32) -> Vec<f32> {
    let seed = name.bytes().fold(7u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
    let number = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        around + (z >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count as u64).map(number).collect()
}

/// What is known of each model: name, and the file of golden/families/checkpoints.
pub fn known() -> Vec<(String, Json)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/families/checkpoints");
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&fs::read(&path).unwrap()).unwrap())
    };
    let all: Vec<_> = fs::read_dir(folder).unwrap().map(of).collect();
    assert!(all.len() >= 8, "{} checkpoints", all.len());
    all
}

pub fn sizes(json: &Json) -> Vec<usize> {
    json.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

/// The bytes of a safetensors file of numbers that the names decide.
pub fn safetensors(known: &Json) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for entry in known["tensors"].as_array().unwrap() {
        let (name, shape) = (entry[0].as_str().unwrap(), sizes(&entry[1]));
        let first = data.len();
        let dtype = match entry[2].as_f64() {
            Some(around) => {
                let numbers = numbers(name, shape.iter().product(), around as f32);
                data.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
                "F32"
            }
            // This many bytes from the first on.
            None => {
                let [low, count] = sizes(&entry[2])[..] else { panic!("{entry}") };
                let numbers = numbers(name, shape.iter().product(), 0.0);
                let byte = |number: &f32| low as u8 + ((number + 0.5) * count as f32).floor() as u8;
                data.extend(numbers.iter().map(byte));
                "U8"
            }
        };
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [first, data.len()]});
        header.insert(name.to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [(header.len() as u64).to_le_bytes().to_vec(), header, data].concat()
}

/// A byte-level tokenizer of single characters and, last, special tokens.
pub fn tokenizer(count: u32, special: &[&str]) -> Json {
    let bytes = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}');
    let first = count - special.len() as u32;
    let vocab: serde_json::Map<String, Json> =
        bytes.take(first as usize).zip(0u32..).map(|(c, id)| (c.to_string(), id.into())).collect();
    let added = special.iter().zip(first..);
    let added = added.map(|(text, id)| json!({"id": id, "content": text, "special": true}));
    let step = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
    json!({
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": step, "post_processor": step, "decoder": step,
        "model": {"type": "BPE", "byte_fallback": false, "vocab": vocab, "merges": []}
    })
}

/// Writes the checkpoint as a person has it.
pub fn write(known: &Json, folder: &Path) {
    let put = |name: &str, bytes: Vec<u8>| fs::write(folder.join(name), bytes).unwrap();
    let json = |json: &Json| serde_json::to_vec(json).unwrap();
    put("config.json", json(&known["config"]));
    put("model.safetensors", safetensors(known));
    match known["tokenizer"].as_str().unwrap() {
        "bytes" => {
            let config = &known["config"];
            let vocab = [config, &config["text_config"]].map(|part| part["vocab_size"].as_u64());
            let vocab = vocab.into_iter().flatten().next().unwrap() as u32;
            let end = "<|endoftext|>";
            let special = known["special"].as_array().into_iter().flatten();
            let special = special.map(|text| text.as_str().unwrap()).chain([end]);
            put("tokenizer.json", json(&tokenizer(vocab, &special.collect::<Vec<_>>())));
            let settings = json!({"bos_token": end, "eos_token": end, "unk_token": end});
            put("tokenizer_config.json", json(&settings));
        }
        hex => {
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
            let model = hex.as_bytes().chunks(2).map(|pair| byte(pair).unwrap());
            put("tokenizer.model", model.collect());
        }
    }
}

/// The checkpoint converted to floats of 32 bits.
pub fn converted(folder: &Path) -> PathBuf {
    converted_to("f32", folder)
}

pub fn converted_to(floats: &str, folder: &Path) -> PathBuf {
    let model = checkpoint::open(folder, &checkpoint::Options::default());
    let model = model.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let options = convert::Options {
        types: vec![floats.to_owned()],
        upgrade: upgrade::Options { to: Some("gguf-v3".to_owned()), ..Default::default() },
        folder: folder.to_owned(),
        ..convert::Options::default()
    };
    let (model, plans) = convert::plan(model, &options).unwrap();
    change::carry(&model, &plans, Existing::Keep, &()).unwrap();
    plans[0].output.clone()
}

pub fn digest(model: &Model, tensor: &Tensor) -> String {
    let mut bytes = vec![0; tensor.bytes() as usize];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Why a key differs from the one that the converter writes.
const FOLDER: &str = "models without a name are named after their folder";
const STAMPED: &str = "every file says its type, which some of the converter's classes leave out";
const BASE: &str = "readers would take 10000, which the converter leaves them to";
const ROWS: &str = "the rows of the matrix; the converter takes four times the width";
const TRAINED: &str = "config.json says none; the converter takes the width of the model";
const REACH: &str = "readers would take the whole context for that of training and one for the factor, which the \
                     converter leaves them to";
const NO_TOKEN: &str = "the vocabulary of the test has no such token";
const SAME_CUT: &str =
    "names of one pre-tokenizer; the converter knows registered vocabularies only";

fn is_allowed(name: &str, key: &str) -> Option<&'static str> {
    match key {
        "general.name" => Some(FOLDER),
        "general.file_type" if ["gptneox", "mpt"].contains(&name) => Some(STAMPED),
        "gemma.rope.freq_base"
        | "gemma2.rope.freq_base"
        | "phi2.rope.freq_base"
        | "stablelm.rope.freq_base" => Some(BASE),
        "phi2.feed_forward_length" => Some(ROWS),
        "bloom.context_length" => Some(TRAINED),
        "minicpm.rope.scaling.attn_factor" | "minicpm.rope.scaling.original_context_length" => {
            Some(REACH)
        }
        "tokenizer.ggml.eot_token_id" => Some(NO_TOKEN),
        "tokenizer.ggml.pre" => Some(SAME_CUT),
        _ => None,
    }
}

/// Whether a value is what the golden file says: whole numbers as such, others as floats.
fn same(ours: Option<&Value>, theirs: &Json) -> bool {
    let Some(ours) = ours else { return false };
    match theirs {
        Json::Array(theirs) => {
            let Value::Array(ours) = ours else { return false };
            let all = ours.iter().zip(theirs).all(|(ours, theirs)| same(Some(&ours), theirs));
            ours.len() == theirs.len() && all
        }
        Json::Bool(theirs) => ours.as_bool() == Some(*theirs),
        Json::String(theirs) => ours.as_str() == Some(theirs),
        theirs if theirs.is_u64() => ours.as_u64() == theirs.as_u64(),
        theirs => ours.as_f64().map(|v| v as f32) == theirs.as_f64().map(|v| v as f32),
    }
}

/// Whether tensors and keys are those of the converter's file.
pub fn compare(name: &str, known: &Json, model: &Model, wrong: &mut Vec<String>) {
    // The converter has no class for GPT-J, fails on norms of single heads, and writes StarCoder's rows of many key heads
    // as they are, head by head, under one key head.
    let Some(sums) = known["sums"].as_object() else {
        assert!(
            ["gptj", "starcoder-heads", "stablelm-heads"].contains(&name),
            "{name}: no digests"
        );
        return;
    };
    if model.tensors.len() != sums.len() {
        wrong.push(format!("{name}: {} tensors, theirs {}", model.tensors.len(), sums.len()));
    }
    for tensor in &model.tensors {
        let theirs = &sums[&tensor.name];
        let shape: Vec<usize> = tensor.shape.iter().map(|n| *n as usize).collect();
        let theirs_is = theirs[1].as_str().unwrap().to_lowercase();
        let fits = (shape, tensor.quant.name()) == (sizes(&theirs[0]), theirs_is.as_str());
        if !fits || digest(model, tensor) != theirs[2] {
            wrong.push(format!("{name}: {} is another", tensor.name));
        }
    }
    let keys = known["keys"].as_object().unwrap();
    for (key, value) in keys {
        let ours = model.metadata.get(key);
        if !same(ours, value) && is_allowed(name, key).is_none() {
            wrong.push(format!("{name}: {key} is {ours:?}, theirs {value}"));
        }
    }
    for (key, value) in model.metadata.iter().filter(|(key, _)| !keys.contains_key(*key)) {
        if is_allowed(name, key).is_none() {
            wrong.push(format!("{name}: {key} = {value} is ours alone"));
        }
    }
}
