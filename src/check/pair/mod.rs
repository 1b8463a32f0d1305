//! Two models held against each other: weights, metadata and vocabularies, and what they say of a text.

pub mod compare;
pub(crate) mod orders;
pub(crate) mod page;
pub mod prove;
pub mod readings;
pub(crate) mod report;
pub mod scrambled;
