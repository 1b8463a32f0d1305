//! Token ids of the original libraries, and slow, obvious encoders that the fast ones must equal.

use std::{collections::HashMap, fs};

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::checkpoint::tokenizer::{json::TokenizerJson, sentencepiece::SentencePiece};
use crate::limits::Limits;

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/golden/tokenizers/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sentencepiece(name: &str) -> Vocab {
    SentencePiece::parse(name, &golden(name), &Limits::DEFAULT).expect("a golden model").vocab()
}

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn sentencepiece_references() {
    for name in ["tok512", "tok2048"] {
        let tokenizer = Tokenizer::new(&sentencepiece(&format!("{name}.model"))).unwrap();
        let refs: Json = serde_json::from_slice(&golden(&format!("{name}.refs.json"))).unwrap();
        let cases = refs["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 80);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let got = tokenizer.encode(text, Special::Text);
            assert_eq!(got, ids(&case["ids"]), "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&got), case["decoded"].as_str().unwrap(), "{name}");
        }
    }
}

/// An old file keeps plain spaces, raw bytes, no kinds and at first no scores: same tokens all the same.
#[test]
fn a_vocabulary_of_march_2023_encodes_alike() {
    let new = sentencepiece("tok512.model");
    let old = Vocab {
        tokens: (0..new.len())
            .map(|id| match new.kind(id) {
                TokenKind::Unknown => UNKNOWN.as_bytes().to_vec(),
                TokenKind::Control => Vec::new(),
                TokenKind::Byte if id - 3 > 127 => "\u{fffd}".as_bytes().to_vec(),
                TokenKind::Byte => vec![u8::try_from(id - 3).unwrap()],
                _ => with_spaces(new.tokens.get(id).unwrap()),
            })
            .collect(),
        ..Vocab::default()
    };
    let (new, old) = (Tokenizer::new(&new).unwrap(), Tokenizer::new(&old).unwrap());
    assert_eq!(old.notes().len(), 1);
    let refs: Json = serde_json::from_slice(&golden("tok512.refs.json")).unwrap();
    for case in refs["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(old.encode_whole(text, Special::Text), new.encode_whole(text, Special::Text));
    }
}

/// Merges the best pair, found by looking at all of them, until there is none.
fn slow_merge(mut parts: Vec<Vec<u8>>, better: impl Fn(&[u8]) -> Option<f32>) -> Vec<Vec<u8>> {
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 1..parts.len() {
            let whole = [parts[i - 1].as_slice(), &parts[i]].concat();
            if let Some(score) = better(&whole)
                && best.is_none_or(|(most, _)| score > most)
            {
                best = Some((score, i));
            }
        }
        let Some((_, at)) = best else { return parts };
        let right = parts.remove(at);
        parts[at - 1].extend(right);
    }
}

fn slow_spm(vocab: &Vocab, text: &str) -> Vec<u32> {
    if text.is_empty() {
        return Vec::new();
    }
    let text = format!(" {text}").replace(' ', LOWER_BLOCK);
    let normal = |id: &usize| vocab.kind(*id) == TokenKind::Normal;
    let find: HashMap<&[u8], usize> =
        (0..vocab.len()).filter(normal).map(|id| (vocab.tokens.get(id).unwrap(), id)).collect();
    let parts = text.chars().map(|c| c.to_string().into_bytes()).collect();
    let parts = slow_merge(parts, |whole| find.get(whole).map(|id| vocab.score(*id)));
    let mut out = Vec::new();
    for part in parts {
        match find.get(part.as_slice()) {
            Some(id) => out.push(*id as u32),
            None => out.extend(part.iter().map(|byte| u32::from(*byte) + 3)),
        }
    }
    out
}

fn words() -> impl Strategy<Value = String> {
    let any = any::<String>();
    let plain = "[ a-eT-W.,\n\u{2581}é]{0,60}";
    prop_oneof![plain.prop_map(String::from), any, "( ?(the|software|ing|re|is|  |and)){0,12}"]
}

proptest! {
    #[test]
    fn spm_equals_the_slow_one(text in words()) {
        let vocab = sentencepiece("tok512.model");
        let fast = Tokenizer::new(&vocab).unwrap().encode(&text, Special::Text);
        prop_assert_eq!(fast, slow_spm(&vocab, &text));
    }

    #[test]
    fn spm_with_equal_scores_merges_the_leftmost(text in "[ab ]{0,30}") {
        let mut vocab = sentencepiece("tok512.model");
        for (i, token) in ["aa", "aba", "baa", "aab", "aaa", "bb"].iter().enumerate() {
            vocab.tokens = vocab.tokens.with(&HashMap::from([(300 + i, token.as_bytes().to_vec())]));
            vocab.scores[300 + i] = 7.0;
        }
        let fast = Tokenizer::new(&vocab).unwrap().encode(&text, Special::Text);
        prop_assert_eq!(fast, slow_spm(&vocab, &text));
    }

    #[test]
    fn sentencepiece_text_survives(text in words()) {
        let tokenizer = Tokenizer::new(&sentencepiece("tok2048.model")).unwrap();
        let tokens = tokenizer.encode(&text, Special::Text);
        prop_assert_eq!(tokenizer.decode(&tokens), text.replace(LOWER_BLOCK, " "));
    }

    #[test]
    fn damaged_models_are_errors(at in 0usize..7516, bit in 0u8..8, cut in 0usize..7516) {
        let mut bytes = golden("tok512.model");
        let _ = SentencePiece::parse("cut", &bytes[..cut], &Limits::DEFAULT);
        bytes[at] ^= 1 << bit;
        let _ = SentencePiece::parse("flipped", &bytes, &Limits::DEFAULT);
    }
}

#[test]
fn user_defined_tokens_come_first_and_control_tokens_when_asked() {
    let mut vocab = sentencepiece("tok512.model");
    vocab.tokens = vocab.tokens.with(&HashMap::from([(400, b"re free".to_vec())]));
    vocab.kinds[400] = TokenKind::UserDefined;
    vocab.tokens = vocab.tokens.with(&HashMap::from([(401, b"re".to_vec())]));
    vocab.kinds[401] = TokenKind::UserDefined;
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    let tokens = tokenizer.encode("are free re</s>x", Special::Text);
    assert!(tokens.contains(&400) && tokens.contains(&401) && !tokens.contains(&2));
    assert_eq!(tokenizer.decode(&tokens), "are free re</s>x");
    let tokens = tokenizer.encode("are</s>x", Special::Token);
    assert!(tokens.contains(&2) && tokenizer.ends(2));
}

#[test]
fn a_stream_never_shows_half_a_character() {
    let tokenizer = Tokenizer::new(&sentencepiece("tok512.model")).unwrap();
    let text = "né 🦙 ok";
    let tokens = tokenizer.encode(text, Special::Text);
    let mut decoder = tokenizer.decoder();
    let mut shown = String::new();
    for token in &tokens {
        let part = decoder.push(&tokenizer, *token);
        assert!(!part.contains('\u{fffd}'));
        shown += &part;
    }
    assert_eq!(shown + &decoder.finish(), text);
    // A lone first byte of four is held back, then given up.
    let mut decoder = StreamDecoder::continuing();
    assert_eq!(decoder.push(&tokenizer, 0xf0 + 3), "");
    assert_eq!(decoder.push(&tokenizer, 0x9f + 3), "");
    assert_eq!(decoder.push(&tokenizer, 0x41 + 3), "\u{fffd}\u{fffd}A");
    assert_eq!(decoder.push(&tokenizer, 0xff + 3), "\u{fffd}");
    assert_eq!(decoder.push(&tokenizer, 0xe2 + 3), "");
    assert_eq!(decoder.finish(), "\u{fffd}");
}

#[test]
fn errors_say_where() {
    let error = SentencePiece::parse("tokenizer.model", b"<html>", &Limits::DEFAULT)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("tokenizer.model: sentencepiece: model at 0x0"), "{error}");
    assert!(SentencePiece::parse("empty", b"", &Limits::DEFAULT).is_err());
    // A length of 2^63 in a field of 11 bytes.
    let long = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0];
    assert!(SentencePiece::parse("long", &long, &Limits::DEFAULT).is_err());
}

fn bpe_golden() -> Json {
    serde_json::from_slice(&golden("bpe-1100.json")).unwrap()
}

/// The golden `tokenizer.json` with the pre-tokenizer of `name`.
fn bpe_file(golden: &Json, name: &str) -> Vec<u8> {
    let mut file = golden["tokenizer"].clone();
    file["pre_tokenizer"] = golden["pre"][name]["pre_tokenizer"].clone();
    file["model"]["ignore_merges"] = golden["pre"][name]["ignore_merges"].clone();
    serde_json::to_vec(&file).unwrap()
}

#[test]
fn byte_level_references() {
    let golden = bpe_golden();
    for (name, expected) in golden["pre"].as_object().unwrap() {
        let parsed =
            TokenizerJson::parse("tokenizer.json", &bpe_file(&golden, name), &Limits::DEFAULT)
                .unwrap();
        // Several names may stand for one pre-tokenizer.
        let names = |name: &str| PreTokenizer::named(name).map(|pre| pre.names);
        assert_eq!(names(&parsed.vocab.pre), names(name));
        assert_eq!(parsed.vocab.bos, Some(1100));
        assert_eq!(parsed.vocab.add_bos, Some(true));
        let tokenizer = Tokenizer::new(&parsed.vocab).unwrap();
        let strings = golden["strings"].as_array().unwrap();
        assert!(strings.len() > 100);
        for (text, want) in strings.iter().zip(expected["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let got = tokenizer.encode(text, Special::Token);
            assert_eq!(got, ids(want), "{name}: {text:?}");
            // Both added tokens are control tokens: one says so, the other looks it.
            let shown = text.replace("<|end|>", "").replace("<|a|>", "");
            assert_eq!(tokenizer.decode(&got), shown, "{name}");
        }
    }
}

#[test]
fn sentencepiece_in_the_dress_of_tokenizer_json() {
    let parsed =
        TokenizerJson::parse("tokenizer.json", &golden("llama-512.json"), &Limits::DEFAULT)
            .unwrap();
    let original = sentencepiece("tok512.model");
    assert_eq!(parsed.vocab.tokens, original.tokens);
    assert_eq!(parsed.vocab.kinds, original.kinds);
    assert_eq!(parsed.vocab.unknown, Some(0));
    let tokenizer = Tokenizer::new(&parsed.vocab).unwrap();
    let refs: Json = serde_json::from_slice(&golden("tok512.refs.json")).unwrap();
    for case in refs["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, Special::Text), ids(&case["ids"]), "{text:?}");
    }
}

#[test]
fn tokenizers_hold_no_more_tokens_than_their_caller_allows() {
    let limits = Limits { tokens: 500, ..Limits::DEFAULT };
    let file = golden("llama-512.json");
    let error = TokenizerJson::parse("t.json", &file, &limits).unwrap_err();
    assert!(error.to_string().contains("more than 500 tokens or merges"), "{error}");
    // The place is in the file, behind where the list begins.
    let list = file.windows(7).position(|bytes| bytes == b"\"vocab\"").unwrap() as u64;
    assert!(error.place().unwrap().at.is_some_and(|at| (list..file.len() as u64).contains(&at)));
    let error = SentencePiece::parse("t.model", &golden("tok512.model"), &limits).unwrap_err();
    assert!(error.to_string().contains("at most 500 pieces"), "{error}");
}

#[test]
fn foreign_tokenizers_are_refused_by_name() {
    let golden = bpe_golden();
    let parse = |file: &Json| {
        TokenizerJson::parse("t.json", &serde_json::to_vec(file).unwrap(), &Limits::DEFAULT)
            .unwrap_err()
            .to_string()
    };
    let mut file: Json = serde_json::from_slice(&bpe_file(&golden, "gpt-2")).unwrap();
    file["pre_tokenizer"] = serde_json::json!({"type": "BertPreTokenizer"});
    assert!(parse(&file).contains("BertPreTokenizer"));
    file["model"]["type"] = "WordLevel".into();
    assert!(parse(&file).contains("WordLevel"));
    file["model"]["type"] = "BPE".into();
    file["pre_tokenizer"] = golden["pre"]["gpt-2"]["pre_tokenizer"].clone();
    file["model"]["vocab"]["huge"] = 0xffff_ffffu32.into();
    assert!(parse(&file).contains("id 4294967295"));
    let error = TokenizerJson::parse("t.json", b"{\n \"model\": [}", &Limits::DEFAULT)
        .unwrap_err()
        .to_string();
    assert!(error.contains("at 0xd"), "{error}");
    let vocab = Vocab {
        pre: "nobody".into(),
        ..TokenizerJson::parse("t", &bpe_file(&golden, "gpt-2"), &Limits::DEFAULT).unwrap().vocab
    };
    assert!(Tokenizer::new(&vocab).unwrap_err().to_string().contains("\"nobody\""));
}

proptest! {
    #[test]
    fn bpe_equals_the_slow_one(text in words()) {
        let golden = bpe_golden();
        let vocab = TokenizerJson::parse("", &bpe_file(&golden, "gpt-2"), &Limits::DEFAULT).unwrap().vocab;
        let merges: HashMap<Vec<u8>, f32> = vocab.merges.iter().enumerate().map(|(rank, merge)| {
            let at = merge.iter().position(|b| *b == b' ').unwrap();
            let pair = [bytes_of(&merge[..at]), vec![b'|'], bytes_of(&merge[at + 1..])];
            (pair.concat(), -(rank as f32))
        }).collect();
        let find: HashMap<Vec<u8>, u32> =
            (0..1100).map(|id| (bytes_of(vocab.tokens.get(id as usize).unwrap()), id)).collect();
        let pre = PreTokenizer::named("gpt-2").unwrap();
        let mut slow = Vec::new();
        for piece in Splitter::new(pre).unwrap().split(&text) {
            let mut parts: Vec<Vec<u8>> = piece.bytes().map(|b| vec![b]).collect();
            loop {
                let best = (1..parts.len())
                    .filter_map(|i| {
                        let pair = [parts[i - 1].as_slice(), b"|", &parts[i]].concat();
                        merges.get(&pair).map(|rank| (*rank, i))
                    })
                    .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
                let Some((_, at)) = best else { break };
                let right = parts.remove(at);
                parts[at - 1].extend(right);
            }
            slow.extend(parts.iter().map(|part| find[part]));
        }
        prop_assert_eq!(Tokenizer::new(&vocab).unwrap().encode(&text, Special::Text), slow);
    }

    #[test]
    fn cutting_loses_nothing(text in words(), which in 0..crate::model::pretokenizer::ALL.len()) {
        let splitter = Splitter::new(&crate::model::pretokenizer::ALL[which]).unwrap();
        prop_assert_eq!(splitter.split(&text).concat(), text);
    }
}
