//! Files that are no models, holes, and the lists that people keep.

use std::fs;
use std::path::Path;

use regguf::Existing;
use regguf::check::files::digest::{Algorithm, of_bytes};
use regguf::check::files::lists;
use regguf::check::files::{Options, Status, verify};

use super::{check, failure, golden, one};

const MODEL: &str = "T/E10/model-Q8_0.gguf";

/// A folder with one model in it, changed by `change`.
fn folder_with(change: impl Fn(&mut Vec<u8>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bytes = fs::read(golden(MODEL)).expect("golden");
    change(&mut bytes);
    fs::write(folder.path().join("model.gguf"), bytes).expect("writable");
    folder
}

#[test]
fn what_is_no_model_is_never_ok() {
    let noise: Vec<u8> = (0..5000u32).map(|i| (i * i % 251) as u8 | 1).collect();
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("noise.gguf"), &noise).expect("writable");
    fs::write(folder.path().join("._noise.gguf"), &noise).expect("writable");
    fs::write(folder.path().join("notes.dat"), &noise).expect("writable");
    let result = check(folder.path());
    assert_eq!(result.files.len(), 1, "{:#?}", result.files);
    assert_eq!(failure(&result, "noise.gguf").0, "unknown");
    assert_eq!(failure(&check(&folder.path().join("notes.dat")), "notes.dat").0, "unknown");
    // What macOS keeps of a file is none, named by hand too.
    let double = folder.path().join("._model.gguf");
    fs::write(&double, b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ").expect("writable");
    let (code, message) = failure(&check(&double), "._model.gguf");
    assert!(code == "unknown" && message.contains("AppleDouble"), "{message}");
    fs::remove_file(double).expect("removed");
    // A publisher's digest vouches for what is not known here.
    let list = format!("{}  noise.gguf\n", of_bytes(Algorithm::Sha512, &noise).hex);
    fs::write(folder.path().join("SHA512SUMS"), list).expect("writable");
    let result = check(folder.path());
    let file = one(&result, "noise.gguf");
    assert!(result.is_good() && file.findings.iter().any(|f| f.code == "unknown"), "{file:#?}");
}

#[test]
fn models_are_found_by_what_is_in_them() {
    let folder = folder_with(|_| ());
    fs::rename(folder.path().join("model.gguf"), folder.path().join("WizardLM-7B")).expect("moved");
    let result = check(folder.path());
    assert_eq!(one(&result, "WizardLM-7B").status, Status::Ok);
}

#[test]
fn holes_fail_and_zeros_that_sound_files_have_do_not() {
    let end = fs::metadata(golden(MODEL)).expect("golden").len() as usize;
    let hole = folder_with(|bytes| bytes[100_000..140_000].fill(0));
    assert_eq!(failure(&check(hole.path()), "model.gguf").0, "hole");
    let unfilled = folder_with(|bytes| bytes[end - 30_000..].fill(0));
    let (code, message) = failure(&check(unfilled.path()), "model.gguf");
    assert_eq!(code, "hole");
    assert!(message.starts_with("the download stopped at"), "{message}");
    let input = regguf::container::open(&golden(MODEL), &Default::default()).expect("a model");
    let place = |name: &str| {
        let tensor = input.tensor(name).expect("a tensor");
        let at = tensor.pieces[0].at as usize;
        at..at + tensor.bytes() as usize
    };
    let norm = folder_with(|bytes| bytes[place("blk.0.ffn_norm.weight")].fill(0));
    assert_eq!(failure(&check(norm.path()), "model.gguf").0, "zero-norm");
    let single = folder_with(|bytes| bytes[place("blk.1.attn_output.weight")].fill(0));
    assert!(check(single.path()).is_good());
    let rows = folder_with(|bytes| {
        let embedding = place("token_embd.weight");
        let row = embedding.len() / 512;
        bytes[embedding.end - 70 * row..embedding.end].fill(0);
    });
    assert!(check(rows.path()).is_good(), "rows of tokens that nobody uses");
}

#[test]
fn lists_of_other_programs() {
    let folder = folder_with(|_| ());
    let file = folder.path().join("model.gguf");
    let bytes = fs::read(&file).expect("readable");
    let hex = |algorithm| of_bytes(algorithm, &bytes).hex;
    let (sha256, b2, md5) = (hex(Algorithm::Sha256), hex(Algorithm::Blake2b), hex(Algorithm::Md5));
    let upper = sha256.to_uppercase();
    let table = format!(
        "\nAlgorithm  Hash  Path\n---------  ----  ----\nSHA256  {upper}  C:\\m\\model.gguf\n"
    );
    let record =
        format!("\nAlgorithm : SHA256\nHash      : {upper}\nPath      : D:\\x\\model.gguf\n");
    let forms = [
        ("B2SUMS", format!("{b2}  model.gguf\n")),
        ("sums.txt", format!("BLAKE2b (model.gguf) = {b2}\n")),
        ("SHA512SUMS", format!("{}  model.gguf\n", hex(Algorithm::Sha512))),
        ("hashes.txt", table),
        ("hash.txt", record),
        (
            "cu.txt",
            format!(
                "SHA256 hash of model.gguf:\n{sha256}\nCertUtil: -hashfile command completed successfully.\n"
            ),
        ),
        (
            "card.md",
            format!(
                "# Files\n\nSome words.\n\n| file | sha256 |\n|---|---|\n| model.gguf | `{sha256}` |\n"
            ),
        ),
        (
            "huggingface-metadata.txt",
            format!("url: https://x\nbranch: main\nsha256sum:\n    {sha256} model.gguf\n"),
        ),
        ("models.json", format!("[{{\"filename\": \"model.gguf\", \"md5sum\": \"{md5}\"}}]")),
        (
            "model.gguf.receipt.json",
            format!("{{\"output\": {{\"name\": \"model.gguf\", \"sha256\": \"{sha256}\"}}}}"),
        ),
        ("m.manifest", format!("sha256    {sha256}  model.gguf\n")),
        ("model.gguf.etag", format!("\"{sha256}\"")),
        ("rev.sha256", format!("model.gguf  {sha256}\n")),
    ];
    for (name, content) in &forms {
        let list = folder.path().join(name);
        fs::write(&list, content).expect("writable");
        let result = check(folder.path());
        let checked = one(&result, "model.gguf");
        assert!(checked.confirmed && result.is_good(), "{name}: {checked:#?}");
        if !name.ends_with(".etag") {
            let result = check(&list);
            assert!(
                result.is_good() && one(&result, "model.gguf").confirmed,
                "{name}: {result:#?}"
            );
        }
        let mut other = bytes.clone();
        other[150_000] ^= 1;
        fs::write(&file, other).expect("writable");
        assert!(!check(folder.path()).is_good(), "{name}");
        fs::write(&file, &bytes).expect("writable");
        fs::remove_file(list).expect("removable");
    }
    let list = folder.path().join("odd.txt");
    fs::write(&list, format!("?? {sha256} ?? of the third file ??\n")).expect("writable");
    assert!(!check(&list).is_good(), "digests in no known form");
}

#[test]
fn a_digest_by_hand() {
    let folder = folder_with(|_| ());
    let file = folder.path().join("model.gguf");
    let right = of_bytes(Algorithm::Md5, &fs::read(&file).expect("readable"));
    let mut wrong = right.clone();
    wrong.hex = wrong.hex.replace('a', "b").replace('1', "2");
    for (digest, good) in [(right, true), (wrong, false)] {
        let options = Options { digests: vec![digest], ..Options::default() };
        let result = verify(std::slice::from_ref(&file), &options, &());
        assert_eq!((result.is_good(), result.files[0].confirmed), (good, good), "{result:#?}");
    }
}

#[test]
fn written_lists_leave_others_alone_and_bless_nothing_damaged() {
    let folder = folder_with(|_| ());
    let theirs = folder.path().join("SHA256SUMS");
    fs::write(&theirs, "# theirs\n").expect("writable");
    lists::write(folder.path(), &Options::default(), Existing::Replace, &()).expect("lists");
    assert_eq!(fs::read_to_string(&theirs).expect("readable"), "# theirs\n");
    assert!(folder.path().join("regguf.SHA256SUMS").exists());
    assert_eq!(
        lists::damaged(folder.path(), &regguf::limits::Limits::DEFAULT).expect("listable"),
        []
    );
    let cut = folder_with(|bytes| bytes.truncate(90_000));
    let damaged = lists::damaged(cut.path(), &regguf::limits::Limits::DEFAULT).expect("listable");
    assert!(damaged.len() == 1 && damaged[0].0.ends_with(Path::new("model.gguf")), "{damaged:?}");
}

#[test]
fn pieces_of_a_file_are_told_and_not_called_damaged() {
    let folder = folder_with(|_| ());
    let whole = folder.path().join("model.gguf");
    let bytes = fs::read(&whole).expect("readable");
    fs::remove_file(&whole).expect("removable");
    for (first, second) in [(".part1of2", ".part2of2"), ("-split-a", "-split-b"), (".000", ".001")]
    {
        let piece = |ending: &str| folder.path().join(format!("model.gguf{ending}"));
        fs::write(piece(first), &bytes[..90_000]).expect("writable");
        fs::write(piece(second), &bytes[90_000..]).expect("writable");
        let result = check(folder.path());
        let file = &result.files[0];
        let said = file.findings.iter().any(|f| {
            regguf::cli::advice::note(&f.message)
                .contains(&format!("regguf join {}", piece(first).display()))
        });
        assert!(file.status == Status::Ok && said, "{result:#?}");
        fs::remove_file(piece(second)).expect("removable");
        if first == ".part1of2" {
            let (_, message) = failure(&check(folder.path()), "model.gguf.part1of2");
            assert!(message.contains("missing: piece 2"), "{message}");
        }
        fs::remove_file(piece(first)).expect("removable");
    }
}

#[test]
fn a_browsers_copy_of_a_shard_is_one_finding() {
    let folder = tempfile::tempdir().expect("a folder");
    for n in 1..=3 {
        let name = format!("split-Q4_K_M-0000{n}-of-00003.gguf");
        let bytes = fs::read(golden("T/E10").join(&name)).expect("golden");
        let name = if n == 2 { name.replace(".gguf", " (1).gguf") } else { name };
        fs::write(folder.path().join(name), bytes).expect("writable");
    }
    let result = check(folder.path());
    assert_eq!(failure(&result, "split-Q4_K_M-00002-of-00003.gguf").0, "browser-copy");
    let failed = result.files.iter().filter(|f| f.status != Status::Ok).count();
    assert_eq!(failed, 1, "{result:#?}");
}

#[test]
fn stores_tell_what_is_missing_and_what_has_not_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, content).expect("writable");
    };
    let (here, gone, part) =
        (of_bytes(Algorithm::Sha256, b"{}").hex, "1".repeat(64), "2".repeat(64));
    let layer = |hex: &str, kind: &str| {
        format!(
            r#"{{"mediaType": "application/vnd.ollama.image.{kind}", "digest": "sha256:{hex}"}}"#
        )
    };
    let layers =
        [layer(&here, "params"), layer(&gone, "template"), layer(&part, "model")].join(",");
    write("o/manifests/r/library/tiny/latest", format!("{{\"layers\": [{layers}]}}").as_bytes());
    write(&format!("o/blobs/sha256-{here}"), b"{}");
    write(&format!("o/blobs/sha256-{part}-partial"), b"GGUF\x03\0\0\0");
    write("d/.cache/huggingface/download/x.e4.incomplete", b"GGUF");
    write("d/config.json", b"{}");
    let result = check(folder.path());
    let (code, message) = failure(&result, &format!("sha256-{gone}"));
    assert_eq!(code, "missing-layer");
    assert!(message.contains("the template of tiny:latest"), "{message}");
    assert_eq!(failure(&result, &format!("sha256-{part}-partial")).0, "unfinished");
    assert_eq!(failure(&result, "x.e4.incomplete").0, "unfinished");
}
