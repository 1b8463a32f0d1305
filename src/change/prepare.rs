//! The model as its new file names it: tensors renamed, experts stacked, leftovers dropped.

use crate::{
    error::{Error, Result},
    format::catalog,
    model::{
        Join, Model, Order, Tensor,
        role::{Naming, Role},
    },
};

/// Brings the tensors of `model` into the terms of the target: GGUF's names or the ones before.
pub(super) fn prepare(
    mut model: Model,
    to_gguf: bool,
    repair_key_rows: bool,
    notes: &mut Vec<String>,
) -> Result<Model> {
    let before = model.tensors.len();
    model.tensors.retain(|t| !t.name.ends_with("freqs") || t.name == "rope_freqs.weight");
    if model.tensors.len() < before {
        notes.push("rope.freqs dropped: every loader computes them".to_owned());
    }
    if let Some(family) = catalog::family(&model.family) {
        let naming = if to_gguf { Naming::Gguf } else { Naming::Old };
        for tensor in &mut model.tensors {
            match Role::find(family, &tensor.name) {
                Some((_, role)) => tensor.name = role.name(naming),
                None if to_gguf => {}
                None => {
                    let what =
                        format!("{}: older formats have no name for this tensor", tensor.name);
                    return Err(Error::unsupported(what, "keep it as GGUF"));
                }
            }
        }
    }
    if to_gguf {
        stack_experts(&mut model, notes)?;
    }
    if repair_key_rows {
        repair_keys(&mut model, notes)?;
    }
    Ok(model)
}

/// Joins `blk.N.ffn_gate.E.weight` of the first Mixtral files into `blk.N.ffn_gate_exps.weight`, which
/// is all that llama.cpp reads since it stopped taking them one by one.
fn stack_experts(model: &mut Model, notes: &mut Vec<String>) -> Result<()> {
    let mut stacked: Vec<Tensor> = Vec::new();
    let mut joined = 0usize;
    for tensor in std::mem::take(&mut model.tensors) {
        let Some((name, expert)) = expert_of(&tensor.name) else {
            stacked.push(tensor);
            continue;
        };
        joined += 1;
        match stacked.iter_mut().find(|t| t.name == name) {
            None if expert == 0 => {
                let mut first = tensor;
                first.name = name;
                first.shape.insert(0, 1);
                stacked.push(first);
            }
            Some(stack)
                if stack.shape.first() == Some(&expert)
                    && stack.shape.get(1..) == Some(tensor.shape.as_slice())
                    && stack.quant == tensor.quant
                    && tensor.join == Join::Rows =>
            {
                stack.pieces.extend(tensor.pieces);
                if let Some(n) = stack.shape.first_mut() {
                    *n += 1;
                }
            }
            _ => {
                let what = format!("{}: does not fit the experts before it", tensor.name);
                return Err(Error::unsupported(what, "get a fresh copy of the file"));
            }
        }
    }
    model.tensors = stacked;
    if joined > 0 {
        notes.push(format!("{joined} expert tensors stacked, as llama.cpp reads them today"));
    }
    Ok(())
}

/// `blk.3.ffn_gate.7.weight` -> (`blk.3.ffn_gate_exps.weight`, 7).
fn expert_of(name: &str) -> Option<(String, u64)> {
    let (stem, expert) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let kind = stem.rsplit('.').next()?;
    if !matches!(kind, "ffn_gate" | "ffn_down" | "ffn_up") {
        return None;
    }
    Some((format!("{stem}_exps.weight"), expert.parse().ok()?))
}

/// Undoes the permutation of key rows that convert.py applied with the wrong number of heads between
/// 7c529cede (2023-07-27) and e51962101 (2023-09-28): it took `n_head / n_kv` where `n_kv` was meant.
fn repair_keys(model: &mut Model, notes: &mut Vec<String>) -> Result<()> {
    let key = |name: &str| model.metadata.u64(&format!("llama.attention.{name}"));
    let (Some(heads), Some(kv)) = (key("head_count"), key("head_count_kv")) else {
        let what = "--repair-key-rows: the file does not say how many heads it has";
        return Err(Error::unsupported(what, "leave the flag out"));
    };
    if kv == 0 || heads % kv != 0 || heads / kv == kv || heads == kv {
        let what =
            format!("--repair-key-rows: with {heads} heads and {kv} key heads nothing went wrong");
        return Err(Error::unsupported(what, "leave the flag out"));
    }
    let mut repaired = 0usize;
    for tensor in model.tensors.iter_mut().filter(|t| t.name.ends_with("attn_k.weight")) {
        let rows = tensor.rows();
        if !rows.is_multiple_of(2 * kv) || !rows.is_multiple_of(2 * (heads / kv)) {
            continue;
        }
        tensor.orders.push(Order::HalvesFromPairs { rows_per_head: rows / (heads / kv) });
        tensor.orders.push(Order::PairsFromHalves { rows_per_head: rows / kv });
        repaired += 1;
    }
    notes.push(format!("key rows put back in order in {repaired} tensors"));
    Ok(())
}
