//! Hugging Face's layout: `config.json` and tensors named by transformers.
//!
//! Query and key rows are stored in halves there (row `i` turns with row `i + head_dim / 2`), in GGUF
//! in pairs; the rows are read in that order.

use std::collections::HashMap;

use super::{
    Options, Stored,
    assemble::{Draft, Part},
    family, hyper, is_constant, json, role, safetensors,
};
use crate::{
    error::{Error, Result},
    model::{Join, Model, Naming, Order},
};

/// Reads a checkpoint in Hugging Face's layout.
pub fn open(mut draft: Draft, mut shards: Vec<Vec<Stored>>, options: &Options) -> Result<Model> {
    if draft.format == safetensors::FORMAT {
        // The order in which Python's safetensors gives them, so that files equal the converter's.
        shards.iter_mut().for_each(|shard| shard.sort_by(|a, b| a.name.cmp(&b.name)));
    }
    let path = draft.folder.join("config.json");
    let config = json::read(&path)?;
    let architecture = config
        .as_ref()
        .and_then(|c| c.get("architectures")?.get(0)?.as_str())
        .unwrap_or("a model without config.json")
        .to_owned();
    let all: Vec<Stored> = shards.into_iter().flatten().filter(|t| !is_constant(&t.name)).collect();
    let all = stacked(all);
    let role = |name: &str| role(Naming::Hf, name);
    let unknown: Vec<&str> =
        all.iter().map(|(name, _)| name.as_str()).filter(|name| role(name).is_none()).collect();
    let known = family().family.hf.contains(&architecture);
    if !unknown.is_empty() || all.is_empty() || (config.is_some() && !known) {
        return Err(draft.unknown_tensors(&unknown, &architecture));
    }
    let Some(config) = config else {
        let what = format!("{}: no config.json beside it", draft.name());
        return Err(Error::unsupported(what, "copy config.json and the tokenizer files there"));
    };
    let shape = |wanted: &str| {
        let (_, stack) = all.iter().find(|(name, _)| name == wanted)?;
        Some(stack.first()?.1.shape.clone())
    };
    let hyper = hyper::of_config(&mut draft, &config, &shape)?;
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
        let odd = |(i, (expert, other)): (u64, &(u64, Stored))| {
            *expert != i || (other.dtype, &other.shape) != (stored.dtype, &stored.shape)
        };
        if let Some((_, (_, other))) = (0..).zip(stack).find(|pair| odd(*pair)) {
            let what =
                format!("{}: {} does not follow the experts before it", draft.name(), other.name);
            return Err(Error::refused(what, "check that the download is complete"));
        }
        let mut shape = stored.shape.clone();
        if role.names.shape.len() > shape.len() {
            shape.insert(0, stack.len() as u64);
        }
        parts.push(Part {
            role,
            shape,
            quant: stored.quant()?,
            big_endian: stored.big_endian,
            pieces: stack.iter().map(|(_, stored)| stored.piece()).collect::<Result<_>>()?,
            join: Join::Rows,
            orders: heads
                .map(|n| Order::PairsFromHalves { rows_per_head: n })
                .into_iter()
                .collect(),
        });
    }
    draft.finish(parts, &hyper, Naming::Hf, Some(&config), options)
}

/// Tensors by name, one each but for the experts of a layer: those that do the same are one stack, which
/// stands where its last one stood.
fn stacked(all: Vec<Stored>) -> Vec<(String, Vec<(u64, Stored)>)> {
    let mut places = Vec::new();
    let mut stacks: HashMap<String, (usize, Vec<(u64, Stored)>)> = HashMap::new();
    for (place, stored) in all.into_iter().enumerate() {
        let Some((name, expert)) = expert_of(&stored.name) else {
            places.push((place, (stored.name.clone(), vec![(0, stored)])));
            continue;
        };
        let (last, stack) = stacks.entry(name).or_default();
        *last = place;
        stack.push((expert, stored));
    }
    for (name, (last, mut stack)) in stacks {
        stack.sort_by_key(|(expert, _)| *expert);
        places.push((last, (name, stack)));
    }
    places.sort_unstable_by_key(|(place, _)| *place);
    places.into_iter().map(|(_, tensor)| tensor).collect()
}

/// `….experts.3.w1.weight` -> (`….experts.w1.weight`, 3).
fn expert_of(name: &str) -> Option<(String, u64)> {
    let (before, rest) = name.split_once(".block_sparse_moe.experts.")?;
    let (expert, matrix) = rest.split_once('.')?;
    Some((format!("{before}.block_sparse_moe.experts.{matrix}"), expert.parse().ok()?))
}
