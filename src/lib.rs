//! regguf brings historical ggml, ggmf, ggjt and GGUF model files forward.
//!
//! Layers, lower first; a layer uses only those before it:
//! `error limits size < bytes < format < quant < model < container, checkpoint < change, check, infer < cli`.

pub mod batch;
pub mod bytes;
pub mod change;
pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod container;
pub mod error;
pub mod format;
pub mod infer;
pub mod limits;
pub mod model;
pub mod quant;
pub mod size;
