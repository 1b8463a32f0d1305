//! Descriptions of every format that ever lived, embedded from `formats/` and parsed once.
//!
//! | folder | what it describes | module |
//! |---|---|---|
//! | `container` | how a file is recognised and walked | [`container`], its records in `records` |
//! | `family` | what header words, keys and tensor names mean | [`family`], [`arithmetic`] |
//! | `block` | the bytes of a block of weights, by type and dialect | [`block`] |
//! | `foreign` | types of other programs | [`foreign`] |
//! | `loader` | what llama.cpp asks of each architecture | `loader` |
//! | `mixture` | which tensors of image models are quantized | `mixture` |
//! | `projector` | vision tensors in the file of their model | `projector` |
//! | `vocabulary` | published vocabularies whose bytes some files lost | `vocabulary` |
//!
//! A fact about a format stands in one of these files, once; code asks for it by name. A description that breaks a rule
//! of its own fails the tests, not a user.

pub mod arithmetic;
pub mod block;
pub mod catalog;
pub mod container;
pub(crate) mod explain;
pub mod family;
pub mod foreign;
pub(crate) mod loader;
pub(crate) mod mixture;
mod names;
pub(crate) mod projector;
mod records;
pub(crate) mod schema;
pub(crate) mod vocabulary;

pub use schema::Lived;
