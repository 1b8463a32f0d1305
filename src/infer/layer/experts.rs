//! What follows attention: one feed-forward part, or experts, of which each token is sent to the best few.

use std::slice;

use rayon::prelude::*;

use super::{Linear, Tapped, add, mlp::FeedForward};
use crate::{
    format::arithmetic::Shares,
    infer::{
        buffer::Buffer,
        config::Config,
        dot::scaled,
        functions::{sigmoid, softmax},
    },
};

/// What follows attention in a layer.
///
/// ```text
/// scores = router x                        [experts]
/// chosen = the best `experts_used`         each with a share
/// out    = sum over chosen of share * expert(x)   (+ shared(x))
/// ```
#[derive(Debug)]
pub struct Mlp {
    /// A row for each expert; none where there is one part for all tokens.
    pub router: Option<Linear>,
    /// What is added to the scores of experts where they are chosen, and not to their shares; empty for nothing.
    pub shift: Vec<f32>,
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
    pub fn of(&self, config: &Config, x: &[f32], tap: &mut Tapped) -> Buffer {
        let Config { width, activation, .. } = *config;
        let count = self.parts.len();
        let Some(router) = &self.router else {
            return self.parts[0].of(activation, x, tap); // [T][width]
        };
        // A number for each expert and token.
        let mut scores = router.of(x, tap); // [T][experts]
        let before = config.shares == Shares::Before;
        match config.routing.sigmoid || !self.shift.is_empty() {
            // Chosen by the scores themselves: of large ones the shares are one.
            _ if before => {}
            true => sigmoid(&mut scores),
            false => scores.chunks_exact_mut(count).for_each(softmax),
        }
        let chosen: Vec<Vec<(usize, f32)>> =
            scores.chunks_exact(count).map(|scores| self.best(scores, config)).collect();
        // Expert by expert, not token by token: its matrices are read once for all tokens that were sent to it.
        let sent = |e: usize| -> Vec<(usize, f32)> {
            let share = |t: &Vec<(usize, f32)>| t.iter().find(|(i, _)| *i == e).map(|(_, s)| *s);
            (0..).zip(&chosen).filter_map(|(t, to)| Some((t, share(to)?))).collect()
        };
        let work = self.parts.iter().enumerate().map(|(e, part)| (part, sent(e)));
        let work: Vec<_> = work.filter(|(_, sent)| !sent.is_empty()).collect();
        let said = |(part, sent): &(&FeedForward, Vec<(usize, f32)>), tap: &mut Tapped| {
            let mut gathered: Vec<f32> =
                sent.iter().flat_map(|(t, _)| &x[t * width..(t + 1) * width]).copied().collect();
            if before {
                for ((_, share), x) in sent.iter().zip(gathered.chunks_exact_mut(width)) {
                    scaled(x, *share);
                }
            }
            part.of(activation, &gathered, tap) // [sent][width]
        };
        // A tap hears of one expert after the other; else several are at work, and results are added in their order.
        let all: Vec<Buffer> = match tap {
            Some(_) => work.iter().map(|work| said(work, tap)).collect(),
            None => work.par_iter().map(|work| said(work, &mut None)).collect(),
        };
        let mut out = Buffer::zeros(x.len()); // [T][width]
        for ((_, sent), said) in work.iter().zip(all) {
            for ((t, share), said) in sent.iter().zip(said.chunks_exact(width)) {
                let share = if before { 1.0 } else { *share };
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
                for (said, share) in said.chunks_exact_mut(width).zip(&*shares) {
                    scaled(said, *share);
                }
            }
            add(&mut out, &said);
        }
        out
    }
}

impl Mlp {
    /// The experts with the largest of all scores, first where equal, each with its share.
    fn best(&self, all: &[f32], config: &Config) -> Vec<(usize, f32)> {
        let Config { experts_used, shares, routing, .. } = config;
        let shift = |i: usize| self.shift.get(i).copied().unwrap_or(0.0);
        let mut order: Vec<(usize, f32)> =
            all.iter().enumerate().map(|(i, score)| (i, score + shift(i))).collect();
        // DeepSeek: first the best groups, by their best one or two experts, then the best experts of those.
        let per_group = all.len() / routing.groups.max(1);
        if routing.groups > 1 && per_group > 0 {
            let score = |group: &[(usize, f32)]| {
                let mut scores: Vec<f32> = group.iter().map(|(_, score)| *score).collect();
                scores.sort_by(|a, b| b.total_cmp(a));
                let counted = if self.shift.is_empty() && !routing.sigmoid { 1 } else { 2 };
                scores.iter().take(counted).sum::<f32>()
            };
            let mut groups: Vec<(usize, f32)> =
                order.chunks_exact(per_group).map(score).enumerate().collect();
            sort(&mut groups);
            groups.truncate(routing.groups_used);
            order.retain(|(i, _)| groups.iter().any(|(group, _)| *group == i / per_group));
        }
        sort(&mut order);
        order.truncate(*experts_used);
        // The shift decides who is chosen, not how much it counts.
        for (i, share) in &mut order {
            *share = all.get(*i).copied().unwrap_or(0.0);
        }
        if *shares == Shares::Before {
            for (_, share) in &mut order {
                sigmoid(slice::from_mut(share));
            }
        } else if *shares == Shares::OfChosen || routing.norm {
            let sum: f32 = order.iter().map(|(_, share)| share).sum();
            order.iter_mut().for_each(|(_, share)| *share /= sum);
        }
        if routing.scale != 1.0 {
            order.iter_mut().for_each(|(_, share)| *share *= routing.scale);
        }
        order
    }
}

/// The largest first, of equal ones the first.
fn sort(order: &mut [(usize, f32)]) {
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}
