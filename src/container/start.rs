//! The first bytes of a file: magic and version.
//!
//! ```text
//! ggjt v1     74 6a 67 67  01 00 00 00      "ggjt" as a number, little-endian: its letters are reversed
//! GGUF v3     47 47 55 46  03 00 00 00      "GGUF" as letters
//! ggml        6c 6d 67 67                   no version: header words follow
//! ```

use std::path::Path;

use crate::{
    bytes::{Input, Source},
    error::Result,
    format::{
        catalog,
        container::{Container, Skeleton},
    },
};

/// Whether a file begins as a model of some known format does.
///
/// # Errors
/// Where the file cannot be read.
pub fn has_magic(path: &Path) -> Result<bool> {
    let input = Input::open(path)?;
    let mut head = vec![0; usize::try_from(input.len().min(16)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    Ok(is_start(&head))
}

/// Whether bytes begin as a model of some known format does.
pub(super) fn is_start(head: &[u8]) -> bool {
    let model = |c: &&Container| matches!(c.format.skeleton, Skeleton::Stream | Skeleton::Keyed);
    let begins = |c: &Container| head.starts_with(&c.detect.begins);
    catalog::containers().iter().filter(model).any(begins)
}

/// Checks the first bytes and the version of a file; returns where they end.
pub(super) fn check(source: &Source, format: &Container) -> Result<u64> {
    let (at, begins) = (format.detect.at, &format.detect.begins);
    let len = begins.len() as u64;
    let found = source.bytes_at(at, len, len, "magic")?;
    if found != *begins {
        let found = format!("{:?}", String::from_utf8_lossy(&found));
        let wanted = format!("{:?}", String::from_utf8_lossy(begins));
        return Err(source.malformed(at, "magic", found, wanted));
    }
    // The version is a number of the format's own byte order, which only some files have turned.
    let end = at + len;
    let Some(version) = format.detect.version else { return Ok(end) };
    let found = source.u32_at(end, "version")?;
    if found != version {
        return Err(source.malformed(end, "version", found, version.to_string()));
    }
    Ok(end + 4)
}

/// The first bytes and the version of a file.
pub(super) fn bytes(format: &Container) -> Vec<u8> {
    let mut out = format.detect.begins.clone();
    if let Some(version) = format.detect.version {
        let bytes = version.to_le_bytes();
        out.extend(if format.detect.big_endian { version.to_be_bytes() } else { bytes });
    }
    out
}
