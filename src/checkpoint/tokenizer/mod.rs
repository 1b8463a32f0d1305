//! Vocabularies as they were published beside weights, and as they are written there.

pub(crate) mod files;
pub(crate) mod given;
pub mod json;
pub mod sentencepiece;
pub mod tiktoken;
pub(crate) mod vocabulary;
