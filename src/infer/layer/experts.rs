//! What follows attention: one feed-forward part, or experts, of which each token is sent to the best few.

use super::{Linear, Tapped, add, mlp::FeedForward, scaled};
use crate::{
    format::arithmetic::Shares,
    infer::{
        config::Config,
        functions::{sigmoid, softmax},
    },
};

/// What follows attention in a layer.
#[derive(Debug)]
pub struct Mlp {
    /// A row for each expert; none where there is one part for all tokens.
    pub router: Option<Linear>,
    /// The one part, or the experts.
    pub parts: Vec<FeedForward>,
    /// The expert that every token is sent to as well.
    pub shared: Option<Box<Shared>>,
}

/// An expert that every token is sent to.
#[derive(Debug)]
pub struct Shared {
    /// Its matrices.
    pub part: FeedForward,
    /// One row, from whose product with the token comes its share: `1 / (1 + e^-product)`. None where its
    /// result is added whole.
    pub router: Option<Linear>,
}

impl Mlp {
    /// `[T][width]` in and out: with experts the sum of the chosen ones' results, each by its share.
    pub fn of(&self, config: &Config, x: &[f32], tap: &mut Tapped) -> Vec<f32> {
        let Config { width, experts_used, activation, shares, .. } = *config;
        let count = self.parts.len();
        let Some(router) = &self.router else {
            return self.parts[0].of(activation, x, tap); // [T][width]
        };
        let mut scores = router.of(x, tap); // [T][experts]
        scores.chunks_exact_mut(count).for_each(softmax);
        let chosen: Vec<Vec<(usize, f32)>> =
            scores.chunks_exact(count).map(|scores| best(scores, experts_used, shares)).collect();
        let mut out = vec![0.0; x.len()]; // [T][width]
        for (e, expert) in self.parts.iter().enumerate() {
            let share = |t: &Vec<(usize, f32)>| t.iter().find(|(i, _)| *i == e).map(|(_, s)| *s);
            let sent: Vec<(usize, f32)> =
                (0..).zip(&chosen).filter_map(|(t, to)| Some((t, share(to)?))).collect();
            if sent.is_empty() {
                continue;
            }
            let gathered: Vec<f32> =
                sent.iter().flat_map(|(t, _)| &x[t * width..(t + 1) * width]).copied().collect();
            let said = expert.of(activation, &gathered, tap); // [sent][width]
            for ((t, share), said) in sent.iter().zip(said.chunks_exact(width)) {
                for (out, said) in out[t * width..].iter_mut().zip(said) {
                    *out += share * said;
                }
            }
        }
        if let Some(Shared { part, router }) = self.shared.as_deref() {
            let mut said = part.of(activation, x, tap); // [T][width]
            if let Some(router) = router {
                let mut shares = router.of(x, tap); // [T]
                sigmoid(&mut shares);
                for (said, share) in said.chunks_exact_mut(width).zip(shares) {
                    scaled(said, share);
                }
            }
            add(&mut out, &said);
        }
        out
    }
}

/// The `n` largest of all experts' shares with their places, first where equal.
fn best(all: &[f32], n: usize, shares: Shares) -> Vec<(usize, f32)> {
    let mut order: Vec<(usize, f32)> = all.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order.truncate(n);
    if shares == Shares::OfChosen {
        let sum: f32 = order.iter().map(|(_, share)| share).sum();
        order.iter_mut().for_each(|(_, share)| *share /= sum);
    }
    order
}
