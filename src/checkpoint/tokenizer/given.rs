//! The vocabulary that a person names.

use std::path::{Path, PathBuf};

use super::{json::TokenizerJson, sentencepiece::SentencePiece, tiktoken};
use crate::{
    checkpoint::json,
    error::{Error, Result},
    format::{catalog, container::Spelling},
    limits::Limits,
    model::{Vocab, spelling},
    remedy::Setting,
};

/// Reads `tokenizer.json`, `tokenizer.model`, `vocab.txt`, or a folder that has one of them.
///
/// # Errors
/// Where there is none, or it is neither.
pub fn read(path: &Path, limits: &Limits) -> Result<Vocab> {
    let file = file(path)?;
    let Some(bytes) = json::bytes(&file)? else {
        return Ok(SentencePiece::open(&file, limits)?.vocab());
    };
    let name = file.display().to_string();
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Ok(TokenizerJson::parse(&name, &bytes, limits)?.vocab),
        _ if tiktoken::is_tiktoken(&bytes) => tiktoken::byte_pairs(&name, &bytes, limits),
        Some(b'[') => words(&name, &bytes),
        _ => Ok(SentencePiece::parse(&name, &bytes, limits)?.vocab()),
    }
}

/// The lines of a `vocab.txt`, the first of which is a token for control: `[PAD]`.
fn words(name: &str, bytes: &[u8]) -> Result<Vocab> {
    let rules = catalog::families().iter().filter_map(|family| family.tokenizer.as_ref());
    let records = Vocab {
        tokens: bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::trim_ascii_end).collect(),
        ..Vocab::default()
    };
    let mut rules = rules.filter(|rule| rule.model == "bert");
    let read = rules.next().map(|rule| spelling::read(rule, &[Spelling::Wordpiece], &records));
    match read {
        Some(Ok(spelled)) if spelled.vocab.unknown.is_some() => Ok(spelled.vocab),
        _ => {
            let what = format!("{name}: begins as a vocab.txt, and has no line [UNK]");
            Err(Error::refused(what, Setting::Vocabulary.to("name the tokenizer's file")))
        }
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

/// The tokenizer's file that a path means: itself, or the first of the known names in a folder.
fn file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let names = ["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt"];
    let found = names.map(|name| path.join(name)).into_iter().find(|file| file.is_file());
    found.ok_or_else(|| {
        let what = format!("{}: no tokenizer.json, tokenizer.model or vocab.txt", path.display());
        Error::refused(what, Setting::Vocabulary.to("name the tokenizer's file"))
    })
}
