//! What is fuzzed: every reader of bytes from outside, each with whatever uses what it read.
//!
//! A target may refuse its input in one line of text or take it; it may not panic, hang or ask for
//! memory that the input does not warrant. `tests/hostile.rs` runs the same functions over the corpora.

use std::{cell::OnceCell, fs, path::Path};

use regguf::{
    bytes::{Input, Source},
    change::report::Detail,
    change::{report::Report, upgrade},
    check::{
        files::{
            download::{Nature, Pointer},
            sums::List,
            tensors,
        },
        models::{structure, vocabulary},
    },
    checkpoint::{
        self, Misfit, Weights, safetensors,
        tokenizer::{
            json::TokenizerJson,
            sentencepiece::SentencePiece,
            tiktoken::{self, Specials},
        },
        torch::{self, pickle, storage},
    },
    container::{self, OpenOptions, imatrix::Importance},
    error::{Error, Result},
    infer::tokenizer::{Special, Tokenizer},
    limits::Limits,
    model::{Model, Vocab},
    quant::{QuantType, decode_rows, isa::Isa, permute::transform},
};

/// A reader and what follows it.
pub type Target = fn(&[u8]);

/// Every target by the name of its program and of its corpus.
pub const ALL: [(&str, Target); 13] = [
    ("detect", detect),
    ("model", model),
    ("set", set),
    ("torch", torch_file),
    ("pickle", one_pickle),
    ("safetensors", safetensors_file),
    ("checkpoint", folder),
    ("sentencepiece", sentencepiece),
    ("tiktoken", byte_ranks),
    ("tokenizer_json", tokenizer_json),
    ("lists", lists),
    ("imatrix", imatrix),
    ("blocks", blocks),
];

/// The target of this name.
pub fn named(name: &str) -> Target {
    ALL.iter().find(|(known, _)| *known == name).expect("a target of this name").1
}

/// What is put between the files of a target that takes several.
pub const BETWEEN: &[u8] = b"\n#FILE ";

/// The longest message that a person is asked to read.
const LONGEST: usize = 4000;

/// Takes a refusal if it is one line.
fn taken<T>(result: Result<T>) -> Option<T> {
    result.map_err(|error| readable(&error)).ok()
}

fn readable(error: &Error) {
    let said = error.to_string();
    assert!(!said.chars().any(char::is_control), "{said:?}");
    assert!(said.len() < LONGEST, "{} bytes: {}", said.len(), &said[..200]);
}

fn memory(bytes: &[u8]) -> Input {
    Input::memory("x.bin", bytes.to_vec())
}

fn opened(input: &Input) -> Option<Model> {
    let detected = taken(container::detect(input, &OpenOptions::default()))?;
    taken(detected.sure(input))
}

/// What a file is.
fn detect(bytes: &[u8]) {
    opened(&memory(bytes));
}

/// Whatever is done with a model without writing it.
fn model(bytes: &[u8]) {
    if let Some(model) = opened(&memory(bytes)) {
        used(&model);
    }
}

fn used(model: &Model) {
    structure::check(model);
    vocabulary::health(model);
    for tensor in model.tensors.iter().filter(|t| t.bytes() < 1 << 16) {
        let mut rows = vec![0; usize::try_from(tensor.bytes()).unwrap()];
        if taken(model.read_rows(tensor, 0, tensor.rows(), &mut rows)).is_some() {
            let len = usize::try_from(tensor.row_len()).unwrap();
            let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
            decode_rows(tensor.quant, Isa::best(), &rows, len, &mut out);
        }
    }
    encode(&model.vocab);
    // One target a file, so that the fuzzer sees more files.
    let to = ["gguf-v3", "gguf-v1", "ggjt-v3", "ggml"][model.tensors.len() % 4];
    let options = upgrade::Options { to: Some(to.to_owned()), ..Default::default() };
    if let Some((model, plan)) = taken(upgrade::plan(model.clone(), &options)) {
        Report::new(&model, &plan, None).text(Detail::Tensors, None);
    }
}

/// Encodes and decodes what a vocabulary and people may say.
fn encode(vocab: &Vocab) {
    let Some(tokenizer) = taken(Tokenizer::new(vocab)) else { return };
    let own: String = vocab.tokens.iter().map(|t| String::from_utf8_lossy(t)).take(64).collect();
    let own: String = own.chars().take(512).collect();
    for text in ["", " Hello,\n  world 123!\u{2581}\u{1f600}</s>", own.as_str()] {
        for special in [Special::Text, Special::Token] {
            let tokens = tokenizer.encode_whole(text, special);
            tokenizer.decode(&tokens);
        }
    }
}

thread_local! {
    /// A folder for targets that read several files.
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// Calls `read` with a folder that holds the files of `bytes`, of which each begins with the letter
/// of its name.
fn with_files(bytes: &[u8], names: &[&str], read: impl Fn(&Path)) {
    let mut files: Vec<(&str, &[u8])> = Vec::new();
    let mut rest = bytes;
    loop {
        let end = rest.windows(BETWEEN.len()).position(|w| w == BETWEEN);
        let piece = &rest[..end.unwrap_or(rest.len())];
        if let Some((letter, piece)) = piece.split_first() {
            let index = usize::from(letter.wrapping_sub(b'a'));
            let name = names[index % names.len()];
            files.retain(|(known, _)| *known != name);
            files.push((name, piece));
        }
        let Some(end) = end else { break };
        rest = &rest[end + BETWEEN.len()..];
    }
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().unwrap()).path();
        for (name, piece) in &files {
            fs::write(folder.join(name), piece).unwrap();
        }
        read(folder);
        for (name, _) in &files {
            fs::remove_file(folder.join(name)).unwrap();
        }
    });
}

/// The files of a set of parts or shards; the first of each kind is opened.
pub const SET: [&str; 7] = [
    "x.bin",
    "x.bin.1",
    "x.bin.2",
    "x.bin.3",
    "x-00001-of-00003.gguf",
    "x-00002-of-00003.gguf",
    "x-00003-of-00003.gguf",
];

fn set(bytes: &[u8]) {
    with_files(bytes, &SET, |folder| {
        for name in ["x.bin", "x-00001-of-00003.gguf"] {
            let path = folder.join(name);
            if path.exists()
                && let Some(model) = taken(container::open(&path, &OpenOptions::default()))
            {
                used(&model);
            }
        }
    });
}

/// The files of a checkpoint.
pub const CHECKPOINT: [&str; 13] = [
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "added_tokens.json",
    "tokenizer.model",
    "params.json",
    "README.md",
    "generation_config.json",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin",
    "consolidated.00.pth",
    "chat_template.json",
];

fn folder(bytes: &[u8]) {
    with_files(bytes, &CHECKPOINT, |folder| {
        for misfit in [Misfit::Refuse, Misfit::Mend, Misfit::Leave] {
            if let Some(model) = taken(checkpoint::open(
                folder,
                &checkpoint::Options { misfit, ..Default::default() },
            )) {
                used(&model);
            }
        }
    });
}

fn weights(weights: &Weights) {
    for stored in weights.tensors.iter().take(64) {
        if let (Some(piece), Some(_)) = (taken(stored.piece()), taken(stored.quant())) {
            let mut first = vec![0; usize::try_from(piece.row_bytes).unwrap_or(0).min(256)];
            taken(weights.files[stored.file].read_at(piece.at, &mut first));
        }
    }
}

fn torch_file(bytes: &[u8]) {
    taken(torch::open(&memory(bytes), &Limits::DEFAULT)).iter().for_each(weights);
}

fn safetensors_file(bytes: &[u8]) {
    taken(safetensors::open(&memory(bytes), &Limits::DEFAULT)).iter().for_each(weights);
}

fn one_pickle(bytes: &[u8]) {
    let input = memory(bytes);
    if let Some((node, _)) = taken(pickle::read(&Source::new(&input, "pickle"), 0, input.len())) {
        taken(storage::views(&input, "pickle", &node));
        storage::storages(&node);
    }
}

fn sentencepiece(bytes: &[u8]) {
    if let Some(model) = taken(SentencePiece::parse("tokenizer.model", bytes, &Limits::DEFAULT)) {
        encode(&model.vocab());
    }
}

fn byte_ranks(bytes: &[u8]) {
    let specials = [Specials::Llama3, Specials::Llama31][bytes.len() % 2];
    if tiktoken::is_tiktoken(bytes)
        && let Some(vocab) =
            taken(tiktoken::parse("tokenizer.model", bytes, specials, &Limits::DEFAULT))
    {
        encode(&vocab);
    }
}

fn tokenizer_json(bytes: &[u8]) {
    if let Some(read) = taken(TokenizerJson::parse("tokenizer.json", bytes, &Limits::DEFAULT)) {
        encode(&read.vocab);
    }
}

fn lists(bytes: &[u8]) {
    for name in ["checklist.chk", "model.gguf.sha256"] {
        if let Ok(list) = List::parse(bytes, Path::new(name)) {
            list.entries.iter().take(16).for_each(|entry| drop(list.locate(entry)));
        }
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(list) = tensors::parse(&text) {
        assert_eq!(tensors::parse(&tensors::to_text(&list)), Ok(list));
    }
    if let Some(nature) = Nature::of(bytes, bytes.len() as u64) {
        nature.noun();
    }
    Pointer::parse(bytes);
}

fn imatrix(bytes: &[u8]) {
    taken(Importance::of(&memory(bytes), &Limits::DEFAULT));
}

/// Rows of the type that the first byte names: every instruction set gives the same weights, two turns
/// of the byte order are none, and every way to another type takes them.
fn blocks(bytes: &[u8]) {
    let [kind, blocks, bytes @ ..] = bytes else { return };
    let all: Vec<QuantType> = QuantType::all().collect();
    let q = all[usize::from(*kind) % all.len()];
    let row_len = q.layout().elements * (1 + usize::from(*blocks) % 4);
    let group = usize::try_from(q.row_bytes(row_len as u64).unwrap()).unwrap() * q.row_group();
    let bytes = &bytes[..bytes.len() / group * group];
    let rows = bytes.len() / group * q.row_group();
    let bits = |isa| -> Vec<u32> {
        let mut out = vec![0.0f32; row_len * rows];
        decode_rows(q, isa, bytes, row_len, &mut out);
        out.iter().map(|x| if x.is_nan() { !0 } else { x.to_bits() }).collect()
    };
    let portable = bits(Isa::PORTABLE);
    assert!(Isa::available().into_iter().all(|isa| bits(isa) == portable), "{q}");
    if q.layout().front == 0 {
        let mut turned = bytes.to_vec();
        q.swap_bytes(&mut turned);
        q.swap_bytes(&mut turned);
        assert_eq!(turned, bytes, "{q}");
    }
    for way in all.into_iter().filter_map(|to| Some((to, transform(q, to)?))) {
        let (to, way) = way;
        let Some(row) = to.row_bytes(row_len as u64) else { continue };
        if rows.is_multiple_of(to.row_group()) {
            let mut out = vec![0; usize::try_from(row).unwrap() * rows];
            way.run(Isa::best(), row_len, bytes, &mut out);
        }
    }
}
