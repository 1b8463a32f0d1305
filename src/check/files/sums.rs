//! Lists of digests: `checklist.chk`, `SHA256SUMS` and every other sums file.
//!
//! A line is one of these; the length of the digest says which algorithm made it:
//!
//! ```text
//! 7b84a1d230b68f44170df79f45b4f170  consolidated.00.pth     GNU, text
//! 7b84a1d230b68f44170df79f45b4f170 *consolidated.00.pth     GNU, binary
//! \7b84a1d230b68f44170df79f45b4f170  a\nb                   GNU, a name with \n, \r or \\ in it
//! MD5 (consolidated.00.pth) = 7b84a1d230b68f44170df79f45b4f170     BSD
//! SHA2-256(model.gguf)= 0f4e…                                      openssl dgst
//! 7b84a1d230b68f44170df79f45b4f170                          bare, of the file the list is named after
//! %file: 7B/checklist.chk                                   a header: what follows is about that file
//! ```
//!
//! Lines may end in CRLF, the list may be UTF-8 with a mark or UTF-16 (as PowerShell redirects), `#`
//! and `;` start comments. 64 times `f` means that the digest is not known, as in llama.cpp's list.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::digest::{Algorithm, Digest};
use super::download::Nature;
use super::forms::{self, Line, Record, Said};
use crate::bytes::{open_regular, replace::folder_of};

/// No list of digests is larger; a larger file is something else under its name.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The name as the list has it, unescaped.
    pub name: String,
    /// What the file should digest to; `None` where the list says that it does not know.
    pub digest: Option<Digest>,
    /// The tensor of the file that the digest is of, where it is not of the whole.
    pub tensor: Option<String>,
    /// Whether the digest may be of the data of all tensors instead of the file's bytes.
    pub data: bool,
    /// The size of the file, where the list gives it.
    pub size: Option<u64>,
    /// The line, counted from 1.
    pub line: usize,
}

/// A list, read.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct List {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its entries in order.
    pub entries: Vec<Entry>,
    /// The numbers of lines that are none of the known forms.
    pub malformed: Vec<usize>,
}

/// Why a file is not a list of digests.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotAList {
    /// It is something else entirely: empty, a web page, a pointer.
    Is(Nature),
    /// No line of it is in any known form.
    NoLines,
    /// It holds what look like digests, and no line is in any known form.
    NoForm,
    /// It could not be read.
    Unreadable(io::Error),
}

impl List {
    /// Reads a list from a file.
    ///
    /// # Errors
    /// Where the file cannot be read or is no list; see [`NotAList`].
    pub fn open(path: &Path) -> Result<Self, NotAList> {
        let file = open_regular(path).map_err(NotAList::Unreadable)?;
        let mut bytes = Vec::new();
        file.take(MAX_LIST_BYTES).read_to_end(&mut bytes).map_err(NotAList::Unreadable)?;
        Self::parse(&bytes, path)
    }

    /// Reads a list from standard input; names are relative to the folder that one is in.
    ///
    /// # Errors
    /// As [`List::open`].
    pub fn from_stdin() -> Result<Self, NotAList> {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(MAX_LIST_BYTES).read_to_end(&mut bytes);
        read.map_err(NotAList::Unreadable)?;
        Self::parse(&bytes, Path::new("-"))
    }

    /// Reads a list from bytes; `path` names bare digests and is what names are relative to.
    ///
    /// # Errors
    /// Where the bytes are no list. One line in a known form makes them one; the others are in `malformed`.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, NotAList> {
        if let Some(nature) = Nature::of(bytes, bytes.len() as u64) {
            return Err(NotAList::Is(nature));
        }
        let text = decode(bytes);
        let mut list = Self { path: path.to_path_buf(), ..Self::default() };
        if text.trim_start().starts_with(['{', '[']) {
            list.take_json(&text);
        } else {
            list.take_lines(&text);
        }
        // 32 digits of hex are an MD5, the shortest that lists have.
        let long = |word: &str| word.len() >= 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let hex = || text.split(|c: char| !c.is_ascii_alphanumeric()).any(long);
        match list.entries.is_empty() {
            false => Ok(list),
            true if hex() => Err(NotAList::NoForm),
            true => Err(NotAList::NoLines),
        }
    }

    /// Takes the digests of a record in JSON: a receipt of a batch, GPT4All's models.json.
    fn take_json(&mut self, text: &str) {
        let (mut found, value) = (Vec::new(), serde_json::from_str(text).unwrap_or_default());
        forms::json(&value, &mut found);
        self.entries.extend(found.into_iter().map(|(name, digest, size)| Entry {
            name,
            digest: Some(digest),
            tensor: None,
            data: false,
            size,
            line: 1,
        }));
    }

    /// Takes line after line: comments and blank ones say nothing, a header speaks of those behind it, records of
    /// several lines are gathered. In prose other lines are no fault.
    fn take_lines(&mut self, text: &str) {
        let mut header = Header::default();
        let mut record = Record::default();
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let (blake, prose) = (is_blake(&name), is_prose(&name));
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end_matches('\r');
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = trimmed.strip_prefix("%file:") {
                header = Header::named(name.trim().trim_matches('"'));
                continue;
            }
            let said = match record.take(trimmed) {
                Line::Taken => continue,
                Line::Ends(said) => Some(said),
                Line::Other => parse_line(line).or_else(|| forms::line(line)),
            };
            let entry = said.and_then(|said| {
                let name = header.apply(said.name).or_else(|| named_after(&self.path))?;
                let (tensor, data, mut digest) = (said.tensor, said.data, said.digest);
                if blake && digest.algorithm == Algorithm::Sha512 {
                    digest.algorithm = Algorithm::Blake2b;
                }
                let digest = Some(digest).filter(|digest| !digest.is_placeholder());
                Some(Entry { name, digest, tensor, data, size: None, line: number })
            });
            match entry {
                Some(entry) => self.entries.push(entry),
                None if !prose => self.malformed.push(number),
                None => {}
            }
        }
    }

    /// Where the file of an entry is: beside the list; or, since llama.cpp's list names files from
    /// the root of the repository (`models/7B/…`), below a folder above it, or without the leading
    /// folders that the list itself is in. What is found nowhere is expected beside the list.
    pub fn locate(&self, entry: &Entry) -> PathBuf {
        let folder = folder_of(&self.path);
        let expected = join(folder, &entry.name);
        if expected.exists() {
            return expected;
        }
        let mut parts = Vec::new();
        for component in Path::new(&entry.name).components() {
            match component {
                Component::Normal(part) => parts.push(part),
                _ => return expected,
            }
        }
        let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        // models/7B/x.pth of a list in models/7B: below each folder above, then 7B/x.pth and x.pth beside the list.
        let above = absolute.ancestors().skip(1).filter(|_| parts.len() > 1);
        let above = above.map(|up| up.join(&entry.name));
        let below = (1..parts.len()).filter_map(|n| {
            let (leading, rest) = parts.split_at_checked(n)?;
            let same = absolute.file_name().is_some_and(|own| leading.last() == Some(&own));
            (rest.len() > 1 || same).then(|| folder.join(rest.iter().collect::<PathBuf>()))
        });
        above.chain(below).find(|candidate| candidate.exists()).unwrap_or(expected)
    }
}

/// What a `%file:` header says of the lines after it.
#[derive(Default)]
struct Header {
    /// The file a bare digest is of.
    file: Option<String>,
    /// The folder that names are in, when the header names a list.
    folder: Option<String>,
}

impl Header {
    /// What a header names: a list, whose folder the names behind it are in, or the file that bare digests are of.
    fn named(name: &str) -> Self {
        let name = name.replace('\\', "/");
        if is_list_name(Path::new(&name)) {
            let folder = name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
            Self { file: None, folder }
        } else {
            Self { file: Some(name), folder: None }
        }
    }

    /// The name of an entry under this header.
    fn apply(&self, name: Option<String>) -> Option<String> {
        match (name, &self.folder) {
            (Some(name), Some(folder)) => Some(format!("{folder}/{name}")),
            (Some(name), None) => Some(name),
            (None, _) => self.file.clone(),
        }
    }
}

/// Whether a file is a list of digests by its name.
pub fn is_list_name(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return false };
    let name = name.to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, e)| e);
    let stem = name.strip_suffix(".txt").unwrap_or(&name);
    let stem = stem.rsplit(['.', '-', '_']).next().unwrap_or(stem);
    // Lists of SHA-224 are none that can be read, which is said of them.
    let kinds = ["md5", "sha1", "sha256", "sha224", "sha384", "sha512", "b2", "blake2b"];
    let sums = kinds.iter().any(|k| {
        stem.strip_prefix(k).is_some_and(|rest| ["sum", "sums", "checksums"].contains(&rest))
    });
    let listed = ["checksums", "checksum", "hashes", "md5", "sha1", "sha256"].contains(&stem)
        && name.ends_with(".txt");
    sums || listed || extension == "chk" || kinds.contains(&extension) || stem == "checksums"
}

/// Whether a list's name says that its digests of 512 bits are of BLAKE2.
fn is_blake(name: &str) -> bool {
    ["b2sum", "b2", "blake2b", "blake2"].iter().any(|kind| {
        name.split(['.', '-', '_']).any(|word| word.strip_prefix(kind).is_some_and(|r| r.len() < 2))
    })
}

/// Whether a list is among other text, as in a model card: its other lines are none of it.
fn is_prose(name: &str) -> bool {
    name.ends_with(".md") || name == "huggingface-metadata.txt"
}

/// Whether a file may be a list though its name does not say so: a model card, a manifest, the records
/// of download programs and of `batch`.
pub(super) fn may_be_list(path: &Path) -> bool {
    const LARGEST: u64 = 1 << 20;
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return false };
    let name = name.to_ascii_lowercase();
    let json =
        name.ends_with(".json") && name.starts_with("models") || name.ends_with(".receipt.json");
    let text = [".txt", ".md", ".manifest"].iter().any(|ending| name.ends_with(ending));
    (json || text) && path.metadata().is_ok_and(|m| m.is_file() && m.len() <= LARGEST)
}

/// The file that a list of one bare digest is about: `model.gguf` for `model.gguf.sha256`.
fn named_after(list: &Path) -> Option<String> {
    let name = list.file_name()?.to_str()?;
    let (file, extension) = name.rsplit_once('.')?;
    Algorithm::named(extension).map(|_| file.to_owned())
}

/// A name of a list as a path; Windows separators count where no such file exists.
fn join(folder: &Path, name: &str) -> PathBuf {
    let direct = folder.join(name);
    if name.contains('\\') && !direct.exists() {
        return folder.join(name.replace('\\', "/"));
    }
    direct
}

/// Text of UTF-8, or of UTF-16 where its first two bytes say so, as PowerShell writes it.
fn decode(bytes: &[u8]) -> String {
    let wide = |from: fn([u8; 2]) -> u16, bytes: &[u8]| -> String {
        let units = bytes.chunks_exact(2).filter_map(|pair| Some(from(pair.try_into().ok()?)));
        char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => wide(u16::from_be_bytes, rest),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Reads one line; the name is `None` for a bare digest.
fn parse_line(line: &str) -> Option<Said> {
    let (name, digest) = gnu(line).or_else(|| bsd(line.trim()))?;
    Some(Said::of(name, digest))
}

/// `HEX  NAME` of md5sum and its like; a line that begins with `\` has a name with escapes in it.
fn gnu(line: &str) -> Option<(Option<String>, Digest)> {
    let line = line.trim_start();
    let (escaped, line) = match line.strip_prefix('\\') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let Some((hex, rest)) = line.split_once([' ', '\t']) else {
        return Some((None, Digest::parse(line)?));
    };
    let digest = Digest::parse(hex)?;
    if rest.trim().is_empty() {
        return Some((None, digest));
    }
    // One separator is taken; the second is a space or the star of binary mode.
    let name = rest.strip_prefix([' ', '*']).unwrap_or(rest);
    let name = if escaped { unescape(name)? } else { name.to_owned() };
    Some((Some(name), digest))
}

/// A name with backslashes and line ends escaped as GNU does.
pub fn escape(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

/// Undoes the escapes of GNU lists.
pub(super) fn unescape(name: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('\\')) => out.push('\\'),
            ('\\', _) => return None,
            (c, _) => out.push(c),
        }
    }
    Some(out)
}

/// `SHA256 (NAME) = HEX`, of BSD and of openssl.
fn bsd(line: &str) -> Option<(Option<String>, Digest)> {
    let (tag, rest) = line.split_once('(')?;
    let (name, hex) = rest.rsplit_once(')')?;
    let hex = hex.trim_start().strip_prefix('=')?.trim();
    Some((Some(name.to_owned()), Digest::tagged(Algorithm::named(tag.trim())?, hex)?))
}

impl NotAList {
    /// Why, in words.
    pub fn reason(&self) -> String {
        match self {
            Self::Is(nature) => format!(
                "this list is {}; {}",
                nature.noun(),
                match nature {
                    Nature::Empty => "download it again",
                    _ => "the server sent that instead of the list: download it again",
                }
            ),
            Self::NoLines => {
                "no properly formatted checksum lines found (of MD5, SHA-1, SHA-2 or BLAKE2)"
                    .to_owned()
            }
            Self::NoForm => "it holds digests in no known form: nothing was compared with them; \
                             `sha256sum` writes one that is known"
                .to_owned(),
            Self::Unreadable(error) => error.to_string(),
        }
    }
}
