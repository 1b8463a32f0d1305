//! Numbers in rows: what the bytes of every quantized row mean, and how to make them.
//!
//! ```text
//! formats/block/*.toml -> BlockLayout     sizes and offsets
//!                         QuantType       a name and its dialect, the key to everything else
//!
//! decode    bytes -> f32                  of every type, as its program computed them
//! encode    f32 -> bytes                  of the types that llama.cpp writes today
//! recipe    f32 -> bytes                  the same and the ways of 2023
//! permute   bytes -> bytes                where another type holds the same numbers: `relay`, `recast`, `ternary`
//! successor which of today's types takes over the weights of one that is gone
//! finite    which stored number is infinite or NaN
//! ```
//!
//! The unit of all of them is the row, for a planar row is no sequence of blocks. Lengths are in weights (`row_len`)
//! or in bytes (`row_bytes`) and named so where both occur.

pub(crate) mod activations;
pub(crate) mod decode;
pub(crate) mod distance;
pub mod encode;
pub mod era;
mod finite;
#[doc(hidden)]
pub mod grid;
#[doc(hidden)]
pub mod half;
#[doc(hidden)]
pub mod isa;
pub(crate) mod layout;
pub(crate) mod loss;
#[doc(hidden)]
pub mod permute;
pub(crate) mod product;
mod recast;
#[doc(hidden)]
pub mod recipe;
mod relay;
pub(crate) mod successor;
mod ternary;
mod types;

pub use decode::decode_rows;
pub use layout::BlockLayout;
pub use loss::ScaleLoss;
pub use types::QuantType;
