//! One program for every target: it runs the one that bears its own name.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};

mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let begun = clock();
    targets::named(env!("CARGO_BIN_NAME"))(bytes);
    assert!(clock() - begun < MOST_TIME, "took more than {} s", MOST_TIME / SECOND);
});

/// A second of [`clock`].
const SECOND: i64 = 1_000_000;
/// What an input may take: a second, and ten under a sanitizer (`SANITIZED=1` where the targets are built), which makes
/// all of it slower.
const MOST_TIME: i64 = if option_env!("SANITIZED").is_some() { 10 * SECOND } else { SECOND };

unsafe extern "C" {
    /// What this process has had of the processor: time by the wall also counts other processes.
    safe fn clock() -> i64;
}

/// The system's allocator, which ends the program where more is asked for than any input warrants;
/// libFuzzer itself watches only under a sanitizer.
struct Guarded;

const MOST: usize = 256 << 20;

fn check(size: usize) {
    if size > MOST {
        eprintln!("an allocation of {size} bytes");
        std::process::abort();
    }
}

#[global_allocator]
static GUARDED: Guarded = Guarded;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
}
