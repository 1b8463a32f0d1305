//! Positions: pairs of numbers that turn, and slopes by which scores fall.

use crate::format::arithmetic::Pairs;

/// Turns the heads in `vector`, `head` numbers each, by the `(cosine, sine)` of each pair:
/// `(a, b) -> (a cos - b sin, a sin + b cos)`. Numbers beyond the last pair stay.
///
/// ```text
/// Neighbours   (0, 1) (2, 3) (4, 5) ..          LLaMA in ggml's row order, GPT-J
/// Halves       (0, n) (1, n + 1) (2, n + 2) ..  NeoX, and LLaMA in transformers' row order; n = pairs
/// ```
pub fn rotate(pairs: Pairs, vector: &mut [f32], head: usize, turns: &[(f32, f32)]) {
    match pairs {
        Pairs::Neighbours => neighbours(vector, head, turns),
        Pairs::Halves => halves(vector, head, turns),
    }
}

fn neighbours(vector: &mut [f32], head: usize, turns: &[(f32, f32)]) {
    for head in vector.chunks_exact_mut(head) {
        for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}

fn halves(vector: &mut [f32], head: usize, turns: &[(f32, f32)]) {
    for head in vector.chunks_exact_mut(head) {
        let (low, high) = head.split_at_mut(turns.len());
        for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}

/// What each head's scores gain for one step nearer (Press and others 2021). `h` is the largest power of
/// two that is not larger than the number of heads:
///
/// ```text
/// head i < h:   2^(-most / h * (i + 1))
/// other heads:  2^(-most / 2h * (2 (i - h) + 1))
/// ```
pub fn slopes(heads: usize, most: f32) -> Vec<f32> {
    let whole = 1 << heads.ilog2();
    let exponent = |i: usize| match i < whole {
        true => most / whole as f32 * (i + 1) as f32,
        false => most / 2.0 / whole as f32 * (2 * (i - whole) + 1) as f32,
    };
    (0..heads).map(|i| libm::exp2f(-exponent(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_and_the_rest_stays() {
        let quarter = [(0.0, 1.0), (1.0, 0.0)];
        let mut vector = [1.0, 2.0, 3.0, 4.0, 5.0];
        rotate(Pairs::Neighbours, &mut vector, 5, &quarter);
        assert_eq!(vector, [-2.0, 1.0, 3.0, 4.0, 5.0]);
        let mut vector = [1.0, 2.0, 3.0, 4.0, 5.0];
        rotate(Pairs::Halves, &mut vector, 5, &quarter);
        assert_eq!(vector, [-3.0, 2.0, 1.0, 4.0, 5.0]);
    }

    #[test]
    fn slopes_of_even_and_uneven_heads() {
        assert_eq!(slopes(4, 8.0), [0.25, 0.0625, 0.015625, 0.00390625]);
        // Two more than four heads: the slopes of eight, every other one.
        assert_eq!(slopes(6, 8.0)[4..], [0.5, 0.125]);
    }
}
