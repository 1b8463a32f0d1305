//! Metadata of a GGUF edited: keys set, removed, renamed or copied from another file, and nothing else.
//!
//! Where every tensor stays in its place the file's own header can be written anew ([`Patch`]); else a
//! new file is made, the tensors' bytes copied. What today's llama.cpp would refuse because of an edit is
//! refused here.
//!
//! | edit | refused where |
//! |---|---|
//! | set | the name is no key, a new key has no kind, the text is no value of its kind |
//! | remove, copy | the pattern finds no key |
//! | rename | there is no such key, or one of the new name |
//! | special | there is no such token, or two have its text |

mod place;
mod rules;
mod value;

pub use place::{Patch, plans};
pub use rules::Demands;
pub use value::Form;

use crate::{
    error::{Error, Result},
    model::{Kind, Metadata, Value, Vocab, glob},
    remedy::Call,
};

/// One thing to do to metadata.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Edit {
    /// Give a key a value: the text in this form, or where none is named in the one that the key has.
    Set {
        /// The key.
        key: String,
        /// The form that was named.
        form: Option<Form>,
        /// The value as text.
        text: String,
    },
    /// Take away every key that a pattern matches.
    Remove(String),
    /// Give a key another name.
    Rename {
        /// Its name.
        key: String,
        /// Its new name.
        name: String,
    },
    /// Take every key that a pattern matches from another file.
    CopyFrom {
        /// The other file's metadata.
        other: Metadata,
        /// Its name, for messages.
        file: String,
        /// Which keys.
        keys: String,
    },
    /// Say which token is special in some way: `eos`, by its id or its text.
    Special {
        /// What it is, as `bos`, `eos`, `eot`, `padding`.
        name: String,
        /// The token.
        token: Token,
    },
}

/// A token as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Token {
    /// By its number.
    Id(u32),
    /// By its text as the vocabulary has it.
    Text(String),
}

/// How a key differs: its value before and after, where it has one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// The key.
    pub key: String,
    /// Its value before.
    pub before: Option<Value>,
    /// Its value now.
    pub after: Option<Value>,
}

/// Does `edits`, one after the other.
///
/// # Errors
/// Where a key that is to be removed, renamed or copied is not there, a text is no value of its form, or a
/// token is not in the vocabulary.
pub fn apply(metadata: &mut Metadata, edits: &[Edit]) -> Result<()> {
    edits.iter().try_for_each(|edit| edit.apply(metadata))
}

/// What differs between two states of metadata, in the order in which they have their keys.
pub fn differences(before: &Metadata, after: &Metadata) -> Vec<Difference> {
    let gone = before.iter().filter(|(key, value)| after.get(key) != Some(value));
    let gone = gone.map(|(key, value)| Difference {
        key: key.to_owned(),
        before: Some(value.clone()),
        after: after.get(key).cloned(),
    });
    let new = after.iter().filter(|(key, _)| before.get(key).is_none());
    let new = new.map(|(key, value)| Difference {
        key: key.to_owned(),
        before: None,
        after: Some(value.clone()),
    });
    gone.chain(new).collect()
}

impl Edit {
    /// Does one edit; of a pattern every key that it matches.
    fn apply(&self, metadata: &mut Metadata) -> Result<()> {
        match self {
            Edit::Set { key, form, text } => {
                check_key(key)?;
                let form = form.or_else(|| Form::of_key(metadata, key)).ok_or_else(|| {
                    let what = format!("{key} is a new key, of no known kind");
                    Error::usage(format!("{what}: say which, as str:{text} or u32:5"))
                })?;
                let value = form.read(text).map_err(|why| Error::usage(format!("{key}: {why}")))?;
                metadata.set(key.as_str(), value);
            }
            Edit::Remove(keys) => {
                for key in matching(metadata, keys, "the file")? {
                    metadata.remove(&key);
                }
            }
            Edit::Rename { key, name } => {
                check_key(name)?;
                if metadata.get(name).is_some() {
                    let next = "remove that first";
                    return Err(Error::refused(
                        format!("{name}: is a key of the file already"),
                        next,
                    ));
                }
                if !metadata.rename(key, name) {
                    return Err(absent(key, "the file"));
                }
            }
            Edit::CopyFrom { other, file, keys } => {
                for key in matching(other, keys, file)? {
                    let value = other.get(&key).cloned().unwrap_or(Value::U8(0));
                    metadata.set(key, value);
                }
            }
            Edit::Special { name, token } => {
                let key = format!("tokenizer.ggml.{name}_token_id");
                metadata.set(key, Value::U32(token.id(metadata)?));
            }
        }
        Ok(())
    }
}

impl Token {
    /// Its number in the vocabulary that `metadata` describes.
    fn id(&self, metadata: &Metadata) -> Result<u32> {
        let tokens = Vocab::from_metadata(metadata).tokens;
        let next = Call::Tokens.to("look at the tokens");
        match self {
            Token::Id(id) if (*id as usize) < tokens.len() => Ok(*id),
            Token::Id(id) => {
                let what = format!("there is no token {id}: the file has {}", tokens.len());
                Err(Error::refused(what, next))
            }
            Token::Text(text) => {
                let same = |(_, token): &(usize, &[u8])| *token == text.as_bytes();
                let found: Vec<usize> =
                    tokens.iter().enumerate().filter(same).map(|(id, _)| id).collect();
                match found.as_slice() {
                    [id] => Ok(u32::try_from(*id).unwrap_or(u32::MAX)),
                    [] => Err(Error::refused(format!("no token has the text {text:?}"), next)),
                    [first, second, ..] => {
                        let what = format!("tokens {first} and {second} have the text {text:?}");
                        Err(Error::refused(what, "name it by its number"))
                    }
                }
            }
        }
    }
}

/// The keys of `metadata` that `keys` means; a name without stars must be there.
fn matching(metadata: &Metadata, keys: &str, file: &str) -> Result<Vec<String>> {
    let found = metadata.iter().filter(|(key, _)| glob::matches(keys, key));
    let found: Vec<String> = found.map(|(key, _)| key.to_owned()).collect();
    if found.is_empty() { Err(absent(keys, file)) } else { Ok(found) }
}

/// That a key is not there, with the one that its name may have been meant for.
fn absent(key: &str, file: &str) -> Error {
    let next = Call::Metadata.on("FILE").to("look at the keys");
    Error::refused(format!("{key}: {file} has no such key"), next)
}

/// What GGUF's specification and its readers allow as a key.
fn check_key(key: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_graphic();
    match key.is_empty() || key.len() > 65_535 || !key.chars().all(plain) {
        true => {
            Err(Error::usage(format!("{key:?} is no key: letters, digits, points and the like")))
        }
        false => Ok(()),
    }
}

/// A value on one line: its kind, and no more of a long text than tells it.
pub fn line(value: &Value) -> String {
    const SHOWN: usize = 120;
    let text = match value {
        Value::String(bytes) if bytes.len() > SHOWN => {
            let text = String::from_utf8_lossy(bytes);
            let cut: String = text.chars().take(SHOWN).collect();
            format!("{cut:?}… ({} bytes)", bytes.len())
        }
        value => value.to_string(),
    };
    match value.kind() {
        Kind::Array => text,
        kind => format!("{} {text}", kind.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, text: &str) -> Edit {
        let form = text.split_once(':').and_then(|(form, _)| Form::parse(form));
        let text = if form.is_some() { text.split_once(':').unwrap_or_default().1 } else { text };
        Edit::Set { key: key.into(), form, text: text.into() }
    }

    fn file() -> Metadata {
        let mut keys = Metadata::new();
        keys.set("general.architecture", "llama");
        keys.set("llama.block_count", 2);
        keys.set("odd.one", Value::I16(-3));
        keys.set("tokenizer.ggml.tokens", Value::strings(["<s>", "a", "a"]));
        keys
    }

    #[test]
    fn edits_are_done_in_their_order_and_told_as_differences() {
        let mut keys = file();
        let edits = [
            set("llama.block_count", "3"),
            set("llama.context_length", "4096"),
            set("odd.one", "-7"),
            Edit::Rename { key: "odd.one".into(), name: "even.one".into() },
            set("my.list", "[f32]:1,2.5"),
            Edit::Special { name: "bos".into(), token: Token::Text("<s>".into()) },
        ];
        apply(&mut keys, &edits).expect("possible");
        let said: Vec<String> = differences(&file(), &keys)
            .iter()
            .map(|d| {
                let line = |v: &Option<Value>| v.as_ref().map_or("-".to_owned(), line);
                format!("{} {} {}", d.key, line(&d.before), line(&d.after))
            })
            .collect();
        assert_eq!(
            said,
            [
                "llama.block_count u32 2 u32 3",
                "odd.one i16 -3 -",
                "even.one - i16 -7",
                "llama.context_length - u32 4096",
                "my.list - f32[2] 1, 2.5",
                "tokenizer.ggml.bos_token_id - u32 0",
            ]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let wrong = [
            set("new.key", "5"),
            set("llama.block_count", "-1"),
            set("llama.block_count", "u16:70000"),
            set("tokenizer.ggml.tokens", "[\"a\",1]"),
            set("", "str:a"),
            set("a b", "str:a"),
            Edit::Remove("absent.*".into()),
            Edit::Rename { key: "odd.one".into(), name: "llama.block_count".into() },
            Edit::Rename { key: "absent".into(), name: "b".into() },
            Edit::CopyFrom { other: file(), file: "other".into(), keys: "absent".into() },
            Edit::Special { name: "eos".into(), token: Token::Id(3) },
            Edit::Special { name: "eos".into(), token: Token::Text("a".into()) },
            Edit::Special { name: "eos".into(), token: Token::Text("b".into()) },
        ];
        for edit in wrong {
            assert!(apply(&mut file(), std::slice::from_ref(&edit)).is_err(), "{edit:?}");
        }
    }
}
