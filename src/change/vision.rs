//! Models with their vision tensors in the same file, as Ollama writes them, taken apart into the model and the
//! projector (mmproj) that llama.cpp reads: `formats/projector` says what both call it.

use std::path::Path;

use super::{Plan, Step};
use crate::{
    error::{Error, Result},
    format::{
        catalog,
        projector::{Fixed, Projector},
    },
    model::{Array, Kind, Metadata, Model, Value},
    quant::{QuantType, encode::encoder},
    remedy::Setting,
    size::counted,
};

/// What is known of a model that has its vision tensors in the same file.
fn known(model: &Model) -> Option<&'static Projector> {
    let architecture = model.metadata.architecture();
    let fits = |known: &&Projector| {
        known.architecture == architecture && model.tensors.iter().any(|t| known.sees(&t.name))
    };
    catalog::projectors().iter().find(fits)
}

/// Whether a model has its vision tensors in the same file, and they can be taken out.
pub fn is_joined(model: &Model) -> bool {
    known(model).is_some()
}

/// Takes the vision tensors out of the plan of a model. Returns the plan of the projector, to be written to `output`.
///
/// # Errors
/// Where the model has none that are known, or lacks a key that a projector must have.
pub fn take_out(model: &Model, plan: &mut Plan, output: &Path) -> Result<Plan> {
    let Some(known) = known(model).filter(|_| plan.target.is_keyed()) else {
        let what = "the model has no vision tensors in the same file that are known here";
        return Err(Error::refused(what, Setting::Drop.to("leave tensors out by their names")));
    };
    let architecture = model.metadata.architecture().to_owned();
    // Two plans of the same source: every step goes into one of them, and none is done twice.
    let (vision, rest): (Vec<Step>, Vec<Step>) =
        std::mem::take(&mut plan.steps).into_iter().partition(|step| known.sees(&step.name));
    plan.steps = rest;
    let mut projector = Plan {
        metadata: known.metadata(&model.metadata)?,
        steps: vision.into_iter().map(|step| known.renamed(step)).collect(),
        keep_nan: plan.keep_nan,
        ..Plan::new(output.to_owned(), plan.target)
    };
    let count = counted(projector.steps.len(), "vision tensor", "vision tensors");
    projector.notes.push(format!("{count} of {}", plan.output.display()));
    plan.notes.push(format!("{count}: in {}", output.display()));
    // Keys of the model that speak of its vision tensors go with them: `ARCHITECTURE.vision.…` and such.
    let of_vision = |key: &str| {
        let own = key.strip_prefix(&architecture).and_then(|rest| rest.strip_prefix('.'));
        own.is_some_and(|own| known.dropped.iter().any(|begin| own.starts_with(begin)))
    };
    let keys: Vec<String> = plan.metadata.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys.into_iter().filter(|key| of_vision(key)) {
        plan.metadata.remove(&key);
    }
    for (key, value) in &known.lacking {
        let key = format!("{architecture}.{key}");
        if plan.metadata.get(&key).is_none() {
            plan.metadata.set(key.clone(), *value);
            plan.notes.push(format!("{key} is {value}, which Ollama has in its program"));
        }
    }
    plan.lay_out()?;
    projector.lay_out()?;
    Ok(projector)
}

impl Projector {
    fn sees(&self, name: &str) -> bool {
        self.tensors.iter().any(|begin| name.starts_with(begin))
    }

    /// A step as llama.cpp names its tensor and takes its type.
    fn renamed(&self, mut step: Step) -> Step {
        for (theirs, name) in &self.names {
            step.name = step.name.replace(theirs, name);
        }
        let float = self.float32.iter().any(|begin| step.name.starts_with(begin));
        if let Some((f32, encode)) = QuantType::today("f32").zip(encoder("f32"))
            && float
            && step.quant != f32
        {
            step.become_type(f32, encode);
        }
        step
    }

    /// What the projector's file says.
    fn metadata(&self, model: &Metadata) -> Result<Metadata> {
        let own = |name: &str| {
            let key = format!("{}.{name}", self.architecture);
            model.get(&key).cloned().ok_or_else(|| {
                Error::unsupported(
                    format!("{key} is missing: a projector needs it"),
                    "get a fresh copy of the file",
                )
            })
        };
        let mut keys = Metadata::new();
        keys.set("general.architecture", "clip");
        keys.set("general.type", "mmproj");
        if let Some(name) = model.get("general.name") {
            keys.set("general.name", name.clone());
        }
        for (key, value) in &self.fixed {
            let floats = |numbers: &[f32]| {
                Array::of(Kind::F32, numbers.iter().map(|number| Value::F32(*number)))
            };
            match value {
                Fixed::Flag(flag) => keys.set(key.clone(), *flag),
                Fixed::Word(word) => keys.set(key.clone(), word.as_str()),
                Fixed::Numbers(numbers) => keys.set(key.clone(), floats(numbers)),
            }
        }
        for (key, theirs) in &self.keys {
            keys.set(key.clone(), own(theirs)?);
        }
        // Patches along a side are image / patch, tokens along a side sqrt(tokens); the projector merges as many
        // patches of a side into one token as the quotient of the two says.
        let size = |name: &str| own(name).ok().and_then(|value| value.as_u64());
        let sides = [&self.side.image, &self.side.patch, &self.side.tokens].map(|name| size(name));
        if let [Some(image), Some(patch), Some(tokens)] = sides
            && let Some(fewer) =
                image.checked_div(patch).and_then(|n| n.checked_div(tokens.isqrt()))
            && fewer != self.side.usual
            && let Ok(fewer) = u32::try_from(fewer)
        {
            keys.set("clip.vision.projector.scale_factor", fewer);
        }
        Ok(keys)
    }
}
