//! How the originals made the bytes of each type: several ways over time for some.
//!
//! What bytes mean is fixed by the dialect; how numbers were rounded to them was not. Day one scaled
//! Q4_0 by `max|x| / 7` and left one code unused, later programs used all sixteen; both wrote the
//! same blocks. A recipe is one such way, good for the byte-equal output of one span of builds.
//!
//! Whoever does not ask gets the last: today's, or the one in use when the dialect ended.

mod legacy;
mod way;

use super::{QuantType, encode};
use std::sync::LazyLock;
pub use way::Recipe;

static RECIPES: LazyLock<Vec<Vec<Recipe>>> = LazyLock::new(|| QuantType::all().map(list).collect());

/// The ways of making a type's bytes, the earliest first; the last is the default. There is none for
/// a type that is only read.
pub fn recipes(q: QuantType) -> &'static [Recipe] {
    &RECIPES[q.index()]
}

fn list(q: QuantType) -> Vec<Recipe> {
    let mut all = legacy::recipes(q.name(), q.dialect());
    if let Some(encode) = encode::encoder(q.name()).filter(|_| q.is_today()) {
        let (name, source) = ("today", "llama.cpp, ggml-quants.c");
        all.push(Recipe { name, lived: (&q.block().lived.from, None), source, encode });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::isa::Isa;

    #[test]
    fn recipes_fill_their_rows_alike_on_every_instruction_set() {
        let mut x = 0.5f32;
        let numbers = std::iter::repeat_with(|| {
            x = (x * 7.13 + 0.37).fract();
            x - 0.4
        });
        let rows: Vec<f32> = numbers.take(256 * 3).collect();
        for q in QuantType::all().filter(|q| !q.is_today()) {
            for recipe in recipes(q) {
                let bytes = q.row_bytes(256).unwrap() as usize * 3;
                let encode = |isa| {
                    let mut out = vec![0; bytes];
                    (recipe.encode)(isa, &rows, 256, None, &mut out);
                    out
                };
                let wanted = encode(Isa::PORTABLE);
                for isa in Isa::available() {
                    assert!(encode(isa) == wanted, "{q} {} on {}", recipe.name, isa.name());
                }
                let mut back = vec![0.0; rows.len()];
                super::super::decode_rows(q, Isa::PORTABLE, &wanted, 256, &mut back);
                let error = rows.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error < 0.08, "{q} {}: off by {error}", recipe.name);
            }
        }
    }
}
