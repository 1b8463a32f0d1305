//! What the kernels of all types share: how one of a block becomes one of rows, and the reading of numbers.
//!
//! ```text
//! fn q4_0(isa, &[u8; 18], &mut [f32; 32])        what a file of kernels has, one a type
//!     decoders!(q4_0)                            the table KERNELS: ("q4_0", rows::q4_0)
//! fn rows::q4_0(isa, rows, row_len, out)         all blocks in turn, compiled for each instruction set
//! ```
//!
//! The sizes in the signature cut the rows into blocks: `as_chunks` infers them, so a size that is not the
//! description's is found by the test in the module above.

use crate::quant::isa::Isa;

/// Decodes whole rows of `row_len` weights.
pub(crate) type DecodeRows = fn(isa: Isa, rows: &[u8], row_len: usize, out: &mut [f32]);

/// Makes the table `KERNELS` of rows decoders from kernels of one block. Where a number is before a kernel, rows
/// begin with as many bytes of their own, which it gets beside each block.
///
/// The kernel is called by its name: handed on as an `impl Fn` it would be called through a shim that has no
/// target features, where every intrinsic becomes a call of its own.
macro_rules! decoders {
    ($($($front:literal)? $name:ident),+ $(,)?) => {
        /// The kernels of this file under the names that descriptions use.
        pub(super) const KERNELS: &[(&str, $crate::quant::decode::kernel::DecodeRows)] =
            &[$((stringify!($name), rows::$name)),+];

        mod rows {
            $(pub(super) fn $name(
                isa: $crate::quant::isa::Isa,
                bytes: &[u8],
                row_len: usize,
                out: &mut [f32],
            ) {
                $crate::quant::decode::kernel::decoders! { @all $name $($front)? }
                $crate::per_isa! {
                    fn run(bytes: &[u8], row_len: usize, out: &mut [f32]) = all[isa];
                }
                run(isa, bytes, row_len, out);
            })+
        }
    };
    (@all $name:ident) => {
        #[inline(always)]
        fn all(isa: $crate::quant::isa::Isa, bytes: &[u8], _: usize, out: &mut [f32]) {
            for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                super::$name(isa, block, out);
            }
        }
    };
    (@all $name:ident $front:literal) => {
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
    };
}
pub(super) use decoders;

/// The half at `at` of a block, as `f32`.
#[inline(always)]
pub(super) fn half_at(isa: Isa, block: &[u8], at: usize) -> f32 {
    isa.half(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Of each of sixteen bytes the bits under `mask`, after a shift to the right: all of them at once, for
/// shifts of single bytes are not vector code.
///
/// ```text
/// word >> 2     ..hgfedcba -> ..??hgfedc      a byte gets bits of the byte above it
/// & 0b11        in every byte                 and loses them again
/// ```
#[inline(always)]
pub(super) fn bits_of(bytes: &[u8; 16], shift: usize, mask: u64) -> u128 {
    const EACH: u64 = u64::MAX / 255;
    let both = u128::from_le_bytes(*bytes);
    let bits = |half: u64| u128::from((half >> shift) & (EACH * mask));
    bits(both as u64) | bits((both >> 64) as u64) << 64
}

/// The `f32` at `at` of a block.
#[inline(always)]
pub(super) fn f32_at(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}
