//! Rounded vectors side by side, as the kernels of [`super`] and of [`super::tiled`] meet them.

use rayon::prelude::*;

use super::Kernel;
use crate::quant::{
    QuantType,
    activations::Codes,
    decode::whole::{SUPER, even_first},
    isa::{Isa, bytes::GROUP},
};

/// Vectors side by side: at the end of many, the last of them several times.
#[derive(Clone, Debug, Default)]
pub struct Group<F, const T: usize> {
    /// Their numbers; behind the last of them zeros, up to whole super-blocks.
    pub(super) q: Vec<F>,
    /// Of the numbers that have one scale, their sums times the negative bias.
    pub(super) offsets: Vec<[i32; T]>,
    pub(super) scales: Vec<[f32; T]>,
    pub(super) stated: Vec<[f32; T]>,
    /// Of each super-block, in pairs, the sums of the numbers that have one scale.
    pub(super) sums: Vec<[[[i16; 2]; T]; 8]>,
}

/// A group whose vectors meet rows that have a lane each.
pub type Eight = Group<[[i8; 4]; GROUP], GROUP>;

impl<F: Clone + Default + AsMut<[[i8; 4]]>, const T: usize> Group<F, T> {
    /// Makes `x` vector `t`, for rows of which `sub` numbers have one scale.
    fn place(&mut self, t: usize, x: &Codes, sub: usize) {
        // sum((v - bias) * q) = sum(v * q) - bias * sum(q): the second part is known before any row is.
        let fours = sub / 4;
        self.q.resize((x.q.len() / 4).next_multiple_of(SUPER / 4), F::default());
        self.offsets.resize(x.fours.len() / fours, [0; T]);
        self.scales.resize(x.scales.len(), [0.0; T]);
        self.stated.resize(x.stated.len(), [0.0; T]);
        self.sums.resize(x.sums.len(), [[[0; 2]; T]; 8]);
        self.q.iter_mut().zip(x.q.as_chunks().0).for_each(|(to, q)| to.as_mut()[t] = *q);
        let offsets = self.offsets.iter_mut().zip(x.fours.chunks_exact(fours));
        offsets.for_each(|(to, fours)| to[t] = fours.iter().sum());
        self.scales.iter_mut().zip(&x.scales).for_each(|(to, scale)| to[t] = *scale);
        self.stated.iter_mut().zip(&x.stated).for_each(|(to, stated)| to[t] = *stated);
        for (to, sums) in self.sums.iter_mut().zip(&x.sums) {
            for (i, to) in to.iter_mut().enumerate() {
                to[t] = match sub {
                    // Sums are of 16 numbers, those of even blocks first; of 32, two of them.
                    16 => [sums[even_first(2 * i)], sums[even_first(2 * i + 1)]],
                    _ => [2 * i, 2 * i + 1].map(|s| sums[s % 8] + sums[s % 8 + 8]),
                };
            }
        }
    }
}

impl Kernel {
    /// Rounds vectors of `cols` numbers, over all threads, and lays `T` of them side by side in each group.
    pub fn groups<F: Clone + Default + AsMut<[[i8; 4]]> + Send, const T: usize>(
        &self,
        isa: Isa,
        quant: QuantType,
        xs: &[f32],
        cols: usize,
    ) -> Vec<Group<F, T>> {
        let group = |xs: &[f32]| {
            let (mut group, mut codes) = (Group::default(), Codes::default());
            for t in 0..T {
                // At the end of many the last of them stands in for those that lack.
                if let Some(x) = xs.chunks(cols).nth(t) {
                    codes.fill(isa, quant, x, self.bias);
                }
                group.place(t, &codes, self.sub);
            }
            group
        };
        xs.par_chunks(T * cols).map(group).collect()
    }
}
