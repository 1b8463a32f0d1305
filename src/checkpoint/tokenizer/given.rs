//! The vocabulary that a person names with `--vocab`.

use std::path::{Path, PathBuf};

use super::{json::TokenizerJson, sentencepiece::SentencePiece, tiktoken};
use crate::{
    checkpoint::json,
    error::{Error, Result},
    model::Vocab,
    remedy::Setting,
};

/// Reads `tokenizer.json`, `tokenizer.model`, or a folder that has one of them.
///
/// # Errors
/// Where there is none, or it is neither.
pub fn read(path: &Path) -> Result<Vocab> {
    let file = file(path)?;
    let Some(bytes) = json::bytes(&file)? else { return Ok(SentencePiece::open(&file)?.vocab()) };
    let name = file.display().to_string();
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Ok(TokenizerJson::parse(&name, &bytes)?.vocab),
        _ if tiktoken::is_tiktoken(&bytes) => tiktoken::byte_pairs(&name, &bytes),
        _ => Ok(SentencePiece::parse(&name, &bytes)?.vocab()),
    }
}

/// The bytes of the file that [`read`] reads, where a container may hold it as it is: SentencePiece's model or
/// tiktoken's list.
///
/// # Errors
/// Where there is none.
pub fn own_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let bytes = json::bytes(&file(path)?)?;
    let begins = |bytes: &Vec<u8>| bytes.iter().find(|byte| !byte.is_ascii_whitespace()).copied();
    Ok(bytes.filter(|bytes| begins(bytes) != Some(b'{')))
}

fn file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let names = ["tokenizer.json", "tokenizer.model", "spiece.model"];
    let found = names.map(|name| path.join(name)).into_iter().find(|file| file.is_file());
    found.ok_or_else(|| {
        let what = format!("{}: no tokenizer.json or tokenizer.model", path.display());
        Error::refused(what, Setting::Vocabulary.to("name the tokenizer's file"))
    })
}
