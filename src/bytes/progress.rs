//! Who hears how work over bytes goes on.

/// Hears how work over bytes goes on.
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
