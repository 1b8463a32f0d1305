//! Numbers of coded rows that are none: scales, minima and plain weights that are infinite or NaN.
//!
//! A weight is a product and a sum of the stored numbers, none of which can leave the range of f32 by
//! itself: so it is enough to look at the floats that the description of a block names, a few bytes of
//! each, and no weight has to be decoded. llama.cpp's `ggml_validate_row_data` looks at the same.

use super::layout::BlockLayout;
use crate::format::block::{Field, Kind, Storage};

impl BlockLayout {
    /// The first unit of `rows`, whole rows of `row_bytes`, with an infinite or NaN number: its place
    /// among all units, row by row.
    pub fn first_unsound(&self, rows: &[u8], row_bytes: usize) -> Option<usize> {
        if self.front > 0 {
            return self.first_unsound_group(rows, row_bytes);
        }
        let floats = || self.fields.iter().filter(|(_, field)| is_float(field.kind));
        // The one float that is no field: it is spread over nibbles.
        if self.kernel == "iq1_m" {
            return rows.chunks_exact(self.bytes).position(|unit| is_odd_f16(top_nibbles(unit)));
        }
        match self.storage {
            Storage::Block if self.fields.len() == 1 => {
                let kind = floats().next()?.1.kind;
                // Piece by piece, so that a sound one is looked at without a branch a number.
                let pieces = rows.chunks(PIECE).enumerate();
                let (i, piece) = pieces.into_iter().find(|(_, piece)| any_odd(kind, piece))?;
                let at = i * PIECE + kind.bytes() * first_odd(kind, piece)?;
                Some(at / self.bytes)
            }
            Storage::Block => {
                let odd = |(at, kind, bytes): (usize, Kind, usize)| {
                    let field = |unit: &[u8]| any_odd(kind, &unit[at..at + bytes]);
                    rows.chunks_exact(self.bytes).position(field)
                };
                floats().filter_map(|(at, field)| odd((*at, field.kind, field.bytes()))).min()
            }
            Storage::Planar => {
                // Fields of all units of a row lie together: the n-th number is of unit n / count.
                let units = row_bytes / self.bytes;
                let in_row = |(r, row): (usize, &[u8])| {
                    let odd = |(at, field): &(usize, Field)| {
                        let numbers = &row[at * units..(at + field.bytes()) * units];
                        first_odd(field.kind, numbers).map(|n| n / field.count)
                    };
                    floats().filter_map(odd).min().map(|unit| r * units + unit)
                };
                rows.chunks_exact(row_bytes.max(1)).enumerate().find_map(in_row)
            }
        }
    }

    /// The same where rows begin with fields of their own; an odd one of these is in the first unit.
    fn first_unsound_group(&self, rows: &[u8], row_bytes: usize) -> Option<usize> {
        let odd = |bytes: &[u8], fields: &[(usize, Field)]| {
            let of = |(at, field): &(usize, Field)| {
                any_odd(field.kind, &bytes[*at..*at + field.bytes()])
            };
            fields.iter().any(of)
        };
        let units = self.units(row_bytes);
        for (g, group) in rows.chunks_exact((row_bytes * self.rows).max(1)).enumerate() {
            let (fronts, blocks) = group.split_at(self.front * self.rows);
            if fronts.chunks_exact(self.front).any(|front| odd(front, &self.front_fields)) {
                return Some(g * units);
            }
            let found = blocks.chunks_exact(self.bytes).position(|unit| odd(unit, &self.fields));
            if let Some(unit) = found {
                return Some(g * units + unit);
            }
        }
        None
    }
}

/// Bytes looked at together: a whole number of any kind of number.
const PIECE: usize = 4096;

fn is_float(kind: Kind) -> bool {
    use Kind::{Bf16, E8m0, F16, F32, F64};
    matches!(kind, F16 | Bf16 | F32 | F64 | E8m0)
}

/// The scale of IQ1_M: the upper four bits of each of its last four words.
fn top_nibbles(unit: &[u8]) -> u16 {
    let words = unit[unit.len() - 8..].as_chunks::<2>().0;
    words
        .iter()
        .enumerate()
        .fold(0, |all, (i, word)| all | (u16::from_le_bytes(*word) >> 12) << (4 * i))
}

/// All bits of the exponent are set: infinite, or no number.
#[inline(always)]
fn is_odd_f16(half: u16) -> bool {
    half & 0x7c00 == 0x7c00
}

/// Whether any of these numbers is infinite or none.
#[inline(always)]
fn any_odd(kind: Kind, bytes: &[u8]) -> bool {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    let words = || bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
    match kind {
        Kind::F16 => halves().fold(false, |odd, x| odd | is_odd_f16(x)),
        Kind::Bf16 => halves().fold(false, |odd, x| odd | (x & 0x7f80 == 0x7f80)),
        Kind::F32 => words().fold(false, |odd, x| odd | (x & 0x7f80_0000 == 0x7f80_0000)),
        Kind::F64 => bytes.as_chunks().0.iter().any(|b| !f64::from_le_bytes(*b).is_finite()),
        // An exponent alone; 255 means NaN. Every other byte is a power of two.
        Kind::E8m0 => bytes.contains(&0xff),
        _ => false,
    }
}

/// The first of these numbers that is infinite or none.
fn first_odd(kind: Kind, bytes: &[u8]) -> Option<usize> {
    bytes.chunks_exact(kind.bytes()).position(|number| any_odd(kind, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{QuantType, decode_rows, isa::Isa};

    /// Whatever is in the other fields, a weight is finite where no float is odd; and every float
    /// of every unit of every description is looked at.
    #[test]
    fn odd_numbers_of_every_type_are_found_where_they_are() {
        for q in QuantType::all() {
            let layout = q.layout();
            let (row_len, rows) = (layout.elements * 3, q.row_group() * 2);
            let row_bytes = q.row_bytes(row_len as u64).unwrap() as usize;
            let mut bytes = vec![0x35; row_bytes * rows];
            assert_eq!(layout.first_unsound(&bytes, row_bytes), None, "{q}");
            let mut weights = vec![0.0; row_len * rows];
            decode_rows(q, Isa::PORTABLE, &bytes, row_len, &mut weights);
            assert!(weights.iter().all(|w| w.is_finite()), "{q}");
            let floats = layout.fields.iter().filter(|(_, field)| is_float(field.kind));
            let mut fields: Vec<(usize, usize)> =
                floats.map(|(at, field)| (*at, field.bytes())).collect();
            if q.name() == "iq1_m" {
                fields.push((layout.bytes - 8, 8));
            }
            // Every byte is a number as a scale of NVFP4.
            assert!(
                !fields.is_empty()
                    || layout.elements == 1
                    || matches!(q.name(), "nvfp4" | "bf16_r16")
                    || layout.front > 0
                    || q.name().ends_with("_bn"),
                "{q}"
            );
            // The last unit of the first row.
            let (unit, units) = (2, layout.units(row_bytes));
            for (at, size) in fields.into_iter().filter(|_| q.row_group() == 1) {
                let begin = match layout.storage {
                    Storage::Block => layout.front + unit * layout.bytes + at,
                    Storage::Planar => at * units + unit * size,
                };
                let kept = bytes.clone();
                bytes[begin..begin + size].fill(0xff);
                assert_eq!(layout.first_unsound(&bytes, row_bytes), Some(unit), "{q}");
                decode_rows(q, Isa::PORTABLE, &bytes, row_len, &mut weights);
                // The sums of Q8_1 are for products; the outlier of Q4_1_O has a place of its own, which is
                // outside the block here. No weight is made of them.
                let unused = q.name() == "q8_1" && at > 0 || q.name() == "q4_1_o" && at == 6;
                let odd = weights.iter().position(|w| !w.is_finite());
                assert_eq!(
                    odd.map(|n| n / layout.elements),
                    (!unused).then_some(unit),
                    "{q} at {at}"
                );
                bytes = kept;
            }
        }
    }
}
