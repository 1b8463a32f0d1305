//! regguf brings historical ggml, ggmf, ggjt and GGUF model files forward.
//!
//! ```no_run
//! use regguf::{Job, Writing, change::{report::Detail, upgrade}};
//!
//! fn main() -> regguf::error::Result<()> {
//!     // A file of any era, the first of a set, or the folder of a checkpoint.
//!     let model = regguf::open("ggml-model-q4_0.bin")?;
//!     for tensor in &model.tensors {
//!         println!("{} {:?} {}", tensor.name, tensor.shape, tensor.quant);
//!     }
//!     // Some weights as numbers: two rows of the first tensor.
//!     if let Some(tensor) = model.tensors.first() {
//!         println!("{:?}", model.decode(tensor, 0..2.min(tensor.rows()))?);
//!     }
//!     // Today's GGUF with the same weights: first the plan, then the file.
//!     let job = Job::upgrade(&model, &upgrade::Options::default())?;
//!     println!("{} will be written", job.plans()[0].output.display());
//!     for report in job.write(&Writing::default())? {
//!         println!("{}", report.text(Detail::Kinds, None));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! | to … | there is |
//! |---|---|
//! | open anything | [`open`], [`open_with`] |
//! | look at it | [`model::Model`]: tensors, metadata, vocabulary; [`model::Model::decode`] |
//! | make something of it | [`Job`]: upgrade, convert, quantize |
//! | check it | [`verify`], [`check::pair`] |
//! | run it | [`infer::Weights`], [`infer::Session`], [`infer::Tokenizer`] |
//! | do a folder of them | [`batch`] |
//!
//! Without its default feature `command` the library needs no clap, indicatif or ctrlc:
//! `regguf = { version = "0.2", default-features = false }`. It prints nothing, installs no handler of signals
//! (but see [`bytes::map::survive_lost_pages`]) and keeps no state of the process but for
//! [`bytes::replace::INTERRUPTED`], which ends every job with [`error::Error::Interrupted`].
//!
//! Options, limits and hints are plain structs with a `Default`: fields come with new versions, so name those that
//! matter and end with `..Default::default()`. What the library gives back (plans, reports, errors) and every enum that
//! may grow is `#[non_exhaustive]`.
//!
//! What is documented here is meant to be used; modules that are public and not shown are the workshop's, which its
//! tests reach into, and may change with every version.
//!
//! Layers, lower first; a layer uses only those before it:
//! `columns error remedy limits size < bytes < format < quant < model < container, checkpoint < change, check, infer < batch < api, cli`.
//!
//! Nothing in a file may end the program: what could is an error to the compiler, but for `quant` and `infer`,
//! whose loops run over lengths that were checked where rows enter.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )
)]
// Some functions serve the command alone; which those are changes with it.
#![cfg_attr(not(feature = "command"), allow(dead_code, reason = "what only the command calls"))]

pub(crate) mod api;
pub mod batch;
pub mod bytes;
pub mod change;
pub mod check;
pub mod checkpoint;
#[cfg(feature = "command")]
pub mod cli;
pub(crate) mod columns;
pub mod container;
pub mod error;
pub mod format;
#[allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "kernels over checked lengths"
)]
pub mod infer;
pub mod limits;
pub mod model;
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "kernels over checked lengths"
)]
pub mod quant;
pub mod remedy;
pub(crate) mod size;

pub use api::{Durability, Existing, Hints, Job, Proof, Writing, open, open_with, verify};
