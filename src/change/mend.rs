//! What an upgrade mends in the metadata of a GGUF, each with the evidence that the rest of the file gives: where that
//! proves nothing, nothing is changed.
//!
//! | what is mended | evidence |
//! |---|---|
//! | `tokenizer.ggml.pre` | ids of a text that are a published tokenizer's (`published`), else the learned tokens: only one way of cutting leaves them whole (`cuts`) |
//! | tokens of one text | llama.cpp ends its process for them, so no reader can rely on both |
//! | arrays of more or fewer items than blocks | shapes of each block's matrices, or that all items are equal |

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};

use super::{choose::mix::block_of, cuts};
use crate::{
    format::catalog,
    model::{Array, Kind, Model, TokenKind, Value},
    remedy::Note,
    size::counted,
};

/// One thing that is wrong, and what it should be.
#[derive(Clone, Debug)]
pub struct Mend {
    /// What is wrong and what shows it, as a sentence.
    pub note: Note,
    /// The keys with the values that they should have; none where the file does not say which is right.
    pub keys: Vec<(String, Value)>,
}

/// Everything that is found; with `vocabulary` also in the tokens that the file has.
pub fn found(model: &Model, vocabulary: bool) -> Vec<Mend> {
    let pre = || {
        let cuts::Found { note, name } = cuts::found(&model.vocab, model.metadata.architecture())?;
        let key = |name| ("tokenizer.ggml.pre".to_owned(), Value::from(name));
        Some(Mend { note, keys: name.map(key).into_iter().collect() })
    };
    let tokens = vocabulary.then(|| [pre(), repeated_texts(model)]);
    tokens.into_iter().flatten().flatten().chain(arrays(model)).collect()
}

/// Tokens with a text that another has, which llama.cpp ends its process for. The text stays with a token that metadata
/// name, else with one that is no plain text, which is looked for first, else with the first.
fn repeated_texts(model: &Model) -> Option<Mend> {
    let vocab = &model.vocab;
    let named: HashSet<u64> = model
        .metadata
        .iter()
        .filter(|(key, _)| key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id"))
        .filter_map(|(_, id)| id.as_u64())
        .collect();
    // Who keeps the text: the smallest rank, of equal ones the first.
    let rank = |id: usize| match vocab.kind(id) {
        _ if named.contains(&(id as u64)) => 0,
        TokenKind::Control | TokenKind::UserDefined => 1,
        TokenKind::Unused => 3,
        _ => 2,
    };
    // Of millions of texts the hashes alone; texts are looked at where two of these are the same.
    let hash = |text: &[u8]| BuildHasherDefault::<DefaultHasher>::default().hash_one(text);
    // Rows without a text are no tokens: nothing leads to them, in any number.
    let texts = || vocab.tokens.iter().enumerate().filter(|(_, text)| !text.is_empty());
    let mut hashes: Vec<u64> = texts().map(|(_, text)| hash(text)).collect();
    hashes.sort_unstable();
    let twice = |pair: &[u64]| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    };
    let repeated: HashSet<u64> = hashes.windows(2).filter_map(twice).collect();
    if repeated.is_empty() {
        return None;
    }
    let mut owners: HashMap<&[u8], usize> = HashMap::new();
    let mut others = Vec::new();
    for (id, text) in texts().filter(|(_, text)| repeated.contains(&hash(text))) {
        match owners.get_mut(text) {
            Some(owner) if rank(id) < rank(*owner) => others.push(std::mem::replace(owner, id)),
            Some(_) => others.push(id),
            None => {
                owners.insert(text, id);
            }
        }
    }
    let first = *others.iter().min()?;
    let text = String::from_utf8_lossy(vocab.tokens.get(first)?).into_owned();
    let mut names = HashMap::new();
    for id in &others {
        // As converters call rows that no text leads to.
        let mut name = format!("[PAD{id}]");
        while hashes.binary_search(&hash(name.as_bytes())).is_ok() {
            name.push('_');
        }
        names.insert(*id, name.into_bytes());
    }
    let mut keys = vec![("tokenizer.ggml.tokens".to_owned(), vocab.tokens.with(&names).into())];
    if !vocab.kinds.is_empty() {
        let kind = |(id, kind): (usize, &TokenKind)| match names.contains_key(&id) {
            true => Value::I32(TokenKind::Unused as i32),
            false => Value::I32(*kind as i32),
        };
        let kinds = Array::of(Kind::I32, vocab.kinds.iter().enumerate().map(kind));
        keys.push(("tokenizer.ggml.token_type".to_owned(), kinds.into()));
    }
    let note = format!(
        "{} a text that another has, the first is {first}, {text:?}: llama.cpp ends where it sees such, so they are \
         unused tokens now, [PAD{first}] and so on",
        counted(others.len(), "token has", "tokens have")
    );
    Some(Mend { note: note.into(), keys })
}

/// Arrays of one item a block that have more or fewer, as programs leave them that take blocks out: set anew from the
/// shapes of each block's matrices, or shortened where all items are the same.
fn arrays(model: &Model) -> Vec<Mend> {
    let own = |name: &str| format!("{}.{name}", model.metadata.architecture());
    let Some(blocks) = model.metadata.u64(&own("block_count")) else { return Vec::new() };
    // Blocks that guess the tokens after the next one are counted among all.
    let ahead = model.metadata.u64(&own("nextn_predict_layers")).unwrap_or(0);
    // Only of a model whose blocks are all there: else nobody knows which items are those of the missing ones.
    let known: HashSet<u64> = model.tensors.iter().filter_map(|t| block_of(&t.name)).collect();
    if blocks == 0 || (0..blocks).any(|n| !known.contains(&n)) {
        return Vec::new();
    }
    let mut out = Vec::new();
    for word in &catalog::loader().per_block {
        let key = own(word);
        let Some(items) = model.metadata.get(&key).and_then(Value::as_array) else { continue };
        let there = items.len() as u64;
        // With or without the blocks that guess further tokens, as programs differ.
        if there == blocks || there == blocks.saturating_sub(ahead) || there == 0 {
            continue;
        }
        let measured = || {
            let all = (0..blocks).map(|block| measured(model, word, block));
            Some(("set anew from the shapes of their matrices", all.collect::<Option<Vec<u64>>>()?))
        };
        let equal = || {
            let first = items.first()?.as_u64()?;
            let same = items.iter().all(|item| item.as_u64() == Some(first));
            let all = vec![first; usize::try_from(blocks).ok()?];
            same.then_some(("all of them are the same", all))
        };
        let Some((how, values)) = measured().or_else(equal) else { continue };
        let values = values.into_iter().map(|n| of_kind(items, n)).collect::<Option<Vec<_>>>();
        if let Some(values) = values {
            let note = format!("{key} has {there} items for {blocks} blocks: {how}");
            out.push(Mend {
                note: note.into(),
                keys: vec![(key, Array::of(items.kind(), values).into())],
            });
        }
    }
    out
}

/// What the matrices of a block say of it.
/// None where the array is about something that no shape tells, or a head's length is not stated.
fn measured(model: &Model, word: &str, block: u64) -> Option<u64> {
    let shape = |name: &str| Some(&model.tensor(&format!("blk.{block}.{name}.weight"))?.shape);
    let heads = |name: &str| {
        let head = model.metadata.own("attention.key_length")?.as_u64()?;
        // A block without such a matrix, as hybrid models have them, has no heads.
        let rows = shape(name).map_or(Some(0), |shape| shape.first().copied())?;
        rows.checked_div(head).filter(|heads| heads * head == rows)
    };
    match word {
        "feed_forward_length" => shape("ffn_down").map_or(Some(0), |shape| shape.last().copied()),
        "attention.head_count" => heads("attn_q"),
        "attention.head_count_kv" => heads("attn_k"),
        _ => None,
    }
}

/// The number as the items of an array are stored.
pub(super) fn of_kind(items: &Array, n: u64) -> Option<Value> {
    Some(match items.first()? {
        Value::U32(_) => Value::U32(n.try_into().ok()?),
        Value::I32(_) => Value::I32(n.try_into().ok()?),
        Value::U64(_) => Value::U64(n),
        Value::I64(_) => Value::I64(n.try_into().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        container::{self, OpenOptions},
        model::Vocab,
    };

    fn model() -> Model {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/T/E10/model-f16.convert-hf.gguf");
        container::open(&path, &OpenOptions::default()).unwrap()
    }

    #[test]
    fn repeated_texts_stay_with_the_token_that_is_looked_for() {
        let mut model = model();
        assert!(repeated_texts(&model).is_none());
        // Token 2 is the end of a text, which metadata name; 300 and 310 are plain, 400 is control.
        let text = |id: usize, model: &Model| model.vocab.tokens.get(id).unwrap().to_vec();
        let same = HashMap::from([
            (1, text(2, &model)),
            (310, text(300, &model)),
            (301, text(400, &model)),
        ]);
        model.metadata.remove("tokenizer.ggml.bos_token_id");
        model.vocab.tokens = model.vocab.tokens.with(&same);
        model.vocab.kinds[400] = TokenKind::Control;
        let mend = repeated_texts(&model).unwrap();
        assert!(
            mend.note.starts_with("3 tokens have a text that another has, the first is 1"),
            "{}",
            mend.note
        );
        mend.keys.into_iter().for_each(|(key, value)| model.metadata.set(key, value));
        let mended = Vocab::from_metadata(&model.metadata);
        for (id, text) in model.vocab.tokens.iter().enumerate() {
            let unused = [1, 301, 310].contains(&id);
            let wanted = if unused { format!("[PAD{id}]").into_bytes() } else { text.to_vec() };
            assert_eq!(mended.tokens.get(id), Some(&wanted[..]));
            assert_eq!(mended.kind(id) == TokenKind::Unused, unused, "{id}");
        }
    }

    #[test]
    fn arrays_of_layers_that_were_taken_out_follow_the_matrices() {
        let mut model = model();
        let key = |name: &str| format!("llama.{name}");
        let items = |values: &[u32]| {
            Value::from(Array::of(Kind::U32, values.iter().map(|n| Value::U32(*n))))
        };
        model.metadata.set(key("attention.key_length"), 16u32);
        model.metadata.set(key("feed_forward_length"), items(&[192, 77, 192]));
        model.metadata.set(key("attention.head_count"), items(&[4, 4, 8]));
        model.metadata.set(key("attention.compress_ratios"), items(&[3, 3, 3]));
        model.metadata.set(key("attention.indexer.types"), items(&[1, 2, 3]));
        model.metadata.set(key("attention.head_count_kv"), items(&[4, 4]));
        let found = arrays(&model);
        let values: Vec<_> = found.iter().flat_map(|mend| mend.keys.clone()).collect();
        let wanted = [
            (key("attention.head_count"), items(&[4, 4])),
            (key("feed_forward_length"), items(&[192, 192])),
            (key("attention.compress_ratios"), items(&[3, 3])),
        ];
        assert_eq!(values, wanted, "what nothing tells stays");
        assert!(found[1].note.contains("has 3 items for 2 blocks: set anew from the shapes"));
        // Without the length of a key nothing tells how many heads there are.
        model.metadata.remove(&key("attention.key_length"));
        assert_eq!(arrays(&model).len(), 2);
    }
}
