//! The same weights in other bytes: re-orderings between the dialects of one type.
//!
//! Three things changed in the life of Q4_0 and Q4_1, and each can be changed back: where the scales
//! are (planar rows or blocks), the order of nibbles, and the width of scales. The first two lose
//! nothing; narrowing a scale from f32 to f16 rounds it, and the `ScaleLoss` says by how much.
//!
//! ```text
//! pairs   byte   0      1    ..   7      8    ..   15
//!         low    w0     w2        w14    w16       w30
//!         high   w1     w3        w15    w17       w31
//! halves  low    w0     w1        w7     w8        w15
//!         high   w16    w17       w23    w24       w31
//! ```
//!
//! So bytes `i` and `i + 8` of pairs hold, nibble by nibble, bytes `2i` and `2i + 1` of halves.

use super::half::{f32_from_half, half_from_f32};
use super::loss::{Run, ScaleLoss};
use super::{
    QuantType,
    isa::Isa,
    recast,
    relay::{self, Relay},
};
use crate::per_isa;

/// Compiles a body for every instruction set.
macro_rules! run {
    ($body:path) => {{
        per_isa! {
            fn run(row_len: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss = $body;
        }
        Some(run as Run)
    }};
}

/// The ways between the dialects of Q4_0, or of Q4_1 if there is a minimum.
macro_rules! four_bits {
    ($min:literal, $dialects:expr) => {
        match $dialects {
            ("planar-f32", "pairs-f32") => run!(nibbles::<$min, 0, PlanarF32, PairsF32>),
            ("planar-f32", "halves-f32") => run!(nibbles::<$min, 0, PlanarF32, HalvesF32>),
            ("planar-f32", "halves-f16") => run!(nibbles::<$min, 0, PlanarF32, HalvesF16>),
            ("pairs-f32", "planar-f32") => run!(nibbles::<$min, 0, PairsF32, PlanarF32>),
            ("pairs-f32", "halves-f32") => run!(nibbles::<$min, 0, PairsF32, HalvesF32>),
            ("pairs-f32", "halves-f16") => run!(nibbles::<$min, 0, PairsF32, HalvesF16>),
            ("halves-f32", "planar-f32") => run!(nibbles::<$min, 0, HalvesF32, PlanarF32>),
            ("halves-f32", "pairs-f32") => run!(nibbles::<$min, 0, HalvesF32, PairsF32>),
            ("halves-f32", "halves-f16") => run!(nibbles::<$min, 0, HalvesF32, HalvesF16>),
            ("halves-f16", "planar-f32") => run!(nibbles::<$min, 0, HalvesF16, PlanarF32>),
            ("halves-f16", "pairs-f32") => run!(nibbles::<$min, 0, HalvesF16, PairsF32>),
            ("halves-f16", "halves-f32") => run!(nibbles::<$min, 0, HalvesF16, HalvesF32>),
            _ => None,
        }
    };
}

/// The ways between the dialects of Q5_0 and Q5_1; the four bytes of high bits stay as they are.
macro_rules! five_bits {
    ($min:literal, $dialects:expr) => {
        match $dialects {
            ("pairs", "halves") => run!(nibbles::<$min, 4, PairsF16, HalvesF16>),
            ("halves", "pairs") => run!(nibbles::<$min, 4, HalvesF16, PairsF16>),
            _ => None,
        }
    };
}

/// A way from one type to another that takes every stored number along.
#[derive(Clone, Copy, Debug)]
pub struct Transform {
    /// Whether every weight stays the same whatever the bytes are.
    pub exact: bool,
    from: QuantType,
    to: QuantType,
    /// The order in which it is laid first.
    relay: Option<&'static Relay>,
    /// What is done then.
    run: Option<Run>,
}

impl Transform {
    /// Transforms whole rows of `row_len` weights; returns what it cost.
    ///
    /// # Panics
    /// If `input` and `out` are not the same whole rows, which the caller knows from the plan.
    pub fn run(&self, isa: Isa, row_len: usize, input: &[u8], out: &mut [u8]) -> ScaleLoss {
        let rows = |q: QuantType, bytes: usize| {
            let row = q.row_bytes(row_len as u64).filter(|n| *n > 0).expect("rows of whole blocks");
            assert!((bytes as u64).is_multiple_of(row), "whole rows of {q}");
            bytes as u64 / row
        };
        let (from, to) = (rows(self.from, input.len()), rows(self.to, out.len()));
        let group = self.from.row_group().max(self.to.row_group());
        assert!(from == to && from.is_multiple_of(group as u64), "{from} rows in, {to} out");
        match (self.relay, self.run) {
            (Some(relay), None) => relay.run(row_len, input, out),
            (Some(relay), Some(run)) => {
                // Rows that lie together become rows one by one, which the second step then reads as any others.
                let mut plain = vec![0; relay.bytes(row_len) * from as usize];
                relay.run(row_len, input, &mut plain);
                run(isa, row_len, &plain, out)
            }
            (None, run) => run.expect("a way does something")(isa, row_len, input, out),
        }
    }
}

/// The way from one type to another that keeps every stored number but for the width of scales.
///
/// The sums that Q8_1 stores are left out, so no way leads back to it. Some removed types have a way into
/// blocks of another name, see `recast.rs`.
///
/// None where weights have to be decoded and encoded again: the caller then says that they may be rounded.
pub fn transform(from: QuantType, to: QuantType) -> Option<Transform> {
    if let Some(relay) = relay::of(from) {
        let relay = Some(relay).filter(|r| r.to == to || r.to.program().is_some())?;
        let (run, exact) = match relay.to == to {
            true => (None, true),
            false => recast::way(relay.to, to).map(|(run, exact)| (Some(run), exact))?,
        };
        return Some(Transform { exact, from, to, relay: Some(relay), run });
    }
    let wide = |q: QuantType| q.layout().fields.iter().any(|(_, field)| field.kind.bytes() == 4);
    let dialects = (from.dialect(), to.dialect());
    // A dialect of the same type; another type by the ways of `packed` and `recast`.
    let run = match (from.name(), to.name()) {
        ("q4_0", "q4_0") => four_bits!(false, dialects),
        ("q4_1", "q4_1") => four_bits!(true, dialects),
        ("q5_0", "q5_0") => five_bits!(false, dialects),
        ("q5_1", "q5_1") => five_bits!(true, dialects),
        ("q8_0" | "q8_1", "q8_0") => eight_bits(dialects),
        _ => packed(from, to),
    };
    if let Some(run) = run {
        // An f32 that becomes an f16 is the only number that can change.
        let exact = !wide(from) || wide(to);
        return Some(Transform { exact, from, to, relay: None, run: Some(run) });
    }
    let way = recast::way(from, to);
    way.map(|(run, exact)| Transform { exact, from, to, relay: None, run: Some(run) })
}

/// The ways to Q8_0: `BYTES` before the quants, of which the first two or four are the scale.
fn eight_bits(dialects: (&str, &str)) -> Option<Run> {
    match dialects {
        ("scale-f32", "scale-f16") => run!(scaled::<4, 2, true, false>),
        ("scale-f16", "scale-f32") => run!(scaled::<2, 4, false, true>),
        ("two-sums-f32", "scale-f32") => run!(scaled::<12, 4, true, true>),
        ("two-sums-f32", "scale-f16") => run!(scaled::<12, 2, true, false>),
        ("sum-f32", "scale-f32") => run!(scaled::<8, 4, true, true>),
        ("sum-f32", "scale-f16") => run!(scaled::<8, 2, true, false>),
        ("sum-f16", "scale-f32") => run!(scaled::<4, 4, false, true>),
        ("sum-f16", "scale-f16") => run!(scaled::<4, 2, false, false>),
        _ => None,
    }
}

/// The ways between plain blocks and those of several rows.
fn packed(from: QuantType, to: QuantType) -> Option<Run> {
    // Of Q4_0 only today's dialect lies in rows of several.
    let plain = |q: QuantType| q.is_today() && matches!(q.name(), "q4_0" | "iq4_nl");
    match (from.name(), to.name()) {
        ("q4_0_4_4", "q4_0") if plain(to) => run!(unpack::<4, 4, 0x88>),
        ("q4_0_4_8", "q4_0") if plain(to) => run!(unpack::<4, 8, 0x88>),
        ("q4_0_8_8", "q4_0") if plain(to) => run!(unpack::<8, 8, 0x88>),
        ("iq4_nl_4_4", "iq4_nl") => run!(unpack::<4, 4, 0>),
        ("iq4_nl_4_8", "iq4_nl") => run!(unpack::<4, 8, 0>),
        ("iq4_nl_8_8", "iq4_nl") => run!(unpack::<8, 8, 0>),
        ("q4_0", "q4_0_4_4") if plain(from) => run!(pack::<4, 4, 0x88>),
        ("q4_0", "q4_0_4_8") if plain(from) => run!(pack::<4, 8, 0x88>),
        ("q4_0", "q4_0_8_8") if plain(from) => run!(pack::<8, 8, 0x88>),
        ("iq4_nl", "iq4_nl_4_4") => run!(pack::<4, 4, 0>),
        ("iq4_nl", "iq4_nl_4_8") => run!(pack::<4, 8, 0>),
        ("iq4_nl", "iq4_nl_8_8") => run!(pack::<8, 8, 0>),
        _ => None,
    }
}

/// A dialect of blocks of nibbles.
trait Form {
    /// All scales of a row before all of its nibbles.
    const PLANAR: bool = false;
    /// Weights `2i` and `2i + 1` share a byte; else `i` and `i + 16` do.
    const PAIRS: bool = false;
    /// Scales are f32, not f16.
    const WIDE: bool;
}

struct PlanarF32;
struct PairsF32;
struct PairsF16;
struct HalvesF32;
struct HalvesF16;

impl Form for PlanarF32 {
    const PLANAR: bool = true;
    const PAIRS: bool = true;
    const WIDE: bool = true;
}

impl Form for PairsF32 {
    const PAIRS: bool = true;
    const WIDE: bool = true;
}

impl Form for PairsF16 {
    const PAIRS: bool = true;
    const WIDE: bool = false;
}

impl Form for HalvesF32 {
    const WIDE: bool = true;
}

impl Form for HalvesF16 {
    const WIDE: bool = false;
}

/// Offsets of the scale, the minimum and the rest of block `i` in a row of `n` blocks.
///
/// All in bytes from the start of the row. `rest` is what a block has beside scale and minimum.
#[inline(always)]
fn places<F: Form>(min: bool, rest: usize, n: usize, i: usize) -> [usize; 3] {
    let scale = if F::WIDE { 4 } else { 2 };
    let scales = if min { 2 * scale } else { scale };
    if F::PLANAR {
        // The minima are before the scales.
        // row of n blocks: m[n], d[n], 16 bytes of each
        let first = scale * i;
        let d = if min { first + scale * n } else { first };
        [d, first, scales * n + rest * i]
    } else {
        let at = (scales + rest) * i;
        [at, at + scale, at + scales]
    }
}

/// Blocks of a scale, a minimum if `MIN`, `MORE` bytes that stay, and sixteen bytes of nibbles.
#[inline(always)]
fn nibbles<const MIN: bool, const MORE: usize, F: Form, T: Form>(
    row_len: usize,
    input: &[u8],
    out: &mut [u8],
) -> ScaleLoss {
    let mut loss = ScaleLoss::default();
    let rest = MORE + 16;
    // [scale] [minimum, if MIN] [MORE bytes] [16 bytes of nibbles]
    let block = |wide: bool| rest + if wide { 4 } else { 2 } * (1 + usize::from(MIN));
    // Planar rows must be known as rows; others are a stream of blocks.
    let n = if F::PLANAR || T::PLANAR { row_len / 32 } else { input.len() / block(F::WIDE) };
    let rows = input.chunks_exact((n * block(F::WIDE)).max(1));
    for (input, out) in rows.zip(out.chunks_exact_mut((n * block(T::WIDE)).max(1))) {
        for i in 0..n {
            let [d, m, qs] = places::<F>(MIN, rest, n, i);
            let [d_out, m_out, qs_out] = places::<T>(MIN, rest, n, i);
            let old_d = read::<F>(input, d);
            let new_d = write::<T>(old_d, out, d_out);
            if MIN {
                let old_m = read::<F>(input, m);
                let new_m = write::<T>(old_m, out, m_out);
                if F::WIDE && !T::WIDE {
                    loss.count([old_d, old_m], [new_d, new_m]);
                }
            } else if F::WIDE && !T::WIDE {
                loss.count([old_d, 0.0], [new_d, 0.0]);
            }
            out[qs_out..qs_out + MORE].copy_from_slice(&input[qs..qs + MORE]);
            let (qs, qs_out) = (qs + MORE, qs_out + MORE);
            let qs: &[u8; 16] = input[qs..].first_chunk().expect("whole blocks");
            // Codes are only moved; the picture above says where to.
            let turned = match (F::PAIRS, T::PAIRS) {
                (true, false) => halves_from_pairs(qs),
                (false, true) => pairs_from_halves(qs),
                _ => *qs,
            };
            out[qs_out..qs_out + 16].copy_from_slice(&turned);
        }
        // Blocks that lost nothing are counted all the same, for the report's share.
        if !F::WIDE || T::WIDE {
            loss.blocks += n as u64;
        }
    }
    loss
}

/// The scale or minimum at byte `at`, f32 or f16 as the dialect has it.
#[inline(always)]
fn read<F: Form>(input: &[u8], at: usize) -> f32 {
    if F::WIDE {
        f32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]])
    } else {
        f32_from_half(u16::from_le_bytes([input[at], input[at + 1]]))
    }
}

/// Stores a scale; returns its new value.
#[inline(always)]
fn write<T: Form>(scale: f32, out: &mut [u8], at: usize) -> f32 {
    if T::WIDE {
        out[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        return scale;
    }
    let half = half_from_f32(scale);
    out[at..at + 2].copy_from_slice(&half.to_le_bytes());
    f32_from_half(half)
}

// Both are written byte by byte of the result: the compiler makes byte shuffles of them, at three times
// the speed of the same in 64-bit words.

#[inline(always)]
fn halves_from_pairs(qs: &[u8; 16]) -> [u8; 16] {
    std::array::from_fn(|k| {
        // Byte k of halves: w[k] and w[16 + k], which are nibble k % 2 of bytes k / 2 and 8 + k / 2 of pairs.
        let (low, high) = (qs[k / 2], qs[8 + k / 2]);
        if k % 2 == 0 { low & 15 | high << 4 } else { low >> 4 | high & 0xf0 }
    })
}

#[inline(always)]
fn pairs_from_halves(qs: &[u8; 16]) -> [u8; 16] {
    std::array::from_fn(|k| {
        // Byte k of pairs: w[2k] and w[2k + 1], both low nibbles in the first eight bytes, high ones in the others.
        let (even, odd) = (qs[2 * (k % 8)], qs[2 * (k % 8) + 1]);
        if k < 8 { even & 15 | odd << 4 } else { even >> 4 | odd & 0xf0 }
    })
}

/// Blocks of 32 bytes after `FROM` bytes that begin with the scale; `TO` bytes of scale go out.
#[inline(always)]
fn scaled<const FROM: usize, const TO: usize, const WIDE: bool, const TO_WIDE: bool>(
    _row_len: usize,
    input: &[u8],
    out: &mut [u8],
) -> ScaleLoss {
    let mut loss = ScaleLoss::default();
    for (input, out) in input.chunks_exact(FROM + 32).zip(out.chunks_exact_mut(TO + 32)) {
        let old = if WIDE { read::<HalvesF32>(input, 0) } else { read::<HalvesF16>(input, 0) };
        let new = match TO_WIDE {
            true => write::<HalvesF32>(old, out, 0),
            false => write::<HalvesF16>(old, out, 0),
        };
        // What lies between the scale and the numbers are sums for products: left out.
        loss.count([old, 0.0], [new, 0.0]);
        out[TO..].copy_from_slice(&input[FROM..]);
    }
    loss
}

/// Where `RUN` bytes of row `row` are among the nibbles of a unit of `ROWS` blocks.
///
/// ```text
/// unit   d of row 0 | d of row 1 | ..         2 bytes each
///        run 0 of row 0 | run 0 of row 1 | ..     RUN bytes each
///        run 1 of row 0 | ..
/// ```
#[inline(always)]
fn run_at<const ROWS: usize, const RUN: usize>(row: usize, run: usize) -> usize {
    2 * ROWS + (run * ROWS + row) * RUN
}

/// Groups of `ROWS` rows into rows; every byte of nibbles is XORed with `MASK`.
///
/// The mask 0x88 turns the top bit of both nibbles: these packings store `w - 8` as a signed number. IQ4_NL's nibbles
/// are places in a table and stay.
#[inline(always)]
fn unpack<const ROWS: usize, const RUN: usize, const MASK: u8>(
    row_len: usize,
    input: &[u8],
    out: &mut [u8],
) -> ScaleLoss {
    let row_bytes = row_len / 32 * 18;
    let groups = input.chunks_exact(row_bytes * ROWS);
    for (group, out) in groups.zip(out.chunks_exact_mut(row_bytes * ROWS)) {
        for (i, unit) in group.chunks_exact(18 * ROWS).enumerate() {
            for row in 0..ROWS {
                // Unit i of a group is block i of each row: all scales, then runs of the rows in turn.
                let at = row * row_bytes + 18 * i;
                let block = &mut out[at..at + 18];
                block[..2].copy_from_slice(&unit[2 * row..2 * row + 2]);
                for (run, bytes) in block[2..].chunks_exact_mut(RUN).enumerate() {
                    let from = &unit[run_at::<ROWS, RUN>(row, run)..];
                    bytes.iter_mut().zip(from).for_each(|(to, from)| *to = from ^ MASK);
                }
            }
        }
    }
    ScaleLoss { blocks: input.len() as u64 / 18, ..ScaleLoss::default() }
}

/// Rows into groups of `ROWS` rows; the inverse of [`unpack`].
#[inline(always)]
fn pack<const ROWS: usize, const RUN: usize, const MASK: u8>(
    row_len: usize,
    input: &[u8],
    out: &mut [u8],
) -> ScaleLoss {
    let row_bytes = row_len / 32 * 18;
    let groups = input.chunks_exact(row_bytes * ROWS);
    for (group, out) in groups.zip(out.chunks_exact_mut(row_bytes * ROWS)) {
        for (i, unit) in out.chunks_exact_mut(18 * ROWS).enumerate() {
            for row in 0..ROWS {
                let block = &group[row * row_bytes + 18 * i..][..18];
                unit[2 * row..2 * row + 2].copy_from_slice(&block[..2]);
                for (run, bytes) in block[2..].chunks_exact(RUN).enumerate() {
                    let to = &mut unit[run_at::<ROWS, RUN>(row, run)..];
                    to.iter_mut().zip(bytes).for_each(|(to, from)| *to = from ^ MASK);
                }
            }
        }
    }
    ScaleLoss { blocks: input.len() as u64 / 18, ..ScaleLoss::default() }
}
