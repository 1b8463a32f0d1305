//! Descriptions of every format that ever lived, embedded from `formats/` and parsed once.

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
pub(crate) mod schema;
pub(crate) mod vocabulary;

pub use schema::Lived;
