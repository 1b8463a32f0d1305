//! Encoders of the quant types that llama.cpp writes today: rows of `f32` in, blocks out.
//!
//! The reference is llama.cpp compiled for plain x86-64, where nothing fuses `a * b + c`. Every
//! encoder repeats its arithmetic operation by operation, so the bytes are the same; the speed comes
//! from working on sixteen blocks (or sub-blocks) side by side, one a lane, each in its own order.

pub(crate) mod float;
mod fp4;
mod group;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod kquant;
mod lanes;
mod lattice;
pub(crate) mod legacy;
mod magnitude;
mod search;
mod superblock;
mod ternary;

use super::isa::Isa;

/// Encodes whole rows of numbers into blocks.
///
/// `rows` holds a whole number of rows of `row_len` numbers; `weights` is the importance of each of
/// the `row_len` columns; `out` is exactly as long as the encoded rows. The bytes depend neither on
/// the [`Isa`] nor on how many rows one call gets.
///
/// # Panics
/// Where lengths do not fit together: the plan has checked them before.
pub type EncodeRows =
    fn(isa: Isa, rows: &[f32], row_len: usize, weights: Option<&[f32]>, out: &mut [u8]);

/// The encoder of the type with this lower-case ggml name, `"q4_0"` for example.
pub fn encoder(name: &str) -> Option<EncodeRows> {
    let encode: EncodeRows = match name {
        "f32" => float::encode_f32,
        "f16" => float::encode_f16,
        "bf16" => float::encode_bf16,
        "q4_0" => legacy::encode_q4_0,
        "q4_1" => legacy::encode_q4_1,
        "q5_0" => legacy::encode_q5_0,
        "q5_1" => legacy::encode_q5_1,
        "q2_k" => kquant::encode_q2_k,
        "q3_k" => kquant::encode_q3_k,
        "q4_k" => kquant::encode_q4_k,
        "q5_k" => kquant::encode_q5_k,
        "q6_k" => kquant::encode_q6_k,
        "q8_0" => legacy::encode_q8_0,
        "q1_0" => ternary::encode_q1_0,
        "q2_0" => ternary::encode_q2_0,
        "tq1_0" => ternary::encode_tq1_0,
        "tq2_0" => ternary::encode_tq2_0,
        "mxfp4" => fp4::encode_mxfp4,
        "nvfp4" => fp4::encode_nvfp4,
        "iq1_s" => iq1::encode_iq1_s,
        "iq1_m" => iq1::encode_iq1_m,
        "iq2_xxs" => iq2::encode_iq2_xxs,
        "iq2_xs" => iq2::encode_iq2_xs,
        "iq2_s" => iq2::encode_iq2_s,
        "iq3_xxs" => iq3::encode_iq3_xxs,
        "iq3_s" => iq3::encode_iq3_s,
        "iq4_nl" => iq4::encode_iq4_nl,
        "iq4_xs" => iq4::encode_iq4_xs,
        _ => return None,
    };
    Some(encode)
}

/// Whether llama.cpp refuses to make a tensor of this type without an importance matrix.
///
/// As llama.cpp `tensor_requires_imatrix` has it for tensors other than the token embedding and the
/// output; Q2_K, which only a file of type Q2_K_S holds to this, is left to the choice of types.
pub fn needs_importance(name: &str) -> bool {
    matches!(name, "iq3_xxs" | "iq2_xxs" | "iq2_xs" | "iq2_s" | "iq1_m" | "iq1_s")
}
