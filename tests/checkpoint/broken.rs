//! Broken safetensors and incomplete sets: each refused with its reason.

use std::fs;

use regguf::checkpoint::{self, Options};
use regguf::limits::Limits;

/// What opening a file with this header and N bytes of data says.
fn refusal(header: &str, data: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let len = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&len[..], header.as_bytes(), &vec![0; data]].concat()).unwrap();
    let error = checkpoint::weights(&path, &Limits::DEFAULT).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn entry(name: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"F16","shape":{shape},"data_offsets":{offsets}}}"#)
}

#[test]
fn broken_safetensors_are_refused_with_the_reason() {
    let (a, b) = (entry("a", "[2,2]", "[0,8]"), entry("b", "[2]", "[8,12]"));
    for (what, header, data) in [
        ("overlaps or holes", format!("{{{a},{}}}", entry("b", "[2]", "[4,8]")), 8),
        ("overlaps or holes", format!("{{{a},{}}}", entry("b", "[2]", "[10,14]")), 14),
        ("is it whole", format!("{{{a},{b}}}"), 11),
        ("an end at 12", format!("{{{a},{b}}}"), 13),
        ("is there twice", format!("{{{a},{a}}}"), 8),
        ("the bytes of its shape", format!("{{{}}}", entry("a", "[2,3]", "[0,8]")), 8),
        ("the bytes of its shape", format!("{{{}}}", entry("a", "[2,2]", "[8,0]")), 8),
        (
            "the bytes of its shape",
            format!("{{{}}}", entry("a", "[4294967296,4294967296]", "[0,8]")),
            8,
        ),
        ("header", "{\"a\":[[[[".to_owned(), 0),
        ("header", format!("{{{}", "[".repeat(100_000)), 0),
        ("dtype", format!("{{{}}}", a.replace("F16", "F99")), 8),
    ] {
        let error = refusal(&header, data);
        assert!(error.contains(what), "{header:.80}: {error}");
    }
}

#[test]
fn sets_with_a_missing_shard_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let open = || checkpoint::open(folder.path(), &Options::default()).unwrap_err().to_string();
    assert!(open().contains("an empty folder"));
    fs::write(place("model-00001-of-00003.safetensors"), "x").unwrap();
    fs::write(place("model-00003-of-00003.safetensors"), "x").unwrap();
    assert!(open().contains("no number 2"), "{}", open());
    let index = r#"{"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "../../b"}}"#;
    fs::write(place("model.safetensors.index.json"), index).unwrap();
    assert!(open().contains("beside the index"), "{}", open());
    fs::write(place("model.safetensors.index.json"), index.replace("../../b", "b")).unwrap();
    assert!(open().contains("names b, which is not there"), "{}", open());
}
