//! `regguf metadata`: keys change, and nothing else does; what is killed while it writes is completed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use regguf::{
    container::{self, OpenOptions},
    model::{Model, Value},
};

use super::names;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T").join(name)
}

/// A golden file copied into a folder of its own.
fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::copy(golden(name), &path).unwrap();
    (folder, path)
}

fn command(path: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.arg("metadata").arg(path).args(words);
    command
}

fn call(path: &Path, words: &[&str]) -> Output {
    command(path, words).output().unwrap()
}

/// What it says where it succeeds.
fn said(path: &Path, words: &[&str]) -> String {
    super::said(words, call(path, words))
}

/// Its exit code and its message where it fails.
fn refused(path: &Path, words: &[&str]) -> (i32, String) {
    super::refused(&call(path, words))
}

fn open(path: &Path) -> Model {
    container::open(path, &OpenOptions::default()).unwrap()
}

fn bytes_of(model: &Model) -> Vec<(String, Vec<u8>)> {
    let rows = |t: &regguf::model::Tensor| {
        let mut rows = vec![0; usize::try_from(t.bytes()).unwrap()];
        model.read_rows(t, 0, t.rows(), &mut rows).unwrap();
        (t.name.clone(), rows)
    };
    model.tensors.iter().map(rows).collect()
}

#[test]
fn a_new_file_has_the_edits_and_every_other_byte_of_the_model() {
    for name in [
        "E7/ggml-model-q4_0.gguf",
        "E8/ggml-model-q5_1.gguf",
        "E9/ggml-model-f16.big-endian.gguf",
        "E10/model-Q4_K_M.gguf",
    ] {
        let (folder, path) = copy(name);
        let words = [
            "set",
            "general.name",
            "a name that is longer than any before",
            "set",
            "my.list",
            "[i16]:-1,2",
            "rename",
            "llama.context_length",
            "llama.was",
            "set",
            "llama.context_length",
            "512",
            "remove",
            "tokenizer.ggml.scores",
        ];
        said(&path, &words);
        assert_eq!(names(folder.path()), ["model-edited.gguf", "model.gguf"]);
        assert_eq!(fs::read(&path).unwrap(), fs::read(golden(name)).unwrap());
        let (before, after) = (open(&path), open(&folder.path().join("model-edited.gguf")));
        assert_eq!(after.format, before.format, "{name}");
        assert_eq!(bytes_of(&after), bytes_of(&before), "{name}");
        let mut wanted = before.metadata.clone();
        wanted.set("general.name", "a name that is longer than any before");
        wanted.set(
            "my.list",
            Value::Array(regguf::model::Array::of(
                regguf::model::Kind::I16,
                [Value::I16(-1), Value::I16(2)],
            )),
        );
        wanted.rename("llama.context_length", "llama.was");
        wanted.set("llama.context_length", 512);
        wanted.remove("tokenizer.ggml.scores");
        assert_eq!(after.metadata, wanted, "{name}");
    }
}

/// `u32` values lie behind their key and the number of their kind.
#[test]
fn in_place_only_the_bytes_of_the_value_change() {
    let (folder, path) = copy("E10/model-Q4_K_M.gguf");
    let mut wanted = fs::read(&path).unwrap();
    let key = b"llama.context_length";
    let at = wanted.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    wanted[at..at + 4].copy_from_slice(&123_456u32.to_le_bytes());
    let text = said(&path, &["set", "llama.context_length", "123456", "--in-place"]);
    assert!(
        text.contains("- llama.context_length  u32 2048\n+ llama.context_length  u32 123456\n")
    );
    assert_eq!(fs::read(&path).unwrap(), wanted);
    assert_eq!(names(folder.path()), ["model.gguf"]);
    // Nothing is written where nothing differs, where tensors would move, or where it is only tried.
    said(&path, &["set", "llama.context_length", "123456", "--in-place"]);
    said(&path, &["set", "llama.context_length", "7", "--in-place", "--dry-run"]);
    let (code, text) = refused(&path, &["set", "a.b", &format!("str:{:99}", "x"), "--in-place"]);
    assert!(code == 4 && text.contains("would not stay where they are"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), wanted);
}

#[test]
fn what_the_loader_refuses_is_refused() {
    let (folder, path) = copy("E10/model-Q4_K_M.gguf");
    let cases: [(&[&str], i32, &str); 12] = [
        (&["remove", "llama.block_count"], 4, "llama.block_count is missing"),
        (&["set", "llama.context_length", "u64:5"], 4, "llama.context_length is u64, it takes u32"),
        (&["set", "general.architecture", "lama"], 4, "it does not know"),
        (&["set", "general.alignment", "33"], 4, "power of two"),
        (&["set", "split.count", "u16:3"], 4, "how files belong together"),
        (&["set", "tokenizer.ggml.eos_token_id", "512"], 4, "there are 512 tokens"),
        (&["set", "tokenizer.ggml.scores", "[f32]:1,2"], 4, "has 2 items for 512 tokens"),
        (&["--special-token", "eos", "no such token"], 4, "no token has the text"),
        (&["set", "llama.block_count", "two"], 2, "is no u32"),
        (&["set", "my.key", "5"], 2, "say which, as str:5 or u32:5"),
        (&["remove", "my.*"], 4, "the file has no such key"),
        (&["delete", "my.key"], 2, "wanted get, set"),
    ];
    for (words, code, text) in cases {
        let found = refused(&path, words);
        assert!(found.0 == code && found.1.contains(text), "{words:?}: {found:?}");
    }
    assert_eq!(names(folder.path()), ["model.gguf"]);
    // What the file is no worse for, and what is asked for all the same, is done.
    said(&path, &["remove", "llama.block_count", "--anyway"]);
    let edited = folder.path().join("model-edited.gguf");
    said(
        &edited,
        &["set", "general.name", "x", "-o", folder.path().join("b.gguf").to_str().unwrap()],
    );
    let (code, _) = refused(&path, &["set", "general.name", "x"]);
    assert_eq!(code, 4, "an output that exists is not replaced");
    let (code, text) = refused(&golden("E5/ggml-model-q4_0.bin"), &["set", "general.name", "x"]);
    assert!(code == 4 && text.contains("regguf upgrade"), "{text}");
}

#[test]
fn templates_and_special_tokens_are_set_by_what_people_have() {
    let (folder, path) = copy("E10/model-Q4_K_M.gguf");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let template = "{% for m in messages %}\n{{ m['content'] }}{% endfor %}\n";
    let config = serde_json::json!({"bos_token": "<s>", "chat_template": template}).to_string();
    for given in [file("t.jinja", template), file("tokenizer_config.json", &config)] {
        let words = [
            "--chat-template",
            &given,
            "--special-token",
            "eot",
            "<s>",
            "--special-token-by-id",
            "padding",
            "2",
            "--force",
            "--json",
        ];
        let json: serde_json::Value = serde_json::from_str(&said(&path, &words)).unwrap();
        assert_eq!(json["differences"].as_array().unwrap().len(), 3);
        assert_eq!(json["differences"][1]["after"]["value"], template);
        let edited = folder.path().join("model-edited.gguf");
        assert_eq!(said(&edited, &["get", "tokenizer.chat_template"]), template);
        assert_eq!(said(&edited, &["get", "tokenizer.ggml.eot_token_id"]), "1\n");
        let json: serde_json::Value =
            serde_json::from_str(&said(&edited, &["get", "tokenizer.*pad*", "--json"])).unwrap();
        let typed = serde_json::json!({"type": "u32", "value": 2});
        assert_eq!(json["metadata"], serde_json::json!({"tokenizer.ggml.padding_token_id": typed}));
    }
    let lines = file("tokens.txt", &(0..512).map(|n| format!("t{n}\n")).collect::<String>());
    let other = folder.path().join("other.gguf").display().to_string();
    let given = format!("[str]@{lines}");
    said(&path, &["set", "tokenizer.ggml.tokens", &given, "-o", &other]);
    assert_eq!(open(Path::new(&other)).vocab.tokens.get(511), Some(&b"t511"[..]));
    said(&path, &["copy-from", &other, "tokenizer.ggml.tok*", "--force"]);
    let edited = open(&folder.path().join("model-edited.gguf"));
    assert_eq!(edited.vocab.tokens, open(Path::new(&other)).vocab.tokens);
}

#[test]
fn a_set_stays_a_set() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |n: u32| format!("split-Q4_K_M-0000{n}-of-00003.gguf");
    for n in 1..=3 {
        fs::copy(golden(&format!("E10/{}", shard(n))), folder.path().join(shard(n))).unwrap();
    }
    let first = folder.path().join(shard(1));
    said(&first, &["set", "general.name", "another"]);
    let edited = open(&folder.path().join("split-Q4_K_M-edited-00002-of-00003.gguf"));
    let before = open(&first);
    assert_eq!(edited.metadata.str("general.name"), Some("another"));
    assert_eq!((edited.files.len(), bytes_of(&edited)), (3, bytes_of(&before)));
    // In place only the first file is written, and its keys of the set stay.
    said(&first, &["set", "llama.context_length", "77", "--in-place"]);
    let original = fs::read(golden(&format!("E10/{}", shard(1)))).unwrap();
    let now = fs::read(&first).unwrap();
    assert_eq!(original.iter().zip(&now).filter(|(a, b)| a != b).count(), 2);
    assert_eq!(open(&first).metadata.u64("llama.context_length"), Some(77));
}

/// The process is killed at some moment; the file is then as before, as it should be, or is completed by
/// the next call.
#[cfg(unix)]
#[test]
fn an_edit_that_is_killed_is_done_or_not_done() {
    let kills = std::env::var("REGGUF_KILLS").map_or(12, |n| n.parse().unwrap());
    let (folder, path) = copy("E10/model-Q4_K_M.gguf");
    // A header of a few megabytes, which takes a while to write.
    let wide = folder.path().join("wide.gguf");
    let values = |n: u32| format!("[u32]@{}", list(folder.path(), n).display());
    said(&path, &["set", "my.list", &values(1), "-o", wide.to_str().unwrap()]);
    let states: Vec<Vec<u8>> = [2, 1]
        .iter()
        .map(|n| {
            said(&wide, &["set", "my.list", &values(*n), "--in-place"]);
            fs::read(&wide).unwrap()
        })
        .collect();
    let before = names(folder.path());
    let began = std::time::Instant::now();
    said(&wide, &["set", "my.list", &values(1), "--in-place"]);
    let whole = began.elapsed();
    for kill in 0..kills {
        let wanted = values(1 + kill % 2);
        let mut child = command(&wide, &["set", "my.list", &wanted, "--in-place"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(
            whole.mul_f64(f64::from(kill * 7 % 12 + 1) / 12.0) + Duration::from_micros(97) * kill,
        );
        let _ = child.kill();
        child.wait().unwrap();
        said(&wide, &["get", "general.name"]);
        assert!(states.contains(&fs::read(&wide).unwrap()), "kill {kill}: neither old nor new");
    }
    said(&wide, &["set", "my.list", &values(1), "--in-place"]);
    said(&wide, &["set", "my.list", &values(2), "--in-place"]);
    assert_eq!(names(folder.path()), before, "nothing is left");
}

#[cfg(unix)]
fn list(folder: &Path, n: u32) -> PathBuf {
    let path = folder.join(format!("list{n}"));
    if !path.exists() {
        let text: String =
            (0..500_000u32).map(|i| format!("{}\n", i.wrapping_mul(n * 77_777))).collect();
        fs::write(&path, text).unwrap();
    }
    path
}
