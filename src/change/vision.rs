//! Models with their vision tensors in the same file, as Ollama writes them, taken apart into the model and the
//! projector (mmproj) that llama.cpp reads: `formats/projector` says what both call it.
//!
//! | what | whence |
//! |---|---|
//! | names of tensors | `names`: parts of Ollama's, replaced |
//! | types | Ollama's; float32 where llama.cpp takes nothing else (`float32`) |
//! | rows of queries and keys | `halves`: put in pairs, which Ollama does for the language part only |
//! | vectors | `taken`: rows of the model's own matrices |
//! | matrices that are one there, kernels that are several | `fused`, `frames` |
//! | keys of the projector | `fixed`, `keys` (the model's, renamed), `derived` (computed from others) |
//! | keys of the model | `renamed`, `padded`, `lacking`, `long`: what Ollama has in its program |
//!
//! The work goes in the order of that table, and the order counts: `halves`, `fused`, `frames` and `float32` name
//! tensors in llama.cpp's terms, so that names are replaced first.
//!
//! Nothing is decoded or moved for it but what becomes float32: a tensor that is cut or joined is a new list of the
//! same places in the same file.

use std::path::Path;

use super::{Plan, Step, graft::is_vision, mend::of_kind};
use crate::{
    error::{Error, Result},
    format::{
        catalog,
        projector::{Derived, Fixed, Frames, Projector, Side, Taken},
    },
    model::{Array, Kind, Metadata, Model, Order, Tensor, Value, loader::Content, rows::together},
    quant::{QuantType, encode::encoder},
    remedy::Setting,
    size::counted,
};

/// What is known of a model that has its vision tensors in the same file.
/// The architecture alone does not tell: the same model without vision has the same name, and lacks the tensors.
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

/// What is to say of a language model that has vision tensors in the same file which no description here is for.
pub fn unknown(model: &Model) -> Option<Error> {
    // Projectors and adapters have such names by right.
    let seen = model.tensors.iter().find(|tensor| is_vision(&tensor.name))?;
    let unknown = known(model).is_none() && Content::of(model) == Content::Model;
    let architecture = model.metadata.architecture();
    let what = format!(
        "{architecture} with its vision tensors in the same file ({} and others): which projector of llama.cpp's they \
         are is not known here",
        seen.name
    );
    let next = Setting::Drop.of(r"'^(v|mm)\.'").to("upgrade it to the language model alone");
    unknown.then(|| Error::unsupported(what, next))
}

/// Takes the vision tensors out of the plan of a model. Returns the plan of the projector, to be written to `output`.
///
/// ```text
/// one file of Ollama    ->  model       what `formats/projector` does not name, keys renamed
///                           projector   vision tensors, renamed; keys `clip.*` made of the model's
/// ```
///
/// # Errors
/// Where the model has none that are known, or lacks a key that a projector must have.
pub fn take_out(model: &mut Model, plan: &mut Plan, output: &Path) -> Result<Plan> {
    let Some(known) = known(model).filter(|_| plan.target.is_keyed()) else {
        if let Some(error) = unknown(model) {
            return Err(error);
        }
        let what = "the model has no vision tensors in the same file that are known here";
        return Err(Error::refused(what, Setting::Drop.to("leave tensors out by their names")));
    };
    let architecture = model.metadata.architecture().to_owned();
    // Two plans of the same source: every step goes into one of them, and none is done twice.
    let (vision, rest): (Vec<Step>, Vec<Step>) =
        std::mem::take(&mut plan.steps).into_iter().partition(|step| known.sees(&step.name));
    plan.steps = rest;
    let renamed = |step| known.renamed(&model.metadata, step);
    let mut steps: Vec<Step> = vision.into_iter().map(renamed).collect();
    // No description orders the rows of a matrix and joins or cuts it too: what has an order on it is neither
    // ([`Tensor::take`]), and such a model would be refused.
    known.put_in_pairs(model, &steps)?;
    known.take_rows(model, &mut steps)?;
    known.fuse(model, &mut steps)?;
    known.take_frames(model, &mut steps)?;
    let mut projector = Plan {
        metadata: known.metadata(model)?,
        steps,
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
    known.complete(plan);
    plan.lay_out()?;
    projector.lay_out()?;
    Ok(projector)
}

/// Has the weights of a step written as float32.
fn as_float32(step: &mut Step) {
    if let Some((f32, encode)) = QuantType::today("f32").zip(encoder("f32"))
        && step.quant != f32
    {
        step.become_type(f32, encode);
    }
}

/// A value of a description as a file has it.
fn stored(value: &Fixed) -> Value {
    match value {
        Fixed::Flag(flag) => (*flag).into(),
        Fixed::Size(size) => (*size).into(),
        Fixed::Number(number) => (*number).into(),
        Fixed::Word(word) => word.as_str().into(),
        Fixed::Numbers(numbers) => {
            Array::of(Kind::F32, numbers.iter().map(|number| Value::F32(*number))).into()
        }
    }
}

impl Projector {
    /// Whether a tensor of this name is of the vision part.
    /// Asked of Ollama's names, before any is replaced.
    fn sees(&self, name: &str) -> bool {
        self.tensors.iter().any(|begin| name.starts_with(begin))
    }

    /// A step as llama.cpp names its tensor and takes its type.
    fn renamed(&self, metadata: &Metadata, mut step: Step) -> Step {
        for (theirs, name) in &self.names {
            step.name = step.name.replace(theirs, name);
        }
        // list [8, 16, 24]:   v.deepstack.1.fc1.weight  ->  v.deepstack.16.fc1.weight
        // `v.deepstack.0.…` counts places in a list of blocks; llama.cpp names the block itself.
        for (begin, list) in &self.placed {
            let list = metadata.own(list).and_then(Value::as_array);
            let place = step.name.strip_prefix(begin).and_then(|rest| rest.split_once('.'));
            let number = |(place, rest): (&str, &str)| {
                let number = list?.iter().nth(place.parse().ok()?)?.as_u64()?;
                Some(format!("{begin}{number}.{rest}"))
            };
            step.name = place.and_then(number).unwrap_or(step.name);
        }
        if self.float32.iter().any(|begin| step.name.starts_with(begin)) {
            as_float32(&mut step);
        }
        step
    }

    /// Orders the rows of queries and keys as llama.cpp turns them; Ollama leaves those of vision as they were.
    ///
    /// ```text
    /// rows of a head of 6    halves  a0 a1 a2 b0 b1 b2        row n turns with row n + 3
    ///                        pairs   a0 b0 a1 b1 a2 b2        row 2n turns with row 2n + 1
    /// ```
    ///
    /// The rows of a head are those of the matrix over `vision.attention.head_count`; the model's own count of heads is
    /// another.
    fn put_in_pairs(&self, model: &mut Model, steps: &[Step]) -> Result<()> {
        let key = format!("{}.vision.attention.head_count", self.architecture);
        for step in steps.iter().filter(|step| self.halves.iter().any(|e| step.name.ends_with(e))) {
            let heads = model.metadata.u64(&key).filter(|heads| *heads > 0);
            let rows = step.shape.first().copied().unwrap_or(0);
            let head =
                heads.filter(|heads| rows.is_multiple_of(2 * heads)).map(|heads| rows / heads);
            let (Some(rows_per_head), Some(tensor)) = (head, model.tensors.get_mut(step.source))
            else {
                let what = format!("{key}: its heads do not divide the rows of {}", step.name);
                return Err(Error::unsupported(what, "get a fresh copy of the file"));
            };
            tensor.orders.push(Order::PairsFromHalves { rows_per_head });
        }
        Ok(())
    }

    /// Adds the vectors that are rows of the model's own matrices.
    ///
    /// Pixtral's `[IMG_BREAK]`, which ends a line of patches, is row 12 of the token embedding; llama.cpp's
    /// projector, which has no vocabulary, wants it as a vector, `[columns]` of float32.
    fn take_rows(&self, model: &mut Model, steps: &mut Vec<Step>) -> Result<()> {
        for (name, Taken { of, row }) in &self.taken {
            let row = model.tensor(of).and_then(|whole| {
                let mut row_of = whole.clone();
                row_of.take(std::slice::from_ref(&(*row..row + 1)))?;
                // `[1][columns]` becomes a vector, as llama.cpp has it.
                row_of.shape.remove(0);
                Some(Tensor { name: name.clone(), ..row_of })
            });
            let Some(row) = row else {
                let what = format!("{of} has no row that could be {name}");
                return Err(Error::unsupported(what, "get a fresh copy of the file"));
            };
            let mut step = Step::copy(model.tensors.len(), &row);
            as_float32(&mut step);
            model.tensors.push(row);
            steps.push(step);
        }
        Ok(())
    }

    /// Makes one matrix of those that are one in llama.cpp's terms, in the place of the first.
    ///
    /// ```text
    /// attn_q [n, in]  attn_k [n, in]  attn_v [n, in]   ->   attn_qkv [3n, in], or biases [n] each  ->  [3n]
    /// ```
    fn fuse(&self, model: &mut Model, steps: &mut Vec<Step>) -> Result<()> {
        for (whole, parts) in &self.fused {
            let first = parts.first().map_or("", String::as_str);
            // The name of the whole contains no part's, so every round leaves one `first` less.
            while let Some(at) = steps.iter().position(|step| step.name.contains(first)) {
                let Some(name) = steps.get(at).map(|step| step.name.clone()) else { break };
                let names = parts.iter().map(|part| name.replace(first, part));
                let names: Vec<String> = names.collect();
                let tensor = |name: &String| {
                    let step = steps.iter().find(|step| step.name == *name)?;
                    model.tensors.get(step.source)
                };
                let tensors: Option<Vec<&Tensor>> = names.iter().map(tensor).collect();
                let Some(one) = tensors.and_then(|tensors| together(&tensors)) else {
                    let what = format!("{} are no rows of one matrix", names.join(", "));
                    return Err(Error::unsupported(what, "get a fresh copy of the file"));
                };
                let one = Tensor { name: name.replace(first, whole), ..one };
                steps.insert(at, Step::copy(model.tensors.len(), &one));
                steps.retain(|step| !names.contains(&step.name));
                model.tensors.push(one);
            }
        }
        Ok(())
    }

    /// Makes a tensor of every frame of a kernel.
    ///
    /// Qwen's kernel for patches is over two frames of a video; llama.cpp has a kernel for each frame and adds what
    /// the two give.
    ///
    /// ```text
    /// stored    [out * channels, 2, height, width]
    /// tensors   [out, channels, height, width] for frame 0, the same for frame 1
    /// ```
    fn take_frames(&self, model: &mut Model, steps: &mut Vec<Step>) -> Result<()> {
        for (name, Frames { channels, into }) in &self.frames {
            let Some(at) = steps.iter().position(|step| step.name == *name) else { continue };
            let step = steps.remove(at);
            let frames = into.len() as u64;
            let channels = model.metadata.own(channels).and_then(Value::as_u64);
            let frame = |n: u64| {
                let whole = model.tensors.get(step.source)?;
                let [out, stored, height, width] = *whole.shape.as_slice() else { return None };
                let channels = channels.filter(|n| *n > 0 && out.is_multiple_of(*n))?;
                // Stored as `[out * channels][frames][height][width]`: rows of a kernel's frames follow one another.
                let first = |kernel: u64| (kernel * frames + n) * height;
                let bands: Vec<_> = (0..out).map(|k| first(k)..first(k) + height).collect();
                let mut frame = whole.clone();
                frame.take(&bands).filter(|()| stored == frames)?;
                frame.shape = vec![out / channels, channels, height, width];
                Some(frame)
            };
            let all: Option<Vec<Tensor>> = (0..frames).map(frame).collect();
            let Some(all) = all else {
                let what =
                    format!("{name}: its shape is not that of a kernel over {frames} frames");
                return Err(Error::unsupported(what, "get a fresh copy of the file"));
            };
            for (name, frame) in into.iter().zip(all) {
                let frame = Tensor { name: name.clone(), ..frame };
                steps.push(Step::copy(model.tensors.len(), &frame));
                model.tensors.push(frame);
            }
        }
        Ok(())
    }

    /// Gives the keys of the model llama.cpp's names, and those that it lacks.
    fn complete(&self, plan: &mut Plan) {
        let own = |name: &str| format!("{}.{name}", self.architecture);
        for (theirs, name) in &self.renamed {
            let (theirs, name) = (own(theirs), own(name));
            if plan.metadata.get(&name).is_none() && plan.metadata.rename(&theirs, &name) {
                plan.notes.push(format!("{theirs} became {name}"));
            }
        }
        // llama.cpp wants an array of this length, of which only the first numbers mean something.
        for (name, length) in &self.padded {
            let items = plan.metadata.get(&own(name)).and_then(Value::as_array);
            let Some(items) = items.filter(|items| items.len() < *length) else { continue };
            let zeros = of_kind(items, 0).into_iter().cycle();
            let all = Array::of(items.kind(), items.iter().chain(zeros).take(*length));
            plan.metadata.set(own(name), all);
        }
        let context = plan.metadata.u64(&own("context_length")).unwrap_or(0);
        let long = self.long.iter().filter(|long| context >= long.context);
        for (key, value) in self.lacking.iter().chain(long.flat_map(|long| &long.lacking)) {
            let key = own(key);
            if plan.metadata.get(&key).is_none() {
                let value = stored(value);
                plan.notes.push(format!("{key} is {value}, which Ollama has in its program"));
                plan.metadata.set(key, value);
            }
        }
        let Some(model) = &self.model else { return };
        let keys: Vec<String> = plan.metadata.iter().map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            let own = key.strip_prefix(&self.architecture).filter(|own| own.starts_with('.'));
            if let Some(own) = own {
                plan.metadata.rename(&key, &format!("{model}{own}"));
            }
        }
        plan.metadata.set("general.architecture", model.as_str());
        plan.notes.push(format!("{} is {model} in llama.cpp", self.architecture));
    }

    /// What the projector's file says.
    fn metadata(&self, whole: &Model) -> Result<Metadata> {
        let model = &whole.metadata;
        let missing = |what: String| {
            let what = format!("{what} is missing: a projector needs it");
            Error::unsupported(what, "get a fresh copy of the file")
        };
        let own = |name: &str| {
            let key = format!("{}.{name}", self.architecture);
            model.get(&key).cloned().ok_or_else(|| missing(key))
        };
        let mut keys = Metadata::new();
        keys.set("general.architecture", "clip");
        keys.set("general.type", "mmproj");
        if let Some(name) = model.get("general.name") {
            keys.set("general.name", name.clone());
        }
        for (key, value) in &self.fixed {
            keys.set(key.clone(), stored(value));
        }
        for (key, theirs) in &self.keys {
            keys.set(key.clone(), own(theirs)?);
        }
        for (key, from) in &self.derived {
            let list = |name: &str| own(name).ok()?.as_array().cloned();
            let number = match from {
                Derived::Marks { list: name, count } => {
                    let marked: Option<Vec<u64>> =
                        list(name).map(|items| items.iter().filter_map(|n| n.as_u64()).collect());
                    let flags = |(marked, count): (Vec<u64>, u64)| {
                        let flag = |n| Value::Bool(marked.contains(&n));
                        Array::of(Kind::Bool, (0..count).map(flag))
                    };
                    let count = own(count)?.as_u64();
                    let flags = marked.zip(count).map(flags);
                    keys.set(key.clone(), flags.ok_or_else(|| missing(name.clone()))?);
                    continue;
                }
                Derived::Square { rows, times } => {
                    let side = whole.tensor(rows).map(|tensor| tensor.rows().isqrt());
                    side.zip(own(times)?.as_u64()).map(|(side, times)| side * times)
                }
                Derived::Rows(name) => whole.tensor(name).map(Tensor::rows),
                // Where block 7 is the first of full attention, counted from 0, every eighth is.
                Derived::First(name) => {
                    let first = own(name)?.as_array().and_then(Array::first);
                    first.and_then(|first| first.as_u64()).map(|first| first + 1)
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "small"
                )]
                Derived::Inverse(name) => own(name)?.as_f64().map(|n| (1.0 / n).round() as u64),
            };
            let number = number.and_then(|number| u32::try_from(number).ok());
            keys.set(
                key.clone(),
                number.ok_or_else(|| missing(format!("what {key} follows from")))?,
            );
        }
        //     image 896, patch 14, tokens 256     64 patches and 16 tokens along a side: 4, which readers take anyway
        //
        // Patches along a side are image / patch, tokens along a side sqrt(tokens); the projector merges as many
        // patches of a side into one token as the quotient of the two says.
        let size = |name: &str| own(name).ok().and_then(|value| value.as_u64());
        let sides = |side: &Side| [&side.image, &side.patch, &side.tokens].map(|name| size(name));
        if let Some(side) = &self.side
            && let [Some(image), Some(patch), Some(tokens)] = sides(side)
            && let Some(fewer) =
                image.checked_div(patch).and_then(|n| n.checked_div(tokens.isqrt()))
            && fewer != side.usual
            && let Ok(fewer) = u32::try_from(fewer)
        {
            keys.set("clip.vision.projector.scale_factor", fewer);
        }
        Ok(keys)
    }
}
