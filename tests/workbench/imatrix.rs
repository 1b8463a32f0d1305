//! `regguf imatrix --in-file …`: what is said of files that are converted, put together and looked into. What is in them
//! afterwards is held against llama-imatrix in `tests/golden/imatrix.rs`.

use std::{
    path::Path,
    process::{Command, Output},
};

use regguf::container::imatrix::Importance;

use super::{refused, said};
use regguf::limits::Limits;

fn call(words: &[&str]) -> Output {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(golden).arg("imatrix").args(words).output().unwrap()
}

#[test]
fn an_encoder_gets_the_same_of_either_kind_of_file() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let read = |name: &str| Importance::read(&golden.join(name), &Limits::DEFAULT).unwrap();
    let (old, new) = (read("T/E10/imatrix.dat"), read("imatrix/T.gguf"));
    assert_eq!((old.len(), new.len()), (14, 14));
    for name in ["blk.0.attn_q.weight", "blk.1.ffn_down.weight"] {
        assert!(old.get(name).is_some() && old.get(name) == new.get(name), "{name}");
    }
}

#[test]
fn what_a_dat_file_does_not_hold_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.dat");
    let words = ["--in-file", "imatrix/experts.gguf", "-o", out.to_str().unwrap()];
    let told = String::from_utf8(call(&words).stderr).unwrap();
    let lost = "note: a .dat file does not hold the experts' own counts of 6 matrices, nor that a chunk has 16 tokens";
    assert!(told.contains(lost), "{told}");
    let (code, told) =
        refused(&call(&["--in-file", "imatrix/T.gguf,G/E10/imatrix.dat", "-o", "/dev/null"]));
    assert!(
        code == 4 && told.contains("G/E10/imatrix.dat: 128 sums for blk.0.attn_k.weight, 64 in"),
        "{code} {told}"
    );
    assert_eq!(refused(&call(&["--in-file", "T/E10/model-Q4_0.gguf", "-o", "/dev/null"])).0, 4);
}

#[test]
fn statistics_are_printed_as_llama_imatrix_prints_them() {
    let words = ["--in-file", "T/E10/imatrix.dat", "--show-statistics"];
    let text = said(&words, call(&words));
    // The same line of llama-imatrix: 1 attn_k 62.81 0.5695 2.2575 0.98 0.36 100.00% 64 5.9158 98.60% 14.06% 0.9338
    let line = text.lines().find(|line| line.contains("attn_k")).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        cells,
        "1 attn_k 62.81 0.5695 2.2575 0.98 0.36 100.00% 64 5.9158 98.60% 14.06% 0.9338"
            .split(' ')
            .collect::<Vec<_>>()
    );
}
