//! Which type each tensor gets, as llama-quantize chooses it: the mixes of the file types, and what a
//! size that was asked for makes of them.

pub mod ftype;
pub(crate) mod image;
pub mod mix;
mod names;
pub mod target_size;
