//! Numbers beside matrices: what GGUF multiplies the blocks of a matrix with, and what rounds what meets it.
//!
//! `NAME.weight` of blocks has one number in `NAME.scale`, or one for each expert; `NAME.input_scale` is there for
//! programs that round activations. Source: llama.cpp, conversion/base.py: _generate_nvfp4_tensors.

use std::collections::BTreeMap;

use super::cut;
use crate::{
    bytes::Input,
    format::family::{Family, Numbers},
    model::{Naming, Role, Tensor},
    quant::QuantType,
};

/// Whether a matrix of this name, as it is in a checkpoint, becomes one of GGUF's unchanged.
pub fn fits(family: &'static Family, name: &str) -> bool {
    let mut name = name.to_owned();
    alone(&mut name);
    let name = expert_of(&name).map_or(name, |(stack, _)| stack);
    let is_kept = |role: Role| {
        let names = role.names;
        names.numbers == Numbers::Same && names.parts.is_empty() && role.id != "token_embedding"
    };
    cut::of(family, &name).is_none() && Role::of(family, Naming::Hf, &name).is_some_and(is_kept)
}

/// The name of a matrix in a checkpoint, what a number beside it is called in GGUF, the number.
pub type Beside = (String, &'static str, f32);

/// The tensors of such numbers, whose bytes become inputs; those that are all one say nothing.
pub fn tensors(
    numbers: Vec<Beside>,
    family: &'static Family,
    files: &mut Vec<Input>,
) -> Vec<Tensor> {
    let mut all: BTreeMap<String, BTreeMap<u64, f32>> = BTreeMap::new();
    for (name, kind, number) in numbers {
        let (stack, expert) = expert_of(&name).unwrap_or((name, 0));
        let Some(role) = Role::of(family, Naming::Hf, &stack) else { continue };
        let title = role.title();
        let stem = title.strip_suffix("weight").unwrap_or(&title);
        all.entry(format!("{stem}{kind}")).or_default().insert(expert, number);
    }
    all.retain(|_, numbers| numbers.values().any(|number| *number != 1.0));
    let tensor = |(name, numbers): (String, BTreeMap<u64, f32>)| {
        let bytes = numbers.values().flat_map(|number| number.to_le_bytes()).collect();
        files.push(Input::memory(&name, bytes));
        let (shape, file) = (vec![numbers.len() as u64], files.len() - 1);
        Tensor::whole(name, shape, QuantType::today("f32")?, file, 0)
    };
    all.into_iter().filter_map(tensor).collect()
}

/// Makes of the name of a tensor in a larger model that which it has in its part of it.
pub fn alone(name: &mut String) {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        *name = format!("model.{rest}");
    } else if let Some(rest) = name.strip_prefix("language_model.") {
        *name = rest.to_owned();
    }
}

/// What tensors are counted behind, in checkpoints, that GGUF stacks: experts, and norms of one head each; and the
/// dimensions of one of them.
pub const STACKED: [(&str, usize); 2] = [(".experts.", 2), (".norms.", 1)];

/// `….experts.3.w1.weight` -> (`….experts.w1.weight`, 3).
pub fn expert_of(name: &str) -> Option<(String, u64)> {
    let of = |of: &str| {
        let (before, rest) = name.split_once(of)?;
        let (number, matrix) = rest.split_once('.')?;
        Some((format!("{before}{of}{matrix}"), number.parse().ok()?))
    };
    STACKED.into_iter().find_map(|(behind, _)| of(behind))
}
