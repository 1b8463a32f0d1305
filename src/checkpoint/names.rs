//! Names of tensors as checkpoints spell them, and what training puts before and into them.

use std::borrow::Cow;

use super::{is_constant, role};
use crate::model::Naming;

/// Parts of names that wrappers of modules put in; no model has them.
const WRAPPERS: [&str; 4] =
    ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module."];
/// As many parts stand before the names of a model at most: `module.base_model.model.`
const DEEPEST: usize = 4;

/// A name without the parts that wrappers put in.
fn plain(name: &str) -> Cow<'_, str> {
    let mut name = Cow::Borrowed(name);
    for wrapper in WRAPPERS.iter().filter(|w| name.contains(**w)).collect::<Vec<_>>() {
        name = name.replace(wrapper, "").into();
    }
    name
}

/// Whether some family's tensor has this name.
fn is_known(name: &str) -> bool {
    [Naming::Old, Naming::Hf].into_iter().any(|naming| role(naming, name).is_some())
        || is_constant(name)
}

/// The names without what wrappers put in and without the parts that stand before all of them, where a
/// model's names are what is left.
pub fn unwrapped(names: &[&str]) -> Vec<String> {
    let names: Vec<Cow<str>> = names.iter().map(|name| plain(name)).collect();
    let count = |skip: usize| {
        let ends = names.iter().filter_map(|name| name.get(skip..));
        ends.filter(|name| is_known(name)).count()
    };
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
    names.iter().map(|name| name.get(best.1..).unwrap_or_default().to_owned()).collect()
}

/// How many of the names are those of a model, once unwrapped.
pub fn known(names: &[&str]) -> usize {
    unwrapped(names).iter().filter(|name| is_known(name)).count()
}
