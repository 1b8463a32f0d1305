//! The files that this process reads, so that none of them is ever written to.
//!
//! Every [`super::Input`] that is opened is noted here, and every target is looked up here: a verb cannot
//! forget one of its inputs. What is only looked at ([`super::open_regular`]) is no input. A process that
//! serves one call, as the command does, turns this on with [`watch`]; others pass their inputs along.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

static WATCHING: AtomicBool = AtomicBool::new(false);
/// Files by their identity, each with a path that led to it.
static READ: Mutex<BTreeMap<Id, PathBuf>> = Mutex::new(BTreeMap::new());
/// Permissions that every one of them grants.
static SHARED: AtomicU32 = AtomicU32::new(0o777);

/// What a file is, whatever it is called: its place on its disk, or its only full path.
#[cfg(unix)]
type Id = (u64, u64);
#[cfg(not(unix))]
type Id = PathBuf;

/// From now on every file that is opened as an input stays one until the process ends.
pub fn watch() {
    WATCHING.store(true, Ordering::Relaxed);
}

/// Notes that `path` is an input, also where nothing has opened it yet.
pub fn note(path: &Path) {
    if let Ok(metadata) = path.metadata() {
        opened(path, &metadata);
    }
}

/// Notes a file that was opened.
pub(super) fn opened(path: &Path, metadata: &Metadata) {
    if !WATCHING.load(Ordering::Relaxed) {
        return;
    }
    SHARED.fetch_and(permissions(metadata), Ordering::Relaxed);
    if let Some(id) = id(path, metadata) {
        let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(id, path.to_owned());
    }
}

/// Whether writing to `target` would write to an input: by the same name or another, through links, in
/// other spelling.
pub(super) fn holds(target: &Path) -> bool {
    let Some(wanted) = target.metadata().ok().and_then(|metadata| id(target, &metadata)) else {
        return false;
    };
    let read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    // An input that was removed meanwhile may have left its identity to a file that is none.
    let still =
        |path: &PathBuf| path.metadata().ok().and_then(|m| id(path, &m)).as_ref() == Some(&wanted);
    read.get(&wanted).is_some_and(still)
}

/// Permissions that all inputs so far have.
#[cfg(unix)]
pub(super) fn shared() -> u32 {
    SHARED.load(Ordering::Relaxed)
}

/// Device and inode: what hard links share and copies do not.
#[cfg(unix)]
fn id(_: &Path, metadata: &Metadata) -> Option<Id> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn id(path: &Path, _: &Metadata) -> Option<Id> {
    path.canonicalize().ok()
}

/// Whether two looks at a path met the same file, where the system can tell.
pub(super) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    #[cfg(unix)]
    {
        id(Path::new(""), one) == id(Path::new(""), other)
    }
    #[cfg(not(unix))]
    {
        let _ = (one, other);
        true
    }
}

/// The permissions of a file as bits; all of them where the system has none.
pub(super) fn permissions(metadata: &Metadata) -> u32 {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        metadata.permissions().mode() & 0o777
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        0o777
    }
}
