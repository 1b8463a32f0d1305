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
