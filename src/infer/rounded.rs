//! Rows times vectors whose numbers were rounded to eight bits: `--activations q8`, as llama.cpp computes.
//!
//! Of the numbers that have one scale, 16 or 32 of a row and of a vector, the products are summed exactly, and only
//! such sums, or in super-blocks their sum times whole scales, meet the scales that are no whole numbers:
//!
//! ```text
//! block        sum += d * s * sum((v - bias) * q)                        v  stored, 8 bits     (quant::decode::whole)
//! super-block  sum += d * s * sum(scale * sum((v - bias) * q))           q  rounded, 8 bits    (quant::activations)
//!              minima: - dmin * s * sum(min * sum(q)), of blocks - dmin * stated
//! ```
//!
//! One vector meets rows along their numbers, four in each of sixteen lanes; block `b` of 32 has lanes `8 * (b % 2)`
//! and on. Several vectors share rows that are decoded once: [`STRIP`] rows are side by side, each in a lane, and so are
//! the vectors of a [`Group`](group::Group), four numbers at a time, so that what is loaded of either is used many
//! times:
//!
//! ```text
//! rows     [four numbers][row of the strip][4]     sum[t][row] += w[i][row] . x[i][t]
//! vectors  [four numbers][vector of the group][4]
//! ```
//!
//! Sums of whole numbers are the same in every order, and blocks are added from left to right: threads, instruction
//! sets and the number of vectors beyond one change no bit.

#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

pub use self::group::Eight;
use super::dot::{LANES, total};
use crate::{
    per_isa,
    quant::{
        QuantType,
        activations::Codes,
        decode::{
            iquant::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3SV1, Iq3Xxs},
            trits::{Tq1, Tq2},
            whole::{
                Head, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4, Q4K, Q4M, Q5, Q5K, Q5M, Q6K, Q8, SUPER,
                Whole, each_pair, even_first,
            },
        },
        isa::{
            Isa,
            bytes::{GROUP, Plain, Quads, Set},
            row::Bytes,
        },
    },
};

/// Rows side by side.
const STRIP: usize = 16;
/// Rows to hand to [`Kernel::many`] together: enough to use what was loaded of a vector again.
pub const ROWS: usize = 3 * STRIP;

/// Multiplies rows of a type with rounded vectors.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// What stored numbers have more than they mean.
    bias: u8,
    /// How many numbers have one scale.
    sub: usize,
    /// Whole rows with one vector.
    pub one: One,
    /// Rows with each of several vectors.
    pub many: Many,
    /// The same by tiles of AMX.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub tiled: tiled::Many,
}

/// Multiplies whole rows of `row_bytes` bytes with a vector.
type One = fn(isa: Isa, rows: &[u8], row_bytes: usize, x: &Codes, out: &mut [f32]);
/// Multiplies rows with vectors: `out` has, for each vector, a place for the product of each row.
type Many = fn(isa: Isa, rows: &[&[u8]], xs: &[Eight], out: &mut [&mut [f32]], room: &mut Room);

/// The kernel for rows of `cols` weights of type `quant`, where there is one.
pub fn kernel(quant: QuantType, cols: usize) -> Option<Kernel> {
    let name = quant.layout().kernel;
    let (_, elements, kernel) = KERNELS.iter().find(|(known, ..)| *known == name)?;
    cols.is_multiple_of(*elements).then_some(*kernel)
}

impl Kernel {
    /// Rounds a vector for rows of type `quant`.
    pub fn round(&self, isa: Isa, quant: QuantType, x: &[f32]) -> Codes {
        let mut codes = Codes::default();
        codes.fill(isa, quant, x, self.bias);
        codes
    }
}

/// What a strip's block has beside its numbers.
#[derive(Clone, Copy, Debug)]
struct Heads {
    d: [f32; STRIP],
    dmin: [f32; STRIP],
    /// For each 16 or 32 numbers of a super-block.
    scales: [[i32; STRIP]; 16],
    /// The same, in pairs.
    mins: [[[i16; 2]; STRIP]; 8],
}

impl Heads {
    /// For rows that a last strip lacks: a scale of zero makes sums of zero.
    const ZERO: Heads = Heads {
        d: [0.0; STRIP],
        dmin: [0.0; STRIP],
        scales: [[0; STRIP]; 16],
        mins: [[[0; 2]; STRIP]; 8],
    };

    /// What a block has beside its numbers and their scales.
    #[inline(always)]
    fn set<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
        &mut self,
        row: usize,
        head: &Head,
    ) {
        // The minimum is taken off: its sign is turned once here, and it is added everywhere.
        (self.d[row], self.dmin[row]) = (head.d, -head.dmin);
        if N == SUPER && W::MINIMA {
            for (i, mins) in self.mins.iter_mut().enumerate() {
                mins[row] = [2 * i, 2 * i + 1].map(|s| {
                    let at = if W::SUB == 16 { even_first(s) } else { s % 8 };
                    i16::from((head.mins >> (8 * at)) as u8)
                });
            }
        }
    }

    /// The whole scales of a super-block's numbers.
    #[inline(always)]
    fn set_scales<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
        &mut self,
        row: usize,
        head: &Head,
    ) {
        for s in 0..N / W::SUB {
            // A byte for each 16 numbers, so that of 32 every second one.
            self.scales[s][row] = i32::from((head.scales >> (8 * s * W::SUB / 16)) as i8);
        }
    }
}

/// Room for decoded rows and for sums, used again by the next call.
#[derive(Debug, Default)]
pub struct Room {
    quads: Vec<Quads>,
    heads: Vec<Heads>,
    sums: Vec<[[f32; STRIP]; GROUP]>,
}

/// Bytes between what is read and what is asked for.
const AHEAD: usize = 4096;

/// Whole numbers as floats: a loop, for `map` is a function, and where it is not inlined it has none of the set's
/// instructions.
#[inline(always)]
fn floats(from: [i32; LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for l in 0..LANES {
        out[l] = from[l] as f32;
    }
    out
}

/// Two rows at a time, from two places in memory: the machine fetches ahead for each by itself.
#[inline(always)]
fn one<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
    isa: Isa,
    rows: &[u8],
    row_bytes: usize,
    x: &Codes,
    out: &mut [f32],
) {
    let row = |r: usize| rows[r * row_bytes..][..row_bytes].as_chunks::<BYTES>().0;
    let half = out.len() / 2;
    for r in 0..half {
        [out[r], out[half + r]] = dots::<W, BYTES, N, 2>(isa, [row(r), row(half + r)], x);
    }
    if out.len() > 2 * half {
        [out[2 * half]] = dots::<W, BYTES, N, 1>(isa, [row(2 * half)], x);
    }
}

/// The products of `R` rows with one vector.
#[inline(always)]
fn dots<W: Whole<BYTES, N>, const BYTES: usize, const N: usize, const R: usize>(
    isa: Isa,
    rows: [&[[u8; BYTES]]; R],
    x: &Codes,
) -> [f32; R] {
    match N {
        SUPER => dots_of_super_blocks::<W, BYTES, N, R>(isa, rows, x),
        _ => dots_of_blocks::<W, BYTES, N, R>(isa, rows, x),
    }
}

/// Four parts of 64 numbers a super-block; lane `l` of a part has numbers 4l to 4l + 3, so four lanes share a scale of
/// 16 numbers.
#[inline(always)]
fn dots_of_super_blocks<W: Whole<BYTES, N>, const BYTES: usize, const N: usize, const R: usize>(
    isa: Isa,
    rows: [&[[u8; BYTES]]; R],
    x: &Codes,
) -> [f32; R] {
    let mut lanes = [[0.0; LANES]; R];
    let parts = x.q.as_chunks::<64>().0.as_chunks::<4>().0;
    let parts = parts.iter().zip(x.fours.as_chunks::<LANES>().0.as_chunks::<4>().0);
    for (b, ((q, fours), scale)) in parts.zip(&x.scales).enumerate() {
        for (row, lanes) in rows.iter().zip(&mut lanes) {
            let block = &row[b];
            isa.prefetch(block, AHEAD);
            let head = W::head(isa, block);
            let mut sums = [0; LANES];
            macro_rules! part {
                ($($n:literal)+) => {$(
                    let first = W::pair::<{ 2 * $n }>(isa, block, &head);
                    let w = [first, W::pair::<{ 2 * $n + 1 }>(isa, block, &head)];
                    let products = isa.quads(w, &q[$n], &fours[$n], W::BIAS, W::MOST);
                    isa.add_scaled(&mut sums, &products, head.scales, $n);
                )+};
            }
            part!(0 1 2 3);
            isa.add_product(lanes, &[head.d * scale; LANES], &floats(sums));
            if W::MINIMA {
                let (mut least, mut sums) = ([0.0; LANES], [0.0; LANES]);
                for l in 0..LANES {
                    sums[l] = f32::from(x.sums[b][l]);
                }
                isa.add_product(&mut least, &isa.numbers(head.mins, 0), &sums);
                isa.add_product(lanes, &[-head.dmin * scale; LANES], &least);
            }
        }
    }
    lanes.map(total)
}

/// Two blocks of 32 at a time.
#[inline(always)]
fn dots_of_blocks<W: Whole<BYTES, N>, const BYTES: usize, const N: usize, const R: usize>(
    isa: Isa,
    rows: [&[[u8; BYTES]]; R],
    x: &Codes,
) -> [f32; R] {
    let mut sums = Sums { lanes: [[0.0; LANES]; R], minima: [0.0; R] };
    // By number, for iterators over all of these together were kept in memory, a third of the loop.
    let pairs = rows[0].len() / 2;
    let parts = (x.q.as_chunks::<64>().0, x.fours.as_chunks::<LANES>().0);
    let beside = (x.scales.as_chunks::<2>().0, x.stated.as_chunks::<2>().0);
    let part = |b: usize| ((&parts.0[b], &parts.1[b]), (&beside.0[b], &beside.1[b]));
    for b in 0..pairs {
        for (i, row) in rows.iter().enumerate() {
            let [first, second] = &row.as_chunks::<2>().0[b];
            isa.prefetch(first, AHEAD);
            sums.add::<W, BYTES, N>(isa, i, [first, second], part(b));
        }
    }
    // Beside the last of an odd number of blocks there is an empty one, whose activations are zero.
    if rows[0].len() % 2 == 1 {
        for (i, last) in rows.iter().map(|row| row.last()).enumerate() {
            let two = [last.unwrap_or(&[0; BYTES]), &[0; BYTES]];
            sums.add::<W, BYTES, N>(isa, i, two, part(pairs));
        }
    }
    std::array::from_fn(|i| total(sums.lanes[i]) + sums.minima[i])
}

/// Sums of rows that grow block by block.
struct Sums<const R: usize> {
    lanes: [[f32; LANES]; R],
    minima: [f32; R],
}

/// Of two blocks of a vector the numbers with their sums, and the scales with the stated sums.
type TwoBlocks<'a> = ((&'a [i8; 64], &'a [i32; LANES]), (&'a [f32; 2], &'a [f32; 2]));

impl<const R: usize> Sums<R> {
    /// Adds two blocks of 32 to row `i`: they fill the sixteen lanes, eight each, four numbers to a lane.
    #[inline(always)]
    fn add<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
        &mut self,
        isa: Isa,
        i: usize,
        two: [&[u8; BYTES]; 2],
        ((q, fours), (scales, stated)): TwoBlocks,
    ) {
        let heads = [W::head(isa, two[0]), W::head(isa, two[1])];
        let sums = isa.quads(W::two(isa, two, &heads), q, fours, W::BIAS, W::MOST);
        let mut d = [heads[0].d * scales[0]; LANES];
        // Lanes 0 to 7 are the first block's, 8 to 15 the second's.
        d[LANES / 2..].fill(heads[1].d * scales[1]);
        isa.add_product(&mut self.lanes[i], &d, &floats(sums));
        if W::MINIMA {
            for (head, stated) in heads.iter().zip(stated) {
                self.minima[i] = isa.mul_add(-head.dmin, *stated, self.minima[i]);
            }
        }
    }
}

/// Rows in strips of sixteen with vectors in groups of eight; the rows of one step of columns are decoded before any
/// vector meets them.
///
/// ```text
/// for each 256 columns:  decode 48 rows into three strips        once
///     for each group:    for each strip:   sums += strip x group     many times
/// ```
#[inline(always)]
fn many<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
    isa: Isa,
    rows: &[&[u8]],
    xs: &[Eight],
    out: &mut [&mut [f32]],
    room: &mut Room,
) {
    let strips = rows.len().div_ceil(STRIP);
    let blocks = rows.first().map_or(0, |row| row.len() / BYTES);
    // As many as a super-block has weights: what is decoded stays in the nearest cache, 256 numbers of 48 rows, a
    // byte each, in 12 KB.
    let most = SUPER / N;
    room.quads.resize(strips * most * N / 4, Quads([[0; 4]; STRIP]));
    room.heads.resize(strips * most, Heads::ZERO);
    room.sums.clear();
    room.sums.resize(strips * xs.len(), [[0.0; STRIP]; GROUP]);
    for first in (0..blocks).step_by(most) {
        let some = most.min(blocks - first);
        for (i, row) in rows.iter().enumerate() {
            let bytes = &row.as_chunks::<BYTES>().0[first..first + some];
            let quads = room.quads[i / STRIP * most * N / 4..].chunks_exact_mut(N / 4);
            let heads = &mut room.heads[i / STRIP * most..];
            for ((block, quads), heads) in bytes.iter().zip(quads).zip(heads) {
                let head = W::head(isa, block);
                lay_out::<W, BYTES, N>(isa, block, &head, i % STRIP, quads);
                heads.set::<W, BYTES, N>(i % STRIP, &head);
                if N == SUPER {
                    heads.set_scales::<W, BYTES, N>(i % STRIP, &head);
                }
            }
        }
        for (g, x) in xs.iter().enumerate() {
            for strip in 0..strips {
                let sums = &mut room.sums[strip * xs.len() + g];
                let quads = &room.quads[strip * most * N / 4..][..some * N / 4];
                let heads = &room.heads[strip * most..][..some];
                let blocks = Blocks { first, quads, heads };
                #[cfg(target_arch = "x86_64")]
                if let Some(set) = isa.by_sixteen() {
                    blocks.add::<W, _, BYTES, N, GROUP>(set, x, sums);
                    continue;
                }
                // Half of the rows and four of the eight vectors at a time: four quarters of the same work.
                for (half, first) in [(0, 0), (0, 4), (1, 0), (1, 4)] {
                    #[cfg(target_arch = "x86_64")]
                    if let Some(set) = isa.by_eight(half, first) {
                        blocks.add::<W, _, BYTES, N, 4>(set, x, sums);
                        continue;
                    }
                    blocks.add::<W, _, BYTES, N, 4>(Plain { isa, half, first }, x, sums);
                }
            }
        }
    }
    for (t, out) in out.iter_mut().enumerate() {
        for (out, sums) in out.chunks_mut(STRIP).zip(room.sums.chunks_exact(xs.len())) {
            out.copy_from_slice(&sums[t / GROUP][t % GROUP][..out.len()]);
        }
    }
}

/// Puts a block's numbers into row `row` of a strip.
#[inline(always)]
fn lay_out<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
    isa: Isa,
    block: &[u8; BYTES],
    head: &Head,
    row: usize,
    quads: &mut [Quads],
) {
    // Eight bytes are two fours of numbers, one after the other in the row, one below the other in the strip.
    let put = |quads: &mut [Quads], pair: Bytes| {
        for (two, word) in quads.as_chunks_mut::<2>().0.iter_mut().zip(pair.words()) {
            two[0].0[row] = (word as u32).to_le_bytes();
            two[1].0[row] = ((word >> 32) as u32).to_le_bytes();
        }
    };
    if N < SUPER {
        return put(quads, W::pair::<0>(isa, block, head));
    }
    each_pair!(PAIR => { put(&mut quads[8 * PAIR..8 * PAIR + 8], W::pair::<PAIR>(isa, block, head)) });
}

/// Blocks of a strip, of which the first is the vectors' block `first`.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    first: usize,
    quads: &'a [Quads],
    heads: &'a [Heads],
}

impl Blocks<'_> {
    /// Adds the products with those vectors of a group that `set` computes to `sums`.
    #[inline(always)]
    fn add<W: Whole<BYTES, N>, S: Set<T>, const BYTES: usize, const N: usize, const T: usize>(
        self,
        set: S,
        x: &Eight,
        sums: &mut [[f32; STRIP]; GROUP],
    ) {
        let from = set.first();
        let sums = &mut sums[from..from + T];
        let mut all: [S::Float; T] = std::array::from_fn(|t| set.floats(&sums[t]));
        let q = &x.q[self.first * N / 4..][..self.quads.len()];
        let subs = self.quads.chunks_exact(W::SUB / 4).zip(q.chunks_exact(W::SUB / 4));
        let mut subs = subs.zip(&x.offsets[self.first * N / W::SUB..]);
        for (b, heads) in (self.first..).zip(self.heads) {
            let (d, scales) = (set.floats(&heads.d), &x.scales[b][from..from + T]);
            // The whole numbers of a block, exact in 32 bits; see `quant::decode::whole` for how large they get.
            let mut whole = [set.same(0); T];
            if N < SUPER {
                let Some(((quads, q), offsets)) = subs.next() else { break };
                whole = set.products(offsets, quads, q, W::BIAS, W::MOST);
            } else {
                let scales = &heads.scales[..SUPER / W::SUB];
                for (scale, ((quads, q), offsets)) in scales.iter().zip(&mut subs) {
                    let products = set.products(offsets, quads, q, W::BIAS, W::MOST);
                    let scale = set.wholes(scale);
                    for t in 0..T {
                        whole[t] = set.add_whole(whole[t], products[t], scale);
                    }
                }
            }
            for t in 0..T {
                all[t] = set.add_float(all[t], d, scales[t], whole[t]);
            }
            if !W::MINIMA {
                continue;
            }
            let dmin = set.floats(&heads.dmin);
            if N < SUPER {
                for t in 0..T {
                    all[t] = set.add_same(all[t], dmin, x.stated[b][from + t]);
                }
                continue;
            }
            // Minima in super-blocks: sum(min * sum(q)), two at a time.
            let mut least = [set.same(0); T];
            for (mins, x) in heads.mins[..SUPER / W::SUB / 2].iter().zip(&x.sums[b]) {
                for t in 0..T {
                    least[t] = set.add_pair(least[t], mins, x[from + t]);
                }
            }
            for t in 0..T {
                all[t] = set.add_float(all[t], dmin, scales[t], least[t]);
            }
        }
        for (all, sums) in all.into_iter().zip(sums) {
            set.store(all, sums);
        }
    }
}

macro_rules! kernels {
    ($($name:literal $kernel:ident $of:ty, $bytes:literal $elements:tt;)+) => {
        const KERNELS: &[(&str, usize, Kernel)] = &[$((
            $name,
            $elements,
            Kernel {
                bias: <$of as Whole<$bytes, $elements>>::BIAS,
                sub: <$of as Whole<$bytes, $elements>>::SUB,
                one: kernels::$kernel::one,
                many: kernels::$kernel::many,
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                tiled: kernels::$kernel::tiled,
            },
        )),+];

        mod kernels {
            $(pub(super) mod $kernel {
                use super::super::*;

                per_isa! {
                    pub fn one(rows: &[u8], row_bytes: usize, x: &Codes, out: &mut [f32])
                        = super::super::one::<$of, $bytes, $elements>[isa], up to avx2, and vnni;
                    pub fn many(
                        rows: &[&[u8]],
                        xs: &[Eight],
                        out: &mut [&mut [f32]],
                        room: &mut Room,
                    ) = super::super::many::<$of, $bytes, $elements>[isa], up to avx2, and vnni;
                }

                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                crate::quant::isa::tiles::with_tiles! {
                    pub fn tiled(
                        rows: &[&[u8]],
                        xs: &[tiled::Sixteen],
                        out: &mut [&mut [f32]],
                        room: &mut tiled::Room,
                    ) = super::super::tiled::many::<$of, $bytes, $elements>;
                }
            })+
        }
    };
}

kernels! {
    "q4_0_halves_f16" q4_0 Q4, 18 32;
    "q4_1_halves_f16" q4_1 Q4M, 20 32;
    "q5_0_halves" q5_0 Q5, 22 32;
    "q5_1_halves" q5_1 Q5M, 24 32;
    "q8_0_f16" q8_0 Q8, 34 32;
    "iq4_nl" iq4_nl Iq4Nl, 18 32;
    "mxfp4" mxfp4 Mxfp4, 17 32;
    "q2_k_256" q2_k Q2K, 84 256;
    "q3_k_256" q3_k Q3K, 110 256;
    "q4_k_256" q4_k Q4K, 144 256;
    "q5_k_256" q5_k Q5K, 176 256;
    "q6_k_256" q6_k Q6K, 210 256;
    "iq4_xs" iq4_xs Iq4Xs, 136 256;
    "iq1_s" iq1_s Iq1S, 50 256;
    "iq1_m" iq1_m Iq1M, 56 256;
    "iq2_xxs" iq2_xxs Iq2Xxs, 66 256;
    "iq2_xs" iq2_xs Iq2Xs, 74 256;
    "iq2_s" iq2_s Iq2S, 82 256;
    "iq3_xxs" iq3_xxs Iq3Xxs, 98 256;
    "iq3_s_v1" iq3_s_v1 Iq3SV1, 110 256;
    "iq3_s" iq3_s Iq3S, 110 256;
    "tq1_0" tq1_0 Tq1, 54 256;
    "tq2_0" tq2_0 Tq2, 66 256;
}

mod group;
#[cfg(test)]
mod tests;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod tiled;
