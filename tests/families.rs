//! Which families are carried: what no family describes is refused by every verb that writes, by name.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regguf::format::{
    catalog,
    container::{Container, Skeleton},
};

fn regguf(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regguf")).args(words).output().unwrap()
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// A file of `format` that its original program wrote; none of formats of which there is none.
fn original(format: &Container) -> Option<PathBuf> {
    let facts = fs::read(golden("families/facts.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    // The bytes of RedPajama's are those of the old header.
    let wanted = if format.id() == "ggml-redpajama" { "ggml-gptneox-old" } else { format.id() };
    let file = facts["files"].as_array().unwrap().iter().find(|f| f["format"] == wanted)?;
    Some(golden("families").join(file["path"].as_str().unwrap()))
}

/// RWKV v6 lies in the container of v4: another tensor tells.
fn later_rwkv() -> (&'static Container, Vec<u8>) {
    let format = catalog::container("rwkv-v101").unwrap();
    let mut bytes = fs::read(original(format).unwrap()).unwrap();
    let name = b"blocks.0.att.time_maa_x";
    for word in [1, u32::try_from(name.len()).unwrap(), 0, 1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(name);
    bytes.extend(1f32.to_le_bytes());
    (format, bytes)
}

#[test]
fn every_container_without_a_family_is_refused_by_every_verb_that_writes() {
    for format in catalog::containers() {
        let identity = &format.format;
        let carried = catalog::family(&identity.family).is_some();
        if carried || identity.skeleton != Skeleton::Stream {
            // These hold any family: a GGUF says of which it is.
            let any = [Skeleton::Checkpoint, Skeleton::Keyed, Skeleton::None];
            assert!(
                carried || any.contains(&identity.skeleton),
                "{}: the family {:?} is not described",
                identity.name,
                identity.family
            );
            continue;
        }
        // An adapter is of its model's family: tests/adapter_files.rs.
        if identity.name == "ggla-v1" {
            continue;
        }
        let Some(original) = original(format) else {
            let none = ["ggml-falcon-6-words", "chatglm-v1", "ggml-replit-v0-f16"];
            assert!(none.contains(&format.id()), "{}: no original file", format.id());
            continue;
        };
        refused(format, &fs::read(original).unwrap());
    }
    let (format, bytes) = later_rwkv();
    refused(format, &bytes);
}

/// A file of `format` with these bytes is refused, by the name of what it is.
fn refused(format: &Container, bytes: &[u8]) {
    let identity = &format.format;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, out) = (path("in.bin"), path("out"));
    fs::write(&file, bytes).unwrap();
    for words in [
        &["upgrade", &file, "-o", &out][..],
        &["upgrade", &file, "-o", &out, "--prove"],
        &["upgrade", &file, "-o", &out, "--to", "ggjt-v3"],
        &["convert", &file, "-o", &out],
        &["convert", &file, "-o", &out, "--type", "f16,q8_0"],
        &["convert", &file, "-o", &out, "--to", "safetensors"],
        &["quantize", &file, &out, "q8_0"],
    ] {
        let output = regguf(&[words, &["--format", &identity.name]].concat());
        let (said, at) = (says(&output), format!("{words:?} {}", identity.name));
        assert_eq!(output.status.code(), Some(4), "{at}: {said}");
        assert!(said.contains(&identity.title) && said.lines().count() == 1, "{at}: {said}");
        assert!(!Path::new(&out).exists(), "{at}");
    }
    let output = regguf(&["upgrade", &path("a"), "--to", &identity.name]);
    assert_ne!(output.status.code(), Some(0), "{}", identity.name);
    let output = regguf(&["inspect", &file, "--format", &identity.name]);
    assert!(says(&output).contains("next        nothing: "), "{}", says(&output));
}

#[test]
fn a_batch_passes_over_what_no_family_describes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (foreign, bytes) = later_rwkv();
    fs::write(path("foreign.bin"), bytes).unwrap();
    fs::copy(golden("T/E4/ggml-model-q4_0.bin"), path("llama.bin")).unwrap();
    let tasks =
        [&["upgrade"][..], &["convert"], &["quantize", "--types", "q8_0", "--allow-requantize"]];
    for task in tasks {
        let root = folder.path().display().to_string();
        let out = path(task[0]);
        let output = regguf(&[&["batch"], task, &[&root, "--out", &out]].concat());
        let said = says(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("1 done, 1 skipped, 0 failed"), "{said}");
        assert!(said.contains(&foreign.format.title), "{said}");
        let dry = regguf(&[&["batch"], task, &[&root, "--out", &out, "--dry-run"]].concat());
        assert_eq!(dry.status.code(), Some(0), "{}", says(&dry));
        fs::remove_dir_all(out).unwrap();
    }
}
