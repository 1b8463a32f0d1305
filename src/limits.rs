//! What an unknown file may ask of us before it is refused.

/// Bounds on counts and sizes that a file states about itself. The defaults hold every published model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tensors in one file.
    pub tensors: u64,
    /// Tokens in a vocabulary, entries in a metadata array; of numbers narrower than eight bytes as many
    /// more as fill the same bytes.
    pub array: u64,
    /// Tokens, or merges, in a tokenizer's own file.
    pub tokens: u64,
    /// Key-value pairs in a metadata section.
    pub keys: u64,
    /// Bytes in one stored string (chat templates are the longest).
    pub string: u64,
    /// Bytes of all metadata together.
    pub metadata: u64,
}

impl Limits {
    /// The bounds in force.
    pub const DEFAULT: Limits = Limits {
        tensors: 1 << 20,
        array: 1 << 22,
        tokens: 1 << 19,
        keys: 1 << 16,
        string: 16 << 20,
        metadata: 256 << 20,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}
