//! `config.json` of an exported model: the numbers under transformers' names, and what GGUF has in tensors or leaves to
//! the program.
//!
//! | GGUF | config.json |
//! |---|---|
//! | keys of the family | the fields that `[sizes]` names |
//! | `rope_factors_long`, `rope_factors_short`, `rope_freqs` | `rope_scaling`, where a known rule makes these numbers |
//! | the family's own order of layers with windows | `layer_types` |
//! | ids of special tokens | `bos_token_id` and so on |

use serde_json::{Map, Value as Json, json};

use crate::{
    format::{arithmetic::Windows, family::LongFactors},
    model::{Hyper, Model, Scaling},
    remedy::Notes,
};

/// `config.json` without what depends on the tensors that are there: numbers, class, type, special tokens.
pub(super) fn config(
    model: &Model,
    hyper: &Hyper,
    dtype: &str,
    notes: &mut Notes,
) -> Map<String, Json> {
    // The name of the type as torch has it; transformers loads in this one.
    let torch = match dtype {
        "f32" => "float32",
        "bf16" => "bfloat16",
        _ => "float16",
    };
    let mut config = hyper.config_json();
    for (key, value) in [
        ("architectures", json!([hyper.family.family.hf.first()])),
        ("torch_dtype", torch.into()),
        ("bos_token_id", model.vocab.bos.into()),
        ("eos_token_id", model.vocab.eos.into()),
        ("pad_token_id", model.vocab.padding.into()),
    ] {
        config.insert(key.to_owned(), value);
    }
    let scales = hyper.family.order.hf.iter().any(|symbol| symbol == "scaling");
    if scales && hyper.scaling == Scaling::None {
        config.insert("rope_scaling".to_owned(), stored_scaling(model, hyper, notes));
    }
    let Some(choices) = &hyper.family.arithmetic else { return config };
    match config.get_mut("rope_scaling") {
        Some(Json::Object(yarn)) if choices.yarn_between => {
            yarn.insert("truncate".to_owned(), false.into());
        }
        // Where nothing is said, transformers stretches the positions of this family.
        Some(none) if choices.yarn_between => *none = json!({"rope_type": "default"}),
        // Where windows turn by a base of their own, it asks for the kind by its newer name.
        Some(Json::Object(scaling)) if hyper.sizes.is_stated("rope_base_near") => {
            let kind = scaling.remove("type");
            scaling.extend(kind.map(|kind| ("rope_type".to_owned(), kind)));
        }
        _ => {}
    }
    if let Some(divisor) = hyper.sizes.score_divisor(&choices.attention) {
        config.insert("query_pre_attn_scalar".to_owned(), divisor.into());
    }
    // Which layers see a window is the family's own order; transformers has another where nothing is said.
    let layers = hyper.sizes.get("n_layer").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    if let (Windows::AllButLastOf(_), Some(_)) = (choices.windows, hyper.sizes.get("window")) {
        let kind =
            |n| if choices.windows.covers(n) { "sliding_attention" } else { "full_attention" };
        config.insert("layer_types".to_owned(), (0..layers).map(kind).collect());
    }
    if let Some(without) = choices.attention.even_unless_experts {
        let even = hyper.sizes.get("n_expert") != Some(without);
        config.insert("use_qk_norm".to_owned(), even.into());
    }
    config
}

/// The numbers of a small tensor of float32.
fn stored_numbers(model: &Model, name: &str) -> Option<Vec<f32>> {
    let tensor = model.tensor(name)?;
    let mut bytes = vec![0; usize::try_from(tensor.bytes().min(1 << 20)).ok()?];
    model.read_rows(tensor, 0, tensor.rows(), &mut bytes).ok()?;
    Some(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Rope scaling from the tensors of long and short factors, or from that of divisors, if a known rule gives it.
fn stored_scaling(model: &Model, hyper: &Hyper, notes: &mut Notes) -> Json {
    let factors = |kind: &str| stored_numbers(model, &format!("rope_factors_{kind}.weight"));
    if let (Some(long), Some(short), Some(said)) =
        (factors("long"), factors("short"), hyper.family.family.long_factors)
    {
        let mut scaling = Scaling::Long { long, short, attention: 1.0, said }.config_json();
        if let (LongFactors::Type, Some(object)) = (said, scaling.as_object_mut()) {
            let trained = hyper.sizes.get("n_trained").or(hyper.sizes.get("n_ctx"));
            object.insert("original_max_position_embeddings".to_owned(), trained.into());
        }
        return scaling;
    }
    let Some(stored) = stored_numbers(model, "rope_freqs.weight") else { return Json::Null };
    // The base of every model before files stated one.
    let base = hyper.sizes.f32("rope_base").unwrap_or(10_000.0);
    let head = hyper.sizes.get("head").and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    // LLaMA 3's, and LLaMA 4's.
    for (factor, high) in [(8.0, 4.0), (32.0, 4.0), (16.0, 1.0), (8.0, 1.0)] {
        let scaling = Scaling::Llama3 { factor, low: 1.0, high, original: 8192.0 };
        let made = scaling.divisors(base, head).unwrap_or_default();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * 1e-4;
        if made.len() == stored.len() && made.iter().zip(&stored).all(near) {
            return scaling.config_json();
        }
    }
    notes.push(
        "rope_freqs.weight fits no known rule: rope_scaling in config.json is yours to write"
            .to_owned(),
    );
    Json::Null
}
