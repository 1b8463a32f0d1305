//! Bounds on what files, names and systems may ask of the program: memory, threads, sizes, odd names.

#![cfg(unix)]

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// Runs the command in `folder` under what a shell says before it.
fn under(limits: &str, folder: &Path, words: &[&str]) -> Output {
    Command::new("sh")
        .args(["-c", &format!("{limits} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_regguf")])
        .args(words)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let name = |e: std::io::Result<fs::DirEntry>| text(e.unwrap().file_name().as_bytes());
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

/// A GGUF of N tokens and nothing else.
fn tokens(n: u64) -> Vec<u8> {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let mut out = [&b"GGUF\x03\0\0\0"[..], &[0; 8], &3u64.to_le_bytes()].concat();
    for (key, value) in [("general.architecture", "llama"), ("tokenizer.ggml.model", "llama")] {
        out.extend([&text(key)[..], &8u32.to_le_bytes(), &text(value)].concat());
    }
    out.extend(
        [&text("tokenizer.ggml.tokens")[..], &9u32.to_le_bytes(), &8u32.to_le_bytes()].concat(),
    );
    out.extend(n.to_le_bytes());
    (0..n).for_each(|i| out.extend(text(&format!("t{i}"))));
    out
}

/// The most memory of its own, in megabytes, that a run had.
#[cfg(target_os = "linux")]
#[test]
fn a_million_tokens_take_little_more_memory_than_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("v.gguf"), tokens(1_000_000)).unwrap();
    // Fifteen megabytes of tokens took 350 as one allocation each; beside the data, code and stacks count.
    let limit = "ulimit -d 200000;";
    for words in [
        &["upgrade", "v.gguf", "-o", "new.gguf", "--threads", "1"][..],
        &["inspect", "v.gguf", "--json", "--metadata", "--vocab", "--threads", "1"],
    ] {
        let output = under(limit, folder.path(), words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
    }
}

/// A directory of tensors of 20 megabytes took ten times as much.
#[cfg(target_os = "linux")]
#[test]
fn a_long_directory_of_raw_weights_takes_a_few_times_its_bytes() {
    let n = 150_000;
    let name =
        |i: u32| format!("model.layers.{}.some_projection_with_a_long_name.weight_{i:08}", i % 80);
    let entry = |i: u32| {
        let (name, at) = (name(i), 2 * i);
        format!(r#""{name}":{{"dtype":"F16","shape":[1,1],"data_offsets":[{at},{}]}}"#, at + 2)
    };
    let mut header =
        format!("{{{}}}", (0..n).map(entry).collect::<Vec<_>>().join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    assert!(header.len() > 17 << 20);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.append(&mut header);
    (0..n).for_each(|_| file.extend([0, 0x3c]));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let limit = "ulimit -d 220000;";
    for (words, code) in [
        (&["inspect", "model.safetensors", "--json", "--tensors", "--threads", "1"][..], 0),
        (&["inspect", "model.safetensors", "--tensors", "--threads", "1"], 0),
        (&["verify", "model.safetensors", "--threads", "1"], 0),
    ] {
        let output = under(limit, folder.path(), words);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    }
}

/// README and `cli::json` promise it of every object.
#[test]
fn every_json_says_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::create_dir(here.join("models")).unwrap();
    for name in ["a.gguf", "models/a.gguf"] {
        fs::copy(golden("T/E10/model-BF16.gguf"), here.join(name)).unwrap();
    }
    fs::copy(golden("T/E10/model-Q4_0.gguf"), here.join("b.gguf")).unwrap();
    fs::copy(golden("T/E4/ggml-model-q4_0.bin"), here.join("old.bin")).unwrap();
    fs::write(here.join("text"), "Building a website. ".repeat(20)).unwrap();
    for n in 1..=3 {
        let name = format!("split-Q4_K_M-0000{n}-of-00003.gguf");
        fs::copy(golden("T/E10").join(&name), here.join(name)).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for line in [
        "inspect a.gguf --json --tensors --vocab --metadata",
        "inspect models --json",
        "inspect text --json",
        "verify a.gguf --json",
        "upgrade old.bin --dry-run --json",
        "upgrade old.bin -o new.gguf --json",
        "convert a.gguf --type q8_0 --dry-run --json",
        "convert a.gguf --to safetensors --type f16 --dry-run --json",
        "quantize a.gguf q.gguf Q8_0 --json",
        "compare a.gguf b.gguf --json",
        "perplexity -m b.gguf -f text -c 32 --chunks 1 --json",
        "imatrix a.gguf -f text -c 32 --chunks 1 -o imatrix.gguf --json",
        "explain q4_0 --json",
        "metadata a.gguf --json",
        "metadata a.gguf get general.name --json",
        "metadata a.gguf set general.name x --dry-run --json",
        "tensors a.gguf --json",
        "split a.gguf --max-tensors 9 --dry-run --json",
        "join split-Q4_K_M-00001-of-00003.gguf --dry-run --json",
        "batch upgrade models --out out --dry-run --json",
        "batch quantize models --types q8_0 --out out --events",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        seen.extend(words.first().map(|verb| (*verb).to_owned()));
        let output = under("", here, &words);
        let said = text(&output.stdout);
        let all = serde_json::Deserializer::from_str(&said).into_iter::<serde_json::Value>();
        let all: Vec<serde_json::Value> = all.map(|value| value.unwrap()).collect();
        assert!(!all.is_empty(), "{line}: {}", text(&output.stderr));
        for value in all {
            let objects = value.as_array().cloned().unwrap_or_else(|| vec![value]);
            assert!(objects.iter().all(|object| object["schema_version"] == 1), "{line}: {said}");
        }
    }
    // No verb that has the flag is left out.
    let help = text(&under("", here, &["--help"]).stdout);
    let verbs = help.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for verb in verbs.filter(|verb| !verb.is_empty() && !verb.starts_with('-')) {
        let help = text(&under("", here, &[verb, "--help"]).stdout);
        assert!(!help.contains("--json") || seen.contains(verb), "{verb}");
    }
}

#[test]
fn a_file_beyond_the_limit_of_the_process_is_refused_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden("T/E4/ggml-model-q4_0.bin"), folder.path().join("m.bin")).unwrap();
    let output = under("ulimit -f 50;", folder.path(), &["upgrade", "m.bin", "-o", "new.gguf"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("this process may write"), "{}", text(&output.stderr));
    assert_eq!(names(folder.path()), ["m.bin"]);
}

#[test]
fn endless_texts_are_refused() {
    let model = golden("T/E4/ggml-model-q4_0.bin");
    let model = model.to_str().unwrap();
    for words in [
        &["run", "-m", model, "-f", "/dev/zero"][..],
        &["perplexity", "-m", model, "-f", "/dev/zero"],
        &["compare", model, model, "--text", "/dev/zero"],
        &["batch", "run", "/dev/zero"],
    ] {
        let output = under("", Path::new("/"), words);
        assert_eq!(output.status.code(), Some(5), "{words:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("not a file on a disk"), "{words:?}");
    }
}

#[test]
fn more_threads_than_processors_cost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden("T/E4/ggml-model-q4_0.bin"), folder.path().join("m.bin")).unwrap();
    let words = ["upgrade", "m.bin", "-o", "new.gguf", "--threads", "1000"];
    let output = under("ulimit -v 4000000;", folder.path(), &words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn every_control_character_is_escaped_in_json_and_tables() {
    let path = golden("T/E4/ggml-model-q4_0.bin");
    let words = ["inspect", "--json", "--vocab", "--metadata", path.to_str().unwrap()];
    let output = under("", Path::new("/"), &words);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["tokens"][130]["text"], "\u{7f}");
    assert!(!text(&output.stdout).chars().any(|c| c.is_control() && c != '\n'));
}

#[test]
fn names_that_are_no_unicode_or_hold_control_characters_are_shown_and_not_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    let names: [&[u8]; 4] = [b"c\xff.bin", b"c\xfe.bin", b"a\x1b]0;x\x07.bin", b"b\nfailed: b.bin"];
    for name in names {
        fs::copy(golden("T/E4/ggml-model-q4_0.bin"), models.join(OsStr::from_bytes(name))).unwrap();
    }
    let words = ["batch", "upgrade", "models", "--out", "out", "--jobs", "1"];
    let output = under("", folder.path(), &words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let made = fs::read_dir(folder.path().join("out")).unwrap().map(|e| e.unwrap().path());
    assert_eq!(made.filter(|path| path.extension() == Some(OsStr::new("gguf"))).count(), 4);
    for said in [text(&output.stdout), text(&output.stderr)] {
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("failed")), "{said}");
    }
    let output = under("", folder.path(), &["inspect", "models"]);
    assert_eq!(text(&output.stdout).lines().count(), 4, "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("c\\xff.bin"));
}
