//! Descriptions of every format that ever lived, embedded from `formats/` and parsed once.

pub mod arithmetic;
pub mod block;
pub mod catalog;
pub mod container;
pub(crate) mod explain;
pub mod family;
pub mod foreign;
pub mod loader;
pub mod mixture;
mod names;
pub mod projector;
pub mod schema;
pub mod vocabulary;
