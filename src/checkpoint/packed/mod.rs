//! Matrices that other programs packed, decoded while they are read.
//!
//! A packed matrix is several tensors: codes, scales, often zero points. Each way of packing is a file here, which
//! says what the parts are called, how codes are in them, and how a number is made: always in float32, one
//! rounding for each operation that the formula names. In place of the parts comes one matrix of f32 under the name
//! that it had before, whose bytes are computed when they are asked for; nothing larger than the rows in hand is held.
//! What has no packed parts, as the layers that `modules_to_not_convert` or `ignore` name, stays as it is.

mod awq;
mod bitsandbytes;
mod codes;
mod compressed;
mod fp4;
mod fp8;
mod gptq;
mod groups;
mod mlx;
mod mxfp4;
mod part;
mod small;

use std::collections::HashSet;

use serde_json::Value as Json;

use self::part::{Blocks, Matrix, Parts, Rows, in_memory};
use super::{Stored, assemble::Draft, dtype::Dtype, safetensors};
use crate::{
    bytes::Input,
    error::{Error, Result},
};

/// Numbers that are decoded at a time.
const STEP: u64 = 1 << 19;
/// What scales of activations and of cached keys and values end in: a runner of such weights may need them, the
/// values of weights do not.
const OF_ACTIVATIONS: [&str; 7] = [
    ".input_scale",
    ".activation_scale",
    ".input_global_scale",
    ".input_zero_point",
    ".k_scale",
    ".v_scale",
    ".q_scale",
];

/// Makes a matrix of a tensor of codes and what is beside it; none where it is not packed that way.
type Make = fn(&Parts, &Stored) -> Result<Option<Matrix>>;
/// Every way of packing.
const WAYS: [Make; 9] = [
    gptq::matrix,
    awq::matrix,
    compressed::packed,
    compressed::bytes,
    fp4::matrix,
    bitsandbytes::four_bits,
    bitsandbytes::eight_bits,
    mlx::matrix,
    fp8::matrix,
];

/// Puts in place of every packed matrix one of f32 that is decoded when it is read, and takes its parts away; of
/// NVFP4 GGUF's blocks where `stays` holds of its name. How many there were.
///
/// # Errors
/// Where parts are missing, do not fit each other or what is stated.
pub fn decode(
    draft: &mut Draft,
    shards: &mut [Vec<Stored>],
    stated: Option<&Json>,
    stays: &dyn Fn(&str) -> bool,
) -> Result<u64> {
    // Two rounds: while matrices are looked for, their parts are still there for others to be found by; then each takes
    // the place of its codes and the parts go.
    let mut made: Vec<Vec<(usize, Matrix)>> = Vec::new();
    let mut in_blocks: Vec<Vec<(usize, Blocks)>> = Vec::new();
    let parts = Parts::new(draft, shards, stated);
    for shard in &*shards {
        let (mut of_shard, mut blocks) = (Vec::new(), Vec::new());
        for (place, stored) in shard.iter().enumerate() {
            // What GGUF can hold as it is comes first: its codes are moved, not decoded.
            let found = match mxfp4::blocks(&parts, stored)? {
                None => fp4::blocks(&parts, stored, stays)?,
                found => found,
            };
            if let Some(found) = found {
                blocks.push((place, found));
                continue;
            }
            // At most one way fits a tensor: each looks at names and types before it complains of anything.
            let mut ways =
                WAYS.iter().map(|make| make(&parts, stored)).filter_map(Result::transpose);
            if let Some(matrix) = ways.next().transpose()? {
                of_shard.push((place, matrix));
            }
        }
        made.push(of_shard);
        in_blocks.push(blocks);
    }
    let mut spent = HashSet::new();
    let (mut count, f32) = (0, Dtype::of_safetensors("F32"));
    for (shard, made) in shards.iter_mut().zip(made) {
        for (place, matrix) in made {
            let (Some(stored), Some(f32)) = (shard.get_mut(place), f32) else { continue };
            let Matrix { name, shape, parts, rows: decoder } = matrix;
            let len = shape.iter().fold(4u64, |n, size| n.saturating_mul(*size));
            let columns = shape.last().copied().unwrap_or(1).max(1);
            // A file that is not on the disk: its bytes are computed where they are read.
            let input = Input::made(&name, len, move |at, out| read(&*decoder, columns, at, out));
            spent.extend(parts.into_iter().filter(|part| *part != name));
            *stored = Stored {
                name,
                dtype: f32,
                stride: safetensors::dense(&shape),
                shape,
                file: draft.files.len(),
                at: 0,
                big_endian: false,
            };
            draft.files.push(input);
            count += 1;
        }
    }
    for (shard, made) in shards.iter_mut().zip(in_blocks) {
        for (place, Blocks { name, dtype, shape, stride, parts, beside, len, fill }) in made {
            let Some(stored) = shard.get_mut(place) else { continue };
            draft.beside.extend(beside.into_iter().map(|(kind, v)| (name.clone(), kind, v)));
            let input = Input::made(&name, len, fill);
            spent.extend(parts.into_iter().filter(|part| *part != name));
            let (file, at, big_endian) = (draft.files.len(), 0, false);
            *stored = Stored { name, dtype, shape, stride, file, at, big_endian };
            draft.files.push(input);
            count += 1;
        }
    }
    // Only now: parts of one shard may belong to codes of another.
    if count > 0 {
        let spent = |t: &Stored| {
            spent.contains(&t.name) || OF_ACTIVATIONS.iter().any(|end| t.name.ends_with(end))
        };
        shards.iter_mut().for_each(|shard| shard.retain(|t| !spent(t)));
    }
    Ok(count)
}

/// Bytes of a decoded matrix from `at` on: whole numbers, as rows are read.
///
/// ```text
/// rows of 4 columns    0 1 2 3 | 4 5 6 7 | 8 9 …
/// numbers 2 to 5       the end of row 0, the beginning of row 1: both are decoded, and only these copied
/// ```
fn read(decoder: &dyn Rows, columns: u64, at: u64, out: &mut [u8]) -> Result<()> {
    if !at.is_multiple_of(4) || !out.len().is_multiple_of(4) {
        return Err(Error::unsupported(format!("a part of a number at {at:#x}"), ""));
    }
    let (mut first, mut out) = (at / 4, out);
    let mut numbers = Vec::new();
    while !out.is_empty() {
        let (row, skip) = (first / columns, first % columns);
        let left = out.len() as u64 / 4;
        // Whole rows are decoded, about half a million numbers at a time; of the first and the last only a part may
        // be wanted.
        let rows = (skip + left).div_ceil(columns).min((STEP / columns).max(1));
        let take = (rows * columns - skip).min(left);
        numbers.resize(in_memory(rows * columns)?, 0.0);
        decoder.rows(row, &mut numbers)?;
        let (now, rest) = std::mem::take(&mut out).split_at_mut(in_memory(take * 4)?);
        let numbers = numbers.get(in_memory(skip)?..).unwrap_or_default();
        for (out, number) in now.chunks_exact_mut(4).zip(numbers) {
            out.copy_from_slice(&number.to_le_bytes());
        }
        (first, out) = (first + take, rest);
    }
    Ok(())
}
