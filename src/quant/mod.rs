//! Numbers in rows: what the bytes of every quantized row mean, and how to make them.

pub mod encode;
pub mod grid;
pub mod isa;
