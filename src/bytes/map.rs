//! Read-only memory maps, for the runner only: weights are used where they lie.
//!
//! A file that is cut short while it is mapped makes the system send SIGBUS to whoever touches the pages
//! that are gone. After [`survive_lost_pages`] that is no crash: its handler puts zeros where the page was and notes it, work goes
//! on to its next [`check`], and that says that the file changed. Wayland's shared-memory pools do the
//! same (wayland, src/wayland-shm.c: sigbus_handler).

#![allow(unsafe_code, reason = "mapping a file is unsafe by nature; this is the one place for it")]

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use memmap2::Mmap;

use super::Input;
use crate::error::{Error, Result};

/// Whether a page of some map was gone when it was touched.
static LOST: AtomicBool = AtomicBool::new(false);

/// Maps a whole input file. The caller keeps the map as long as it uses the bytes, and asks [`check`]
/// before it believes them.
///
/// # Errors
/// [`Error::Unsupported`] for inputs that are not files on disk, [`Error::Io`] where mapping fails.
pub fn map(input: &Input) -> Result<Mmap> {
    input.check_unchanged()?;
    // SAFETY: the map is read-only and private to this process. What somebody else writes to the file
    // shows in it, and bytes read from it are checked like bytes from any file. Pages that are gone end the
    // process, or are replaced by zeros: see `survive_lost_pages`.
    input.with_file(|file| unsafe { Mmap::map(file) })
}

/// Installs a handler of SIGBUS for the whole process: maps of files that are cut short then read as zeros,
/// and [`check`] says that the file changed. The command asks for it; a library's caller may have handlers of
/// its own, and without this one such a file ends the process.
pub fn survive_lost_pages() {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    lost_pages::survive();
}

/// Whether what was read from the map of `input` so far is what the file holds.
///
/// # Errors
/// [`Error::Changed`] where it was written to, [`Error::Io`] where the disk failed.
pub fn check(input: &Input) -> Result<()> {
    input.check_unchanged()?;
    match LOST.load(Ordering::Relaxed) {
        true => Err(Error::io(input.path(), "read", io::Error::other("the disk does not respond"))),
        false => Ok(()),
    }
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
mod lost_pages {
    use std::{
        ffi::{c_int, c_void},
        ptr,
        sync::{
            Once,
            atomic::{AtomicUsize, Ordering},
        },
    };

    static PAGE: AtomicUsize = AtomicUsize::new(4096);

    /// Takes SIGBUS from now on.
    ///
    /// Once for a process, however often it is asked.
    pub(super) fn survive() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            PAGE.store(rustix::param::page_size(), Ordering::Relaxed);
            // SAFETY: the action is made of zeros, which mean no flags and no blocked signals, and a
            // handler of the signature that SA_SIGINFO asks for.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus;
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
            }
        });
    }

    /// Puts a page of zeros where the system has none any more; anything else ends the process as it
    /// would have without a handler.
    extern "C" fn on_bus(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the system hands a valid `info` to a handler with SA_SIGINFO. Only system calls are
        // made. The page replaced is one that no file backs: nothing can be read from it otherwise.
        unsafe {
            let page = PAGE.load(Ordering::Relaxed);
            let at = ((*info).si_addr() as usize / page * page) as *mut c_void;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let is_gone = (*info).si_code == libc::BUS_ADRERR;
            if !is_gone || libc::mmap(at, page, libc::PROT_READ, flags, -1, 0) == libc::MAP_FAILED {
                libc::signal(signal, libc::SIG_DFL);
                return;
            }
        }
        super::LOST.store(true, Ordering::Relaxed);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_file_cut_short_is_no_crash() {
        survive_lost_pages();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![7; 1 << 16]).expect("writable");
        let input = Input::open(&path).expect("readable");
        let map = map(&input).expect("mappable");
        check(&input).expect("nothing happened yet");
        std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(100))
            .expect("can be cut");
        assert_eq!(map[40_000], 0, "what is gone reads as nothing");
        assert!(check(&input).expect_err("it changed").to_string().contains("changed while"));
    }
}
