//! Perplexity of a text, windowed as llama.cpp's `llama-perplexity` does it, so that figures compare.
//!
//! The tokens are cut into windows of `context`; each is read alone with the beginning-of-text token
//! in its first place, and the predictions of its second half are scored, all but the last, whose
//! next token lies in the next window. `perplexity = exp(mean of -ln p(token))`.

use rayon::prelude::*;

use super::{Perplexity, Session, Want, Weights, functions::sum_of_exp};
use crate::{
    bytes::replace::check_interrupt,
    error::{Error, Result},
};

/// `-ln p(token)` of the softmax of `logits`.
pub fn nats(logits: &[f32], token: u32) -> f64 {
    let (most, sum) = sum_of_exp(logits);
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    libm::log(sum) - f64::from(logit - most)
}

/// The windows of `tokens`, each with `bos` in its first place where there is one.
///
/// What does not fill a window is left out, as in llama.cpp.
pub fn windows(tokens: &[u32], context: usize, bos: Option<u32>) -> impl Iterator<Item = Vec<u32>> {
    tokens.chunks_exact(context).map(move |window| {
        let mut window = window.to_vec();
        if let (Some(bos), Some(first)) = (bos, window.first_mut()) {
            *first = bos;
        }
        window
    })
}

/// Scores at most `most` windows of `tokens` and calls `after_each` with the estimate so far,
/// which is also the result.
///
/// `context` is the length of a window in tokens, at least 4.
///
/// # Errors
/// Where there are fewer than two windows, or the person interrupts.
pub fn perplexity(
    weights: &Weights,
    tokens: &[u32],
    context: usize,
    bos: Option<u32>,
    most: usize,
    mut after_each: impl FnMut(Perplexity) -> Result<()>,
) -> Result<Perplexity> {
    if context < 4 || tokens.len() < 2 * context {
        return Err(Error::usage(format!(
            "two windows of {context} tokens are needed and the text has {} tokens: give a longer text \
             or a smaller -c",
            tokens.len()
        )));
    }
    let mut costs = Vec::new();
    let half = context / 2;
    let mut session = Session::new(weights, context).side_by_side(context - half);
    let windows: Vec<_> = windows(tokens, context, bos).take(most).collect();
    for windows in windows.chunks(session.texts()) {
        check_interrupt()?;
        session.truncate(0);
        let (before, scored): (Vec<&[u32]>, Vec<&[u32]>) =
            windows.iter().map(|window| window.split_at(half)).unzip();
        session.read_each(&before, Want::Last, |_, _, _| {})?;
        let mut of_each = vec![Vec::new(); windows.len()];
        session.read_each(&scored, Want::All, |text, first, logits| {
            let answers = scored[text].get(first + 1..).unwrap_or_default();
            let each = logits.par_chunks_exact(weights.config.vocab).zip(answers);
            of_each[text].par_extend(each.map(|(logits, next)| nats(logits, *next)));
        })?;
        for window in of_each {
            costs.extend(window);
            after_each(Perplexity::of(&costs))?;
        }
    }
    Ok(Perplexity::of(&costs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_odds_are_their_number() {
        let even = Perplexity::of(&[nats(&[2.5; 8], 3); 10]);
        assert!((even.value - 8.0).abs() < 1e-9 && even.error < 1e-6);
        let whole: Vec<_> = windows(&[5, 6, 7, 8, 9], 2, Some(1)).collect();
        assert_eq!(whole, [[1, 6], [1, 8]]);
    }
}
