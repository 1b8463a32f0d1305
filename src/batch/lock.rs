//! One writer per output: a lock file beside it, held by the operating system's lock.
//!
//! The system lets go of the lock when the process ends, however it ends, so a killed batch blocks
//! nobody. The file's name is removed while the lock is held; whoever was waiting for it then sees
//! that the file it locked is no longer the one of that name, and starts over.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The right to write one output, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of `output`, or returns `None` where another process has it.
    ///
    /// # Errors
    /// Where the lock file cannot be made.
    pub fn try_take(output: &Path) -> Result<Option<Self>> {
        Self::take_with(output, |file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// Waits for the lock of `output`.
    ///
    /// # Errors
    /// Where the lock file cannot be made.
    pub fn wait(output: &Path) -> Result<Self> {
        loop {
            if let Some(lock) = Self::take_with(output, |file| file.lock().map(|()| true))? {
                return Ok(lock);
            }
        }
    }

    /// Opens the lock's file and locks it with `lock`; again where another run has removed the file meanwhile.
    fn take_with(output: &Path, lock: impl Fn(&File) -> io::Result<bool>) -> Result<Option<Self>> {
        let path = lock_path(output);
        loop {
            let file = open(&path).map_err(|error| Error::io(&path, "create", error))?;
            if !lock(&file).map_err(|error| Error::io(&path, "lock", error))? {
                return Ok(None);
            }
            if is_still(&file, &path) {
                return Ok(Some(Self { path, _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is held; a file that stays behind is harmless.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The lock file of an output, hidden beside it.
pub fn lock_path(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!(".{name}.lock"))
}

/// Opens a lock file, or makes it. What is no file is refused, and without waiting: a pipe would wait for
/// its reader.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let no_file = || io::Error::other("it is a pipe or a device: remove it");
    match options.open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(no_file()),
        Err(_) if path.metadata().is_ok_and(|there| !there.is_file()) => Err(no_file()),
        Err(error) => Err(error),
    }
}

/// Whether the file of this name is the one that was locked.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |m: &std::fs::Metadata| (m.dev(), m.ino());
    matches!((file.metadata(), path.metadata()), (Ok(held), Ok(named)) if id(&held) == id(&named))
}

#[cfg(not(unix))]
fn is_still(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_one_holds_it_and_it_is_gone_afterwards() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("model.gguf");
        let lock = Lock::try_take(&output).expect("possible").expect("free");
        assert!(Lock::try_take(&output).expect("possible").is_none());
        drop(lock);
        assert!(!lock_path(&output).exists());
        assert!(Lock::try_take(&output).expect("possible").is_some());
    }

    #[test]
    fn many_waiters_never_meet() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("model.gguf");
        let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = Lock::wait(&output).expect("possible");
                        let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
    }
}
