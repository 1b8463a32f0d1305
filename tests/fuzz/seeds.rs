//! Writes the first corpus of every target: golden files, cut down to a few tokens and rows so that the
//! fuzzer tries many of them a second.
//!
//! `cd tests/fuzz && cargo run --release --example seeds`

use std::{
    fs,
    io::{Cursor, Read, Write},
    path::{Path, PathBuf},
};

use regguf::{
    bytes::Input,
    container::{self, Layout, OpenOptions, TensorHead, Verdict, keyed, stream},
    format::{catalog, container::Skeleton},
    model::{Array, Metadata, Model, Tensor, Value, Vocab, printable},
    quant::QuantType,
};
use zip::{CompressionMethod::Deflated, ZipArchive, ZipWriter, write::SimpleFileOptions};

#[allow(dead_code, reason = "the fuzzed functions are not called here")]
mod targets;
#[path = "../checkpoint/torch.rs"]
mod torch;

/// Tokens and array items that stay.
const KEPT: usize = 6;

fn main() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    let mut files = Vec::new();
    below(&golden, &mut files);
    files.sort();
    for path in &files {
        let bytes = fs::read(path).unwrap();
        let name = path.strip_prefix(&golden).unwrap().display().to_string().replace('/', "_");
        match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
            "bin" if path.starts_with(golden.join("blocks")) => block(path, &bytes),
            "model" => put("sentencepiece", &name, &pieces(&bytes)),
            "chk" => put("lists", &name, &bytes),
            "dat" => put("imatrix", &name, &bytes[..bytes.len().min(4096)]),
            _ => {}
        }
        if let Some(small) = shrunk(path) {
            put("detect", &name, &small);
            put("model", &name, &small);
        }
    }
    sets(&golden);
    weights(&golden);
    checkpoints(&golden);
    texts();
}

fn below(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { below(&path, out) } else { out.push(path) }
    }
}

fn put(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("golden-{name}")), bytes).unwrap();
}

/// A model file with every tensor, each of a row or two, and a few tokens.
fn shrunk(path: &Path) -> Option<Vec<u8>> {
    let model = opened(&Input::open(path).ok()?)?;
    let mut format = catalog::container(&model.format)?.clone();
    // What keeps containers from being written is not needed here.
    format.vocab.iter_mut().for_each(|shape| shape.special_bit = false);
    format.tensors.transposed.clear();
    format.tensors.grouped.clear();
    let format = &format;
    let heads: Vec<TensorHead> = model.tensors.iter().map(head).collect();
    let records = if model.records.is_empty() { &model.vocab } else { &model.records };
    let is_file = format.vocab.as_ref().is_some_and(|shape| shape.file);
    let token = |token: &[u8]| if is_file { pieces(token) } else { token.to_vec() };
    let vocab = Vocab {
        tokens: records.tokens.iter().take(KEPT).map(token).collect(),
        scores: records.scores.iter().take(KEPT).copied().collect(),
        merges: model.vocab.merges.iter().take(KEPT).collect(),
        ..Vocab::default()
    };
    let mut header = model.header.clone();
    for (word, value) in &mut header {
        match word.as_str() {
            "n_vocab" if !is_file => *value = (vocab.tokens.len() as i64).max(2),
            // Where a shape tells the layout.
            "n_embd" if !format.detect.shapes.is_empty() => {
                let matrix = heads.iter().find(|head| head.shape.len() == 2);
                *value = matrix.map_or(*value, |head| head.shape[1] as i64);
            }
            "n_bpe_merges" => *value = vocab.merges.len() as i64,
            // Heads of two rows, of which there is one.
            "n_head" | "n_heads" | "n_head_kv" | "num_attention_heads" | "num_key_value_heads" => {
                *value = 1;
            }
            "n_mels" | "filters.n_mel" => *value = 1,
            _ => {}
        }
    }
    let matrix = format.header.matrix.as_ref();
    let mut metadata = Metadata::new();
    for (key, value) in model.metadata.iter() {
        let kept = if matrix.is_some_and(|matrix| matrix.name == key) { FILTER } else { KEPT };
        let value = match value {
            Value::Array(items) => Array::of(items.kind(), items.iter().take(kept)).into(),
            other => other.clone(),
        };
        metadata.push(key.to_owned(), value);
    }
    let layout = match format.format.skeleton {
        Skeleton::Stream => stream::layout(format, &header, &metadata, &vocab, &heads).ok()?,
        Skeleton::Keyed => keyed::layout(format, &header, &metadata, &heads).ok()?,
        _ => return None,
    };
    let small = written(&model, &layout, &heads);
    let found = opened(&Input::memory("small", small.clone()));
    println!("{}: {} {}", path.display(), model.format, found.map_or("refused", |_| "opens"));
    Some(small)
}

/// Numbers in a row of Whisper's filters.
const FILTER: usize = 201;

/// The model of a file; of one that may be of two formats, that of the first.
fn opened(input: &Input) -> Option<Model> {
    let detect = |options: &OpenOptions| container::detect(input, options).ok();
    let format = match detect(&OpenOptions::default())?.verdict {
        Verdict::Either(formats, _) => formats.first().map(|format| format.id().to_owned()),
        _ => None,
    };
    detect(&OpenOptions { format, ..OpenOptions::default() })?.sure(input).ok()
}

fn head(tensor: &Tensor) -> TensorHead {
    let quant = tensor.quant;
    let elements = quant.layout().elements as u64;
    let joined = ["query_key_value", "Wqkv", "c_attn"].iter().any(|qkv| tensor.name.contains(qkv));
    let rows = if joined { 6 } else { 2 };
    let shape = match (tensor.shape.as_slice(), tensor.fold) {
        (_, fold) if fold > 1 => vec![fold, elements / fold],
        ([_], _) => vec![elements.max(rows)],
        _ => vec![(quant.row_group() as u64).max(rows), elements.max(2)],
    };
    let elements: u64 = shape.iter().product();
    let bytes = quant.row_bytes(elements).unwrap();
    TensorHead { name: tensor.name.clone(), shape, quant, bytes }
}

fn written(model: &Model, layout: &Layout, heads: &[TensorHead]) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(layout.total).unwrap()];
    for (at, bytes) in &layout.chunks {
        let at = usize::try_from(*at).unwrap();
        out[at..at + bytes.len()].copy_from_slice(bytes);
    }
    for ((at, head), tensor) in layout.data.iter().zip(heads).zip(&model.tensors) {
        let at = usize::try_from(*at).unwrap();
        let to = &mut out[at..at + usize::try_from(head.bytes).unwrap()];
        let piece = &tensor.pieces[0];
        model.files[piece.file].read_at(piece.at, to).unwrap();
    }
    out
}

fn block(path: &Path, bytes: &[u8]) {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let kind = QuantType::all().position(|q| format!("{}-{}", q.name(), q.dialect()) == stem);
    if let Some(kind) = kind {
        let seed = [&[u8::try_from(kind).unwrap(), 0], bytes].concat();
        put("blocks", stem, &seed);
    }
}

/// The beginning and the end of a `tokenizer.model`, between which its pieces are.
fn pieces(bytes: &[u8]) -> Vec<u8> {
    let mut at = 0;
    // A piece is the byte 0x0a, a length below 128 and as many bytes.
    for _ in 0..12 {
        at += 2 + usize::from(bytes[at + 1]);
    }
    let mut end = at;
    while bytes.get(end) == Some(&0x0a) {
        end += 2 + usize::from(bytes[end + 1]);
    }
    [&bytes[..at], &bytes[end..]].concat()
}

fn joined(files: &[(char, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<Vec<u8>> =
        files.iter().map(|(letter, bytes)| [&[*letter as u8], bytes.as_slice()].concat()).collect();
    files.join(targets::BETWEEN)
}

fn sets(golden: &Path) {
    for (name, files) in [
        ("parts-q4_0", &["E3-2part/ggml-model-q4_0.bin", "E3-2part/ggml-model-q4_0.bin.1"][..]),
        ("parts-f16", &["E2-2part/ggml-model-f16.bin", "E2-2part/ggml-model-f16.bin.1"]),
        (
            "shards",
            &[
                "E10/split-Q4_K_M-00001-of-00003.gguf",
                "E10/split-Q4_K_M-00002-of-00003.gguf",
                "E10/split-Q4_K_M-00003-of-00003.gguf",
            ],
        ),
    ] {
        let first = if name == "shards" { 'e' } else { 'a' };
        let files =
            (first..).zip(files).map(|(l, f)| (l, shrunk(&golden.join("T").join(f)).unwrap()));
        put("set", name, &joined(&files.collect::<Vec<_>>()));
    }
}

/// A file of `torch.save` with nothing but zeros in its storages, packed.
fn packed(path: &Path) -> Vec<u8> {
    let mut from = ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let mut to = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(Deflated);
    for index in 0..from.len() {
        let mut file = from.by_index(index).unwrap();
        let name = file.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        if name.contains("/data/") {
            bytes.fill(0);
        }
        to.start_file(name, options).unwrap();
        to.write_all(&bytes).unwrap();
    }
    to.finish().unwrap().into_inner()
}

fn pickle(path: &Path) -> Vec<u8> {
    let mut from = ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let name = from.file_names().map(|n| n.unwrap().into_owned()).find(|n| n.ends_with("data.pkl"));
    let mut bytes = Vec::new();
    from.by_name(&name.unwrap()).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn weights(golden: &Path) {
    let meta = golden.join("T/meta/T/consolidated.00.pth");
    let bin = golden.join("T/hf-bin/pytorch_model.bin");
    for (name, path) in [("meta", &meta), ("hf-bin", &bin)] {
        put("torch", name, &packed(path));
        put("pickle", name, &pickle(path));
    }
    let views = [
        torch::View::whole("tok_embeddings.weight", "FloatStorage", "0", &[2, 4]),
        torch::View::whole("norm.weight", "HalfStorage", "1", &[4]),
    ];
    let storages: [(&str, &[u8]); 2] = [("0", &[1; 32]), ("1", &[2; 8])];
    let stored = zip::CompressionMethod::Stored;
    put("torch", "stored", &torch::archive(&torch::state_dict(&views, false), &storages, stored));
    put("torch", "legacy", &torch::legacy(&views[..1], &storages[..1], 4));
    put("torch", "tar", &torch::tar(&views[..1], &storages[..1], 4));
    put("pickle", "state", &torch::state_dict(&views, true));
    for (name, path) in [("hf-st", "T/hf-st"), ("hf-st-2", "T/hf-st-2shard")] {
        for entry in fs::read_dir(golden.join(path)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                put("safetensors", name, &small_safetensors(&fs::read(path).unwrap()));
            }
        }
    }
}

/// The same names and types with four numbers in every tensor.
fn small_safetensors(bytes: &[u8]) -> Vec<u8> {
    let len = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let header = String::from_utf8(bytes[8..8 + len].to_vec()).unwrap();
    let names = header.split('"').filter(|n| n.ends_with(".weight"));
    let entries: Vec<String> = names
        .enumerate()
        .map(|(i, name)| {
            let shape = if name.contains("norm") { "[4]" } else { "[2,2]" };
            let (from, to) = (i * 8, i * 8 + 8);
            format!(r#""{name}":{{"dtype":"F16","shape":{shape},"data_offsets":[{from},{to}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    out.resize(out.len() + entries.len() * 8, 0x3c);
    out
}

fn checkpoints(golden: &Path) {
    let read = |name: &str| fs::read(golden.join(name)).unwrap();
    let config = br#"{"architectures":["LlamaForCausalLM"],"hidden_size":2,"num_attention_heads":1,
        "num_hidden_layers":2,"intermediate_size":2,"rms_norm_eps":1e-6,"vocab_size":2,
        "max_position_embeddings":64,"rope_scaling":{"type":"linear","factor":2.0},
        "bos_token_id":1,"eos_token_id":2,"_name_or_path":"org/name-7B-chat-v0.1"}"#;
    let card = b"---\nlicense: mit\nname: x\ntags:\n - a\n - b\nbase_model: org/base-7B\n---\ntext";
    let added = br#"{"<x>": 1, "y": 3}"#;
    let weights = small_safetensors(&read("T/hf-st/model.safetensors"));
    let spm = pieces(&read("T/hf-st/tokenizer.model"));
    let json = br#"{"added_tokens":[{"id":0,"content":"<s>","special":true}],"model":{"type":"BPE",
        "vocab":{"<s>":0,"a":1},"merges":[]},"pre_tokenizer":{"type":"ByteLevel"}}"#;
    let (config, card, added) = (config.to_vec(), card.to_vec(), added.to_vec());
    let settings = read("T/hf-st/tokenizer_config.json");
    let rest = vec![('b', settings), ('d', added), ('e', spm), ('g', card)];
    let hf = [vec![('a', config.clone()), ('j', weights.clone())], rest].concat();
    put("checkpoint", "hf", &joined(&hf));
    put("checkpoint", "json", &joined(&[('a', config), ('c', json.to_vec()), ('j', weights)]));
    let pth = packed(&golden.join("T/meta/T/consolidated.00.pth"));
    let meta =
        [('f', read("T/meta/T/params.json")), ('e', pieces(&read("T/meta/tokenizer.model")))];
    put("checkpoint", "meta", &joined(&[meta.to_vec(), vec![('l', pth)]].concat()));
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&read(name)).unwrap() };
    let bpe = json("tokenizers/bpe-1100.json")["tokenizer"].take();
    put("tiktoken", "bpe", &byte_ranks(&bpe));
    put("tokenizer_json", "bpe", &small_json(bpe));
    put("tokenizer_json", "llama", &small_json(json("tokenizers/llama-512.json")));
}

/// The tokens of a byte-level `tokenizer.json` as tiktoken lists them.
fn byte_ranks(json: &serde_json::Value) -> Vec<u8> {
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<(u64, &String)> =
        vocab.iter().map(|(token, id)| (id.as_u64().unwrap(), token)).collect();
    tokens.sort();
    let lines = tokens.iter().enumerate().map(|(rank, (_, token))| {
        format!("{} {rank}\n", base64(&printable::bytes_of(token.as_bytes())))
    });
    lines.collect::<String>().into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let four = |three: &[u8]| {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let digit = |i: usize| char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]);
        (0..4).map(move |i| if i <= three.len() { digit(i) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(four).collect()
}

/// A `tokenizer.json` with its steps and a few of its tokens and merges.
fn small_json(mut json: serde_json::Value) -> Vec<u8> {
    let model = &mut json["model"];
    if let Some(vocab) = model["vocab"].as_object_mut() {
        vocab.retain(|_, id| id.as_u64().unwrap() < 16);
    }
    if let Some(merges) = model["merges"].as_array_mut() {
        merges.truncate(KEPT);
    }
    json.to_string().into_bytes()
}

/// What is beside models, and what downloads turn out to be.
fn texts() {
    for (name, text) in [
        ("html", "<!DOCTYPE html><html><head>"),
        ("pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0f4e\nsize 123\n"),
        ("gzip", "\x1f\u{8b}\x08"),
        ("zeros", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ] {
        put("detect", name, text.as_bytes());
        put("lists", name, text.as_bytes());
    }
    let md5 = "7b84a1d230b68f44170df79f45b4f170";
    let sha = md5.repeat(2);
    for (name, text) in [
        ("gnu", format!("{md5}  a\n{sha} *b c\n\\{md5}  a\\nb\n")),
        ("bsd", format!("# note\nMD5 (a b) = {md5}\r\nSHA2-256(x)= {sha}\n")),
        ("headed", format!("%file: 7B/checklist.chk\n{md5}  x\n%file: y\n{sha}\n")),
        ("tensors", format!("%model: 7B/x.gguf\n{sha}  q4_0  4x32  blk.0.attn_q.weight\n")),
    ] {
        put("lists", name, text.as_bytes());
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        put("lists", &format!("{name}-utf16"), &[b"\xff\xfe", wide.as_slice()].concat());
    }
    let entry = |name: &str| {
        let numbers = [1.0f32, 2.0].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        let int = |n: u32| n.to_le_bytes();
        [&int(name.len() as u32)[..], name.as_bytes(), &int(4), &int(2), &numbers].concat()
    };
    let old = [&2u32.to_le_bytes()[..], &entry("a.weight"), &entry("b.weight")].concat();
    put(
        "imatrix",
        "old",
        &[old.as_slice(), &7u32.to_le_bytes(), &1u32.to_le_bytes(), b"t"].concat(),
    );
    imatrix_gguf();
}

fn imatrix_gguf() {
    let format = catalog::container("gguf-v3").unwrap();
    let quant = QuantType::today("f32").unwrap();
    let head = |name: &str, shape: &[u64], bytes| TensorHead {
        name: name.to_owned(),
        shape: shape.to_vec(),
        quant,
        bytes,
    };
    let heads = [head("w.in_sum2", &[2, 3], 24), head("w.counts", &[2, 1], 8)];
    let mut metadata = Metadata::new();
    metadata.set("general.type", "imatrix");
    metadata.set("imatrix.datasets", Value::strings(["a.txt"]));
    metadata.set("imatrix.chunk_count", 9u32);
    let layout = keyed::layout(format, &[], &metadata, &heads).unwrap();
    let mut out = vec![0x3f; usize::try_from(layout.total).unwrap()];
    for (at, bytes) in &layout.chunks {
        let at = usize::try_from(*at).unwrap();
        out[at..at + bytes.len()].copy_from_slice(bytes);
    }
    put("imatrix", "gguf", &out);
}
