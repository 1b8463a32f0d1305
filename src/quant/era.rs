//! Types that had one number and one size at different times: what their bytes say of them.
//!
//! | types | what tells |
//! |---|---|
//! | iq1_s v1, v2, v3 | the upper bits of its words: scales in every nibble, in four bits of the last, in three |
//! | iq2_kt, iq3_kt v1, v2 | levels that the wrong generator makes of the indices are its average ones; those of the right one were chosen |
//! | rows by four or by eight | the scales of a group that is read wrongly are partly levels, of any magnitude |
//! | iq3_s v1, v2 | nothing: only one level of the book differs, by a thirtieth |
//!
//! The bounds of iq1_s are from six original files of two models; what falls between them is left open.

use super::{
    QuantType,
    decode::trellis::{LEVELS, levels},
    half::f32_from_half,
};
use crate::format::block::Kind;

/// Tensors that are looked at, and rows of each.
pub const TENSORS: usize = 32;
/// Rows of a tensor that are looked at.
pub const ROWS: u64 = 64;

/// What bytes say of types between which sizes do not choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Told {
    /// They are of this one.
    As(QuantType),
    /// They may be of any.
    Either,
    /// There are too few of them, or it makes no difference.
    Unasked,
}

/// What rows of these lengths say.
pub fn tell(types: &[QuantType], samples: &[(usize, Vec<u8>)]) -> Told {
    let find = |dialect: &str| types.iter().copied().find(|q| q.dialect() == dialect);
    let told = |dialect: &str| find(dialect).map_or(Told::Either, Told::As);
    match types.first().map(|q| q.name()) {
        Some("iq1_s") => match iq1_s(samples) {
            Era::Of(dialect) => told(dialect),
            Era::Open => Told::Either,
            Era::Few => Told::Unasked,
        },
        Some("iq2_kt") => trellis(samples, 68).map_or(Told::Either, told),
        Some("iq3_kt") => trellis(samples, 100).map_or(Told::Either, told),
        Some("iq3_s") | None => Told::Unasked,
        Some(_) => scales(types, samples),
    }
}

enum Era {
    Of(&'static str),
    Open,
    Few,
}

/// Words of IQ1_S that are too few to count bits of.
const FEW_WORDS: usize = 256;

/// By the eight words at the end of each block: the entropy of the three low bits of its nibbles, and how often the
/// highest bit is set.
fn iq1_s(samples: &[(usize, Vec<u8>)]) -> Era {
    let mut counts = [[0usize; 8]; 3];
    let (mut high, mut all) = (0usize, 0usize);
    let blocks = samples.iter().flat_map(|(_, bytes)| bytes.as_chunks::<50>().0);
    for word in blocks.flat_map(|block| block[34..].as_chunks::<2>().0) {
        // v1   16 nibbles of {index bit, three bits of scale}       every nibble's top bit is a coin
        // v2   scale:4 | high bits of four indices:3 each           the top bit is set, for the scale is mostly large
        // v3   shift:1 | scale:3 | the same                         the top bit is a coin
        let word = u16::from_le_bytes(*word);
        for (nibble, counts) in counts.iter_mut().enumerate() {
            counts[usize::from(word >> (4 * nibble) & 7)] += 1;
        }
        high += usize::from(word >> 15);
        all += 1;
    }
    if all < FEW_WORDS {
        return Era::Few;
    }
    let share = |n: usize| n as f64 / all as f64;
    let bits = |n: &usize| if *n == 0 { 0.0 } else { -share(*n) * share(*n).log2() };
    // Index bits of a code book are near evenly spread, 3 bits; scales are not.
    let entropies = counts.map(|counts| counts.iter().map(bits).sum::<f64>());
    let (low, top) = (entropies.iter().all(|e| *e < 2.7), share(high));
    match (low, entropies.iter().all(|e| *e > 2.85)) {
        (true, _) if (0.4..0.6).contains(&top) => Era::Of("v1"),
        (_, true) if top > 0.85 => Era::Of("v2"),
        (_, true) if top < 0.65 => Era::Of("v3"),
        _ => Era::Open,
    }
}

/// By the spread of the levels of blocks of 32, against what a generator makes of any indices: the reading that
/// is like that is the wrong one, if the other is not.
fn trellis(samples: &[(usize, Vec<u8>)], bytes: usize) -> Option<&'static str> {
    let read = |old: bool| {
        let mut found = Spread::default();
        for (row_len, sample) in samples {
            let row = 4 + row_len / 256 * bytes;
            for block in sample.chunks_exact(row).flat_map(|row| row[4..].chunks_exact(bytes)) {
                for words in block[4..68].as_chunks::<8>().0 {
                    let words = words.as_chunks::<2>().0.iter().map(|w| u16::from_le_bytes(*w));
                    found.add(words, old);
                }
            }
        }
        let mut any = Spread::default();
        // Not random in earnest: any indices do, and the same ones every time.
        let mut x = 1u32;
        for _ in 0..ANY {
            let words = std::array::from_fn::<u16, 4, _>(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 16) as u16
            });
            any.add(words.into_iter(), old);
        }
        found.distance(&any)
    };
    let (first, since) = (read(true)?, read(false)?);
    // In standard errors: chosen levels are far from average, unchosen ones are not.
    let right = |this: f64, other: f64| this > 8.0 && this > 2.5 * other;
    match (right(first, since), right(since, first)) {
        (true, false) => Some("v1"),
        (false, true) => Some("v2"),
        _ => None,
    }
}

/// Blocks of random indices to compare with.
const ANY: usize = 1 << 14;
/// Blocks that are too few to compare.
const FEW: f64 = 100.0;

/// Sums over blocks of the root mean square of their levels and of the largest, and of the squares of these.
#[derive(Default)]
struct Spread {
    blocks: f64,
    sums: [[f64; 4]; 2],
}

impl Spread {
    fn add(&mut self, words: impl Iterator<Item = u16>, old: bool) {
        let (mut squares, mut largest) = (0.0f64, 0.0f64);
        for level in words.flat_map(|word| levels(word, old)) {
            squares += f64::from(level) * f64::from(level);
            largest = largest.max(f64::from(level).abs());
        }
        let root = (squares / (4.0 * LEVELS as f64)).sqrt();
        for (sums, x) in self.sums.iter_mut().zip([root, largest]) {
            for (power, sum) in (1..).zip(sums) {
                *sum += x.powi(power);
            }
        }
        self.blocks += 1.0;
    }

    /// How far means and variances are from those of another, in standard errors; none where there are few.
    fn distance(&self, any: &Spread) -> Option<f64> {
        if self.blocks < FEW {
            return None;
        }
        let mut most = 0.0f64;
        for (own, all) in self.sums.iter().zip(&any.sums) {
            let mean = |sums: &[f64; 4], n: f64| sums[0] / n;
            let variance = |sums: &[f64; 4], n: f64| sums[1] / n - (sums[0] / n).powi(2);
            let (m, v) = (mean(all, any.blocks), variance(all, any.blocks));
            // The fourth moment about the mean, for the error of a variance.
            let [s1, s2, s3, s4] = all.map(|sum| sum / any.blocks);
            let fourth = s4 - 4.0 * s1 * s3 + 6.0 * s1 * s1 * s2 - 3.0 * s1.powi(4);
            let of_mean = (mean(own, self.blocks) - m).abs() / (v / self.blocks).sqrt();
            let of_variance = (variance(own, self.blocks) - v).abs()
                / ((fourth - v * v).max(f64::MIN_POSITIVE) / self.blocks).sqrt();
            most = most.max(of_mean).max(of_variance);
        }
        Some(most)
    }
}

/// By the scales that are first in a unit of several rows: nearly all of those of the right reading have one
/// magnitude.
fn scales(types: &[QuantType], samples: &[(usize, Vec<u8>)]) -> Told {
    let share = |q: &QuantType| {
        let layout = q.layout();
        let f16 = layout.fields.iter().find(|(_, field)| field.kind == Kind::F16);
        let (at, len) = f16.map_or((0, 0), |(at, field)| (*at, field.bytes()));
        let units = samples.iter().flat_map(|(_, bytes)| bytes.chunks_exact(layout.bytes));
        let words = units.flat_map(|unit| unit[at..at + len].as_chunks::<2>().0);
        let sizes = words.map(|w| f32_from_half(u16::from_le_bytes(*w)).abs());
        let sizes: Vec<f32> = sizes.filter(|d| *d != 0.0).collect();
        let mut known: Vec<f32> = sizes.iter().copied().filter(|d| d.is_finite()).collect();
        known.sort_by(f32::total_cmp);
        let median = known.get(known.len() / 2).copied().unwrap_or(0.0);
        // Scales of one tensor are within some powers of two of each other; levels read as halves are all over.
        let near = |d: &&f32| (median / 64.0..=median * 64.0).contains(*d);
        (sizes.len(), sizes.iter().filter(near).count() as f64 / sizes.len().max(1) as f64)
    };
    let mut shares: Vec<(QuantType, usize, f64)> =
        types.iter().map(|q| (*q, share(q))).map(|(q, (n, share))| (q, n, share)).collect();
    shares.sort_by(|a, b| b.2.total_cmp(&a.2));
    match *shares.as_slice() {
        [(_, n, _), ..] if n < 16 => Told::Unasked,
        [(best, _, share), (_, _, next), ..] if share > 0.98 && share > next + 0.05 => {
            Told::As(best)
        }
        _ => Told::Either,
    }
}
