//! Partial files of processes that were killed.
//!
//! A writer holds the system's lock on its temporary file for as long as it lives, so a temporary file
//! that can be locked has no writer any more.

use std::fs::{self, File};
use std::path::Path;

use crate::bytes::replace::is_partial;

/// Removes the partial files of dead processes from a folder; what cannot be removed stays.
pub fn remove(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| is_partial(p)) {
        let dead = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if dead {
            // The lock is free again by now, but nobody takes up another process's partial file.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Replace;

    #[test]
    fn only_files_without_a_writer_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let dead = folder.path().join(".regguf-dead.partial");
        fs::write(&dead, "half a model").expect("writable");
        let living = Replace::begin(&folder.path().join("out"), 1, false, &[]).expect("begun");
        remove(folder.path());
        assert!(!dead.exists());
        assert!(living.temp_path().exists());
        living.commit().expect("still there");
    }
}
