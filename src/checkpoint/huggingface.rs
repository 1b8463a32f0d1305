//! Hugging Face's layout: `config.json` and tensors named by transformers.
//!
//! Query and key rows are stored in halves there (row `i` turns with row `i + head_dim / 2`), in GGUF
//! in pairs; the rows are read in that order.
//!
//! ```text
//! a head of 8 rows     stored   0 1 2 3 4 5 6 7      row i turns with row i + 4
//!                      GGUF     0 4 1 5 2 6 3 7      neighbours turn with each other
//! ```
//!
//! | step | what happens |
//! |---|---|
//! | order | tensors of safetensors by name, as Python's library gives them |
//! | `larger` | a model inside a larger one is taken out |
//! | roles | every name must be one of the family, an expert's or a cut tensor's: else an error tells them |
//! | `hyper` | the numbers, from config.json and shapes |
//! | `stacked` | experts one by one become one tensor; tensors of several become theirs |
//! | parts | shape, pieces and order of rows of each, no weight of it read |

use std::collections::HashMap;

use super::{
    Options, Stored,
    assemble::{Draft, Part},
    beside::expert_of,
    cut,
    family::{architecture, family, family_of, is_constant},
    hyper, json, larger, pooling, safetensors,
};
use crate::{
    bytes::Input,
    error::{Error, Result},
    format::family::{Family, Numbers, Size},
    model::{Hyper, Join, Model, Naming, Order, Piece, Role, rows},
    quant::{
        QuantType, decode_rows,
        half::{f32_from_half, half_from_f32},
        isa::Isa,
    },
};

/// Reads a checkpoint in Hugging Face's layout.
///
/// # Errors
/// Where `config.json` is missing or of another model, or a tensor has no place in the family's description.
pub fn open(mut draft: Draft, mut shards: Vec<Vec<Stored>>, options: &Options) -> Result<Model> {
    if draft.format == safetensors::FORMAT {
        // The order in which Python's safetensors gives them, so that files equal the converter's.
        shards.iter_mut().for_each(|shard| shard.sort_by(|a, b| a.name.cmp(&b.name)));
    }
    let path = draft.folder.join("config.json");
    let mut config = json::read(&path)?;
    let named = config.as_ref().and_then(architecture);
    let known = named.and_then(family_of);
    let unnamed = match &config {
        Some(_) => "a model whose config.json names no architecture",
        None => "a model without config.json",
    };
    let architecture = named.unwrap_or(unnamed).to_owned();
    let family = known.unwrap_or_else(family);
    let mut all: Vec<Stored> = shards.into_iter().flatten().collect();
    if let (Some(config), true) = (&mut config, known.is_some()) {
        larger::take_out(&mut draft, family, config, &mut all);
        let pools = |size: &Size| size.config.iter().any(|name| name == pooling::FIELD);
        if family.sizes.values().any(pools)
            && let (Some(way), Some(fields)) =
                (pooling::read(&draft.folder)?, config.as_object_mut())
        {
            fields.insert(pooling::FIELD.to_owned(), way.into());
        }
    }
    let role = |name: &str| Role::of(family, Naming::Hf, name);
    // Masks and frequencies that transformers computes and old checkpoints stored.
    all.retain(|stored| !is_constant(family, &stored.name));
    for stored in &mut all {
        let Some(role) = role(&stored.name) else { continue };
        // GPT-2's Conv1D has [in, out]: the shape is turned round, the numbers stay, and steps say where each is.
        if role.names.transposed && !role.bias {
            stored.shape.reverse();
            stored.stride.reverse();
        }
        if role.names.hf_dims.is_some() {
            stored.fold_ones(role.names.shape.len());
        }
    }
    let known_name = |stored: &Stored| {
        let name = expert_of(&stored.name).map_or_else(|| stored.name.clone(), |(name, _)| name);
        role(&name).is_some() || cut::of(family, &name).is_some()
    };
    let unknown: Vec<&str> = all
        .iter()
        .filter(|stored| !known_name(stored))
        .map(|stored| stored.name.as_str())
        .collect();
    // Without config.json no name is known for certain, but those of an adapter are.
    let adapter = unknown.iter().any(|name| name.contains(".lora_"));
    let strange = config.is_some() && (known.is_none() || !unknown.is_empty());
    if strange || adapter || all.is_empty() {
        return Err(draft.unknown_tensors(&unknown, &architecture));
    }
    let Some(config) = config else {
        let what = format!("{}: no config.json beside it", draft.name());
        return Err(Error::unsupported(what, "copy config.json and the tokenizer files there"));
    };
    let shape = |wanted: &str| {
        let named = |stored: &&Stored| {
            let expert = expert_of(&stored.name);
            expert.map_or(stored.name == wanted, |(name, _)| name == wanted)
        };
        Some(all.iter().find(named)?.shape.clone())
    };
    let hyper = hyper::of_config(&mut draft, family, &config, &shape)?;
    let noted =
        family.notes.iter().filter(|noted| noted.when.iter().all(|(s, v)| hyper.holds(s, v)));
    draft.notes.extend(noted.map(|noted| noted.says.clone()));
    let all = stacked(&draft, family, &hyper, all)?;
    let head = hyper.sizes.get("head").unwrap_or(0);
    let mut parts = Vec::new();
    for (name, stack) in &all {
        let (Some(role), Some((_, stored))) = (role(name), stack.first()) else { continue };
        let heads = role.names.rotary.then_some(head);
        let turns = |n: &u64| {
            stored.shape.first().is_some_and(|rows| rows.is_multiple_of(*n)) && n.is_multiple_of(2)
        };
        if heads.is_some_and(|n| n == 0 || !turns(&n)) {
            let what = format!("{}: {name} with heads of {head} rows", draft.name());
            return Err(Error::refused(what, "check that config.json is of this model"));
        }
        let odd = |(i, (number, other)): (usize, &(u64, Stored))| {
            // Experts of one matrix have one shape and type, and are numbered from 0 without a gap.
            let inner = other.shape.get(1..) != stored.shape.get(1..);
            let rows = other.shape.first() != stored.shape.first();
            inner || rows || *number != i as u64 || other.dtype != stored.dtype
        };
        if let Some((_, (_, other))) = stack.iter().enumerate().find(|pair| odd(*pair)) {
            let what =
                format!("{}: {} does not follow the experts before it", draft.name(), other.name);
            return Err(Error::refused(what, "check that the download is complete"));
        }
        let mut shape = stored.shape.clone();
        let count = stack.len() as u64;
        let rows = stack.iter().filter_map(|(_, stored)| stored.shape.first());
        let all_rows = rows.fold(0u64, |all, rows| all.saturating_add(*rows));
        match shape.first_mut() {
            _ if !role.bias && role.names.shape.len() > stored.shape.len() => {
                shape.insert(0, count);
            }
            Some(rows) => *rows = all_rows,
            None => {}
        }
        let orders = heads.map(|n| Order::PairsFromHalves { rows_per_head: n });
        let mut part = Part {
            role,
            shape,
            quant: stored.quant()?,
            big_endian: stored.big_endian,
            pieces: stack.iter().map(|(_, stored)| stored.piece()).collect::<Result<_>>()?,
            join: Join::Rows,
            orders: orders.into_iter().collect(),
        };
        if role.names.numbers != Numbers::Same && !role.bias {
            renumber(&mut draft, name, &mut part)?;
        }
        if role.names.rows.hf.is_some() {
            let mut tensor = part.tensor();
            if rows::to_gguf(&part.role, Naming::Hf, &hyper.sizes, &mut tensor).is_none() {
                let what = format!("{}: {name} is not made of whole heads", draft.name());
                return Err(Error::refused(what, "check that config.json is of this model"));
            }
            (part.pieces, part.join) = (tensor.pieces, tensor.join);
        }
        parts.push(part);
    }
    draft.finish(&parts, &hyper, Naming::Hf, Some(&config), options)
}

/// Puts the numbers of a small tensor into memory, as other files have them.
///
/// Gemma's norms, for one, are stored one less than they are. A sum is no order of bytes, so it is computed now, and
/// the tensor is read from memory.
///
/// # Errors
/// Where the tensor is longer than any norm.
fn renumber(draft: &mut Draft, name: &str, part: &mut Part) -> Result<()> {
    let tensor = part.tensor();
    let too_long = || Error::refused(format!("{name}: too long for a norm"), "check the download");
    let size = |bytes: u64| usize::try_from(bytes).ok().filter(|n| *n <= LONGEST_NORM);
    let mut bytes = vec![0; size(tensor.bytes()).ok_or_else(too_long)?];
    let model = Model { files: draft.files.clone(), ..Model::default() };
    model.read_rows(&tensor, 0, tensor.rows(), &mut bytes)?;
    let row_len = size(tensor.row_len()).ok_or_else(too_long)?;
    let mut numbers = vec![0.0; size(tensor.elements()).ok_or_else(too_long)?];
    decode_rows(tensor.quant, Isa::best(), &bytes, row_len, &mut numbers);
    let f32 = QuantType::today("f32").ok_or_else(too_long)?;
    // The converter adds in the type that it reads.
    let halves = tensor.quant.name() == "f16" && part.role.names.numbers == Numbers::OneLess;
    let own = |number: &f32| {
        let own = part.role.names.numbers.from_hf(*number);
        if halves { f32_from_half(half_from_f32(own)) } else { own }.to_le_bytes()
    };
    let made: Vec<u8> = numbers.iter().flat_map(own).collect();
    let row_bytes = tensor.row_len() * 4;
    let (file, at, rows) = (draft.files.len(), 0, tensor.rows());
    part.pieces = vec![Piece { file, at, rows, row_bytes, row_stride: row_bytes, element: None }];
    (part.quant, part.big_endian) = (f32, false);
    draft.files.push(Input::memory(name, made));
    Ok(())
}

/// Bytes of the longest norm: a number for each of the widest stream.
const LONGEST_NORM: usize = 16 << 20;

/// Tensors that make one, each with its number.
type Stack = Vec<(u64, Stored)>;

/// Tensors by name, one each but for the experts of a layer and for parts of one: those that do the
/// same are one stack, which is where its last one stood.
///
/// ```text
/// ….experts.0.w1 [r, c], ….experts.1.w1 [r, c]    ->    ….experts.w1: (0, …), (1, …)
/// ….qkv_proj [q + 2 kv, c], cut by the family     ->    ….q_proj, ….k_proj, ….v_proj, each a band of its rows
/// ```
///
/// # Errors
/// Where the rows of a tensor that is cut are not those of its parts.
fn stacked(
    draft: &Draft,
    family: &'static Family,
    hyper: &Hyper,
    all: Vec<Stored>,
) -> Result<Vec<(String, Stack)>> {
    let mut pieces = Vec::new();
    for stored in all {
        if let Some(found) = cut::of(family, &stored.name) {
            pieces.extend(cut::apart(&draft.name(), family, found, &stored, &hyper.sizes)?);
        } else if let Some((name, expert)) = expert_of(&stored.name) {
            pieces.push((name, Some(expert), stored));
        } else {
            pieces.push((stored.name.clone(), None, stored));
        }
    }
    let mut places = Vec::new();
    let mut stacks: HashMap<String, (usize, Stack)> = HashMap::new();
    for (place, (name, number, stored)) in pieces.into_iter().enumerate() {
        let Some(number) = number else {
            places.push((place, (name, vec![(0, stored)])));
            continue;
        };
        let (last, stack) = stacks.entry(name).or_default();
        *last = place;
        stack.push((number, stored));
    }
    for (name, (last, mut stack)) in stacks {
        stack.sort_by_key(|(number, _)| *number);
        places.push((last, (name, stack)));
    }
    places.sort_unstable_by_key(|(place, _)| *place);
    Ok(places.into_iter().map(|(_, tensor)| tensor).collect())
}
