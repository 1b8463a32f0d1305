//! Batches that are killed, crowded, starved and rerun. Every test works on copies of golden files.

mod imatrix;
mod split;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Small originals of several eras, a set of two parts among them.
const MODELS: [(&str, &str); 6] = [
    ("T/E2-2part/ggml-model-f16.bin", "parts/ggml-model-f16.bin"),
    ("T/E2-2part/ggml-model-f16.bin.1", "parts/ggml-model-f16.bin.1"),
    ("T/E4/ggml-model-q4_0.bin", "e4/ggml-model-q4_0.bin"),
    ("T/E5/ggml-model-q4_1.bin", "e5/ggml-model-q4_1.bin"),
    ("T/E6/ggml-model-q8_0.bin", "e6/ggml-model-q8_0.bin"),
    ("T/E8/ggml-model-q4_0.gguf", "e8/model.gguf"),
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// A tree of models.
fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (from, to) in MODELS {
        let to = folder.path().join("models").join(to);
        fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
        fs::write(to, fs::read(golden(from)).expect(from)).expect("writable");
    }
    folder
}

fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(folder).arg("batch").args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn batch(folder: &Path, words: &[&str]) -> Output {
    command(folder, words).output().expect("the program runs")
}

fn text(output: &Output) -> String {
    let of = |bytes| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stderr) + &of(&output.stdout)
}

/// Every file below a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    if !folder.exists() {
        return all;
    }
    for entry in walkdir::WalkDir::new(folder) {
        let path = entry.expect("listable").into_path();
        if path.is_file() {
            let name = path.strip_prefix(folder).expect("below").to_string_lossy().into_owned();
            all.insert(name, fs::read(&path).expect("readable"));
        }
    }
    all
}

/// The models that a batch wrote, without their receipts.
fn outputs(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = files(folder);
    all.retain(|name, _| !name.ends_with(".receipt.json") && !is_hidden(name));
    all
}

fn is_hidden(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.starts_with('.'))
}

const UPGRADE: [&str; 4] = ["upgrade", "models", "--out", "out"];

/// What an undisturbed batch writes.
fn reference() -> (tempfile::TempDir, BTreeMap<String, Vec<u8>>) {
    let folder = tree();
    let output = batch(folder.path(), &UPGRADE);
    assert!(output.status.success(), "{}", text(&output));
    let made = outputs(&folder.path().join("out"));
    assert_eq!(made.len(), 5, "{:?}", made.keys());
    (folder, made)
}

#[test]
fn a_rerun_does_only_what_is_due() {
    let (folder, made) = reference();
    let out = folder.path().join("out");
    let before = files(&folder.path().join("models"));
    let counts = |output: &Output| text(output).lines().last().unwrap_or_default().to_owned();
    let again = |expected: &str| {
        let output = batch(folder.path(), &UPGRADE);
        assert!(output.status.success(), "{}", text(&output));
        assert!(counts(&output).starts_with(expected), "{}", text(&output));
        assert_eq!(outputs(&out), made);
    };
    again("0 done, 5 skipped");
    let one = out.join("e4/ggml-model-q4_0.gguf");
    fs::remove_file(&one).expect("removable");
    again("1 done, 4 skipped");
    let mut bytes = fs::read(&one).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&one, &bytes).expect("writable");
    let output = batch(folder.path(), &[&UPGRADE[..], &["--keep-going"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("was changed since a batch made it"), "{}", text(&output));
    assert_eq!(fs::read(&one).expect("readable"), bytes, "what somebody edited is theirs");
    fs::remove_file(&one).expect("removable");
    again("1 done, 4 skipped");
    assert_eq!(files(&folder.path().join("models")), before, "inputs are never written to");

    // Another input of the same name is another model.
    fs::write(
        folder.path().join("models/e5/ggml-model-q4_1.bin"),
        fs::read(golden("T/E5/ggml-model-q4_0.bin")).expect("golden"),
    )
    .expect("writable");
    let output = batch(folder.path(), &UPGRADE);
    assert!(counts(&output).starts_with("1 done, 4 skipped"), "{}", text(&output));
    let name = "e5/ggml-model-q4_1.gguf";
    assert_ne!(outputs(&out)[name], made[name]);
}

#[test]
fn outputs_beside_their_models_are_no_inputs() {
    let folder = tree();
    let words = ["upgrade", "models"];
    assert!(batch(folder.path(), &words).status.success());
    let output = batch(folder.path(), &words);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("0 done, 5 skipped"), "{}", text(&output));
    // Away from them they are; and whatever is there can be verified.
    let output = batch(folder.path(), &["verify", "models", "--events"]);
    assert!(text(&output).contains("\"jobs\":10,"), "{}", text(&output));
    let words = ["upgrade", "models/parts", "--out", "far"];
    let output = batch(folder.path(), &words);
    assert!(output.status.success(), "{}", text(&output));
    let output = batch(folder.path(), &["quantize", "far", "--types", "q8_0", "--out", "further"]);
    assert!(text(&output).contains("1 done, 0 skipped"), "{}", text(&output));
}

#[test]
fn files_that_no_batch_made_are_left_alone() {
    let folder = tree();
    let mine = folder.path().join("out/e4/ggml-model-q4_0.gguf");
    fs::create_dir_all(mine.parent().expect("a parent")).expect("a folder");
    fs::write(&mine, "mine").expect("writable");
    let words = [&UPGRADE[..], &["--keep-going"]].concat();
    let output = batch(folder.path(), &words);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("exists already and no receipt"), "{}", text(&output));
    assert_eq!(fs::read(&mine).expect("readable"), b"mine");
    let words = [&UPGRADE[..], &["--force"]].concat();
    assert!(batch(folder.path(), &words).status.success());
    assert_ne!(fs::read(&mine).expect("readable"), b"mine");
}

#[test]
fn another_folder_s_outputs_are_left_alone() {
    let folder = tree();
    let (a, b) = (["upgrade", "models/e4", "--out", "out"], ["upgrade", "b", "--out", "out"]);
    fs::create_dir(folder.path().join("b")).expect("a folder");
    let name = "ggml-model-q4_0";
    fs::copy(golden("T/E6/ggml-model-q5_0.bin"), folder.path().join(format!("b/{name}.bin")))
        .expect("writable");
    assert!(batch(folder.path(), &a).status.success());
    let made = outputs(&folder.path().join("out"));
    let output = batch(folder.path(), &b);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("was made from /"), "{}", text(&output));
    assert_eq!(outputs(&folder.path().join("out")), made);
    // Its own input may change.
    fs::copy(
        golden("T/E6/ggml-model-q5_0.bin"),
        folder.path().join(format!("models/e4/{name}.bin")),
    )
    .expect("writable");
    assert!(text(&batch(folder.path(), &a)).contains("1 done"));
    assert_ne!(outputs(&folder.path().join("out")), made);
    // A receipt of work that began owns no file that it did not make.
    let receipt = folder.path().join(format!("out/{name}.gguf.receipt.json"));
    let said = fs::read_to_string(&receipt).expect("readable").replace("finished", "started");
    fs::write(&receipt, said).expect("writable");
    fs::write(folder.path().join(format!("out/{name}.gguf")), "mine").expect("writable");
    assert_eq!(batch(folder.path(), &a).status.code(), Some(1));
    assert_eq!(outputs(&folder.path().join("out"))[&format!("{name}.gguf")], b"mine");
}

/// What is no file where a batch looks for its own: named at once, never waited for.
#[cfg(unix)]
#[test]
fn pipes_and_endless_links_are_no_receipts_or_locks() {
    let folder = tree();
    let out = folder.path().join("out");
    for (name, fails) in [
        (".regguf-a.partial", false),
        (".ggml-model-q4_0.gguf.lock", true),
        ("ggml-model-q4_0.gguf.receipt.json", true),
    ] {
        for endless in [false, true] {
            fs::create_dir(&out).expect("a folder");
            let path = out.join(name);
            if endless {
                std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
            } else {
                assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
            }
            let began = Instant::now();
            let output = batch(folder.path(), &["upgrade", "models/e4", "--out", "out"]);
            assert_eq!(output.status.success(), !fails, "{name}: {}", text(&output));
            assert!(began.elapsed() < Duration::from_secs(60));
            assert!(path.symlink_metadata().is_ok(), "{name} is not ours to remove");
            fs::remove_dir_all(&out).expect("removable");
        }
    }
}

#[test]
fn what_is_no_model_is_passed_over_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    fs::copy(golden("T/E7/ggml-vocab.gguf"), here.join("vocab.gguf")).expect("writable");
    fs::copy(golden("T/E8/ggml-model-f16.gguf"), here.join("m.gguf")).expect("writable");
    fs::write(here.join("text"), "Building a website. ".repeat(40)).expect("writable");
    let mut imatrix = Command::new(env!("CARGO_BIN_EXE_regguf"));
    imatrix.current_dir(here).args(["imatrix", "m.gguf", "-f", "text", "-c", "32"]);
    assert!(imatrix.output().expect("the program runs").status.success());
    let output = batch(here, &["quantize", ".", "--types", "q8_0", "--out", "out"]);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    for reason in ["vocab.gguf: holds a vocabulary only", "imatrix.gguf: is an importance matrix"] {
        assert!(said.contains(reason), "{said}");
    }
    assert!(said.contains("1 done, 2 skipped, 0 failed"), "{said}");
}

/// The cache of huggingface_hub: models are links into a folder of digests, and an unfinished download lies
/// there.
#[cfg(unix)]
#[test]
fn a_hub_cache_is_read_by_its_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let repository = folder.path().join("hub/models--org--repo");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/abc"));
    fs::create_dir_all(&blobs).expect("a folder");
    fs::create_dir_all(&snapshot).expect("a folder");
    for (blob, name) in [("6a03", "model-Q4_0.gguf"), ("77ff", "model-Q4_1.gguf")] {
        let bytes = fs::read(golden("T/E10").join(name)).expect(name);
        fs::write(blobs.join(blob), bytes).expect("writable");
        let link = Path::new("../../blobs").join(blob);
        std::os::unix::fs::symlink(link, snapshot.join(name)).expect("a link");
    }
    fs::write(blobs.join("e479.incomplete"), b"GGUF\x03\0\0\0").expect("writable");
    // What a copy leaves of a link where it keeps none.
    fs::write(snapshot.join("model-Q5_0.gguf"), "../../blobs/eb22").expect("writable");
    let words = [
        "quantize",
        "hub",
        "--types",
        "q8_0",
        "--allow-requantize",
        "--out",
        "out",
        "--keep-going",
    ];
    let output = batch(folder.path(), &words);
    let said = text(&output);
    assert!(said.contains("is the text of a link to ../../blobs/eb22"), "{said}");
    assert!(said.contains("2 done, 0 skipped, 1 failed"), "{said}");
    let made: Vec<String> = outputs(&folder.path().join("out")).into_keys().collect();
    let ends = |end: &str| made.iter().any(|name| name.ends_with(end));
    assert!(made.len() == 2 && !made.iter().any(|name| name.contains("6a03")), "{made:?}");
    assert!(made.iter().all(|name| name.contains("model-")) && ends(".gguf"), "{made:?}");
    let mut inspect = Command::new(env!("CARGO_BIN_EXE_regguf"));
    let output = inspect.current_dir(folder.path()).args(["inspect", "hub"]).output();
    let said = text(&output.expect("the program runs"));
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn a_saved_plan_runs_unchanged() {
    let (_, made) = reference();
    let folder = tree();
    let words = [&UPGRADE[..], &["--plan", "plan.json"]].concat();
    let output = batch(folder.path(), &words);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!folder.path().join("out").exists(), "planning writes nothing else");
    let output = batch(folder.path(), &["run", "plan.json"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(outputs(&folder.path().join("out")), made);
}

#[test]
fn two_batches_at_once_share_the_work() {
    let (_, made) = reference();
    for _ in 0..5 {
        let folder = tree();
        let spawn = || command(folder.path(), &UPGRADE).spawn().expect("the program runs");
        let both = [spawn(), spawn()].map(|child| child.wait_with_output().expect("an end"));
        for output in &both {
            assert!(output.status.success(), "{}", text(output));
        }
        let all = files(&folder.path().join("out"));
        assert!(!all.keys().any(|name| is_hidden(name)), "{:?}", all.keys());
        assert_eq!(outputs(&folder.path().join("out")), made);
    }
}

/// A generator of numbers below 2^32 (the constants of Numerical Recipes).
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }
}

#[test]
fn killed_at_two_hundred_moments() {
    let (_, made) = reference();
    // Several trees at a time: most of a batch is waiting for the disk.
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            let made = &made;
            scope.spawn(move || kill_often(50, Random(20_231 * seed), made));
        }
    });
}

/// Starts a batch and kills it at a random moment of `whole` microseconds; returns whether it lived.
fn kill_once(command: &mut Command, random: &mut Random, whole: u32) -> bool {
    let mut child = command.spawn().expect("the program runs");
    let moment = random.next() % (whole + whole / 8);
    std::thread::sleep(Duration::from_micros(u64::from(moment)));
    let alive = child.try_wait().expect("waitable").is_none();
    child.kill().expect("killable");
    child.wait().expect("an end");
    alive
}

/// Kills batches of one tree until N have died, looking at what is left every time.
fn kill_often(times: u32, mut random: Random, made: &BTreeMap<String, Vec<u8>>) {
    let folder = tree();
    let inputs = files(&folder.path().join("models"));
    let out = folder.path().join("out");
    // How long a whole batch takes, so that the moments fall all over it.
    let began = Instant::now();
    assert!(batch(folder.path(), &UPGRADE).status.success());
    let whole = u32::try_from(began.elapsed().as_micros()).expect("under an hour");
    fs::remove_dir_all(&out).expect("removable");

    let (mut killed, mut ended) = (0, 0);
    while killed < times {
        let alive = kill_once(&mut command(folder.path(), &UPGRADE), &mut random, whole);
        killed += u32::from(alive);
        for (name, bytes) in outputs(&out) {
            assert!(made[&name] == bytes, "{name} is partial under its final name");
        }
        if outputs(&out).len() == made.len() || !alive || killed == times {
            ended += 1;
            let output = batch(folder.path(), &UPGRADE);
            assert!(output.status.success(), "{}", text(&output));
            let all = files(&out);
            assert!(!all.keys().any(|name| is_hidden(name)), "{:?}", all.keys());
            assert!(outputs(&out) == *made, "the rerun's outputs differ");
            fs::remove_dir_all(&out).expect("removable");
        }
    }
    assert!(ended > 0);
    assert!(files(&folder.path().join("models")) == inputs, "inputs are never written to");
}

/// Runs with files limited in size, as a full disk would: writes beyond fail.
#[cfg(unix)]
#[test]
fn no_space_leaves_nothing_behind() {
    let folder = tree();
    let script = format!(
        "trap '' XFSZ; ulimit -f 100; exec '{}' batch upgrade models --out out --keep-going",
        env!("CARGO_BIN_EXE_regguf")
    );
    let output = Command::new("sh").current_dir(folder.path()).args(["-c", &script]).output();
    let output = output.expect("a shell");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let failed = text(&output).lines().filter(|l| l.contains("this process may write")).count();
    assert!(failed > 0, "{}", text(&output));
    let all = files(&folder.path().join("out"));
    assert!(!all.keys().any(|name| is_hidden(name)), "{:?}", all.keys());
    // With space, the same command finishes what is left.
    assert!(batch(folder.path(), &UPGRADE).status.success());
    assert_eq!(outputs(&folder.path().join("out")), reference().1);
}

#[test]
fn free_space_is_kept() {
    let folder = tree();
    let words = [&UPGRADE[..], &["--min-free", "1000000T"]].concat();
    let output = batch(folder.path(), &words);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("kept free, the disk has"), "{}", text(&output));
    assert!(outputs(&folder.path().join("out")).is_empty());
}

#[test]
fn inputs_that_vanish_or_are_damaged_fail_alone() {
    let (_, made) = reference();
    let folder = tree();
    let plan = [&UPGRADE[..], &["--plan", "plan.json"]].concat();
    assert!(batch(folder.path(), &plan).status.success());
    fs::remove_file(folder.path().join("models/e6/ggml-model-q8_0.bin")).expect("removable");
    let cut = folder.path().join("models/e5/ggml-model-q4_1.bin");
    let bytes = fs::read(&cut).expect("readable");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("writable");
    let output = batch(folder.path(), &["run", "plan.json", "--keep-going"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("3 done, 0 skipped, 2 failed"), "{said}");
    assert!(said.contains("failed: e6/ggml-model-q8_0.bin: "), "{said}");
    let left = outputs(&folder.path().join("out"));
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|(name, bytes)| made[name] == *bytes));
}

#[cfg(unix)]
#[test]
fn targets_that_cannot_be_written_are_named() {
    let folder = tree();
    // A file where the folder should be stops root as well as everybody else.
    fs::write(folder.path().join("out"), "a file").expect("writable");
    let output = batch(folder.path(), &UPGRADE);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("out: is no folder"), "{}", text(&output));
    assert_eq!(fs::read(folder.path().join("out")).expect("readable"), b"a file");
}

#[test]
fn models_that_differ_in_storage_alone_keep_their_names_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    for (from, to) in [
        ("T/E2/ggml-model-f16.bin", "m-f16.bin"),
        ("T/E3/ggml-model-f16.bin", "m-f32.bin"),
        ("T/E2/ggml-model-f16.bin", "m.f16.bin"),
        ("T/E3/ggml-model-f16.bin", "m-f32.gguf"),
    ] {
        fs::copy(golden(from), folder.path().join(to)).expect("writable");
    }
    let output = batch(folder.path(), &["quantize", ".", "--types", "q8_0", "--out", "out"]);
    assert!(output.status.success(), "{}", text(&output));
    let made = outputs(&folder.path().join("out"));
    let names: Vec<&String> = made.keys().collect();
    assert_eq!(names, ["m-Q8_0.gguf", "m-f32-Q8_0.gguf", "m-f32.gguf-Q8_0.gguf", "m.Q8_0.gguf"]);
}

#[test]
fn machines_hear_events() {
    let folder = tree();
    let output = batch(folder.path(), &[&UPGRADE[..], &["--events"]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let events: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect();
    let count = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!((count("planned"), count("started"), count("finished")), (1, 5, 5));
    assert_eq!(events.last().expect("events")["event"], "ended");
    let digest = &events.iter().find(|e| e["event"] == "finished").expect("one")["outputs"][0];
    assert_eq!(digest["sha256"].as_str().map(str::len), Some(64));
}

#[test]
fn whole_trees_are_verified() {
    let folder = tree();
    let output = batch(folder.path(), &["verify", "models", "--deep"]);
    assert!(output.status.success(), "{}", text(&output));
    let cut = folder.path().join("models/e5/ggml-model-q4_1.bin");
    let bytes = fs::read(&cut).expect("readable");
    fs::write(&cut, &bytes[..bytes.len() - 50]).expect("writable");
    let output = batch(folder.path(), &["verify", "models", "--keep-going"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("4 done, 0 skipped, 1 failed"), "{}", text(&output));
}

#[test]
fn several_types_come_from_one_reading() {
    let folder = tree();
    let words = ["quantize", "models/parts", "--types", "q8_0,q4_0", "--out", "out"];
    let output = batch(folder.path(), &words);
    assert!(output.status.success(), "{}", text(&output));
    let made = outputs(&folder.path().join("out"));
    let names: Vec<&str> = made.keys().map(String::as_str).collect();
    assert_eq!(names, ["ggml-model-Q4_0.gguf", "ggml-model-Q8_0.gguf"]);
    // One more type makes one more file; the other two are proved.
    let words =
        ["quantize", "models/parts", "--types", "q8_0,q5_0,q4_0", "--out", "out", "--events"];
    let output = batch(folder.path(), &words);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("Q5_0.gguf") && !said.contains("Q4_0.gguf"), "{said}");
    let again = outputs(&folder.path().join("out"));
    assert_eq!(again.len(), 3);
    assert!(made.iter().all(|(name, bytes)| again[name] == *bytes));
    // What is quantized already is refused, model by model.
    let words = ["quantize", "models/e4", "--types", "q8_0", "--out", "out"];
    let output = batch(folder.path(), &words);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn a_checkpoint_folder_is_one_model() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["checklist.chk", "consolidated.00.pth", "consolidated.01.pth", "params.json"] {
        let to = folder.path().join("models/T").join(name);
        fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
        fs::write(to, fs::read(golden("T/meta-2shard/T").join(name)).expect(name))
            .expect("writable");
    }
    let tokenizer = fs::read(golden("T/meta-2shard/tokenizer.model")).expect("golden");
    fs::write(folder.path().join("models/tokenizer.model"), &tokenizer).expect("writable");
    let output = batch(folder.path(), &["verify", "models", "--events"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("\"jobs\":1,"), "{}", text(&output));
    let words = ["convert", "models", "--types", "f16,q8_0", "--out", "out"];
    let output = batch(folder.path(), &words);
    assert!(output.status.success(), "{}", text(&output));
    let made = outputs(&folder.path().join("out"));
    let names: Vec<&str> = made.keys().map(String::as_str).collect();
    assert_eq!(names, ["T/T-172K-F16.gguf", "T/T-172K-Q8_0.gguf"]);
    let quantize = ["quantize", "models", "--types", "q8_0", "--out", "quantized"];
    let output = batch(folder.path(), &quantize);
    assert!(output.status.success(), "{}", text(&output));
    let quantized = outputs(&folder.path().join("quantized"));
    assert_eq!(quantized["T/T-172K-Q8_0.gguf"], made["T/T-172K-Q8_0.gguf"]);
    // The tokenizer above the folder is an input as well.
    fs::write(folder.path().join("models/tokenizer.model"), [&tokenizer[..], &[0x1a, 0]].concat())
        .expect("writable");
    let output = batch(folder.path(), &words);
    assert!(text(&output).contains("1 done, 0 skipped") || !output.status.success());
    let output = batch(folder.path(), &["verify", "out", "--deep"]);
    assert!(output.status.success(), "{}", text(&output));
}
