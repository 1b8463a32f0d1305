//! Metadata across eras: header words to GGUF keys, old GGUF keys to today's, and back to headers.
//!
//! ```text
//! from_header   header words and shapes   ->  keys               a file of before GGUF becomes one
//! modernise     keys                      ->  today's keys       GGUF stays GGUF
//! to_header     keys, or header words     ->  words and records  a file of before GGUF is written
//! ```
//!
//! All three say in the plan what they had to assume.
//!
//! The order of keys is kept: a GGUF that needs nothing is the same keys in the same places, and a new key comes behind
//! them. What a person states goes before what the file says, and that before what is assumed ([`Hyper`]).

use std::path::Path;

use super::{Plan, Step, choose::ftype::FileType, floats, mend, vocabulary};
use crate::{
    checkpoint::tokenizer::{files, given},
    error::{Error, Result},
    format::{
        catalog,
        container::{Container, Skeleton, Spelling},
        family::{Family, Tokenizer},
    },
    model::{
        Hyper, Metadata, Model, Naming, Stated, Texts, TokenKind, Vocab, loader::Content, spelling,
    },
    remedy::{Note, Setting},
};

/// The version of GGUF's quantized blocks; it has not changed since GGUF began.
const QUANTIZATION_VERSION: u32 = 2;

/// GGUF metadata for a ggml, ggmf or ggjt file: from the header and the shapes, the rest assumed.
///
/// # Errors
/// Where no family describes the model, or a number is missing that no reader does without.
pub(super) fn from_header(model: &Model, plan: &mut Plan, stated: &Stated) -> Result<()> {
    let hyper = Hyper::of(model, stated)?;
    let mut keys = Metadata::new();
    keys.set("general.architecture", hyper.family.family.gguf.as_str());
    keys.set("general.type", "model");
    keys.set("general.name", name_of(model).as_str());
    for (key, value) in hyper.keys(Naming::Old)?.iter() {
        keys.set(key, value.clone());
    }
    let rows = hyper.sizes.get("n_vocab").and_then(|n| u32::try_from(n).ok());
    for (key, value) in hyper.more_keys(rows.unwrap_or(0)) {
        keys.set(key, value);
    }
    say(&hyper, plan);
    // From 10 on the ggml repository numbers file types otherwise than llama.cpp.
    let theirs = |n: &i64| model.header("quant_version").is_some() && *n >= 10;
    stamp(&mut keys, model, plan, model.header("ftype").filter(|n| !theirs(n)));
    plan.metadata = keys;
    Ok(())
}

/// What had to be assumed goes into the report.
fn say(hyper: &Hyper, plan: &mut Plan) {
    plan.assumed.extend(hyper.assumed().iter().cloned());
    plan.notes.extend(hyper.notes().iter().cloned());
}

/// A model's name from its file name: `ggml-` and what describes the format are not part of it.
pub(super) fn name_of(model: &Model) -> String {
    let path = model.files.first().map(|f| f.path().to_owned()).unwrap_or_default();
    // `ggml-alpaca-7b-q4.bin` is `alpaca-7b-q4`.
    let stem = |p: &Path| p.file_stem().map(|s| s.to_string_lossy().into_owned());
    let own = stem(&path).unwrap_or_default();
    // `models/7B/ggml-model-q4_0.bin` says nothing; its folder does.
    match own.starts_with("ggml-model") {
        true => path.parent().and_then(stem).filter(|s| !s.is_empty()).unwrap_or(own),
        false => own.trim_start_matches("ggml-").to_owned(),
    }
}

/// Sets `general.file_type`, and `general.quantization_version` where anything is quantized.
///
/// ```text
/// general.file_type              llama.cpp's number of the mixture: 2 is mostly Q4_0
/// general.quantization_version   2 since May 2023: halves with f16 scales; floats have none
/// ```
///
/// Both are for people and listings: loaders take the type of each tensor from its own record.
fn stamp(keys: &mut Metadata, model: &Model, plan: &Plan, stated: Option<i64>) {
    if plan.steps.is_empty() {
        return;
    }
    keys.set("general.file_type", file_type(model, plan, stated));
    if plan.steps.iter().any(|s| !matches!(s.quant.name(), "f32" | "f16" | "bf16" | "f64")) {
        keys.set("general.quantization_version", QUANTIZATION_VERSION);
    }
}

/// The `llama_ftype` of a file: what the source says where every tensor kept the name of its type,
/// else the one named after the type that holds most weights.
fn file_type(model: &Model, plan: &Plan, stated: Option<i64>) -> u32 {
    let kept =
        |s: &Step| model.tensors.get(s.source).is_some_and(|t| t.quant.name() == s.quant.name());
    // A number says of a mixture what no single type can, so it stays as long as no tensor changes.
    let stated = stated.and_then(|f| u32::try_from(f).ok());
    if let Some(known) = stated.filter(|f| FileType::all().any(|known| known.number == *f))
        && plan.steps.iter().all(kept)
    {
        return known;
    }
    FileType::usual(plan.main_type())
}

/// The type that a file says most of its matrices have, in a container with numbers of its own: what the
/// source says where that was kept, else that of most weights.
///
/// LLaMA's containers all have llama.cpp's list (`ftype`); most others number types by themselves.
fn own_type(model: &Model, plan: &Plan) -> Option<&'static str> {
    plan.target.container().header.file_type.as_ref()?;
    let source = catalog::container(&model.format)?;
    let stated = source.stated_type(&model.header);
    let kept = plan.steps.is_empty() || plan.steps.iter().any(|s| Some(s.quant.name()) == stated);
    stated.filter(|_| kept).or_else(|| Some(plan.main_type()))
}

/// Today's metadata for a GGUF file of any version; what a file says is kept as it is where it stays
/// in an older version. `given` is the vocabulary that takes the place of the file's.
///
/// ```text
/// 1  split.*                what belongs to files, not to the model, goes
/// 2  numbers                stated by a person, or assumed because no reader does without
/// 3  vocabulary             another one that is given
///    -- a file that stays in its own old version ends here --
/// 4  rope.scale_linear      today's name
/// 5  bytes, scores          of SentencePiece tokens, lost where a converter took an old file's records as they were
/// 6  merges                 told from the order of ids
/// 7  `mend`                 the rest of what programs left wrong
/// 8  file type              of the types that will be written
/// ```
///
/// 5, 6 and what 7 does to tokens are about the file's own vocabulary: one that is given stays as it is.
///
/// # Errors
/// Where a number contradicts the family's description.
pub(super) fn modernise(
    model: &Model,
    plan: &mut Plan,
    stated: &Stated,
    given: Option<&Vocab>,
) -> Result<()> {
    let mut keys = model.metadata.clone();
    let arch = keys.architecture().to_owned();
    // They are of files, not of the model.
    for key in ["split.no", "split.count", "split.tensors.count"] {
        keys.remove(key);
    }
    // A file that is only written again in its own old version keeps its keys, whatever today's names for them are.
    let changed = plan.steps.iter().any(|s| !matches!(s.act, super::Act::Copy));
    let stays = plan.target.id() == model.format && plan.target.is_past() && !changed;
    // Of what goes beside a model nothing is assumed: the model says it.
    match Family::of(model)?.filter(|_| Content::of(model).other().is_none()) {
        None => stated.amend(&mut keys),
        Some(_) => {
            let hyper = Hyper::of(model, stated)?;
            hyper.amend(&mut keys);
            say(&hyper, plan);
        }
    }
    if let Some(vocab) = given {
        vocab.to_metadata(&mut keys);
    }
    if stays {
        (plan.metadata, plan.header) = (keys, model.header.clone());
        return Ok(());
    }
    // llama.cpp 898aeca90 (2023-11-01) gave rope scaling a family of keys.
    if let Some(scale) = keys.remove(&format!("{arch}.rope.scale_linear")) {
        keys.set(format!("{arch}.rope.scaling.type"), "linear");
        keys.set(format!("{arch}.rope.scaling.factor"), scale);
        plan.notes.push(format!("{arch}.rope.scale_linear became {arch}.rope.scaling.factor"));
    }
    if given.is_none()
        && let Some(mended) = vocabulary::mend(&model.vocab)
    {
        plan.notes.extend(mended.notes);
        plan.assumed.extend(mended.canonical_scores.then(vocabulary::assumed_scores));
        mended.vocab.to_metadata(&mut keys);
    }
    // Merges are only rebuilt where no other vocabulary takes their place.
    let own = || given.is_none() && keys.get("tokenizer.ggml.merges").is_none();
    if own()
        && let Some(merges) = spelling::lost_merges(&model.vocab)
    {
        plan.notes.push(format!(
            "tokenizer.ggml.merges is missing: rebuilt from the ids of {} tokens, each of which the merges of those \
             before it leave in two parts",
            merges.len()
        ));
        let mut texts = Texts::default();
        merges.iter().for_each(|merge| texts.push(merge));
        keys.set("tokenizer.ggml.merges", texts);
    }
    let mut told = false;
    for mend in mend::found(model, given.is_none()) {
        told |= mend.keys.is_empty();
        plan.notes.push(mend.note);
        mend.keys.into_iter().for_each(|(key, value)| keys.set(key, value));
    }
    let byte_pairs = keys.str("tokenizer.ggml.model") == Some("gpt2");
    if byte_pairs && keys.get("tokenizer.ggml.pre").is_none() && !told {
        let note = "tokenizer.ggml.pre is missing: llama.cpp will guess how to split words; convert the \
                    original checkpoint again if its texts are odd";
        plan.notes.push(note.to_owned());
    }
    // Where no tensor is written there is no type to state.
    let before = keys.clone();
    let stated = keys.u64("general.file_type").and_then(|v| i64::try_from(v).ok());
    stamp(&mut keys, model, plan, stated);
    // A mix keeps the number that its maker gave it.
    if let (Some(old), false) = (before.get("general.file_type"), changed) {
        keys.set("general.file_type", old.clone());
    }
    if plan.steps.is_empty() {
        keys = before;
    }
    plan.metadata = keys;
    Ok(())
}

/// Header words and vocabulary records of an older target. `given` is the vocabulary that takes the place
/// of the file's.
///
/// | vocabulary | family | records |
/// |---|---|---|
/// | the container holds none | any | none; one that is given is left out, and told |
/// | given, or GGUF's | with a rule | spelled by that rule |
/// | given, or GGUF's | LLaMA's | SentencePiece's pieces as text; byte pairs are refused |
/// | of an old file | spelled as in the target | byte for byte |
/// | of an old file | spelled otherwise | read, and spelled by the rule |
///
/// # Errors
/// Where the container holds no such vocabulary, or a header word cannot be had.
pub(super) fn to_header(
    model: &Model,
    plan: &mut Plan,
    stated: &Stated,
    given: Option<&Vocab>,
) -> Result<()> {
    let target = plan.target;
    let from_gguf = are_gguf(model);
    // Records are made of a vocabulary in GGUF's terms; else the file's own are taken along.
    let source = given.or_else(|| from_gguf.then_some(&model.vocab));
    let rule = Family::of(model)?.and_then(|family| family.tokenizer.as_ref());
    let spelled = |format: &Container| {
        format.vocab.as_ref().map(|vocab| (vocab.spelling.first().copied(), vocab.file))
    };
    let source_format = catalog::container(&model.format);
    // Both containers spell tokens alike: then records go over byte for byte.
    let as_stored = source_format.and_then(spelled) == spelled(target.container());
    plan.vocab = match (source, rule) {
        _ if target.container().vocab.is_none() => {
            if given.is_some() {
                let note = format!(
                    "{} holds no vocabulary: the one that is given is left out",
                    target.title()
                );
                plan.notes.push(note);
            }
            Vocab::default()
        }
        (Some(_), Some(rule)) => records(rule, model, plan, given, stated.vocab.as_deref())?,
        (None, Some(rule)) if !as_stored && !model.vocab.model.is_empty() => {
            records(rule, model, plan, None, None)?
        }
        (None, _) if model.records.is_empty() => model.vocab.clone(),
        (None, _) => model.records.clone(),
        (Some(vocab), None) => vocabulary::from_gguf(vocab).ok_or_else(|| {
            let title = target.title();
            Error::unsupported(
                format!(
                    "{title} holds SentencePiece vocabularies only, this model has another kind"
                ),
                super::target::as_gguf(),
            )
        })?,
    };
    if from_gguf || rule.is_some() {
        plan.header = words(model, plan, stated, rule)?;
    } else {
        plan.header = model.header.clone();
        let count = plan.header.iter_mut().find(|(name, _)| name == "n_vocab");
        if let (Some((_, word)), Some(vocab)) = (count, given) {
            *word = i64::try_from(vocab.len()).unwrap_or(i64::MAX);
        }
    }
    if stated.has_numbers() && rule.is_none() {
        plan.notes.push(format!(
            "{} stores no epsilon, context or rotary base and scale: give them to the program that loads it",
            target.title()
        ));
    }
    // Whisper's mel filters, rows of floats behind the header words: kept as metadata, else computed anew.
    if let Some(matrix) = &target.container().header.matrix {
        let word =
            |name: &str| plan.header.iter().find(|(known, _)| known == name).map(|(_, n)| *n);
        let made = || floats::made(matrix.rule?, word(&matrix.rows)?, word(&matrix.columns)?);
        if let Some(floats) = model.metadata.get(&matrix.name).cloned().or_else(made) {
            plan.metadata.set(matrix.name.clone(), floats);
        }
    }
    // Containers with file types of their own state one of those; LLaMA's state llama.cpp's.
    if let Some(main) = own_type(model, plan) {
        plan.state_type(main, 0);
        plan.widen_kept(main);
        if rule.is_some() {
            let known = Hyper::of(model, stated)?.unknown_to(target.container());
            plan.notes.extend(known);
        }
    } else {
        let stated = plan.header.iter().find(|(n, _)| n == "ftype").map(|(_, v)| *v);
        let ftype = file_type(model, plan, stated);
        plan.state_type("", ftype);
    }
    if plan.vocab.scores.is_empty() && target.stores_scores() && rule.is_none() {
        plan.vocab.scores = vocabulary::to_gguf(&plan.vocab, plan.vocab.len()).vocab.scores;
        plan.assumed.push(vocabulary::assumed_scores());
    }
    Ok(())
}

/// The header words of an older target, for the vocabulary that the plan has.
///
/// # Errors
/// Where one cannot be had, or a model of these words has other tensors.
///
/// ```text
/// n_vocab     records that are written, or rows of the embedding where records are not one for each token
/// ftype       the header's, else general.file_type, else 1
/// the rest    sizes of the model, as `hyper` has them under the container's words
/// ```
fn words(
    model: &Model,
    plan: &mut Plan,
    stated: &Stated,
    rule: Option<&Tokenizer>,
) -> Result<Vec<(String, i64)>> {
    let container = plan.target.container();
    let hyper = Hyper::of(model, stated)?;
    let shape = container.vocab.as_ref();
    let rows = || hyper.sizes.get("n_vocab").and_then(|rows| usize::try_from(rows).ok());
    let tokens = match shape {
        Some(shape) if !shape.file && shape.stored.is_none() => plan.vocab.len(),
        _ => rows().unwrap_or(model.vocab.len()),
    };
    let ftype = model.metadata.u64("general.file_type").and_then(|v| i64::try_from(v).ok());
    // 1, mostly F16, where nothing says it.
    let ftype = model.header("ftype").or(ftype).unwrap_or(1);
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let mut counts = vec![("n_vocab", count(tokens)), ("ftype", ftype)];
    if let Some(merges) = shape.and_then(|shape| shape.merges.as_deref()) {
        // Where they are, they are those of GGUF, whose alphabet it is.
        if plan.vocab.merges.is_empty() {
            plan.vocab.merges = model.vocab.merges.clone();
        }
        counts.push((merges, count(plan.vocab.merges.len())));
    }
    if let Some(some) = rule.and_then(|rule| rule.special_if.as_ref())
        && model.header(&some.word).is_none()
    {
        let has = |text: &String| model.vocab.tokens.iter().any(|t| t == text.as_bytes());
        // A word that says which tokens there are: the vocabulary tells.
        let is = if some.tokens.iter().all(has) { some.is } else { some.otherwise };
        counts.push((&some.word, is));
    }
    let words = hyper.words(container, model, &counts)?;
    match container.tensors_of(&words) {
        Some(wanted)
            if rule.is_some() && wanted > plan.steps.len() as u64 && !plan.steps.is_empty() =>
        {
            let (title, there) = (plan.target.title(), plan.steps.len());
            let what =
                format!("{title} has {wanted} tensors of such a model, this one has {there}");
            Err(Error::unsupported(what, "keep it as GGUF"))
        }
        _ => Ok(words),
    }
}

/// The records of a family whose tokens `rule` describes: of the vocabulary that is given, from the file at `path`,
/// else of GGUF's.
///
/// # Errors
/// Where it is none of this kind.
fn records(
    rule: &Tokenizer,
    model: &Model,
    plan: &mut Plan,
    given: Option<&Vocab>,
    path: Option<&Path>,
) -> Result<Vocab> {
    let vocab = vocabulary::of_family(rule, model, given.cloned(), &mut plan.notes)?;
    if vocab.is_empty() || vocab.model != rule.model {
        let what = match vocab.is_empty() {
            true => "the model has none".to_owned(),
            false => format!("the model's is of the kind {:?}", vocab.model),
        };
        let title = plan.target.title();
        return Err(Error::refused(
            format!("{title} holds a vocabulary of the kind {:?}, {what}", rule.model),
            Setting::Vocabulary.of("tokenizer.json").to("give the model's own tokenizer"),
        ));
    }
    let shape = plan.target.container().vocab.as_ref();
    if shape.is_some_and(|shape| shape.file) {
        let file = match path.map(given::own_file).transpose()?.flatten() {
            Some(file) => file,
            None => {
                plan.notes.push(Note::new(
                    "the tokenizer's own file is made of the model's tokens",
                    Setting::Vocabulary.of("tokenizer.model").to("put the original there"),
                ));
                // Tokens for control are in the program's code, and fillers in no file.
                let places = rule.special.iter().filter_map(|text| {
                    vocab.tokens.iter().position(|token| token == text.as_bytes())
                });
                let unused = (0..vocab.len()).find(|id| vocab.kind(*id) == TokenKind::Unused);
                files::own(&vocab, places.chain(unused).min().unwrap_or(vocab.len()))
            }
        };
        return Ok(Vocab { tokens: [file].into_iter().collect(), ..Vocab::default() });
    }
    let spelling = shape.and_then(|shape| shape.spelling.first());
    let mut records = vocabulary::records(&vocab, spelling.copied().unwrap_or(Spelling::Bytes));
    if shape.is_some_and(|shape| shape.stored.is_some()) {
        // Programs make up what is behind the texts.
        let text = |id: &usize| !matches!(vocab.kind(*id), TokenKind::Control | TokenKind::Unused);
        records.tokens.truncate((0..vocab.len()).rev().find(text).map_or(0, |last| last + 1));
    }
    let empty = records.tokens.iter().filter(|token| token.is_empty()).count();
    if empty > 0 {
        plan.notes.push(format!("{empty} tokens have no text: their records are empty"));
    }
    Ok(records)
}

/// Whether a model comes with GGUF's metadata, as checkpoints do; only ggml, ggmf and ggjt have all they
/// know in a header.
pub(super) fn are_gguf(model: &Model) -> bool {
    catalog::container(&model.format).is_none_or(|c| c.format.skeleton != Skeleton::Stream)
}
