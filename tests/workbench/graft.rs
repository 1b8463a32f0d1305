//! `regguf upgrade --drop … --take-from …`: tensors go and come, counts follow, and nothing else changes; merges
//! that a file lost come back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regguf::{
    container::{self, OpenOptions},
    model::Model,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn call(verb: &str, path: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regguf")).arg(verb).arg(path).args(words).output().unwrap()
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap()
}

/// Every tensor's name, type, shape and bytes, by name.
fn tensors(model: &Model) -> Vec<(String, String, Vec<u64>, Vec<u8>)> {
    let of = |tensor: &regguf::model::Tensor| {
        let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
        model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
        (tensor.name.clone(), tensor.quant.to_string(), tensor.shape.clone(), bytes)
    };
    let mut all: Vec<_> = model.tensors.iter().map(of).collect();
    all.sort();
    all
}

#[test]
fn blocks_are_left_out_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let whole = golden("T/E10/model-Q4_K_M.gguf");
    let (short, again) = (at("short.gguf"), at("again.gguf"));
    let words = ["--drop", r"^blk\.1\.", "-o", &short];
    let said = super::said(&words, call("upgrade", &whole, &words));
    assert!(said.contains("left out: blk.1.") && said.contains("block_count is 1"), "{said}");
    let model = open(Path::new(&short));
    assert_eq!(model.metadata.u64("llama.block_count"), Some(1));
    let before = tensors(&open(&whole));
    let left: Vec<_> =
        before.iter().filter(|(name, ..)| !name.starts_with("blk.1.")).cloned().collect();
    assert!(tensors(&model) == left && left.len() < before.len());

    let other = whole.display().to_string();
    let words = ["--take-from", &other, r"^blk\.1\.", "-o", &again];
    let said = super::said(&words, call("upgrade", Path::new(&short), &words));
    assert!(
        said.contains("model-Q4_K_M.gguf: blk.1.") && said.contains("block_count is 2"),
        "{said}"
    );
    let model = open(Path::new(&again));
    assert_eq!(model.metadata.u64("llama.block_count"), Some(2));
    assert!(tensors(&model) == before);
}

#[test]
fn blocks_that_predict_further_tokens_come_back_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let [first, whole, short, again] = ["first", "whole", "short", "again"].map(at);
    let key = "llama.nextn_predict_layers";
    let words = ["set", key, "1", "--anyway", "-o", &first];
    super::said(&words, call("metadata", &golden("T/E10/model-Q4_K_M.gguf"), &words));
    // A key behind it, so that its place shows.
    let words = ["set", "general.author", "nobody", "-o", &whole];
    super::said(&words, call("metadata", Path::new(&first), &words));
    let words = ["--drop", r"^blk\.1\.", "-o", &short];
    super::said(&words, call("upgrade", Path::new(&whole), &words));
    assert_eq!(open(Path::new(&short)).metadata.u64(key), None, "none is left");
    let words = ["--take-from", &whole, r"^blk\.1\.", "-o", &again];
    super::said(&words, call("upgrade", Path::new(&short), &words));
    assert!(fs::read(&again).unwrap() == fs::read(&whole).unwrap(), "the first file");
}

#[test]
fn what_cannot_go_or_come_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = golden("T/E10/model-Q4_K_M.gguf");
    let other = whole.display().to_string();
    let out = folder.path().join("out.gguf").display().to_string();
    for (words, wanted) in [
        (&["--drop", "^none$"][..], "finds no tensor"),
        (&["--drop", "."], "nothing would be left"),
        (&["--drop", r"^blk\.0\."], "block 0 would have no tensors"),
        (&["--take-from", &other, "^none$"], "finds no tensor"),
        (&["--take-from", &other, "^output_norm"], "output_norm.weight is there already"),
    ] {
        let words = [words, &["-o", &out]].concat();
        let (code, said) = super::refused(&call("upgrade", &whole, &words));
        assert!(code == 4 && said.contains(wanted), "{words:?}: {code} {said}");
    }
    let old = golden("T/E4b/ggml-model-q4_0.bin");
    let (code, said) = super::refused(&call("upgrade", &old, &["--drop", "x", "-o", &out]));
    assert!(code != 0 && said.contains("GGUF"), "{said}");
    assert!(super::names(folder.path()).is_empty());
}

#[test]
fn merges_come_back_from_the_order_of_the_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let whole = golden("families/gpt2.gguf");
    let (bare, mended) = (at("bare.gguf"), at("mended.gguf"));
    let words = ["remove", "tokenizer.ggml.merges", "--anyway", "-o", &bare];
    super::said(&words, call("metadata", &whole, &words));
    assert!(open(Path::new(&bare)).vocab.merges.is_empty());
    let seen = super::said(&[], call("inspect", Path::new(&bare), &[]));
    assert!(seen.contains("regguf upgrade"), "{seen}");
    let words = ["-o", &mended];
    let said = super::said(&words, call("upgrade", Path::new(&bare), &words));
    assert!(said.contains("tokenizer.ggml.merges is missing: rebuilt"), "{said}");
    let (found, wanted) = (open(Path::new(&mended)), open(&whole));
    assert!(!wanted.vocab.merges.is_empty());
    assert!(found.vocab.merges == wanted.vocab.merges);

    // A token that is behind what it is merged into is in no order of merges: nothing is made up.
    let bytes = fs::read(&bare).unwrap();
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let merges = wanted.vocab.merges.iter().map(|merge| std::str::from_utf8(merge).unwrap());
    let mut parts = merges.map(|merge| merge.split_once(' ').unwrap());
    let (left, right) = parts.find(|(left, _)| left.chars().count() > 1).unwrap();
    let (a, b) = (string(left), string(&format!("{left}{right}")));
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let (from, to) = (find(&a).unwrap(), find(&b).unwrap());
    assert!(from < to);
    let moved = [&bytes[..from], &b, &bytes[from + a.len()..to], &a, &bytes[to + b.len()..]];
    fs::write(&bare, moved.concat()).unwrap();
    let words = ["--dry-run"];
    let said = super::said(&words, call("upgrade", Path::new(&bare), &words));
    assert!(!said.contains("rebuilt from the ids"), "{said}");
}
