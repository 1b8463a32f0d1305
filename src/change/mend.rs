//! What an upgrade mends in the metadata of a GGUF, each with the evidence that the rest of the file gives: where that
//! proves nothing, nothing is changed.
//!
//! | what is mended | evidence |
//! |---|---|
//! | `tokenizer.ggml.pre` | the learned tokens: only one way of cutting leaves them whole |
//! | tokens of one text | llama.cpp ends its process for them, so no reader can rely on both |
//! | arrays of more or fewer items than blocks | shapes of each block's matrices, or that all items are equal |

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};

use super::choose::mix::block_of;
use crate::{
    format::catalog,
    infer::tokenizer::pretokenize::Splitter,
    model::{
        Array, Kind, Model, TokenKind, Value, Vocab,
        pretokenizer::{self, PreTokenizer},
        spelling,
    },
    size::counted,
};

/// One thing that is wrong, and what it should be.
#[derive(Clone, Debug)]
pub struct Mend {
    /// What is wrong and what shows it, as a sentence.
    pub note: String,
    /// The keys with the values that they should have.
    pub keys: Vec<(String, Value)>,
}

/// Everything that is found; with `vocabulary` also in the tokens that the file has.
pub fn found(model: &Model, vocabulary: bool) -> Vec<Mend> {
    let tokens = vocabulary.then(|| {
        [pre_tokenizer(&model.vocab, model.metadata.architecture()), repeated_texts(model)]
    });
    tokens.into_iter().flatten().flatten().chain(arrays(model)).collect()
}

/// Learned tokens that are too few to prove how words were split.
const FEW: usize = 8192;
/// Of N learned tokens one may be cut apart by what made them: expressions were corrected after training.
const ODD: usize = 4096;
/// A pre-tokenizer that cuts N tokens more apart than another is not what made them.
const MORE: usize = 8;

/// Words split otherwise than the merges were learned: a token that the pre-tokenizer cuts apart can never be made, and
/// no training makes such. Of those that cut none, the one that cuts texts most finely is it: with a coarser one, tokens
/// across its cuts would have been learned.
fn pre_tokenizer(vocab: &Vocab, architecture: &str) -> Option<Mend> {
    if vocab.model != "gpt2" {
        return None;
    }
    let stated = match vocab.pre.as_str() {
        "" => None,
        name => Some(PreTokenizer::named(name)?),
    };
    if let Some(stated) = stated {
        // A few thousand are enough to see that nothing is wrong.
        let some = learned(vocab, vocab.merges.len() / FEW + 1);
        if cut_apart(stated, some.iter(), usize::MAX)? * 1000 <= some.len() {
            return None;
        }
    }
    let learned = learned(vocab, 1);
    if learned.len() < FEW {
        return None;
    }
    // Each way of cutting once, however many names it has; counted no further than is needed to rule it out.
    let mut all: Vec<(usize, &PreTokenizer)> = Vec::new();
    for pre in pretokenizer::ALL {
        if !all.iter().any(|(_, other)| other.stages == pre.stages) {
            all.push((cut_apart(pre, learned.iter(), learned.len() / ODD + MORE)?, pre));
        }
    }
    let least = all.iter().map(|(cut, _)| *cut).min()?;
    // The least must be next to nothing, and clearly less than what the others cut.
    let (fit, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(cut, _)| *cut == least);
    if least > learned.len() / ODD || others.iter().any(|(cut, _)| *cut < least + MORE) {
        return None;
    }
    // Of equals the finest: see above.
    let pieces = |pre: &PreTokenizer| Some(Splitter::new(pre).ok()?.split(SAMPLE).len());
    let finest = fit.iter().filter_map(|(_, pre)| pieces(pre)).max()?;
    let (_, right) = fit.into_iter().find(|(_, pre)| pieces(pre) == Some(finest))?;
    if stated.is_some_and(|stated| stated.stages == right.stages) {
        return None;
    }
    // Tokens that no merge makes are found as a whole, or never.
    let made: HashSet<&str> = learned.iter().map(|(spelled, _)| spelled.as_str()).collect();
    let whole = |id: usize, text: &[u8]| {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let one = text.chars().nth(1).is_none();
        vocab.kind(id) == TokenKind::Normal && !one && !made.contains(text)
    };
    let ignores = vocab.tokens.iter().enumerate().any(|(id, text)| whole(id, text));
    let same = || pretokenizer::ALL.iter().filter(|pre| pre.stages == right.stages);
    let right = same().find(|pre| pre.ignore_merges == ignores).or(same().next())?;
    // Several names mean the same; a model's own is among them.
    let own = right.names.iter().find(|name| **name == architecture);
    let (name, all) = (own.copied().unwrap_or(right.name()), learned.len());
    let now = match stated {
        Some(stated) => {
            let cut = cut_apart(stated, learned.iter(), usize::MAX)?;
            format!("is {:?}, which cuts {cut} of {all} learned tokens apart", vocab.pre)
        }
        None => "is missing, and llama.cpp would guess".to_owned(),
    };
    let note =
        format!("tokenizer.ggml.pre {now}: {name} is what keeps {} of {all} whole", all - least);
    Some(Mend { note, keys: vec![("tokenizer.ggml.pre".to_owned(), Value::from(name))] })
}

/// Text in which pre-tokenizers that cut no learned token differ: digits, punctuation, white space.
const SAMPLE: &str = "for (int i = 0; i < 12345; i++) {\n    total[i] += (x == \"y\") ? 2024 : -1; // it's\r\n}\n\n\
                      \tThe year 1999 -- (see page 12,345) was 'fine'; 100 % ... don't!\n";

/// The texts that every `step`-th merge makes, as they are spelled and as they are read, each once; what is no UTF-8 is
/// part of a letter.
fn learned(vocab: &Vocab, step: usize) -> Vec<(String, String)> {
    let rebuilt = spelling::lost_merges(vocab).unwrap_or_default();
    let stored = vocab.merges.iter().filter_map(|merge| std::str::from_utf8(merge).ok());
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for merge in stored.chain(rebuilt.iter().map(String::as_str)).step_by(step) {
        let Some((left, right)) = merge.split_once(' ') else { continue };
        let spelled = format!("{left}{right}");
        let bytes = spelling::from_alphabet(spelled.as_bytes());
        if let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok())
            && seen.insert(spelled.clone())
        {
            out.push((spelled, text));
        }
    }
    out
}

/// How many of these texts a pre-tokenizer cuts apart, counted up to `enough`.
fn cut_apart<'t>(
    pre: &PreTokenizer,
    texts: impl Iterator<Item = &'t (String, String)>,
    enough: usize,
) -> Option<usize> {
    let splitter = Splitter::new(pre).ok()?;
    Some(texts.filter(|(_, text)| splitter.split(text).len() > 1).take(enough).count())
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
    Some(Mend { note, keys })
}

/// Arrays of one item a block that have more or fewer, as programs leave them that take blocks out: set anew from the
/// shapes of each block's matrices, or shortened where all items are the same.
fn arrays(model: &Model) -> Vec<Mend> {
    let own = |name: &str| format!("{}.{name}", model.metadata.architecture());
    let Some(blocks) = model.metadata.u64(&own("block_count")) else { return Vec::new() };
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
            out.push(Mend { note, keys: vec![(key, Array::of(items.kind(), values).into())] });
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
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        container::{self, OpenOptions},
        model::Texts,
    };

    /// What this house has written, as a text with words, numbers and code.
    fn corpus() -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let names = ["README.md", "CHANGELOG.md", "src/cli/json.md", "src/model/pretokenizer.rs"];
        let sources = ["src/change", "src/quant/decode", "src/container", "src/checkpoint/packed"];
        let listed = sources.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
        let files = listed.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let files = files.chain(names.iter().map(|name| root.join(name)));
        let mut files: Vec<_> = files.collect();
        files.sort();
        let counts: String = (0..3000).map(|n| format!(" {n} {}", n * 7919)).collect();
        files.iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>() + &counts
    }

    /// A vocabulary with merges that make every beginning of the pieces into which `pre` cuts a text.
    fn vocabulary(pre: &PreTokenizer, text: &str) -> Vocab {
        let splitter = Splitter::new(pre).unwrap();
        let mut seen = HashSet::new();
        let mut merges = Texts::default();
        for piece in splitter.split(text) {
            let ends = piece.char_indices().skip(2).map(|(at, _)| at).chain([piece.len()]);
            for (end, c) in ends.zip(piece.chars().skip(1)) {
                let left = &piece[..end - c.len_utf8()];
                let whole = &piece[..end];
                if left.is_ascii()
                    && c.is_ascii()
                    && splitter.split(whole).len() == 1
                    && seen.insert(whole)
                {
                    merges.push(format!(
                        "{} {}",
                        spelling::alphabet(left.as_bytes()),
                        spelling::alphabet(&whole.as_bytes()[left.len()..])
                    ));
                }
            }
        }
        Vocab { model: "gpt2".to_owned(), merges, ..Vocab::default() }
    }

    #[test]
    fn merges_tell_how_words_were_split() {
        let text = corpus();
        for name in ["gpt-2", "starcoder", "falcon", "llama-bpe", "deepseek-coder", "gpt-4o"] {
            let right = PreTokenizer::named(name).unwrap();
            let mut vocab = vocabulary(right, &text);
            assert!(vocab.merges.len() > FEW, "{name}: {} merges", vocab.merges.len());
            let found = |vocab: &Vocab| {
                pre_tokenizer(vocab, "mpt").map(|mend| mend.keys[0].1.as_str().unwrap().to_owned())
            };
            let names = PreTokenizer::named(&found(&vocab).unwrap_or_default());
            assert_eq!(names.map(|pre| pre.stages), Some(right.stages), "{name}");
            vocab.pre = name.to_owned();
            assert_eq!(found(&vocab), None, "{name} is right");
            vocab.pre = "viking".to_owned();
            let names = PreTokenizer::named(&found(&vocab).unwrap());
            assert_eq!(names.map(|pre| pre.stages), Some(right.stages), "{name}");
            vocab.pre = "of-tomorrow".to_owned();
            assert_eq!(found(&vocab), None, "what is not known here is not doubted");
            vocab.merges = vocab.merges.iter().take(FEW - 1).collect();
            assert_eq!(found(&vocab), None, "too few to prove anything");
        }
    }

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
