//! Reads the `tokenizer.model` of Meta's LLaMA 3: tiktoken's list of byte strings, best first.
//!
//! ```text
//! IQ== 0        a token in base64, its rank, which is its id
//! Ig== 1
//! ```
//!
//! The special tokens follow the last rank; the file does not hold them, Meta's code does. Nor does
//! it hold merges: tiktoken joins whichever neighbours make the lowest rank. GGUF wants them listed,
//! so every way to cut a token into two others becomes one.
//!
//! ```text
//! a 0   b 1   ab 2   ba 3   aba 4        merges   a b | b a | a ba, ab a: by rank of what they make, then of the parts
//! ```
//!
//! Source: llama3, llama/tokenizer.py. Compare: transformers, convert_slow_tokenizer.py:
//! TikTokenConverter, convert_llama_weights_to_hf.py.

use std::collections::HashMap;

use crate::{
    error::{Error, Malformed, Result},
    limits::Limits,
    model::{TokenKind, Vocab, printable::text_of},
};

/// The first special tokens of LLaMA 3; further reserved ones follow, 256 in all.
const SPECIAL: [&str; 10] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|reserved_special_token_2|>",
    "<|reserved_special_token_3|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
];

/// Those of LLaMA 3.1 and later.
const SPECIAL_3_1: [&str; 11] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
];

/// The longest list that is read; every cut of every token is tried.
const LONGEST: usize = 8 << 20;
/// The longest token that is read; LLaMA 3's has 128 bytes, all spaces.
const LONGEST_TOKEN: usize = 256;
/// How many special tokens there are.
const SPECIALS: usize = 256;

/// Whether a `tokenizer.model` is such a list: its first line is a base64 text and rank 0.
pub fn is_tiktoken(bytes: &[u8]) -> bool {
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    first.trim_ascii_end().strip_suffix(b" 0").is_some_and(|text| base64(text).is_some())
}

/// Whose special tokens, which no such list holds, follow those of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Specials {
    /// Those of LLaMA 3, of April 2024.
    Llama3,
    /// Those of LLaMA 3.1 and later.
    Llama31,
}

/// Reads the list in `bytes`, of the file called `file`, and adds special tokens.
///
/// # Errors
/// Where a line is no token and rank, or the ranks are not each number once.
pub fn parse(file: &str, bytes: &[u8], specials: Specials, limits: &Limits) -> Result<Vocab> {
    byte_pairs(file, bytes, limits).map(|vocab| with_special(vocab, specials))
}

/// Reads the list in `bytes`, of the file called `file`: tokens and merges, and nothing that no file holds.
///
/// # Errors
/// Where a line is no token and rank, or the ranks are not each number once.
pub fn byte_pairs(file: &str, bytes: &[u8], limits: &Limits) -> Result<Vocab> {
    let mut ranks = HashMap::new();
    let mut at = 0;
    if bytes.len() > LONGEST {
        let what = format!("{file}: a list of {} bytes", bytes.len());
        return Err(Error::unsupported(
            what,
            "LLaMA 3's has 2 million; at most 8 million are read",
        ));
    }
    for (id, line) in (0u32..).zip(bytes.split_inclusive(|b| *b == b'\n')) {
        let malformed = |found: &str, wanted: &str| {
            Error::Malformed(Box::new(Malformed {
                file: file.to_owned(),
                format: "tiktoken".to_owned(),
                field: format!("rank {id}"),
                at,
                found: found.to_owned(),
                wanted: wanted.to_owned(),
                next: "download it again".into(),
            }))
        };
        let text = line.trim_ascii_end();
        let (token, rank) = match text.iter().position(|b| *b == b' ') {
            Some(space) => text.split_at(space),
            None => (text, &b""[..]),
        };
        let rank = str::from_utf8(rank).ok().and_then(|digits| digits.trim().parse().ok());
        let (Some(token), Some(rank)) = (base64(token), rank) else {
            let found = String::from_utf8_lossy(text.get(..40).unwrap_or(text)).into_owned();
            return Err(malformed(&format!("{found:?}"), "a token in base64 and its rank"));
        };
        if rank != id || u64::from(id) >= limits.tokens {
            return Err(malformed(&format!("rank {rank}"), "ranks from 0 on, one a line"));
        }
        if token.len() > LONGEST_TOKEN {
            let wanted = format!("at most {LONGEST_TOKEN}");
            return Err(malformed(&format!("a token of {} bytes", token.len()), &wanted));
        }
        if ranks.insert(token, rank).is_some() {
            return Err(malformed("a token for the second time", "each token once"));
        }
        at += line.len() as u64;
    }
    Ok(vocab(&ranks))
}

/// The vocabulary of tokens by rank, with a merge for every way to cut a token in two.
fn vocab(ranks: &HashMap<Vec<u8>, u32>) -> Vocab {
    let mut ordered: Vec<(&[u8], u32)> = ranks.iter().map(|(t, r)| (t.as_slice(), *r)).collect();
    ordered.sort_unstable_by_key(|(_, rank)| *rank);
    let mut vocab = Vocab { model: "gpt2".to_owned(), ..Vocab::default() };
    for (token, _) in &ordered {
        vocab.tokens.push(text_of(token).into_bytes());
        vocab.kinds.push(TokenKind::Normal);
        let halves = (1..token.len()).map(|cut| token.split_at(cut));
        let mut merges: Vec<(u32, u32, &[u8], &[u8])> = halves
            .filter_map(|(left, right)| Some((*ranks.get(left)?, *ranks.get(right)?, left, right)))
            .collect();
        merges.sort_unstable();
        let joined = |(.., left, right): (u32, u32, &[u8], &[u8])| {
            format!("{} {}", text_of(left), text_of(right)).into_bytes()
        };
        vocab.merges.extend(merges.into_iter().map(joined));
    }
    vocab
}

/// The vocabulary with Meta's tokens for control behind the last rank.
///
/// ```text
/// id        LLaMA 3                           LLaMA 3.1
/// 128000    <|begin_of_text|>                 <|begin_of_text|>
/// 128004    <|reserved_special_token_2|>      <|finetune_right_pad_id|>
/// 128010    <|reserved_special_token_5|>      <|python_tag|>
/// 128011    <|reserved_special_token_6|>      <|reserved_special_token_3|>
/// ```
fn with_special(mut vocab: Vocab, specials: Specials) -> Vocab {
    vocab.pre = "llama-bpe".to_owned();
    (vocab.add_bos, vocab.add_eos) = (Some(true), Some(false));
    let named: &[&str] = match specials {
        Specials::Llama3 => &SPECIAL,
        Specials::Llama31 => &SPECIAL_3_1,
    };
    let reserved = named.iter().filter(|name| name.contains("reserved")).count();
    let numbered = (reserved..).map(|n| format!("<|reserved_special_token_{n}|>"));
    let names = named.iter().map(|name| (*name).to_owned()).chain(numbered);
    let first = u32::try_from(vocab.len()).unwrap_or(u32::MAX);
    for name in names.take(SPECIALS) {
        vocab.tokens.push(name.into_bytes());
        vocab.kinds.push(TokenKind::Control);
    }
    (vocab.bos, vocab.eos) = (Some(first), first.checked_add(1));
    vocab
}

/// The list of these tokens, best first.
pub fn list(tokens: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let line = |(rank, token): (usize, Vec<u8>)| format!("{} {rank}\n", to_base64(&token));
    tokens.enumerate().map(line).collect::<String>().into_bytes()
}

/// Bytes as a base64 text with its padding.
/// Three bytes are four digits of six bits, the highest first; `=` stands for each byte that the last three lack.
fn to_base64(bytes: &[u8]) -> String {
    let digit = |bits: u32| match u8::try_from(bits & 63).unwrap_or(0) {
        n @ 0..26 => char::from(b'A' + n),
        n @ 26..52 => char::from(b'a' + n - 26),
        n @ 52..62 => char::from(b'0' + n - 52),
        62 => '+',
        _ => '/',
    };
    let four = |three: &[u8]| {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(*three.get(i).unwrap_or(&0)));
        let digits = [18, 12, 6, 0].map(|shift| digit(bits >> shift));
        let padded = digits.into_iter().enumerate();
        padded.map(|(i, digit)| if i > three.len() { '=' } else { digit }).collect::<String>()
    };
    bytes.chunks(3).map(four).collect()
}

/// The bytes of a base64 text with its padding; nothing where it is none.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::new();
    for four in text.chunks(4) {
        let padding = four.iter().rev().take_while(|b| **b == b'=').count();
        let digits = four.get(..4 - padding.min(2))?;
        let mut bits = 0u32;
        for b in digits {
            bits = bits << 6 | u32::from(digit(*b)?);
        }
        bits <<= 6 * padding.min(2);
        bytes.extend(bits.to_be_bytes().get(1..4 - padding.min(2))?);
    }
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "YQ== 0\nYg== 1\nYWI= 2\nYmE= 3\nYWJh 4\n";

    #[test]
    fn tokens_merges_and_special_tokens_follow_from_the_list() {
        assert!(is_tiktoken(LIST.as_bytes()));
        let tokens = ["a", "b", "ab", "ba", "aba"].map(|token| token.as_bytes().to_vec());
        assert_eq!(list(tokens.into_iter()), LIST.as_bytes());
        let vocab =
            parse("tokenizer.model", LIST.as_bytes(), Specials::Llama3, &Limits::DEFAULT).unwrap();
        let texts: Vec<_> = vocab.tokens.iter().map(|t| str::from_utf8(t).unwrap()).collect();
        assert_eq!(texts[..6], ["a", "b", "ab", "ba", "aba", "<|begin_of_text|>"]);
        assert_eq!(
            texts[14..17],
            ["<|eot_id|>", "<|reserved_special_token_5|>", "<|reserved_special_token_6|>"]
        );
        assert_eq!(*texts.last().unwrap(), "<|reserved_special_token_250|>");
        assert_eq!(
            vocab.merges.iter().collect::<Vec<_>>(),
            [&b"a b"[..], b"b a", b"a ba", b"ab a"]
        );
        assert_eq!((vocab.bos, vocab.eos, vocab.len()), (Some(5), Some(6), 261));
        let later =
            parse("tokenizer.model", LIST.as_bytes(), Specials::Llama31, &Limits::DEFAULT).unwrap();
        assert_eq!(later.tokens.get(5 + 10).unwrap(), b"<|python_tag|>");
        assert_eq!(later.tokens.get(5 + 11).unwrap(), b"<|reserved_special_token_3|>");
        assert_eq!(later.tokens.get(260).unwrap(), b"<|reserved_special_token_247|>");
    }

    #[test]
    fn other_lists_are_refused_with_the_line() {
        for (what, list) in [
            ("rank 1 at 0x7", "YQ== 0\nYg== 2\n"),
            ("rank 1 at 0x7", "YQ== 0\nYQ== 1\n"),
            ("rank 1 at 0x7", "YQ== 0\nY 1\n"),
            ("rank 1 at 0x7", "YQ== 0\nYg==\n"),
            ("rank 0 at 0x0", "\n"),
        ] {
            let error = parse("t", list.as_bytes(), Specials::Llama3, &Limits::DEFAULT)
                .unwrap_err()
                .to_string();
            assert!(error.contains(what), "{list:?}: {error}");
        }
        let long = format!("{} 0\n", "YWJj".repeat(LONGEST_TOKEN / 3 + 1));
        let error = parse("t", long.as_bytes(), Specials::Llama3, &Limits::DEFAULT)
            .unwrap_err()
            .to_string();
        assert!(error.contains("a token of 258 bytes") && error.len() < 200, "{error}");
        assert!(!is_tiktoken(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"));
    }
}
