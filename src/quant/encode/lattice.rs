//! Groups of weights on the points of a code book: which points are near, and which is nearest.
//!
//! The i-quants round every weight to a digit; if the digits spell a point of the book, that is the
//! result. If not, the points in the first few shells around the digits are tried in a fixed order and
//! the first with the smallest weighted squared distance wins (ggml `iq2_find_best_neighbour`,
//! `iq3_find_best_neighbour`, `iq1_find_best_neighbour2`). The shells depend on the digits alone, so
//! they are listed once per book (ggml `iq2xs_init_impl`, `iq3xs_init_impl`).

#![allow(clippy::needless_range_loop, reason = "an index names one number in several arrays")]

use crate::per_isa;
use crate::quant::grid;
use crate::quant::isa::Isa;
use std::sync::LazyLock;

/// How many neighbours are measured side by side.
pub const LANES: usize = 8;

/// A code book with the neighbours of every combination of digits.
///
/// A code is the digits of a group as bits, the first lowest: 8 digits of 2 bits or 4 of 3, so below 2^16 or 2^12.
/// Shell by shell its list has all points at the least squared distance from the digits, then those at the next. Which
/// of them wins depends on the numbers and their weights, so that is measured for each group anew.
pub struct Lattice {
    /// By code: `first << 8 | count` of its chunks.
    slots: Vec<u32>,
    /// Codes of neighbours; digits that are a point of the book have only themselves. A list of `n`
    /// chunks is read lane by lane: its first `n` entries are lane 0 of the chunks, the next `n` lane 1.
    /// The last neighbour is repeated to fill up.
    chunks: Vec<[u16; LANES]>,
    /// By code: the index of a point.
    indices: Vec<u16>,
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
///
/// Goes through all combinations of digits like an odometer, 3^8 = 6561 or 8^4 = 4096 of them, and measures each
/// against every point.
fn build<const N: usize>(name: &str, levels: u16, shells: usize) -> Lattice {
    let book = grid::book(name).expect("the book is embedded");
    let points = book.points::<N>(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let top = (0..N as u32).fold(0, |code, i| code | (levels - 1) << (book.bits * i));
    let len = usize::from(top) + 1;
    let mut lattice = Lattice { slots: vec![0; len], chunks: Vec::new(), indices: vec![0; len] };
    for (index, &code) in book.codes.iter().enumerate() {
        lattice.indices[usize::from(code)] = index as u16;
    }
    let mut digits = [0u16; N];
    let mut distances = vec![0u16; points.len()];
    loop {
        for (distance, point) in distances.iter_mut().zip(&points) {
            let gap = |i: usize| digits[i].abs_diff(point[i] as u16);
            *distance = (0..N).map(|i| gap(i) * gap(i)).sum();
        }
        let near = inner_shells(&distances, shells);
        let codes: Vec<u16> = near.iter().map(|&index| book.codes[index]).collect();
        let code = (0..N).fold(0, |code, i| code | digits[i] << (book.bits as usize * i));
        lattice.slots[usize::from(code)] = lattice.push(&codes);
        let Some(i) = digits.iter().position(|&digit| digit + 1 < levels) else { return lattice };
        digits[i] += 1;
        digits[..i].fill(0);
    }
}

/// The indices with the smallest `shells` different distances, by distance and then by index; only
/// the one at distance 0 if there is one.
fn inner_shells(distances: &[u16], shells: usize) -> Vec<usize> {
    let mut indices = Vec::new();
    let mut next = distances.iter().min().copied();
    for _ in 0..shells {
        let Some(radius) = next else { break };
        indices.extend((0..distances.len()).filter(|&index| distances[index] == radius));
        if radius == 0 {
            break;
        }
        next = distances.iter().filter(|&&distance| distance > radius).min().copied();
    }
    indices
}

impl Lattice {
    /// Adds a list of neighbours; returns its slot, `first << 8 | count`.
    fn push(&mut self, codes: &[u16]) -> u32 {
        let (first, count) = (self.chunks.len(), codes.len().div_ceil(LANES));
        let entry = |at: usize| codes[at.min(codes.len() - 1)];
        let chunk = |c| std::array::from_fn(|lane| entry(lane * count + c));
        self.chunks.extend((0..count).map(chunk));
        (first << 8 | count) as u32
    }

    /// The index in the book of a code that is one of its points.
    #[inline(always)]
    pub fn index(&self, code: u16) -> u16 {
        self.indices[usize::from(code)]
    }

    /// The point for these digits: themselves if they are one, or else the neighbour for which
    /// `sum w[i] * (scale * (a * digit[i] + b) - x[i])^2` is smallest, `levels` being `(a, b)`.
    ///
    /// Digits that are a point have one neighbour, themselves, which the search finds as well; only the portable copy
    /// asks before.
    #[inline(always)]
    pub fn nearest<const N: usize>(
        &self,
        isa: Isa,
        code: u16,
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        levels: (f32, f32),
    ) -> u16 {
        let slot = self.slots[usize::from(code)];
        let (first, count) = ((slot >> 8) as usize, (slot & 255) as usize);
        let chunks = &self.chunks[first..first + count];
        if isa == Isa::PORTABLE && chunks[0][0] == code {
            return code;
        }
        cheapest(isa, chunks, x, w, scale, levels)
    }
}

per_isa! {
    /// The neighbour with the smallest cost, the first of equals.
    fn cheapest<const N: usize>(
        chunks: &[[u16; LANES]],
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        levels: (f32, f32),
    ) -> u16 = nearest::<N>, avx2 x86::nearest::<N>;
}

/// See [`cheapest`].
#[inline(always)]
fn nearest<const N: usize>(
    chunks: &[[u16; LANES]],
    x: &[f32; N],
    w: &[f32; N],
    scale: f32,
    levels: (f32, f32),
) -> u16 {
    let mut best = [u32::MAX; LANES];
    let mut point = [0u32; LANES];
    for chunk in chunks {
        let mut sum = [0.0f32; LANES];
        for i in 0..N {
            for lane in 0..LANES {
                let digit = u32::from(chunk[lane]) >> (bits(N) * i as u32) & ((1 << bits(N)) - 1);
                let diff = scale * (digit as i32 as f32 * levels.0 + levels.1) - x[i];
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
    // Earlier lanes hold earlier neighbours.
    let least = best.iter().fold(u32::MAX, |a, &b| a.min(b));
    let mut winner = u32::MAX;
    for lane in 0..LANES {
        let key = (lane as u32) << 16 | point[lane];
        winner = winner.min(if best[lane] == least { key } else { u32::MAX });
    }
    winner as u16
}

/// Bits of a digit in books of `n` coordinates.
#[inline(always)]
const fn bits(n: usize) -> u32 {
    if n == 8 { 2 } else { 3 }
}

/// The search among neighbours with AVX2. What a digit costs in a coordinate is worked out once for
/// all digits and then looked up for eight neighbours at a time, by a shuffle that no plain loop gets
/// from the compiler; measured, that makes encoders 1.5 to 2 times as fast.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::LANES;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn nearest<const N: usize>(
        chunks: &[[u16; LANES]],
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        levels: (f32, f32),
    ) -> u16 {
        let (a, b) = levels;
        // Of two-bit digits only four of these are looked at, in each half.
        let digits = if N == 8 {
            _mm256_setr_ps(0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0)
        } else {
            _mm256_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
        };
        let level = _mm256_add_ps(_mm256_mul_ps(digits, _mm256_set1_ps(a)), _mm256_set1_ps(b));
        let value = _mm256_mul_ps(_mm256_set1_ps(scale), level);
        let mut cost = [_mm256_setzero_ps(); N];
        for i in 0..N {
            let diff = _mm256_sub_ps(value, _mm256_set1_ps(x[i]));
            cost[i] = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(w[i]), diff), diff);
        }
        let mut best = _mm256_set1_ps(f32::MAX);
        let mut place = _mm256_setzero_si256();
        for (at, chunk) in chunks.iter().enumerate() {
            let [a, b, c, d, e, f, g, h] = chunk.map(i32::from);
            let mut codes = _mm256_setr_epi32(a, b, c, d, e, f, g, h);
            let mut sum = _mm256_setzero_ps();
            for cost in cost {
                let looked_up = if N == 8 {
                    _mm256_permutevar_ps(cost, codes)
                } else {
                    _mm256_permutevar8x32_ps(cost, codes)
                };
                sum = _mm256_add_ps(sum, looked_up);
                codes = if N == 8 {
                    _mm256_srli_epi32::<2>(codes)
                } else {
                    _mm256_srli_epi32::<3>(codes)
                };
            }
            let closer = _mm256_cmp_ps::<_CMP_LT_OQ>(sum, best);
            let here = _mm256_set1_epi32(at as i32);
            place = _mm256_blendv_epi8(place, here, _mm256_castps_si256(closer));
            best = _mm256_min_ps(sum, best);
        }
        // Earlier lanes hold earlier neighbours, and the earliest of equals wins.
        let least = _mm256_min_ps(best, _mm256_permute2f128_ps::<1>(best, best));
        let least = _mm256_min_ps(least, _mm256_permute_ps::<0b01_00_11_10>(least));
        let least = _mm256_min_ps(least, _mm256_permute_ps::<0b10_11_00_01>(least));
        let equal = _mm256_cmp_ps::<_CMP_EQ_OQ>(best, least);
        let lane = _mm256_movemask_ps(equal).trailing_zeros() as usize % LANES;
        let place = _mm256_permutevar8x32_epi32(place, _mm256_set1_epi32(lane as i32));
        chunks[_mm256_cvtsi256_si32(place) as usize][lane]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_their_own_nearest() {
        let book = grid::book("iq3_s").unwrap();
        for (index, &code) in book.codes.iter().enumerate() {
            assert_eq!(
                IQ3_S.nearest(Isa::best(), code, &[9.0; 4], &[1.0; 4], 1.0, (2.0, 1.0)),
                code
            );
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
            assert_eq!(
                IQ2_XS.nearest(Isa::best(), code, &x, &w, 1.0, (2.0, 1.0)),
                book.codes[first]
            );
        }
    }
}
