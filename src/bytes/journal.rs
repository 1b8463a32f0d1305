//! Changes inside a file that are whole or not there at all, also where the process is killed.
//!
//! A file is only ever written to in place through here, and only where a person asked for that. Both the
//! bytes that are there and those that will are first put into a journal beside the file, under its
//! name between `.` and `.regguf-journal`. As long as the journal is there, the change may be half done:
//! readers refuse the file ([`check`]), and [`finish`] completes it. The journal goes when the new bytes are
//! on the disk.
//!
//! | bytes | what |
//! |---|---|
//! | 17 | `MAGIC` |
//! | 8, 8, 8 | length of the file, where the change begins, its length n; little-endian |
//! | n, n | the bytes before and after |
//! | 32 | SHA-256 of all before |
//!
//! ```text
//! journal written and flushed   file as it was        killed here: the file is whole, `finish` writes the new bytes
//! new bytes written             file half or whole    killed here: `finish` writes them again
//! file flushed, journal gone    file as it will be
//! ```

use crate::bytes::replace::Existing;
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::replace::{folder_of, sync, write_all_at, write_small};
use crate::error::{Error, Result};
use crate::remedy::Call;

const MAGIC: &[u8; 17] = b"regguf-journal-1\n";
const SUFFIX: &str = ".regguf-journal";
const SUM: usize = 32;

/// What is at `at` of a file, and what will.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    /// The length of the file.
    len: u64,
    at: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// Replaces the bytes `before` at `at` of the file `path`, which is `len` bytes long, with as many others.
///
/// # Errors
/// Where the file is not as it is said to be, is open for writing elsewhere, or cannot be written.
pub fn rewrite(path: &Path, len: u64, at: u64, before: &[u8], after: &[u8]) -> Result<()> {
    let change = Change { len, at, before: before.to_vec(), after: after.to_vec() };
    let file = open(path)?;
    if before.len() != after.len() || read(&file, path, &change)? != before {
        let what = format!("{}: changed while the edit was prepared", path.display());
        return Err(Error::refused(what, "run again when nothing else writes to it"));
    }
    let journal = place(path)?;
    write_small(&journal, &change.bytes(), Existing::Keep)?;
    change.complete(&file, path, &journal)
}

/// Completes the change that a killed process began in the file `path`; whether there was one.
///
/// # Errors
/// Where the file is none of what the journal knows, or cannot be written.
pub fn finish(path: &Path) -> Result<bool> {
    let Some(journal) = pending(path) else { return Ok(false) };
    let file = open(path)?;
    let bytes = fs::read(&journal).map_err(|e| Error::io(&journal, "read", e))?;
    let other = || {
        let what = format!("{}: is not the file that {} is of", path.display(), journal.display());
        Err(Error::refused(what, "remove the journal to keep the file as it is"))
    };
    let Some(change) = Change::parse(&bytes) else { return other() };
    let there = read(&file, path, &change)?;
    let known = |((now, before), after)| now == before || now == after;
    if there.len() != change.before.len()
        || !there.iter().zip(&change.before).zip(&change.after).all(known)
    {
        return other();
    }
    change.complete(&file, path, &journal)?;
    Ok(true)
}

/// Refuses a file in which a change is half done.
///
/// # Errors
/// [`Error::Refused`] with the call that completes it.
pub fn check(path: &Path) -> Result<()> {
    if pending(path).is_none() {
        return Ok(());
    }
    let shown = path.display();
    let what = format!("{shown}: an edit in place was cut short");
    Err(Error::refused(what, Call::Metadata.on(shown.to_string()).to("complete it")))
}

/// The journal of a file, where there is one.
fn pending(path: &Path) -> Option<PathBuf> {
    place(path).ok().filter(|journal| journal.is_file())
}

/// Where the journal of a file is, by whatever name the file is called.
fn place(path: &Path) -> Result<PathBuf> {
    let real = path.canonicalize().map_err(|e| Error::io(path, "open", e))?;
    let mut name = std::ffi::OsString::from(".");
    name.push(real.file_name().unwrap_or_default());
    name.push(SUFFIX);
    Ok(real.with_file_name(name))
}

/// Opens a file to write in it, which no other process may do meanwhile.
fn open(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(|e| Error::io(path, "open for writing", e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let what = format!("{}: another process edits it", path.display());
            Err(Error::refused(what, "run again when it is done"))
        }
        // Not every file system knows locks.
        _ => Ok(file),
    }
}

/// What is there now, where a change goes; nothing where the file has another length.
fn read(file: &File, path: &Path, change: &Change) -> Result<Vec<u8>> {
    let failed = |e: io::Error| Error::io(path, "read", e);
    if file.metadata().map_err(failed)?.len() != change.len {
        return Ok(Vec::new());
    }
    let mut there = vec![0; change.before.len()];
    super::input::read_exact_at(file, change.at, &mut there).map_err(failed)?;
    Ok(there)
}

impl Change {
    /// The bytes of a journal.
    fn bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for number in [self.len, self.at, self.before.len() as u64] {
            out.extend(number.to_le_bytes());
        }
        out.extend(&self.before);
        out.extend(&self.after);
        let sum = Sha256::digest(&out);
        out.extend(sum);
        out
    }

    /// Reads them; none where they are cut, damaged or of another version.
    fn parse(bytes: &[u8]) -> Option<Change> {
        let (said, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
        (Sha256::digest(said).as_slice() == sum).then_some(())?;
        let mut rest = said.strip_prefix(MAGIC)?;
        let mut number = || {
            let (first, others) = rest.split_first_chunk()?;
            rest = others;
            Some(u64::from_le_bytes(*first))
        };
        let (len, at, n) = (number()?, number()?, usize::try_from(number()?).ok()?);
        let (before, after) = rest.split_at_checked(n)?;
        (after.len() == n && at.checked_add(n as u64)? <= len).then_some(())?;
        Some(Change { len, at, before: before.to_vec(), after: after.to_vec() })
    }

    /// Writes the new bytes and, when they are on the disk, removes the journal.
    fn complete(&self, file: &File, path: &Path, journal: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::io(path, "write", e);
        write_all_at(file, self.at, &self.after).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::remove_file(journal).map_err(|e| Error::io(journal, "remove", e))?;
        sync(folder_of(journal));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a journal, as a process leaves it that is killed after `written` bytes of the new.
    fn killed(written: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.gguf");
        let change = Change { len: 12, at: 3, before: b"before".into(), after: b"after!".into() };
        fs::write(
            place(&path).unwrap_or(folder.path().join(".a.gguf.regguf-journal")),
            change.bytes(),
        )
        .expect("writable");
        let mut bytes = b"...before...".to_vec();
        bytes[3..3 + written].copy_from_slice(&b"after!"[..written]);
        fs::write(&path, bytes).expect("writable");
        (folder, path)
    }

    #[test]
    fn a_change_is_completed_from_wherever_it_was_left() {
        for written in 0..=6 {
            let (folder, path) = killed(written);
            assert!(check(&path).is_err());
            assert!(finish(&path).expect("completed"));
            assert_eq!(fs::read(&path).expect("there"), b"...after!...");
            assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1);
            assert!(check(&path).is_ok() && !finish(&path).expect("nothing to do"));
        }
    }

    #[test]
    fn a_file_that_became_another_stays_as_it_is() {
        let (_folder, path) = killed(2);
        for other in ["...something", "longer than it was", ""] {
            fs::write(&path, other).expect("writable");
            assert!(finish(&path).is_err() && check(&path).is_err());
            assert_eq!(fs::read(&path).expect("there"), other.as_bytes());
        }
        let (folder, path) = killed(2);
        let journal = folder.path().join(".a.gguf.regguf-journal");
        let mut bytes = fs::read(&journal).expect("there");
        bytes[50] ^= 1;
        fs::write(&journal, bytes).expect("writable");
        assert!(finish(&path).is_err());
    }

    #[test]
    fn only_what_is_there_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        fs::write(&path, "...before...").expect("writable");
        assert!(rewrite(&path, 12, 3, b"beforf", b"after!").is_err());
        assert!(rewrite(&path, 13, 3, b"before", b"after!").is_err());
        rewrite(&path, 12, 3, b"before", b"after!").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"...after!...");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1);
    }
}
