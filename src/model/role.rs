//! What tensors do, whatever a file calls them: names in, names out, expected shapes.
//!
//! The table stands in `formats/family/*.toml`; here are only the names' pattern and the arithmetic of
//! the symbols in which shapes are given.

use super::Model;
use crate::format::{
    catalog,
    family::{Family, Names, Split},
};

/// Whose names tensors bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Meta's, which files before GGUF kept: `layers.0.attention.wq.weight`.
    Old,
    /// GGUF's: `blk.0.attn_q.weight`.
    Gguf,
    /// Hugging Face's: `model.layers.0.self_attn.q_proj.weight`.
    Hf,
}

impl Naming {
    /// Every naming.
    pub const ALL: [Naming; 3] = [Naming::Old, Naming::Gguf, Naming::Hf];
}

/// What a tensor does in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// The role's name in the family's table: `query`.
    pub id: &'static str,
    /// Its row in that table.
    pub names: &'static Names,
    /// The layer's number, for roles that every layer has.
    pub layer: Option<u64>,
}

impl Role {
    /// The role of the tensor that `naming` calls `name` in `family`.
    pub fn of(family: &'static Family, naming: Naming, name: &str) -> Option<Role> {
        family.roles.iter().find_map(|(id, names)| {
            let layer = fit(pattern(names, naming), name)?;
            Some(Role { id, names, layer })
        })
    }

    /// The role of a tensor by any of its names.
    pub fn find(family: &'static Family, name: &str) -> Option<(Naming, Role)> {
        let of = |naming| Some((naming, Role::of(family, naming, name)?));
        Naming::ALL.into_iter().find_map(of)
    }

    /// Every role of a model with `layers` layers, with or without experts.
    pub fn all(family: &'static Family, layers: u64, experts: bool) -> impl Iterator<Item = Role> {
        let role = |id: &'static String, names, layer| Role { id, names, layer };
        let has = move |names: &Names| names.experts.is_none_or(|with| with == experts);
        family.roles.iter().filter(move |(_, names)| has(names)).flat_map(move |(id, names)| {
            let count = if names.old.contains("{n}") { layers } else { 1 };
            let layer = move |n| names.old.contains("{n}").then_some(n);
            (0..count).map(move |n| role(id, names, layer(n)))
        })
    }

    /// The tensor's name as `naming` has it.
    pub fn name(&self, naming: Naming) -> String {
        let pattern = pattern(self.names, naming);
        match self.layer {
            Some(n) => pattern.replace("{n}", &n.to_string()),
            None => pattern.to_owned(),
        }
    }

    /// Whether it is a vector: those were never quantized, and every part of a set has all of it.
    pub fn is_vector(&self) -> bool {
        self.names.shape.len() == 1
    }

    /// How it is cut where a model is cut into parts.
    pub fn split(&self) -> Split {
        self.names.split
    }

    /// Its expected shape, outermost dimension first; none where a symbol is not known.
    pub fn shape(&self, symbols: &Symbols) -> Option<Vec<u64>> {
        self.names.shape.iter().map(|name| symbols.get(name)).collect()
    }
}

/// `blk.3.ffn_gate.7.weight`, one expert by itself as the first Mixtral files have them ->
/// (`blk.3.ffn_gate_exps.weight`, 7).
pub fn expert_of(name: &str) -> Option<(String, u64)> {
    let (stem, expert) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let kind = stem.rsplit('.').next()?;
    if !matches!(kind, "ffn_gate" | "ffn_down" | "ffn_up") {
        return None;
    }
    Some((format!("{stem}_exps.weight"), expert.parse().ok()?))
}

fn pattern(names: &Names, naming: Naming) -> &str {
    match naming {
        Naming::Old => &names.old,
        Naming::Gguf => &names.gguf,
        Naming::Hf => &names.hf,
    }
}

/// Whether `name` fits `pattern`: the number that stands at `{n}`, or none where there is no `{n}`.
fn fit(pattern: &str, name: &str) -> Option<Option<u64>> {
    let Some((before, after)) = pattern.split_once("{n}") else {
        return (pattern == name).then_some(None);
    };
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok().map(Some) } else { None }
}

/// The sizes of a model, from its header or metadata and, where neither can say, from its shapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of ggml")]
pub struct Symbols {
    pub n_vocab: Option<u64>,
    pub n_embd: Option<u64>,
    pub n_head: Option<u64>,
    /// Heads of keys and values: fewer than `n_head` in grouped-query attention.
    pub n_head_kv: Option<u64>,
    pub n_layer: Option<u64>,
    pub n_ff: Option<u64>,
    /// Experts of a layer, in models that have them.
    pub n_expert: Option<u64>,
    /// The width of one head, all of which is rotated.
    pub n_rot: Option<u64>,
}

impl Symbols {
    /// The symbol named so in a family's table.
    pub fn get(&self, name: &str) -> Option<u64> {
        match name {
            "n_vocab" => self.n_vocab,
            "n_embd" => self.n_embd,
            "n_head" => self.n_head,
            "n_head_kv" => self.n_head_kv,
            "n_layer" => self.n_layer,
            "n_ff" => self.n_ff,
            "n_rot" => self.n_rot,
            "n_expert" => self.n_expert,
            // Rows of the query, key and value matrices.
            "n_q" => self.n_rot?.checked_mul(self.n_head?),
            "n_kv" => self.n_rot?.checked_mul(self.n_head_kv?),
            _ => None,
        }
    }

    /// The sizes of `model`.
    pub fn of(model: &Model) -> Symbols {
        let Some(family) = catalog::family(&model.family) else { return Symbols::default() };
        let stated = |word: &str| -> Option<u64> {
            let header = model.header(word).and_then(|v| v.try_into().ok());
            header.or_else(|| model.metadata.u64(family.header.get(word)?))
        };
        let derived = |symbol: &str| -> Option<u64> {
            let (key, _) = family.derived.iter().find(|(_, s)| *s == symbol)?;
            model.metadata.u64(key)
        };
        let shape = |wanted: &str| -> Option<&[u64]> {
            let names = family.roles.get(wanted)?;
            let role = Role { id: "", names, layer: names.old.contains("{n}").then_some(0) };
            let tensor = Naming::ALL.into_iter().find_map(|n| model.tensor(&role.name(n)))?;
            Some(&tensor.shape)
        };
        let rows = |wanted: &str| shape(wanted).and_then(|s| s.first().copied());
        let n_embd =
            stated("n_embd").or_else(|| shape("token_embedding").and_then(|s| s.last().copied()));
        let n_head = stated("n_head");
        let key_length = format!("{}.attention.key_length", family.family.gguf);
        let experts = format!("{}.expert_count", family.family.gguf);
        let n_expert = model.metadata.u64(&experts).filter(|n| *n > 0);
        let n_rot = model.metadata.u64(&key_length).or_else(|| n_embd?.checked_div(n_head?));
        let measured = || rows("key")?.checked_div(n_rot?);
        let layers = || {
            let layer = |name: &str| Role::find(family, name)?.1.layer;
            model.tensors.iter().filter_map(|t| layer(&t.name)).max().and_then(|n| n.checked_add(1))
        };
        Symbols {
            n_vocab: rows("token_embedding").or_else(|| stated("n_vocab")),
            n_embd,
            n_head,
            n_head_kv: derived("n_head_kv").or_else(measured).or(n_head),
            n_layer: stated("n_layer").or_else(layers),
            n_ff: derived("n_ff").or_else(|| rows("gate")),
            n_expert,
            n_rot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_roles_and_back() {
        let llama = catalog::family("llama").unwrap();
        for role in Role::all(llama, 3, false).chain(Role::all(llama, 3, true)) {
            for naming in Naming::ALL {
                assert_eq!(Role::of(llama, naming, &role.name(naming)), Some(role));
            }
        }
        assert_eq!(Role::all(llama, 3, false).count(), 3 + 3 * 9);
        assert_eq!(Role::all(llama, 3, true).count(), 3 + 3 * 10);
        let query = Role::of(llama, Naming::Hf, "model.layers.11.self_attn.q_proj.weight").unwrap();
        assert_eq!((query.id, query.layer), ("query", Some(11)));
        assert_eq!(query.name(Naming::Gguf), "blk.11.attn_q.weight");
        assert!(Role::of(llama, Naming::Gguf, "blk.07.attn_q.weight").is_none());
        assert!(Role::of(llama, Naming::Gguf, "blk.-1.attn_q.weight").is_none());
        assert!(Role::find(llama, "blk..attn_q.weight").is_none());
    }

    #[test]
    fn shapes_follow_from_symbols() {
        let llama = catalog::family("llama").unwrap();
        let symbols = Symbols {
            n_vocab: Some(32000),
            n_embd: Some(8192),
            n_head: Some(64),
            n_head_kv: Some(8),
            n_layer: Some(80),
            n_ff: Some(28672),
            n_expert: None,
            n_rot: Some(128),
        };
        let shape = |name| Role::of(llama, Naming::Old, name).unwrap().shape(&symbols).unwrap();
        assert_eq!(shape("layers.0.attention.wk.weight"), [1024, 8192]);
        assert_eq!(shape("layers.0.feed_forward.w2.weight"), [8192, 28672]);
        assert_eq!(shape("norm.weight"), [8192]);
    }
}
