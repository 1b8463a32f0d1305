//! Bytes without meaning: inputs that are only ever read, a checked reader, an atomic writer.
//!
//! Bulk reads use positioned reads, not a memory map: a file that shrinks is then an error
//! ([`crate::error::Error::Changed`]) and not a signal, and resident memory stays at the buffers' size.
//! Only the reference runner maps weights ([`map`]).

pub(crate) mod input;
pub(crate) mod inputs;
pub(crate) mod journal;
pub mod map;
pub(crate) mod paged;
pub(crate) mod partial;
pub(crate) mod progress;
pub mod replace;
pub(crate) mod source;
pub(crate) mod sums;

pub use input::{Input, open_regular, read_stdin, read_text};
pub use paged::Paged;
pub use progress::Progress;
pub use replace::Replace;
pub use source::{ByteOrder, Source};
pub use sums::Sum;

/// Two digits a byte, in lower case: how digests are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).map_or('?', |&d| char::from(d));
    bytes.iter().flat_map(|&b| [digit(b >> 4), digit(b & 15)]).collect()
}
