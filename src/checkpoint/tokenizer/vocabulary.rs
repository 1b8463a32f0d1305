//! The vocabulary of a checkpoint from the files beside it: `tokenizer.model` or `tokenizer.json`,
//! `added_tokens.json`, `tokenizer_config.json`, `config.json`.
//!
//! | what is there | what is read |
//! |---|---|
//! | `tokenizer.model` of SentencePiece | pieces from it, special tokens from the JSON beside it |
//! | `tokenizer.model` of tiktoken, no `tokenizer.json` | ranks from it, special tokens of the LLaMA that it is |
//! | `tokenizer.json`, or `vocab.json` with `merges.txt` | everything from it |
//! | `vocab.txt` | WordPiece, a token a line |
//! | `tekken.json` alone | an error |
//! | nothing | no vocabulary, and a note |
//!
//! ```text
//! id of a special token   text in tokenizer_config.json, looked for among added tokens
//!                         else NAME_token_id in config.json, where it is below the number of tokens
//!                         else what the vocabulary itself says
//! ```
//!
//! Compare: llama.cpp, conversion/base.py: _create_vocab_sentencepiece, gguf-py vocab.py: SpecialVocab.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use serde_json::{Value as Json, json};

use super::{
    files, given,
    json::{TokenizerJson, looks_special},
    sentencepiece::SentencePiece,
    tiktoken::{self, Specials},
};
use crate::{
    checkpoint::{Misfit, Options, family, find, json},
    error::{Error, Result},
    format::family::{Family, Pieces},
    limits::Limits,
    model::{Hyper, Scaling, TokenKind, Value, Vocab, pretokenizer::PreTokenizer, spelling},
    remedy::{Notes, Remedy, Setting},
};

/// A vocabulary and what else its files say.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Read {
    /// The vocabulary.
    pub vocab: Vocab,
    /// Further keys of GGUF.
    pub more: Vec<(String, Value)>,
    /// What a person should know.
    pub notes: Notes,
}

/// The score that llama.cpp's converter gives tokens that were added by hand.
const ADDED_SCORE: f32 = -1000.0;
/// Code Llama's vocabulary has tokens for infilling at fixed places.
const CODE_LLAMA: u32 = 32_016;
/// A vocabulary of this size wants no token before a text, says the converter.
const WITHOUT_BOS: u32 = 49_152;

/// Reads the vocabulary of the checkpoint in `folder`; its embedding has as many rows as
/// `hyper` says.
///
/// # Errors
/// Where a file is broken, or the tokens do not fit the rows and nobody asked to make them.
pub fn read(
    folder: &Path,
    config: Option<&Json>,
    hyper: &Hyper,
    options: &Options,
) -> Result<Read> {
    let rows = hyper.sizes.get("n_vocab").and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let mut read = Read::default();
    // 1  which files there are, and tokens with kinds and scores of them
    // 2  special tokens: what the JSON files name, then what the family has in every checkpoint
    // 3  what goes around a text: spaces, the chat template
    // 4  as many tokens as rows
    // 5  keys that every model of the family gets
    let from_json = tokenizer_json(folder, hyper.family, &options.limits)?;
    // No file that would name further tokens is missing.
    let whole = from_json.is_some() || folder.join("added_tokens.json").is_file();
    let settings = json::read(&folder.join("tokenizer_config.json"))?;
    let model = tokenizer_model(folder, config.is_none())?;
    // One name for two formats: a protobuf, or lines of base64.
    let ranks = model.as_ref().is_some_and(|(_, bytes)| tiktoken::is_tiktoken(bytes));
    match (model, from_json) {
        (Some((name, bytes)), None) if ranks => {
            // Both have the same list; only 3.1 scales its positions.
            let (specials, version) = match hyper.scaling {
                Scaling::Llama3 { .. } => (Specials::Llama31, "3.1"),
                _ => (Specials::Llama3, "3"),
            };
            read.vocab = tiktoken::parse(&name, &bytes, specials, &options.limits)?;
            read.notes.push(format!("special tokens are those of LLaMA {version}"));
        }
        (Some((name, bytes)), from_json) if !ranks => {
            let parsed = SentencePiece::parse(&name, &bytes, &options.limits)?;
            read.vocab = parsed.vocab();
            read.vocab.pre = "default".to_owned();
            let pieces = &hyper.family.family.pieces;
            read.vocab.add_space_prefix = pieces.tells_prefix.then_some(parsed.add_dummy_prefix);
            amend(pieces, &mut read.vocab);
            // Its own ids are kept, to be held against what others say ([`overrule`]).
            let own = read.vocab.clone();
            if config.is_some() {
                // There, config.json and its neighbours say which tokens are special.
                let vocab = &mut read.vocab;
                (vocab.bos, vocab.eos, vocab.unknown, vocab.padding) = (None, None, None, None);
            }
            add_tokens(folder, settings.as_ref(), rows, &mut read)?;
            // A tokenizer.json that cannot be used alone still names the special tokens.
            let from_json = from_json.and_then(Result::ok);
            if let Some(beside) = &from_json {
                read.vocab.add_bos = beside.vocab.add_bos;
                read.vocab.add_eos = beside.vocab.add_eos;
            }
            let added = from_json.map(|t| t.added).unwrap_or_default();
            special_tokens(settings.as_ref(), config, &added, &mut read.vocab);
            overrule(&own, &mut read);
        }
        // Also beside a tokenizer.model of tiktoken: it has no special tokens, this has them all.
        (_, Some(from_json)) => {
            let TokenizerJson { vocab, added, notes } = from_json?;
            (read.vocab, read.notes) = (vocab, notes);
            if read.vocab.model == "llama" {
                read.vocab.pre = "default".to_owned();
            }
            read.vocab.unknown = None;
            special_tokens(settings.as_ref(), config, &added, &mut read.vocab);
            as_of_family(hyper.family, &mut read.vocab);
            name_cut(hyper.family, &mut read.vocab);
        }
        // BERT before there was a tokenizer.json; its settings alone say whether capitals are made small.
        (_, None) if folder.join("vocab.txt").is_file() => {
            read.vocab = given::read(&folder.join("vocab.txt"), &options.limits)?;
            let lowers = settings.as_ref().and_then(|s| s.get("do_lower_case")?.as_bool());
            read.vocab.lowercase = lowers.or(read.vocab.lowercase);
        }
        (_, None) if folder.join("tekken.json").is_file() => {
            let what = format!("{}: not yet: tekken.json as a tokenizer", folder.display());
            return Err(Error::unsupported(what, "put the model's tokenizer.json beside it"));
        }
        (_, None) => {
            // Where the person gives one, there is one.
            if options.misfit != Misfit::Leave {
                let note = "no tokenizer.model or tokenizer.json: there is no vocabulary";
                read.notes.push(note.to_owned());
            }
            return Ok(read);
        }
    }
    let named = |vocab: &Vocab, text: &str| {
        let mut known = (0..).zip(vocab.tokens.iter());
        known.find(|(_, token)| *token == text.as_bytes()).map(|(id, _)| id)
    };
    // The family's own end of a text counts before what files say; its other tokens fill what they leave open.
    let identity = &hyper.family.family;
    let end = identity.end.as_ref().and_then(|text| named(&read.vocab, text));
    read.vocab.eos = end.or(read.vocab.eos);
    for (part, text) in &identity.tokens {
        let Some(id) = named(&read.vocab, text) else { continue };
        let vocab = &mut read.vocab;
        match part.as_str() {
            "bos" => vocab.bos = vocab.bos.or(Some(id)),
            "eos" => vocab.eos = vocab.eos.or(Some(id)),
            "unknown" => vocab.unknown = vocab.unknown.or(Some(id)),
            _ => read.more.push((format!("tokenizer.ggml.{part}_token_id"), id.into())),
        }
    }
    let flag = settings.as_ref().and_then(|s| s.get("add_prefix_space")?.as_bool());
    read.vocab.add_space_prefix = flag.or(read.vocab.add_space_prefix);
    chat_template(folder, settings.as_ref(), &mut read)?;
    if !hyper.family.family.gguf.is_empty() {
        // Many matrices are wider than their vocabulary, for speed, and config.json gives their width.
        let said = config.and_then(|config| {
            Some(config.get("text_config").unwrap_or(config).get("vocab_size")?.as_u64())
        });
        let wider = whole && said.flatten() == Some(rows.into());
        fit(rows, wider, options, &mut read)?;
    }
    read.more.extend(hyper.more_keys(rows));
    // The converter knows these two by their number of rows, and only of LLaMAs.
    let llamas = hyper.family == family();
    if llamas && rows == WITHOUT_BOS {
        read.vocab.add_bos.get_or_insert(false);
    }
    if llamas && rows == CODE_LLAMA {
        for (name, id) in
            [("prefix", 32_007u32), ("suffix", 32_008), ("middle", 32_009), ("eot", 32_010)]
        {
            read.more.push((format!("tokenizer.ggml.{name}_token_id"), id.into()));
        }
    }
    Ok(read)
}

/// The name and bytes of `tokenizer.model`, for Meta's layout also in the folder above.
fn tokenizer_model(folder: &Path, above: bool) -> Result<Option<(String, Vec<u8>)>> {
    let mut places = vec![folder.join("tokenizer.model")];
    if above {
        // `models/7B` may be given relative to itself.
        places.extend(
            folder.canonicalize().ok().and_then(|f| Some(f.parent()?.join("tokenizer.model"))),
        );
    }
    for path in places {
        if let Some(bytes) = json::bytes(&path)? {
            return Ok(Some((path.display().to_string(), bytes)));
        }
    }
    Ok(None)
}

/// `tokenizer.json`, or what it would be of the files that were before it; the inner result is of what is in it.
fn tokenizer_json(
    folder: &Path,
    family: &Family,
    limits: &Limits,
) -> Result<Option<Result<TokenizerJson>>> {
    let path = folder.join("tokenizer.json");
    let mut bytes = json::bytes(&path)?;
    let rule = family.tokenizer.as_ref().filter(|rule| rule.model == "gpt2");
    if let (None, Some(pre)) = (&bytes, rule.and_then(|rule| PreTokenizer::named(&rule.pre))) {
        bytes = byte_pairs(folder, pre)?;
    }
    Ok(bytes.map(|bytes| TokenizerJson::parse(&path.display().to_string(), &bytes, limits)))
}

/// The `tokenizer.json` that `vocab.json`, `merges.txt` and `added_tokens.json` say together.
///
/// The first checkpoints of GPT-2 and its kin have these and no tokenizer.json. How words are cut is in no file of
/// theirs, so it is taken from the family.
fn byte_pairs(folder: &Path, pre: &PreTokenizer) -> Result<Option<Vec<u8>>> {
    let beside = |name: &str| json::read(&folder.join(name));
    let merges = json::bytes(&folder.join("merges.txt"))?;
    let (Some(vocab), Some(merges)) = (beside("vocab.json")?, merges) else { return Ok(None) };
    let merges = String::from_utf8_lossy(&merges).into_owned();
    let merges = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let added = beside("added_tokens.json")?;
    let added = added.iter().filter_map(Json::as_object).flatten();
    let added = added.map(|(text, id)| json!({"id": id, "content": text}));
    let whole = json!({
        "added_tokens": added.collect::<Vec<Json>>(),
        "pre_tokenizer": files::steps(pre),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges.collect::<Vec<&str>>()}
    });
    Ok(serde_json::to_vec(&whole).ok())
}

/// What the files beside a vocabulary of words leave out: parts of tokens whose texts every one of the family has.
/// BERT's `[CLS]` begins every text and `[SEP]` ends it, whether a file says so or not.
fn as_of_family(family: &Family, vocab: &mut Vocab) {
    let Some(rule) = family.tokenizer.as_ref().filter(|_| vocab.model == "bert") else { return };
    let mut named = Vocab::default();
    let tokens = &vocab.tokens;
    spelling::name_special(&mut named, rule, |text| tokens.iter().position(|t| t == text));
    vocab.pre.clone_from(&rule.pre);
    for (part, usual) in [
        (&mut vocab.bos, named.bos),
        (&mut vocab.eos, named.eos),
        (&mut vocab.unknown, named.unknown),
        (&mut vocab.padding, named.padding),
        (&mut vocab.separator, named.separator),
        (&mut vocab.mask, named.mask),
    ] {
        *part = part.or(usual);
    }
}

/// Of names that stand for the same cuts, the family's own: readers take it to mean more, such as which spaces they drop
/// or whether a text has a beginning.
fn name_cut(family: &Family, vocab: &mut Vocab) {
    let of = |name: &str| PreTokenizer::named(name).map(|pre| (pre.stages, pre.ignore_merges));
    let own = family.pre();
    if vocab.model == "gpt2" && !own.is_empty() && of(&vocab.pre) == of(own) {
        own.clone_into(&mut vocab.pre);
    }
}

/// Marks and replaces tokens as the converter does it in this family.
///
/// Phrases for it are in `[family.pieces]` of the description: how texts of unused tokens begin, and what takes the
/// place of the character 0, at which C's texts end.
fn amend(pieces: &Pieces, vocab: &mut Vocab) {
    let unused = pieces.unused.as_bytes();
    if !unused.is_empty() {
        for (token, kind) in vocab.tokens.iter().zip(&mut vocab.kinds) {
            if token.starts_with(unused) {
                *kind = TokenKind::Unused;
            }
        }
    }
    let nul = (0..).zip(vocab.tokens.iter()).find(|(_, token)| *token == b"\0");
    if let (Some((id, _)), Some(text)) = (nul, &pieces.nul) {
        vocab.tokens = vocab.tokens.with(&HashMap::from([(id, text.clone().into_bytes())]));
    }
}

/// Tokens of `added_tokens.json` and of `added_tokens_decoder` in `tokenizer_config.json`.
///
/// ```text
/// added_tokens.json        {"<pad>": 32000, …}                                          typed by people
/// added_tokens_decoder     {"32000": {"content": "<pad>", "special": true, …}, …}       says which are for control
/// ```
///
/// The second counts where both name an id. A token of `tokenizer.model` itself may be among them, and is marked then.
///
/// # Errors
/// Where an id is no whole number.
fn add_tokens(folder: &Path, settings: Option<&Json>, rows: u32, read: &mut Read) -> Result<()> {
    let path = folder.join("added_tokens.json");
    let mut added = Vec::new();
    if let Some(file) = json::read(&path)? {
        for (text, id) in file.as_object().into_iter().flatten() {
            let Some(id) = id.as_u64() else {
                return Err(json::malformed(&path, text, &id.to_string(), "a token's id"));
            };
            added.push((id, text.clone(), TokenKind::UserDefined));
        }
    }
    let decoder = settings.and_then(|s| s.get("added_tokens_decoder")?.as_object());
    for (id, token) in decoder.into_iter().flatten() {
        let text = token.get("content").and_then(Json::as_str);
        let (Ok(id), Some(text)) = (id.parse(), text) else { continue };
        let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
        added.push(if special || looks_special(text) {
            (id, text.to_owned(), TokenKind::Control)
        } else {
            (id, text.replace('\u{2581}', " "), TokenKind::UserDefined)
        });
    }
    // A token without a row in the embedding can never be computed with.
    let mut beyond = 0u32;
    let mut texts = HashMap::new();
    for (id, text, kind) in added {
        if id >= u64::from(rows) {
            beyond += 1;
            continue;
        }
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        // Added ids may leave holes, or come in any order.
        while read.vocab.len() <= id {
            read.vocab.push_unused();
        }
        if let (Some(s), Some(k)) = (read.vocab.scores.get_mut(id), read.vocab.kinds.get_mut(id)) {
            texts.insert(id, text.into_bytes());
            *s = ADDED_SCORE;
            *k = kind;
        }
    }
    read.vocab.tokens = read.vocab.tokens.with(&texts);
    if beyond > 0 {
        read.notes.push(format!(
            "{beyond} added tokens left out: the embedding has {rows} rows and none for them"
        ));
    }
    Ok(())
}

/// Ids of special tokens: by their texts in `tokenizer_config.json`, then from `config.json`; and
/// whether they go around every text.
fn special_tokens(
    settings: Option<&Json>,
    config: Option<&Json>,
    added: &[(String, u32)],
    vocab: &mut Vocab,
) {
    let count = vocab.len();
    let text = |name: &str| {
        let entry = settings.and_then(|s| s.get(format!("{name}_token")));
        entry.and_then(|e| e.as_str().or_else(|| e.get("content")?.as_str()))
    };
    let id = |name: &str| {
        let text = text(name).or_else(|| match name {
            // Where a text is not begun or ended, it is classified or separated.
            "bos" => text("cls"),
            "eos" => text("sep"),
            _ => None,
        });
        // A text is looked for among added tokens only: in the vocabulary the same characters may be a plain piece.
        let by_text = text.and_then(|t| added.iter().find(|(a, _)| a == t)).map(|(_, id)| *id);
        let by_id = || config?.get(format!("{name}_token_id"))?.as_u64()?.try_into().ok();
        by_text.or_else(by_id).filter(|id| usize::try_from(*id).is_ok_and(|id| id < count))
    };
    vocab.bos = id("bos").or(vocab.bos);
    vocab.eos = id("eos").or(vocab.eos);
    vocab.unknown = id("unk").or(vocab.unknown);
    vocab.padding = id("pad").or(vocab.padding);
    vocab.separator = id("sep").or(vocab.separator);
    vocab.mask = id("mask").or(vocab.mask);
    let flag = |name: &str| settings.and_then(|s| s.get(format!("add_{name}_token"))?.as_bool());
    vocab.add_bos = vocab.add_bos.or_else(|| flag("bos"));
    vocab.add_eos = vocab.add_eos.or_else(|| flag("eos"));
}

/// Takes the ids of `tokenizer.model` where others say that a text begins with the unknown token or ends
/// with the one that begins it, as the first conversions of LLaMA did (bos 0, eos 1).
fn overrule(own: &Vocab, read: &mut Read) {
    let vocab = &mut read.vocab;
    let (Some(bos), Some(eos)) = (own.bos, own.eos) else { return };
    // One of the two is enough: both come from the same settings.
    let wrong =
        |said: Option<u32>, others: [Option<u32>; 2]| said.is_some() && others.contains(&said);
    if !wrong(vocab.bos, [own.unknown, own.eos]) && !wrong(vocab.eos, [own.unknown, own.bos]) {
        return;
    }
    let name = |id: Option<u32>| {
        let token = id.and_then(|id| vocab.tokens.get(usize::try_from(id).ok()?));
        let text = token.map_or("nothing".into(), |token| String::from_utf8_lossy(token));
        id.map_or_else(|| "none".to_owned(), |id| format!("{id} ({text})"))
    };
    read.notes.push(format!(
        "config.json begins texts with token {} and ends them with {}; tokenizer.model knows better: {bos} and \
         {eos} are taken",
        name(vocab.bos),
        name(vocab.eos)
    ));
    (vocab.bos, vocab.eos) = (Some(bos), Some(eos));
}

/// The chat template: in `tokenizer_config.json`, one or several by name, or in files of their own.
///
/// ```text
/// tokenizer_config.json               chat_template: a text, or a list of names and texts
/// chat_template.jinja                 the text
/// chat_template.json                  {"chat_template": …}, of models that see
/// additional_chat_templates/*.jinja   more of them, beside any of the three
/// ```
///
/// Of the first three the first that is there counts. The one called `default` goes under `tokenizer.chat_template`,
/// others under their names, whose list is `tokenizer.chat_templates`.
fn chat_template(folder: &Path, settings: Option<&Json>, read: &mut Read) -> Result<()> {
    let text = |path: &Path| {
        let bytes = json::bytes(path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let stated = settings.and_then(|s| s.get("chat_template")).cloned();
    let own = text(&folder.join("chat_template.jinja"))?.map(Json::from);
    let beside = json::read(&folder.join("chat_template.json"))?;
    let beside = beside.and_then(|b| b.get("chat_template").cloned());
    let mut named = Vec::new();
    match stated.or(own).or(beside) {
        Some(Json::String(template)) => read.vocab.chat_template = Some(template),
        Some(Json::Array(templates)) => {
            for choice in &templates {
                let text = |key: &str| choice.get(key)?.as_str().map(str::to_owned);
                named.extend(text("name").zip(text("template")));
            }
        }
        _ => {}
    }
    let more = folder.join("additional_chat_templates");
    for file in if more.is_dir() { find::names_in(&more)? } else { BTreeSet::new() } {
        let Some(name) = file.strip_suffix(".jinja") else { continue };
        named.extend(text(&more.join(&file))?.map(|template| (name.to_owned(), template)));
    }
    let mut names = Vec::new();
    for (name, template) in named {
        if name == "default" {
            read.vocab.chat_template = Some(template);
            continue;
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = name.chars().map(plain).collect();
        read.more.push((format!("tokenizer.chat_template.{name}"), template.as_str().into()));
        names.push(name);
    }
    if !names.is_empty() {
        read.more.push(("tokenizer.chat_templates".to_owned(), Value::strings(names)));
    }
    Ok(())
}

/// As many tokens as the embedding has rows: readers look up any id below that. Where the matrix is `wider` on purpose,
/// the rest is filled as the converter fills it.
///
/// # Errors
/// Where they differ, the matrix was not made wider on purpose, and nobody asked to have them fitted: a missing
/// `added_tokens.json` looks the same.
fn fit(rows: u32, wider: bool, options: &Options, read: &mut Read) -> Result<()> {
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let vocab = &mut read.vocab;
    let tokens = vocab.len();
    if tokens == rows || options.misfit == Misfit::Leave {
        return Ok(());
    }
    if options.misfit == Misfit::Refuse && !(wider && tokens < rows) {
        return Err(Error::refused(
            vocab.misfit(rows, "would be"),
            Remedy::from("look for an added_tokens.json that is missing")
                .or(Setting::PadVocabulary.to("allow it")),
        ));
    }
    vocab.fit(rows);
    read.notes.push(format!("vocabulary of {tokens} tokens fitted to {rows} rows"));
    Ok(())
}
