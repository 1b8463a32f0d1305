//! Names of tensors as checkpoints spell them, and what training puts before and into them.
//!
//! ```text
//! module._orig_mod.model.layers.0.self_attn.q_proj.weight      as trained, compiled and distributed
//!                  model.layers.0.self_attn.q_proj.weight      `_orig_mod.` cut out, `module.` in front of all
//!                        layers.0.self_attn.q_proj.weight      saved without its head: `model.` put back
//! ```

use std::borrow::Cow;

use super::{cut, family::is_constant};
use crate::{
    format::{catalog, family::Family},
    model::{Naming, Role},
};

/// Parts of names that wrappers of modules put in; no model has them.
const WRAPPERS: [&str; 4] =
    ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module."];
/// As many parts are before the names of a model at most: `module.base_model.model.`
const DEEPEST: usize = 4;

/// A name without the parts that wrappers put in, spelled as the usual checkpoints of `families` have it.
fn plain<'n>(name: &'n str, families: &[&'static Family]) -> Cow<'n, str> {
    let wrappers = WRAPPERS.iter().map(|wrapper| (*wrapper, ""));
    let spellings = families.iter().flat_map(|family| &family.family.respelled);
    let spellings = spellings.map(|(other, usual)| (other.as_str(), usual.as_str()));
    wrappers.chain(spellings).fold(Cow::Borrowed(name), |name, (other, usual)| {
        if name.contains(other) { name.replace(other, usual).into() } else { name }
    })
}

/// Whether a tensor of one of `families` has this name.
fn is_known(families: &[&'static Family], name: &str) -> bool {
    families.iter().any(|family| {
        let of = |naming| Role::of(family, naming, name);
        [Naming::Old, Naming::Hf].into_iter().any(|naming| of(naming).is_some())
            || is_constant(family, name)
            || cut::of(family, name).is_some()
    })
}

/// The names without what wrappers put in and without the parts that are before all of them, where
/// names of a model of one of `families` are what is left; and with the part that a model saved without
/// its output matrix lacks.
pub fn unwrapped(names: &[&str], families: &[&'static Family]) -> Vec<String> {
    let names: Vec<Cow<str>> = names.iter().map(|name| plain(name, families)).collect();
    let count = |skip: usize| {
        let ends = names.iter().filter_map(|name| name.get(skip..));
        ends.filter(|name| is_known(families, name)).count()
    };
    // Part by part from the front, as long as all names share it: as many are taken off as make most names known.
    let (mut skip, mut best) = (0, (count(0), 0));
    for _ in 0..DEEPEST {
        let first = names.first().and_then(|name| name.get(skip..)?.split_once('.'));
        let Some((part, _)) = first else { break };
        let shared = |name: &Cow<str>| {
            name.get(skip..)
                .is_some_and(|n| n.strip_prefix(part).is_some_and(|n| n.starts_with('.')))
        };
        if !names.iter().all(shared) {
            break;
        }
        skip += part.len() + 1;
        let known = count(skip);
        if known > best.0 {
            best = (known, skip);
        }
    }
    let bare = names.iter().map(|name| name.get(best.1..).unwrap_or_default().to_owned());
    let bare: Vec<String> = bare.collect();
    for family in families.iter().filter(|_| best.0 < names.len()) {
        let Some(stem) = stem(family) else { continue };
        let whole = |name: &String| format!("{stem}.{name}");
        let is = |name: &str| is_known(&[family], name);
        let full = bare.iter().map(|name| if is(name) { name.clone() } else { whole(name) });
        let full: Vec<String> = full.collect();
        if full.iter().filter(|name| is(name)).count() > best.0 {
            return full;
        }
    }
    bare
}

/// The part before the first dot of most names of a family's tensors.
fn stem(family: &'static Family) -> Option<&'static str> {
    let embedding = family.roles.get("token_embedding")?.hf.first()?;
    embedding.split_once('.').map(|(stem, _)| stem)
}

/// How many of the names are those of a model, once unwrapped.
pub fn known(names: &[&str]) -> usize {
    let families: Vec<&Family> =
        catalog::families().iter().filter(|family| family.is_read()).collect();
    let unwrapped = unwrapped(names, &families);
    unwrapped.iter().filter(|name| is_known(&families, name)).count()
}
