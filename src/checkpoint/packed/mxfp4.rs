//! MXFP4 as gpt-oss stores its experts: bytes of two codes with an exponent for each 32 numbers of a row, which are
//! GGUF's blocks in another order of bits.
//!
//! ```text
//! NAME_blocks  [experts, rows, cols / 32, 16]  u8   byte j: code 2j in the lower half, 2j + 1 in the upper
//! NAME_scales  [experts, rows, cols / 32]      u8   the exponent of two, 127 more than it is
//!
//! GGUF's block   scale, then 16 bytes               byte j: code j in the lower half, j + 16 in the upper
//! ```
//!
//! Nothing is rounded: every bit moves. The matrices without blocks are the other way round, [experts, cols, rows];
//! so is the shape here, while the numbers of a row stay side by side.
//! Source: transformers, integrations/mxfp4.py: convert_moe_packed_tensors; llama.cpp, conversion/gpt_oss.py:
//! transform_nibble_layout.

use super::part::{Blocks, Parts, WHOLE, in_memory};
use crate::{
    checkpoint::{Stored, dtype::MXFP4},
    error::{Error, Result},
};

/// Numbers of a block.
const NUMBERS: u64 = 32;
/// Bytes of its codes.
const CODES: usize = 16;
/// Bytes of it in GGUF.
const BYTES: u64 = 17;

/// The blocks of a tensor of codes with exponents beside them; none of other tensors.
///
/// # Errors
/// Where the exponents are missing or do not fit.
pub fn blocks(parts: &Parts, stored: &Stored) -> Result<Option<Blocks>> {
    let Some(name) = stored.name.strip_suffix("_blocks").filter(|_| stored.dtype.name == "u8")
    else {
        return Ok(None);
    };
    let beside = format!("{name}_scales");
    let Some(exponents) = parts.find(&beside) else {
        return Err(parts.odd(&stored.name, "no scales beside it", WHOLE));
    };
    let [experts, rows, groups, 16] = *stored.shape.as_slice() else {
        let what = format!("codes of shape {:?}, not [experts, rows, blocks, 16]", stored.shape);
        return Err(parts.odd(&stored.name, what, WHOLE));
    };
    if exponents.shape != [experts, rows, groups] {
        let what = format!("codes {:?} with scales {:?}", stored.shape, exponents.shape);
        return Err(parts.odd(&stored.name, what, WHOLE));
    }
    let (codes, scales) = (parts.flat(stored, 1)?, parts.flat(exponents, 0)?);
    let large = || parts.odd(&stored.name, "more numbers than any model has", WHOLE);
    let columns = groups.checked_mul(NUMBERS).ok_or_else(large)?;
    let len = codes.rows.checked_mul(BYTES).ok_or_else(large)?;
    // Numbers of one expert: what its index is multiplied with in the strides below.
    let per_expert = rows.checked_mul(columns).ok_or_else(large)?;
    let fill = move |at: u64, out: &mut [u8]| -> Result<()> {
        let (first, count) = (at / BYTES, out.len() as u64 / BYTES);
        if !at.is_multiple_of(BYTES) || count * BYTES != out.len() as u64 {
            return Err(Error::unsupported(format!("a part of a block at {at:#x}"), ""));
        }
        let codes = codes.bytes(first..first + count, 0..CODES as u64)?;
        let scales = scales.bytes(first..first + count, 0..1)?;
        let blocks = out.chunks_exact_mut(in_memory(BYTES)?);
        for ((block, codes), scale) in blocks.zip(codes.as_chunks::<CODES>().0).zip(scales) {
            if let Some((first, halves)) = block.split_first_mut() {
                *first = scale;
                apart(codes, halves);
            }
        }
        Ok(())
    };
    Ok(Some(Blocks {
        name: name.to_owned(),
        dtype: &MXFP4,
        shape: vec![experts, columns, rows],
        stride: vec![per_expert, 1, columns],
        parts: vec![stored.name.clone(), beside],
        beside: Vec::new(),
        len,
        fill: Box::new(fill),
    }))
}

/// Codes of neighbours in a byte become codes of halves.
///
/// ```text
/// in    1|0    3|2    5|4    ..   31|30        upper|lower half of each byte
/// out  16|0   17|1   18|2    ..   31|15        for 32 codes; for 16 it is 8|0 .. 15|7
/// ```
pub fn apart(codes: &[u8], halves: &mut [u8]) {
    let code = |i: usize| codes.get(i / 2).map_or(0, |byte| byte >> (4 * (i % 2)) & 15);
    let half = halves.len();
    for (j, byte) in halves.iter_mut().enumerate() {
        *byte = code(j) | code(j + half) << 4;
    }
}
