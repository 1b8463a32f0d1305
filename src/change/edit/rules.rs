//! What an edit may not do: what today's llama.cpp would refuse the file for.
//!
//! Only what an edit breaks counts: a file that llama.cpp refused before may be edited, and is refused no less after.
//!
//! | what | can it be waived |
//! |---|---|
//! | keys that say how files belong together; an alignment that is none | no: the file would be read otherwise |
//! | demands of the loader that were met before | yes |
//! | a value of another kind, an architecture, pre-tokenizer or token that is not known | yes |
//! | lists of tokens that are not as long as the vocabulary | yes |

use super::Difference;
use crate::{
    container::keyed::is_alignment,
    error::{Error, Result},
    format::catalog,
    model::{Array, Kind, Model, Value, Vocab, loader, pretokenizer::PreTokenizer},
    remedy::{Call, Remedy, Setting},
};

/// What becomes of an edit whose result today's llama.cpp would refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Demands {
    /// It is refused.
    #[default]
    Met,
    /// It is done: whoever asks knows another program that takes the file.
    Waived,
}

/// Checks the metadata that `after` has in place of that of `before`. What is no more than strange passes
/// where demands are waived.
///
/// # Errors
/// [`Error::Refused`] with the first thing that is wrong.
pub(super) fn check(
    before: &Model,
    after: &Model,
    changed: &[Difference],
    demands: Demands,
) -> Result<()> {
    for difference in changed {
        never(difference)?;
    }
    if demands == Demands::Waived {
        return Ok(());
    }
    let old: Vec<loader::Breach> = loader::breaches(before);
    let new = loader::breaches(after).into_iter().filter(|breach| !old.contains(breach));
    let breaches = new.map(|b| format!("{} {}", b.about, b.what));
    let of_keys = changed.iter().filter_map(|difference| wrong(difference, after));
    let mut all = breaches.chain(of_keys);
    let Some(first) = all.next() else { return Ok(()) };
    let more = match all.count() {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    let what = format!("today's llama.cpp would refuse the file: {}{more}", first.trim_start());
    let next = Remedy::from("mend that in the same call");
    Err(Error::refused(what, next.or(Setting::Anyway.to("write it anyway"))))
}

/// What is refused always: the file would not be read as it was written.
fn never(difference: &Difference) -> Result<()> {
    let (key, after) = (difference.key.as_str(), difference.after.as_ref());
    if key.starts_with("split.") {
        let next = Call::Split.to("write shards").or(Call::Join.to("make them one file"));
        return Err(Error::refused(format!("{key}: says how files belong together"), next));
    }
    let aligned = |value: &Value| matches!(value, Value::U32(n) if is_alignment((*n).into()));
    if key == "general.alignment" && !after.is_none_or(aligned) {
        let what = format!("{key}: {} is no u32 and power of two up to 2^20", shown(after));
        return Err(Error::refused(what, "32 is usual"));
    }
    Ok(())
}

/// What is wrong with a key as it is now.
/// The sentence goes on from "would refuse the file:".
fn wrong(difference: &Difference, model: &Model) -> Option<String> {
    let (key, value) = (difference.key.as_str(), difference.after.as_ref()?);
    let architecture = model.metadata.architecture();
    let loader = catalog::loader();
    if let Some(kind) = loader.kind(architecture, key).filter(|kind| value.kind().name() != *kind) {
        let per_block = loader.per_block.iter().any(|own| key == format!("{architecture}.{own}"));
        if value.kind() != Kind::Array || !per_block {
            return Some(format!("{key} is {}, it takes {kind}", value.kind().name()));
        }
    }
    if key == "general.architecture" && !loader.architectures.contains_key(architecture) {
        return Some(format!("{key} is {}, which it does not know", shown(Some(value))));
    }
    let pre = value.as_str().filter(|_| key == "tokenizer.ggml.pre");
    if pre.is_some_and(|pre| PreTokenizer::named(pre).is_none()) {
        return Some(format!("{key} is {}, a name not known here", shown(Some(value))));
    }
    let tokens = Vocab::from_metadata(&model.metadata).len();
    if key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id") {
        let inside = value.as_u64().is_some_and(|id| id < tokens as u64);
        return (!inside).then(|| format!("{key} is {value}, and there are {tokens} tokens"));
    }
    let of_tokens = ["tokens", "scores", "token_type"].iter();
    of_tokens.map(|name| format!("tokenizer.ggml.{name}")).find(|own| own == key)?;
    let lengths = ["scores", "token_type"].iter().filter_map(|name| {
        let items = model.metadata.get(&format!("tokenizer.ggml.{name}"))?.as_array()?;
        Some((*name, Array::len(items)))
    });
    let (name, n) = lengths.into_iter().find(|(_, n)| *n != tokens)?;
    Some(format!("tokenizer.ggml.{name} has {n} items for {tokens} tokens"))
}

/// A value as an error shows it.
fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), super::line)
}
