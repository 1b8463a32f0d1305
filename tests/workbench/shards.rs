//! `regguf split` and `regguf join`: the shards of llama-gguf-split, and the way back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::names;

const WHOLE: &str = "model-Q4_K_M.gguf";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E10").join(name)
}

fn regguf(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regguf"));
    command.current_dir(folder).args(words).output().unwrap()
}

fn said(folder: &Path, words: &[&str]) -> String {
    super::said(words, regguf(folder, words))
}

fn refused(folder: &Path, words: &[&str]) -> (i32, String) {
    super::refused(&regguf(folder, words))
}

/// A folder with the golden shards of [`WHOLE`].
fn shards() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for n in 1..=3 {
        let name = format!("split-Q4_K_M-0000{n}-of-00003.gguf");
        fs::copy(golden(&name), folder.path().join(name)).unwrap();
    }
    folder
}

fn same(folder: &Path, made: &str, original: &str) {
    let made_bytes = fs::read(folder.join(made)).unwrap();
    assert!(made_bytes == fs::read(golden(original)).unwrap(), "{made} is not {original}");
}

#[test]
fn shards_are_those_of_llama_gguf_split() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = golden(WHOLE).display().to_string();
    let f16 = golden("model-f16.convert-hf.gguf").display().to_string();
    said(folder, &["split", &whole, "split-Q4_K_M", "--max-tensors", "8"]);
    said(folder, &["split", &f16, "splitnt-f16", "--split-max-tensors", "8", "--bare-first"]);
    assert_eq!(names(folder).len(), 7);
    for name in names(folder) {
        same(folder, &name, &name);
    }
    // Nothing is written where it is only tried, or where something is there.
    said(folder, &["split", &whole, "b", "--max-size", "20k", "--dry-run"]);
    let (code, _) = refused(folder, &["split", &whole, "split-Q4_K_M", "--max-tensors", "8"]);
    assert_eq!((code, names(folder).len()), (4, 7));
}

/// A shard holds what fits; what does not fit by itself has its own.
#[test]
fn sizes_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = golden(WHOLE).display().to_string();
    for most in [20_000u64, 33_000, 64_000] {
        let words = ["split", &whole, "s/x", "--max-size", &most.to_string(), "--json", "--force"];
        fs::create_dir_all(folder.join("s")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&said(folder, &words)).unwrap();
        let files = json["outputs"].as_array().unwrap();
        let size = |file: &Path| -> Vec<u64> {
            let options = regguf::container::OpenOptions::default();
            let input = regguf::bytes::Input::open(folder.join(file)).unwrap();
            let shard = regguf::container::open_alone(&input, &options).unwrap();
            shard.tensors.iter().map(|t| t.bytes().next_multiple_of(32)).collect()
        };
        let sizes: Vec<Vec<u64>> =
            files.iter().map(|f| size(Path::new(f["file"].as_str().unwrap()))).collect();
        for pair in sizes.windows(2) {
            let sum: u64 = pair[0].iter().sum();
            assert!(sum <= most || pair[0].len() == 1, "{sizes:?}");
            assert!(sum + pair[1][0] > most, "{sizes:?}");
        }
        let first = files[0]["file"].as_str().unwrap();
        said(folder, &["join", first, "-o", "whole.gguf", "--force"]);
        same(folder, "whole.gguf", WHOLE);
        fs::remove_dir_all(folder.join("s")).unwrap();
    }
}

/// Shards as they come: under their names, under others in any order, joined by `cat` in any order.
#[test]
fn joined_they_are_the_file_that_was_split() {
    let shards = shards();
    let folder = shards.path();
    let names = names(folder);
    said(folder, &["join", &names[1]]);
    same(folder, "split-Q4_K_M.gguf", WHOLE);
    let parts: Vec<Vec<u8>> = names.iter().map(|n| fs::read(folder.join(n)).unwrap()).collect();
    fs::write(folder.join("row"), parts.concat()).unwrap();
    fs::write(folder.join("row2"), [&*parts[2], &parts[0], &parts[1]].concat()).unwrap();
    for (name, part) in ["a", "b", "c"].iter().zip(&parts) {
        fs::write(folder.join(name), part).unwrap();
    }
    for words in [&["row"][..], &["row2"], &["c", "a", "b"]] {
        said(folder, &[&["join"], words, &["-o", "whole", "--force"]].concat());
        same(folder, "whole", WHOLE);
    }
    // Every verb reads such a file, says what it is and upgrades it.
    let text = said(folder, &["inspect", "row"]);
    assert!(text.contains("holds 3 shards") && text.contains("regguf upgrade row"), "{text}");
    assert!(said(folder, &["verify", "row2"]).contains("holds 3 shards"));
    said(folder, &["upgrade", "row2", "-o", "upgraded"]);
    said(folder, &["compare", "upgraded", "whole"]);
    // What is missing is named.
    fs::write(folder.join("short"), [&*parts[0], &parts[2]].concat()).unwrap();
    for words in [&["join", "short"][..], &["join", "c", "a"]] {
        let (code, text) = refused(folder, words);
        assert!(code == 3 && text.contains("missing: shard 2"), "{text}");
    }
    fs::remove_file(folder.join(&names[2])).unwrap();
    let (code, text) = refused(folder, &["join", &names[0]]);
    assert!(code == 3 && text.contains("missing: split-Q4_K_M-00003-of-00003.gguf"), "{text}");
    let (code, text) = refused(folder, &["join", "a", "a", "b", "c"]);
    assert!(code == 3 && text.contains("shard"), "{text}");
}

/// A file that was made of all shards and still says that it is the first of them.
#[test]
fn keys_of_shards_that_are_no_more_go() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // What llama-gguf-split writes into a first shard, and a key that makes them a multiple of the alignment.
    let stale = |tensors: u8| {
        let key = |name: &str, kind: u32, value: &[u8]| {
            let length = (name.len() as u64).to_le_bytes();
            [&length, name.as_bytes(), &kind.to_le_bytes(), value].concat()
        };
        let keys = [
            key("split.no", 2, &[0, 0]),
            key("split.tensors.count", 5, &[tensors, 0, 0, 0]),
            key("split.count", 2, &[3, 0]),
            key("x", 0, &[0]),
        ];
        let mut bytes = fs::read(golden(WHOLE)).unwrap();
        bytes[16] += 4;
        let keys = keys.concat();
        assert_eq!(keys.len() % 32, 0);
        bytes.splice(24..24, keys);
        bytes
    };
    fs::write(folder.join("stale"), stale(21)).unwrap();
    let text = said(folder, &["inspect", "stale"]);
    assert!(text.contains("split.count is 3") && text.contains("regguf upgrade stale"), "{text}");
    let text = said(folder, &["upgrade", "stale", "-o", "mended"]);
    assert!(text.contains("the new one is mended"), "{text}");
    said(folder, &["metadata", "mended", "remove", "x", "-o", "bare"]);
    same(folder, "bare", WHOLE);
    // With fewer tensors than the set has it is a shard, whose others are missing.
    fs::write(folder.join("shard"), stale(22)).unwrap();
    let (code, text) = refused(folder, &["upgrade", "shard"]);
    assert!(code == 3 && text.contains("shard 1 of 3"), "{text}");
}

#[test]
fn pieces_cut_by_bytes_become_the_file() {
    let original = fs::read(golden(WHOLE)).unwrap();
    for endings in [
        [".part1of3", ".part2of3", ".part3of3"],
        ["-split-a", "-split-b", "-split-c"],
        [".000", ".001", ".002"],
        [".aa", ".ab", ".ac"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let name = |n: usize| format!("x.gguf{}", endings[n]);
        for (n, piece) in original.chunks(original.len() / 3 + 1).enumerate() {
            fs::write(folder.join(name(n)), piece).unwrap();
        }
        said(folder, &["join", &name(1), "--dry-run"]);
        assert_eq!(names(folder).len(), 3);
        said(folder, &["join", &name(0)]);
        same(folder, "x.gguf", WHOLE);
        // A piece that is cut short, or is not there.
        fs::write(folder.join(name(2)), b"cut").unwrap();
        let (code, text) = refused(folder, &["join", &name(0), "--force"]);
        assert!(code == 4 && text.contains("no whole model"), "{text}");
        assert!(text.contains(&format!("behind {}", name(2))), "{text}");
        fs::remove_file(folder.join(name(1))).unwrap();
        let (code, text) = refused(folder, &["join", &name(2), "--force"]);
        assert!(code == 3 && text.contains("missing: piece 2"), "{text}");
        same(folder, "x.gguf", WHOLE);
    }
}

/// As many shards as tensors, with an alignment that only the first one states.
#[test]
fn hundreds_of_shards_are_no_more_than_three() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let (n, align) = (300u64, 64);
    let mut file = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &n.to_le_bytes()].concat();
    file.extend(2u64.to_le_bytes());
    file.extend([text("general.architecture"), 8u32.to_le_bytes().into(), text("none")].concat());
    file.extend([text("general.alignment"), 4u32.to_le_bytes().into()].concat());
    file.extend((align as u32).to_le_bytes());
    let mut data = Vec::new();
    for i in 0..n {
        file.extend([text(&format!("blk.{i}.x.weight")), 1u32.to_le_bytes().into()].concat());
        file.extend((5 + i % 40).to_le_bytes());
        file.extend(0u32.to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        (0..5 + i % 40).for_each(|j| data.extend(((i + j) as f32).to_le_bytes()));
        data.resize(data.len().next_multiple_of(align), 0);
    }
    file.resize(file.len().next_multiple_of(align), 0);
    file.extend(data);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("many.gguf"), &file).unwrap();
    said(folder, &["split", "many.gguf", "s/", "--max-tensors", "1"]);
    assert_eq!(names(&folder.join("s")).len(), 300);
    said(folder, &["join", "s/many-00300-of-00300.gguf", "-o", "again.gguf"]);
    assert!(fs::read(folder.join("again.gguf")).unwrap() == file);
}

/// A file cut into pieces, each of which is looked at: read as one, or what is missing named.
#[test]
fn pieces_are_read_as_the_file_that_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let original = fs::read(golden(WHOLE)).unwrap();
    for (n, piece) in original.chunks(original.len() / 2 + 1).enumerate() {
        fs::write(folder.join(format!("m.gguf.part{}of2", n + 1)), piece).unwrap();
    }
    for piece in ["m.gguf.part1of2", "m.gguf.part2of2"] {
        let text = said(folder, &["inspect", piece]);
        assert!(text.contains("of 2 of m.gguf") && text.contains("regguf join"), "{text}");
        said(folder, &["upgrade", piece, "-o", "whole.gguf", "--force"]);
        said(folder, &["compare", "whole.gguf", golden(WHOLE).to_str().unwrap()]);
    }
    fs::remove_file(folder.join("whole.gguf")).unwrap();
    let text = said(folder, &["verify", "."]);
    assert!(text.contains("part2of2: OK") && text.contains("its structure is whole"), "{text}");
    // Damage in a later piece is found through the first.
    fs::write(folder.join("m.gguf.part2of2"), b"GGUF").unwrap();
    let failed = |why: &str| {
        let output = regguf(folder, &["verify", "."]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(why), "{text}");
    };
    failed("short");
    fs::remove_file(folder.join("m.gguf.part1of2")).unwrap();
    failed("missing: piece 1");
}

/// A GGUF of N tensors of eight numbers.
#[cfg(unix)]
fn of_many(tensors: u64) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(tensors.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    for n in 0..tensors {
        let name = format!("t.{n:04}.weight");
        out.extend((name.len() as u64).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(1u32.to_le_bytes());
        out.extend(8u64.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend((n * 32).to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32), 0);
    (0..tensors * 8).for_each(|n| out.extend((n as f32 + 1.0).to_le_bytes()));
    out
}

/// More shards than files may be open, the system's own limit included.
#[cfg(unix)]
#[test]
fn a_set_of_more_files_than_may_be_open_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("whole.gguf"), of_many(150)).unwrap();
    said(folder, &["split", "whole.gguf", "s", "--max-tensors", "1"]);
    let first = "s-00001-of-00150.gguf";
    for words in [
        &["inspect", first][..],
        &["verify", first],
        &["verify", "."],
        &["upgrade", first, "-o", "again.gguf"],
        &["compare", "again.gguf", "whole.gguf"],
    ] {
        let limited = Command::new("sh")
            .args(["-c", "ulimit -n 40 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_regguf")])
            .args(words)
            .current_dir(folder)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&limited.stderr);
        assert!(limited.status.success(), "{words:?}: {text}");
    }
}
