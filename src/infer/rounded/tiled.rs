//! Many rows times many rounded vectors by tiles of AMX: sixteen rows, sixteen vectors, 64 numbers in one step.
//!
//! The sums are those of [`super`], bit for bit; rows and vectors have changed places, so that the numbers of a row
//! stay beside each other when it is decoded, and a lane is a vector.
//!
//! What a tile sums cannot be multiplied with a scale on the way. In super-blocks the whole scales therefore meet the
//! weights first, once for all vectors. Of the product, 13 bits and a sign at most, a tile takes two bytes:
//!
//! ```text
//! scale * (v - bias) = 64 * upper + lower          upper -128 to 127, lower 0 to 63
//!
//! super-block  sum += d * s * (64 * sum(upper * q) + sum(lower * q))        256 numbers in eight steps
//! block        sum += d * s * sum((v - bias) * q)                           32 numbers in a step
//! ```

use super::{Head, Heads, SUPER, Whole, each_pair, group::Group};
use crate::quant::isa::{
    Isa,
    bytes::Set,
    tiles::{Configured, Fours, ROW, Strip, Sums, TILE, Tiles},
};

/// A group whose vectors have a lane each.
pub type Sixteen = Group<Fours, TILE>;

/// Multiplies rows with vectors: `out` has, for each vector, a place for the product of each row.
pub type Many =
    fn(tiles: Tiles, rows: &[&[u8]], xs: &[Sixteen], out: &mut [&mut [f32]], room: &mut Room);

/// Room for decoded rows and for sums, used again by the next call.
#[derive(Debug, Default)]
pub struct Room {
    /// Sixteen rows' numbers, or the upper parts of what they are times their scales.
    upper: Vec<Lines>,
    /// The lower parts.
    lower: Vec<Lines>,
    heads: Vec<Heads>,
    /// Of each strip and group: `[row][vector]`.
    sums: Vec<[[f32; TILE]; TILE]>,
}

/// A strip that starts with a line of the cache.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Lines(Strip);

/// As [`super::many`].
#[inline(always)]
pub(super) fn many<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
    isa: Isa,
    tiles: Tiles,
    rows: &[&[u8]],
    xs: &[Sixteen],
    out: &mut [&mut [f32]],
    room: &mut Room,
) {
    let Some(set) = isa.by_sixteen() else { return };
    let configured = tiles.configured();
    let mut whole = [Sums::ZERO; 2];
    let strips = rows.len().div_ceil(TILE);
    let blocks = rows.first().map_or(0, |row| row.len() / BYTES);
    // As many as fill a row of a strip.
    let most = SUPER / N;
    room.upper.resize(strips, Lines([[0; ROW]; TILE]));
    room.lower.resize(strips, Lines([[0; ROW]; TILE]));
    room.heads.resize(strips * most, Heads::ZERO);
    room.sums.clear();
    room.sums.resize(strips * xs.len(), [[0.0; TILE]; TILE]);
    for first in (0..blocks).step_by(most) {
        let some = most.min(blocks - first);
        for (i, row) in rows.iter().enumerate() {
            let bytes = &row.as_chunks::<BYTES>().0[first..first + some];
            let (strip, row) = (i / TILE, i % TILE);
            let (upper, lower) = (&mut room.upper[strip].0[row], &mut room.lower[strip].0[row]);
            let heads = &mut room.heads[strip * most..];
            let parts = upper.chunks_exact_mut(N).zip(lower.chunks_exact_mut(N));
            for ((block, (upper, lower)), heads) in bytes.iter().zip(parts).zip(heads) {
                let head = W::head(isa, block);
                lay_out::<W, BYTES, N>(isa, tiles, block, &head, upper, lower);
                heads.set::<W, BYTES, N>(row, &head);
            }
        }
        for (g, x) in xs.iter().enumerate() {
            for strip in 0..strips {
                let blocks = Blocks {
                    first,
                    upper: &room.upper[strip].0,
                    lower: &room.lower[strip].0,
                    heads: &room.heads[strip * most..][..some],
                };
                let sums = &mut room.sums[strip * xs.len() + g];
                blocks.add::<W, _, BYTES, N>(set, &configured, x, &mut whole, sums);
            }
        }
    }
    for (t, out) in out.iter_mut().enumerate() {
        for (out, sums) in out.chunks_mut(TILE).zip(room.sums.chunks_exact(xs.len())) {
            let sums = &sums[t / TILE];
            out.iter_mut().zip(sums).for_each(|(out, row)| *out = row[t % TILE]);
        }
    }
}

/// Puts a block's numbers where they lie in a row.
#[inline(always)]
fn lay_out<W: Whole<BYTES, N>, const BYTES: usize, const N: usize>(
    isa: Isa,
    tiles: Tiles,
    block: &[u8; BYTES],
    head: &Head,
    upper: &mut [i8],
    lower: &mut [i8],
) {
    if N < SUPER {
        let pair = isa.signed(W::pair::<0>(isa, block, head), 0, W::BIAS.wrapping_neg());
        upper.iter_mut().zip(pair.array()).for_each(|(to, byte)| *to = byte as i8);
        return;
    }
    let (upper, lower) = (upper.as_chunks_mut::<32>().0, lower.as_chunks_mut::<32>().0);
    each_pair!(PAIR => {
        let pair = W::pair::<PAIR>(isa, block, head);
        let words = isa.scaled(pair, W::BIAS.into(), head.scales, PAIR);
        let parts = tiles.parts(&words);
        (upper[PAIR], lower[PAIR]) = (parts.upper, parts.lower);
    });
}

/// Blocks of a strip, of which the first is the vectors' block `first`.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    first: usize,
    upper: &'a Strip,
    lower: &'a Strip,
    heads: &'a [Heads],
}

impl Blocks<'_> {
    /// Adds the products with a group to `sums`; `whole` is room for what tiles sum.
    #[inline(always)]
    fn add<W: Whole<BYTES, N>, S: Set<8>, const BYTES: usize, const N: usize>(
        self,
        set: S,
        tiles: &Configured,
        x: &Sixteen,
        whole: &mut [Sums; 2],
        sums: &mut [[f32; TILE]; TILE],
    ) {
        let columns = self.first * N / SUPER;
        let Some(q) = x.q.as_chunks::<{ ROW / 4 }>().0.get(columns) else { return };
        let mut all: [S::Float; TILE] = std::array::from_fn(|r| set.floats(&sums[r]));
        for (i, heads) in self.heads.iter().enumerate() {
            let b = self.first + i;
            let scales = set.floats(&x.scales[b]);
            if N < SUPER {
                // Two at a time, so that one is multiplied while the other is stored.
                if i % 2 == 0 {
                    tiles.two_blocks(self.upper, i, q, whole);
                }
                for r in 0..TILE {
                    let whole = set.wholes(&whole[i % 2].0[r]);
                    all[r] = set.add_float(all[r], scales, heads.d[r], whole);
                }
            } else {
                tiles.super_block([self.upper, self.lower], q, whole);
                let [upper, lower] = &*whole;
                let places = set.same(64);
                for r in 0..TILE {
                    let (upper, lower) = (set.wholes(&upper.0[r]), set.wholes(&lower.0[r]));
                    let whole = set.add_whole(lower, upper, places);
                    all[r] = set.add_float(all[r], scales, heads.d[r], whole);
                }
            }
            if !W::MINIMA {
                continue;
            }
            if N < SUPER {
                let stated = set.floats(&x.stated[b]);
                for r in 0..TILE {
                    all[r] = set.add_same(all[r], stated, heads.dmin[r]);
                }
                continue;
            }
            for r in 0..TILE {
                let mut least = set.same(0);
                for (mins, x) in heads.mins[..SUPER / W::SUB / 2].iter().zip(&x.sums[b]) {
                    least = set.add_pair(least, x, mins[r]);
                }
                all[r] = set.add_float(all[r], scales, heads.dmin[r], least);
            }
        }
        for (all, sums) in all.into_iter().zip(sums) {
            set.store(all, sums);
        }
    }
}
