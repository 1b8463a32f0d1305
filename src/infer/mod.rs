//! Runs any model whose family says what is computed, old or new, in plain float32.
//!
//! [`Weights`] points at a model's tensors where they lie in the mapped files; [`Session`] evaluates
//! tokens against them and keeps keys and values; [`Tokenizer`] turns text into tokens and back.
//! Every number is computed in one fixed order, whatever the threads: two files with the same weights
//! give the same bits. Several tokens at once do so whatever types hold the weights; one token alone is
//! summed otherwise where those are K-quants ([`whole`]).
//!
//! ```text
//! tokens -> embedding -> [norm -> attention -> +] [norm -> feed-forward -> +] ..layers.. -> norm -> output -> logits
//!
//! config      sizes and choices, from GGUF's keys and the family's `[arithmetic]`
//! finder      tensors by role, as matrices and vectors; weights holds them
//! forward     the line above; layer/* are its parts; cache is what one token leaves to the next
//! matrix      rows times vectors, which chooses by type and number of vectors between
//!               whole, fused    one vector: rows decoded in registers
//!               panel           several: rows decoded once for all
//!               rounded         activations of eight bits, as llama.cpp rounds them
//! functions, rope, dot          exponentials, angles and sums with the same bits on every machine
//! tokenizer, template, sample   text in, text out
//! ```
//!
//! What differs between families is a value of [`Config`] or an optional tensor; no function asks for a family's name.

pub(crate) mod awake;
mod buffer;
pub(crate) mod cache;
pub(crate) mod config;
#[doc(hidden)]
pub mod dot;
mod finder;
pub(crate) mod forward;
pub(crate) mod functions;
#[doc(hidden)]
pub mod fused;
mod imatrix;
pub(crate) mod layer;
pub(crate) mod matrix;
pub(crate) mod numbers;
pub(crate) mod outputs;
#[doc(hidden)]
pub mod panel;
pub mod perplexity;
pub(crate) mod rope;
mod rounded;
pub(crate) mod sample;
pub(crate) mod template;
#[cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_sign_loss))]
pub mod tokenizer;
pub(crate) mod weights;
#[doc(hidden)]
pub mod whole;

pub use config::{Config, Position, Routing};
pub use forward::{Session, Want};
pub use matrix::Precision;
pub use outputs::{Outputs, Perplexity};
pub use sample::{Sampler, Sampling};
pub use template::Template;
pub use tokenizer::{Special, Tokenizer};
pub use weights::Weights;
