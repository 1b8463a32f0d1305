//! What tensors do, whatever a file calls them: names in, names out, expected shapes.
//!
//! The table is in `formats/family/*.toml`; here is only the pattern of names.

use super::{Model, Tensor};
use crate::format::family::{Bias, Family, Names, Split};

/// What the layers of a model feed forward through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// One block of matrices for every token.
    Dense,
    /// Several, of which each token is sent to a few.
    Experts,
}

/// Whose names tensors bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Naming {
    /// That of files before GGUF; LLaMA's is Meta's: `layers.0.attention.wq.weight`.
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
///
/// ```text
/// blk.11.attn_q.weight    id "query", layer 11, bias false       names: the row of formats/family/llama.toml
/// output_norm.weight      id "final_norm", no layer
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Role {
    /// The role's name in the family's table: `query`.
    pub id: &'static str,
    /// Its row in that table.
    pub names: &'static Names,
    /// The layer's number, for roles that every layer has.
    pub layer: Option<u64>,
    /// Whether it is the bias of what the table names.
    pub bias: bool,
}

impl Role {
    /// The role of the tensor that `naming` calls `name` in `family`.
    pub fn of(family: &'static Family, naming: Naming, name: &str) -> Option<Role> {
        family.roles.iter().find_map(|(id, names)| {
            patterns(names, naming).find_map(|pattern| {
                if let Some(layer) = fit(pattern, name) {
                    return Some(Role { id, names, layer, bias: false });
                }
                let layer = fit_bias(pattern, name).filter(|_| names.bias != Bias::None)?;
                Some(Role { id, names, layer, bias: true })
            })
        })
    }

    /// The role of a tensor by any of its names.
    pub fn find(family: &'static Family, name: &str) -> Option<(Naming, Role)> {
        let of = |naming| Some((naming, Role::of(family, naming, name)?));
        Naming::ALL.into_iter().find_map(of)
    }

    /// Every role of a model with `layers` layers.
    pub fn all(
        family: &'static Family,
        layers: u64,
        kind: FeedForward,
    ) -> impl Iterator<Item = Role> {
        Role::counted(family, move |_| layers, kind)
    }

    /// Every role of a model with as many layers as `layers` says for the symbol that counts them.
    pub fn counted(
        family: &'static Family,
        layers: impl Fn(&str) -> u64,
        kind: FeedForward,
    ) -> impl Iterator<Item = Role> {
        let experts = kind == FeedForward::Experts;
        let has = move |names: &Names| names.experts.is_none_or(|with| with == experts);
        family.roles.iter().filter(move |(_, names)| has(names)).flat_map(move |(id, names)| {
            let known = |symbol: &Option<String>| symbol.as_ref().map(|symbol| layers(symbol) > 0);
            let none = known(&names.sized_by) == Some(false) || known(&names.unless) == Some(true);
            let first = names.after.as_ref().map_or(0, |symbol| layers(symbol));
            let count = match names.is_layered() {
                _ if none => 0,
                true => layers(names.counted_by()),
                false => 1,
            };
            let layer = move |n| names.is_layered().then_some(n);
            let [last_of, but_last_of] = [&names.last_of, &names.but_last_of]
                .map(|symbol| symbol.as_ref().map(|symbol| layers(symbol)));
            let has = move |n: &u64| {
                let is_last = |of: u64| (n + 1).is_multiple_of(of);
                last_of.is_none_or(is_last) && !but_last_of.is_some_and(is_last)
            };
            let biases = [false, true].into_iter().take(1 + usize::from(names.bias != Bias::None));
            (first..count).filter(has).flat_map(move |n| {
                biases.clone().map(move |bias| Role { id, names, layer: layer(n), bias })
            })
        })
    }

    /// The role of a table's row, in the first layer where every layer has it.
    pub fn first(names: &'static Names) -> Role {
        Role { id: "", names, layer: names.is_layered().then_some(0), bias: false }
    }

    /// The tensor's name as `naming` has it; none where it has no such tensor.
    pub fn name(&self, naming: Naming) -> Option<String> {
        self.all_names(naming).next()
    }

    /// The name that is written in `naming` for a model that has the roles for which `has` holds.
    ///
    /// A few roles are called otherwise where another role is there, too: Falcon's norm is `input_layernorm` where it
    /// is the only one, `ln_mlp` where attention has one of its own.
    pub fn written(&self, naming: Naming, has: impl Fn(&str) -> bool) -> Option<String> {
        let second = self.names.second_with.as_deref().is_some_and(has);
        self.all_names(naming).nth(usize::from(second && naming != Naming::Gguf))
    }

    /// The names that the tensor has had in `naming`, the usual one first.
    pub(crate) fn all_names(&self, naming: Naming) -> impl Iterator<Item = String> {
        patterns(self.names, naming).filter_map(|pattern| {
            let pattern = if self.bias { bias_of(pattern)? } else { pattern.to_owned() };
            Some(match self.layer {
                Some(n) => pattern.replace("{n}", &n.to_string()),
                None => pattern,
            })
        })
    }

    /// The tensor of `model` that has this role and a name of `naming`.
    pub fn tensor<'m>(&self, model: &'m Model, naming: Naming) -> Option<&'m Tensor> {
        self.all_names(naming).find_map(|name| model.tensor(&name))
    }

    /// What a message calls it: its GGUF name, else any other.
    pub fn title(&self) -> String {
        let names = [Naming::Gguf, Naming::Old, Naming::Hf].into_iter();
        names.filter_map(|naming| self.name(naming)).next().unwrap_or_else(|| self.id.to_owned())
    }

    /// Whether a model may lack it.
    pub fn is_optional(&self) -> bool {
        self.names.optional || self.bias && self.names.bias == Bias::Optional
    }

    /// Whether it is a vector: those were never quantized, and every part of a set has all of it.
    pub fn is_vector(&self) -> bool {
        self.bias || self.names.shape.len() == 1
    }

    /// How it is cut where a model is cut into parts.
    pub fn split(&self) -> Split {
        self.names.split
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

/// The matrix that a tensor of GGUF scales: `blk.3.attn_q.scale`, or `.input_scale` -> `blk.3.attn_q.weight`.
pub fn scaled_by(name: &str) -> Option<String> {
    let stem = [".input_scale", ".scale"].into_iter().find_map(|end| name.strip_suffix(end))?;
    Some(format!("{stem}.weight"))
}

/// The name of one expert of such a stack; none where it is no stack.
pub fn expert_in(stack: &str, expert: u64) -> Option<String> {
    let name = format!("{}.{expert}.weight", stack.strip_suffix("_exps.weight")?);
    expert_of(&name).map(|_| name)
}

/// The names that a naming has for a role, the one that is written first.
fn patterns(names: &Names, naming: Naming) -> impl Iterator<Item = &str> {
    let (several, one) = match naming {
        Naming::Old => (names.old.as_slice(), None),
        Naming::Gguf => (&[][..], names.gguf.as_deref()),
        Naming::Hf => (names.hf.as_slice(), None),
    };
    several.iter().map(String::as_str).chain(one)
}

/// The name of the bias that belongs to a tensor named so.
fn bias_of(name: &str) -> Option<String> {
    let found = ENDINGS.iter().find_map(|(end, bias)| Some((name.strip_suffix(end)?, bias)));
    found.map(|(stem, bias)| format!("{stem}{bias}"))
}

/// How names of tensors end, and those of their biases.
const ENDINGS: [(&str, &str); 3] = [(".weight", ".bias"), ("/w", "/b"), ("/g", "/b")];

/// Whether `name` is that of the bias of a tensor that fits `pattern`; as [`fit`].
fn fit_bias(pattern: &str, name: &str) -> Option<Option<u64>> {
    let stems = |(end, bias): &(&str, &str)| pattern.strip_suffix(end).zip(name.strip_suffix(bias));
    let (pattern, name) = ENDINGS.iter().find_map(stems)?;
    fit(pattern, name)
}

/// Whether `name` fits `pattern`: the number that is at `{n}`, or none where there is no `{n}`.
///
/// A number with a zero before it (`blk.07.`) is none: no program writes it, and it would be a second name of layer 7.
fn fit(pattern: &str, name: &str) -> Option<Option<u64>> {
    let Some((before, after)) = pattern.split_once("{n}") else {
        return (pattern == name).then_some(None);
    };
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok().map(Some) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format::catalog, model::Sizes};
    use FeedForward::{Dense, Experts};

    #[test]
    fn names_lead_to_roles_and_back() {
        let llama = catalog::family("llama").unwrap();
        for role in Role::all(llama, 3, Dense).chain(Role::all(llama, 3, Experts)) {
            for naming in Naming::ALL {
                assert_eq!(Role::of(llama, naming, &role.name(naming).unwrap()), Some(role));
            }
        }
        assert_eq!(Role::all(llama, 3, Dense).count(), 3 + 3 * 9);
        assert_eq!(Role::all(llama, 3, Experts).count(), 3 + 3 * 10);
        let query = Role::of(llama, Naming::Hf, "model.layers.11.self_attn.q_proj.weight").unwrap();
        assert_eq!((query.id, query.layer), ("query", Some(11)));
        assert_eq!(query.name(Naming::Gguf).unwrap(), "blk.11.attn_q.weight");
        assert!(Role::of(llama, Naming::Gguf, "blk.07.attn_q.weight").is_none());
        assert!(Role::of(llama, Naming::Gguf, "blk.-1.attn_q.weight").is_none());
        assert!(Role::find(llama, "blk..attn_q.weight").is_none());
    }

    #[test]
    fn shapes_follow_from_symbols() {
        let llama = catalog::family("llama").unwrap();
        let stated = [("n_vocab", 32000), ("n_embd", 8192), ("n_head", 64), ("n_head_kv", 8)];
        let sizes = Sizes::with(llama, &[&stated[..], &[("n_ff", 28672)]].concat());
        let shape = |name| Role::of(llama, Naming::Old, name).unwrap().shape(&sizes).unwrap();
        assert_eq!(shape("layers.0.attention.wk.weight"), [1024, 8192]);
        assert_eq!(shape("layers.0.feed_forward.w2.weight"), [8192, 28672]);
        assert_eq!(shape("norm.weight"), [8192]);
    }
}
