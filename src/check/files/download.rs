//! What a download turned out to be, and what its surroundings say that it should be.
//!
//! Three things go wrong again and again: the server sent a page instead of the file, the
//! repository gave its Git LFS pointer, or the transfer stopped early. All three are told without
//! the network: by the first bytes ([`Nature`]), by the size that the file's own header or end
//! record implies ([`implied_size`]), and by what download programs leave behind ([`claims`]):
//!
//! ```text
//! models--org--repo/blobs/<digest>                  Hugging Face cache: the name is the digest
//! <dir>/.cache/huggingface/download/<file>.metadata `--local-dir`: commit, digest, time, one a line
//! models/blobs/sha256-<digest>                      Ollama
//! .git/lfs/objects/ab/cd/abcd…                      Git LFS
//! <file>.lfs and the like                           a pointer saved beside its file
//! ```

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::digest::{Algorithm, Digest};
use crate::bytes::open_regular;
use crate::checkpoint::safetensors;

/// Pointers, pages and metadata are told from the first N bytes.
const PREFIX_BYTES: u64 = 4096;
/// A Git LFS pointer is a few lines; larger files are never read as one.
const MAX_POINTER_BYTES: u64 = 1024;

/// Something that is no model, list or tokenizer, whatever its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Nature {
    /// No bytes at all.
    Empty,
    /// A web page.
    Html,
    /// An XML response of a storage service, with its code, `AccessDenied` mostly.
    XmlError(String),
    /// A JSON or one-line response of a server that refused.
    Refusal(String),
    /// A Git LFS pointer: the digest and size of the real file.
    Pointer(Pointer),
    /// Nothing but zero bytes at its start: space reserved by a download that never filled it.
    Zeros,
}

/// The content of a Git LFS pointer.
///
/// ```text
/// version https://git-lfs.github.com/spec/v1
/// oid sha256:<64 digits>
/// size <bytes>
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pointer {
    /// The digest of the real file.
    pub digest: Digest,
    /// The size of the real file.
    pub size: u64,
}

impl Nature {
    /// What the file's first bytes show, if it is one of these.
    ///
    /// `prefix` is the first 4096 bytes, or all of a shorter file. Only what no model begins with is told so: a file
    /// of zeros is none by its start alone, however it goes on.
    pub fn of(prefix: &[u8], size: u64) -> Option<Self> {
        if size == 0 {
            return Some(Self::Empty);
        }
        if let Some(pointer) = Pointer::parse(prefix).filter(|_| size <= MAX_POINTER_BYTES) {
            return Some(Self::Pointer(pointer));
        }
        let start = prefix.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(prefix.len());
        let text = prefix.get(start..).unwrap_or_default();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let text = String::from_utf8_lossy(text.get(..1024).unwrap_or(text)).into_owned();
        let lower = text.to_ascii_lowercase();
        if ["<!doctype html", "<html", "<head", "<body", "<script"]
            .iter()
            .any(|t| lower.starts_with(t))
        {
            return Some(Self::Html);
        }
        if lower.starts_with("<?xml") || lower.starts_with("<error") {
            if lower.contains("<html") {
                return Some(Self::Html);
            }
            let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
            return Some(Self::XmlError(code.map_or("no code", |(code, _)| code).to_owned()));
        }
        const REFUSALS: [&str; 5] = [
            "{\"error\"",
            "{\"message\"",
            "entry not found",
            "invalid username or password",
            "access to model",
        ];
        if size <= PREFIX_BYTES && REFUSALS.iter().any(|r| lower.starts_with(r)) {
            let line = text.lines().next().unwrap_or_default();
            return Some(Self::Refusal(line.chars().take(80).collect()));
        }
        (prefix.len() >= 16 && prefix.iter().all(|&b| b == 0)).then_some(Self::Zeros)
    }

    /// What it is, as a noun with its article.
    pub fn noun(&self) -> String {
        match self {
            Self::Empty => "an empty file".to_owned(),
            Self::Html => "an HTML page".to_owned(),
            Self::XmlError(code) => format!("an XML response of a server ({code})"),
            Self::Refusal(line) => format!("a server's refusal ({line})"),
            Self::Pointer(pointer) => {
                format!("a Git LFS pointer to a file of {} bytes", pointer.size)
            }
            Self::Zeros => "zero bytes from the start, reserved and never filled".to_owned(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Empty | Self::Zeros => "the download never began: download the file again",
            Self::Html => "the server sent a page, often a login: log in and download again",
            Self::XmlError(_) => "the signed link has expired or is wrong: get a new one",
            Self::Refusal(_) => "ask for access, or check the name, and download again",
            Self::Pointer(_) => "fetch the content with `git lfs pull`",
        }
    }
}

impl Pointer {
    /// Reads a pointer (git-lfs specification, version 1).
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        let version = lines.next()?.strip_prefix("version ")?;
        if !version.contains("git-lfs") && !version.contains("hawser") {
            return None;
        }
        let (mut digest, mut size) = (None, None);
        for line in lines {
            match line.trim_end().split_once(' ') {
                Some(("oid", oid)) => digest = Digest::parse(oid.strip_prefix("sha256:")?),
                Some(("size", n)) => size = n.parse().ok(),
                _ => {}
            }
        }
        Some(Self { digest: digest?, size: size? })
    }

    /// Reads a pointer from a file, if the file is one.
    pub fn open(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        if !metadata.is_file() || metadata.len() > MAX_POINTER_BYTES {
            return None;
        }
        Self::parse(&prefix(path).ok()?)
    }
}

/// The first bytes of a file.
pub fn prefix(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(PREFIX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How large a file says that it is, by its own header or end record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Implied {
    /// Exactly N bytes.
    Bytes(u64),
    /// A zip archive whose end record is missing: the rest of the file is, too.
    NoZipEnd,
}

/// What a safetensors header or a zip end record implies for the size of the file; `None` for
/// files that say nothing of the kind.
pub fn implied_size(path: &Path) -> Option<Implied> {
    let mut file = open_regular(path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut start = [0; 9];
    file.read_exact(&mut start).ok()?;
    if start.starts_with(b"PK\x03\x04") {
        return zip_size(&mut file, size);
    }
    if path.extension().is_some_and(|e| e == "safetensors") && start[8] == b'{' {
        let [a, b, c, d, e, f, g, h, _] = start;
        return safetensors_size(&mut file, u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
    None
}

/// Safetensors: eight bytes of header length, the header as JSON, the data its offsets span.
fn safetensors_size(file: &mut File, header: u64) -> Option<Implied> {
    if header > 100 << 20 {
        return None;
    }
    file.seek(SeekFrom::Start(8)).ok()?;
    let end = safetensors::extent(file.take(header))?;
    Some(Implied::Bytes(8u64.checked_add(header)?.checked_add(end)?))
}

/// Zip: the end record is the last thing in the file, up to a comment of 65535 bytes, and says
/// where the directory before it is.
fn zip_size(file: &mut File, size: u64) -> Option<Implied> {
    const END_BYTES: usize = 22;
    let tail = size.min(END_BYTES as u64 + 65_535);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(size - tail)).ok()?;
    file.take(tail).read_to_end(&mut bytes).ok()?;
    let Some(at) = bytes.windows(END_BYTES).rposition(|w| w.starts_with(b"PK\x05\x06")) else {
        return Some(Implied::NoZipEnd);
    };
    let comment = bytes.get(at + 20..at + 22)?;
    let comment = u64::from(u16::from_le_bytes(comment.try_into().ok()?));
    Some(Implied::Bytes(size - tail + (at + END_BYTES) as u64 + comment))
}

/// What its surroundings say a file should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// The digest it should have.
    pub digest: Digest,
    /// The size it should have, where that is known.
    pub size: Option<u64>,
    /// Who says so, in words: `its name in the Hugging Face cache`.
    pub by: String,
    /// The list or record that says so, if one does: it may be older than the file.
    pub record: Option<PathBuf>,
    /// Whether it may be of the data of all tensors instead of the file's bytes.
    pub data: bool,
}

impl Claim {
    /// A claim of whoever `by` names.
    pub fn new(digest: Digest, by: &str) -> Self {
        Self { digest, size: None, by: by.to_owned(), record: None, data: false }
    }
}

/// Everything that the places around a file say about its digest.
pub fn claims(path: &Path) -> Vec<Claim> {
    let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut claims = Vec::new();
    claims.extend(by_blob_name(&resolved));
    claims.extend(by_local_dir(path));
    claims.extend(by_pointer_beside(path));
    claims.extend(by_llama_cache(path));
    claims
}

/// llama.cpp's own cache: `NAME.gguf.etag`, or `NAME.gguf.json` with the tag in it. Only a tag that is a
/// SHA-256 is of the file's bytes.
fn by_llama_cache(path: &Path) -> Option<Claim> {
    let name = path.file_name()?.to_str()?;
    ["etag", "json"].iter().find_map(|ending| {
        let record = path.with_file_name(format!("{name}.{ending}"));
        let bytes = fs::metadata(&record).ok()?.len();
        let text = (bytes < 1 << 16).then(|| fs::read_to_string(&record).ok())??;
        let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let tag = json.as_ref().and_then(|j| j.get("etag")?.as_str());
        let tag = tag.unwrap_or(&text).trim().trim_matches('"');
        let digest = Digest::parse(tag).filter(|d| d.algorithm == Algorithm::Sha256)?;
        let by = format!("llama.cpp's record {}", shown(&record));
        Some(Claim { record: Some(record), ..Claim::new(digest, &by) })
    })
}

/// Files whose name is their digest: Hugging Face caches, Ollama's store, Git LFS objects.
///
/// ```text
/// blobs/sha256-<64 digits>           Ollama
/// blobs/<64 digits>                  Hugging Face: SHA-256 of a file in LFS
/// blobs/<40 digits>                  Hugging Face: SHA-1 of a git blob, of a small file
/// objects/ab/cd/abcd<60 digits>      Git LFS
/// ```
fn by_blob_name(path: &Path) -> Option<Claim> {
    let name = path.file_name()?.to_str()?;
    let folders: Vec<&str> = path.iter().rev().skip(1).filter_map(|p| p.to_str()).collect();
    let parent = *folders.first()?;
    if parent == "blobs" {
        if let Some(hex) = name.strip_prefix("sha256-").or_else(|| name.strip_prefix("sha256:")) {
            return Some(Claim::new(Digest::parse(hex)?, "its name in the Ollama store"));
        }
        let mut digest = Digest::parse(name)?;
        if digest.algorithm == Algorithm::Sha1 {
            digest.algorithm = Algorithm::GitBlob;
        }
        let known = digest.algorithm != Algorithm::Md5;
        return known.then(|| Claim::new(digest, "its name in the Hugging Face cache"));
    }
    let digest = Digest::parse(name).filter(|d| d.algorithm == Algorithm::Sha256)?;
    let is_lfs = folders.get(2..4) == Some(&["objects", "lfs"]);
    is_lfs.then(|| Claim::new(digest, "its name in the Git LFS store"))
}

/// Downloads with `--local-dir` leave `.cache/huggingface/download/<file>.metadata` (older ones
/// `.huggingface/download/`) in the folder they went to: commit, etag, time.
///
/// How deep below that folder the file lies is not known, so every folder above is tried, the nearest first.
fn by_local_dir(path: &Path) -> Option<Claim> {
    let absolute = std::path::absolute(path).ok()?;
    for root in absolute.ancestors().skip(1) {
        let name = absolute.strip_prefix(root).ok()?;
        for store in [".cache/huggingface/download", ".huggingface/download"] {
            let mut record = root.join(store).join(name).into_os_string();
            record.push(".metadata");
            let record = PathBuf::from(record);
            let Ok(text) = fs::read_to_string(&record) else { continue };
            let mut lines = text.lines().map(str::trim);
            let (commit, etag) = (lines.next()?, lines.next()?.trim_matches('"'));
            let mut digest = Digest::parse(etag).filter(|d| d.algorithm != Algorithm::Md5)?;
            if digest.algorithm == Algorithm::Sha1 {
                digest.algorithm = Algorithm::GitBlob;
            }
            let by = format!("the download's own record of commit {commit}");
            return Some(Claim { record: Some(record), ..Claim::new(digest, &by) });
        }
    }
    None
}

/// A pointer saved beside its file: `model.bin.lfs`, `model.bin.pointer`, `model.bin.txt`…
fn by_pointer_beside(path: &Path) -> Vec<Claim> {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return Vec::new() };
    ["lfs", "pointer", "ptr", "gitattributes-pointer", "txt"]
        .iter()
        .map(|extension| path.with_file_name(format!("{name}.{extension}")))
        .filter_map(|beside| Some((Pointer::open(&beside)?, beside)))
        .map(|(pointer, beside)| Claim {
            size: Some(pointer.size),
            record: Some(beside.clone()),
            ..Claim::new(pointer.digest, &format!("the Git LFS pointer {}", shown(&beside)))
        })
        .collect()
}

/// The name of a file without its folder.
fn shown(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A sign that a download program has not finished with a file.
///
/// Browsers, `huggingface_hub`, aria2 and BitTorrent programs each have an ending for a file that is not whole yet.
pub fn unfinished(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let is_partial = |name: &str| {
        [
            ".part",
            ".partial",
            ".incomplete",
            ".crdownload",
            ".aria2",
            ".download",
            ".!qb",
            ".downloadinprogress",
            "-partial",
        ]
        .iter()
        .any(|e| name.to_ascii_lowercase().ends_with(e))
    };
    if is_partial(name) {
        return Some(path.to_path_buf());
    }
    // Only aria2 keeps its record beside a file that already has its final name.
    let beside = path.with_file_name(format!("{name}.aria2"));
    beside.exists().then_some(beside)
}

/// When a file was last written, for comparing ages.
pub fn written(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}
