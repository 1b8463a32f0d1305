//! Where everything of a file goes.
//!
//! ```text
//! chunks[0]   data[0] ..    chunks[1]   data[1] ..    chunks[2]
//! header      tensor 0      head 1      tensor 1      padding         total
//! ```
//!
//! Both kinds of containers lay out so: whoever writes puts the chunks where they belong and streams each tensor to its
//! place, in any order.

use crate::quant::QuantType;

/// Where everything of a file goes, before the first byte is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layout {
    /// Every byte that is not weights: offset and bytes, in order.
    pub chunks: Vec<(u64, Vec<u8>)>,
    /// The offset of each tensor's data, in the order of the heads.
    pub data: Vec<u64>,
    /// The length of the file.
    pub total: u64,
}

/// What a layout must know about a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorHead {
    /// Its name in the file.
    pub name: String,
    /// Its shape, outermost dimension first; empty for a number that has no dimensions.
    pub shape: Vec<u64>,
    /// Its type.
    pub quant: QuantType,
    /// The bytes of its data.
    pub bytes: u64,
}
