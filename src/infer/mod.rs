//! Runs any LLaMA-family model that can be read, old or new, in plain float32.

pub mod tokenizer;
