//! Tokenizer files made from a vocabulary, for checkpoints that are written.
//!
//! | kind of vocabulary | file | what transformers makes of it |
//! |---|---|---|
//! | `llama`: SentencePiece's pieces and scores | `tokenizer.model` | `LlamaTokenizer` |
//! | `bert`: WordPiece | `vocab.txt` | `BertTokenizer` |
//! | `gpt2`: byte pairs, where the cuts of `pre` are known | `tokenizer.json` | what the file says |
//! | `t5`: unigrams | `tokenizer.json` | the same |
//!
//! Of any other kind no file is written: a tokenizer that cuts otherwise is worse than none.

use serde_json::{Map, Value as Json, json};

use super::tiktoken;
use crate::model::{TokenKind, Vocab, pretokenizer::PreTokenizer, spelling};
use crate::remedy::Notes;

/// `tokenizer_config.json`, and `tokenizer.model` of a SentencePiece vocabulary, `tokenizer.json` of a byte-level one
/// or of unigrams, or `vocab.txt` of one of WordPiece.
///
/// What cannot be made is told in `notes`.
pub fn files(vocab: &Vocab, notes: &mut Notes) -> Vec<(&'static str, Vec<u8>)> {
    if vocab.is_empty() {
        notes.push("the model has no vocabulary: there are no tokenizer files".to_owned());
        return Vec::new();
    }
    let text = |id: Option<u32>| {
        let token = vocab.tokens.get(usize::try_from(id?).ok()?)?;
        Some(String::from_utf8_lossy(token).into_owned())
    };
    let pre = PreTokenizer::named(&vocab.pre);
    let (class, name, bytes) = match (vocab.model.as_str(), pre) {
        ("llama", _) => ("LlamaTokenizer", "tokenizer.model", model(vocab)),
        ("bert", _) => ("BertTokenizer", "vocab.txt", lines(vocab)),
        ("gpt2", Some(pre)) => (ANY, "tokenizer.json", byte_level(vocab, pre).to_string().into()),
        ("t5", _) => (ANY, "tokenizer.json", unigram(vocab).to_string().into()),
        _ => {
            let note =
                "a vocabulary of no known kind: take the tokenizer's files from the original model";
            notes.push(note.to_owned());
            return Vec::new();
        }
    };
    let mut config = json!({
        "add_bos_token": vocab.add_bos.unwrap_or(true),
        "add_eos_token": vocab.add_eos.unwrap_or(false),
        "bos_token": text(vocab.bos),
        "eos_token": text(vocab.eos),
        // Id 0 where nothing says it, but for the class that takes it from its file.
        "unk_token": text(vocab.unknown.or(Some(0)).filter(|_| class != ANY)),
        "chat_template": vocab.chat_template,
        "clean_up_tokenization_spaces": false,
        "legacy": true,
        "tokenizer_class": class,
    });
    if let Some(config) = config.as_object_mut().filter(|_| vocab.model == "bert") {
        config.insert("do_lower_case".to_owned(), vocab.lowercase.unwrap_or(true).into());
        for (part, id) in [
            ("cls_token", vocab.bos),
            ("sep_token", vocab.separator),
            ("pad_token", vocab.padding),
            ("mask_token", vocab.mask),
        ] {
            config.insert(part.to_owned(), text(id).into());
        }
    }
    let config = serde_json::to_string_pretty(&config).unwrap_or_default().into_bytes();
    vec![("tokenizer_config.json", config), (name, bytes)]
}

/// The class of transformers that takes what `tokenizer.json` says.
const ANY: &str = "PreTrainedTokenizerFast";

/// The lines of a `vocab.txt`.
fn lines(vocab: &Vocab) -> Vec<u8> {
    let line = |(id, token): (usize, &[u8])| match spelling::record(vocab, id) {
        none if none.is_empty() => [token, b"\n"].concat(),
        text => [text.as_slice(), b"\n"].concat(),
    };
    vocab.tokens.iter().enumerate().flat_map(line).collect()
}

/// The file of a tokenizer with the first `len` tokens: SentencePiece's model, or tiktoken's list of byte pairs.
pub fn own(vocab: &Vocab, len: usize) -> Vec<u8> {
    let mut vocab = vocab.clone();
    vocab.tokens.truncate(len);
    vocab.kinds.truncate(len);
    vocab.scores.truncate(len);
    match vocab.model.as_str() {
        "gpt2" => tiktoken::list((0..len).map(|id| spelling::record(&vocab, id))),
        _ => model(&vocab),
    }
}

/// The `tokenizer.json` of a byte-level vocabulary, whose words `pre` cuts apart.
///
/// Tokens that fill ids without a name are left out: transformers counts the rows of the embedding by config.json.
fn byte_level(vocab: &Vocab, pre: &PreTokenizer) -> Json {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut ids, mut added) = (Map::new(), Vec::new());
    for (id, token) in vocab.tokens.iter().enumerate() {
        let kind = vocab.kind(id);
        if kind == TokenKind::Unused {
            continue;
        }
        // What is only among those added gets the next free id, whatever id it says.
        ids.insert(text(token), id.into());
        if kind != TokenKind::Normal {
            added.push(json!({
                "id": id, "content": text(token), "special": kind == TokenKind::Control,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
            }));
        }
    }
    let bytes = letters();
    let bos = vocab.bos.filter(|_| vocab.add_bos.unwrap_or(pre.adds_bos));
    let name = bos.and_then(|id| Some(text(vocab.tokens.get(usize::try_from(id).ok()?)?)));
    // Where a text begins with a token, a template puts it before each of two; else the last step does nothing more
    // than the first.
    let around = name.map_or_else(
        || bytes.clone(),
        |name| {
            let token = |n: u8| json!({"SpecialToken": {"id": name, "type_id": n}});
            let words = |id: &str, n: u8| json!({"Sequence": {"id": id, "type_id": n}});
            json!({
                "type": "TemplateProcessing",
                "single": [token(0), words("A", 0)],
                "pair": [token(0), words("A", 0), token(1), words("B", 1)],
                "special_tokens": {&name: {"id": name, "ids": [bos], "tokens": [name]}}
            })
        },
    );
    let merges: Vec<String> = vocab.merges.iter().map(text).collect();
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": steps(pre),
        "post_processor": {"type": "Sequence", "processors": [bytes, around]},
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": pre.ignore_merges,
            "vocab": ids, "merges": merges
        }
    })
}

/// The step that writes bytes as letters.
fn letters() -> Json {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    })
}

/// The steps by which `pre` cuts words apart.
///
/// A `Split` for each expression, cutting what the one before left whole, then bytes as letters.
pub(super) fn steps(pre: &PreTokenizer) -> Json {
    let cut = |stage: &&str| json!({"type": "Split", "pattern": {"Regex": stage}, "behavior": "Isolated", "invert": false});
    let stages: Vec<Json> = pre.stages.iter().map(cut).chain([letters()]).collect();
    json!({"type": "Sequence", "pretokenizers": stages})
}

/// The `tokenizer.json` of pieces of which the likeliest are taken, whatever words they cross.
fn unigram(vocab: &Vocab) -> Json {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut pieces, mut added) = (Vec::new(), Vec::new());
    for (id, token) in vocab.tokens.iter().enumerate() {
        // What is never read is where its id is, behind all that is.
        let unused = vocab.kind(id) == TokenKind::Unused;
        pieces.push(json!([text(token), if unused { UNREAD } else { vocab.score(id) }]));
        if vocab.kind(id) == TokenKind::Control {
            added.push(json!({
                "id": id, "content": text(token), "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
            }));
        }
    }
    let prefix = if vocab.add_space_prefix.unwrap_or(true) { "first" } else { "never" };
    let spaces = json!({
        "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": prefix, "split": false
    });
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": spaces,
        "post_processor": null,
        "decoder": spaces,
        "model": {
            "type": "Unigram", "unk_id": vocab.unknown.unwrap_or(0), "vocab": pieces,
            "byte_fallback": false
        }
    })
}

/// The score of pieces that are never read.
const UNREAD: f32 = -1e6;

/// A SentencePiece model in the protobuf of [`super::sentencepiece`].
/// Fields have the numbers that they are read by there; beside those 4 is the number of pieces and 35 says that unknown
/// characters are spelled in bytes.
fn model(vocab: &Vocab) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, token) in vocab.tokens.iter().enumerate() {
        let mut piece = Vec::new();
        bytes(&mut piece, 1, token);
        varint(&mut piece, 2 << 3 | 5);
        piece.extend(vocab.score(id).to_le_bytes());
        number(&mut piece, 3, vocab.kind(id) as u64);
        bytes(&mut out, 1, &piece);
    }
    // -1 as protobuf writes an int32: sign-extended to 64 bits.
    let none = u64::MAX;
    let id = |id: Option<u32>, usual: u64| id.map_or(usual, u64::from);
    let mut trainer = Vec::new();
    number(&mut trainer, 3, 2); // byte-pair encoding
    number(&mut trainer, 4, vocab.len() as u64);
    number(&mut trainer, 35, 1); // unknown characters as bytes
    number(&mut trainer, 40, id(vocab.unknown, 0));
    number(&mut trainer, 41, id(vocab.bos, none));
    number(&mut trainer, 42, id(vocab.eos, none));
    number(&mut trainer, 43, none);
    bytes(&mut out, 2, &trainer);
    let mut rules = Vec::new();
    bytes(&mut rules, 1, b"identity");
    number(&mut rules, 3, vocab.add_space_prefix.unwrap_or(true).into());
    number(&mut rules, 4, 0); // spaces stay as they are
    number(&mut rules, 5, 1); // and become U+2581
    bytes(&mut out, 3, &rules);
    out
}

/// Appends a number as protobuf writes it: seven bits a byte, the lowest first.
///
/// ```text
/// 300 = 10 0101100   ->   1 0101100, 0 0000010      the highest bit: more follows
/// ```
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        let [low, ..] = value.to_le_bytes();
        out.push(low | 0x80);
        value >>= 7;
    }
    out.extend(u8::try_from(value));
}

/// Appends a field with a number.
/// The key before it is the field's number times 8 plus how it is coded: 0 a varint, 2 a length and bytes, 5 four
/// bytes.
fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

/// Appends a field with bytes: a text, or a message inside.
fn bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tokenizer::{
        json::TokenizerJson, sentencepiece::SentencePiece, tiktoken,
    };
    use crate::limits::Limits;

    #[test]
    fn a_written_model_reads_as_the_same_vocabulary() {
        let vocab = Vocab {
            tokens: ["<unk>", "<s>", "\u{2581}a"].into_iter().collect(),
            scores: vec![0.0, 0.0, -3.5],
            kinds: vec![TokenKind::Unknown, TokenKind::Control, TokenKind::Normal],
            model: "llama".to_owned(),
            unknown: Some(0),
            bos: Some(1),
            ..Vocab::default()
        };
        let read =
            SentencePiece::parse("tokenizer.model", &model(&vocab), &Limits::DEFAULT).unwrap();
        assert_eq!(read.vocab(), vocab);
    }

    #[test]
    fn a_written_tokenizer_json_reads_as_the_same_vocabulary() {
        let list = b"YQ== 0\nYg== 1\nYWI= 2\nYmE= 3\nYWJh 4\n";
        let vocab =
            tiktoken::parse("tokenizer.model", list, tiktoken::Specials::Llama3, &Limits::DEFAULT)
                .unwrap();
        let mut notes = Notes::default();
        let files = files(&vocab, &mut notes);
        let (_, bytes) = files.iter().find(|(name, _)| *name == "tokenizer.json").unwrap();
        let read = TokenizerJson::parse("tokenizer.json", bytes, &Limits::DEFAULT).unwrap();
        // The end of a text is named in tokenizer_config.json.
        assert_eq!(Vocab { eos: vocab.eos, ..read.vocab }, vocab);
        assert!(notes.is_empty() && read.notes.is_empty(), "{notes:?} {:?}", read.notes);
    }

    /// transformers gives a token that is only among those added the next free id: StarCoder's are first.
    #[test]
    fn special_tokens_keep_their_ids() {
        let vocab = Vocab {
            tokens: ["<|endoftext|>", "a", "b", "ab", "[PAD4]"].into_iter().collect(),
            kinds: [TokenKind::Control]
                .into_iter()
                .chain([TokenKind::Normal; 3])
                .chain([TokenKind::Unused])
                .collect(),
            merges: ["a b"].into_iter().collect(),
            model: "gpt2".to_owned(),
            pre: "starcoder".to_owned(),
            ..Vocab::default()
        };
        let files = files(&vocab, &mut Notes::default());
        let (_, bytes) = files.iter().find(|(name, _)| *name == "tokenizer.json").unwrap();
        let json: Json = serde_json::from_slice(bytes).unwrap();
        assert_eq!(json["model"]["vocab"], json!({"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}));
        assert_eq!(json["added_tokens"][0]["id"], 0);
    }
}
