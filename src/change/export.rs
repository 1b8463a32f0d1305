//! The road back: any model as a Hugging Face checkpoint, `model.safetensors` with `config.json` and
//! the tokenizer's files.
//!
//! Rows go back into the order that transformers has, halves for pairs and heads one by one, and quantized
//! weights are decoded. What is written follows from the family's description.
//!
//! ```text
//! GGUF                              checkpoint
//! blk.0.attn_q.weight  in pairs     model.layers.0.self_attn.q_proj.weight  in halves
//! blk.0.ffn_up_exps    [e][r][c]    model.layers.0.mlp.experts.0.up_proj.weight, .1., ..
//! llama.* keys                      config.json
//! tokenizer.ggml.* keys             tokenizer.model or tokenizer.json, tokenizer_config.json
//! ```

mod config;
mod write;

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value as Json, json};

use super::{Target, upgrade, weave::Weave};
use crate::{
    bytes::Input,
    checkpoint::{
        beside, cut, pooling,
        tokenizer::{self, given},
    },
    error::{Error, Result},
    format::family::{Bias, Cut, Numbers},
    model::{Hyper, Model, Naming, Order, Role, Stated, Vocab, loader::Content, rows},
    quant::{
        QuantType,
        encode::{EncodeRows, encoder},
    },
    remedy::{Call, Notes},
};

/// What will be written.
#[derive(Debug)]
#[non_exhaustive]
pub struct Export {
    /// The folder.
    pub folder: PathBuf,
    /// The small files by name.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// What a person should know.
    pub notes: Notes,
    /// Infinite and NaN weights are written as they are.
    pub keep_nan: bool,
    /// What it is made of; tensors that are cut of others are at its end.
    model: Model,
    /// Every tensor, or band of one, that is written row by row.
    weights: Vec<Weight>,
    /// Tensors whose rows alternate between several of GGUF's.
    weaves: Vec<Weave>,
    /// JSON of names, types, shapes and places, padded with spaces.
    header: Vec<u8>,
    /// How many it names.
    tensors: usize,
    /// Bytes of `model.safetensors`.
    total: u64,
}

/// A tensor of the output, or rows of one that are a tensor's there.
#[derive(Debug)]
struct Weight {
    /// Index among the model's tensors.
    tensor: usize,
    /// Rows of that tensor, in the order of transformers.
    rows: Range<u64>,
    /// Written as this.
    to: QuantType,
    encode: EncodeRows,
    /// Bytes from the beginning of the data to its first row.
    at: u64,
    /// Its rows become columns.
    turned: bool,
    /// What is written in place of its numbers.
    numbers: Numbers,
}

/// Plans the export of a model, of which a person says what is `stated`, into `folder`, its weights as
/// `dtype` (f16, bf16, f32; as stored where `auto`, quantized ones f16).
///
/// # Errors
/// Where it is no model, or has tensors that transformers' class has no place for.
pub fn plan(model: Model, folder: PathBuf, dtype: &str, stated: &Stated) -> Result<Export> {
    if let Some((what, next)) = Content::of(&model).other() {
        let name = model.files.first().map(Input::name).unwrap_or_default();
        return Err(Error::foreign(format!("{name}: holds {what}, no model to convert"), next));
    }
    // By way of an upgrade, which names tensors, orders rows and says what is assumed: a checkpoint is that, renamed.
    let keyed = Target::of(None, &model)?.is_keyed();
    let (naming, vocab) = match keyed {
        true => (Naming::Gguf, stated.vocab.clone()),
        false => (Naming::Old, None),
    };
    let options = upgrade::Options {
        output: Some(folder.join("x")),
        stated: Stated { vocab, ..stated.clone() },
        retyped: true,
        ..upgrade::Options::default()
    };
    let (mut model, plan) = upgrade::plan(model, &options)?;
    if keyed {
        model.metadata = plan.metadata;
        model.vocab = Vocab::from_metadata(&model.metadata);
    } else if let Some(path) = &stated.vocab {
        model.vocab = given::read(path, &model.limits)?;
    }
    let mut notes = plan.notes;
    model.check_decodable()?;
    model.check_unturned()?;
    let hyper = Hyper::of(&model, stated)?;
    let assumed = if keyed { &plan.assumed } else { hyper.assumed() };
    notes.extend(assumed.iter().map(ToString::to_string));
    let family = hyper.family;
    let Some(class) = family.family.hf.first() else {
        let what = format!("not yet: {} as safetensors", family.family.title);
        return Err(Error::unsupported(what, "keep it as GGUF"));
    };
    let of = |name: &str| Role::of(family, naming, name);
    let roles: Vec<Role> = plan.steps.iter().filter_map(|step| of(&step.name)).collect();
    let has = |id: &str| roles.iter().any(|role| role.id == id);
    notes.extend(Some(family.family.hf_note.clone()).filter(|note| !note.is_empty()));
    // Every number is there, or the upgrade's metadata are not whole.
    hyper.keys(Naming::Hf)?;
    // The header is made while places are given out: an entry needs no more than the bytes before it. What is cut in
    // GGUF (`joined`) is laid out last, when all of its parts are known.
    let head = hyper.sizes.get("head").unwrap_or(0);
    let mut weights = Vec::new();
    let mut entries = Map::new();
    // Which transformers wants to see before it loads a file.
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    let mut joined: BTreeMap<String, (&Cut, Vec<Joint>)> = BTreeMap::new();
    for step in &plan.steps {
        let Some(tensor) = model.tensors.get_mut(step.source) else { continue };
        // Factors of rotary positions go into config.json.
        if step.name.starts_with("rope_f") {
            continue;
        }
        let role = of(&step.name);
        // Three ways from GGUF to names of transformers: one to one; one of ours is several there (`parts`); several of
        // ours are one there (`cut::of_role`, below).
        let parts = role.and_then(|role| rows::parts(family, &role)).unwrap_or_default();
        let named = role.and_then(|role| match parts.is_empty() {
            true => Some((role, role.written(Naming::Hf, has)?)),
            false => Some((role, String::new())),
        });
        let Some((role, name)) = named else {
            let what = format!("{}: transformers' {class} has no place for it", step.name);
            return Err(Error::unsupported(what, "not yet: keep it as GGUF"));
        };
        let misfit = |what: &str| {
            let what = format!("{}: {what}", step.name);
            Error::unsupported(what, "the file's metadata does not fit its tensors")
        };
        // Groups of heads back where transformers has them.
        rows::from_gguf(&role, Naming::Hf, &hyper.sizes, tensor)
            .ok_or_else(|| misfit("its rows are no whole heads"))?;
        // ggml turns neighbours (0, 1), (2, 3), …, transformers numbers half a head apart (0, h/2), (1, h/2 + 1), …:
        // the rows of queries and keys are put in that order, and every product stays the same.
        if role.names.rotary {
            let rows = tensor.rows();
            if head == 0 || head % 2 != 0 || !rows.is_multiple_of(head) {
                return Err(misfit(&format!("{rows} rows in heads of {head}")));
            }
            tensor.orders.push(Order::HalvesFromPairs { rows_per_head: head });
        }
        let stored = tensor.stored().name();
        let to = match dtype {
            "auto" if matches!(stored, "f32" | "f16" | "bf16") => stored,
            "auto" => "f16",
            other => other,
        };
        let (Some(to), Some(encode)) = (QuantType::today(to), encoder(to)) else {
            return Err(Error::usage(format!("type {to}: safetensors get f32, f16 or bf16")));
        };
        let bytes = tensor.elements() * to.layout().bytes as u64;
        let turned = role.names.transposed && !role.bias;
        let numbers = if role.bias { Numbers::Same } else { role.names.numbers };
        let mut shape = step.shape.clone();
        if turned {
            shape.reverse();
        }
        // Convolutions have dimensions of 1 there that GGUF does not count.
        if let Some(dims) = role.names.hf_dims {
            shape.retain(|n| *n != 1);
            while shape.len() < dims {
                shape.insert(0, 1);
            }
        }
        let weight = |rows: Range<u64>, at| Weight {
            tensor: step.source,
            rows,
            to,
            encode,
            at,
            turned,
            numbers,
        };
        let all = tensor.rows();
        // One of the tensors that GGUF has in place of one: they are laid out when all are known.
        if let Some((cut, part)) = cut::of_role(family, &role) {
            let whole = cut.hf.replace("{n}", &role.layer.unwrap_or(0).to_string());
            let (_, parts) = joined.entry(whole).or_insert((cut, Vec::new()));
            parts.push((part, role.names.shape.len(), shape, weight(0..all, 0)));
            continue;
        }
        let entry = |shape: &[u64], at: u64, bytes: u64| entry(to, shape, at, bytes);
        // `[experts][rows][columns]` has one dimension more than the tensor of one expert.
        let mut counted = beside::STACKED.iter().filter(|(_, inner)| shape.len() == inner + 1);
        let stack = counted.find_map(|(of, _)| Some((of, name.split_once(of)?)));
        match stack.zip(shape.split_first()) {
            // Stacked in GGUF, one by one here.
            Some(((of, (before, after)), (count, inner))) if *count > 0 => {
                let (rows, bytes) = (all / count, bytes / count);
                for e in 0..*count {
                    entries.insert(format!("{before}{of}{e}.{after}"), entry(inner, at, bytes));
                    weights.push(weight(e * rows..(e + 1) * rows, at));
                    at += bytes;
                }
            }
            _ if !parts.is_empty() => {
                let bands = rows::apart(&role, &hyper.sizes, tensor)
                    .ok_or_else(|| misfit("its rows are not those of its parts"))?;
                for (part, name) in bands.into_iter().zip(&parts) {
                    let Some(name) = name.name(Naming::Hf) else { continue };
                    let bytes = part.elements() * to.layout().bytes as u64;
                    entries.insert(name, entry(&part.shape, at, bytes));
                    let source = model.tensors.len();
                    weights.push(Weight { tensor: source, ..weight(0..part.rows(), at) });
                    model.tensors.push(part);
                    at += bytes;
                }
            }
            _ => {
                entries.insert(name, entry(&shape, at, bytes));
                weights.push(weight(0..all, at));
                at += bytes;
            }
        }
    }
    let mut weaves = Vec::new();
    for (name, (cut, mut parts)) in joined {
        parts.sort_by_key(|(part, ..)| *part);
        // Every part is there once, in its turn.
        let whole = parts.iter().enumerate().all(|(i, (part, ..))| *part == i);
        let made = match cut.is_plain() {
            _ if !whole => None,
            true => join(cut, &hyper, &parts, &mut at, &mut weights),
            false => weave(cut, &hyper, &model, &parts, &mut at, &mut weaves),
        };
        let entry = made.ok_or_else(|| {
            let what = format!("{name}: the tensors that it is made of do not fit each other");
            Error::unsupported(what, Call::Verify.to("check the file"))
        })?;
        entries.insert(name, entry);
    }
    // `__metadata__` is an entry too, and no tensor.
    let tensors = entries.len() - 1;
    let mut header = serde_json::to_vec(&entries).unwrap_or_default();
    // Data begins at a multiple of eight, as the safetensors library has it.
    header.resize(header.len().next_multiple_of(8), b' ');
    // byte 0             8            8 + length      total
    //      length (u64)  header JSON  data, each tensor at its `data_offsets`
    let total = 8 + header.len() as u64 + at;
    let dtype = weights.iter().max_by_key(|w| w.to.layout().bytes).map_or("f16", |w| w.to.name());
    let mut config = config::config(&model, &hyper, dtype, &mut notes);
    // What GGUF says by having a tensor or not, config.json says in words.
    config.insert("tie_word_embeddings".to_owned(), (!has("output")).into());
    for (id, names) in &family.roles {
        let Some(flag) = &names.flag else { continue };
        let bias = names.bias == Bias::Optional;
        let found = roles.iter().any(|role| role.id == id && role.bias == bias);
        config.insert(flag.clone(), found.into());
    }
    let said = family.family.with_role.iter().filter(|(role, _)| has(role));
    let known = family.family.with_symbol.iter();
    let known = known.filter(|(symbol, _)| hyper.sizes.value(symbol).is_some());
    for (name, value) in known.chain(said).flat_map(|(_, said)| said) {
        config.insert(name.clone(), json!(value));
    }
    let mut files = Vec::new();
    if let Some(way) = config.remove(pooling::FIELD) {
        let made = pooling::files(way.as_str().unwrap_or_default(), hyper.sizes.get("n_embd"));
        files.extend(made.into_iter().map(|(name, json)| (name, pretty(&json))));
    }
    // As transformers writes it.
    config.sort_keys();
    files.push(("config.json", pretty(&Json::Object(config))));
    files.extend(tokenizer::files::files(&model.vocab, &mut notes));
    let keep_nan = false;
    Ok(Export { folder, files, notes, keep_nan, model, weights, weaves, header, tensors, total })
}

/// A tensor of `bytes` bytes from `at` on in the header of a safetensors file.
fn entry(to: QuantType, shape: &[u64], at: u64, bytes: u64) -> Json {
    json!({"dtype": to.name().to_uppercase(), "shape": shape, "data_offsets": [at, at + bytes]})
}

/// Lays out a tensor whose parts are woven; as [`join`].
fn weave(
    cut: &Cut,
    hyper: &Hyper,
    model: &Model,
    parts: &[Joint],
    at: &mut u64,
    weaves: &mut Vec<Weave>,
) -> Option<Json> {
    let (.., Weight { to, encode, .. }) = parts.first()?;
    let tensors: Vec<usize> = parts.iter().map(|(.., weight)| weight.tensor).collect();
    let weave = Weave::new(cut, &hyper.sizes, model, &tensors, (*to, *encode), *at)?;
    let bytes = weave.bytes();
    let entry = entry(*to, &weave.shape, *at, bytes);
    *at += bytes;
    weaves.push(weave);
    Some(entry)
}

/// A part of a tensor that GGUF has cut: which, its dimensions there, its shape, all of its rows.
type Joint = (usize, usize, Vec<u64>, Weight);

/// Lays out the parts of a tensor that GGUF has cut: the rows of each group, part by part, all in the type that the
/// first is written in. Its entry; none where parts are missing or do not fit.
fn join(
    cut: &Cut,
    hyper: &Hyper,
    parts: &[Joint],
    at: &mut u64,
    weights: &mut Vec<Weight>,
) -> Option<Json> {
    // Groups alternate there; here each part has all of its rows together:
    //
    //     groups of 2, parts q (2 rows a group), k (1), v (1)
    //     there   q0 q1 k0 v0 | q2 q3 k1 v1          ours   q: q0 q1 q2 q3   k: k0 k1   v: v0 v1
    let groups = cut.groups.as_ref().map_or(Some(1), |symbol| hyper.sizes.get(symbol))?;
    let (_, dimensions, shape, Weight { to, encode, .. }) = parts.first()?;
    let (dimensions, columns, to, encode) = (*dimensions, *shape.last()?, *to, *encode);
    let counts: Vec<u64> =
        parts.iter().map(|(.., weight)| weight.rows.end / groups.max(1)).collect();
    // Each has as many columns as the first, and whole groups of rows.
    let fits = |(_, rank, shape, weight): &Joint| {
        let whole = weight.rows.end.is_multiple_of(groups);
        *rank == dimensions && shape.last() == Some(&columns) && whole
    };
    if groups == 0 || parts.len() != cut.into.len() || !parts.iter().all(fits) {
        return None;
    }
    let (start, rows): (u64, u64) = (*at, counts.iter().sum());
    let row = columns.checked_mul(to.layout().bytes as u64)?;
    for group in 0..groups {
        for ((.., weight), count) in parts.iter().zip(&counts) {
            let rows = group * count..(group + 1) * count;
            weights.push(Weight { rows, to, encode, at: *at, ..*weight });
            *at += count * row;
        }
    }
    let shape =
        if dimensions == 3 { vec![groups, rows, columns] } else { vec![groups * rows, columns] };
    Some(entry(to, &shape, start, *at - start))
}

/// JSON as people read it, lines and all.
fn pretty(value: &Json) -> Vec<u8> {
    serde_json::to_string_pretty(value).unwrap_or_default().into_bytes()
}

/// The folder beside `input` that an export goes to by default.
pub fn folder_beside(input: &Path) -> PathBuf {
    let stem = input.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    input.with_file_name(format!("{stem}-safetensors"))
}
