//! Which published tokenizer a byte-level vocabulary belongs to, by the ids that it gives for one text: the name that
//! llama.cpp's converter would write for `tokenizer.ggml.pre`.

use std::sync::LazyLock;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    bytes::hex,
    format::schema,
    infer::tokenizer::{Special, Tokenizer},
    model::{
        Vocab,
        pretokenizer::{ALL, PreTokenizer},
    },
};

/// `formats/tokenizers.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The program, commit and function.
    #[expect(dead_code, reason = "for whoever reads the table")]
    source: String,
    text: String,
    tokenizers: Vec<Published>,
}

/// A published tokenizer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    /// Its name for `tokenizer.ggml.pre`.
    pub pre: String,
    /// The model that it is of.
    pub model: String,
    /// The digest of the text's ids.
    ids: String,
}

/// None only where it cannot be read, which a test rules out.
static TABLE: LazyLock<Option<Table>> =
    LazyLock::new(|| schema::toml(include_str!("../../formats/tokenizers.toml")).ok());

/// What the ids of the text say of the name that is stated.
#[derive(Debug)]
pub(super) enum Told {
    /// It is right.
    Right,
    /// It gives other ids than the tokenizer that the vocabulary belongs to; that has one of these names.
    Wrong(Vec<(&'static Published, &'static PreTokenizer)>),
    /// Nothing: no published tokenizer gives these ids, or several that cut differently do.
    Open,
}

/// Compares the vocabulary's ids under every way of cutting with those of published tokenizers.
pub(super) fn told(vocab: &Vocab, stated: Option<&'static PreTokenizer>) -> Told {
    let Some(table) = TABLE.as_ref() else { return Told::Open };
    let Ok(mut tokenizer) = Tokenizer::new(vocab) else { return Told::Open };
    let mut found: Vec<(&Published, &PreTokenizer)> = Vec::new();
    let others = ALL.iter().filter(|pre| Some(*pre) != stated);
    for pre in stated.into_iter().chain(others) {
        if tokenizer.cut_by(pre).is_err() {
            return Told::Open;
        }
        let ids = tokenizer.encode(&table.text, Special::Text);
        let names: Vec<_> = owners(table, &ids, vocab).collect();
        if Some(pre) == stated && !names.is_empty() {
            // Where another's name gives the same ids, the text does not show whether they differ.
            let right = names.iter().any(|(_, known)| *known == pre);
            return if right { Told::Right } else { Told::Open };
        }
        found.extend(names);
    }
    match found.first() {
        Some((_, first)) if found.iter().all(|(_, pre)| pre.stages == first.stages) => {
            Told::Wrong(found)
        }
        _ => Told::Open,
    }
}

/// The tokenizers that give these ids, with whatever they put around them, as far as their way of cutting is known. Those
/// that also have this vocabulary's first token come first: they agree in more.
fn owners(
    table: &'static Table,
    ids: &[u32],
    vocab: &Vocab,
) -> impl Iterator<Item = (&'static Published, &'static PreTokenizer)> {
    let around = |before: Option<u32>, after: Option<u32>| {
        let ids: Vec<u32> = before.into_iter().chain(ids.iter().copied()).chain(after).collect();
        hex(&Sha256::digest(format!("{ids:?}")))
    };
    let (bos, eos) = (vocab.bos, vocab.eos);
    let digests = [around(bos, eos), around(bos, None), around(None, eos), around(None, None)];
    let of = |digest: String| table.tokenizers.iter().filter(move |known| known.ids == digest);
    let known = digests.into_iter().flat_map(of);
    known.filter_map(|known| Some((known, PreTokenizer::named(&known.pre)?)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;
    use crate::model::Texts;

    /// What a published vocabulary has for the text.
    #[derive(Deserialize)]
    struct Part {
        bos: u32,
        tokens: BTreeMap<usize, String>,
        merges: Vec<String>,
    }

    fn vocabulary(name: &str) -> Vocab {
        let path = format!("{}/golden/tokenizers/published.json", env!("CARGO_MANIFEST_DIR"));
        let mut parts: BTreeMap<String, Part> =
            serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let part = parts.remove(name).unwrap();
        let (mut tokens, mut merges) = (Texts::default(), Texts::default());
        for id in 0..=*part.tokens.keys().last().unwrap() {
            tokens.push(part.tokens.get(&id).map_or("", String::as_str));
        }
        part.merges.iter().for_each(|merge| merges.push(merge));
        let model = "gpt2".to_owned();
        Vocab { model, tokens, merges, bos: Some(part.bos), ..Vocab::default() }
    }

    /// What is told where `pre` is stated.
    fn names(vocab: &mut Vocab, pre: &str) -> Option<Vec<&'static str>> {
        vocab.pre = pre.to_owned();
        match told(vocab, PreTokenizer::named(pre).filter(|_| !pre.is_empty())) {
            Told::Right => Some(Vec::new()),
            Told::Wrong(owners) => Some(owners.iter().map(|(o, _)| o.pre.as_str()).collect()),
            Told::Open => None,
        }
    }

    #[test]
    fn ids_of_one_text_name_the_tokenizer() {
        let mut falcon = vocabulary("falcon");
        assert_eq!(names(&mut falcon, "falcon"), Some(vec![]));
        for pre in ["", "gpt-2", "starcoder", "tekken"] {
            let found = names(&mut falcon, pre).unwrap();
            assert!(!found.is_empty() && found.iter().all(|name| *name == "falcon"), "{pre}");
        }
        // Another's name that gives the same ids is left to the learned tokens.
        assert_eq!(names(&mut falcon, "llama-bpe"), None);
        // With the token that begins a text, and without it as another model has it.
        let mut llama = vocabulary("llama-bpe");
        assert_eq!(names(&mut llama, "llama-bpe"), Some(vec![]));
        assert_eq!(names(&mut llama, "smaug-bpe"), Some(vec![]));
        let found = names(&mut llama, "gpt-2").unwrap();
        assert_eq!((found[0], found.contains(&"smaug-bpe")), ("llama-bpe", true), "{found:?}");
        // Letters that are tokens of their own, beside the bytes that spell them.
        let mut command_r = vocabulary("command-r");
        assert_eq!(names(&mut command_r, "command-r"), Some(vec![]));
        let found = names(&mut command_r, "").unwrap();
        assert!(!found.is_empty() && found.iter().all(|name| *name == "command-r"), "{found:?}");
        // One other id, and it is nobody's.
        let mut other = vocabulary("falcon");
        let last = falcon.merges.len() - 1;
        other.merges = falcon.merges.iter().take(last / 2).collect();
        assert_eq!(names(&mut other, "gpt-2"), None);
        assert_eq!(names(&mut other, "falcon"), None);
    }

    #[test]
    fn the_table_has_digests_of_models() {
        for known in &TABLE.as_ref().unwrap().tokenizers {
            assert!(known.ids.len() == 64 && known.model.contains('/'), "{known:?}");
        }
    }
}
