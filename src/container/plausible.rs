//! Two readings of the same bytes: which of them do the weights bear out?
//!
//! Planar rows and rows of blocks have the same size. In the right reading every scale is a small
//! finite float; in the wrong one most "scales" are nibbles, and eight nibbles of quantized weights
//! read as a float give absurd magnitudes. So do the bytes of a float in the wrong order.

use crate::{
    error::Result,
    format::{
        block::{Kind, Storage},
        container::Container,
    },
    model::{Model, Tensor},
    quant::{decode_rows, isa::Isa},
    remedy::{Fault, Note},
};

/// Tensors and rows of each that are looked at.
const SAMPLES: u64 = 8;

/// Tensors of floats that are looked at, and the longest rows in bytes.
const TENSORS: usize = 64;
const ROW: u64 = 1 << 18;
/// Bytes of the longest row that is looked at: sixteen times those of the widest model.
const LONGEST: u64 = 1 << 20;

/// Whether the scales of `two` are right and those of `one` wrong (`Some(true)`), the other way round
/// (`Some(false)`), or neither is certain.
///
/// ```text
/// block by block   d0 q0 q0 q0 q0  d1 q1 q1 q1 q1  ..      d is a float32, every q four bytes of nibbles
/// planar           d0 d1 d2 ..     q0 q0 q0 q0 q1 ..
/// ```
pub(super) fn by_weights(one: &Model, two: &Model) -> Result<Option<bool>> {
    let (mut first, mut second) = (Share::default(), Share::default());
    let pairs = one
        .tensors
        .iter()
        .zip(&two.tensors)
        .filter(|(a, b)| a.quant != b.quant && a.row_bytes() <= LONGEST);
    // Eight tensors, spread over all, and eight rows of each: 64 rows are enough, for in the wrong reading nearly
    // every scale is absurd.
    let disputed: Vec<_> = pairs.collect();
    let step = (disputed.len() as u64).div_ceil(SAMPLES).max(1);
    for (a, b) in disputed.into_iter().step_by(usize::try_from(step).unwrap_or(1)) {
        for sample in 0..SAMPLES.min(a.rows()) {
            let row = sample * (a.rows() / SAMPLES.min(a.rows()));
            let mut bytes = vec![0; usize::try_from(a.row_bytes()).unwrap_or(0)];
            one.read_rows(a, row, 1, &mut bytes)?;
            first.add(a, &bytes);
            second.add(b, &bytes);
        }
    }
    Ok(match (first.plausible(), second.plausible()) {
        // Certain is only what nearly all scales of one reading say and many of the other deny.
        (one, two) if one >= 0.999 && two < 0.95 => Some(false),
        (one, two) if two >= 0.999 && one < 0.95 => Some(true),
        _ => None,
    })
}

/// Whether `model` has what tells `format` from the one it is held against: one of its tokens, or a
/// matrix whose key and value rows are once for every head.
///
/// GPT-2 and StarCoder have the same container and the same names: StarCoder's tokens (`<fim_prefix>`) or its repeated
/// key heads tell.
pub(super) fn bears_signs(format: &Container, model: &Model) -> Result<bool> {
    let known = |token: &[u8]| format.detect.tokens.iter().any(|t| t.as_bytes() == token);
    if model.vocab.tokens.iter().any(known) {
        return Ok(true);
    }
    let ends = |t: &&Tensor| format.tensors.repeated.iter().any(|end| t.name.ends_with(end));
    let (Some(tensor), Some(heads)) = (model.tensors.iter().find(ends), model.header("n_head"))
    else {
        return Ok(false);
    };
    are_repeated(model, tensor, u64::try_from(heads).unwrap_or(0))
}

/// Whether the second and last third of the rows are one head each, `heads` times. Heads whose rows are
/// all the same are no proof: those of a matrix of zeros are.
fn are_repeated(model: &Model, tensor: &Tensor, heads: u64) -> Result<bool> {
    let rows = tensor.rows();
    // Rows are [queries | keys | values], a third each, of `heads` heads of `head` rows.
    let head = rows.checked_div(heads.saturating_mul(3)).unwrap_or(0);
    if heads < 2 || head == 0 || rows != head * heads * 3 || tensor.row_bytes() > LONGEST {
        return Ok(false);
    }
    let row = usize::try_from(tensor.row_bytes()).unwrap_or(0);
    let read = |first: u64| -> Result<Vec<u8>> {
        let mut out = vec![0; row * usize::try_from(head).unwrap_or(0)];
        model.read_rows(tensor, first, head, &mut out)?;
        Ok(out)
    };
    // One key head was stored as many times as there are heads: then each repeats the first.
    for third in [rows / 3, rows / 3 * 2] {
        let first = read(third)?;
        if first.chunks_exact(row).all(|r| Some(r) == first.get(..row)) {
            return Ok(false);
        }
        for n in 1..heads {
            if read(third + n * head)? != first {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Says where every scale of the quantized matrices is zero: some quantizers of spring 2023 left
/// nothing of the weights.
pub(super) fn all_zero(model: &mut Model) -> Result<()> {
    let scaled = |t: &&Tensor| t.quant.layout().elements > 1 && t.row_bytes() <= LONGEST;
    let ours = |t: &&Tensor| t.quant.stranger().is_none();
    let mut looked = 0;
    for tensor in model.tensors.iter().filter(scaled).filter(ours) {
        let group = tensor.quant.row_group() as u64;
        let groups = tensor.rows() / group;
        let samples = groups.min(SAMPLES);
        for sample in 0..samples {
            let mut bytes = vec![0; usize::try_from(tensor.row_bytes() * group).unwrap_or(0)];
            let first = sample * (groups / samples) * group;
            model.read_rows(tensor, first, group, &mut bytes)?;
            let row_len = usize::try_from(tensor.row_len()).unwrap_or(0);
            let mut weights = vec![0.0; row_len * tensor.quant.row_group()];
            decode_rows(tensor.quant, Isa::PORTABLE, &bytes, row_len, &mut weights);
            if weights.iter().any(|w| *w != 0.0) {
                return Ok(());
            }
            looked += 1;
        }
    }
    if looked > 0 {
        model.notes.push(
            "every quantized weight that was looked at is zero, as the quantizers of ggml acd4aeee to \
             42cbb07a (March and April 2023) left them where they read F16: nothing is there to convert"
                .to_owned(),
        );
    }
    Ok(())
}

/// Sees to it that the floats of a big-endian file are read in the order in which they are:
/// convert_hf_to_gguf.py --bigendian of 2025 swaps all but the weights.
///
/// Read in the wrong order a float is any number at all, of 1e-38 to 1e38 alike; in the right one nearly all weights
/// lie between 1e-7 and 100.
pub(super) fn byte_order(model: &mut Model) -> Result<()> {
    let (mut stated, mut other) = (Share::default(), Share::default());
    let floats = |t: &&Tensor| {
        t.big_endian && matches!(t.quant.name(), "f32" | "f16") && t.row_bytes() <= ROW
    };
    for tensor in model.tensors.iter().filter(floats).take(TENSORS) {
        let width = tensor.quant.layout().bytes;
        let rows = tensor.rows().min(SAMPLES);
        let mut bytes = vec![0; usize::try_from(rows * tensor.row_bytes()).unwrap_or(0)];
        model.read_rows(tensor, 0, rows, &mut bytes)?;
        stated.add_floats(tensor, &bytes);
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        other.add_floats(tensor, &bytes);
    }
    if stated.plausible() < 0.9 && other.plausible() >= 0.999 {
        model.tensors.iter_mut().for_each(|tensor| tensor.big_endian = false);
        model.notes.push(Note::of(
            Fault::Form,
            "the header is big-endian, the weights are little-endian (convert_hf_to_gguf.py --bigendian of 2025 \
             forgot them): read as they are",
        ));
    }
    Ok(())
}

/// How many scales were looked at and how many of them are plausible.
///
/// Plausible: zero, or of 1e-12 to 1e4 in magnitude, and not negative where a minimum is beside it.
#[derive(Default)]
struct Share {
    good: u64,
    all: u64,
}

impl Share {
    /// Looks at the scale and the minimum of every block of `row`, which is one row of `tensor`.
    /// Of random bits taken for a float four in five are above 1e4 or below 1e-12 in magnitude.
    fn add(&mut self, tensor: &Tensor, row: &[u8]) {
        let layout = tensor.quant.layout();
        let units = row.len() / layout.bytes;
        // A block with a minimum has a scale that cannot be negative.
        let unsigned = layout.fields.iter().any(|(_, field)| field.name == "m");
        for (at, field) in layout.fields.iter().filter(|(_, field)| field.kind == Kind::F32) {
            for unit in 0..units {
                let at = match layout.storage {
                    Storage::Block => unit * layout.bytes + at,
                    Storage::Planar => units * at + unit * field.bytes(),
                };
                let Some(bytes) = row.get(at..).and_then(|rest| rest.first_chunk()) else {
                    continue;
                };
                let value = f32::from_le_bytes(*bytes);
                let small = value == 0.0 || (1e-12..1e4).contains(&value.abs());
                let negative = field.name == "d" && unsigned && value < 0.0;
                self.good += u64::from(small && !negative);
                self.all += 1;
            }
        }
    }

    /// Looks at weights; those of a model are zero or of a middling size.
    fn add_floats(&mut self, tensor: &Tensor, bytes: &[u8]) {
        let mut weights = vec![0.0; bytes.len() / tensor.quant.layout().bytes];
        decode_rows(tensor.quant, Isa::PORTABLE, bytes, weights.len(), &mut weights);
        let usual = |w: &&f32| **w == 0.0 || (1e-7..100.0).contains(&w.abs());
        self.good += weights.iter().filter(usual).count() as u64;
        self.all += weights.len() as u64;
    }

    /// Which part of what was looked at is plausible; 0 for nothing.
    fn plausible(&self) -> f64 {
        if self.all == 0 { 0.0 } else { self.good as f64 / self.all as f64 }
    }
}
