//! Numbers in rows: what the bytes of every quantized row mean, and how to make them.

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
