//! `regguf tensors`: statistics, rows, and NumPy's files as others read them.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regguf::{
    container::{self, OpenOptions},
    quant::{decode_rows, isa::Isa},
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E10/model-Q4_K_M.gguf")
}

fn call(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(folder).arg("tensors").arg(golden()).args(words).output().unwrap()
}

fn said(folder: &Path, words: &[&str]) -> String {
    super::said(words, call(folder, words))
}

fn weights(name: &str) -> (Vec<u64>, Vec<f32>) {
    let model = container::open(&golden(), &OpenOptions::default()).unwrap();
    let tensor = model.tensor(name).unwrap();
    let mut bytes = vec![0; tensor.bytes() as usize];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).unwrap();
    let mut out = vec![0.0; tensor.shape.iter().product::<u64>() as usize];
    decode_rows(tensor.quant, Isa::PORTABLE, &bytes, tensor.row_len() as usize, &mut out);
    (tensor.shape.clone(), out)
}

/// The shape and the numbers of an `.npy`, by the format's own description.
fn npy(bytes: &[u8]) -> (Vec<u64>, Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(end.is_multiple_of(64) && bytes[end - 1] == b'\n');
    let head = std::str::from_utf8(&bytes[10..end]).unwrap();
    assert!(head.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': ("), "{head}");
    let shape = head.split(['(', ')']).nth(1).unwrap();
    let shape = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let numbers = bytes[end..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (shape, numbers)
}

#[test]
fn numpys_files_hold_every_weight() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["output.weight", "output_norm.weight"] {
        said(folder, &[name, "--npy", "one.npy", "--force"]);
        assert!(npy(&fs::read(folder.join("one.npy")).unwrap()) == weights(name), "{name}");
    }
    said(folder, &["blk.?.attn_*", "output.weight", "--npz", "all.npz"]);
    let mut archive =
        zip::ZipArchive::new(fs::File::open(folder.join("all.npz")).unwrap()).unwrap();
    assert_eq!(archive.len(), 11);
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let mut bytes = Vec::new();
        // The archive's sum is compared at the end of an entry.
        entry.read_to_end(&mut bytes).unwrap();
        let name = entry.name().unwrap().strip_suffix(".npy").unwrap().to_owned();
        assert!(npy(&bytes) == weights(&name), "{name}");
    }
}

#[test]
fn statistics_and_rows_are_of_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let json: serde_json::Value = serde_json::from_str(&said(folder, &["--json"])).unwrap();
    let told = json["tensors"].as_array().unwrap();
    assert_eq!(told.len(), 21);
    for tensor in told {
        let (_, all) = weights(tensor["name"].as_str().unwrap());
        let all: Vec<f64> = all.into_iter().map(f64::from).collect();
        let found = |key: &str| tensor["statistics"][key].as_f64().unwrap();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let spread = all.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert_eq!(found("min"), all.iter().copied().fold(f64::INFINITY, f64::min));
        assert_eq!(found("max"), all.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        assert!(
            (found("mean") - mean).abs() < 1e-9
                && (found("deviation") - spread.sqrt()).abs() < 1e-9
        );
        assert_eq!(found("zeros"), all.iter().filter(|w| **w == 0.0).count() as f64);
        let bars = tensor["statistics"]["histogram"].as_array().unwrap();
        assert_eq!(bars.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), all.len() as u64);
    }
    let (shape, all) = weights("output.weight");
    let wide = shape[1] as usize;
    let rows: String = (2..4)
        .map(|row| {
            let text: Vec<String> = all[row * wide..][..wide].iter().map(f32::to_string).collect();
            format!("output.weight {row}: {}\n", text.join(" "))
        })
        .collect();
    assert_eq!(said(folder, &["output.weight", "--rows", "2..4"]), rows);
}

#[test]
fn what_is_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let cases: [(&[&str], i32); 5] = [
        (&["no.such"], 4),
        (&["output.weight", "--rows", "511..513"], 4),
        (&["blk.*", "--npy", "x.npy"], 2),
        (&["--rows", "x"], 2),
        (&["output.weight", "--npy", "a", "--npz", "b"], 2),
    ];
    for (words, code) in cases {
        assert_eq!(call(folder, words).status.code(), Some(code), "{words:?}");
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}
