//! Hugging Face's layout: `config.json` and tensors named by transformers.
//!
//! Query and key rows are stored in halves there (row `i` turns with row `i + head_dim / 2`), in GGUF
//! in pairs; the rows are read in that order.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{
    Options, Stored,
    assemble::{Draft, Part},
    hyper::{Hyper, Scaling},
    is_constant, json, role, safetensors,
};
use crate::{
    error::{Error, Result},
    model::{Join, Model, Naming, Order},
};

/// The architectures that GGUF calls `llama` and whose tensors the family names.
const ARCHITECTURES: [&str; 4] =
    ["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"];

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
    let known = ARCHITECTURES.contains(&architecture.as_str());
    if !unknown.is_empty() || all.is_empty() || (config.is_some() && !known) {
        return Err(draft.unknown_tensors(&unknown, &architecture));
    }
    let Some(config) = config else {
        let what = format!("{}: no config.json beside it", draft.name());
        return Err(Error::unsupported(what, "copy config.json and the tokenizer files there"));
    };
    let hyper = hyper(&mut draft, &config, &all)?;
    let mut parts = Vec::new();
    for (name, stack) in &all {
        let (Some(role), Some((_, stored))) = (role(name), stack.first()) else { continue };
        let heads = role.names.rotary.then_some(u64::from(hyper.head_dim));
        let turns = |n: &u64| {
            stored.shape.first().is_some_and(|rows| rows.is_multiple_of(*n)) && n.is_multiple_of(2)
        };
        if heads.is_some_and(|n| n == 0 || !turns(&n)) {
            let what = format!("{}: {name} with heads of {} rows", draft.name(), hyper.head_dim);
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

fn hyper(
    draft: &mut Draft,
    config: &Json,
    tensors: &[(String, Vec<(u64, Stored)>)],
) -> Result<Hyper> {
    let path = draft.folder.join("config.json");
    let stated = |key: &str| config.get(key).filter(|v| !v.is_null());
    let number = |key: &str| match stated(key) {
        None => Ok(None),
        Some(v) => match v.as_u64().and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0) {
            Some(v) => Ok(Some(v)),
            None => Err(json::malformed(&path, key, &v.to_string(), "a whole number above 0")),
        },
    };
    let need = |key: &str| {
        let missing = || json::malformed(&path, key, "nothing", "a whole number above 0");
        number(key)?.ok_or_else(missing)
    };
    let float = |key: &str| stated(key).and_then(json::float);
    let (width, heads) = (need("hidden_size")?, need("num_attention_heads")?);
    let head_dim = number("head_dim")?;
    let states_head_dim = head_dim.is_some();
    let head_dim = match head_dim {
        Some(dim) => dim,
        None if width.is_multiple_of(heads) => width / heads,
        None => {
            let found = format!("{heads} for a width of {width}");
            return Err(json::malformed(&path, "num_attention_heads", &found, "a divisor of it"));
        }
    };
    let embedding = tensors.iter().find(|(name, _)| name == "model.embed_tokens.weight");
    let rows = embedding.and_then(|(_, t)| u32::try_from(*t.first()?.1.shape.first()?).ok());
    let stated_vocab = number("vocab_size")?;
    let vocab = rows.or(stated_vocab).unwrap_or(0);
    if let Some(stated) = stated_vocab.filter(|v| *v != vocab) {
        draft.notes.push(format!(
            "config.json says {stated} tokens, the embedding has {vocab} rows: the rows count"
        ));
    }
    let rope = ["rope_parameters", "rope_scaling"].into_iter().find_map(stated);
    let rope_base = rope.and_then(|r| json::float(r.get("rope_theta")?));
    let eps = float("rms_norm_eps")
        .ok_or_else(|| json::malformed(&path, "rms_norm_eps", "nothing", "a small number"))?;
    Ok(Hyper {
        layers: need("num_hidden_layers")?,
        context: number("max_position_embeddings")?,
        width,
        feed_forward: need("intermediate_size")?,
        heads,
        kv_heads: number("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        states_head_dim,
        experts: number("num_local_experts")?.zip(number("num_experts_per_tok")?),
        vocab,
        eps,
        rope_base: rope_base.or_else(|| float("rope_theta")),
        scaling: rope.map_or(Ok(Scaling::None), |rope| scaling(draft, config, rope))?,
    })
}

fn scaling(draft: &mut Draft, config: &Json, rope: &Json) -> Result<Scaling> {
    let float = |key: &str| rope.get(key).and_then(Json::as_f64);
    let single = |key: &str| rope.get(key).and_then(json::float);
    let kind = ["rope_type", "type"].into_iter().find_map(|k| rope.get(k)?.as_str());
    let original = float("original_max_position_embeddings")
        .or_else(|| config.get("original_max_position_embeddings")?.as_f64());
    Ok(match (kind, single("factor")) {
        (None | Some("default"), _) => Scaling::None,
        (Some("linear"), Some(factor)) => Scaling::Linear(factor),
        (Some("yarn"), Some(factor)) => {
            let Some(original) = original.filter(|n| *n >= 1.0 && *n <= f64::from(u32::MAX)) else {
                let path = draft.folder.join("config.json");
                let field = "rope_scaling.original_max_position_embeddings";
                return Err(json::malformed(&path, field, "nothing", "a context length"));
            };
            let more = [
                ("yarn_ext_factor", "extrapolation_factor"),
                ("yarn_attn_factor", "attention_factor"),
                ("yarn_beta_fast", "beta_fast"),
                ("yarn_beta_slow", "beta_slow"),
            ];
            let more = more.into_iter().filter_map(|(gguf, key)| Some((gguf, single(key)?)));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked above; a fraction of a token is none"
            )]
            Scaling::Yarn { factor, original: original as u32, more: more.collect() }
        }
        (Some("llama3"), _) => Scaling::Llama3 {
            factor: float("factor").unwrap_or(8.0),
            low: float("low_freq_factor").unwrap_or(1.0),
            high: float("high_freq_factor").unwrap_or(4.0),
            original: original.unwrap_or(8192.0),
        },
        (Some(other), _) => {
            draft.notes.push(format!(
                "rope scaling {other:?} is computed by readers or not at all: nothing is stored for it"
            ));
            Scaling::None
        }
    })
}
