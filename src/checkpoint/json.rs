//! Small files beside the weights, most of them JSON.

use std::path::Path;

use serde_json::Value;

use crate::{
    bytes::Input,
    error::{Error, Malformed, Result},
    remedy::Remedy,
};

/// The longest file that is read: the largest tokenizer.json published has 33 million bytes.
const LONGEST: u64 = 40 << 20;
/// The longest that is read whatever it holds, which takes many times its size: indexes and settings
/// have up to a million bytes.
const LONGEST_ANY: u64 = 4 << 20;

/// The bytes of a file, or nothing where there is none.
///
/// # Errors
/// Where it cannot be read, or is larger than any such file.
pub fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    bytes_up_to(path, LONGEST)
}

/// A small file's bytes, or nothing where there is none; an error where it is larger than any such file.
fn bytes_up_to(path: &Path, longest: u64) -> Result<Option<Vec<u8>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let input = Input::open(path)?;
    if input.len() > longest {
        let (found, wanted) = (format!("{} bytes", input.len()), format!("at most {longest}"));
        return Err(malformed(path, "length", &found, &wanted));
    }
    let mut bytes = vec![0; usize::try_from(input.len()).unwrap_or(0)];
    input.read_at(0, &mut bytes)?;
    Ok(Some(bytes))
}

/// A file's JSON, or nothing where there is none.
///
/// # Errors
/// Where it cannot be read, is larger than any such file, or is no JSON.
pub fn read(path: &Path) -> Result<Option<Value>> {
    let Some(bytes) = bytes_up_to(path, LONGEST_ANY)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| malformed(path, "json", &e.to_string(), "JSON"))
}

/// A number as models use it, in 32 bits.
pub fn float(value: &Value) -> Option<f32> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded, as the original's own readers do"
    )]
    value.as_f64().map(|v| v as f32)
}

/// An error at a field of such a file.
pub fn malformed(path: &Path, field: &str, found: &str, wanted: &str) -> Error {
    Error::Malformed(Box::new(Malformed {
        file: path.display().to_string(),
        format: "json".to_owned(),
        field: field.to_owned(),
        at: 0,
        found: found.to_owned(),
        wanted: wanted.to_owned(),
        next: Remedy::default(),
    }))
}
