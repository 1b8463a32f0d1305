//! Temporary files beside their targets, and what killed processes left of them.
//!
//! A partial file is named `.regguf-HOST.PID-….partial` after the process that writes it, which holds the
//! system's lock on it for as long as it lives. One that can be locked has no writer any more, unless it
//! is of another machine: where locks do not reach that far, only a day without a write tells.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use tempfile::NamedTempFile;

use super::open_regular;

const PREFIX: &str = ".regguf-";
const SUFFIX: &str = ".partial";
/// How long another machine may leave its file alone.
const SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// This machine, where the system says its name.
static HOST: LazyLock<String> = LazyLock::new(|| {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect()
});

/// Whether a file is a partial one by its name.
pub fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// Makes a partial file in a folder, locked.
pub(super) fn create(
    folder: &Path,
    permissions: Option<&Permissions>,
) -> io::Result<NamedTempFile> {
    let prefix = format!("{PREFIX}{}.{}-", *HOST, std::process::id());
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX);
        if let Some(permissions) = permissions {
            builder.permissions(permissions.clone());
        }
        let temp = builder.tempfile_in(folder)?;
        // Says that the file has a living writer; whoever took it for a leftover just before has
        // removed its name. File systems without locks have no such visitors either.
        let _ = temp.as_file().lock();
        if temp.path().exists() {
            return Ok(temp);
        }
    }
}

/// Removes what dead processes left in a folder; what cannot be removed stays. Looks at each folder once.
pub(super) fn remove_dead(folder: &Path) {
    static SEEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if !SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned()) {
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| is_partial(p)) {
        if open_regular(&path).is_ok_and(|file| is_dead(&path, &file)) {
            // The lock is free again by now, but nobody takes up another process's partial file.
            let _ = fs::remove_file(&path);
        }
    }
}

/// Whether nobody writes a partial file any more.
///
/// ```text
/// lock free      of this machine      dead: its writer would hold it
/// lock free      of another           dead after a day without a write: its lock may not reach here
/// lock held                           alive
/// no locks here  of this machine      dead where no process has the number in its name
/// ```
fn is_dead(path: &Path, file: &File) -> bool {
    let owner = owner(path);
    let is_near = owner.as_ref().is_none_or(|(host, _)| *host == *HOST);
    match file.try_lock() {
        Ok(()) => is_near || is_silent(file),
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => owner.is_some_and(|(_, pid)| is_near && !is_alive(pid)),
    }
}

/// The machine and process that a partial file is named after.
fn owner(path: &Path) -> Option<(String, i32)> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let (host, rest) = name.split_once('.')?;
    let (pid, _) = rest.split_once('-')?;
    Some((host.to_owned(), pid.parse().ok()?))
}

/// Whether nothing was written to it for a day.
fn is_silent(file: &File) -> bool {
    let written = file.metadata().and_then(|metadata| metadata.modified());
    written.is_ok_and(|at| at.elapsed().is_ok_and(|since| since > SILENCE))
}

/// Whether there is a process with this number, whoever's it is.
#[cfg(unix)]
fn is_alive(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return false };
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

#[cfg(not(unix))]
fn is_alive(_: i32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_without_a_writer_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "half a model").expect("writable");
            path
        };
        let dead = [put(".regguf-dead.partial"), put(&format!(".regguf-{}.1-x.partial", *HOST))];
        let (far, other) = (put(".regguf-elsewhere!.1-x.partial"), put(".regguf.partial.txt"));
        let living = create(folder.path(), None).expect("begun");
        remove_dead(folder.path());
        assert!(dead.iter().all(|path| !path.exists()));
        assert!(far.exists() && other.exists() && living.path().exists());
        let long_ago = std::time::SystemTime::now() - 2 * SILENCE;
        let file = File::options().write(true).open(&far).expect("there");
        file.set_modified(long_ago).expect("settable");
        assert!(is_dead(&far, &file));
    }
}
