//! What `inspect` says of a LoRA adapter: what it changes, how much, and in which model.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cli::advice;
use crate::model::{self, Model, lora, rows::Standing};

/// The facts about an adapter.
#[derive(Debug, Serialize)]
pub(super) struct Adapter {
    /// The ranks of its pairs, each once.
    pub ranks: BTreeSet<u64>,
    pub alpha: Option<f32>,
    /// What its settings call the model that it belongs to.
    pub base: String,
    /// The matrices that it changes, without the numbers of layers.
    pub matrices: Vec<String>,
    /// The layers in which it changes them.
    pub layers: BTreeSet<u64>,
    /// Whether an upgrade wants to know the base.
    pub wants_base: bool,
    /// What is wrong with it.
    pub fault: Option<String>,
}

impl Adapter {
    /// The facts about an adapter, in whatever terms, and the family whose matrices it changes.
    pub fn of(model: &Model) -> (Adapter, String) {
        // Names and sizes do not depend on the order of rows.
        let carried = lora::in_gguf_terms(model.clone(), None, Some(Standing::Ggml));
        let wants_base = lora::in_gguf_terms(model.clone(), None, None).is_err();
        let whole = carried.as_ref().map(|(carried, _)| model::Adapter::of(carried));
        let fault = whole.map_or_else(
            |error| Some(advice::error(error)),
            |whole| whole.err().map(|error| advice::error(&error)),
        );
        let (model, family) = match carried {
            Ok((carried, assumed)) if assumed.is_empty() => (carried.clone(), carried.family),
            Ok((carried, _)) => (carried, String::new()),
            Err(_) => (model.clone(), String::new()),
        };
        let (mut ranks, mut layers) = (BTreeSet::new(), BTreeSet::new());
        let mut matrices: Vec<String> = Vec::new();
        for tensor in &model.tensors {
            let ends = [".lora_b", ".loraB"];
            let Some(target) = ends.iter().find_map(|end| tensor.name.strip_suffix(end)) else {
                continue;
            };
            ranks.extend(tensor.shape.last());
            let layered = target.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            let layer: Option<(u64, &str)> =
                layered.and_then(|(layer, name)| Some((layer.parse().ok()?, name)));
            layers.extend(layer.map(|(layer, _)| layer));
            let name = layer.map_or(target, |(_, name)| name).trim_end_matches(".weight");
            if !matrices.iter().any(|known| known == name) {
                matrices.push(name.to_owned());
            }
        }
        let base = model.metadata.str("general.base_model.0.name").unwrap_or_default().to_owned();
        let alpha = model.metadata.f32("adapter.lora.alpha");
        let facts = Adapter { ranks, alpha, base, matrices, layers, wants_base, fault };
        (facts, family)
    }

    /// Rank and alpha, by which its products are scaled.
    pub fn scale(&self) -> String {
        let ranks: Vec<String> = self.ranks.iter().map(u64::to_string).collect();
        let alpha = self.alpha.map(|alpha| format!(", alpha {alpha}")).unwrap_or_default();
        format!("rank {}{alpha}", ranks.join(", "))
    }

    /// The rest in lines, each with its name.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if !self.base.is_empty() {
            all.push(("base", self.base.clone()));
        }
        let layers = match (self.layers.len(), self.layers.first(), self.layers.last()) {
            (n, Some(first), Some(last)) if n > 1 => format!(" in {n} layers, {first} to {last}"),
            (_, Some(only), _) => format!(" in layer {only}"),
            _ => String::new(),
        };
        const NAMED: usize = 12;
        let mut named = self.matrices.clone();
        if named.len() > NAMED {
            named.truncate(NAMED);
            named.push(format!("{} more", self.matrices.len() - NAMED));
        }
        all.push(("changes", format!("{}{layers}", named.join(", "))));
        all
    }
}
