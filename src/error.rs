//! Errors as data: what kind, where exactly, and what can be done about it.

use std::{
    fmt::{self, Write},
    io,
    path::{Path, PathBuf},
};

use crate::remedy::{Note, Remedy};

/// The result of everything in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done, by what the person can do about it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The environment failed: a file could not be opened, read, written or renamed.
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What was being done, as "read", "create".
        doing: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// A file breaks the rules of its own format.
    Malformed(Box<Malformed>),
    /// Nobody knows what this file is, or it could be several things.
    Unknown {
        /// The file concerned.
        file: String,
        /// What it looks like instead, or the candidates.
        looks: String,
        /// What to do.
        next: Remedy,
    },
    /// The file is understood, but this cannot be done with it.
    Unsupported {
        /// What was asked for and why it cannot be had.
        what: String,
        /// What to do instead.
        next: Remedy,
    },
    /// The file is known and is nothing that is converted: another family, an adapter, a session.
    Foreign {
        /// The file and what it is.
        what: String,
        /// What reads it.
        next: Remedy,
    },
    /// Something would lose data, overwrite a file or go beyond a bound, and was not done.
    Refused {
        /// What was refused and why.
        what: String,
        /// What allows it, or what to do instead.
        next: Remedy,
    },
    /// An input changed while it was being read.
    Changed {
        /// The file concerned.
        path: PathBuf,
        /// How it changed.
        how: String,
    },
    /// What was asked for does not fit together.
    Usage(Note),
    /// The person pressed Ctrl-C.
    Interrupted,
}

/// One broken rule of a format, with its place.
#[derive(Debug)]
#[non_exhaustive]
pub struct Malformed {
    /// The file concerned.
    pub file: String,
    /// The format by whose rules it was read, as `ggjt-v2-llama`.
    pub format: String,
    /// The field, as a path: `tensors[37].n_dims`.
    pub field: String,
    /// Where the field begins, in bytes from the start of the file.
    pub at: u64,
    /// What is there.
    pub found: String,
    /// What may be there.
    pub wanted: String,
    /// What to do next; empty where nothing beyond a fresh copy helps.
    pub next: Remedy,
}

/// What went wrong, by what a caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The environment failed: try again, free space, give a permission.
    Io,
    /// A file is damaged: get another copy.
    Malformed,
    /// Nobody knows what a file is, or it could be several things: say which.
    Unknown,
    /// A file is understood, and this cannot be done with it.
    Unsupported,
    /// A file is no model, but of another program.
    Foreign,
    /// Something would be lost, and was not done: allow it, or ask for something else.
    Refused,
    /// An input changed while it was read: run again.
    Changed,
    /// What was asked for does not fit together.
    Usage,
    /// Somebody asked for the end.
    Interrupted,
}

/// Where something is wrong, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place<'a> {
    /// The file.
    pub file: &'a Path,
    /// The format by whose rules it was read.
    pub format: Option<&'a str>,
    /// The field, as `tensors[37].n_dims`.
    pub field: Option<&'a str>,
    /// Bytes from the start of the file to the field.
    pub at: Option<u64>,
}

impl Error {
    /// What went wrong.
    ///
    /// ```
    /// use regguf::error::Kind;
    /// let error = regguf::open("no/such/model.gguf").unwrap_err();
    /// assert_eq!(error.kind(), Kind::Io);
    /// assert_eq!(error.place().unwrap().file.to_str(), Some("no/such/model.gguf"));
    /// assert_eq!(error.remedy().unwrap().to_string(), "check the path");
    /// ```
    pub fn kind(&self) -> Kind {
        match self {
            Error::Io { .. } => Kind::Io,
            Error::Malformed(_) => Kind::Malformed,
            Error::Unknown { .. } => Kind::Unknown,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::Foreign { .. } => Kind::Foreign,
            Error::Refused { .. } => Kind::Refused,
            Error::Changed { .. } => Kind::Changed,
            Error::Usage(_) => Kind::Usage,
            Error::Interrupted => Kind::Interrupted,
        }
    }

    /// Where it went wrong; none where it is not about one file.
    pub fn place(&self) -> Option<Place<'_>> {
        let place = |file| Place { file, format: None, field: None, at: None };
        match self {
            Error::Io { path, .. } | Error::Changed { path, .. } => Some(place(path)),
            Error::Unknown { file, .. } => Some(place(Path::new(file))),
            Error::Malformed(m) => Some(Place {
                format: Some(&m.format),
                field: Some(&m.field),
                at: Some(m.at),
                ..place(Path::new(&m.file))
            }),
            _ => None,
        }
    }

    /// What can be done about it; none where nothing is known to help.
    pub fn remedy(&self) -> Option<Remedy> {
        let remedy = match self {
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "check the path".into(),
                io::ErrorKind::PermissionDenied => "ask for the permission or use a copy".into(),
                io::ErrorKind::ReadOnlyFilesystem => "name an output on another disk".into(),
                _ => Remedy::default(),
            },
            Error::Malformed(m) if m.next.is_empty() => FRESH.into(),
            Error::Malformed(m) => m.next.clone(),
            Error::Unknown { next, .. }
            | Error::Unsupported { next, .. }
            | Error::Refused { next, .. }
            | Error::Foreign { next, .. } => next.clone(),
            Error::Changed { .. } => "run again when nothing writes to it".into(),
            Error::Usage(note) => note.remedy.clone(),
            Error::Interrupted => Remedy::default(),
        };
        Some(remedy).filter(|remedy| !remedy.is_empty())
    }

    /// The error in one line without its remedy.
    pub fn what(&self) -> String {
        What(self).to_string()
    }

    /// The documented exit code of the command for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Malformed(_) | Error::Unknown { .. } => 3,
            Error::Refused { .. } | Error::Unsupported { .. } | Error::Foreign { .. } => 4,
            Error::Io { .. } | Error::Changed { .. } => 5,
            Error::Interrupted => 130,
        }
    }

    /// An environment error while `doing` something with `path`.
    pub fn io(path: impl Into<PathBuf>, doing: &'static str, source: io::Error) -> Error {
        Error::Io { path: path.into(), doing, source }
    }

    /// What a walk through `folder` met.
    pub fn walk(folder: &Path, error: walkdir::Error) -> Error {
        let path = error.path().unwrap_or(folder).to_path_buf();
        // The walk's own text names the path once more.
        let source = error.into_io_error();
        Error::io(path, "list", source.unwrap_or_else(|| io::Error::other("links in a circle")))
    }

    /// A refusal with the step that would allow it.
    pub fn refused(what: impl Into<String>, next: impl Into<Remedy>) -> Error {
        Error::Refused { what: what.into(), next: next.into() }
    }

    /// Something asked for that does not fit together.
    pub fn usage(what: impl Into<Note>) -> Error {
        Error::Usage(what.into())
    }

    /// A file that is known and is nothing that is converted, and what reads it.
    pub fn foreign(what: impl Into<String>, next: impl Into<Remedy>) -> Error {
        Error::Foreign { what: what.into(), next: next.into() }
    }

    /// The same, with what to do next in place of another copy of a malformed file.
    #[must_use]
    pub fn advising(mut self, step: impl Into<Remedy>) -> Error {
        if let Error::Malformed(malformed) = &mut self {
            malformed.next = step.into();
        }
        self
    }

    /// Something understood that cannot be done.
    pub fn unsupported(what: impl Into<String>, next: impl Into<Remedy>) -> Error {
        Error::Unsupported { what: what.into(), next: next.into() }
    }
}

/// One line, whatever is in the file that it is about.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Note::from(self).fmt(f)
    }
}

impl From<&Error> for Note {
    fn from(error: &Error) -> Note {
        Note::new(error.what(), error.remedy().unwrap_or_default())
    }
}

/// An error without its remedy.
struct What<'a>(&'a Error);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Error::Io { path, doing, source } => {
                let said = source.to_string();
                // "(os error 2)" helps nobody; what follows it may.
                let (said, more) = said.split_once(" (os error ").unwrap_or((&said, ""));
                let more = more.split_once(')').map_or("", |(_, rest)| rest);
                write!(f, "{}: cannot {doing}: {said}{more}", named(path))
            }
            Error::Malformed(m) => write!(
                f,
                "{}: {}: {} at {:#x}: found {}, wanted {}",
                named(Path::new(&m.file)),
                m.format,
                Plain(&m.field, LONG),
                m.at,
                Plain(&m.found, LONG),
                Plain(&m.wanted, LONG),
            ),
            Error::Unknown { file, looks, .. } => {
                write!(f, "{}: {}", named(Path::new(file)), Plain(looks, LONG))
            }
            Error::Unsupported { what, .. }
            | Error::Refused { what, .. }
            | Error::Foreign { what, .. } => Plain(what, LONG).fmt(f),
            Error::Changed { path, how } => {
                write!(f, "{}: changed while it was read: {how}", named(path))
            }
            Error::Usage(note) => f.write_str(&note.text),
            Error::Interrupted => f.write_str("interrupted; no partial file was left"),
        }
    }
}

/// What helps where a file is damaged and nothing else is known of it.
const FRESH: &str = "download or copy it again";

/// Where a part of a message is cut: names and values from a file may be of any length.
const LONG: usize = 600;

/// Text from outside on one line of a terminal: control characters escaped, cut after this
/// many characters.
struct Plain<'a>(&'a str, usize);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, c) in self.0.chars().enumerate() {
            match c {
                _ if n == self.1 => return f.write_str("…"),
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Text from outside for one line of a terminal: every control character, a line break too, escaped.
pub fn plain(text: &str) -> String {
    Plain(text, usize::MAX).to_string()
}

/// A path for one line of a terminal, never cut.
pub fn named(path: &Path) -> String {
    plain(&unicode(path))
}

/// A path as text in which no two paths are the same: bytes that are no Unicode as `\xff`.
pub fn unicode(path: &Path) -> String {
    let chunks = path.as_os_str().as_encoded_bytes().utf8_chunks();
    let text = |chunk: std::str::Utf8Chunk| {
        let odd: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        chunk.valid().to_owned() + &odd
    };
    chunks.map(text).collect()
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
