//! Chooses the next token: the likeliest, or one by chance among the likely.
//!
//! The filters run in the order of llama.cpp's `main`: repeat penalty, top-k, top-p, min-p,
//! temperature. Chance is PCG-XSH-RR 64/32 (O'Neill 2014), so a seed gives the same text for ever.

use super::functions::softmax;

/// How to choose.
///
/// The default takes the likeliest token, so that texts of two programs or files can be compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Below 1 sharpens, above 1 flattens; 0 takes the likeliest.
    pub temperature: f32,
    /// How many of the likeliest stay; 0 for all.
    pub top_k: usize,
    /// The likeliest that together have this share stay; 1 for all.
    pub top_p: f32,
    /// Those stay that are at least this share as likely as the likeliest; 0 for all.
    pub min_p: f32,
    /// Divides the logits of recent tokens; 1 for none.
    pub repeat_penalty: f32,
    /// How many tokens count as recent.
    pub repeat_last: usize,
    /// Start of the chance.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token every time.
    pub const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        repeat_last: 64,
        seed: 0,
    };
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling::GREEDY
    }
}

/// A [`Sampling`] with its chance and memory.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    recent: Vec<u32>,
}

impl Sampler {
    /// Starts from `sampling.seed`.
    pub fn new(sampling: Sampling) -> Sampler {
        let mut sampler = Sampler { sampling, state: 0, recent: Vec::new() };
        // PCG's own way of seeding: a step, the seed, a step.
        sampler.next();
        sampler.state = sampler.state.wrapping_add(sampling.seed);
        sampler.next();
        sampler
    }

    /// Counts `token`, of the prompt or chosen, as said.
    pub fn accept(&mut self, token: u32) {
        self.recent.push(token);
    }

    /// The next token after `logits`.
    ///
    /// `logits` has a number for each token of the vocabulary.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        self.penalise(&mut all);
        if temperature <= 0.0 {
            let better = |a: (u32, f32), b: (u32, f32)| if b.1 > a.1 { b } else { a };
            return all.into_iter().reduce(better).map_or(0, |(token, _)| token);
        }
        // Of equal logits the smaller token is first, so that a seed gives one text.
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if top_k > 0 {
            all.truncate(top_k);
        }
        // top-p and min-p are about shares at temperature 1, as in llama.cpp's order; the temperature comes last.
        let shares = shares(&all, 1.0);
        let mut sum = 0.0;
        let mut keep = 0;
        // The first always stays; each further one only while the sum before it is short.
        while keep < all.len() && (keep == 0 || (sum < top_p && shares[keep] >= min_p * shares[0]))
        {
            sum += shares[keep];
            keep += 1;
        }
        all.truncate(keep);
        let shares = self::shares(&all, temperature);
        // A point between 0 and 1, and the token in whose share it falls.
        let mut left = f64::from(self.next()) / f64::from(u32::MAX);
        for ((token, _), share) in all.iter().zip(&shares) {
            left -= f64::from(*share);
            if left <= 0.0 {
                return *token;
            }
        }
        all.last().map_or(0, |(token, _)| *token)
    }

    /// Makes recent tokens less likely: a positive logit is divided, a negative one multiplied.
    fn penalise(&self, all: &mut [(u32, f32)]) {
        let Sampling { repeat_penalty: penalty, repeat_last, .. } = self.sampling;
        if penalty == 1.0 {
            return;
        }
        let mut recent: Vec<u32> = self.recent.iter().rev().take(repeat_last).copied().collect();
        recent.sort_unstable();
        recent.dedup();
        for token in recent {
            if let Some((_, logit)) = all.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// 32 bits of chance: a linear congruential state of 64 bits, of which a permutation comes out.
    fn next(&mut self) -> u32 {
        let old = self.state;
        self.state =
            old.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(0x5851_f42d_4c95_7f2d);
        // Xorshift, high bits; then rotated by the top five, which the generator changes most.
        let mixed = (((old >> 18) ^ old) >> 27) as u32;
        mixed.rotate_right((old >> 59) as u32)
    }
}

/// Logits, the largest first, as shares of one.
fn shares(all: &[(u32, f32)], temperature: f32) -> Vec<f32> {
    // Less the largest, so that no exponential overflows.
    let most = all.first().map_or(0.0, |(_, logit)| *logit);
    let mut shares: Vec<f32> = all.iter().map(|(_, l)| (l - most) / temperature).collect();
    softmax(&mut shares);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        assert_eq!(Sampler::new(Sampling::GREEDY).choose(&[0.0, 3.0, -1.0, 3.0]), 1);
    }

    #[test]
    fn a_seed_decides_and_filters_hold() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 10) as f32 * 0.5).collect();
        let warm = Sampling { temperature: 0.8, seed: 7, ..Sampling::GREEDY };
        let say = |sampling: Sampling| {
            let mut sampler = Sampler::new(sampling);
            (0..200).map(|_| sampler.choose(&logits)).collect::<Vec<u32>>()
        };
        assert_eq!(say(warm), say(warm));
        assert_ne!(say(warm), say(Sampling { seed: 8, ..warm }));
        assert!(say(Sampling { top_k: 5, ..warm }).iter().all(|t| t % 10 == 9));
        assert!(say(Sampling { min_p: 0.7, ..warm }).iter().all(|t| t % 10 == 9));
        assert!(say(Sampling { top_p: 0.01, ..warm }).iter().all(|t| *t == 9));
        assert!(say(warm).iter().any(|t| t % 10 != 9));
    }

    #[test]
    fn repeating_costs() {
        let mut sampler = Sampler::new(Sampling { repeat_penalty: 2.0, ..Sampling::GREEDY });
        let logits = [1.0, 1.5, -3.0];
        assert_eq!(sampler.choose(&logits), 1);
        sampler.accept(1);
        assert_eq!(sampler.choose(&logits), 0);
    }
}
