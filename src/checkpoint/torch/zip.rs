//! Zip archives as torch writes them: entries that are stored plain are read where they lie.
//!
//! ```text
//! name/data.pkl        the pickle: what tensors there are
//! name/data/0, 1, ..   numbers of each storage, stored plain, so that a row is read at its place in the archive
//! name/byteorder       "big" or "little"; little where it is absent
//! ```
//!
//! A deflated entry can be read forward only, and is then an input of its own.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;
use zip::{
    CompressionMethod, ZipArchive,
    read::{ArchiveOffset, Config},
    result::ZipError,
};

use crate::{
    bytes::{Input, Source, Sum},
    error::{Error, Result},
    limits::Limits,
};

/// An archive's directory.
#[derive(Debug)]
pub struct Archive {
    input: Input,
    entries: Vec<Entry>,
}

/// One file in an archive.
#[derive(Debug)]
pub struct Entry {
    /// Its name, as `consolidated/data/0`.
    pub name: String,
    /// Its length unpacked.
    pub len: u64,
    /// Whether its bytes are in the archive as they are.
    pub stored: bool,
    /// Where its bytes begin in the archive file.
    pub at: u64,
    packed: u64,
    crc: u32,
}

/// What a pickle or another small entry may take in memory.
const SMALL: u64 = 64 << 20;

/// Deflate cannot shrink anything to less than a 1032nd.
const MOST_PACKED: u64 = 1032;

impl Entry {
    /// Its sum, for bytes that begin at `at`. Torch can be told to compute none, and writes zero then.
    fn sum(&self, at: u64) -> Option<Sum> {
        let (name, len, crc) = (self.name.clone(), self.len, self.crc);
        (crc != 0).then_some(Sum { name, at, len, crc })
    }
}

impl Archive {
    /// Reads and checks the directory of an archive.
    ///
    /// # Errors
    /// [`Error::Malformed`] for names that occur twice or leave their folder, entries that overlap,
    /// are encrypted, or are packed in a way other than deflate.
    pub fn open(input: &Input, limits: &Limits) -> Result<Archive> {
        let bad = |field: &str, found: String, wanted: &str| {
            Source::new(input, "zip").malformed(0, field, found, wanted)
        };
        // Torch's archives begin with the file; a guess of where else they might goes wrong.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let reader = BufReader::new(Positioned { input: input.clone(), at: 0 });
        let mut zip = ZipArchive::with_config(config, reader).map_err(|e| failed(input, &e))?;
        if zip.len() as u64 > limits.tensors {
            let wanted = format!("at most {}", limits.tensors);
            return Err(bad("directory", format!("{} entries", zip.len()), &wanted));
        }
        if zip.has_duplicate_names() {
            return Err(bad("directory", "two entries of one name".into(), "each name once"));
        }
        if zip.has_overlapping_entries().map_err(|e| failed(input, &e))? {
            let wanted = "each byte in one entry (is the file whole?)";
            return Err(bad("directory", "entries that overlap or leave the file".into(), wanted));
        }
        let mut entries = Vec::new();
        for index in 0..zip.len() {
            let file = zip.by_index_raw(index).map_err(|e| failed(input, &e))?;
            let name = file.name().map_err(|e| failed(input, &e))?.into_owned();
            let (len, packed) = (file.size(), file.compressed_size());
            // Nothing is ever unpacked to a disk, but names become parts of messages and of other names.
            let leaves = name.starts_with('/') || name.split('/').any(|part| part == "..");
            if leaves || name.contains('\\') {
                return Err(bad("directory", format!("{name:?}"), "a name inside the archive"));
            }
            let stored = match file.compression() {
                _ if file.encrypted() => None,
                CompressionMethod::Stored => Some(true),
                CompressionMethod::Deflated => Some(false),
                _ => None,
            };
            let (Some(stored), Some(at)) = (stored, file.data_start()) else {
                let found = format!("encryption or {}", file.compression());
                return Err(bad(&name, found, "a stored or deflated entry"));
            };
            // What cannot have been packed so tells a size that only means to make memory run out.
            let possible = if stored { len == packed } else { len / MOST_PACKED <= packed };
            if !possible {
                let found = format!("{len} bytes packed in {packed}");
                return Err(bad(&name, found, "a size that can be"));
            }
            entries.push(Entry { name, len, stored, at, packed, crc: file.crc32() });
        }
        let stored = entries.iter().filter(|e| e.stored);
        let input = input.with_sums(stored.filter_map(|e| e.sum(e.at)).collect());
        Ok(Archive { input, entries })
    }

    /// The file of the archive; what is read of its entries is compared with their sums.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// The entry with this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// All entries in directory order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A deflated entry as an input of its own, unpacked as it is read.
    pub fn unpacked(&self, entry: &Entry) -> Input {
        let name = format!("{}!{}", self.input.name(), entry.name);
        let (input, at, packed) = (self.input.clone(), entry.at, entry.packed);
        let unpacked = Input::stream(name, entry.len, move || {
            let packed = Positioned { input: input.clone(), at }.take(packed);
            Ok(Box::new(DeflateDecoder::new(BufReader::with_capacity(256 << 10, packed))))
        });
        unpacked.with_sums(entry.sum(0).into_iter().collect())
    }

    /// A small entry in memory.
    ///
    /// # Errors
    /// Where it is too large to be one, cannot be read, or does not unpack to its length.
    pub fn small(&self, entry: &Entry) -> Result<Vec<u8>> {
        if entry.len > SMALL {
            let (found, wanted) = (format!("{} bytes", entry.len), format!("at most {SMALL}"));
            return Err(Source::new(&self.input, "zip").malformed(
                entry.at,
                &entry.name,
                found,
                wanted,
            ));
        }
        let mut bytes = vec![0; usize::try_from(entry.len).unwrap_or(0)];
        if entry.stored {
            self.input.read_at(entry.at, &mut bytes)?;
        } else {
            self.unpacked(entry).read_at(0, &mut bytes)?;
        }
        Ok(bytes)
    }
}

/// A fault of the archive as an error of this program: of the disk, or of the file.
fn failed(input: &Input, e: &ZipError) -> Error {
    match e {
        ZipError::Io(e) if e.kind() != io::ErrorKind::UnexpectedEof => {
            Error::io(input.path(), "read", io::Error::new(e.kind(), e.to_string()))
        }
        e => {
            let wanted = "a whole zip archive (is the download complete?)";
            Source::new(input, "zip").malformed(0, "directory", e, wanted)
        }
    }
}

/// An input as the zip reader wants it: with a place that moves.
#[derive(Clone, Debug)]
struct Positioned {
    input: Input,
    at: u64,
}

impl Read for Positioned {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.input.len().saturating_sub(self.at);
        let n = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let out = out.get_mut(..n).unwrap_or_default();
        self.input.read_at(self.at, out).map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Positioned {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.input.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
