//! What the descriptions of containers, families and blocks have in common.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// The days between which a format was written by the newest llama.cpp.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Lived {
    /// The day of the commit that introduced it, as `2023-03-10`.
    #[serde(deserialize_with = "date")]
    pub from: String,
    /// The day of the commit that ended it; none while it lives.
    #[serde(default, deserialize_with = "some_date")]
    pub to: Option<String>,
}

impl Lived {
    /// An error if the format ended before it began.
    pub fn check(&self) -> Result<(), String> {
        match &self.to {
            Some(to) if *to < self.from => {
                Err(format!("lived: ends {to}, before it begins, {}", self.from))
            }
            _ => Ok(()),
        }
    }
}

/// A date of TOML without a time, kept as text: texts in this form are in the order of time.
fn date<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let value = toml::value::Datetime::deserialize(from)?;
    if value.date.is_none() || value.time.is_some() {
        return Err(serde::de::Error::custom(format!("{value} is not a plain date")));
    }
    Ok(value.to_string())
}

fn some_date<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    date(from).map(Some)
}

/// A text or a list of texts.
pub(crate) fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        More(Vec<String>),
    }
    Ok(match Texts::deserialize(from)? {
        Texts::One(text) => vec![text],
        Texts::More(texts) => texts,
    })
}

/// Parses one TOML text as a description.
pub(crate) fn toml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    ::toml::from_str(text).map_err(|wrong| wrong.to_string())
}
