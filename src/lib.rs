//! regguf brings historical ggml, ggmf, ggjt and GGUF model files forward.
//!
//! Layers, lower first; a layer uses only those before it:
//! `error limits size < bytes < format < quant < model < container, checkpoint < change, check, infer < cli`.
//!
//! Nothing that stands in a file may end the program: what could is an error to the compiler, but for
//! `quant` and `infer`, whose loops run over lengths that were checked where rows enter.

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

pub mod batch;
pub mod bytes;
pub mod change;
pub mod check;
pub mod checkpoint;
pub mod cli;
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
pub mod size;
