//! Which family a checkpoint is of.

use serde_json::Value as Json;

use crate::{
    format::{
        catalog,
        family::{Family, Identity},
    },
    model::{Naming, Role},
};

/// The family whose checkpoints Meta published, with which Hugging Face's came up.
pub fn family() -> &'static Family {
    // Every description is read when the tests run.
    catalog::family("llama").unwrap_or_else(|| unreachable!("no description of llama"))
}

/// The family whose checkpoints name this architecture in `config.json`.
pub fn family_of(architecture: &str) -> Option<&'static Family> {
    let named = |family: &&Family| {
        let Identity { hf, within, .. } = &family.family;
        hf.iter().chain(within).any(|known| known == architecture)
    };
    catalog::families().iter().filter(|family| family.is_read()).find(named)
}

/// The architecture that a `config.json` names.
pub(super) fn architecture(config: &Json) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

/// What the tensor that Meta calls `name` does.
pub(super) fn role(name: &str) -> Option<Role> {
    Role::of(family(), Naming::Old, name)
}

/// Whether a tensor is a table that readers compute themselves.
pub(super) fn is_constant(family: &Family, name: &str) -> bool {
    family.family.ignored.iter().any(|end| name.ends_with(end.as_str()))
}
