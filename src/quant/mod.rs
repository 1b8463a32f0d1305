//! Numbers in rows: what the bytes of every quantized row mean, and how to make them.

pub mod decode;
pub mod encode;
pub mod era;
mod finite;
pub mod grid;
pub mod half;
pub mod isa;
pub mod layout;
pub mod loss;
pub mod permute;
pub mod product;
mod recast;
pub mod recipe;
mod relay;
pub mod successor;
mod ternary;
mod types;

pub use decode::decode_rows;
pub use layout::BlockLayout;
pub use types::QuantType;
