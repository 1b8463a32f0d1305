//! Whether a model is what it says: the tensors that its family asks for, sane numbers, a whole
//! vocabulary.

pub mod adapter;
pub mod numbers;
pub mod statistics;
pub mod structure;
pub mod vocabulary;
