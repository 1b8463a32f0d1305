//! Plans the upgrade of an adapter of another program, and opens those of every kind.

use std::path::Path;

use super::{Plan, Step, keys};
use crate::{
    bytes::Input,
    checkpoint,
    container::{self, OpenOptions},
    error::{Error, Result},
    format::catalog,
    limits::Limits,
    model::{Model, Stated, adapter::Adapter, loader::Content, lora, rows::Standing, sum},
    remedy::Setting,
};

/// Fills `plan`, of the file of GGUF that takes the place of an adapter.
pub(super) fn plan(model: Model, plan: Plan, stated: &Stated) -> Result<(Model, Plan)> {
    if !plan.target.is_keyed() {
        let what = format!("{} holds no adapter", plan.target.title());
        return Err(Error::unsupported(
            what,
            Setting::Target.of("gguf-v3").to("write GGUF, which does"),
        ));
    }
    let base = stated.base.as_deref().map(|path| base(path, &model.limits)).transpose()?;
    let name = keys::name_of(&model);
    let (mut model, assumed) = lora::in_gguf_terms(model, base.as_ref(), stated.rows)?;
    let adapter = Adapter::of(&model)?;
    base.as_ref().map(|base| adapter.fits(base)).transpose()?;
    if model.metadata.get("general.name").is_none() {
        model.metadata.set("general.name", name.as_str());
    }
    let (steps, tells_nan) = (Step::all(&model).collect(), true);
    let (metadata, notes) = (model.metadata.clone(), model.notes.clone());
    let plan = Plan { steps, metadata, assumed, notes, tells_nan, ..plan };
    Ok((model, plan))
}

/// Why there is nothing to upgrade in an adapter that GGUF holds: it is broken, does not fit, or is as it should be.
pub(super) fn of_today(model: &Model, base: Option<&Path>) -> Error {
    let read = || {
        let adapter = Adapter::of(model)?;
        base.map(|path| adapter.fits(&self::base(path, &model.limits)?)).transpose()
    };
    if let Err(error) = read() {
        return error;
    }
    let name = model.files.first().map(Input::name).unwrap_or_default();
    let title = catalog::container(&model.format).map_or("", |c| c.format.title.as_str());
    let next = "llama.cpp takes it beside its model (--lora, since July 2024): nothing to do";
    Error::foreign(format!("{name}: {title}: is an adapter, not a model"), next)
}

/// Opens what may be an adapter of any kind, as it is.
///
/// # Errors
/// As [`container::open`] and [`checkpoint::adapter::open`].
pub fn open(path: &Path, options: &OpenOptions) -> Result<Model> {
    match checkpoint::adapter::is_adapter(path, &options.limits)? {
        true => checkpoint::adapter::open(path, &options.limits),
        false => container::open(path, options),
    }
}

/// Adds the adapter `read`, `times` over, to the matrices of `model`; `rows` is what a person says of its rows.
///
/// # Errors
/// Where it is broken or does not fit the model.
pub fn add(model: &mut Model, read: Model, times: f32, rows: Option<Standing>) -> Result<()> {
    let (read, assumed) = lora::in_gguf_terms(read, Some(model), rows)?;
    model.notes.extend(assumed.iter().map(ToString::to_string));
    sum::merge(model, &Adapter::of(&read)?, times)
}

/// The model that an adapter belongs to. Only its headers are read.
///
/// # Errors
/// Where it cannot be opened or is no model.
pub fn base(path: &Path, limits: &Limits) -> Result<Model> {
    let limits = *limits;
    let model = match checkpoint::is_checkpoint(path)? {
        true => checkpoint::open(path, &checkpoint::Options { limits, ..Default::default() })?,
        false => container::open(path, &OpenOptions { limits, ..OpenOptions::default() })?,
    };
    let content = Content::of(&model);
    match content.other() {
        Some((what, _)) if content != Content::Image => {
            let what = format!("{}: holds {what}, and a base is a model", path.display());
            Err(Error::refused(what, "name the model that the adapter belongs to"))
        }
        _ => Ok(model),
    }
}
