//! Groups of weights on the points of a code book: which points are near, and which is nearest.
//!
//! The i-quants round every weight to a digit; if the digits spell a point of the book, that is the
//! answer. If not, the points in the first few shells around the digits are tried in a fixed order and
//! the first with the smallest weighted squared distance wins (ggml `iq2_find_best_neighbour`,
//! `iq3_find_best_neighbour`, `iq1_find_best_neighbour2`). The shells depend on the digits alone, so
//! they are listed once per book (ggml `iq2xs_init_impl`, `iq3xs_init_impl`).

use crate::quant::grid;
use std::sync::LazyLock;

/// How many neighbours are measured side by side.
pub const LANES: usize = 8;

/// Set in a slot whose digits are a point of the book; the rest of the slot is its index.
const ON_GRID: u32 = 1 << 31;

/// A code book with the neighbours of every combination of digits.
pub struct Lattice {
    /// By code: [`ON_GRID`] and the index of the point, or `first << 8 | count` of its chunks.
    slots: Vec<u32>,
    /// Codes of neighbours. A list of `n` chunks is read lane by lane: its first `n` entries are lane 0
    /// of the chunks, the next `n` lane 1. The last entry is repeated to fill up.
    chunks: Vec<[u16; LANES]>,
}

/// IQ2_XXS: 256 points, two shells.
pub static IQ2_XXS: LazyLock<Lattice> = LazyLock::new(|| build::<8>("iq2_xxs", 3, 2));
/// IQ2_XS: 512 points, two shells.
pub static IQ2_XS: LazyLock<Lattice> = LazyLock::new(|| build::<8>("iq2_xs", 3, 2));
/// IQ2_S: 1024 points, one shell.
pub static IQ2_S: LazyLock<Lattice> = LazyLock::new(|| build::<8>("iq2_s", 3, 1));
/// IQ1_S and IQ1_M: 2048 points, three shells.
pub static IQ1: LazyLock<Lattice> = LazyLock::new(|| build::<8>("iq1", 3, 3));
/// IQ3_XXS: 256 points, two shells.
pub static IQ3_XXS: LazyLock<Lattice> = LazyLock::new(|| build::<4>("iq3_xxs", 8, 2));
/// IQ3_S: 512 points, three shells.
pub static IQ3_S: LazyLock<Lattice> = LazyLock::new(|| build::<4>("iq3_s", 8, 3));

/// Lists the neighbours of every point of `N` digits below `levels`.
fn build<const N: usize>(name: &str, levels: u16, shells: usize) -> Lattice {
    let book = grid::book(name).expect("the book is embedded");
    let points = book.points::<N>(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let top = (0..N as u32).fold(0, |code, i| code | (levels - 1) << (book.bits * i));
    let mut lattice = Lattice { slots: vec![0; usize::from(top) + 1], chunks: Vec::new() };
    let mut digits = [0u16; N];
    let mut distances = vec![0u16; points.len()];
    loop {
        let code = (0..N).fold(0, |code, i| code | digits[i] << (book.bits as usize * i));
        lattice.slots[usize::from(code)] = match book.codes.iter().position(|&c| c == code) {
            Some(index) => ON_GRID | index as u32,
            None => {
                for (distance, point) in distances.iter_mut().zip(&points) {
                    let gap = |i: usize| digits[i].abs_diff(point[i] as u16);
                    *distance = (0..N).map(|i| gap(i) * gap(i)).sum();
                }
                let near = inner_shells(&distances, shells);
                let codes: Vec<u16> = near.iter().map(|&index| book.codes[index]).collect();
                lattice.push(&codes)
            }
        };
        let Some(i) = digits.iter().position(|&digit| digit + 1 < levels) else { return lattice };
        digits[i] += 1;
        digits[..i].fill(0);
    }
}

/// The indices with the smallest `shells` different distances, by distance and then by index.
fn inner_shells(distances: &[u16], shells: usize) -> Vec<usize> {
    let mut indices = Vec::new();
    let mut next = distances.iter().min().copied();
    for _ in 0..shells {
        let Some(radius) = next else { break };
        indices.extend((0..distances.len()).filter(|&index| distances[index] == radius));
        next = distances.iter().filter(|&&distance| distance > radius).min().copied();
    }
    indices
}

impl Lattice {
    fn push(&mut self, codes: &[u16]) -> u32 {
        let (first, count) = (self.chunks.len(), codes.len().div_ceil(LANES));
        let entry = |at: usize| codes[at.min(codes.len() - 1)];
        self.chunks.extend((0..count).map(|c| std::array::from_fn(|lane| entry(lane * count + c))));
        (first << 8 | count) as u32
    }

    /// The index in the book of a code that is one of its points.
    #[inline(always)]
    pub fn index(&self, code: u16) -> u16 {
        self.slots[usize::from(code)] as u16
    }

    /// The point for these digits: themselves if they are one, or else the neighbour for which
    /// `sum w[i] * (scale * (a * digit[i] + b) - x[i])^2` is smallest, `levels` being `(a, b)`.
    #[inline(always)]
    pub fn nearest<const N: usize>(
        &self,
        code: u16,
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        levels: (f32, f32),
    ) -> u16 {
        let slot = self.slots[usize::from(code)];
        if slot & ON_GRID != 0 {
            return code;
        }
        let (first, count) = ((slot >> 8) as usize, (slot & 255) as usize);
        let bits = const { if N == 8 { 2 } else { 3 } };
        let mut best = [u32::MAX; LANES];
        let mut point = [0u32; LANES];
        for chunk in &self.chunks[first..first + count] {
            let mut sum = [0.0f32; LANES];
            for i in 0..N {
                for lane in 0..LANES {
                    let digit = u32::from(chunk[lane]) >> (bits * i as u32) & ((1 << bits) - 1);
                    let q = digit as i32 as f32 * levels.0 + levels.1;
                    let diff = scale * q - x[i];
                    sum[lane] += w[i] * diff * diff;
                }
            }
            // No sum is negative, so the bits are in the order of the numbers, NaN last.
            for lane in 0..LANES {
                let closer = sum[lane].to_bits() < best[lane];
                point[lane] = if closer { u32::from(chunk[lane]) } else { point[lane] };
                best[lane] = if closer { sum[lane].to_bits() } else { best[lane] };
            }
        }
        // Earlier lanes hold earlier neighbours, and the earliest of equals wins.
        let least = best.iter().fold(u32::MAX, |a, &b| a.min(b));
        let mut winner = u32::MAX;
        for lane in 0..LANES {
            let key = (lane as u32) << 16 | point[lane];
            winner = winner.min(if best[lane] == least { key } else { u32::MAX });
        }
        winner as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_their_own_nearest() {
        let book = grid::book("iq3_s").unwrap();
        for (index, &code) in book.codes.iter().enumerate() {
            assert_eq!(IQ3_S.nearest(code, &[9.0; 4], &[1.0; 4], 1.0, (2.0, 1.0)), code);
            assert_eq!(usize::from(IQ3_S.index(code)), index);
        }
    }

    #[test]
    fn the_nearest_neighbour_is_the_first_of_the_least_distance() {
        let book = grid::book("iq2_xs").unwrap();
        let points = book.points::<8>(&[1, 3, 5]);
        let w = [1.0; 8];
        for code in (0..0xaaaa).filter(|c| c & c >> 1 & 0x5555 == 0 && !book.codes.contains(c)) {
            // At the digits themselves the order is by distance, then by index.
            let x: [f32; 8] = std::array::from_fn(|i| f32::from(code >> (2 * i) & 3) * 2.0 + 1.0);
            let distance = |p: &[i8; 8]| -> f32 {
                p.iter().zip(x).map(|(&q, x)| (f32::from(q) - x) * (f32::from(q) - x)).sum()
            };
            let first = (0..points.len())
                .min_by(|&a, &b| distance(&points[a]).total_cmp(&distance(&points[b])))
                .unwrap();
            assert_eq!(IQ2_XS.nearest(code, &x, &w, 1.0, (2.0, 1.0)), book.codes[first]);
        }
    }
}
