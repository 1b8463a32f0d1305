//! The numbers of a model or an adapter, as far as they are known.
//!
//! ```text
//! layers       2              what people ask first, by a name of ours
//! attention    key_length 16  what else the keys say, by their own names, a line for each part
//! further      expert_shared_count 1
//! ```

use serde::{Serialize, Serializer};

use crate::{
    cli::json::Shown,
    format::{catalog, family::Family},
    model::{Model, Sizes, Value, loader::Content},
};

/// What else the keys of a model say, and what follows for those of its family that are not there: by key, without
/// the architecture before it.
#[derive(Debug, Default)]
pub(in crate::cli) struct Further(Vec<(String, Value)>);

impl Serialize for Further {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, Shown(value))))
    }
}

impl Further {
    /// A line for each part of a model that keys are named after, `attention` and `rope`, and one for the others.
    pub fn lines(&self) -> Vec<(&str, String)> {
        let mut lines: Vec<(&str, String)> = Vec::new();
        for (key, value) in &self.0 {
            let (part, name) = key.split_once('.').unwrap_or(("further", key));
            let said = format!("{name} {value}");
            match lines.iter_mut().find(|(known, _)| *known == part) {
                Some((_, line)) => *line += &format!(", {said}"),
                None => lines.push((part, said)),
            }
        }
        lines
    }
}

/// What people ask first: its name for them, the family's symbol, GGUF's key.
const FIRST: [(&str, &str, &str); 9] = [
    ("layers", "n_layer", "block_count"),
    ("width", "n_embd", "embedding_length"),
    ("heads", "n_head", "attention.head_count"),
    ("key-value heads", "n_head_kv", "attention.head_count_kv"),
    ("feed-forward width", "n_ff", "feed_forward_length"),
    ("experts", "n_expert", "expert_count"),
    ("experts for a token", "n_expert_used", "expert_used_count"),
    ("width of an expert", "n_ff_exp", "expert_feed_forward_length"),
    ("window", "window", "attention.sliding_window"),
];

/// The sizes of a model or an adapter: what people ask first, and the others.
///
/// Of a known family also what follows for keys that are left out; of any other what its keys say and no more.
pub(super) fn of(model: &Model, content: Content) -> (Vec<(&'static str, u64)>, Further) {
    if content == Content::Adapter {
        return (of_adapter(model), Further::default());
    }
    let sizes = Sizes::of(model);
    let family = catalog::family(&model.family);
    let architecture = model.metadata.str("general.architecture");
    let architecture = architecture.or(family.map(Family::architecture)).unwrap_or_default();
    let own = format!("{architecture}.");
    let mut known: Vec<(String, Value)> = model
        .metadata
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&own)?.to_owned(), value.clone())))
        .collect();
    for (symbol, size) in family.iter().flat_map(|family| &family.sizes) {
        let key = size.gguf_key(architecture);
        let key = key.as_deref().and_then(|key| key.strip_prefix(&own));
        let Some((key, value)) = key.zip(sizes.value(symbol)) else { continue };
        // What is none and is not stated goes without saying.
        let none = value.as_f64() == Some(0.0) || value.as_bool() == Some(false);
        if !none && known.iter().all(|(name, _)| name != key) {
            known.push((key.to_owned(), value.clone()));
        }
    }
    // The family's number comes first: some of them are measured, where keys may be wrong.
    let number = |symbol: &str, key: &str| {
        let stated = || known.iter().find(|(name, _)| name == key)?.1.as_u64();
        sizes.get(symbol).or_else(stated)
    };
    let all = FIRST.map(|(name, symbol, key)| (name, number(symbol, key)));
    let value = |name| all.iter().find(|(known, _)| *known == name)?.1;
    let has_experts = value("experts") > Some(0);
    let is_told = |(name, number): &(&str, u64)| match *name {
        "key-value heads" => value("heads") != Some(*number),
        "experts" | "window" => *number > 0,
        "experts for a token" => has_experts && *number > 0,
        "width of an expert" => {
            has_experts && *number > 0 && value("feed-forward width") != Some(*number)
        }
        _ => true,
    };
    let first = all.into_iter().filter_map(|(name, number)| Some((name, number?))).filter(is_told);
    let first = first.collect();
    // An array under one of the first keys (heads of each layer) stays: a single number does not say it.
    known.retain(|(key, value)| {
        value.as_u64().is_none() || FIRST.iter().all(|(.., first)| first != key)
    });
    (first, Further(known))
}

/// A header word of the file.
pub(super) fn word(model: &Model, name: &str) -> Option<u64> {
    model.header(name).and_then(|n| u64::try_from(n).ok())
}

/// The rank and alpha of an adapter: of a header where there is one, else of its first pair and its key.
fn of_adapter(model: &Model) -> Vec<(&'static str, u64)> {
    let pair =
        model.tensors.iter().find(|t| t.name.ends_with(".lora_a") || t.name.ends_with(".loraA"));
    let rank = pair.and_then(|t| t.shape.first().copied());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
    let alpha = model.metadata.f32("adapter.lora.alpha").map(|alpha| alpha as u64);
    let all = [("rank", word(model, "r").or(rank)), ("alpha", word(model, "lora_alpha").or(alpha))];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_name_for_people_is_told_by_its_key() {
        let mut model = Model::default();
        for (key, value) in [
            ("block_count", Value::U32(2)),
            ("attention.head_count", Value::U32(4)),
            ("attention.head_count_kv", Value::U32(4)),
            ("attention.sliding_window", Value::U32(8)),
            ("expert_used_count", Value::U32(2)),
            ("expert_shared_count", Value::U32(1)),
            ("attention.key_length", Value::U32(16)),
            ("final_logit_softcapping", Value::F32(30.0)),
            ("rope.scaling.type", Value::String(b"yarn".to_vec())),
        ] {
            model.metadata.set(format!("glm4moe.{key}"), value);
        }
        model.metadata.set("general.architecture", Value::String(b"glm4moe".to_vec()));
        let (first, further) = of(&model, Content::Model);
        assert_eq!(first, [("layers", 2), ("heads", 4), ("window", 8)]);
        let lines = further.lines();
        let lines: Vec<_> = lines.iter().map(|(part, line)| (*part, line.as_str())).collect();
        let numbers = "expert_shared_count 1, final_logit_softcapping 30";
        let rope = "scaling.type \"yarn\"";
        assert_eq!(lines, [("further", numbers), ("attention", "key_length 16"), ("rope", rope)]);
        // A family knows what follows where a key is left out.
        let mut model = Model { family: "qwen3".to_owned(), ..Model::default() };
        for (key, number) in [("embedding_length", 64), ("attention.head_count", 4)] {
            model.metadata.set(format!("qwen3.{key}"), Value::U32(number));
        }
        let (_, further) = of(&model, Content::Model);
        assert!(
            further
                .lines()
                .iter()
                .any(|(part, line)| *part == "attention" && line.contains("key_length"))
        );
    }
}
