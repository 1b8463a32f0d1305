//! Whether a model is what it says: the tensors that its family asks for, sane numbers, a whole
//! vocabulary.

pub(crate) mod adapter;
pub(crate) mod numbers;
pub(crate) mod statistics;
pub mod structure;
pub mod vocabulary;
