//! Damaged downloads, built from golden files in temporary folders, each with its exact diagnosis.

mod forms;
mod weights;

use regguf::Existing;
use std::fs;
use std::path::{Path, PathBuf};

use regguf::check::files::digest::{Algorithm, of_bytes};
use regguf::check::files::{Checked, Options, Status, Verification, verify};
use regguf::check::{Severity, files::lists};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a golden folder") {
        let path = entry.expect("readable").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::write(&target, fs::read(&path).expect("readable")).expect("writable");
        }
    }
}

/// A fresh copy of a golden folder.
fn download(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&golden(name), folder.path());
    folder
}

fn check(path: &Path) -> Verification {
    verify(&[path.to_path_buf()], &Options::default(), &())
}

fn one<'a>(result: &'a Verification, name: &str) -> &'a Checked {
    let mut found = result.files.iter().filter(|file| file.path.ends_with(name));
    let file = found.next().unwrap_or_else(|| panic!("{name} is not in {:#?}", result.files));
    assert!(found.next().is_none(), "{name} is there twice in {:#?}", result.files);
    file
}

/// The code and words of the one failure of a file.
fn failure(result: &Verification, name: &str) -> (&'static str, String) {
    let file = one(result, name);
    let failures: Vec<_> =
        file.findings.iter().filter(|f| f.severity == Severity::Failure).collect();
    assert_eq!(failures.len(), 1, "{:#?}", file.findings);
    assert!(matches!(file.status, Status::Failed | Status::Unreadable));
    assert!(!result.is_good());
    (failures[0].code, failures[0].message.to_string())
}

/// Makes a file older than everything around it.
fn age(path: &Path) {
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let file = fs::File::options().write(true).open(path).expect("writable");
    file.set_modified(hour_ago).expect("settable");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("writable");
}

fn is_model(path: &Path) -> bool {
    regguf::container::has_magic(path).expect("readable")
}

#[test]
fn a_good_download_is_good() {
    for name in ["T/meta", "T/meta-2shard"] {
        let folder = download(name);
        let result = check(folder.path());
        assert!(result.is_good(), "{:#?}", result.files);
        for file in result.files.iter().filter(|file| !file.path.is_dir()) {
            assert!(file.confirmed && file.findings.is_empty(), "{file:#?}");
        }
        // A part's own path finds the list beside it.
        let part = folder.path().join("T/consolidated.00.pth");
        let result = check(&part);
        assert!(result.is_good() && result.files[0].confirmed, "{:#?}", result.files);
        assert_eq!(result.files.len(), 1);
    }
}

#[test]
fn a_list_is_followed_in_its_order() {
    let folder = download("T/meta-2shard");
    let result = check(&folder.path().join("T/checklist.chk"));
    let names: Vec<_> = result.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["consolidated.00.pth", "consolidated.01.pth", "params.json"]);
}

#[test]
fn cut_short() {
    let folder = download("T/meta");
    let path = folder.path().join("T/consolidated.00.pth");
    let size = fs::metadata(&path).expect("there").len();
    fs::File::options().write(true).open(&path).and_then(|f| f.set_len(size - 1000)).expect("cut");
    let (code, message) = failure(&check(folder.path()), "consolidated.00.pth");
    assert_eq!(code, "truncated");
    assert!(message.contains("the end record of its zip archive is missing"), "{message}");
}

#[test]
fn a_safetensors_header_says_by_how_much() {
    let folder = download("T/hf-st-2shard");
    let name = "model-00002-of-00002.safetensors";
    let path = folder.path().join(name);
    let bytes = fs::read(&path).expect("readable");
    fs::write(&path, &bytes[..bytes.len() - 4096]).expect("writable");
    let (code, message) = failure(&check(folder.path()), name);
    assert_eq!(code, "truncated");
    assert!(message.starts_with("truncated by 4096 bytes"), "{message}");
    fs::write(&path, [&bytes[..], b"<html>"].concat()).expect("writable");
    let (code, message) = failure(&check(folder.path()), name);
    assert_eq!(code, "too-long");
    assert!(message.starts_with("6 bytes too many"), "{message}");
}

#[test]
fn one_bit_flipped() {
    let folder = download("T/meta");
    let path = folder.path().join("T/consolidated.00.pth");
    flip(&path, 100_000);
    age(&path);
    let (code, message) = failure(&check(folder.path()), "consolidated.00.pth");
    assert_eq!(code, "malformed");
    assert!(message.contains("CRC-32"), "the archive itself tells: {message}");
}

#[test]
fn something_else_under_its_name() {
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
        oid sha256:745bf4e29a4dd6f411e72976d92b452da1b49168a4f41c951cfcc8051823cf08\n\
        size 13016334699\n";
    let denied = "<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code></Error>";
    let cases = [
        ("<!DOCTYPE html><html><body>Log in</body></html>", "html-page", "an HTML page: "),
        (pointer, "lfs-pointer", "a Git LFS pointer to a file of 13016334699 bytes: "),
        (denied, "server-refusal", "an XML response of a server (AccessDenied): "),
        ("Entry not found", "server-refusal", "a server's refusal (Entry not found): "),
        ("", "empty", "an empty file: "),
    ];
    for (content, code, message) in cases {
        let folder = download("T/meta");
        fs::write(folder.path().join("T/consolidated.00.pth"), content).expect("writable");
        let found = failure(&check(folder.path()), "consolidated.00.pth");
        assert_eq!(found.0, code);
        assert!(found.1.starts_with(message), "{}", found.1);
    }
}

#[test]
fn a_list_that_is_none() {
    for (content, message) in [
        ("<html><title>Login</title></html>", "this list is an HTML page"),
        ("", "this list is an empty file"),
        ("7b84 consolidated.00.pth\n", "no properly formatted checksum lines found"),
    ] {
        let folder = download("T/meta");
        let list = folder.path().join("T/checklist.chk");
        fs::write(&list, content).expect("writable");
        for path in [&list, &folder.path().to_path_buf()] {
            let result = check(path);
            assert!(!result.is_good());
            let problem = result.lists.iter().find_map(|l| l.problem.clone()).expect("a problem");
            assert!(problem.starts_with(message), "{problem}");
        }
    }
}

#[test]
fn parts_under_each_others_names() {
    let folder = download("T/meta-2shard");
    let part = |n: u8| folder.path().join(format!("T/consolidated.0{n}.pth"));
    let first = fs::read(part(0)).expect("readable");
    let second = fs::read(part(1)).expect("readable");
    fs::write(part(0), second).expect("writable");
    fs::write(part(1), first).expect("writable");
    let result = check(folder.path());
    let (code, message) = failure(&result, "consolidated.00.pth");
    assert_eq!(code, "wrong-part");
    assert!(message.contains("these are the bytes of consolidated.01.pth"), "{message}");
    assert_eq!(failure(&result, "consolidated.01.pth").0, "wrong-part");
}

#[test]
fn a_missing_shard() {
    let folder = download("T/meta-2shard");
    fs::remove_file(folder.path().join("T/consolidated.01.pth")).expect("removable");
    let result = check(folder.path());
    assert_eq!(one(&result, "consolidated.01.pth").status, Status::Unreadable);
    assert_eq!(failure(&result, "consolidated.01.pth").0, "missing");

    // Without a list, the index and the numbers tell.
    let folder = download("T/hf-st-2shard");
    let shard = "model-00001-of-00002.safetensors";
    fs::remove_file(folder.path().join(shard)).expect("removable");
    let result = check(folder.path());
    let (code, message) = failure(&result, shard);
    assert_eq!(code, "missing-shard");
    assert!(message.contains("model.safetensors.index.json names it"), "{message}");
    fs::remove_file(folder.path().join("model.safetensors.index.json")).expect("removable");
    let (code, message) = failure(&check(folder.path()), shard);
    assert_eq!(code, "missing-shard");
    assert!(message.contains("model-00002-of-00002.safetensors is of the same set"), "{message}");
}

#[test]
fn missing_files_can_be_ignored() {
    let folder = download("T/meta");
    let list = folder.path().join("T/checklist.chk");
    fs::remove_file(folder.path().join("T/params.json")).expect("removable");
    let options = Options { ignore_missing: true, ..Options::default() };
    let result = verify(&[list], &options, &());
    assert!(result.is_good());
    assert_eq!(one(&result, "params.json").status, Status::Missing);
}

#[test]
fn a_stale_list() {
    // A fresh list beside the old one vouches for the file.
    let folder = download("T/meta");
    let content = b"{\"dim\": 64, \"n_layers\": 2}";
    fs::write(folder.path().join("T/params.json"), content).expect("writable");
    let fresh = format!("{}  params.json\n", of_bytes(Algorithm::Sha256, content).hex);
    fs::write(folder.path().join("T/SHA256SUMS"), fresh).expect("writable");
    let (code, message) = failure(&check(folder.path()), "params.json");
    assert_eq!(code, "stale-list");
    assert!(message.contains("checklist.chk line 2 does not match, but"), "{message}");
    assert!(message.contains("SHA256SUMS line 1 does"), "{message}");
}

#[test]
fn converted_line_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("params.json");
    let text = "{\n  \"dim\": 64\n}\n";
    let sums = format!("{}  params.json\n", of_bytes(Algorithm::Md5, text.as_bytes()).hex);
    fs::write(folder.path().join("checklist.chk"), sums).expect("writable");
    fs::write(&file, text.replace('\n', "\r\n")).expect("writable");
    let (code, message) = failure(&check(folder.path()), "params.json");
    assert_eq!((code, message.contains("to CRLF")), ("line-ends", true));
}

#[test]
fn lists_in_every_form() {
    let folder = download("T/meta");
    let file = folder.path().join("T/params.json");
    let bytes = fs::read(&file).expect("readable");
    let md5 = of_bytes(Algorithm::Md5, &bytes).hex;
    let sha1 = of_bytes(Algorithm::Sha1, &bytes).hex;
    let sha256 = of_bytes(Algorithm::Sha256, &bytes).hex;
    fs::remove_file(folder.path().join("T/checklist.chk")).expect("removable");
    let forms = [
        ("SHA256SUMS", format!("{sha256}  params.json\n")),
        ("SHA256SUMS", format!("{sha256} *params.json\r\n")),
        ("md5sum.txt", format!("# made by hand\r\n{}  params.json\r\n", md5.to_uppercase())),
        ("checksums.md5", format!("MD5 (params.json) = {md5}\n")),
        ("sums.sha256", format!("SHA2-256(params.json)= {sha256}\n")),
        ("SHA1SUMS", format!("SHA1 (params.json) = {sha1}\n")),
        ("params.json.sha256", format!("{sha256}\n")),
        ("params.json.md5", md5.clone()),
        ("all.chk", format!("%file: params.json\n{md5}\n")),
        ("../all.chk", format!("%file: \"T/checklist.chk\"\n{md5}  params.json\n")),
        ("../SHA256SUMS", format!("{sha256}  T/params.json\n")),
        ("SHA256SUMS", format!("{sha256}  models/T/params.json\n")),
        ("SHA256SUMS", format!("{sha256}  ../T/params.json\n")),
        ("SHA256SUMS", format!("\u{feff}{sha256}  params.json\n")),
        ("SHA256SUMS", format!("\\{sha256}  params.json\n")),
    ];
    for (name, content) in forms {
        let list = folder.path().join("T").join(name);
        fs::write(&list, &content).expect("writable");
        for path in [&list, &file] {
            let result = check(path);
            let checked = one(&result, "params.json");
            assert!(checked.confirmed && result.is_good(), "{name}: {content}: {checked:#?}");
        }
        fs::remove_file(&list).expect("removable");
    }
}

#[test]
fn a_placeholder_is_no_claim() {
    let folder = download("T/meta");
    let list = folder.path().join("T/SHA256SUMS");
    fs::write(&list, format!("{}  params.json\n", "f".repeat(64))).expect("writable");
    fs::remove_file(folder.path().join("T/checklist.chk")).expect("removable");
    let result = check(&list);
    assert!(result.is_good() && !result.files[0].confirmed, "{:#?}", result.files);
}

#[test]
fn malformed_lines_are_counted() {
    let folder = download("T/meta");
    let list = folder.path().join("T/checklist.chk");
    let text = fs::read_to_string(&list).expect("readable");
    fs::write(&list, format!("{text}not a line\n")).expect("writable");
    let result = check(&list);
    assert!(result.is_good());
    assert_eq!(result.lists[0].malformed_lines, [3]);
}

#[cfg(unix)]
#[test]
fn hugging_face_caches_are_their_own_lists() {
    let folder = tempfile::tempdir().expect("a folder");
    let repo = folder.path().join("models--org--repo");
    let (blobs, snapshot) = (repo.join("blobs"), repo.join("snapshots/abc"));
    fs::create_dir_all(&blobs).expect("a folder");
    fs::create_dir_all(&snapshot).expect("a folder");
    let weights = fs::read(golden("T/hf-st/model.safetensors")).expect("golden");
    let config = fs::read(golden("T/hf-st/config.json")).expect("golden");
    let sha256 = of_bytes(Algorithm::Sha256, &weights).hex;
    let git = of_bytes(Algorithm::GitBlob, &config).hex;
    fs::write(blobs.join(&sha256), &weights).expect("writable");
    fs::write(blobs.join(&git), &config).expect("writable");
    let link = |blob: &str, name: &str| {
        let blob = Path::new("../../blobs").join(blob);
        std::os::unix::fs::symlink(blob, snapshot.join(name)).expect("a link");
    };
    link(&sha256, "model.safetensors");
    link(&git, "config.json");
    let result = check(folder.path());
    assert!(result.is_good(), "{:#?}", result.files);
    let files = result.files.iter().filter(|f| !f.path.is_dir()).count();
    assert_eq!(files, 2, "a blob and its link count once: {:#?}", result.files);
    assert!(one(&result, "config.json").confirmed);
    assert!(one(&result, "model.safetensors").confirmed);

    link(&"0".repeat(40), "tokenizer.json");
    assert_eq!(failure(&check(folder.path()), "tokenizer.json").0, "missing-blob");
    fs::remove_file(snapshot.join("tokenizer.json")).expect("removable");
    flip(&blobs.join(&sha256), 10_000);
    assert_eq!(failure(&check(folder.path()), "model.safetensors").0, "altered");
}

#[test]
fn local_dir_downloads_carry_their_digests() {
    let folder = download("T/hf-st-2shard");
    let records = folder.path().join(".cache/huggingface/download");
    fs::create_dir_all(&records).expect("a folder");
    let shard = "model-00001-of-00002.safetensors";
    let path = folder.path().join(shard);
    let etag = of_bytes(Algorithm::Sha256, &fs::read(&path).expect("readable")).hex;
    let record = format!("{}\n{etag}\n1700000000.5\n", "0123456789".repeat(4));
    fs::write(records.join(format!("{shard}.metadata")), record).expect("writable");
    let config = fs::read(folder.path().join("config.json")).expect("readable");
    let etag = of_bytes(Algorithm::GitBlob, &config).hex;
    let record = format!("{}\n{etag}\n1700000000.5\n", "0123456789".repeat(4));
    fs::write(records.join("config.json.metadata"), record).expect("writable");
    let result = check(folder.path());
    assert!(result.is_good() && one(&result, shard).confirmed);
    assert!(one(&result, "config.json").confirmed);
    flip(&path, 20_000);
    age(&path);
    assert_eq!(failure(&check(folder.path()), shard).0, "altered");
    fs::write(folder.path().join("config.json"), [&config[..], b" "].concat()).expect("writable");
    assert_eq!(one(&check(folder.path()), "config.json").status, Status::Failed);
}

#[test]
fn ollama_blobs_and_pointers_beside_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = folder.path().join("models/blobs");
    fs::create_dir_all(&blobs).expect("a folder");
    let content = b"{\"model_format\":\"gguf\"}";
    let hex = of_bytes(Algorithm::Sha256, content).hex;
    let blob = blobs.join(format!("sha256-{hex}"));
    fs::write(&blob, content).expect("writable");
    assert!(check(folder.path()).is_good());
    flip(&blob, 3);
    assert!(!check(folder.path()).is_good());

    let weights = folder.path().join("model.bin");
    let size = content.len();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hex}\nsize {size}\n");
    fs::write(folder.path().join("model.bin.lfs"), pointer).expect("writable");
    fs::write(&weights, &content[..10]).expect("writable");
    let (code, message) = failure(&check(&weights), "model.bin");
    assert_eq!(code, "truncated");
    assert!(message.starts_with("truncated by 13 bytes"), "{message}");
}

#[test]
fn written_lists_verify_and_are_not_overwritten() {
    let folder = download("T/hf-st-2shard");
    lists::write(folder.path(), &Options::default(), Existing::Keep, &()).expect("lists");
    let result = check(folder.path());
    assert!(result.is_good(), "{:#?}", result.files);
    let files = || result.files.iter().filter(|f| !f.path.is_dir());
    assert!(files().all(|f| f.confirmed), "{:#?}", result.files);
    assert!(
        lists::write(folder.path(), &Options::default(), Existing::Keep, &()).is_err(),
        "kept without force"
    );
    lists::write(folder.path(), &Options::default(), Existing::Replace, &()).expect("lists");
    fs::write(folder.path().join("config.json"), "{}").expect("writable");
    assert!(!check(folder.path()).is_good());
}

#[test]
fn json_has_a_version_and_the_same_findings() {
    let folder = download("T/meta");
    fs::write(folder.path().join("T/params.json"), "").expect("writable");
    let json = serde_json::to_value(check(folder.path())).expect("JSON");
    assert_eq!(json["schema_version"], 1);
    let files = json["files"].as_array().expect("files");
    let is_params =
        |f: &&serde_json::Value| f["name"].as_str().unwrap_or("").ends_with("params.json");
    let params = files.iter().find(is_params).expect("params.json");
    assert_eq!(params["findings"][0]["code"], "empty");
    assert_eq!(params["status"], "failed");
}

fn golden_models() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(golden("")).sort_by_file_name() {
        let path = entry.expect("listable").into_path();
        if path.is_file() && is_model(&path) {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_golden_model_is_whole_and_its_numbers_are_sane() {
    let models = golden_models();
    assert!(models.len() > 20, "{}", models.len());
    let options = Options { deep: true, ..Options::default() };
    // Two originals are broken, as their programs wrote them: the quantizer of day one rounded every
    // weight to zero on x86; the byte-order converter swaps only the first blocks of Q8_0.
    let broken = [
        ("ggml-model-q4_0.unpatched-x86.bin", "all-zero"),
        ("E10/model-q8_0.big-endian.gguf", "nan"),
    ];
    for path in models {
        let result = verify(std::slice::from_ref(&path), &options, &());
        let worst = result.files[0].findings.first().filter(|f| f.severity > Severity::Note);
        let expected = broken.iter().find(|(name, _)| path.ends_with(name)).map(|(_, code)| *code);
        assert_eq!(worst.map(|f| f.code), expected, "{result:#?}");
    }
}

#[test]
fn a_model_cut_anywhere_is_told_without_a_list() {
    for name in ["T/E5", "T/E9"] {
        let folder = fs::read_dir(golden(name)).expect("golden");
        let path =
            folder.map(|e| e.expect("readable").path()).find(|p| is_model(p)).expect("a model");
        let bytes = fs::read(&path).expect("readable");
        let temp = tempfile::tempdir().expect("a folder");
        let cut = temp.path().join("cut.bin");
        for missing in [1, 32, 1000, 20_000, bytes.len() - 100] {
            fs::write(&cut, &bytes[..bytes.len() - missing]).expect("writable");
            let result = check(&cut);
            assert_eq!(result.files[0].status, Status::Failed, "{name} {missing}: {result:#?}");
            let finding = &result.files[0].findings[0];
            assert!(["truncated", "malformed"].contains(&finding.code), "{finding:?}");
        }
    }
}

#[test]
fn tensor_digests_survive_a_metadata_edit() {
    let folder = tempfile::tempdir().expect("a folder");
    let is_gguf = |p: &PathBuf| p.extension().is_some_and(|e| e == "gguf");
    let source = golden_models().into_iter().find(is_gguf).expect("a GGUF file");
    let path = folder.path().join("model.gguf");
    fs::write(&path, fs::read(source).expect("readable")).expect("writable");
    let written =
        lists::write(folder.path(), &Options::default(), Existing::Keep, &()).expect("lists");
    assert_eq!(written.len(), 3);
    assert!(check(folder.path()).is_good());

    // A name of the same length: only metadata changes.
    let mut bytes = fs::read(&path).expect("readable");
    let key = b"general.architecture";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("a key") + key.len() + 12;
    assert_eq!(&bytes[at..at + 5], b"llama");
    bytes[at..at + 5].copy_from_slice(b"LLAMA");
    fs::write(&path, &bytes).expect("writable");
    let result = check(folder.path());
    let file = one(&result, "model.gguf");
    assert_eq!(file.status, Status::Failed);
    assert!(file.findings.iter().any(|f| f.code == "tensors-as-listed"), "{file:#?}");
    for list in [lists::SHA256SUMS, lists::CHECKLIST] {
        fs::remove_file(folder.path().join(list)).expect("removable");
    }
    let result = check(folder.path());
    assert!(result.is_good() && one(&result, "model.gguf").confirmed, "{result:#?}");

    // One weight changes.
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).expect("writable");
    let (code, message) = failure(&check(folder.path()), "model.gguf");
    assert_eq!(code, "tensors-differ");
    assert!(message.contains("1 differ ("), "{message}");
}
