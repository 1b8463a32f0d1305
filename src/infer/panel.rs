//! Many rows times many vectors: how a prompt is read.
//!
//! `R` rows meet `T` vectors at a time: `R * T` sums grow in registers, and each number that is loaded
//! serves `R` or `T` of them. For that both are laid out in the order in which they are read, and the
//! columns are taken `STEPS` packs at a time, so that what is read again is still in the nearest caches:
//!
//! ```text
//! [group of R or T][pack of lanes][R or T][lane]
//! ```
//!
//! A tile of 6 rows and 4 vectors with AVX-512, lanes downward into the page:
//!
//! ```text
//!           x0   x1   x2   x3        each pack: load 6 + 4 registers, 24 fused multiply-adds
//!      w0   s00  s01  s02  s03
//!      …                             24 sums + 4 of x + 1 of w at a time: 29 of 32 registers
//!      w5   s50  s51  s52  s53
//! ```
//!
//! A pack of lanes fills one line of the cache, for a register that is loaded across two of them takes two loads. Of
//! the rows no more than `STEPS` packs are laid out at a time, and the sums wait in memory meanwhile. The order of
//! addition is that of [`super::dot`], so that a prompt read at once gives the bits of one read token by token.

#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

use rayon::prelude::*;

use super::dot::{LANES, add, total};
use crate::{
    per_isa,
    quant::isa::{Isa, Level},
};

/// Packs of lanes taken at a time: with 16 lanes 512 columns, 2 KB of each row and vector, so that what a tile reads
/// again is 20 KB.
const STEPS: usize = 32;

/// Rows to hand to [`multiply`] together: enough to use each vector often.
pub const ROWS: usize = 48;

/// A pack of lanes in one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line([f32; LANES]);

/// Room for what [`multiply`] lays out and for its sums, used again by the next call.
#[derive(Debug, Default)]
pub struct Room {
    rows: Vec<Line>,
    sums: Vec<Line>,
}

/// Lays out vectors of `n` numbers, over all threads.
pub fn lay_out(isa: Isa, xs: &[f32], n: usize) -> Vec<Line> {
    let (group, packs) = (tall(isa), n.div_ceil(LANES));
    let mut out = vec![Line([0.0; LANES]); (xs.len() / n).div_ceil(group) * group * packs];
    let groups = out.par_chunks_mut(group * packs).zip(xs.par_chunks(group * n));
    groups.for_each_init(Vec::new, |room, (out, xs)| {
        lay_out_in(isa, xs, n, room);
        out.copy_from_slice(room);
    });
    out
}

/// Vectors of a group: four, or three where registers are fewer (9 sums and 3 + 3 numbers in 16 of them).
fn tall(isa: Isa) -> usize {
    if isa.level() == Level::Avx512 { 4 } else { 3 }
}

/// As [`lay_out`], in memory that is there: for callers that lay out again and again, as attention does for each
/// block of queries.
pub fn lay_out_in(isa: Isa, xs: &[f32], n: usize, out: &mut Vec<Line>) {
    match isa.level() {
        Level::Avx512 => laid_out::<4>(xs, n, 0, n.div_ceil(LANES), out),
        _ => laid_out::<3>(xs, n, 0, n.div_ceil(LANES), out),
    }
}

/// Products of every row of `rows`, `n` numbers each, with each of the vectors that were laid out as `xs`: `out` has,
/// for each vector, a place for the product of each row.
pub fn multiply(
    isa: Isa,
    rows: &[f32],
    xs: &[Line],
    n: usize,
    out: &mut [&mut [f32]],
    room: &mut Room,
) {
    match isa.level() {
        Level::Avx512 => wide(isa, rows, xs, n, out, room),
        Level::Avx2 => middle(isa, rows, xs, n, out, room),
        Level::Portable => narrow(isa, rows, xs, n, out, room),
    }
}

// As many sums as registers hold, in numbers that the compiler was seen to keep there: other shapes run
// up to sixty times slower (`cargo bench --bench dot`).
per_isa! {
    fn wide(rows: &[f32], xs: &[Line], n: usize, out: &mut [&mut [f32]], room: &mut Room)
        = products::<16, 6, 4>[isa];
    fn middle(rows: &[f32], xs: &[Line], n: usize, out: &mut [&mut [f32]], room: &mut Room)
        = products::<8, 3, 3>[isa];
    fn narrow(rows: &[f32], xs: &[Line], n: usize, out: &mut [&mut [f32]], room: &mut Room)
        = products::<4, 3, 3>[isa];
}

/// Of vectors of `n` numbers the packs from `first` on, at most `most`, in groups of `N`, of which the last is
/// filled up with zeros.
#[inline(always)]
fn laid_out<const N: usize>(xs: &[f32], n: usize, first: usize, most: usize, out: &mut Vec<Line>) {
    let steps = most.min(n.div_ceil(LANES) - first);
    let columns = first * LANES..n.min((first + steps) * LANES);
    let count = xs.len() / n;
    // Places that no number is copied to must be zero, whatever an earlier call left there.
    if columns.len() < steps * LANES || !count.is_multiple_of(N) {
        out.clear();
    }
    out.resize(count.div_ceil(N) * steps * N, Line([0.0; LANES]));
    for (i, x) in xs.chunks_exact(n).enumerate() {
        // Vector i is place i % N of group i / N; its packs are N lines apart.
        let group = &mut out[i / N * steps * N..][..steps * N];
        let (packs, rest) = x[columns.clone()].as_chunks();
        for (line, pack) in group.iter_mut().skip(i % N).step_by(N).zip(packs) {
            line.0 = *pack;
        }
        if !rest.is_empty() {
            // The last pack of a row whose length is no multiple of the lanes; the zeros behind it add nothing.
            group[packs.len() * N + i % N].0[..rest.len()].copy_from_slice(rest);
        }
    }
}

#[inline(always)]
fn products<const L: usize, const R: usize, const T: usize>(
    isa: Isa,
    rows: &[f32],
    xs: &[Line],
    n: usize,
    out: &mut [&mut [f32]],
    room: &mut Room,
) {
    let (steps, height, count) = (n.div_ceil(LANES), rows.len() / n, out.len());
    // Sizes round up: a last tile of fewer rows or vectors is computed whole, with zeros, and not copied out.
    // Sums start at zero once and grow over all columns: a tile takes up where the last step left it.
    room.sums.clear();
    room.sums.resize(count.div_ceil(T) * height.div_ceil(R) * R * T, Line([0.0; LANES]));
    for first in (0..steps).step_by(STEPS) {
        let some = STEPS.min(steps - first);
        laid_out::<R>(rows, n, first, STEPS, &mut room.rows);
        let mut sums = room.sums.as_chunks_mut::<T>().0.as_chunks_mut::<R>().0.iter_mut();
        for x in xs.chunks_exact(T * steps) {
            let x = &x[first * T..(first + some) * T];
            for (w, sums) in room.rows.chunks_exact(R * some).zip(&mut sums) {
                // A set with 8 or 4 lanes to a register takes a line in 2 or 4 parts, each a tile of its own.
                for part in 0..LANES / L {
                    add_products::<L, R, T>(isa, part, w, x, sums);
                }
            }
        }
    }
    let mut sums = room.sums.as_chunks::<T>().0.as_chunks::<R>().0.iter();
    // Tiles follow as they were made: all rows for the first vectors, then for the next.
    for out in out.chunks_mut(T) {
        for r in (0..height).step_by(R) {
            let Some(sums) = sums.next() else { return };
            for (r, sums) in (r..height).zip(sums) {
                let totals = totals(isa, &sums.map(|line| line.0));
                for (out, total) in out.iter_mut().zip(totals) {
                    out[r] = total;
                }
            }
        }
    }
}

/// Each sum's lanes as one number.
#[inline(always)]
fn totals<const T: usize>(isa: Isa, sums: &[[f32; LANES]; T]) -> [f32; T] {
    let mut out = [0.0; T];
    let (fours, rest) = sums.as_chunks();
    let (to, to_rest) = out.as_chunks_mut();
    for (out, sums) in to.iter_mut().zip(fours) {
        *out = isa.totals(sums);
    }
    for (out, sum) in to_rest.iter_mut().zip(rest) {
        *out = total(*sum);
    }
    out
}

/// Adds the products of `R` rows with `T` vectors to `sums`, in `L` lanes of each.
#[inline(always)]
fn add_products<const L: usize, const R: usize, const T: usize>(
    isa: Isa,
    part: usize,
    w: &[Line],
    x: &[Line],
    sums: &mut [[Line; T]; R],
) {
    // An array that lives in registers from here to the stores: loops over R, T and L have known ends, so the
    // compiler unrolls them.
    let mut all = [[[0f32; L]; T]; R];
    for r in 0..R {
        for t in 0..T {
            all[r][t] = sums[r][t].0.as_chunks().0[part];
        }
    }
    for (w, x) in w.as_chunks::<R>().0.iter().zip(x.as_chunks::<T>().0) {
        for t in 0..T {
            for r in 0..R {
                let (w, x) = (&w[r].0.as_chunks().0[part], &x[t].0.as_chunks().0[part]);
                all[r][t] = add(isa, all[r][t], w, x);
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            sums[r][t].0.as_chunks_mut().0[part] = all[r][t];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::dot::dot;

    #[test]
    fn many_and_one_give_the_same_bits() {
        for (n, height, count) in [(16, 1, 1), (37, 7, 5), (1104, ROWS, 9), (520, 25, 4)] {
            let number = |i: usize| ((i * 7919) % 1013) as f32 / 97.0 - 5.0;
            let rows: Vec<f32> = (0..height * n).map(number).collect();
            let xs: Vec<f32> = (0..count * n).map(|i| number(i + 3)).collect();
            let pairs = xs
                .chunks(n)
                .flat_map(|x| rows.chunks(n).map(move |row| dot(Isa::PORTABLE, row, x)));
            let expected: Vec<u32> = pairs.map(f32::to_bits).collect();
            // What earlier calls left there does no harm.
            let mut room = Room {
                rows: vec![Line([f32::NAN; LANES]); 999],
                sums: vec![Line([f32::NAN; LANES]); 999],
            };
            for isa in Isa::available() {
                let mut out = vec![0.0; height * count];
                let mut places: Vec<&mut [f32]> = out.chunks_mut(height).collect();
                multiply(isa, &rows, &lay_out(isa, &xs, n), n, &mut places, &mut room);
                let bits: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
                assert_eq!(bits, expected, "{height} rows of {n}, {count} on {}", isa.name());
            }
        }
    }
}
