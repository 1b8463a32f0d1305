//! One file of weights, whatever its format.

use std::path::Path;

use super::{safetensors, stored::Weights, torch};
use crate::{
    bytes::Input,
    error::{Error, Result},
    limits::Limits,
    remedy::Call,
};

/// Whether a file begins as one of torch or safetensors does.
///
/// # Errors
/// Where the file cannot be read.
pub fn is_weights(path: &Path) -> Result<bool> {
    let input = Input::open(path)?;
    let mut head = vec![0; usize::try_from(input.len().min(512)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    Ok(torch::is_torch(&head) || safetensors::is_safetensors(&head, input.len()))
}

/// The directory of one file of weights, whatever its format.
///
/// # Errors
/// Where the file cannot be read, is of neither format, or breaks the rules of the one it is of.
pub fn weights(path: &Path, limits: &Limits) -> Result<Weights> {
    let input = Input::open(path)?;
    let mut head = vec![0; usize::try_from(input.len().min(512)).unwrap_or(0)];
    input.read_at(0, &mut head)?;
    if torch::is_torch(&head) {
        torch::open(&input, limits)
    } else if safetensors::is_safetensors(&head, input.len()) {
        safetensors::open(&input, limits)
    } else {
        Err(Error::Unknown {
            file: input.name(),
            looks: "not a file of torch.save, nor safetensors".to_owned(),
            next: Call::Inspect.to("see what it looks like"),
        })
    }
}
