//! Raw weights: each file by itself, and the folder as the model that they are together.

use std::fs;
use std::path::Path;

use regguf::check::files::{Options, Status, verify};
use regguf::limits::Limits;

use super::{check, download, failure, golden};

#[test]
fn raw_weights_are_looked_into() {
    let options = Options { deep: true, ..Options::default() };
    for name in ["T/meta/T/consolidated.00.pth", "T/hf-st/model.safetensors"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(Path::new(name).file_name().expect("a name"));
        let mut bytes = fs::read(golden(name)).expect("readable");
        fs::write(&path, &bytes).expect("writable");
        let whole = verify(std::slice::from_ref(&path), &options, &());
        assert!(whole.is_good(), "{whole:#?}");
        let model = regguf::checkpoint::alone(&path, &Limits::DEFAULT).expect("weights");
        let tensor = &model.tensors[1];
        let at = usize::try_from(tensor.pieces[0].at).expect("small");
        bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
        fs::write(&path, &bytes).expect("writable");
        let result = verify(std::slice::from_ref(&path), &options, &());
        let nan = result.files[0].findings.iter().find(|f| f.code == "nan").expect("a NaN");
        assert_eq!(nan.message.text, "1 weight is NaN, the first in row 0");
        assert!(!result.is_good());
        fs::write(&path, &bytes[..bytes.len() - 100]).expect("writable");
        assert_eq!(failure(&check(&path), path.to_str().expect("text")).0, "truncated");
    }
}

/// What is said of a folder as a model, and whether it fails.
fn model_of(folder: &Path) -> (Status, String) {
    let result = check(folder);
    let file = result.files.iter().find(|f| f.path == folder);
    let file = file.unwrap_or_else(|| panic!("no model in {result:#?}"));
    let messages: Vec<_> = file.findings.iter().map(|f| f.message.to_string()).collect();
    (file.status, messages.join("\n"))
}

#[test]
fn a_folder_of_raw_weights_is_checked_as_a_model() {
    for (name, below, words) in [
        ("T/meta", "T", "21 tensors and 512 tokens in 1 file"),
        ("T/meta-2shard", "T", "21 tensors and 512 tokens in 2 files"),
        ("T/hf-bin-2shard", "", "21 tensors and 512 tokens in 2 files"),
        ("T/hf-st", "", "21 tensors and 512 tokens in 1 file"),
    ] {
        let folder = download(name);
        let (status, said) = model_of(&folder.path().join(below));
        assert!(status == Status::Ok && said.contains(words), "{name}: {said}");
    }
}

#[test]
fn a_model_whose_files_do_not_belong_together_is_told() {
    let edit = |path: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(path).expect("readable");
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).expect("writable");
    };
    let config = |from: &str, to: &str| {
        let folder = download("T/hf-st");
        edit(&folder.path().join("config.json"), from, to);
        model_of(folder.path())
    };
    let (status, said) = config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert!(status == Status::Failed && said.contains("no model.layers.2."), "{said}");
    let (status, said) = config("\"intermediate_size\": ", "\"intermediate_size\": 1");
    assert!(status == Status::Failed && said.contains("its hyperparameters want"), "{said}");

    let folder = download("T/hf-st-2shard");
    let index = folder.path().join("model.safetensors.index.json");
    edit(&index, "\"model.norm.weight\": \"model-00002", "\"model.norm.weight\": \"model-00001");
    let (status, said) = model_of(folder.path());
    assert!(status == Status::Failed, "{said}");
    assert!(
        said.contains("model.norm.weight should be in model-00001-of-00002.safetensors"),
        "{said}"
    );

    // A tokenizer of another model, and shards of two runs.
    let folder = download("T/hf-st");
    let tokens = fs::read(golden("T/hf-st/tokenizer.model")).expect("golden");
    fs::write(folder.path().join("tokenizer.model"), &tokens[..tokens.len() / 2])
        .expect("writable");
    assert_eq!(model_of(folder.path()).0, Status::Failed);
    let folder = download("T/meta-2shard");
    fs::remove_file(folder.path().join("T/checklist.chk")).expect("removable");
    let part = folder.path().join("T/consolidated.01.pth");
    fs::copy(golden("T/meta/T/consolidated.00.pth"), part).expect("writable");
    let (status, said) = model_of(&folder.path().join("T"));
    assert!(status == Status::Failed && said.contains("shard"), "{said}");
}

/// A `.pth` archive whose entries are packed, as zip programs make it.
fn packed(path: &Path) -> Vec<u8> {
    let file = fs::File::open(path).expect("readable");
    let mut from = zip::ZipArchive::new(file).expect("an archive");
    let mut to = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let how = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    for i in 0..from.len() {
        // Raw, for an entry may have been changed under its checksum.
        let mut entry = from.by_index_raw(i).expect("an entry");
        to.start_file(entry.name().expect("text").into_owned(), how).expect("room");
        std::io::copy(&mut entry, &mut to).expect("copied");
    }
    to.finish().expect("an archive").into_inner()
}

#[test]
fn packed_weights_are_decoded_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("consolidated.00.pth");
    let mut bytes = fs::read(golden("T/meta/T/consolidated.00.pth")).expect("golden");
    let options = Options { deep: true, ..Options::default() };
    let deep = || verify(std::slice::from_ref(&path), &options, &());
    fs::write(&path, &bytes).expect("writable");
    fs::write(&path, packed(&path)).expect("writable");
    assert!(fs::metadata(&path).expect("there").len() < bytes.len() as u64);
    assert!(deep().is_good(), "{:#?}", deep());

    fs::write(&path, &bytes).expect("writable");
    let model = regguf::checkpoint::alone(&path, &Limits::DEFAULT).expect("weights");
    let at = usize::try_from(model.tensors[1].pieces[0].at).expect("small");
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    fs::write(&path, &bytes).expect("writable");
    fs::write(&path, packed(&path)).expect("writable");
    assert_eq!(failure(&deep(), path.to_str().expect("text")).0, "nan");
}
