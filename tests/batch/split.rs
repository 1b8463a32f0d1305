//! Batches split over machines: by models, and by the tensors of one model.

use super::*;

#[test]
fn shards_make_the_same_files() {
    let (_, made) = reference();
    for count in [2, 3] {
        let folder = tree();
        for index in 0..count {
            let shard = format!("{index}/{count}");
            let output = batch(folder.path(), &[&UPGRADE[..], &["--shard", &shard]].concat());
            assert!(output.status.success(), "{}", text(&output));
        }
        assert_eq!(outputs(&folder.path().join("out")), made, "{count}");
    }
}

const QUANTIZE: [&str; 6] = ["quantize", "models", "--types", "q8_0,q4_0", "--out", "out"];

/// A tree with one model of two parts and 21 tensors.
fn one_model() -> tempfile::TempDir {
    let folder = tree();
    for other in ["e4", "e5", "e6", "e8"] {
        fs::remove_dir_all(folder.path().join("models").join(other)).expect("removable");
    }
    folder
}

fn part(folder: &Path, words: &[&str], index: usize, count: usize) -> Output {
    let shard = format!("{index}/{count}");
    batch(folder, &[words, &["--tensors", "--shard", &shard]].concat())
}

fn good(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

#[test]
fn parts_of_one_model_join_to_the_same_file() {
    let undivided = one_model();
    good(&batch(undivided.path(), &QUANTIZE));
    let made = outputs(&undivided.path().join("out"));
    assert_eq!(made.len(), 2);
    for count in [1, 2, 3, 7, 40] {
        // Every worker has its own copy of the model; only the parts meet.
        let meeting = tempfile::tempdir().expect("a folder");
        let mut sizes = Vec::new();
        for index in 0..count {
            let worker = one_model();
            good(&part(worker.path(), &QUANTIZE, index, count));
            for (name, bytes) in files(&worker.path().join("out")) {
                if name.contains("Q8_0") && !name.ends_with(".json") {
                    sizes.push(bytes.len());
                }
                let to = meeting.path().join(name);
                fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
                fs::write(to, bytes).expect("writable");
            }
        }
        assert_eq!(sizes.len(), count);
        let whole = made["parts/ggml-model-Q8_0.gguf"].len();
        assert_eq!(sizes.iter().sum::<usize>(), whole, "the parts tile the file");
        if count == 2 {
            assert!(sizes.iter().all(|size| *size > whole / 4), "uneven: {sizes:?}");
        }
        good(&batch(meeting.path(), &["join", "."]));
        let names: Vec<String> = files(meeting.path()).into_keys().collect();
        assert_eq!(names.len(), 4, "two models and two receipts: {names:?}");
        assert!(outputs(meeting.path()) == made, "{count} workers write the same bytes");
    }
}

#[test]
fn joined_outputs_count_as_made() {
    let folder = one_model();
    for index in 0..3 {
        good(&part(folder.path(), &QUANTIZE, index, 3));
    }
    let again = part(folder.path(), &QUANTIZE, 1, 3);
    assert!(text(&again).contains("0 done, 1 skipped"), "{}", text(&again));
    good(&batch(folder.path(), &["join", "out", "--events"]));
    // Neither an undivided batch nor a worker that comes late has anything to do.
    for late in [batch(folder.path(), &QUANTIZE), part(folder.path(), &QUANTIZE, 1, 3)] {
        assert!(text(&late).contains("0 done, 1 skipped"), "{}", text(&late));
    }
    assert_eq!(files(&folder.path().join("out")).len(), 4);
}

#[test]
fn parts_that_do_not_belong_together_are_not_joined() {
    let words = ["upgrade", "models/parts", "--out", "out"];
    let folder = one_model();
    let out = folder.path().join("out");
    good(&part(folder.path(), &words, 0, 3));
    good(&part(folder.path(), &words, 2, 3));
    let refused = |why: &str| {
        let output = batch(folder.path(), &["join", "out"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(why), "{}", text(&output));
        assert!(!out.join("ggml-model-f16.gguf").exists());
    };
    refused("--tensors --shard 1/3");
    good(&part(folder.path(), &words, 1, 3));

    // A part whose bytes are not those of its receipt.
    let second = out.join("ggml-model-f16.gguf.part-1-of-3");
    let bytes = fs::read(&second).expect("readable");
    let mut wrong = bytes.clone();
    wrong[bytes.len() / 2] ^= 1;
    fs::write(&second, wrong).expect("writable");
    refused("is not what its receipt says");
    fs::write(&second, bytes).expect("writable");

    // A part of another model of the same name and size.
    let input = folder.path().join("models/parts/ggml-model-f16.bin.1");
    let mut other = fs::read(&input).expect("readable");
    // Not in a norm: both parts hold those whole, and a difference there is found before.
    let middle = other.len() / 2;
    other[middle] ^= 1;
    fs::write(&input, other).expect("writable");
    good(&part(folder.path(), &words, 1, 3));
    refused("was made from other inputs");
    for index in [0, 2] {
        good(&part(folder.path(), &words, index, 3));
    }
    good(&batch(folder.path(), &["join", "out"]));
}

#[test]
fn workers_and_joins_may_be_killed() {
    let undivided = one_model();
    good(&batch(undivided.path(), &QUANTIZE));
    let made = outputs(&undivided.path().join("out"));
    let folder = one_model();
    let out = folder.path().join("out");
    let mut random = Random(77);
    let began = Instant::now();
    good(&part(folder.path(), &QUANTIZE, 0, 2));
    let whole = u32::try_from(began.elapsed().as_micros()).expect("under an hour");
    for round in 0..8 {
        for index in 0..2 {
            let shard = format!("{index}/2");
            let words = [&QUANTIZE[..], &["--tensors", "--shard", &shard]].concat();
            kill_once(&mut command(folder.path(), &words), &mut random, whole);
        }
        for index in 0..2 {
            good(&part(folder.path(), &QUANTIZE, index, 2));
        }
        kill_once(&mut command(folder.path(), &["join", "out"]), &mut random, whole);
        let joined = batch(folder.path(), &["join", "out"]);
        // A join that was killed at its very end has left nothing to join.
        assert!(joined.status.success() || text(&joined).contains("nothing to join"));
        assert!(outputs(&out) == made, "round {round}");
        assert_eq!(files(&out).len(), 4, "{:?}", files(&out).keys());
        fs::remove_dir_all(&out).expect("removable");
    }
}

/// The examples of the documentation, run as their engines would run them.
mod examples {
    use super::*;

    /// The fenced examples of `src/batch/mod.rs` in one language, in order.
    fn examples(language: &str) -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/batch/mod.rs");
        let text = fs::read_to_string(path).expect("readable");
        let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
        let doc = lines.map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned() + "\n");
        let doc: String = doc.collect();
        let fences = doc.split("```").collect::<Vec<_>>();
        let inside = fences.chunks_exact(2).map(|pair| pair[1]);
        inside.filter_map(|block| block.strip_prefix(language)).map(str::to_owned).collect()
    }

    /// Runs an example in `folder`, which is `/shared`, with the variables of an engine.
    fn run(folder: &Path, script: &str, variables: &[(&str, String)]) {
        let program = Path::new(env!("CARGO_BIN_EXE_regguf")).parent().expect("a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.arg("-c").arg(script.replace("/shared/", "")).current_dir(folder);
        command.env("PATH", path).envs(variables.iter().map(|(k, v)| (k, v)));
        good(&command.output().expect("a shell"));
    }

    fn slurm(folder: &Path, script: &str) {
        assert!(script.contains("--array=0-7"), "{script}");
        for task in 0..8 {
            let id = ("SLURM_ARRAY_TASK_ID", task.to_string());
            run(folder, script, &[id, ("SLURM_ARRAY_TASK_COUNT", "8".to_owned())]);
        }
    }

    #[cfg(unix)]
    #[test]
    fn slurm_arrays() {
        let scripts = examples("sh\n");
        let [models, _, tensors, join] = scripts.as_slice() else { panic!("{scripts:?}") };
        let undivided = one_model();
        let words = ["quantize", "models", "--types", "q4_k_m,q8_0", "--out", "quantized"];
        good(&batch(undivided.path(), &words));
        let made = outputs(&undivided.path().join("quantized"));
        assert_eq!(made.len(), 2);
        let by_models = one_model();
        slurm(by_models.path(), models);
        assert!(outputs(&by_models.path().join("quantized")) == made);
        let by_tensors = one_model();
        slurm(by_tensors.path(), tensors);
        run(by_tensors.path(), join, &[]);
        assert!(outputs(&by_tensors.path().join("quantized")) == made);
    }

    #[cfg(unix)]
    #[test]
    fn kubernetes_indexed_jobs() {
        let yaml = examples("yaml\n").remove(0);
        assert!(yaml.contains("command: [sh, -c]") && yaml.contains("completions: 8"), "{yaml}");
        let (_, script) = yaml.split_once("args: ['").expect("arguments");
        let (script, _) = script.split_once("']").expect("their end");
        let folder = tree();
        for index in 0..8 {
            run(folder.path(), script, &[("JOB_COMPLETION_INDEX", index.to_string())]);
        }
        let (_, made) = reference();
        // Beside its model the output of a GGUF has a longer name.
        let there = outputs(&folder.path().join("models"));
        assert_eq!(there.len(), MODELS.len() + made.len());
        assert!(made.values().all(|made| there.values().any(|bytes| bytes == made)));
    }

    /// GNU parallel on this machine where it is installed, else what it would start.
    #[cfg(unix)]
    #[test]
    fn gnu_parallel() {
        let script = examples("sh\n").remove(1);
        let folder = tree();
        let here = script.replace("--sshloginfile hosts", "");
        assert_ne!(here, script);
        let installed = Command::new("parallel").arg("--version").output();
        if installed.is_ok_and(|out| text(&out).starts_with("GNU parallel")) {
            run(folder.path(), &here, &[]);
        }
        let (_, words) = here.split_once("\\\n").expect("two lines");
        let (words, inputs) = words.split_once(":::").expect("inputs");
        for input in inputs.split_whitespace() {
            run(folder.path(), &words.replace("{}", input), &[]);
        }
    }
}
