//! Types that are another type in another order of bits: rows that are together, as ik_llama.cpp interleaves
//! them for its kernels.
//!
//! A description's `relaid` says where each number of a unit is here and there. All orders are such that
//! each bit of a number's index moves it by a fixed distance, so a list of distances is the whole order:
//!
//! ```text
//! nibbles of four rows   byte 16l + 4k + i of row k:   low half i + 16(l % 2) + 4(l / 2), high half 8 more
//! index    bit 0  1  2   3  4        here, in bits    8  16  256  4  128      row k: bit 0  1
//!                                    there (halves)   8  16   32 64    4                32 64
//! ```
//!
//! The bits of all numbers become a list of moves of whole bits of bytes, which is what runs.

use super::{QuantType, loss::ScaleLoss};
use crate::format::block::Part;
use std::{collections::BTreeMap, sync::LazyLock};

/// The way of one type into the other order.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The type that has the other order.
    pub(crate) to: QuantType,
    from: QuantType,
    moves: Vec<Move>,
    /// Whether its own decoder gives zeros without a sign.
    pub(crate) plain_zero: bool,
}

/// Bits of a byte of a unit: turned round until they are in place, then those under the mask.
///
/// `out[to] ^= (unit[from] turned left by `turn`) & mask ^ flip`: all bits that keep their distance between two bytes
/// are one move.
#[derive(Clone, Copy, Debug)]
struct Move {
    /// The byte in a unit.
    from: u16,
    /// The row, and the byte of its blocks.
    row: u16,
    to: u16,
    turn: u8,
    mask: u8,
    flip: u8,
}

static RELAYS: LazyLock<Vec<Option<Relay>>> =
    LazyLock::new(|| QuantType::all().map(compiled).collect());

/// The way of `q` into another order, if it is one.
pub(crate) fn of(q: QuantType) -> Option<&'static Relay> {
    RELAYS.get(q.index())?.as_ref()
}

/// The moves of a type whose description says `relaid`; none for the others.
fn compiled(from: QuantType) -> Option<Relay> {
    let mut relaid = from.block().relaid.as_ref()?;
    let named = |to: &str| {
        let found = to.split_once('/').and_then(|(name, dialect)| QuantType::find(name, dialect));
        found.expect("a test finds the type that a description names")
    };
    let mut to = named(&relaid.to);
    // The same bytes under another number.
    if let (true, Some(same)) = (relaid.parts.is_empty(), &to.block().relaid) {
        relaid = same;
        to = named(&relaid.to);
    }
    // Which bits of a byte go to which byte, by how far they turn.
    let mut all: BTreeMap<(usize, usize, usize, usize), (u8, u8)> = BTreeMap::new();
    for part in &relaid.parts {
        for row in 0..from.row_group() {
            for number in 0..1usize << part.steps.len() {
                let (here, there) = places(part, row, number);
                for bit in 0..part.bits {
                    let (here, there) = (here + bit, there + bit);
                    let turn = (8 + there % 8 - here % 8) % 8;
                    let (mask, flip) =
                        all.entry((row, there / 8, here / 8, turn)).or_insert((0, 0));
                    *mask |= 1 << (there % 8);
                    *flip |=
                        ((part.flip.checked_shr(bit as u32).unwrap_or(0) & 1) as u8) << (there % 8);
                }
            }
        }
    }
    let short = |n: usize| u16::try_from(n).expect("a unit is below 64 kB");
    let moves = all.into_iter().map(|((row, to, from, turn), (mask, flip))| Move {
        from: short(from),
        row: short(row),
        to: short(to),
        turn: turn as u8,
        mask,
        flip,
    });
    Some(Relay { to, from, moves: moves.collect(), plain_zero: relaid.plain_zero })
}

/// Where a number of a row is in a unit, and where in the blocks of its row.
///
/// Both in bits. Bit `n` of the number's index adds step `n`, bit `n` of the row adds step `n` of the rows.
fn places(part: &Part, row: usize, number: usize) -> (usize, usize) {
    let moved = |steps: &mut dyn Iterator<Item = usize>, index: usize| -> usize {
        steps.enumerate().filter(|(bit, _)| index >> bit & 1 == 1).map(|(_, step)| step).sum()
    };
    let here = moved(&mut part.steps.iter().map(|step| step[0]), number)
        + moved(&mut part.rows.iter().copied(), row);
    let there = moved(&mut part.steps.iter().map(|step| step[1]), number);
    (part.here + here, part.there + there)
}

impl Relay {
    /// Bytes of a row in the other order.
    pub(crate) fn bytes(&self, row_len: usize) -> usize {
        self.to.row_bytes(row_len as u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    /// Lays whole groups of rows of `row_len` weights into the other order. What rows begin with goes along; where
    /// the other type has more there, that is zero.
    pub(crate) fn run(&self, row_len: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
        let (here, there) = (self.from.layout(), self.to.layout());
        let row = self.bytes(row_len);
        let group = here.front * here.rows + row_len / here.elements * here.bytes;
        let blocks = here.elements / there.elements * there.bytes;
        out.fill(0);
        let front = here.front.min(there.front);
        let groups =
            input.chunks_exact(group.max(1)).zip(out.chunks_exact_mut((row * here.rows).max(1)));
        for (group, out) in groups {
            let (fronts, units) = group.split_at(here.front * here.rows);
            for (k, out) in out.chunks_exact_mut(row).enumerate() {
                out[..front].copy_from_slice(&fronts[k * here.front..][..front]);
            }
            for (i, unit) in units.chunks_exact(here.bytes).enumerate() {
                let first = there.front + i * blocks;
                for m in &self.moves {
                    let byte = unit[usize::from(m.from)].rotate_left(m.turn.into()) & m.mask;
                    out[usize::from(m.row) * row + first + usize::from(m.to)] ^= byte ^ m.flip;
                }
            }
        }
        let elements = there.elements.max(1) * row.max(1);
        ScaleLoss { blocks: (out.len() * row_len / elements) as u64, ..ScaleLoss::default() }
    }
}
