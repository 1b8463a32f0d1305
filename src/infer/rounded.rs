//! Rows times vectors whose numbers were rounded to eight bits: `--activations q8`, as llama.cpp computes.
//!
//! Of a block of a row and one of a vector the products of whole numbers are summed exactly, and only that sum meets
//! the scales:
//!
//! ```text
//! weight       d * v - dmin * min                            v of 16 bits (quant::decode::whole)
//! activation   s * q                                         q of 8 bits  (quant::activations)
//! their sum    d * s * sum(v * q)  -  dmin * s * sum(min * sum_of_16(q))
//!              where the block states its sum:  - dmin * stated
//! ```
//!
//! One vector meets rows along their numbers, in sixteen lanes. Many vectors share rows that are decoded once:
//! [`STRIP`] rows stand side by side, each in a lane, a pair of numbers at a time, and a pair of a vector meets them
//! all:
//!
//! ```text
//! [pair of numbers][row of the strip][2]      lane r += v[r][2p] * q[2p] + v[r][2p+1] * q[2p+1]
//! ```
//!
//! Sums of whole numbers are the same in every order, and blocks are added from left to right: threads, instruction
//! sets and the number of vectors beyond one change no bit.

#![allow(clippy::needless_range_loop, reason = "indices are what the compiler makes vectors of")]

use super::dot::{LANES, add, total};
use crate::{
    per_isa,
    quant::{
        QuantType,
        activations::Codes,
        decode::whole::{
            Head, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4, Q4K, Q4M, Q5, Q5K, Q5M, Q6K, Q8, SUPER, Whole,
        },
        isa::{Isa, Level},
    },
};

/// Rows side by side.
const STRIP: usize = 16;
/// Rows to hand to [`Kernel::many`] together: enough to use what was loaded of a vector again.
pub const ROWS: usize = 3 * STRIP;

/// Multiplies rows of a type with rounded vectors.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Whole rows with one vector.
    pub one: One,
    /// Rows with each of several vectors: the products of the first row, then those of the second, ….
    pub many: Many,
}

/// Multiplies whole rows of `row_bytes` bytes with a vector.
type One = fn(isa: Isa, rows: &[u8], row_bytes: usize, x: &Codes, out: &mut [f32]);
/// Multiplies rows with vectors.
type Many = fn(isa: Isa, rows: &[&[u8]], xs: &[Codes], out: &mut [f32], room: &mut Room);

/// The kernel for rows of `cols` weights of type `quant`, where there is one.
pub fn kernel(quant: QuantType, cols: usize) -> Option<Kernel> {
    let name = quant.layout().kernel;
    let (_, elements, kernel) = KERNELS.iter().find(|(known, ..)| *known == name)?;
    cols.is_multiple_of(*elements).then_some(*kernel)
}

/// A pair of numbers of each row of a strip.
type Pairs = [[i16; 2]; STRIP];

/// What a strip's block has beside its numbers.
#[derive(Clone, Copy, Debug)]
struct Heads {
    d: [f32; STRIP],
    dmin: [f32; STRIP],
    mins: [Pairs; 8],
}

/// Room for decoded rows and for sums, used again by the next call.
#[derive(Debug, Default)]
pub struct Room {
    pairs: Vec<Line>,
    heads: Vec<Heads>,
    sums: Vec<[f32; STRIP]>,
}

/// Numbers in one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line(Pairs);

/// Bytes between what is read and what is asked for.
const AHEAD: usize = 2048;

#[inline(always)]
fn one<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
    isa: Isa,
    rows: &[u8],
    row_bytes: usize,
    x: &Codes,
    out: &mut [f32],
) {
    let mut v = [0; N];
    for (row, out) in rows.chunks_exact(row_bytes).zip(out) {
        let (mut lanes, mut minima) = ([0.0; LANES], 0.0);
        let blocks = row.as_chunks().0.iter().zip(x.q.as_chunks::<N>().0).zip(&x.scales);
        for (b, ((bytes, q), scale)) in blocks.enumerate() {
            isa.prefetch(bytes, AHEAD);
            let head = W::decode(isa, bytes, &mut v);
            let mut sums = [0; LANES];
            for (v, q) in v.as_chunks().0.iter().zip(q.as_chunks().0) {
                isa.add_pairs(&mut sums, v, q);
            }
            isa.add_product(&mut lanes, &[head.d * scale; LANES], &sums.map(|sum| sum as f32));
            if W::MINIMA && N == SUPER {
                let mut least = [0.0; LANES];
                isa.add_product(&mut least, &head.mins, &x.sums[b].map(f32::from));
                isa.add_product(&mut lanes, &[-head.dmin * scale; LANES], &least);
            } else if W::MINIMA {
                minima = isa.mul_add(-head.dmin, x.stated[b], minima);
            }
        }
        *out = total(lanes) + minima;
    }
}

#[inline(always)]
fn many<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
    isa: Isa,
    rows: &[&[u8]],
    xs: &[Codes],
    out: &mut [f32],
    room: &mut Room,
) {
    // As many sums as registers hold.
    match isa.level() {
        Level::Avx512 => tiles::<W, BYTES, N, 16, 1, 6>(isa, rows, xs, out, room),
        Level::Avx2 | Level::Portable => tiles::<W, BYTES, N, 8, 2, 4>(isa, rows, xs, out, room),
    }
}

#[inline(always)]
fn tiles<
    W: Whole<BYTES, N>,
    const BYTES: usize,
    const N: usize,
    const L: usize,
    const P: usize,
    const T: usize,
>(
    isa: Isa,
    rows: &[&[u8]],
    xs: &[Codes],
    out: &mut [f32],
    room: &mut Room,
) {
    let (strips, count) = (rows.len().div_ceil(STRIP), xs.len());
    let blocks = rows.first().map_or(0, |row| row.len() / BYTES);
    // As many as a super-block has weights: what is decoded stays in the nearest cache.
    let most = SUPER / N;
    room.pairs.resize(strips * most * N / 2, Line([[0; 2]; STRIP]));
    room.heads.resize(
        strips * most,
        Heads { d: [0.0; STRIP], dmin: [0.0; STRIP], mins: [[[0; 2]; STRIP]; 8] },
    );
    room.sums.clear();
    room.sums.resize(strips * count, [0.0; STRIP]);
    for first in (0..blocks).step_by(most) {
        let some = most.min(blocks - first);
        for (i, row) in rows.iter().enumerate() {
            let bytes = &row.as_chunks::<BYTES>().0[first..first + some];
            let pairs = &mut room.pairs[i / STRIP * most * N / 2..];
            let heads = &mut room.heads[i / STRIP * most..];
            for ((bytes, pairs), heads) in
                bytes.iter().zip(pairs.chunks_exact_mut(N / 2)).zip(heads)
            {
                let mut v = [0; N];
                let head = W::decode(isa, bytes, &mut v);
                for (pair, v) in pairs.iter_mut().zip(v.as_chunks().0) {
                    pair.0[i % STRIP] = *v;
                }
                set_head(heads, i % STRIP, &head);
            }
        }
        for t in (0..count).step_by(T) {
            let mut group = [&xs[t]; T];
            for (i, x) in group.iter_mut().enumerate() {
                *x = &xs[(t + i).min(count - 1)]; // at the end the last again
            }
            for strip in 0..strips {
                let sums = &mut room.sums[strip * count..][..count];
                let pairs = &room.pairs[strip * most * N / 2..][..some * N / 2];
                let heads = &room.heads[strip * most..][..some];
                let sums = &mut sums[t..];
                add_blocks::<N, L, P, T>(isa, W::MINIMA, first, pairs, heads, group, sums);
            }
        }
    }
    for (r, out) in out.chunks_exact_mut(count).enumerate() {
        for (out, sums) in out.iter_mut().zip(&room.sums[r / STRIP * count..]) {
            *out = sums[r % STRIP];
        }
    }
}

#[inline(always)]
fn set_head(heads: &mut Heads, row: usize, head: &Head) {
    (heads.d[row], heads.dmin[row]) = (head.d, -head.dmin);
    for (pairs, mins) in heads.mins.iter_mut().zip(head.mins.as_chunks::<2>().0) {
        pairs[row] = mins.map(|min| min as i16);
    }
}

/// Adds the products of a strip's blocks, of which the first is the vectors' block `first`, with `T` vectors to as
/// many of `sums` as there are, in `P` parts of `L` lanes; `minima` says whether the weights have such.
#[inline(always)]
fn add_blocks<const N: usize, const L: usize, const P: usize, const T: usize>(
    isa: Isa,
    minima: bool,
    first: usize,
    pairs: &[Line],
    heads: &[Heads],
    xs: [&Codes; T],
    sums: &mut [[f32; STRIP]],
) {
    let q = xs.map(|x| &x.q.as_chunks::<N>().0[first..first + heads.len()]);
    for (b, (pairs, heads)) in pairs.chunks_exact(N / 2).zip(heads).enumerate() {
        let whole =
            whole_sums::<L, P, T>(isa, pairs.iter().map(|line| &line.0), q.map(|q| &q[b][..]));
        let least = match minima && N == SUPER {
            true => {
                whole_sums::<L, P, T>(isa, heads.mins.iter(), xs.map(|x| &x.sums[first + b][..]))
            }
            false => [[[0; L]; P]; T],
        };
        for (t, sums) in sums.iter_mut().take(T).enumerate() {
            let (x, block) = (xs[t], first + b);
            for p in 0..P {
                let [d, dmin] = [&heads.d, &heads.dmin].map(|all| &all.as_chunks::<L>().0[p]);
                let mut sum = sums.as_chunks::<L>().0[p];
                sum = add(isa, sum, &times(d, x.scales[block]), &floats(&whole[t][p]));
                if minima && N == SUPER {
                    sum = add(isa, sum, &times(dmin, x.scales[block]), &floats(&least[t][p]));
                } else if minima {
                    sum = add(isa, sum, dmin, &[x.stated[block]; L]);
                }
                sums.as_chunks_mut::<L>().0[p] = sum;
            }
        }
    }
}

#[inline(always)]
fn times<const L: usize>(all: &[f32; L], scale: f32) -> [f32; L] {
    let mut out = *all;
    for l in 0..L {
        out[l] *= scale;
    }
    out
}

#[inline(always)]
fn floats<const L: usize>(all: &[i32; L]) -> [f32; L] {
    let mut out = [0.0; L];
    for l in 0..L {
        out[l] = all[l] as f32;
    }
    out
}

/// Of each row of a strip, in `P` parts of `L` lanes, the sum of the products with each of `T` vectors.
#[inline(always)]
fn whole_sums<'a, const L: usize, const P: usize, const T: usize>(
    isa: Isa,
    pairs: impl Iterator<Item = &'a Pairs>,
    xs: [&[i16]; T],
) -> [[[i32; L]; P]; T] {
    let mut all = [[[0; L]; P]; T];
    for (i, pairs) in pairs.enumerate() {
        let parts = pairs.as_chunks::<L>().0;
        for t in 0..T {
            let x = xs[t].as_chunks::<2>().0[i];
            for p in 0..P {
                all[t][p] = isa.add_pair(all[t][p], &parts[p], x);
            }
        }
    }
    all
}

macro_rules! kernels {
    ($($name:literal $kernel:ident $of:ty, $bytes:literal $elements:tt;)+) => {
        const KERNELS: &[(&str, usize, Kernel)] = &[$((
            $name,
            $elements,
            Kernel { one: kernels::$kernel::one, many: kernels::$kernel::many },
        )),+];

        mod kernels {
            $(pub(super) mod $kernel {
                use super::super::*;

                per_isa! {
                    pub fn one(rows: &[u8], row_bytes: usize, x: &Codes, out: &mut [f32])
                        = super::super::one::<$of, $bytes, $elements>[isa];
                    pub fn many(rows: &[&[u8]], xs: &[Codes], out: &mut [f32], room: &mut Room)
                        = super::super::many::<$of, $bytes, $elements>[isa];
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::block::{Activations, Kind},
        quant::{activations, decode_rows, half::f32_from_half},
    };

    /// Rows of every byte, with halves that are finite.
    fn rows_of(quant: QuantType, height: usize, cols: usize) -> Vec<u8> {
        let row_bytes = quant.row_bytes(cols as u64).unwrap() as usize;
        let block = quant.layout().bytes;
        let mut rows: Vec<u8> =
            (0..height * row_bytes).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
        for (at, field) in &quant.layout().fields {
            if matches!(field.kind, Kind::F16) {
                rows.chunks_mut(block).for_each(|block| block[at + 1] &= 0xbb);
            }
        }
        if quant.layout().kernel == "mxfp4" {
            rows.chunks_mut(block).for_each(|block| block[0] = 120 + block[0] % 8);
        }
        rows
    }

    #[test]
    fn sums_of_whole_numbers_are_those_of_rounded_activations() {
        let mut seen = 0;
        for quant in QuantType::all() {
            let (cols, height) = (768, 21);
            let states = quant.block().activations == Some(Activations::Q8_1);
            let Some(kernel) = kernel(quant, cols) else {
                assert!(!states, "{quant}: only these kernels know of stated sums");
                continue;
            };
            seen += 1;
            let row_bytes = quant.row_bytes(cols as u64).unwrap() as usize;
            let rows = rows_of(quant, height, cols);
            let mut weights = vec![0.0; height * cols];
            decode_rows(quant, Isa::PORTABLE, &rows, cols, &mut weights);
            for count in [2, 4, 7, 13] {
                let x = |i: usize| ((i * 7919 % 1013) as f32 / 97.0 - 5.0) * (1 + i % 3) as f32;
                let mut xs: Vec<f32> = (0..count * cols).map(x).collect();
                let codes: Vec<Codes> =
                    xs.chunks(cols).map(|x| Codes::of(Isa::PORTABLE, quant, x)).collect();
                let mut one = vec![0.0; height];
                (kernel.one)(Isa::PORTABLE, &rows, row_bytes, &codes[1], &mut one);
                let borrowed: Vec<&[u8]> = rows.chunks(row_bytes).collect();
                let run = |isa| {
                    let mut out = vec![f32::NAN; height * count];
                    let mut room = Room { sums: vec![[f32::NAN; STRIP]; 999], ..Room::default() };
                    (kernel.many)(isa, &borrowed, &codes, &mut out, &mut room);
                    out.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
                };
                let all = run(Isa::PORTABLE);
                let mut stated = vec![0.0; count];
                for isa in Isa::available() {
                    assert_eq!(run(isa), all, "{quant}, {count} on {}", isa.name());
                    let mut out = vec![0.0; height];
                    (kernel.one)(isa, &rows, row_bytes, &codes[1], &mut out);
                    assert_eq!(out, one, "{quant}, one on {}", isa.name());
                    for (x, codes) in xs.chunks(cols).zip(&codes) {
                        let other = Codes::of(isa, quant, x);
                        assert_eq!((&other.q, &other.scales), (&codes.q, &codes.scales));
                    }
                }
                for (t, x) in xs.chunks_mut(cols).enumerate() {
                    activations::round(Isa::PORTABLE, quant, x);
                    // What the stated sum of each block has more than its numbers together.
                    let blocks = codes[t].q.chunks(activations::BLOCK).filter(|_| states);
                    let sums = blocks.map(|q| q.iter().map(|q| f32::from(*q)).sum::<f32>());
                    let beside: Vec<f32> = sums
                        .zip(codes[t].scales.iter().zip(&codes[t].stated))
                        .map(|(sum, (scale, stated))| stated - scale * sum)
                        .collect();
                    for r in 0..height {
                        let row = &weights[r * cols..][..cols];
                        let terms = row.iter().zip(&*x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                        let size: f64 = terms.clone().map(f64::abs).sum();
                        // The minimum is the second half of a block.
                        let row = rows[r * row_bytes..][..row_bytes].chunks(quant.layout().bytes);
                        let minima = row.map(|b| f32_from_half(u16::from_le_bytes([b[2], b[3]])));
                        let products =
                            minima.zip(&beside).map(|(m, b)| f64::from(m) * f64::from(*b));
                        let more: f64 = products.sum();
                        stated[t] += more.abs();
                        let expected = terms.sum::<f64>() + more;
                        let mut found = vec![f32::from_bits(all[r * count + t])];
                        if t == 1 {
                            found.push(one[r]);
                        }
                        for found in found {
                            let apart = (f64::from(found) - expected).abs();
                            assert!(
                                apart <= 1e-6 * size,
                                "{quant}: {found} for {expected} of {size}"
                            );
                        }
                    }
                }
                // What blocks state differs from what their numbers sum to, else nothing would be shown.
                assert!(!states || stated.iter().all(|more| *more > 0.0), "{quant}");
            }
        }
        assert_eq!(seen, KERNELS.len());
    }

    #[test]
    fn products_of_activations_that_are_not_finite_are_not() {
        for quant in QuantType::all() {
            let Some(kernel) = kernel(quant, SUPER) else { continue };
            let rows = rows_of(quant, 1, SUPER);
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = [1.0; SUPER];
                x[77] = wrong;
                let codes = vec![Codes::of(Isa::best(), quant, &x); 2];
                let mut out = [0.0; 2];
                (kernel.one)(Isa::best(), &rows, rows.len(), &codes[0], &mut out[..1]);
                assert!(!out[0].is_finite(), "{quant}, {wrong}: {out:?}");
                (kernel.many)(Isa::best(), &[&rows], &codes, &mut out, &mut Room::default());
                assert!(!out.iter().any(|x| x.is_finite()), "{quant}, {wrong}: {out:?}");
            }
        }
    }
}
