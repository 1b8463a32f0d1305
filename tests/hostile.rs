//! Every file that fuzzing has found worth keeping, read again: none may panic, hang or take memory.
//!
//! The corpora are those of `tests/fuzz`, minimised and packed: `tar xzf NAME.tar.gz` beside them gives
//! cargo-fuzz its folder back.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;

#[path = "fuzz/targets.rs"]
mod targets;

/// The files of a tar archive: blocks of 512 bytes, of which the first has the name and the size.
fn unpacked(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    let mut files = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((head, after)) = rest.split_at_checked(512).filter(|(head, _)| head[0] != 0) {
        let text = |from: usize, to: usize| {
            let field = head[from..to].split(|b| *b == 0).next().unwrap();
            String::from_utf8(field.to_vec()).unwrap()
        };
        let size = usize::from_str_radix(text(124, 136).trim(), 8).unwrap();
        if head[156] == b'0' {
            files.push((text(0, 100), after[..size].to_vec()));
        }
        rest = &after[size.next_multiple_of(512)..];
    }
    files
}

fn replay(name: &str) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let files = unpacked(&corpus.join(format!("{name}.tar.gz")));
    assert!(files.len() > 10, "{name}: {} files", files.len());
    let read = targets::named(name);
    for (file, bytes) in files {
        let begun = Instant::now();
        read(&bytes);
        // Far above what any takes alone, for machines that do other things too.
        assert!(begun.elapsed() < Duration::from_secs(20), "{file}: {:?}", begun.elapsed());
    }
}

#[test]
fn every_target_has_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let packed = |name: &&str| name.ends_with(".tar.gz");
    let names =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = names.filter(|n| packed(&n.as_str())).collect();
    let mut wanted: Vec<String> =
        targets::ALL.iter().map(|(name, _)| format!("{name}.tar.gz")).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn detect() {
    replay("detect");
}

#[test]
fn model() {
    replay("model");
}

#[test]
fn set() {
    replay("set");
}

#[test]
fn torch() {
    replay("torch");
}

#[test]
fn pickle() {
    replay("pickle");
}

#[test]
fn safetensors() {
    replay("safetensors");
}

#[test]
fn checkpoint() {
    replay("checkpoint");
}

#[test]
fn sentencepiece() {
    replay("sentencepiece");
}

#[test]
fn tiktoken() {
    replay("tiktoken");
}

#[test]
fn tokenizer_json() {
    replay("tokenizer_json");
}

#[test]
fn lists() {
    replay("lists");
}

#[test]
fn imatrix() {
    replay("imatrix");
}

#[test]
fn blocks() {
    replay("blocks");
}
