//! The way back: every byte of a stream but the weights.
//!
//! Everything is laid out before a weight is written, so the size of the file, and what cannot be stored, are known
//! first. The numbers that decide how a file is read (`quant_version`, type numbers, `n_vocab`) are those of the header
//! that is given; nothing is looked up in the model.

use super::named;
use crate::{
    container::{Layout, TensorHead, start},
    error::{Error, Result},
    format::container::{Blocks, Container, Record, WordKind},
    model::{Metadata, Value, Vocab},
    quant::QuantType,
    remedy::Setting,
};

/// The number that `format` stores for `quant` under these header words; none if it never had it.
///
/// Number 2 is Q4_0 in every era, but of other bytes: the header's version decides which, and a Q4_0 of another dialect
/// has no number there.
pub fn type_id(format: &Container, quant: QuantType, header: &[(String, i64)]) -> Option<u32> {
    let era = format.dialect(header)?;
    let fits = |(_, name): &(&String, &String)| named(name, era) == Some(quant);
    format.tensors.types.iter().find(fits).and_then(|(id, _)| id.parse().ok())
}

/// Lays out a file of `format`: every byte but the weights, and where the weights go.
///
/// `heads` are the tensors in the order of the file; words that the format implies and does not store are not asked
/// for.
///
/// # Errors
/// [`Error::Unsupported`] where a header word is missing, a type is not one of the format's, a tensor
/// has too many dimensions or a number does not fit its field.
pub fn layout(
    format: &Container,
    header: &[(String, i64)],
    metadata: &Metadata,
    vocab: &Vocab,
    heads: &[TensorHead],
) -> Result<Layout> {
    if let Some(why) = format.read_only() {
        return Err(cannot(format, why));
    }
    // Chunks are all that is not weights; between two of them is the data of one tensor:
    //
    //     [magic … vocabulary, head 0] data 0 [head 1] data 1 … [head n] data n
    let mut layout = Layout::default();
    let mut out = start::bytes(format);
    let word = |name: &str| -> Result<i64> {
        let found = header.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value).ok_or_else(|| cannot(format, &format!("no {name} is known")))
    };
    for field in &format.header.fields {
        let value = match &field.split {
            Some(split) => {
                // Where blocks depend on the version, it must be known; elsewhere a model without one is of version
                // 0.
                let high = match format.format.blocks {
                    Blocks::By(_) => word(&split.high)?,
                    Blocks::One(_) => word(&split.high).unwrap_or(0),
                };
                high * split.base + word(&split.low)?
            }
            None => word(&field.name)?,
        };
        let bytes = match field.kind {
            WordKind::I32 => i32::try_from(value).map(i32::to_le_bytes),
            WordKind::U32 | WordKind::F32 => u32::try_from(value).map(u32::to_le_bytes),
        };
        out.extend(bytes.map_err(|_| cannot(format, &format!("{} is {value}", field.name)))?);
    }
    if let Some(matrix) = &format.header.matrix {
        let floats = metadata.get(&matrix.name).and_then(Value::as_array);
        let floats =
            floats.ok_or_else(|| cannot(format, &format!("no {} are known", matrix.name)))?;
        floats.iter().for_each(|item| {
            if let Value::F32(number) = item {
                out.extend(number.to_le_bytes());
            }
        });
    }
    if let Some(shape) = &format.vocab {
        if shape.repeat {
            out.extend(number(format, word(&shape.count)?.unsigned_abs())?);
        }
        if shape.stored.is_some() {
            out.extend(number(format, vocab.len() as u64)?);
        }
        // In the order in which the walk reads them.
        for (i, token) in vocab.tokens.iter().enumerate() {
            out.extend(number(format, token.len() as u64)?);
            out.extend(token);
            if shape.score {
                out.extend(vocab.score(i).to_le_bytes());
            }
        }
        if shape.merges.is_some() {
            merges(format, vocab, &mut out)?;
        }
    }
    let mut base = 0;
    for head in heads {
        if head.shape.len() > format.tensors.max_dims as usize {
            let what = format!("{} has {} dimensions", head.name, head.shape.len());
            return Err(cannot(format, &what));
        }
        let id = type_id(format, head.quant, header).ok_or_else(|| {
            let names: Vec<&str> = format.tensors.types.values().map(String::as_str).collect();
            let what = format!("{} is {}; it has {}", head.name, head.quant, names.join(", "));
            cannot(format, &what)
        })?;
        // All pieces of a head, put together as its record orders them.
        let dims = number(format, head.shape.len() as u64)?;
        let name = [&number(format, head.name.len() as u64)?[..], head.name.as_bytes()];
        let sizes = head.shape.iter().map(|size| number(format, *size));
        let mut sizes = sizes.collect::<Result<Vec<_>>>()?;
        //     ShapeFirst   n_dims  length of name  type  sizes, the innermost first  name
        //     NameFirst    length of name  name  n_dims  sizes, the outermost first  type
        match format.tensors.record {
            Record::ShapeFirst => {
                sizes.reverse();
                let [len, name] = name;
                let id = id.to_le_bytes();
                out.extend([&dims, len, &id, sizes.as_flattened(), name].concat());
            }
            Record::NameFirst => {
                let id = id.to_le_bytes();
                out.extend([&name.concat()[..], &dims, sizes.as_flattened(), &id].concat());
            }
        }
        // Padding is counted from the start of the file, and belongs to the head.
        let at = (base + out.len() as u64).next_multiple_of(format.tensors.align);
        out.resize(usize::try_from(at - base).unwrap_or(usize::MAX), 0);
        layout.chunks.push((base, std::mem::take(&mut out)));
        layout.data.push(at);
        base = at + head.bytes;
    }
    layout.total = base + out.len() as u64;
    if !out.is_empty() {
        layout.chunks.push((base, out));
    }
    Ok(layout)
}

/// Behind the tokens: the number of merges, and each as the length and the text of its two sides.
fn merges(format: &Container, vocab: &Vocab, out: &mut Vec<u8>) -> Result<()> {
    out.extend(number(format, vocab.merges.len() as u64)?);
    for merge in vocab.merges.iter() {
        let space = merge.iter().position(|byte| *byte == b' ').unwrap_or(merge.len());
        let (left, right) = merge.split_at(space);
        for side in [left, right.get(1..).unwrap_or_default()] {
            out.extend(number(format, side.len() as u64)?);
            out.extend(side);
        }
    }
    Ok(())
}

/// A number of 32 bits. The programs read most of them as signed, so none is beyond 2^31 - 1.
fn number(format: &Container, value: u64) -> Result<[u8; 4]> {
    let fits = i32::try_from(value).ok().and_then(|v| u32::try_from(v).ok());
    fits.map(u32::to_le_bytes)
        .ok_or_else(|| cannot(format, &format!("{value} is too large a number")))
}

/// The error for what this container has no place for.
fn cannot(format: &Container, why: &str) -> Error {
    let what = format!("{}: cannot be written: {why}", format.id());
    Error::unsupported(what, Setting::Target.to("name another container"))
}
