//! Who hears how work over bytes goes on.

/// Hears how work over bytes goes on.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// /// Counts the bytes.
/// #[derive(Default)]
/// struct Count(AtomicU64);
///
/// impl regguf::bytes::Progress for Count {
///     fn advance(&self, bytes: u64) {
///         self.0.fetch_add(bytes, Ordering::Relaxed);
///     }
/// }
/// ```
///
/// Called from any thread, often: it must be quick.
pub trait Progress: Sync {
    /// N bytes are to come, beside those that were said before.
    fn total(&self, bytes: u64) {
        let _ = bytes;
    }
    /// `bytes` more have been read or written.
    fn advance(&self, bytes: u64);
}

/// Nobody listens.
impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}
