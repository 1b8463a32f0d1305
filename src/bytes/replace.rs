//! A new file that appears whole or not at all.
//!
//! Bytes go to a temporary file beside the target; [`Replace::commit`] flushes it to disk and renames
//! it. Dropping it, failing or being interrupted leaves nothing behind.
//!
//! Since every byte has to reach the disk before the rename, whole pages of large files go there at once,
//! past the page cache: that saves the system a copy of every byte, the memory for it and the wait at
//! the end. Where system or file system do not know this way, all take the usual one; and so they do where
//! the flush is left to the system ([`Durability::Cached`]).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::NamedTempFile;

use super::{Input, Paged, inputs, partial};
use crate::error::{Error, Result};
use crate::remedy::{Remedy, Setting};

/// Set by the Ctrl-C handler; long loops ask [`check_interrupt`].
///
/// It stays set: a process that goes on after an interruption sets it back itself.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// An error once the person has pressed Ctrl-C.
///
/// # Errors
/// [`Error::Interrupted`], at every call from then on. Loops over files, tensors and chunks ask here, so a job ends within
/// one chunk.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// Smaller files are written through the page cache.
const LARGE: u64 = 32 << 20;

/// What becomes of an output that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// It is left, and that is an error.
    #[default]
    Keep,
    /// It is replaced once the new file is whole; an input never is.
    Replace,
}

/// Whether a new file is on the disk when it gets its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// It is: after a power cut the file is there whole, or not at all.
    #[default]
    Flushed,
    /// The system writes it when it sees fit: a power cut soon afterwards may leave a file that is not whole.
    Cached,
}

/// How a new file takes its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// What becomes of an output that exists.
    pub existing: Existing,
    /// Whether the file is on the disk by then.
    pub durability: Durability,
}

impl From<Existing> for Commit {
    fn from(existing: Existing) -> Commit {
        Commit { existing, ..Commit::default() }
    }
}

/// A file being written under a temporary name.
#[derive(Debug)]
pub struct Replace {
    temp: NamedTempFile,
    /// The same file, open for writing past the page cache.
    direct: Option<File>,
    /// Bytes by their place, of pages that are not whole yet.
    edges: Mutex<BTreeMap<u64, Vec<u8>>>,
    target: PathBuf,
    commit: Commit,
}

impl Replace {
    /// Begins a new file of `size` bytes, all zero, at `target`.
    ///
    /// What dead processes left in the folder is removed. The file will be readable by nobody who may not
    /// read `inputs`, or what it replaces.
    ///
    /// # Errors
    /// [`Error::Refused`] where [`check_target`] refuses `target`, or where the file system has less than
    /// `size` bytes free.
    pub fn begin(
        target: &Path,
        size: u64,
        commit: impl Into<Commit>,
        inputs: &[&Input],
    ) -> Result<Replace> {
        let commit = commit.into();
        check_target(target, commit.existing, inputs)?;
        let folder = folder_of(target);
        partial::remove_dead(folder);
        check_space(folder, size, target)?;
        let readers = access::readers(inputs);
        let temp = partial::create(folder, access::new(readers).as_ref())
            .map_err(|e| Error::io(target, "create", without_path(&e)))?;
        if let Ok(replaced) = target.metadata() {
            access::keep(temp.as_file(), &replaced, readers)
                .map_err(|e| Error::io(target, "create", e))?;
        }
        let cached = size < LARGE || commit.durability == Durability::Cached;
        let direct = if cached { None } else { open_direct(temp.path()) };
        let (edges, target) = (Mutex::default(), target.to_owned());
        let replace = Replace { temp, direct, edges, target, commit };
        reserve(replace.temp.as_file(), size).map_err(|e| replace.failed(e))?;
        Ok(replace)
    }

    /// The path of the temporary file, to check it before it is committed.
    pub fn temp_path(&self) -> &Path {
        self.temp.path()
    }

    /// Writes all of `bytes` at `at`, through the page cache.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(self.temp.as_file(), at, bytes).map_err(|e| self.failed(e))
    }

    /// Writes a buffer to its place, whole pages past the page cache. The bytes of a page that two
    /// buffers share are kept until the second comes.
    ///
    /// # Errors
    /// As [`Replace::write_at`].
    pub fn write(&self, buffer: &mut Paged) -> Result<()> {
        let Some(direct) = self.direct.as_ref().filter(|_| !buffer.pages().1.is_empty()) else {
            return self.write_at(buffer.at(), buffer.bytes());
        };
        self.join_edges(buffer);
        let (before, pages, _) = buffer.pages();
        let at = buffer.at() + before.len() as u64;
        // What the file system does not take this way, it takes the other way or says why not.
        write_all_at(direct, at, pages).or_else(|_| self.write_at(at, pages))
    }

    /// Completes the outer pages of `buffer` with what others left there, or leaves its bytes there.
    fn join_edges(&self, buffer: &mut Paged) {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let end = |buffer: &Paged| buffer.at() + buffer.bytes().len() as u64;
        let (left, right) = buffer.missing();
        let mut take = |at: u64, len: usize| match edges.get(&at) {
            Some(bytes) if len > 0 && bytes.len() == len => edges.remove(&at),
            _ => None,
        };
        if let Some(bytes) = take(buffer.at() - left as u64, left) {
            buffer.prepend(&bytes);
        }
        if let Some(bytes) = take(end(buffer), right) {
            buffer.append(&bytes);
        }
        let (before, _, after) = buffer.pages();
        for (at, bytes) in [(buffer.at(), before), (end(buffer) - after.len() as u64, after)] {
            if !bytes.is_empty() {
                edges.insert(at, bytes.to_vec());
            }
        }
    }

    /// Writes what is left of pages that buffers shared with something else.
    ///
    /// # Errors
    /// As [`Replace::write_at`].
    pub fn finish(&self) -> Result<()> {
        let edges = std::mem::take(&mut *self.edges.lock().unwrap_or_else(PoisonError::into_inner));
        edges.iter().try_for_each(|(at, bytes)| self.write_at(*at, bytes))
    }

    /// Names the target in a write error.
    pub fn failed(&self, e: io::Error) -> Error {
        let next = "the partial file was removed";
        match e.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Error::Io {
                path: self.target.clone(),
                doing: "write",
                source: io::Error::new(
                    e.kind(),
                    format!("{e}; {next}: free some space and run again"),
                ),
            },
            _ => Error::io(&self.target, "write", e),
        }
    }

    /// Flushes the file to disk, unless that is left to the system, and gives it its name. Returns which.
    ///
    /// # Errors
    /// Where the disk is full or fails, the person interrupts, or the target appeared meanwhile and is to be kept; the
    /// partial file is removed then.
    pub fn commit(self) -> Result<Durability> {
        self.finish()?;
        let flushed = self.commit.durability == Durability::Flushed;
        if flushed {
            self.temp.as_file().sync_all().map_err(|e| self.failed(e))?;
        }
        check_interrupt()?;
        let done = if self.commit.existing == Existing::Replace {
            // What it is now counts, not what it was when the work began.
            check_target(&self.target, Existing::Replace, &[])?;
            self.temp.persist(&self.target)
        } else {
            self.temp.persist_noclobber(&self.target)
        };
        done.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.target),
            _ => Error::io(&self.target, "rename", e.error),
        })?;
        if flushed {
            sync(folder_of(&self.target));
        }
        Ok(self.commit.durability)
    }
}

/// Flushes the names in a folder to disk.
pub(super) fn sync(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        // Some file systems cannot flush a folder; the files in it are safe by then.
        let _ = folder.sync_all();
    }
}

/// Folders that were made, innermost first. Those that are empty when it is dropped go again.
#[derive(Debug, Default)]
#[must_use = "folders that are empty go with it"]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// Leaves them, empty or not.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // One that holds something stays, and so do those above it.
        let _ = self.0.iter().try_for_each(fs::remove_dir);
    }
}

/// Makes a folder, with those above it, so that it is there after a power cut too.
///
/// # Errors
/// Where it cannot be made.
pub fn make_folder(folder: &Path) -> Result<Made> {
    let there = folder.ancestors().find(|place| *place != Path::new("") && place.exists());
    if let Some(place) = there.filter(|place| !place.is_dir()) {
        let what = format!("{}: is no folder", place.display());
        return Err(Error::refused(what, "name a folder, or one that is not there yet"));
    }
    let missing = |folder: &&Path| **folder != *Path::new("") && !folder.exists();
    let new = folder.ancestors().take_while(missing).map(Path::to_path_buf).collect();
    let made = Made(new);
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    made.0.iter().for_each(|folder| sync(folder_of(folder)));
    Ok(made)
}

/// Writes a small file whole or not at all.
///
/// # Errors
/// As [`Replace::begin`] and [`Replace::commit`].
pub fn write_small(target: &Path, bytes: &[u8], commit: impl Into<Commit>) -> Result<()> {
    let replace = Replace::begin(target, bytes.len() as u64, commit, &[])?;
    replace.write_at(0, bytes)?;
    replace.commit().map(drop)
}

/// Refuses a target that is an input, of this call or named in `inputs`, or no file on a disk; and one
/// that exists, unless it is to be replaced.
///
/// # Errors
/// [`Error::Refused`], which says why.
pub fn check_target(target: &Path, existing: Existing, inputs: &[&Input]) -> Result<()> {
    if target == Path::new("-") {
        let next = Setting::Output.to("name a file (./- for one of that name)");
        return Err(Error::refused("-: nothing is written to standard output", next));
    }
    if inputs::holds(target) || inputs.iter().any(|input| same_file(target, input)) {
        let what = format!("{}: is the input itself", target.display());
        return Err(Error::refused(what, Setting::Output.to("name another output")));
    }
    let refused =
        |what: &str, next: &str| Err(Error::refused(format!("{}: {what}", target.display()), next));
    match target.metadata() {
        Ok(there) if there.is_dir() => return refused("is a folder", "name a file in it"),
        Ok(there) if !there.is_file() || is_in_system_folder(target) => {
            return refused("is a device or a pipe, which is never replaced", "name a file");
        }
        _ => {}
    }
    if existing == Existing::Keep && target.symlink_metadata().is_ok() {
        return Err(exists(target));
    }
    Ok(())
}

/// Whether a file is one of those that the system makes: `/dev/stdout` is a link to what it is now.
fn is_in_system_folder(target: &Path) -> bool {
    let folder = folder_of(target).canonicalize().unwrap_or_default();
    let within = |system: &str| folder.starts_with(system);
    cfg!(unix) && (within("/dev") && !within("/dev/shm") || within("/proc") || within("/sys"))
}

/// The error for a target that is there already.
fn exists(target: &Path) -> Error {
    Error::refused(
        format!("{}: exists already", target.display()),
        Setting::Force.to("replace it").or(Setting::Output.to("name another output")),
    )
}

/// The folder a file is in, `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Free space for unprivileged users where `folder` lies, if the system tells.
pub fn free_space(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(folder).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// An error of the temporary file without its name, which nobody asked for.
fn without_path(error: &io::Error) -> io::Error {
    let text = error.to_string();
    io::Error::new(error.kind(), text.split(" at path ").next().unwrap_or(&text))
}

/// What a process may not write ends it with a signal, so its limit is asked beforehand.
#[cfg(unix)]
fn check_limit(size: u64, target: &Path) -> Result<()> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        Some(most) if most < size => Err(Error::refused(
            format!("{}: needs {size} bytes, this process may write {most}", target.display()),
            "raise the limit (ulimit -f) and run again",
        )),
        _ => Ok(()),
    }
}

/// Refuses what the disk or the process has no room for.
fn check_space(folder: &Path, size: u64, target: &Path) -> Result<()> {
    #[cfg(unix)]
    check_limit(size, target)?;
    match free_space(folder) {
        Some(free) if free < size => Err(Error::refused(
            format!("{}: needs {size} bytes, the disk has {free} free", target.display()),
            Remedy::from("free some space")
                .or(Setting::Output.to("name an output on another disk")),
        )),
        _ => Ok(()),
    }
}

/// The file once more, for writes past the page cache where system and file system know them.
fn open_direct(path: &Path) -> Option<File> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
        File::options().write(true).custom_flags(flag).open(path).ok()
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = path;
        None
    }
}

/// Makes a new file `size` bytes long, with its place on the disk where the file system can promise it.
///
/// A disk that fills up is noticed before anything is written, and not after an hour.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(e @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) =
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size.max(1))
    {
        return Err(e.into());
    }
    file.set_len(size)
}

#[cfg(unix)]
fn same_file(target: &Path, input: &Input) -> bool {
    let Ok(there) = target.metadata() else { return false };
    let is = |held: &Input| held.metadata().is_some_and(|m| inputs::is_same(m, &there));
    input.sources().into_iter().any(is)
}

#[cfg(not(unix))]
fn same_file(target: &Path, input: &Input) -> bool {
    let Ok(there) = target.canonicalize() else { return false };
    let is = |held: &Input| held.path().canonicalize().is_ok_and(|path| path == there);
    input.sources().into_iter().any(is)
}

#[cfg(unix)]
pub(super) fn write_all_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
pub(super) fn write_all_at(mut file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

/// Who may read an output.
#[cfg(unix)]
mod access {
    use std::{
        fs::{File, Metadata, Permissions},
        io,
        os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    };

    use super::super::{Input, inputs};

    /// Permissions of those who may read every one of `sources`, or every input of this call where there
    /// are none.
    pub(super) fn readers(sources: &[&Input]) -> u32 {
        let of = |input: &&Input| {
            let on_disk = input.sources();
            let each = on_disk.iter().filter_map(|file| file.metadata());
            let all = each.map(inputs::permissions).reduce(|all, one| all & one);
            all.unwrap_or(inputs::shared())
        };
        let shared = match sources {
            [] => inputs::shared(),
            some => some.iter().map(of).fold(0o777, |all, one| all & one),
        };
        let also = |bit: u32, all: u32| if shared & bit == 0 { 0 } else { all };
        0o700 | also(0o040, 0o070) | also(0o004, 0o007)
    }

    /// What a new file gets, less what the process's umask takes.
    pub(super) fn new(readers: u32) -> Option<Permissions> {
        Some(Permissions::from_mode(0o666 & readers))
    }

    /// Gives a new file what the one that it replaces has.
    pub(super) fn keep(file: &File, replaced: &Metadata, readers: u32) -> io::Result<()> {
        let mut mode = replaced.permissions().mode() & readers;
        let moved = file.metadata()?.gid() != replaced.gid();
        if moved && fchown(file, None, Some(replaced.gid())).is_err() {
            // What was meant for one group is not for another.
            mode &= 0o707;
        }
        file.set_permissions(Permissions::from_mode(mode))
    }
}

#[cfg(not(unix))]
mod access {
    use std::{
        fs::{File, Metadata, Permissions},
        io,
    };

    use super::super::Input;

    pub(super) fn readers(_: &[&Input]) -> u32 {
        0o777
    }

    pub(super) fn new(_: u32) -> Option<Permissions> {
        None
    }

    pub(super) fn keep(_: &File, _: &Metadata, _: u32) -> io::Result<()> {
        Ok(())
    }
}
