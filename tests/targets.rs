//! What is written where: no input and no device is ever written to, nobody may read more than before, no
//! dead file stays, and what people type finds its place.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn copy(from: &str, to: PathBuf) {
    fs::write(to, fs::read(golden(from)).expect(from)).expect("writable");
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy("T/E4/ggml-model-q4_0.bin", folder.path().join("m.bin"));
    copy("T/E8/ggml-model-f16.gguf", folder.path().join("f16.gguf"));
    folder
}

fn run(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(folder).args(words).stdin(Stdio::null());
    command.output().expect("the program runs")
}

fn said(output: &Output) -> String {
    let of = |bytes| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
}

/// Runs a command that is to be refused with these words.
fn refused(folder: &Path, words: &[&str], why: &str) {
    let output = run(folder, words);
    assert_eq!(output.status.code(), Some(4), "{words:?}: {}", said(&output));
    assert!(said(&output).contains(why), "{words:?}: {}", said(&output));
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").mode() & 0o777
}

#[test]
fn no_input_is_overwritten_by_any_way() {
    let folder = folder();
    let here = folder.path();
    let checkpoint = here.join("H");
    fs::create_dir(&checkpoint).expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"] {
        copy(&format!("T/hf-st/{name}"), checkpoint.join(name));
    }
    copy("T/hf-st/tokenizer.model", here.join("tok.model"));
    fs::write(here.join("text"), "Building a website can be done. ".repeat(40)).expect("writable");
    fs::write(here.join("types"), "ffn_down=q8_0").expect("writable");
    fs::hard_link(here.join("m.bin"), here.join("hard")).expect("a link");
    symlink("m.bin", here.join("soft")).expect("a link");
    assert!(run(here, &["imatrix", "f16.gguf", "-f", "text", "-c", "32"]).status.success());
    let files = || -> Vec<(PathBuf, Vec<u8>)> {
        let all = walkdir::WalkDir::new(here).sort_by_file_name().into_iter();
        let all = all.map(|entry| entry.expect("listable").into_path()).filter(|p| p.is_file());
        all.map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
    };
    let before = files();
    let input = "is the input itself";
    for words in [
        "compare m.bin f16.gguf --html f16.gguf",
        "compare m.bin f16.gguf --text text --html text",
        "imatrix -m f16.gguf -f text -c 32 --chunks 1 -o f16.gguf",
        "imatrix -m f16.gguf -f text -c 32 --chunks 1 -o text",
        "upgrade m.bin --vocab tok.model -o tok.model",
        "upgrade m.bin -o hard",
        "upgrade m.bin -o soft",
        "upgrade m.bin -o ./H/../m.bin",
        "convert H -o H/config.json",
        "convert H -o H/tokenizer.model",
        "convert H --to safetensors -o H",
        "quantize --imatrix imatrix.gguf f16.gguf imatrix.gguf q4_0",
        "quantize --tensor-type-file types f16.gguf types q4_0",
        "batch upgrade . --plan m.bin",
        "batch verify . --plan m.bin",
    ] {
        let words: Vec<&str> = words.split(' ').chain(["--force"]).collect();
        refused(here, &words, input);
        assert!(files() == before, "{words:?}");
    }
}

#[test]
fn what_is_no_file_is_never_replaced() {
    let folder = folder();
    let here = folder.path();
    fs::create_dir(here.join("d")).expect("a folder");
    assert!(Command::new("mkfifo").arg(here.join("pipe")).status().expect("mkfifo").success());
    symlink("pipe", here.join("link")).expect("a link");
    symlink("/dev/null", here.join("null")).expect("a link");
    let _socket = std::os::unix::net::UnixListener::bind(here.join("socket")).expect("a socket");
    let before: Vec<u32> = ["pipe", "link", "null", "socket"]
        .map(|n| here.join(n).symlink_metadata().expect(n).mode())
        .into();
    for target in ["pipe", "link", "null", "socket", "/dev/null", "/dev/stdout", "/proc/self/fd/1"]
    {
        for force in [&["--force"][..], &[]] {
            let upgrade = [&["upgrade", "m.bin", "-o", target], force].concat();
            refused(here, &upgrade, "is a device or a pipe");
            refused(
                here,
                &[&["quantize", "f16.gguf", target, "q4_0"], force].concat(),
                "is a device",
            );
        }
        refused(here, &["compare", "m.bin", "m.bin", "--html", target, "--force"], "is a device");
    }
    let after: Vec<u32> = ["pipe", "link", "null", "socket"]
        .map(|n| here.join(n).symlink_metadata().expect(n).mode())
        .into();
    assert_eq!(before, after);
    refused(here, &["compare", "m.bin", "m.bin", "--html", "d", "--force"], "is a folder");
    refused(here, &["upgrade", "m.bin", "-o", "-"], "nothing is written to standard output");
    let output = run(here, &["inspect", "-"]);
    assert!(said(&output).contains("standard input is not read"), "{}", said(&output));
}

#[test]
fn an_output_is_no_more_readable_than_before() {
    let folder = folder();
    let here = folder.path();
    let (input, output) = (here.join("m.bin"), here.join("o.gguf"));
    let set = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("settable");
    };
    let upgrade = |mask: &str| {
        let script = format!("umask {mask}; \"$0\" upgrade m.bin -o o.gguf --force");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_regguf")]).current_dir(here);
        assert!(shell.output().expect("a shell").status.success());
        mode(&output)
    };
    for (of_input, mask, expected) in [
        (0o644, "022", 0o644),
        (0o444, "022", 0o644),
        (0o600, "022", 0o600),
        (0o640, "022", 0o640),
        (0o644, "077", 0o600),
        (0o664, "002", 0o664),
    ] {
        let _ = fs::remove_file(&output);
        set(&input, of_input);
        assert_eq!(upgrade(mask), expected, "{of_input:o} {mask}");
    }
    for (of_input, of_output, expected) in
        [(0o644, 0o600, 0o600), (0o644, 0o640, 0o640), (0o644, 0o664, 0o664), (0o600, 0o644, 0o600)]
    {
        set(&input, of_input);
        set(&output, of_output);
        assert_eq!(upgrade("022"), expected, "{of_input:o} {of_output:o}");
    }
}

#[test]
fn dead_partial_files_go_and_are_no_models() {
    let folder = folder();
    let here = folder.path();
    let dead = here.join(".regguf-abcdef.partial");
    fs::copy(here.join("f16.gguf"), &dead).expect("writable");
    let listed = said(&run(here, &["inspect", "."]));
    assert!(listed.contains("f16.gguf") && !listed.contains("partial"), "{listed}");
    let living = here.join(".regguf-living.partial");
    let lock = fs::File::create(&living).expect("creatable");
    lock.lock().expect("lockable");
    assert!(run(here, &["upgrade", "m.bin"]).status.success());
    assert!(!dead.exists() && living.exists());
}

#[test]
fn outputs_find_the_place_that_was_meant() {
    let folder = folder();
    let here = folder.path();
    fs::create_dir(here.join("d")).expect("a folder");
    for out in ["d", "d/", "new/"] {
        let _ = fs::remove_file(here.join("d/m.gguf"));
        assert!(run(here, &["upgrade", "m.bin", "-o", out]).status.success(), "{out}");
        assert!(here.join(out).join("m.gguf").is_file(), "{out}");
    }
    assert!(run(here, &["upgrade", "m.bin"]).status.success());
    let made = fs::read(here.join("m.gguf")).expect("readable");
    for again in [&["upgrade", "m.bin"][..], &["upgrade", "m.bin", "-o", "new/"]] {
        refused(here, again, "is there already, with the header and size of this upgrade");
    }
    refused(here, &["upgrade", "m.bin", "-o", "new/m.gguf"], "exists already");
    fs::write(here.join("m.gguf"), "something else").expect("writable");
    refused(here, &["upgrade", "m.bin"], "exists already");
    assert!(!here.join("m-upgraded.gguf").exists());
    assert!(run(here, &["upgrade", "m.bin", "--force"]).status.success());
    assert_eq!(fs::read(here.join("m.gguf")).expect("readable"), made);
    // A file of its own name is the input.
    assert!(run(here, &["upgrade", "f16.gguf"]).status.success());
    assert!(here.join("f16-upgraded.gguf").is_file());

    refused(here, &["upgrade", "."], "`regguf batch upgrade .`");
    let words = |words: &[&str]| {
        let output = run(here, words);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        said(&output)
    };
    assert!(words(&["upgrade", "m.bin", "x.gguf"]).contains("`regguf upgrade m.bin -o x.gguf`"));
    assert!(
        words(&["upgrade", "m.bin", "f16.gguf"]).contains("`regguf batch upgrade m.bin f16.gguf`")
    );
    let old = ["convert", "f16.gguf", "--outtype", "q8_0", "--outfile", "c.gguf"];
    assert!(run(here, &old).status.success());
    assert!(here.join("c.gguf").is_file());
    for (words, name) in [
        ("convert m.bin --to ggjt-v1 -o d", "d/ggml-model-q4_0.bin"),
        ("convert f16.gguf --to ggjt-v1 --type f32 -o d/", "d/ggml-model-f32.bin"),
    ] {
        let output = run(here, &words.split(' ').collect::<Vec<_>>());
        assert!(output.status.success() && here.join(name).is_file(), "{}", said(&output));
    }
    let run_words =
        "run -m f16.gguf -p Hi -n 2 --temp 0 -ngl 32 --mlock -b 8 --top_k 5 --n_parts 1";
    let output = run(here, &run_words.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "{}", said(&output));
    let note = "note: not needed here: -ngl 32, --mlock, -b 8, --n-parts 1";
    assert_eq!(said(&output).matches(note).count(), 1, "{}", said(&output));
    assert!(words(&["run", "-m", "f16.gguf", "--mirostat", "2"]).contains("--mirostat"));
    assert!(
        words(&["perplexity", "f16.gguf", "-f", "m.bin", "--chunks", "0"]).contains("--chunks")
    );
}
