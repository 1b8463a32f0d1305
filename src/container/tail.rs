//! What is after the end of a model's data: bytes that a download, a copy or `cat` left there.

use super::start::is_start;
use crate::{
    bytes::Input,
    error::{Error, Result},
    model::{Model, Tail},
    remedy::Remedy,
};

/// Bytes at the beginning of a tail that are looked at.
const LOOK: u64 = 1 << 20;
/// Zeros after the data up to this are padding.
pub const MOST_PADDING: u64 = 4096;
/// Bytes of a file's beginning by which a second copy of it is known.
const HEAD: u64 = 256;

/// What a tail is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The file begins again at this offset, before the end of its data: a download that was to go on
    /// where it had stopped and began anew.
    Restarted(u64),
    /// The header of another model: files joined by `cat`.
    Model,
    /// Nothing but zeros.
    Zeros,
    /// The file's last bytes once more.
    OwnEnd,
    /// Anything else.
    Other,
}

/// What the bytes of `input` from `at` to its end are.
///
/// The questions in their order: does the file begin again before its data ends, does another model begin here, is it
/// zeros, is it the end once more. No more than a megabyte of it is read.
///
/// # Errors
/// Where the file cannot be read.
pub fn kind(input: &Input, at: u64) -> Result<Kind> {
    let bytes = input.len().saturating_sub(at);
    let head = read(input, 0, HEAD.min(at))?;
    if bytes < at && read(input, bytes, HEAD.min(at))? == head {
        return Ok(Kind::Restarted(bytes));
    }
    let tail = read(input, at, bytes.min(LOOK))?;
    if is_start(&tail) {
        return Ok(Kind::Model);
    }
    if tail.iter().all(|byte| *byte == 0) {
        return Ok(Kind::Zeros);
    }
    let again = bytes <= LOOK.min(at) && read(input, at - bytes, bytes)? == tail;
    Ok(if again { Kind::OwnEnd } else { Kind::Other })
}

/// One sentence on a tail, with the command that mends the file.
///
/// # Errors
/// Where the file cannot be read.
pub fn sentence(model: &Model, tail: &Tail) -> Result<String> {
    let Some(input) = model.files.get(tail.file) else { return Ok(String::new()) };
    let Tail { at, bytes, .. } = *tail;
    let inside = |t: &&crate::model::Tensor| t.pieces.iter().any(|p| p.file == tail.file);
    let whole = match model.tensors.iter().filter(inside).count() {
        1 => "its tensor is whole".to_owned(),
        n => format!("all {n} tensors are whole"),
    };
    let kind = kind(input, at)?;
    let mended = mended(input, at, kind);
    let what = match kind {
        Kind::Restarted(from) => {
            return Ok(format!(
                "{bytes} bytes follow the end of its data, and it begins again at {from:#x}, as a download \
                 does that was resumed from its start: {mended} is the file itself",
            ));
        }
        Kind::Model => ", the header of another model first, as where files are joined by cat",
        Kind::Zeros if bytes <= LOOK => ", all of them zeros",
        Kind::Zeros => ", zeros at first",
        Kind::OwnEnd => ", a copy of the file's own end",
        Kind::Other => "",
    };
    let follow = if bytes == 1 { "1 byte follows" } else { &format!("{bytes} bytes follow") };
    Ok(format!("{whole}; {follow}{what}: {mended}"))
}

/// The command that leaves of a file what is the model alone.
fn mended(input: &Input, at: u64, kind: Kind) -> String {
    let name = input.name();
    match kind {
        Kind::Restarted(from) => format!("tail -c +{} {name}", from + 1),
        _ => format!("truncate -s {at} {name}"),
    }
}

/// What is to be done with a file that holds more than its model, where that is more than padding.
///
/// # Errors
/// Where the file cannot be read.
pub fn next(model: &Model) -> Result<Option<String>> {
    for tail in &model.tails {
        let Some(input) = model.files.get(tail.file) else { continue };
        let kind = kind(input, tail.at)?;
        let mended = mended(input, tail.at, kind);
        return Ok(Some(match kind {
            Kind::Zeros if tail.bytes < MOST_PADDING => continue,
            Kind::Restarted(_) => format!("{mended} > NAME: as it is, its data is not its own"),
            _ => format!("{mended}: what follows its data is none of the model"),
        }));
    }
    Ok(None)
}

/// Refuses a file that begins again in its midst: what is there is not the weights that it names.
///
/// # Errors
/// That, or where the file cannot be read.
pub fn check(model: &Model) -> Result<()> {
    for tail in &model.tails {
        let Some(input) = model.files.get(tail.file) else { continue };
        if matches!(kind(input, tail.at)?, Kind::Restarted(_)) {
            let looks = sentence(model, tail)?;
            return Err(Error::Unknown { file: input.name(), looks, next: Remedy::default() });
        }
    }
    Ok(())
}

/// `bytes` of the input from `at` on.
fn read(input: &Input, at: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut out = vec![0; usize::try_from(bytes).unwrap_or(0)];
    input.read_at(at, &mut out)?;
    Ok(out)
}
