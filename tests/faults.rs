//! Full disks, read-only disks, inputs that vanish or change, little memory: every command ends with one
//! clear line, leaves nothing half written and its input as it was.

#![cfg(unix)]

use regguf::{Durability, Existing};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use regguf::bytes::{
    Input,
    replace::{Commit, free_space},
};
use regguf::change::{self, Plan, choose::ftype::FileType, convert, quantize, upgrade};
use regguf::container::{OpenOptions, open};
use regguf::error::Error;
use regguf::model::Model;

const PROGRAM: &str = env!("CARGO_BIN_EXE_regguf");

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// Inputs in a folder of their own, as every command below names them.
fn inputs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
        fs::write(to, fs::read(golden(from)).expect(from)).expect("writable");
    };
    copy("T/E4/ggml-model-q4_0.bin", "models/old.bin");
    copy("T/E8/ggml-model-f16.gguf", "models/f16.gguf");
    for name in ["config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"] {
        copy(&format!("T/hf-st/{name}"), &format!("checkpoint/{name}"));
    }
    let text = "Building a website can be done in 10 simple steps. ".repeat(20);
    fs::write(folder.path().join("text"), text).expect("writable");
    folder
}

/// Every command that writes, each into the folder `disk`, which lies in the folder it runs in.
const WRITING: [&[&str]; 10] = [
    &["upgrade", "models/old.bin", "-o", "disk/out"],
    &["upgrade", "models/old.bin", "-o", "disk/out", "--prove"],
    &["convert", "checkpoint", "-o", "disk/out", "--type", "f16"],
    &["convert", "models/f16.gguf", "--to", "safetensors", "-o", "disk/out"],
    &["quantize", "models/f16.gguf", "disk/out", "q8_0", "--prove"],
    &["batch", "upgrade", "models/old.bin", "--out", "disk"],
    &["batch", "convert", "models", "checkpoint", "--out", "disk", "--plan", "disk/plan"],
    &["imatrix", "models/f16.gguf", "-f", "text", "-c", "32", "-o", "disk/out"],
    &["compare", "models/old.bin", "models/f16.gguf", "--html", "disk/out"],
    &["verify", "--write", "disk/models"],
];

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|e| e.expect("listable").into_path());
    files.filter(|p| p.is_file()).map(|p| (p.clone(), fs::read(p).expect("readable"))).collect()
}

fn text(output: &Output) -> String {
    let of = |bytes| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
}

/// Runs a shell script in a folder; `$0` is the program, the words are `$@`.
fn shell(folder: &Path, wrapper: &[&str], script: &str, words: &[&str]) -> Output {
    let all = [wrapper, &["sh", "-c", script, PROGRAM], words].concat();
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).current_dir(folder).stdin(Stdio::null());
    command.output().expect("a shell")
}

/// That a command failed as it should: one line that says `why`, nothing left, inputs as they were.
fn failed_well(words: &[&str], output: &Output, why: &[&str]) {
    let said = text(output);
    let code = output.status.code().expect("an exit, not a signal");
    assert!((1..=5).contains(&code), "{words:?}: {code}: {said}");
    let lines = said.lines().filter(|l| l.starts_with("error: ") || l.starts_with("failed: "));
    let lines: Vec<&str> = lines.collect();
    let batch = words[0] == "batch";
    assert!(lines.len() == 1 || batch && lines.len() == 2 && lines[0] == lines[1], "{said}");
    assert!(why.iter().any(|why| lines[0].contains(why)), "{words:?}: {said}");
}

/// Runs every writing command on a disk of its own, mounted by `mount` in a name space of its own;
/// false where this system does not allow that.
fn on_disks(mount: &str, why: &[&str]) -> bool {
    let wrapper = ["unshare", "-rm"];
    let here = tempfile::tempdir().expect("a folder");
    let able = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none"])
        .arg(here.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if !able {
        // Past the capture of the test's output: a skipped check is to be seen.
        let _ = writeln!(std::io::stderr(), "skipped: no name space to mount a small disk in");
        return false;
    }
    for words in WRITING {
        let folder = inputs();
        fs::create_dir(folder.path().join("disk")).expect("a folder");
        let before = files(folder.path());
        let script = format!(
            "mount -t tmpfs -o size=1M none disk && mkdir disk/models && \
             cp models/old.bin disk/models/ && {mount} || exit 9; \
             find disk -type f | sort >before; \"$0\" \"$@\"; code=$?; \
             find disk -type f | sort >after; cmp before after || exit 8; exit $code"
        );
        let output = shell(folder.path(), &wrapper, &script, words);
        failed_well(words, &output, why);
        let mut after = files(folder.path());
        after.retain(|path, _| !path.ends_with("before") && !path.ends_with("after"));
        assert!(after == before, "{words:?}: {:?}", after.keys());
    }
    true
}

#[test]
fn full_disks() {
    on_disks(
        "{ dd if=/dev/zero of=disk/fill bs=4k 2>/dev/null; true; }",
        &["the disk has", "No space left", "cannot create"],
    );
}

#[test]
fn disks_that_cannot_be_written_to() {
    on_disks("mount -o remount,ro disk", &["Read-only file system"]);
}

/// Files limited in size fail where a full disk fails that nobody could see coming: at the write.
#[test]
fn writes_that_fail() {
    for words in WRITING {
        let folder = inputs();
        let disk = folder.path().join("disk");
        fs::create_dir(&disk).expect("a folder");
        fs::create_dir(disk.join("models")).expect("a folder");
        fs::copy(folder.path().join("models/old.bin"), disk.join("models/old.bin")).expect("room");
        let before = files(folder.path());
        let script = "trap '' XFSZ; ulimit -f 0; \"$0\" \"$@\"";
        let output = shell(folder.path(), &[], script, words);
        failed_well(words, &output, &["raise the limit (ulimit -f)"]);
        let after = files(folder.path());
        assert!(after == before, "{words:?}: {:?}", after.keys());
    }
    if Path::new("/dev/full").exists() {
        let folder = inputs();
        let output = shell(folder.path(), &[], "\"$0\" \"$@\" >/dev/full", &["explain"]);
        failed_well(&["explain"], &output, &["<stdout>: cannot write: No space left"]);
    }
}

#[test]
fn inputs_that_are_not_there() {
    let folder = inputs();
    fs::create_dir(folder.path().join("disk")).expect("a folder");
    let reading: [&[&str]; 5] = [
        &["inspect", "models/old.bin"],
        &["run", "-m", "models/f16.gguf", "-n", "1"],
        &["perplexity", "models/f16.gguf", "-f", "text", "-c", "32"],
        &["batch", "verify", "models"],
        &["verify", "models/old.bin"],
    ];
    for name in ["models", "checkpoint", "text"] {
        fs::rename(folder.path().join(name), folder.path().join("gone")).expect("movable");
        for words in WRITING.iter().chain(&reading) {
            if !words.iter().any(|word| word.starts_with(name)) {
                continue;
            }
            let output = shell(folder.path(), &[], "\"$0\" \"$@\"", words);
            if words[0] == "verify" {
                assert_eq!(output.status.code(), Some(1), "{}", text(&output));
                continue;
            }
            failed_well(words, &output, &["No such file or directory"]);
            assert!(files(&folder.path().join("disk")).is_empty(), "{words:?}");
        }
        fs::rename(folder.path().join("gone"), folder.path().join(name)).expect("movable");
    }
}

/// Plans for one model of each kind of work, each for the output `out`.
fn plans(folder: &Path) -> Vec<(&'static str, PathBuf, Model, Vec<Plan>)> {
    let out = folder.join("out");
    let model = |name: &str| {
        let path = folder.join("models").join(name);
        (path.clone(), open(&path, &OpenOptions::default()).expect("readable"))
    };
    let (old, opened) = model("old.bin");
    let options = upgrade::Options { output: Some(out.clone()), ..Default::default() };
    let (upgraded, plan) = upgrade::plan(opened, &options).expect("possible");
    let (f16, opened) = model("f16.gguf");
    let options = quantize::Options {
        types: vec![FileType::parse("q4_0").expect("a type")],
        output: Some(out.clone()),
        ..Default::default()
    };
    let (quantized, quantizing) = quantize::plan(opened, &options).expect("possible");
    let (_, opened) = model("f16.gguf");
    let options = convert::Options {
        types: vec!["auto".to_owned()],
        output: Some(out),
        ..Default::default()
    };
    let (converted, converting) = convert::plan(opened, &options).expect("possible");
    vec![
        ("upgrade", old, upgraded, vec![plan]),
        ("quantize", f16.clone(), quantized, quantizing),
        ("convert", f16, converted, converting),
    ]
}

/// Changes made to an input behind the reader's back.
type Change = fn(&File, u64);
const CHANGES: [(&str, Change); 3] = [
    ("shorter", |file, len| file.set_len(len / 2).expect("can be cut")),
    ("longer", |file, len| file.set_len(len + 1).expect("can grow")),
    ("other bytes", |file, len| {
        file.write_all_at(b"x", len - 1).expect("writable");
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
        file.set_modified(later).expect("settable");
    }),
];

#[test]
fn inputs_that_change_while_they_are_read() {
    for (what, change) in CHANGES {
        let folder = inputs();
        for (work, path, model, plans) in plans(folder.path()) {
            let bytes = fs::read(&path).expect("readable");
            let file = File::options().write(true).open(&path).expect("writable");
            change(&file, bytes.len() as u64);
            let error = change::carry(&model, &plans, Existing::Keep, &()).expect_err("it changed");
            assert!(matches!(error, Error::Changed { .. }), "{work}: {what}: {error}");
            assert!(error.to_string().contains("changed while it was read"), "{error}");
            assert!(!folder.path().join("out").exists());
            fs::write(&path, bytes).expect("writable");
        }
        let left = fs::read_dir(folder.path()).expect("listable").count();
        assert_eq!(left, 3, "models, checkpoint and text");
    }
}

/// The runner uses weights where they lie; between two answers of a conversation the file changes.
#[test]
fn models_that_change_while_they_run() {
    for (what, change) in CHANGES {
        let folder = inputs();
        let path = folder.path().join("models/f16.gguf");
        let mut child = Command::new(PROGRAM)
            .args(["run", "--interactive", "--temp", "0", "-n", "4", "-m"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut ask = child.stdin.take().expect("stdin");
        let mut answers = BufReader::new(child.stdout.take().expect("stdout"));
        writeln!(ask, "Hello").expect("it listens");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("it answers");
        let file = File::options().write(true).open(&path).expect("writable");
        change(&file, file.metadata().expect("readable").len());
        // It may have ended already.
        let _ = writeln!(ask, "And now?");
        drop(ask);
        let output = child.wait_with_output().expect("an end");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(5), "{what}: {said}");
        assert!(said.contains("f16.gguf: changed while it was read"), "{what}: {said}");
    }
}

/// A Q4_0 file of ggjt v1 of about N megabytes, all holes but for what describes it.
fn large(path: &Path, megabytes: u64) -> u64 {
    let file = File::create(path).expect("creatable");
    let mut at = 0;
    let mut put = |bytes: &[u8], then: u64| {
        file.write_all_at(bytes, at).expect("writable");
        at += bytes.len() as u64 + then;
        file.set_len(at).expect("can grow");
        at
    };
    let (vocab, width, multiple, ff, heads) = (256u32, 4096u32, 256u32, 11008u32, 32u32);
    let row = |n: u32| u64::from(n) / 32 * 20; // a block: f32 scale, 16 bytes
    let layer = row(width) * u64::from(4 * width + 2 * ff) + row(ff) * u64::from(width);
    let layers = u32::try_from((megabytes << 20).div_ceil(layer)).expect("a count");
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    put(b"tjgg", 0);
    put(&words(&[1, vocab, width, multiple, heads, layers, width / heads, 2]), 0);
    for token in 0..vocab {
        put(&[&words(&[3])[..], format!("{token:03}").as_bytes(), &words(&[0])].concat(), 0);
    }
    let mut tensor = |name: &str, rows: Option<u32>, columns: u32| {
        let dims = [Some(columns), rows];
        let dims: Vec<u32> = dims.into_iter().flatten().collect();
        let (n, len) = (dims.len() as u32, name.len() as u32);
        let quant = if n == 2 { 2 } else { 0 };
        let head = [&words(&[n, len, quant])[..], &words(&dims), name.as_bytes()].concat();
        let end = put(&head, 0);
        let data = rows.map_or(u64::from(columns) * 4, |rows| u64::from(rows) * row(columns));
        put(&[], end.next_multiple_of(32) - end + data)
    };
    tensor("tok_embeddings.weight", Some(vocab), width);
    tensor("norm.weight", None, width);
    tensor("output.weight", Some(vocab), width);
    for n in 0..layers {
        for name in ["wq", "wk", "wv", "wo"] {
            tensor(&format!("layers.{n}.attention.{name}.weight"), Some(width), width);
        }
        tensor(&format!("layers.{n}.attention_norm.weight"), None, width);
        tensor(&format!("layers.{n}.feed_forward.w1.weight"), Some(ff), width);
        tensor(&format!("layers.{n}.feed_forward.w2.weight"), Some(width), ff);
        tensor(&format!("layers.{n}.feed_forward.w3.weight"), Some(ff), width);
        tensor(&format!("layers.{n}.ffn_norm.weight"), None, width);
    }
    at
}

/// Upgrades a model of `times` the memory that the process may address.
fn upgraded_within(megabytes: u64, times: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let size = large(&folder.path().join("large.bin"), megabytes * times);
    assert!(size > (megabytes << 20) * times, "{size} bytes are too few");
    let room = free_space(folder.path()).unwrap_or(u64::MAX);
    assert!(room > size, "{size} bytes of disk are needed, {room} are free");
    let script = format!("ulimit -v {}; \"$0\" \"$@\"", megabytes << 10);
    let output = shell(folder.path(), &[], &script, &["upgrade", "large.bin", "-o", "out.gguf"]);
    assert!(output.status.success(), "{}", text(&output));
    let model = open(&folder.path().join("out.gguf"), &OpenOptions::default()).expect("whole");
    assert!(model.data_bytes() > size * 8 / 10);
}

#[test]
fn a_model_larger_than_memory() {
    upgraded_within(128, 5);
}

/// `cargo test --release --test faults -- --ignored`: 10 GB are read and 9 GB written.
#[test]
#[ignore = "writes 9 GB"]
fn a_model_of_twenty_times_512_mb() {
    upgraded_within(512, 20);
}

/// The upgrade of a golden file to `out` in a folder.
fn upgrade_to(folder: &Path) -> (Model, Vec<Plan>) {
    let model = open(&golden("T/E4/ggml-model-q4_0.bin"), &OpenOptions::default()).expect("sound");
    let options = upgrade::Options { output: Some(folder.join("out")), ..Default::default() };
    let (model, plan) = upgrade::plan(model, &options).expect("planned");
    (model, vec![plan])
}

/// The last step of all: the name is taken by what no file replaces, when the file is whole.
#[test]
fn a_name_that_cannot_be_had_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, plans) = upgrade_to(folder.path());
    let taken = |_: usize, _: &Path| {
        fs::create_dir(folder.path().join("out")).expect("a folder");
        Ok(())
    };
    let proof: change::execute::Proof = &|_, _| Ok(None);
    let how =
        change::Writing { commit: Existing::Replace.into(), progress: &(), proof, sealed: &taken };
    let error = change::carry_with(&model, &plans, &how).expect_err("it is a folder");
    assert!(matches!(error.exit_code(), 4 | 5), "{error}");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    assert_eq!(files(folder.path()).len(), 0);
}

/// A write that fails when most is written: the last tensor lies beyond what any disk holds.
#[test]
fn a_late_write_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, mut plans) = upgrade_to(folder.path());
    *plans[0].layout.data.last_mut().expect("tensors") = i64::MAX as u64 - 8;
    let error = change::carry(&model, &plans, Existing::Keep, &()).expect_err("no disk holds it");
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    assert_eq!(files(folder.path()).len(), 0);
}

/// A disk that gives a few bytes at a time, is interrupted in between, and fails at an offset.
struct Poor {
    bytes: std::io::Cursor<Vec<u8>>,
    calls: usize,
    fails: u64,
}

impl std::io::Read for Poor {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        if self.bytes.position() >= self.fails {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        let most = out.len().min(1 + self.calls % 700);
        self.bytes.read(&mut out[..most])
    }
}

/// A golden file on such a disk.
fn poor(fails: u64) -> Input {
    let bytes = fs::read(golden("T/E4/ggml-model-q4_0.bin")).expect("readable");
    Input::stream("poor.bin", bytes.len() as u64, move || {
        let bytes = std::io::Cursor::new(bytes.clone());
        Ok(Box::new(Poor { bytes, calls: 0, fails }))
    })
}

#[test]
fn short_and_interrupted_reads_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, plans) = upgrade_to(folder.path());
    change::carry(&model, &plans, Existing::Keep, &()).expect("written");
    let wanted = fs::read(folder.path().join("out")).expect("readable");
    let poorly = Model { files: vec![poor(u64::MAX)], ..model };
    change::carry(&poorly, &plans, Existing::Replace, &()).expect("written");
    assert!(fs::read(folder.path().join("out")).expect("readable") == wanted);
}

#[test]
fn a_disk_that_fails_in_between_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    for fails in [0, 5, 3000, 60_000, 110_000] {
        let (model, plans) = upgrade_to(folder.path());
        let poorly = Model { files: vec![poor(fails)], ..model };
        let error =
            change::carry(&poorly, &plans, Existing::Keep, &()).expect_err("the disk fails");
        assert_eq!(error.exit_code(), 5, "{error}");
        assert!(error.to_string().contains("poor.bin"), "{error}");
        assert_eq!(files(folder.path()).len(), 0);
        // Nor does anything say that it is another file.
        let read = regguf::container::open_alone(&poor(fails), &OpenOptions::default());
        let kinds = read.map(|_| ()).map_err(|e| e.exit_code());
        assert!(matches!(kinds, Err(5) | Ok(())), "{fails}: {kinds:?}");
    }
}

/// Whether outputs are flushed changes none of their bytes, and what was written says that they were not.
#[test]
fn flushing_can_be_left_to_the_system() {
    let note = "note: flushing it is left to the system";
    let run = |words: &[&str]| {
        let folder = inputs();
        let output = shell(folder.path(), &[], "mkdir disk; exec \"$0\" \"$@\"", words);
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        // Receipts hold times.
        let written = files(&folder.path().join("disk")).into_iter();
        let models = written.filter(|(path, _)| path.extension().is_none_or(|e| e != "json"));
        let name = |path: PathBuf| path.strip_prefix(folder.path()).expect("in it").to_owned();
        let models: Vec<_> = models.map(|(path, bytes)| (name(path), bytes)).collect();
        assert!(!models.is_empty(), "{words:?}");
        (models, text(&output).contains(note))
    };
    let more: [&[&str]; 3] = [
        &["tensors", "models/f16.gguf", "blk.*", "--npz", "disk/out"],
        &["split", "models/f16.gguf", "disk/out", "--max-size", "100K"],
        &["metadata", "models/f16.gguf", "set", "general.name", "x", "-o", "disk/out"],
    ];
    for words in WRITING[..6].iter().chain(&more) {
        let (flushed, told) = run(words);
        assert!(!told, "{words:?}");
        let (cached, told) = run(&[words, &["--no-sync"][..]].concat());
        assert!(flushed == cached, "{words:?}");
        let reports = ["upgrade", "convert", "quantize"].contains(&words[0]);
        assert_eq!(told, reports && !words.contains(&"safetensors"), "{words:?}");
    }

    let folder = tempfile::tempdir().expect("a folder");
    let (model, plans) = upgrade_to(folder.path());
    for durability in [Durability::Flushed, Durability::Cached] {
        let commit = Commit { existing: Existing::Replace, durability };
        let outcomes = change::carry(&model, &plans, commit, &()).expect("written");
        assert!(outcomes.iter().all(|outcome| outcome.durability == durability));
    }
}
