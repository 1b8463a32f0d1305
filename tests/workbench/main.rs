//! The workbench: files looked into, edited, split and joined by the command, as people call it.

mod graft;
mod images;
mod imatrix;
mod metadata;
mod pages;
mod shards;
mod tensors;

use std::{fs, path::Path, process::Output};

/// What a call with these words says where it succeeds.
fn said(words: &[&str], output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// Its exit code and its message, one line, where it fails.
fn refused(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.trim().lines().count(), 1, "{text}");
    (output.status.code().unwrap(), text)
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
