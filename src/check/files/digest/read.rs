//! Files read for their digests: one read feeds several of them, and many files keep every core busy.
//!
//! A file is read with plain positioned-forward reads, never mapped: a download that another program
//! is still writing, or cuts short, then ends in [`Outcome::Changed`] and not in a signal. With more
//! than one thread to spare, a reader fills buffers ahead while each digest runs on its own thread:
//!
//! ```text
//! reader ──buffer──▶ md5     ┐ every buffer is shared, counted,
//!        ──buffer──▶ sha256  ┘ and goes back to the reader when all have seen it
//! ```
//!
//! Memory is `RING` buffers of `BUFFER_BYTES` per file in flight, whatever the size of the file.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use super::{Algorithm, Digest, Hasher};
use crate::bytes::{open_regular, replace::check_interrupt};

/// Bytes of one buffer: large enough that channel traffic is nothing, small enough for a cache.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers between a reader and its digests.
const RING: usize = 6;

/// What came of reading one file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The file was read whole and stayed as it was.
    Read {
        /// Its size.
        size: u64,
        /// A digest per algorithm asked for.
        digests: BTreeMap<Algorithm, Digest>,
    },
    /// The file's size or time of modification changed while it was read.
    Changed,
    /// The file could not be opened or read.
    Failed(io::Error),
}

/// What identifies one state of a file: its length and when it was last written.
fn stamp(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

/// Digests one file with up to `threads` threads; `progress` hears of bytes as they are read.
pub fn file(
    path: &Path,
    algorithms: &[Algorithm],
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Outcome {
    file_watched(path, algorithms, threads, progress, &mut |_| ())
}

/// Digests one file as [`file()`] does, and shows `watch` its bytes in order, in pieces of 256 KiB or more
/// but for the last.
pub fn file_watched(
    path: &Path,
    algorithms: &[Algorithm],
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
    watch: &mut dyn FnMut(&[u8]),
) -> Outcome {
    match read(path, algorithms, threads, &mut |bytes| {
        watch(bytes);
        progress(bytes.len() as u64);
    }) {
        Ok(Some((size, digests))) => Outcome::Read { size, digests },
        Ok(None) => Outcome::Changed,
        Err(error) => Outcome::Failed(error),
    }
}

/// One for each algorithm that was asked for.
type Digests = BTreeMap<Algorithm, Digest>;

/// Size and digests; none where the file changed under the reading.
///
/// ```text
/// stamp before  ->  bytes to the end  ->  stamp after      size, time and count of bytes must agree
/// ```
fn read(
    path: &Path,
    algorithms: &[Algorithm],
    threads: usize,
    watch: &mut dyn FnMut(&[u8]),
) -> io::Result<Option<(u64, Digests)>> {
    let mut file = open_regular(path)?;
    let before = file.metadata()?;
    let size = before.len();
    advise_sequential(&file);
    let hashers = || algorithms.iter().map(|&a| Hasher::new(a, size)).collect();
    // One digest is not faster beside a reader: what that one fetched lies in the cache of another core, and
    // the system reads ahead by itself.
    let alone = threads < 2 || algorithms.len() < 2 || size <= 2 * BUFFER_BYTES as u64;
    let ahead = if alone { None } else { read_ahead(&mut file, hashers(), watch)? };
    let (total, digests) = match ahead {
        Some(read) => read,
        None => read_alone(&mut file, hashers(), watch)?,
    };
    let after = file.metadata()?;
    if total != size || stamp(&before) != stamp(&after) {
        return Ok(None);
    }
    Ok(Some((size, digests.into_iter().map(|d| (d.algorithm, d)).collect())))
}

/// Tells the system that the file is read from front to back, so that it reads further ahead.
fn advise_sequential(file: &File) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // Only advice: a file system that does not take it is read all the same.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = file;
}

/// Fills as much of `buffer` as the file still has, unless somebody asks for the end.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    check_interrupt().map_err(io::Error::other)?;
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Reads a piece and feeds it to one digest after the other, in one thread.
fn read_alone(
    file: &mut File,
    mut hashers: Vec<Hasher>,
    watch: &mut dyn FnMut(&[u8]),
) -> io::Result<(u64, Vec<Digest>)> {
    // A quarter of a buffer stays in the second-level cache between the copy and the digests.
    let mut buffer = vec![0; BUFFER_BYTES / 4];
    let mut total = 0;
    loop {
        let filled = fill(file, &mut buffer)?;
        let bytes = buffer.get(..filled).unwrap_or_default();
        for hasher in &mut hashers {
            hasher.update(bytes);
        }
        total += filled as u64;
        watch(bytes);
        if filled < buffer.len() {
            return Ok((total, hashers.into_iter().map(Hasher::finish).collect()));
        }
    }
}

/// A buffer in flight: the bytes and how many of them are filled.
type Shared = Arc<(Vec<u8>, usize)>;

/// Reads and digests at once; nothing, and nothing read, where the system gives no thread for it.
fn read_ahead(
    file: &mut File,
    hashers: Vec<Hasher>,
    watch: &mut dyn FnMut(&[u8]),
) -> io::Result<Option<(u64, Vec<Digest>)>> {
    // Room for every buffer from every lane: giving back never waits, so no two sides can wait for each other.
    let (give_back, returned) = sync_channel::<Shared>(RING * hashers.len().max(1));
    thread::scope(|scope| {
        let mut lanes: Vec<SyncSender<Shared>> = Vec::new();
        let mut workers = Vec::new();
        for mut hasher in hashers {
            let (lane, buffers) = sync_channel::<Shared>(RING);
            let give_back = give_back.clone();
            lanes.push(lane);
            let worker = thread::Builder::new().spawn_scoped(scope, move || {
                for shared in buffers {
                    hasher.update(shared.0.get(..shared.1).unwrap_or_default());
                    // The reader is gone only after an error, and then nobody needs the buffer.
                    let _ = give_back.send(shared);
                }
                hasher.finish()
            });
            let Ok(worker) = worker else { return Ok(None) };
            workers.push(worker);
        }
        drop(give_back);
        let total = feed(file, &lanes, &returned, watch);
        drop(lanes);
        let digests: io::Result<Vec<Digest>> =
            workers.into_iter().map(|w| w.join().map_err(|_| broken())).collect();
        Ok(Some((total?, digests?)))
    })
}

/// The error where a thread of digests has ended before its file.
fn broken() -> io::Error {
    io::Error::other("a digest thread stopped")
}

/// Reads the file into at most [`RING`] buffers and hands each to every lane.
fn feed(
    file: &mut File,
    lanes: &[SyncSender<Shared>],
    returned: &Receiver<Shared>,
    watch: &mut dyn FnMut(&[u8]),
) -> io::Result<u64> {
    let mut made = 0;
    let mut total = 0;
    loop {
        let mut buffer = if made < RING {
            made += 1;
            vec![0; BUFFER_BYTES]
        } else {
            free_buffer(returned)?
        };
        let filled = fill(file, &mut buffer)?;
        let last = filled < buffer.len();
        let shared: Shared = Arc::new((buffer, filled));
        for lane in lanes {
            lane.send(Arc::clone(&shared)).map_err(|_| broken())?;
        }
        total += filled as u64;
        watch(shared.0.get(..filled).unwrap_or_default());
        if last {
            return Ok(total);
        }
    }
}

/// Waits for a buffer that every lane has given back: the last of its counts arrives here.
fn free_buffer(returned: &Receiver<Shared>) -> io::Result<Vec<u8>> {
    loop {
        let shared = returned.recv().map_err(|_| broken())?;
        if let Ok((buffer, _)) = Arc::try_unwrap(shared) {
            return Ok(buffer);
        }
    }
}

/// Runs `work` on every item with up to `threads` threads, the largest first, and returns the
/// results in the items' order. `work` also gets how many threads it may use for itself.
pub fn spread<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    size: impl Fn(&T) -> u64,
    work: impl Fn(&T, usize) -> R + Sync,
) -> Vec<R> {
    let threads = threads.max(1);
    let workers = threads.min(items.len()).max(1);
    // 8 threads and 3 files: 3 files at once, 2 threads in each.
    let lanes = threads / workers;
    let mut order: Vec<usize> = (0..items.len()).collect();
    // The largest first: begun last, it would be read alone at the end.
    order.sort_by_key(|&i| std::cmp::Reverse(items.get(i).map_or(0, &size)));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(item) = items.get(i) else { continue };
            let result = work(item, lanes);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            // What the system gives no thread for, this one does.
            let _ = thread::Builder::new().spawn_scoped(scope, run);
        }
        run();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    // They came in the order in which they were done.
    results.sort_by_key(|&(i, _)| i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn digests(bytes: &[u8], threads: usize) -> Vec<String> {
        let mut temp = tempfile::NamedTempFile::new().expect("a temporary file");
        temp.write_all(bytes).expect("room for it");
        let all = [Algorithm::Md5, Algorithm::Sha1, Algorithm::GitBlob, Algorithm::Sha256];
        let read = std::sync::atomic::AtomicU64::new(0);
        let outcome = file(temp.path(), &all, threads, &|n| {
            read.fetch_add(n, Ordering::Relaxed);
        });
        assert_eq!(read.into_inner(), bytes.len() as u64);
        let Outcome::Read { size, digests } = outcome else { panic!("not read: {outcome:?}") };
        assert_eq!(size, bytes.len() as u64);
        digests.into_values().map(|d| d.hex).collect()
    }

    #[test]
    fn known_digests_of_abc() {
        // From RFC 1321, FIPS 180 and `git hash-object`.
        let expected = [
            "900150983cd24fb0d6963f7d28e17f72",
            "a9993e364706816aba3e25717850c26c9cd0d89d",
            "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ];
        assert_eq!(digests(b"abc", 1), expected);
        assert_eq!(digests(b"abc", 4), expected);
    }

    #[test]
    fn threads_do_not_change_digests() {
        for extra in [0, 1, BUFFER_BYTES - 1] {
            let bytes: Vec<u8> =
                (0..9 * BUFFER_BYTES + extra).map(|i| (i * 31 % 251) as u8).collect();
            assert_eq!(digests(&bytes, 1), digests(&bytes, 4), "{extra}");
        }
    }

    #[test]
    fn a_file_that_grows_or_shrinks_is_reported() {
        for threads in [1, 3] {
            for new_length in [1 << 20, 30 << 20] {
                let temp = tempfile::NamedTempFile::new().expect("a temporary file");
                temp.as_file().set_len(20 << 20).expect("room for it");
                let changed = file(temp.path(), &[Algorithm::Sha256], threads, &|_| {
                    temp.as_file().set_len(new_length).expect("still writable");
                });
                assert!(matches!(changed, Outcome::Changed), "{changed:?}");
            }
        }
    }

    #[test]
    fn results_keep_the_order_of_items() {
        let items: Vec<u64> = (0..50).collect();
        let doubled = spread(&items, 4, |&n| n, |&n, _| n * 2);
        assert_eq!(doubled, items.iter().map(|n| n * 2).collect::<Vec<_>>());
    }
}
