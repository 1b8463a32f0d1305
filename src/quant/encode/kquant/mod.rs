//! Q2_K to Q6_K: super-blocks of 256 numbers with quantized scales.
//!
//! | type | sub-blocks | number restored | quantum q | scale s, min m |
//! |---|---|---|---|---|
//! | Q2_K | 16 of 16 | d·s·q − dmin·m | 0..=3 | 4 bits each |
//! | Q3_K | 16 of 16 | d·(s − 32)·(q − 4) | 0..=7 | 6 bits, no min |
//! | Q4_K | 8 of 32 | d·s·q − dmin·m | 0..=15 | 6 bits each |
//! | Q5_K | 8 of 32 | d·s·q − dmin·m | 0..=31 | 6 bits each |
//! | Q6_K | 16 of 16 | d·s·(q − 32) | 0..=63 | i8, no min |
//!
//! d and dmin are f16, one each a super-block. What is minimised is the error `Σ w·(x − restored)²` of a
//! sub-block, where the weight w of a number comes from the imatrix (with importance) or from the number itself.
//!
//! Every type goes the same way. Each sub-block of 16 or 32 numbers gets its best scale (and minimum),
//! sixteen sub-blocks a step; the scales of a super-block are quantized in their turn, with importance
//! by a search whose lanes are super-blocks; then, with what the stored scales really restore to, the
//! quanta are made anew. Sub-blocks whose stored scale is zero keep the quanta of the first search.
//!
//! After llama.cpp `ggml-quants.c`: `quantize_row_q2_K_ref`, `quantize_row_q2_K_impl` and their kin.

mod affine;
mod centred;
mod sub_blocks;

pub use affine::{encode_q2_k, encode_q4_k, encode_q5_k};
pub use centred::{encode_q3_k, encode_q6_k};
