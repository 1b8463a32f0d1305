//! Tokenizers of the original libraries, and the ids that those give: `golden/tokenizers`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use libtest_mimic::{Failed, Trial};
use regguf::{
    change::upgrade,
    checkpoint::tokenizer::{json::TokenizerJson, sentencepiece::SentencePiece},
    infer::{Special, Tokenizer},
    limits::Limits,
    model::{Model, Texts, Vocab},
};
use serde_json::Value as Json;

/// Files of which each has its trial; those of references are read with the models that they are of.
const MODELS: [&str; 2] = ["tok512", "tok2048"];

/// A test for each file; of a file with several vocabularies or pre-tokenizers one for each.
pub fn all() -> impl Iterator<Item = Trial> {
    let models = MODELS.map(|name| {
        Trial::test(format!("tokenizers/{name}.model"), move || {
            let vocab = pieces(name)?;
            references(&Tokenizer::new(&vocab)?, name)
        })
    });
    let dressed = Trial::test("tokenizers/llama-512.json", as_json);
    let cut = keys(&json("bpe-1100.json")["pre"])
        .into_iter()
        .map(|name| Trial::test(format!("tokenizers/bpe-1100.json/{name}"), move || cuts(&name)));
    let published = keys(&json("published.json")).into_iter().map(|name| {
        Trial::test(format!("tokenizers/published.json/{name}"), move || is_recognised(&name))
    });
    models.into_iter().chain([dressed]).chain(cut).chain(published)
}

fn path(name: &str) -> PathBuf {
    super::golden().join("tokenizers").join(name)
}

fn json(name: &str) -> Json {
    let bytes = fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn keys(object: &Json) -> Vec<String> {
    let keys: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
    assert!(!keys.is_empty());
    keys
}

fn pieces(name: &str) -> Result<Vocab, Failed> {
    Ok(SentencePiece::open(&path(&format!("{name}.model")), &Limits::DEFAULT)?.vocab())
}

fn ids(json: &Json) -> Vec<u32> {
    serde_json::from_value(json.clone()).unwrap()
}

/// The ids are those of the library for 80 strings each, and decoding them gives what it gives.
fn references(tokenizer: &Tokenizer, name: &str) -> Result<(), Failed> {
    let refs = json(&format!("{name}.refs.json"));
    let cases = refs["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 80);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let got = tokenizer.encode(text, Special::Text);
        assert_eq!(got, ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&got), case["decoded"].as_str().unwrap());
    }
    Ok(())
}

/// SentencePiece's vocabulary as a `tokenizer.json`: the same tokens, kinds and ids as of its own file.
fn as_json() -> Result<(), Failed> {
    let bytes = fs::read(path("llama-512.json"))?;
    let parsed = TokenizerJson::parse("tokenizer.json", &bytes, &Limits::DEFAULT)?;
    let original = pieces("tok512")?;
    assert_eq!(parsed.vocab.tokens, original.tokens);
    assert_eq!(parsed.vocab.kinds, original.kinds);
    references(&Tokenizer::new(&parsed.vocab)?, "tok512")
}

/// Byte pairs behind the pre-tokenizer of this name: the ids are the library's by the name that is recognised from its
/// steps, which may be another for the same cuts, and by this one.
fn cuts(name: &str) -> Result<(), Failed> {
    let golden = json("bpe-1100.json");
    let of = &golden["pre"][name];
    let mut file = golden["tokenizer"].clone();
    file["pre_tokenizer"] = of["pre_tokenizer"].clone();
    file["model"]["ignore_merges"] = of["ignore_merges"].clone();
    let bytes = serde_json::to_vec(&file)?;
    let parsed = TokenizerJson::parse("tokenizer.json", &bytes, &Limits::DEFAULT)?;
    let strings = golden["strings"].as_array().unwrap();
    let wanted: Vec<Vec<u32>> = of["ids"].as_array().unwrap().iter().map(ids).collect();
    assert!(strings.len() > 100 && wanted.len() == strings.len());
    for pre in [parsed.vocab.pre.clone(), name.to_owned()] {
        let tokenizer = Tokenizer::new(&Vocab { pre, ..parsed.vocab.clone() })?;
        for (text, wanted) in strings.iter().zip(&wanted) {
            let text = text.as_str().unwrap();
            let got = tokenizer.encode(text, Special::Token);
            assert_eq!(got, *wanted, "{text:?}");
            // Both added tokens are control tokens: one says so, the other looks it.
            let shown = text.replace("<|end|>", "").replace("<|a|>", "");
            assert_eq!(tokenizer.decode(&got), shown);
        }
    }
    Ok(())
}

/// A GGUF with a published vocabulary and another's name for what cuts its texts gets the right name.
fn is_recognised(name: &str) -> Result<(), Failed> {
    let part = &json("published.json")[name];
    let of: BTreeMap<usize, String> = serde_json::from_value(part["tokens"].clone())?;
    let merges: Vec<String> = serde_json::from_value(part["merges"].clone())?;
    let bos = u32::try_from(part["bos"].as_u64().unwrap())?;
    let last = *of.keys().last().unwrap();
    // Only the tokens that one text is made of are there; every other has a text of its own, which no text has.
    let text = |id| of.get(&id).cloned().unwrap_or_else(|| format!("[PAD{id}]"));
    let tokens: Texts = (0..=last.max(bos as usize)).map(text).collect();
    // The rules of GPT-2 give Command R's ids for this text too.
    let wrong = if name == "command-r" { "llama-bpe" } else { "gpt-2" };
    let mut model = Model { format: "gguf-v3".to_owned(), ..Model::default() };
    model.metadata.set("general.architecture", "llama");
    let vocab = Vocab {
        model: "gpt2".to_owned(),
        pre: wrong.to_owned(),
        tokens,
        merges: merges.into_iter().collect(),
        bos: Some(bos),
        ..Vocab::default()
    };
    vocab.to_metadata(&mut model.metadata);
    model.vocab = vocab;
    let (_, plan) = upgrade::plan(model, &upgrade::Options::default())?;
    let pre = plan.metadata.str("tokenizer.ggml.pre").unwrap();
    assert_eq!(pre, name, "{:?}", plan.notes);
    Ok(())
}
