//! Checkpoints as they were published: what lies in a model directory beside and inside the weights.

pub mod sentencepiece;
pub mod tokenizer_json;
