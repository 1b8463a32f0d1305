//! Decoders: the bytes of whole rows in, `f32` out, bit for bit as the originals computed them.
//!
//! A kernel is one function over one block, `&[u8; BYTES]` to `&mut [f32; WEIGHTS]`, which
//! `decoders!` runs over all blocks of the rows and compiles for every instruction set. Weights do
//! not depend on each other, so only the order of operations within one weight matters.

mod ik;
mod iquant;
pub(crate) mod kquant;
pub(crate) mod legacy;
pub(crate) mod levels;
mod plain;
mod scaled;
pub(crate) mod trellis;
pub(crate) mod whole;

use crate::quant::{QuantType, isa::Isa, relay};
use std::sync::LazyLock;

/// Decodes whole rows of `row_len` weights.
pub(crate) type DecodeRows = fn(isa: Isa, rows: &[u8], row_len: usize, out: &mut [f32]);

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
        levels::GROUPED,
        scaled::KERNELS,
        scaled::GROUPED,
        trellis::KERNELS,
    ];
    tables.into_iter().flatten().find(|(known, _)| *known == name).map(|(_, kernel)| *kernel)
}

/// Makes the table `KERNELS` of rows decoders from kernels of one block.
///
/// The kernel is called by its name: handed on as an `impl Fn` it would be called through a shim that has no
/// target features, where every intrinsic becomes a call of its own.
macro_rules! decoders {
    ($($name:ident),+ $(,)?) => {
        /// The kernels of this file under the names that descriptions use.
        pub(super) const KERNELS: &[(&str, $crate::quant::decode::DecodeRows)] =
            &[$((stringify!($name), rows::$name)),+];

        mod rows {
            $(pub(super) fn $name(
                isa: $crate::quant::isa::Isa,
                bytes: &[u8],
                _: usize,
                out: &mut [f32],
            ) {
                #[inline(always)]
                fn all(isa: $crate::quant::isa::Isa, bytes: &[u8], out: &mut [f32]) {
                    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                        super::$name(isa, block, out);
                    }
                }
                $crate::per_isa! { fn run(bytes: &[u8], out: &mut [f32]) = all[isa]; }
                run(isa, bytes, out);
            })+
        }
    };
}
use decoders;

/// The same for rows that begin with so many bytes of their own, which the kernel gets beside each block.
macro_rules! fronted {
    ($($front:literal $name:ident),+ $(,)?) => {
        /// The kernels of this file under the names that descriptions use.
        pub(super) const KERNELS: &[(&str, $crate::quant::decode::DecodeRows)] =
            &[$((stringify!($name), rows::$name)),+];

        mod rows {
            $(pub(super) fn $name(
                isa: $crate::quant::isa::Isa,
                bytes: &[u8],
                row_len: usize,
                out: &mut [f32],
            ) {
                #[inline(always)]
                fn all(isa: $crate::quant::isa::Isa, bytes: &[u8], row_len: usize, out: &mut [f32]) {
                    let rows = out.len() / row_len;
                    let pairs = bytes.chunks_exact((bytes.len() / rows.max(1)).max(1));
                    for (row, out) in pairs.zip(out.chunks_exact_mut(row_len)) {
                        let Some((front, blocks)) = row.split_first_chunk::<$front>() else { continue };
                        for (block, out) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                            super::$name(isa, front, block, out);
                        }
                    }
                }
                $crate::per_isa! {
                    fn run(bytes: &[u8], row_len: usize, out: &mut [f32]) = all[isa];
                }
                run(isa, bytes, row_len, out);
            })+
        }
    };
}
use fronted;

/// The half at `at` of a block, as `f32`.
#[inline(always)]
fn half_at(isa: Isa, block: &[u8], at: usize) -> f32 {
    isa.half(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Of each of sixteen bytes the bits under `mask`, after a shift to the right: all of them at once, for
/// shifts of single bytes are not vector code.
#[inline(always)]
fn bits_of(bytes: &[u8; 16], shift: usize, mask: u64) -> u128 {
    const EACH: u64 = u64::MAX / 255;
    let both = u128::from_le_bytes(*bytes);
    let bits = |half: u64| u128::from((half >> shift) & (EACH * mask));
    bits(both as u64) | bits((both >> 64) as u64) << 64
}

/// The `f32` at `at` of a block.
#[inline(always)]
fn f32_at(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
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
