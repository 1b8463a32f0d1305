//! The code books of the i-quants, with what the digits of their points are worth.
//!
//! ```text
//! place 0x13, code w7..w0     with AVX-512: 32 places -> 32 codes -> digits -> levels     all in registers
//!                             else: 8 or 4 levels in the bytes of a word, loaded point by point
//! ```

use crate::quant::{
    grid,
    isa::{Isa, points::Words, row::Bytes},
};

/// A book of `N` points of `D` coordinates.
pub(super) struct Book<W, const N: usize, const D: usize> {
    codes: &'static [u16; N],
    /// What digits are worth.
    levels: [i8; 16],
    /// The coordinates of each point as the bytes of a word.
    pub words: [W; N],
}

/// Points of eight coordinates.
type Eights<const N: usize> = Book<u64, N, 8>;
/// Points of four.
type Fours<const N: usize> = Book<u32, N, 4>;

pub(super) static IQ2_XXS: Eights<256> = Eights::of(&grid::IQ2_XXS, [8, 25, 43]);
pub(super) static IQ2_XS: Eights<512> = Eights::of(&grid::IQ2_XS, [8, 25, 43]);
pub(super) static IQ2_S: Eights<1024> = Eights::of(&grid::IQ2_S, [8, 25, 43]);
pub(super) static IQ3_XXS: Fours<256> = Fours::of(&grid::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
pub(super) static IQ3_S: Fours<512> = Fours::of(&grid::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// In its first weeks the same book had the magnitudes of IQ3_XXS.
pub(super) static IQ3_S_V1: Fours<512> = Fours::of(&grid::IQ3_S, [4, 12, 20, 28, 36, 44, 52, 62]);
/// In eighths, with the bias of [`super::iquant::Iq1S`] and less one, which a delta above zero adds twice.
pub(super) static IQ1: Eights<2048> = Eights::of(&grid::IQ1, [7, 15, 23]);
pub(super) static IQ1_V1: Eights<512> = Eights::of(&grid::IQ1_V1, [-1, 0, 1]);

/// The largest book that is searched in registers: to load a larger one takes longer than to load 32 of its points.
const MOST_SEARCHED: usize = 1024;

/// Four or eight words, written out: a function that is handed to `map` is not compiled for the set.
macro_rules! words {
    ($of:ident $n:literal, $l:ident => $word:expr) => {{
        let mut words = [0; $n];
        for $l in 0..$n {
            words[$l] = $word;
        }
        Bytes::$of(words)
    }};
}

/// Levels of digits; of sixteen those beyond the last are not named.
const fn levels<const L: usize>(some: [i8; L]) -> [i8; 16] {
    let (mut all, mut i) = ([0; 16], 0);
    while i < L {
        all[i] = some[i];
        i += 1;
    }
    all
}

/// The coordinates of a point of `D` digits, the first in the lowest byte.
const fn word<const D: usize>(code: u16, levels: &[i8; 16]) -> u64 {
    let (mut word, mut i) = (0, 0);
    while i < D {
        let digit = if D == 8 { code >> (2 * i) & 3 } else { code >> (3 * i) & 7 };
        word |= (levels[digit as usize] as u8 as u64) << (8 * i);
        i += 1;
    }
    word
}

// Books are made while the program is compiled, so that no lookup asks whether they are there yet.

impl<const N: usize> Eights<N> {
    const fn of<const L: usize>(codes: &'static [u16; N], some: [i8; L]) -> Self {
        let levels = levels(some);
        let (mut words, mut i) = ([0; N], 0);
        while i < N {
            words[i] = word::<8>(codes[i], &levels);
            i += 1;
        }
        Book { codes, levels, words }
    }

    /// Points `4 * pair` to `4 * pair + 3` of those that `points` names.
    #[inline(always)]
    pub fn pair(&self, isa: Isa, points: &[Words; 2], pair: usize) -> Bytes {
        if Self::searched(isa) {
            let digits = isa.digits::<8>(points[0], pair / 2);
            return isa.leveled(digits[pair % 2], &self.levels);
        }
        let places = points[0].words()[pair];
        words!(of 4, l => self.words[(places >> (16 * l)) as usize % N])
    }
}

impl<const N: usize> Fours<N> {
    const fn of<const L: usize>(codes: &'static [u16; N], some: [i8; L]) -> Self {
        let levels = levels(some);
        let (mut words, mut i) = ([0; N], 0);
        while i < N {
            words[i] = word::<4>(codes[i], &levels) as u32;
            i += 1;
        }
        Book { codes, levels, words }
    }

    /// Points `8 * pair` to `8 * pair + 7` of those that `points` names.
    #[inline(always)]
    pub fn pair(&self, isa: Isa, points: &[Words; 2], pair: usize) -> Bytes {
        if Self::searched(isa) {
            let digits = isa.digits::<4>(points[pair / 4], pair / 2 % 2);
            return isa.leveled(digits[pair % 2], &self.levels);
        }
        let places = &points[pair / 4].words()[2 * (pair % 4)..][..2];
        words!(of_fours 8, k => self.words[(places[k / 4] >> (16 * (k % 4))) as usize % N])
    }
}

impl<W, const N: usize, const D: usize> Book<W, N, D> {
    /// Whether points are looked up in registers.
    #[inline(always)]
    fn searched(isa: Isa) -> bool {
        isa.searches_books() && N <= MOST_SEARCHED
    }

    /// What names the points at these places: their codes where books are searched, else the places.
    #[inline(always)]
    pub fn named(&self, isa: Isa, places: Words) -> Words {
        if Self::searched(isa) { isa.codes(places, self.codes) } else { places }
    }
}
