//! Decoders: the bytes of whole rows in, `f32` out, bit for bit as the originals computed them.
//!
//! A kernel is one function over one block, `&[u8; BYTES]` to `&mut [f32; WEIGHTS]`, which
//! `decoders!` runs over all blocks of the rows and compiles for every instruction set. Weights do
//! not depend on each other, so only the order of operations within one weight matters.

mod books;
mod ik;
pub(crate) mod iquant;
mod kernel;
pub(crate) mod kquant;
pub(crate) mod legacy;
pub(crate) mod levels;
mod plain;
mod scaled;
pub(crate) mod trellis;
pub(crate) mod trits;
pub(crate) mod whole;

use crate::quant::{QuantType, isa::Isa, relay};
pub(crate) use kernel::DecodeRows;
use std::sync::LazyLock;

static DECODERS: LazyLock<Vec<Option<DecodeRows>>> =
    LazyLock::new(|| QuantType::all().map(|q| named(q.layout().kernel)).collect());

/// The weights of whole rows of `row_len` weights each.
///
/// # Panics
/// If `bytes` is not the rows that fill `out`, or `row_len` is not a whole number of blocks: the
/// caller checks both against the file before.
pub fn decode_rows(q: QuantType, isa: Isa, bytes: &[u8], row_len: usize, out: &mut [f32]) {
    if out.is_empty() && bytes.is_empty() {
        return;
    }
    assert!(row_len > 0 && out.len().is_multiple_of(row_len), "whole rows of {row_len} weights");
    let rows = out.len() / row_len;
    assert!(rows.is_multiple_of(q.row_group()), "{q} codes {} rows together", q.row_group());
    let row_bytes = q.row_bytes(row_len as u64).map(|n| n as usize);
    assert_eq!(row_bytes.and_then(|n| n.checked_mul(rows)), Some(bytes.len()), "bytes of {q} rows");
    if let Some(relay) = relay::of(q) {
        // A group at a time, in the order of the type that has a kernel.
        let (group, weights) = (bytes.len() / rows * q.row_group(), row_len * q.row_group());
        let mut plain = vec![0; relay.bytes(row_len) * q.row_group()];
        for (bytes, out) in bytes.chunks_exact(group).zip(out.chunks_exact_mut(weights)) {
            relay.run(row_len, bytes, &mut plain);
            decode_rows(relay.to, isa, &plain, row_len, out);
            if relay.plain_zero {
                // Of all numbers this changes only a negative zero.
                out.iter_mut().for_each(|weight| *weight += 0.0);
            }
        }
        return;
    }
    let decode = DECODERS[q.index()].expect("a test finds the kernel of every description");
    decode(isa, bytes, row_len, out);
}

/// The kernel that a description calls `name`.
fn named(name: &str) -> Option<DecodeRows> {
    let tables = [
        plain::KERNELS,
        plain::HALVES,
        legacy::KERNELS,
        legacy::PLANAR,
        kquant::KERNELS,
        iquant::KERNELS,
        ik::KERNELS,
        levels::KERNELS,
        trits::KERNELS,
        levels::GROUPED,
        scaled::KERNELS,
        scaled::GROUPED,
        trellis::KERNELS,
    ];
    tables.into_iter().flatten().find(|(known, _)| *known == name).map(|(_, kernel)| *kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_description_names_a_kernel_of_its_size() {
        for q in QuantType::all() {
            let known = named(q.layout().kernel).is_some() || relay::of(q).is_some();
            assert!(known, "{q}: {}", q.layout().kernel);
            let (row_len, rows) = (q.layout().elements * 3, q.row_group() * 2);
            let bytes = vec![0x11; q.row_bytes(row_len as u64).unwrap() as usize * rows];
            let mut out = vec![f32::NAN; row_len * rows];
            decode_rows(q, Isa::PORTABLE, &bytes, row_len, &mut out);
            assert!(out.iter().all(|x| x.is_finite()), "{q}: a weight was not written");
        }
    }
}
