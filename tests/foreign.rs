//! Sound files that are not quite as llama.cpp writes them: read, named and told from damage.

use std::{fs, path::Path};

use regguf::{
    bytes::Input,
    container::{self, OpenOptions, tail},
};

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    fs::read(path).unwrap()
}

/// A container of each walk: record after record, and counted.
const WALKS: [&str; 2] = ["T/E4b/ggml-model-q4_0.bin", "T/E10/model-Q4_0.gguf"];

/// What opening `bytes` says of the tail, and where it begins.
fn tail_of(bytes: &[u8]) -> (tail::Kind, u64, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    fs::write(&path, bytes).unwrap();
    let model = container::open(&path, &OpenOptions::default()).unwrap();
    let [tail] = model.tails.as_slice() else { panic!("{:?}", model.tails) };
    let kind = tail::kind(&Input::open(&path).unwrap(), tail.at).unwrap();
    (kind, tail.at, tail::sentence(&model, tail).unwrap())
}

#[test]
fn bytes_after_the_data_are_told_apart() {
    for name in WALKS {
        let whole = golden(name);
        let len = whole.len();
        let with = |tail: &[u8]| tail_of(&[&whole, tail].concat());
        for (tail, kind) in [
            (&b"\n"[..], tail::Kind::Other),
            (&[0; 700], tail::Kind::Zeros),
            (&whole, tail::Kind::Model),
            (&whole[len - 5000..], tail::Kind::OwnEnd),
        ] {
            let (found, at, said) = with(tail);
            assert_eq!((found, at), (kind, len as u64), "{name}: {said}");
            assert!(said.contains(&format!("truncate -s {len} ")), "{name}: {said}");
            assert!(said.contains("tensors are whole"), "{name}: {said}");
        }
    }
}

#[test]
fn a_download_that_began_again_is_told() {
    let whole = golden(WALKS[1]);
    let half = whole.len() / 2;
    let (kind, _, said) = tail_of(&[&whole[..half], &whole].concat());
    assert_eq!(kind, tail::Kind::Restarted(half as u64), "{said}");
    assert!(said.contains(&format!("tail -c +{} ", half + 1)), "{said}");
}

#[test]
fn whole_files_have_no_tail_and_short_ones_stay_short() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    for name in WALKS {
        let whole = golden(name);
        fs::write(&path, &whole).unwrap();
        assert!(container::open(&path, &OpenOptions::default()).unwrap().tails.is_empty());
        for cut in [1, 100, 5000] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let error = container::open(&path, &OpenOptions::default()).unwrap_err();
            assert!(error.to_string().contains("short"), "{name}: {error}");
        }
    }
}
