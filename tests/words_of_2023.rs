//! The commands of 2023 as people typed them, after `regguf`: they chain under the names of 2023, without -o.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// What llama.cpp's `main` of November 2023 wrote with its own Q4_0 of the same weights (golden/manifest.json).
const SAID: &str = "This program is free software; you can redistribute it and/or modify it under the terms of the GNU";

/// `models/7B` and the tokenizer beside it, as Meta's download left them.
fn models() -> TempDir {
    let (folder, golden) =
        (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/meta"));
    let models = folder.path().join("models");
    fs::create_dir_all(models.join("7B")).unwrap();
    for (from, to) in [
        ("T/consolidated.00.pth", "7B/consolidated.00.pth"),
        ("T/params.json", "7B/params.json"),
        ("tokenizer.model", "tokenizer.model"),
    ] {
        fs::copy(golden.join(from), models.join(to)).unwrap();
    }
    folder
}

/// What a call in `folder` does.
fn call(folder: &TempDir, words: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(folder).args(words).output().unwrap()
}

fn done(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    (out, err)
}

fn line(folder: &TempDir, line: &str) -> (String, String) {
    done(&call(folder, &line.split(' ').map(str::to_owned).collect::<Vec<_>>()))
}

#[test]
fn the_three_lines_of_march_chain() {
    let folder = models();
    line(&folder, "convert models/7B/ 1");
    assert!(folder.path().join("models/7B/ggml-model-f16.gguf").is_file());
    let (_, note) =
        line(&folder, "quantize ./models/7B/ggml-model-f16.bin ./models/7B/ggml-model-q4_0.bin 2");
    assert_eq!(
        note,
        "note: ./models/7B/ggml-model-f16.bin is not there: ggml-model-f16.gguf is taken\n"
    );
    let words = "run -m ./models/7B/ggml-model-q4_0.bin -t 8 -n 64 --temp 0 -p";
    let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    words.push("This program is free software".to_owned());
    let (said, _) = done(&call(&folder, &words));
    assert!(said.starts_with(SAID), "{said}");
}

#[test]
fn the_lines_of_autumn_chain_without_an_output() {
    let folder = models();
    let flags = "--outtype f16 --ctx 512 --vocab-dir models --n_parts 1 --concurrency 8";
    let (report, _) = line(&folder, &format!("convert models/7B/ {flags}"));
    // What was said is not assumed.
    assert!(!report.contains("a context of"), "{report}");
    line(&folder, "quantize models/7B/ggml-model-f16.bin q4_0");
    let words = "run -m models/7B/ggml-model-q4_0.bin --temp 0 -n 64 -p";
    let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    words.push("This program is free software".to_owned());
    let (said, _) = done(&call(&folder, &words));
    assert!(said.starts_with(SAID), "{said}");
}

#[test]
fn a_size_alone_is_quantized_as_by_quantize_py() {
    let folder = models();
    line(&folder, "convert models/7B/ --outfile models/7B/ggml-model-f16.bin");
    line(&folder, "quantize 7B");
    let (said, _) = line(&folder, "inspect models/7B/ggml-model-q4_0.bin");
    assert!(said.contains("q4_0"), "{said}");
    assert!(folder.path().join("models/7B/ggml-model-q4_0.gguf").is_file());
}

/// Sixteen flags of llama.cpp's `main`, and what each leaves in the text or says.
#[test]
fn sixteen_flags_of_main_do_what_they_did() {
    let folder = models();
    line(&folder, "convert models/7B/");
    let run = |flags: &str| {
        let words = format!("run models/7B/ggml-model-f16.gguf {flags}");
        line(&folder, &words)
    };
    let (plain, _) = run("--temp 0 -n 12 -p This");
    assert!(plain.len() > "This".len());
    // Those that mean the same here, under the name of today.
    let mapped = [
        "--n_predict 12",
        "-n 12 -c 64",
        "-n 12 --ctx_size 64",
        "-n 12 --top_k 40",
        "-n 12 --top_p 0.9",
        "-n 12 --repeat_penalty 1.0",
        "-n 12 --repeat_last_n 64",
        "-n 12 -s 7",
        "-n 12 -t 2",
        "-n 12 -eps 1e-6",
        "-n 12 --ignore-eos",
    ];
    for flags in mapped {
        let (said, err) = run(&format!("--temp 0 -p This {flags}"));
        assert_eq!(said, plain, "{flags}");
        assert!(!err.contains("not needed"), "{flags}: {err}");
    }
    // Those that change no word are taken, all with one note, and their values with them.
    let needless = [
        "-ngl 32",
        "--mlock",
        "-b 512",
        "--color",
        "--memory_f32",
        "--n_parts 1",
        "--keep 4",
        "--no-mmap",
    ];
    for flag in needless {
        let (said, err) = run(&format!("--temp 0 {flag} -p This -n 12"));
        assert_eq!(said, plain, "{flag}");
        let note = format!("note: not needed here: {}\n", flag.replace('_', "-"));
        assert!(err.contains(&note), "{flag}: {err}");
    }
    let (said, err) = run(&format!("--temp 0 {} -p This -n 12", needless.join(" ")));
    assert_eq!(said, plain);
    assert_eq!(err.matches("not needed here").count(), 1, "{err}");
    // `-ngl` is never `-n gl`, and what is not known is not read as something else.
    for (flags, says) in
        [("-nkv 8", "-nkv: not known here"), ("--mirostat 2", "--mirostat: not known")]
    {
        let words = format!("run models/7B/ggml-model-f16.gguf -p This {flags}");
        let refused = call(&folder, &words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let err = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), err.contains(says)), (Some(2), true), "{err}");
    }
}

/// `-r`, as in `examples/chat.sh`: the model writes up to it, then the person.
#[test]
fn a_reverse_prompt_hands_over() {
    use std::io::Write;
    let folder = models();
    line(&folder, "convert models/7B/");
    let mut child = Command::new(env!("CARGO_BIN_EXE_regguf"))
        .current_dir(&folder)
        .args([
            "run",
            "models/7B/ggml-model-f16.gguf",
            "--temp",
            "0",
            "-n",
            "200",
            "-r",
            "software;",
        ])
        .args(["-p", "This program is free"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"").unwrap();
    let (said, _) = done(&child.wait_with_output().unwrap());
    assert_eq!(said.trim_end(), "This program is free software;");
}

#[test]
fn what_was_meant_is_said() {
    let folder = models();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E4/ggml-model-q4_0.bin");
    fs::copy(golden, folder.path().join("old.bin")).unwrap();
    line(&folder, "upgrade old.bin -o new/");
    assert!(folder.path().join("new/old.gguf").is_file());
    let (report, _) = line(&folder, "upgrade old.bin --to gguf");
    assert!(report.contains("(gguf-v3, "), "{report}");
    for (words, says) in [
        ("upgrade old.bin", "is there already"),
        ("upgrade models", "regguf batch upgrade models"),
        ("upgrade old.bin old.gguf", "regguf batch upgrade old.bin old.gguf"),
        ("convert old.bin new.gguf", "-o new.gguf"),
        ("inspect -", "standard input is not read; save it"),
        ("upgrade old.bin -o -", "nothing is written to standard output"),
    ] {
        let refused = call(&folder, &words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let err = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && err.contains(says), "{words}: {err}");
    }
}
