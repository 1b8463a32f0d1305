//! `regguf imatrix --in-file …`: files of both kinds converted, put together and looked into, as llama-imatrix does
//! it: `golden/imatrix/facts.json` has what it wrote and printed.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use regguf::container::imatrix::Importance;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{refused, said};
use regguf::limits::Limits;

fn call(words: &[&str]) -> Output {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(golden).arg("imatrix").args(words).output().unwrap()
}

/// The bytes that a call with these words writes.
fn written(words: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let words: Vec<&str> = words.iter().copied().chain(["-o", out.to_str().unwrap()]).collect();
    said(&words, call(&words));
    fs::read(out).unwrap()
}

fn facts() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/imatrix/facts.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn files_are_converted_and_put_together_as_by_llama_imatrix() {
    let mut differ = Vec::new();
    let facts = facts();
    let runs = facts["written"].as_array().unwrap();
    for run in runs {
        let inputs: Vec<&str> =
            run["in"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let (context, format) = (run["context"].to_string(), run["format"].as_str().unwrap());
        let bytes =
            written(&["--in-file", &inputs.join(","), "-c", &context, "--output-format", format]);
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        if digest != run["sha256"].as_str().unwrap() {
            differ.push(format!("{inputs:?} {format}"));
        }
    }
    assert!(differ.is_empty(), "{differ:?}");
    assert_eq!(runs.len(), 8);
}

#[test]
fn a_dat_file_comes_back_through_gguf_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let keyed = folder.path().join("keyed.gguf");
    for name in ["T/E10/imatrix.dat", "G/E10/imatrix.dat"] {
        for context in ["512", "128"] {
            fs::write(&keyed, written(&["--in-file", name, "-c", context])).unwrap();
            let back = written(&["--in-file", keyed.to_str().unwrap(), "--output-format", "dat"]);
            let first = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
            assert!(back == fs::read(first).unwrap(), "{name} {context}");
        }
    }
    // An encoder gets the same of either.
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
fn statistics_are_those_that_llama_imatrix_prints() {
    let facts = facts();
    for (name, golden) in facts["statistics"].as_object().unwrap() {
        let words = ["--in-file", name, "--show-statistics", "--json"];
        let told: Value = serde_json::from_str(&said(&words, call(&words))).unwrap();
        let near = |found: f64, golden: &Value| {
            let text = golden.as_str().unwrap().trim_end_matches('%');
            let digits = text.split_once('.').map_or(0, |(_, rest)| rest.len());
            // It adds up in float32: the last digit may be one off.
            let unit = 0.1f64.powi(i32::try_from(digits).unwrap());
            (found - text.parse::<f64>().unwrap()).abs() <= 1.01 * unit
        };
        let golden_of = |what: &str| golden[what].as_array().unwrap().clone();
        let own = told["tensors"].as_array().unwrap();
        assert_eq!(own.len(), golden_of("tensors").len());
        for row in golden_of("tensors") {
            let full =
                format!("blk.{}.{}.weight", row[0].as_str().unwrap(), row[1].as_str().unwrap());
            let own = own.iter().find(|own| own["name"] == full.as_str()).unwrap();
            let percent = ["active", "entropy_share", "zd"];
            let measures = [
                "sum",
                "min",
                "max",
                "mean",
                "deviation",
                "active",
                "columns",
                "entropy",
                "entropy_share",
                "zd",
                "cosine",
            ];
            for (i, measure) in measures.iter().enumerate() {
                let factor = if percent.contains(measure) { 100.0 } else { 1.0 };
                let found = factor * own[measure].as_f64().unwrap_or(0.0);
                assert!(
                    near(found, &row[i + 2]),
                    "{name} {full} {measure}: {found}, {}",
                    row[i + 2]
                );
            }
        }
        for (row, own) in golden_of("layers").iter().zip(told["layers"].as_array().unwrap()) {
            assert_eq!(row[0].as_str().unwrap(), own["layer"].to_string());
            for (measure, factor, golden) in
                [("sum", 1.0, &row[1]), ("zd", 100.0, &row[2]), ("cosine", 1.0, &row[3])]
            {
                let found = factor * own[measure].as_f64().unwrap();
                assert!(near(found, golden), "{name} {measure}: {found}, {golden}");
            }
        }
    }
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
