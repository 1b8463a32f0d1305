//! An input: a file opened read-only, or bytes in memory, read at positions.
//!
//! ```text
//! File      on a disk: opened once, or for every reading        the usual one
//! Memory    bytes that are there                                tests, embedded files
//! Stream    forward only, the last 8 MB kept                    compressed entries of archives
//! Spans     stretches of others, end to end                     files cut by bytes, a file from some place on
//! Made      computed when they are read                         tensors unpacked from other programs' formats
//! ```
//!
//! All are asked in the same way, any number of threads at once: [`Input::read_at`], a position and a buffer. A file
//! that changes while it is read is an error, never other bytes in silence: length and time are compared at the end.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::inputs;
use super::sums::{Sum, Sums};
use crate::error::{Error, Malformed, Result};
use crate::remedy::Remedy;

/// Something that can be read at any position and never written.
///
/// Cloning is cheap: clones share one open file.
#[derive(Clone, Debug)]
pub struct Input(Arc<Inner>, Option<Arc<Sums>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    len: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File(OnDisk),
    Memory(Vec<u8>),
    Stream(Mutex<Stream>),
    /// Stretches of others, laid end to end.
    Spans(Vec<Span>),
    Made(Made),
}

/// Fills in the bytes from a position on.
type Fill = dyn Fn(u64, &mut [u8]) -> Result<()> + Send + Sync;

/// Bytes that are computed from those of others when they are read.
struct Made(Box<Fill>);

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Made")
    }
}

/// A file on a disk, as it was when it was opened.
#[derive(Debug)]
struct OnDisk {
    /// The open file; none where it is opened anew for every reading.
    held: Option<File>,
    metadata: Metadata,
}

/// A stretch of another input.
#[derive(Debug)]
struct Span {
    input: Input,
    at: u64,
    len: u64,
}

/// A sequence of bytes that can only be read forward, as a compressed archive entry. The last few
/// megabytes can be had again, for rows that change places; reading further back starts it anew.
struct Stream {
    open: Box<dyn Fn() -> Result<Box<dyn Read + Send>> + Send + Sync>,
    now: Option<Box<dyn Read + Send>>,
    at: u64,
    len: u64,
    recent: Vec<u8>,
}

/// Bytes that are read at a time where only their sum is wanted.
const STEP: u64 = 1 << 20;

/// How much of a stream is kept: more than the rows of a few heads.
const RECENT: usize = 8 << 20;

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream at {}", self.at)
    }
}

impl Input {
    /// Opens a file for reading: from now on it is an input, which nothing writes to.
    ///
    /// # Errors
    /// Where it cannot be opened, is a folder, a pipe or a device, or is `-`.
    pub fn open(path: impl AsRef<Path>) -> Result<Input> {
        let input = Input::look(path)?;
        if let Some(metadata) = input.metadata() {
            inputs::opened(input.path(), metadata);
        }
        Ok(input)
    }

    /// Opens a file to look at it, as at what was just written: it is no input.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn look(path: impl AsRef<Path>) -> Result<Input> {
        let path = path.as_ref();
        if path == Path::new("-") {
            let what = "-: standard input is not read";
            return Err(Error::refused(
                what,
                "save it to a file and name that (./- for one of that name)",
            ));
        }
        let file = open_regular(path).map_err(|e| Error::io(path, "open", e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, "read", e))?;
        let (path, len) = (path.to_owned(), metadata.len());
        let kind = Kind::File(OnDisk { held: Some(file), metadata });
        Ok(Input(Arc::new(Inner { path, len, kind }), None))
    }

    /// The same file, opened anew for every reading and looked at whether it still is the same: of a set of
    /// a thousand files not all can be open at once.
    pub fn late(&self) -> Input {
        let Kind::File(OnDisk { metadata, .. }) = &self.0.kind else { return self.clone() };
        let kind = Kind::File(OnDisk { held: None, metadata: metadata.clone() });
        let (path, len) = (self.0.path.clone(), self.0.len);
        Input(Arc::new(Inner { path, len, kind }), self.1.clone())
    }

    /// Bytes in memory under a name, for tests and small embedded files.
    pub fn memory(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Input {
        let len = bytes.len() as u64;
        Input(Arc::new(Inner { path: name.into(), len, kind: Kind::Memory(bytes) }), None)
    }

    /// Bytes that can only be had in order; `open` starts them from the beginning.
    pub fn stream(
        name: impl Into<PathBuf>,
        len: u64,
        open: impl Fn() -> Result<Box<dyn Read + Send>> + Send + Sync + 'static,
    ) -> Input {
        let stream = Stream { open: Box::new(open), now: None, at: 0, len, recent: Vec::new() };
        let kind = Kind::Stream(Mutex::new(stream));
        Input(Arc::new(Inner { path: name.into(), len, kind }), None)
    }

    /// Bytes that `fill` computes at any position inside `len`, from inputs that it holds.
    ///
    /// `fill` is asked for any stretch, by any thread, and may be asked twice for the same.
    pub fn made(
        name: impl Into<PathBuf>,
        len: u64,
        fill: impl Fn(u64, &mut [u8]) -> Result<()> + Send + Sync + 'static,
    ) -> Input {
        let kind = Kind::Made(Made(Box::new(fill)));
        Input(Arc::new(Inner { path: name.into(), len, kind }), None)
    }

    /// Whether its bytes are computed when they are read.
    pub fn is_made(&self) -> bool {
        matches!(self.0.kind, Kind::Made(_))
    }

    /// Several inputs, one behind the other, as one.
    pub fn joined(name: impl Into<PathBuf>, inputs: &[Input]) -> Input {
        let span = |input: &Input| Span { input: input.clone(), at: 0, len: input.len() };
        Input::spans(name, inputs.iter().map(span).collect())
    }

    /// The bytes of this input from `at` on, under the same name.
    pub fn from(&self, at: u64) -> Input {
        let at = at.min(self.len());
        let span = Span { input: self.clone(), at, len: self.len() - at };
        Input::spans(self.path(), vec![span])
    }

    fn spans(name: impl Into<PathBuf>, spans: Vec<Span>) -> Input {
        let len = spans.iter().map(|span| span.len).sum();
        Input(Arc::new(Inner { path: name.into(), len, kind: Kind::Spans(spans) }), None)
    }

    /// The same input, whose stretches have these sums: each is compared when it has been read whole.
    ///
    /// An archive states CRC-32s of its entries; reading completes them piece by piece, see [`Sum`].
    pub fn with_sums(&self, sums: Vec<Sum>) -> Input {
        Input(Arc::clone(&self.0), Some(Arc::new(Sums::new(sums))))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The path as text for messages.
    pub fn name(&self) -> String {
        self.0.path.display().to_string()
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether it holds no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// What the disk said of the file when it was opened; none of what is no file of its own.
    pub fn metadata(&self) -> Option<&Metadata> {
        match &self.0.kind {
            Kind::File(on_disk) => Some(&on_disk.metadata),
            _ => None,
        }
    }

    /// Whether it is a file on a disk, and neither unpacked nor put together on the way.
    pub fn is_on_disk(&self) -> bool {
        self.metadata().is_some()
    }

    /// The files on disks that its bytes come from.
    pub fn sources(&self) -> Vec<&Input> {
        match &self.0.kind {
            Kind::File(_) => vec![self],
            Kind::Spans(spans) => spans.iter().flat_map(|s| s.input.sources()).collect(),
            _ => Vec::new(),
        }
    }

    /// Does something with the open file.
    pub(super) fn with_file<T>(&self, act: impl FnOnce(&File) -> io::Result<T>) -> Result<T> {
        let failed = |doing| move |e| Error::io(&self.0.path, doing, e);
        let Kind::File(OnDisk { held, metadata }) = &self.0.kind else {
            let what = format!("{}: only a file on disk can be mapped", self.name());
            return Err(Error::unsupported(what, "extract it first"));
        };
        if let Some(file) = held {
            return act(file).map_err(failed("read"));
        }
        let file = open_regular(&self.0.path).map_err(failed("open"))?;
        let now = file.metadata().map_err(failed("read"))?;
        self.compare(metadata, &now)?;
        act(&file).map_err(failed("read"))
    }

    /// Whether what the disk says now is what it said when the file was opened.
    fn compare(&self, then: &Metadata, now: &Metadata) -> Result<()> {
        let how = if now.len() != then.len() {
            format!("its length went from {} to {}", then.len(), now.len())
        } else if now.modified().ok() != then.modified().ok() {
            "its modification time moved".to_owned()
        } else if !inputs::is_same(then, now) {
            "another file has its name".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Changed { path: self.0.path.clone(), how })
    }

    /// Whether reading out of order costs no more than reading in order.
    pub fn is_random(&self) -> bool {
        match &self.0.kind {
            Kind::Stream(_) => false,
            Kind::Spans(spans) => spans.iter().all(|span| span.input.is_random()),
            _ => true,
        }
    }

    /// Fills `out` with the bytes from `at` on.
    ///
    /// # Errors
    /// [`Error::Changed`] where the file no longer holds them, [`Error::Io`] where reading fails,
    /// [`Error::Malformed`] where they complete a stretch that has another sum than the file states.
    pub fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.fill(at, out)?;
        match self.1.as_ref().and_then(|sums| sums.read(at, out)) {
            None => Ok(()),
            Some((sum, found)) => Err(Error::Malformed(Box::new(Malformed {
                file: self.name(),
                format: "zip".to_owned(),
                field: sum.name.clone(),
                at: sum.at,
                found: format!("bytes with the CRC-32 {found:08x}"),
                wanted: format!("{:08x}, which the archive states: they are damaged", sum.crc),
                next: Remedy::default(),
            }))),
        }
    }

    /// Reads without comparing sums.
    fn fill(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let wanted = out.len();
        let short = || Error::Changed {
            path: self.0.path.clone(),
            how: format!(
                "it was {} bytes long and has no {} bytes at {at:#x} now",
                self.0.len, wanted
            ),
        };
        if at.checked_add(out.len() as u64).is_none_or(|end| end > self.0.len) {
            return Err(short());
        }
        match &self.0.kind {
            Kind::Memory(bytes) => {
                let start = usize::try_from(at).map_err(|_| short())?;
                let from = bytes.get(start..start + out.len()).ok_or_else(short)?;
                out.copy_from_slice(from);
                Ok(())
            }
            Kind::File(_) => match self.with_file(|file| read_exact_at(file, at, out)) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                    Err(short())
                }
                done => done,
            },
            Kind::Spans(spans) => {
                let (mut begin, mut out) = (0, out);
                for span in spans {
                    let inside = (at.max(begin) - begin).min(span.len);
                    let here = usize::try_from(span.len - inside).unwrap_or(usize::MAX);
                    let (now, rest) = out.split_at_mut(here.min(out.len()));
                    span.input.read_at(span.at + inside, now)?;
                    (begin, out) = (begin + span.len, rest);
                }
                Ok(())
            }
            Kind::Made(made) => (made.0)(at, out),
            Kind::Stream(stream) => {
                let mut stream = stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                stream.read_at(at, out, &self.0.path)
            }
        }
    }

    /// Checks, after the last reading, that the file did not change and that every stretch with a sum was
    /// read right; what was not read whole is read now.
    ///
    /// # Errors
    /// As [`Input::check_unchanged`] and [`Input::read_at`].
    pub fn check_read(&self) -> Result<()> {
        self.check_unchanged()?;
        let Some(sums) = &self.1 else { return Ok(()) };
        let mut buffer = Vec::new();
        for sum in sums.left() {
            sums.restart(sum.at);
            buffer.resize(usize::try_from(sum.len.min(STEP)).unwrap_or(0), 0);
            for at in (0..sum.len).step_by(buffer.len().max(1)) {
                let step =
                    usize::try_from(sum.len - at).map_or(buffer.len(), |n| n.min(buffer.len()));
                self.read_at(sum.at + at, buffer.get_mut(..step).unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// Checks that the file is as it was when it was opened: same length, same modification time.
    ///
    /// # Errors
    /// [`Error::Changed`] where it is not; [`Error::Io`] where the file is gone.
    pub fn check_unchanged(&self) -> Result<()> {
        match &self.0.kind {
            Kind::File(OnDisk { held, metadata }) => {
                let now = match held {
                    Some(file) => file.metadata(),
                    None => self.0.path.metadata(),
                };
                self.compare(metadata, &now.map_err(|e| Error::io(&self.0.path, "read", e))?)
            }
            Kind::Spans(spans) => spans.iter().try_for_each(|span| span.input.check_unchanged()),
            _ => Ok(()),
        }
    }
}

impl Stream {
    /// Reads at a position: from what is kept, by going on, or by beginning anew.
    fn read_at(&mut self, at: u64, out: &mut [u8], path: &Path) -> Result<()> {
        let kept = self.at - self.recent.len() as u64;
        if at < kept || (at < self.at && self.now.is_none()) {
            (self.now, self.at) = (None, 0);
            self.recent.clear();
        }
        let done = self.read_on(at, out);
        if self.at == self.len || done.is_err() {
            // Read to its end: of the many entries of an archive few are read at a time.
            (self.now, self.recent) = (None, Vec::new());
        }
        done.map_err(|e| Error::io(path, "decompress", e))
    }

    /// Reads `out` from what is kept and from what follows.
    fn read_on(&mut self, at: u64, out: &mut [u8]) -> io::Result<()> {
        if self.now.is_none() {
            self.now = Some((self.open)().map_err(io::Error::other)?);
            self.at = 0;
        }
        let Some(reader) = self.now.as_mut() else { return Ok(()) };
        if at > self.at {
            io::copy(&mut reader.by_ref().take(at - self.at), &mut io::sink())?;
            self.recent.clear();
            self.at = at;
        }
        let back = usize::try_from(self.at - at).unwrap_or(usize::MAX).min(self.recent.len());
        let kept = self.recent.get(self.recent.len() - back..).unwrap_or_default();
        let (again, fresh) = out.split_at_mut(kept.len().min(out.len()));
        again.copy_from_slice(kept.get(..again.len()).unwrap_or_default());
        reader.read_exact(fresh)?;
        self.at += fresh.len() as u64;
        if fresh.len() + self.recent.len() > 2 * RECENT {
            let keep = RECENT.saturating_sub(fresh.len()).min(self.recent.len());
            self.recent.drain(..self.recent.len() - keep);
        }
        self.recent
            .extend_from_slice(fresh.get(fresh.len().saturating_sub(RECENT)..).unwrap_or_default());
        Ok(())
    }
}

/// No text that a person gives is larger: a hundred times the usual texts for perplexity.
pub const TEXT: u64 = 128 << 20;

/// The whole of a text that a person gives, as an [`Input`] is read.
///
/// # Errors
/// Where it cannot be read, is larger than any such text or no text at all.
pub fn read_text(path: &Path) -> Result<String> {
    let input = Input::open(path)?;
    if input.len() > TEXT {
        let what = format!("{}: is {} bytes, at most {TEXT} are read", input.name(), input.len());
        return Err(Error::unsupported(what, "name a text file"));
    }
    let mut bytes = vec![0; usize::try_from(input.len()).unwrap_or(0)];
    input.read_at(0, &mut bytes)?;
    String::from_utf8(bytes).map_err(|e| {
        let odd = io::Error::new(io::ErrorKind::InvalidData, format!("no UTF-8 text: {e}"));
        Error::io(path, "read", odd)
    })
}

/// The text that comes over standard input, no longer than any that is read from a file.
///
/// # Errors
/// Where it cannot be read or is no text.
pub fn read_stdin() -> Result<String> {
    let mut text = String::new();
    let read = io::stdin().lock().take(TEXT).read_to_string(&mut text);
    read.map(|_| text).map_err(|e| Error::io("<stdin>", "read", e))
}

/// Opens a file on a disk to look at it. What has no length is refused, and without waiting: a pipe
/// whose writer never comes would be waited for without end.
///
/// # Errors
/// The system's, and one that says what `path` is where it is no file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    if path == Path::new("-") {
        let what = "standard input is not read: save it to a file and name that (./- for one of that name)";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        let what = "it is a folder: name a file in it";
        return Err(io::Error::new(io::ErrorKind::IsADirectory, what));
    }
    if !kind.is_file() {
        let what = "it is a pipe or a device, not a file on a disk: save what it gives to a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(file)
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(not(unix))]
pub(super) fn read_exact_at(mut file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(out)
}
