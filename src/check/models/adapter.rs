//! Whether the pairs of a LoRA adapter are whole and fit each other and the model that they belong to.
//!
//! What is asked: that every matrix has both halves, that the two agree in their rank, that alpha is a number, and
//! with a base that each product has the shape of the tensor that it is added to. Whether the numbers are those that
//! were trained no file can say.

use crate::{
    bytes::Input,
    check::Finding,
    error::{Error, Result},
    model::{Model, adapter::Adapter, loader::Content, lora, rows::Standing},
    remedy::Note,
};

/// What is wrong with an adapter, and what it changes; nothing of anything else.
pub fn check(model: &Model, base: Option<&Model>) -> Vec<Finding> {
    if Content::of(model) != Content::Adapter && !lora::is_foreign(model) {
        return Vec::new();
    }
    match read(model, base) {
        Ok(found) => {
            let n = found.pairs.len();
            let fits = if base.is_some() { ", all fit the base" } else { "" };
            let alpha = found.alpha;
            vec![Finding::note(
                "adapter",
                format!("a LoRA adapter of {n} pairs, alpha {alpha}{fits}"),
            )]
        }
        Err(error @ Error::Unsupported { .. }) => {
            vec![Finding::note("unsupported", told(&error, model))]
        }
        Err(error) => vec![Finding::failure("adapter", told(&error, model))],
    }
}

/// What an error says, without the file's name.
fn told(error: &Error, model: &Model) -> Note {
    let file = model.files.first().map(Input::name).unwrap_or_default();
    Note::from(error).within(file.as_ref())
}

/// The pairs of an adapter, held against `base` where that is at hand; none of its files stays open.
fn read(model: &Model, base: Option<&Model>) -> Result<Adapter> {
    // Without a base nobody knows the heads, and shapes do not depend on the order of rows.
    let rows = base.is_none().then_some(Standing::Ggml);
    let (model, _) = lora::in_gguf_terms(model.clone(), base, rows)?;
    let mut adapter = Adapter::of(&model)?;
    if let Some(base) = base {
        adapter.fits(base)?;
    }
    adapter.files.clear();
    Ok(adapter)
}
