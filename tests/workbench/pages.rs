//! `inspect --html` and `compare --html`: pages that need nothing else, with every tensor by its name.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn call(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regguf")).current_dir(golden("")).args(words).output().unwrap()
}

/// The page that a call writes.
fn page(folder: &Path, words: &[&str]) -> String {
    let path = folder.join(format!("{}.html", words[0]));
    let output = call(&[words, &["--html", path.to_str().unwrap()]].concat());
    assert!(path.exists(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let page = fs::read_to_string(path).unwrap();
    for wanted in ["<meta name=\"viewport\"", "prefers-color-scheme:dark", "max-width:"] {
        assert!(page.contains(wanted), "{words:?}: {wanted}");
    }
    for fetched in ["http:", "https:", "src=", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(fetched), "{words:?}: {fetched}");
    }
    page
}

#[test]
fn a_model_is_drawn_with_layers_as_rows_and_kinds_as_columns() {
    let folder = tempfile::tempdir().unwrap();
    // Names differ, the table is the same.
    for (file, layers, kinds, alone) in [
        ("T/E10/model-Q4_K_M.gguf", 2, 9, 3),
        ("T/E4/ggml-model-q4_0.bin", 2, 9, 3),
        ("families/gpt2.gguf", 2, 12, 4),
    ] {
        let page = page(folder.path(), &["inspect", "--force", file]);
        let count = |part: &str| page.matches(part).count();
        // A row for each layer, one for each tensor outside, the heads of the tables of types and of layers.
        assert_eq!(count("<tr><th>"), layers + alone + 2, "{file}");
        assert_eq!(count("<td title="), layers * kinds + alone, "{file}: a cell for each tensor");
        assert_eq!(count("<svg"), layers * kinds + alone, "{file}: with its histogram");
    }
    let page = page(folder.path(), &["inspect", "--force", "T/E10/model-Q4_K_M.gguf"]);
    for wanted in ["<th>attn_output</th>", "q5_0 <small>", "blk.1.ffn_down.weight: 64 × 192;"] {
        assert!(page.contains(wanted), "{wanted}");
    }
}

#[test]
fn a_page_of_several_files_or_of_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("p.html").display().to_string();
    let model = "T/E10/model-Q4_K_M.gguf";
    for (words, wanted) in [
        (vec!["inspect", model, model], "--html draws one model"),
        (vec!["inspect", "T"], "this is a folder"),
        (vec!["inspect", "T/meta-2shard/T/consolidated.00.pth"], "is not read whole"),
    ] {
        let output = call(&[&words[..], &["--html", &at]].concat());
        let (_, text) = super::refused(&output);
        assert!(text.contains(wanted), "{words:?}: {text}");
    }
    let before = fs::read(golden(model)).unwrap();
    let output = call(&["inspect", model, "--html", model, "--force"]);
    assert!(super::refused(&output).1.contains("is the input itself"));
    assert!(fs::read(golden(model)).unwrap() == before && !Path::new(&at).exists());
}

#[test]
fn a_comparison_names_every_tensor_that_differs_and_marks_axes_with_round_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fs::write(&text, "This program is free software: you can redistribute it. ".repeat(4)).unwrap();
    let words = [
        "compare",
        "T/E10/model-f16.convert-hf.gguf",
        "T/E10/model-Q8_0.gguf",
        "T/E10/model-Q4_0.gguf",
        "--text",
        text.to_str().unwrap(),
    ];
    let page = page(folder.path(), &words);
    // Both were quantized whole: 14 matrices of the layers, the embedding and the output.
    assert_eq!(page.matches("<span class=\"label\">blk.").count(), 2 * 14);
    assert!(page.contains("token_embd.weight <small>f16 → q4_0</small>"));
    assert_eq!(page.matches("class=\"dot\"").count(), 3, "three models in the picture");
    assert!(page.contains(">0</span>") && page.contains("10<sup>-"));
}
