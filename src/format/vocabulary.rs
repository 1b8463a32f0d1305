//! Descriptions of vocabularies that are known by what files hold of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::schema;

/// One `formats/vocabulary/*.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Published {
    /// What it is.
    pub vocabulary: Identity,
    /// Tokens that files do not hold as they are, in hexadecimal, by id.
    #[serde(rename = "bytes")]
    hex: BTreeMap<String, String>,
    /// The same, parsed.
    #[serde(skip)]
    pub bytes: BTreeMap<usize, Vec<u8>>,
}

/// What a vocabulary is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Identity {
    /// Its id, equal to the file's name.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// Where it was published.
    pub source: String,
    /// How many tokens it has.
    pub tokens: usize,
    /// SHA-256 over the tokens that files hold as they are: length in 4 bytes, little-endian, and bytes.
    pub digest: String,
}

/// Parses and checks one description; `stem` is its file's name without `.toml`.
///
/// # Errors
/// Where it is no TOML of this shape, is named otherwise than its file, or has bytes that are not hexadecimal.
pub fn parse(stem: &str, text: &str) -> Result<Published, String> {
    let mut published: Published = schema::toml(text)?;
    if published.vocabulary.name != stem {
        return Err(format!("describes {}: the file must be named so", published.vocabulary.name));
    }
    for (id, hex) in &published.hex {
        let wrong = || format!("bytes.{id}: an id and its bytes in hexadecimal are wanted");
        let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap_or("x"));
        let bytes = digits.map(|two| u8::from_str_radix(two, 16)).collect::<Result<Vec<_>, _>>();
        let bytes = bytes.map_err(|_| wrong())?;
        published.bytes.insert(id.parse().map_err(|_| wrong())?, bytes);
    }
    Ok(published)
}
