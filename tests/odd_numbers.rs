//! Weights that are infinite, NaN or out of a type's range: named wherever they would be written, never
//! passed off as unchanged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use regguf::container::{OpenOptions, open};

fn run(folder: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(folder).args(words.split(' ')).output().expect("the program runs")
}

fn said(output: &Output) -> String {
    let of = |bytes| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
}

fn ends(folder: &Path, words: &str, code: i32, with: &str) {
    let output = run(folder, words);
    assert_eq!(output.status.code(), Some(code), "{words}: {}", said(&output));
    assert!(said(&output).contains(with), "{words}: {}", said(&output));
}

/// A sound F32 model, and a way to copy it with one number of a tensor changed.
fn model() -> (tempfile::TempDir, impl Fn(&str, &str, u64, &[u8])) {
    let folder = tempfile::tempdir().expect("a folder");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E8/ggml-model-f16.gguf");
    fs::copy(golden, folder.path().join("f16.gguf")).expect("readable");
    assert!(run(folder.path(), "convert f16.gguf --type f32 -o f32.gguf").status.success());
    let here: PathBuf = folder.path().to_owned();
    let change = move |from: &str, tensor: &str, number: u64, bytes: &[u8]| {
        let mut file = fs::read(here.join(from)).expect("readable");
        let model = open(&here.join(from), &OpenOptions::default()).expect("sound");
        let (_, at) = model.tensor(tensor).expect(tensor).contiguous().expect("in one piece");
        let at = (at + number * bytes.len() as u64) as usize;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(here.join("odd.gguf"), file).expect("writable");
    };
    (folder, change)
}

#[test]
fn weights_beyond_a_type_s_range_are_named() {
    let (folder, change) = model();
    let here = folder.path();
    let model = open(&here.join("f32.gguf"), &OpenOptions::default()).expect("sound");
    let columns = model.tensor("blk.0.ffn_up.weight").expect("there").row_len();
    change("f32.gguf", "blk.0.ffn_up.weight", 2 * columns + 5, &1e10f32.to_le_bytes());
    let place = "blk.0.ffn_up.weight: weight at row 2, column 5 is 10000000000, which";
    for name in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "iq4_nl"] {
        ends(
            here,
            &format!("quantize odd.gguf out.gguf {name} --pure"),
            4,
            &format!("{place} {name} "),
        );
        assert!(!here.join("out.gguf").exists());
    }
    ends(here, "convert odd.gguf --type f16 -o out.gguf", 4, place);
    ends(here, "convert odd.gguf --type f16 --to safetensors -o hf", 4, place);
    ends(here, "batch quantize odd.gguf --types q8_0 --out b", 1, place);
    ends(here, "quantize odd.gguf out.gguf bf16", 0, "");
    ends(
        here,
        "quantize odd.gguf out8.gguf q8_0 --keep-nan --measure",
        0,
        "32 weights are infinite or NaN",
    );
    ends(here, "compare f32.gguf out8.gguf", 1, "infinite or NaN weights in blk.0.ffn_up.weight");
}

#[test]
fn copied_numbers_that_are_none_are_named() {
    let (folder, change) = model();
    let here = folder.path();
    change("f16.gguf", "blk.0.attn_norm.weight", 3, &f32::NAN.to_le_bytes());
    let place = "blk.0.attn_norm.weight: weight at row 0, column 3 is NaN";
    for words in [
        "quantize odd.gguf out.gguf q8_0",
        "quantize odd.gguf out.gguf COPY",
        "convert odd.gguf -o out.gguf --type bf16",
    ] {
        ends(here, words, 4, place);
        ends(here, words, 4, "--keep-nan");
        assert!(!here.join("out.gguf").exists() && !here.join("out.bin").exists());
    }
    ends(here, "batch quantize odd.gguf --types q8_0 --out b", 1, place);
    let kept = "infinite or NaN weights were written: blk.0.attn_norm.weight";
    ends(here, "quantize odd.gguf out.gguf COPY --keep-nan", 0, kept);
    // What an upgrade only copies is the source's own.
    ends(here, "upgrade odd.gguf -o up.gguf", 0, kept);
    ends(
        here,
        "batch upgrade odd.gguf --to ggjt-v3 --out b",
        1,
        "layers.0.attention_norm.weight: weight",
    );
    ends(here, "batch quantize odd.gguf --types q8_0 --out b --keep-nan", 0, "");
    ends(here, "compare odd.gguf odd.gguf", 1, "infinite or NaN weights in blk.0.attn_norm.weight");
    change("f16.gguf", "blk.0.ffn_up.weight", 0, &[0, 0x7c]);
    ends(here, "quantize odd.gguf out2.gguf COPY", 4, "row 0, column 0 is inf");
    ends(here, "quantize odd.gguf out2.gguf f32", 4, "row 0, column 0 is inf");
}

#[test]
fn what_nothing_would_read_gets_no_name() {
    let (folder, _) = model();
    let here = folder.path();
    let words = "quantize --override-kv split.count=int:77 f16.gguf out.gguf q4_0";
    ends(here, words, 4, "split.count says 77 shards, 1 are written");
    assert!(!here.join("out.gguf").exists());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E7/ggml-vocab.gguf");
    fs::copy(golden, here.join("vocab.gguf")).expect("readable");
    ends(here, "upgrade vocab.gguf --to ggjt-v3 -o v.bin", 4, "nothing would read it");
    assert!(!here.join("v.bin").exists());
    ends(here, "upgrade vocab.gguf -o v.gguf", 0, "");
}
