//! What stands after the end of a model's data: bytes that a download, a copy or `cat` left there.

use super::is_start;
use crate::{
    bytes::Input,
    error::Result,
    model::{Model, Tail},
};

/// Bytes at the beginning of a tail that are looked at.
const LOOK: u64 = 1 << 20;
/// Bytes of a file's beginning by which a second copy of it is known.
const HEAD: u64 = 256;

/// What a tail is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    let (name, Tail { at, bytes, .. }) = (input.name(), *tail);
    let inside = |t: &&crate::model::Tensor| t.pieces.iter().any(|p| p.file == tail.file);
    let whole = match model.tensors.iter().filter(inside).count() {
        1 => "its tensor is whole".to_owned(),
        n => format!("all {n} tensors are whole"),
    };
    let what = match kind(input, at)? {
        Kind::Restarted(from) => {
            return Ok(format!(
                "{bytes} bytes follow the end of its data, and it begins again at {from:#x}, as a download \
                 does that was resumed from its start: tail -c +{} {name} is the file itself",
                from + 1
            ));
        }
        Kind::Model => ", the header of another model first, as where files are joined by cat",
        Kind::Zeros if bytes <= LOOK => ", all of them zeros",
        Kind::Zeros => ", zeros at first",
        Kind::OwnEnd => ", a copy of the file's own end",
        Kind::Other => "",
    };
    let follow = if bytes == 1 { "1 byte follows" } else { &format!("{bytes} bytes follow") };
    Ok(format!("{whole}; {follow}{what}: truncate -s {at} {name}"))
}

fn read(input: &Input, at: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut out = vec![0; usize::try_from(bytes).unwrap_or(0)];
    input.read_at(at, &mut out)?;
    Ok(out)
}
