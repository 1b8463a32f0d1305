//! LoRA adapters of other programs in GGUF's terms: ggla files, and folders of PEFT.
//!
//! | | A | B | rows of B for queries and keys |
//! |---|---|---|---|
//! | GGUF | `NAME.lora_a` [r, in] | `NAME.lora_b` [out, r] | as in the base model |
//! | ggla by convert-lora-to-ggml.py | `NAME.loraA`, stored transposed | `NAME.loraB` | as in Hugging Face's model |
//! | ggla by finetune | `NAME.loraA`, stored transposed | `NAME.loraB` | as in the base model |
//! | PEFT | `NAME.lora_A.weight` | `NAME.lora_B.weight` | as in Hugging Face's model |
//!
//! Nothing in a ggla file names the base or its heads. A model that is given as the base says both; else
//! what the names and widths of LLaMA allow is assumed aloud, and the rest is refused.

use super::{
    Assumed, Hyper, Metadata, Model, Naming, Order, Role, Sizes, Stated, Tensor, Value,
    rows::{self, Standing},
    weights,
};
use crate::{
    bytes::Input,
    error::{Error, Result},
    format::{catalog, family::Family},
    quant::QuantType,
    remedy::{Note, Notes, Setting},
};

/// `model`, an adapter of any kind, in GGUF's terms, and what had to be assumed; `base` is the model that it
/// belongs to, where it is at hand.
///
/// # Errors
/// Where it changes what no family has, or only the base says what is wanted.
///
/// ```text
/// scaled      alpha under its key, and one for all pairs
/// Job::new    family, sizes and the order of rows: of the base, or told by names and widths, or assumed
/// carry       each tensor: its name, and the rows of B where they have to be put in order
/// ```
///
pub fn in_gguf_terms(
    model: Model,
    base: Option<&Model>,
    rows: Option<Standing>,
) -> Result<(Model, Vec<Assumed>)> {
    if !is_foreign(&model) {
        return Ok((model, Vec::new()));
    }
    let mut model = scaled(model)?;
    let mut job = Job::new(&model, base, rows)?;
    for tensor in &mut model.tensors {
        job.carry(tensor)?;
    }
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", job.family.family.gguf.as_str());
    metadata.set("general.type", "adapter");
    metadata.set("adapter.type", "lora");
    for (key, value) in model.metadata.iter() {
        metadata.set(key, value.clone());
    }
    model.family.clone_from(&job.family.family.name);
    model.header.clear();
    (model.metadata, model.notes) = (metadata, model.notes.into_iter().chain(job.notes).collect());
    Ok((model, job.assumed))
}

/// Whether a model is an adapter that is not in GGUF's terms yet.
pub fn is_foreign(model: &Model) -> bool {
    model.header("lora_alpha").is_some() || model.tensors.iter().any(|t| half(&t.name).is_some())
}

/// The matrix that a tensor of an adapter belongs to, and whether it is A or B.
fn half(name: &str) -> Option<(&str, char)> {
    let a = name.strip_suffix(".loraA").map(|target| (target, 'a'));
    a.or_else(|| name.strip_suffix(".loraB").map(|target| (target, 'b')))
}

/// Says alpha under its key. Programs that read ggla divided it by the rank of the header, those of GGUF
/// divide it by that of each pair: where these differ, B is made larger or smaller by as much.
fn scaled(mut model: Model) -> Result<Model> {
    let name = model.files.first().map(Input::name).unwrap_or_default();
    if model.tensors.is_empty() {
        let what = format!("{name}: a LoRA adapter without a pair of matrices");
        return Err(Error::refused(what, "get a whole copy of the adapter"));
    }
    if let (Some(rank), Some(alpha)) = (model.header("r"), model.header("lora_alpha")) {
        let mut others = 0;
        for place in 0..model.tensors.len() {
            let Some(tensor) = model.tensors.get(place) else { break };
            let is_b = half(&tensor.name).is_some_and(|(_, half)| half == 'b');
            // B is [out, r]: its last dimension is the rank of its pair.
            let own = tensor.shape.last().and_then(|own| i64::try_from(*own).ok()).unwrap_or(rank);
            if !is_b || own == rank {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            // alpha / header's r was meant, alpha / own r is what readers of GGUF compute.
            let factor = own as f64 / rank as f64;
            others += 1;
            times(&mut model, place, factor, &name)?;
        }
        if others > 0 {
            model.notes.push(format!(
                "B of {others} pairs of other ranks than {rank} is scaled, so that alpha is one for all"
            ));
        }
        #[expect(clippy::cast_precision_loss, reason = "at most a million")]
        model.metadata.set("adapter.lora.alpha", Value::F32(alpha as f32));
    }
    match model.metadata.f32("adapter.lora.alpha") {
        Some(alpha) if alpha.is_finite() && alpha != 0.0 => Ok(model),
        alpha => {
            let alpha = alpha.map_or("none".to_owned(), |alpha| alpha.to_string());
            let what = format!("{name}: alpha is {alpha}: in GGUF that means no scaling at all");
            Err(Error::refused(what, "get a whole copy of the adapter"))
        }
    }
}

/// Puts a tensor into memory, each number `factor` times as large.
///
/// # Errors
/// Where it has more than [`LARGEST`] numbers.
fn times(model: &mut Model, place: usize, factor: f64, name: &str) -> Result<()> {
    let Some(tensor) = model.tensors.get(place).cloned() else { return Ok(()) };
    let too_large = || {
        let what = format!("{name}: {}: too large to be scaled", tensor.name);
        Error::unsupported(what, "not yet: pairs of several ranks above 64 MB")
    };
    if tensor.elements() > LARGEST {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    weights::each(model, &tensor, 0..tensor.rows(), &mut |_, numbers| {
        #[expect(clippy::cast_possible_truncation, reason = "rounded, as it is stored")]
        bytes.extend(numbers.iter().flat_map(|n| ((f64::from(*n) * factor) as f32).to_le_bytes()));
        Ok(())
    })?;
    let (file, f32) = (model.files.len(), QuantType::today("f32").ok_or_else(too_large)?);
    let made = Tensor::whole(tensor.name.clone(), tensor.shape.clone(), f32, file, 0);
    let made = made.ok_or_else(too_large)?;
    model.files.push(Input::memory(tensor.name, bytes));
    if let Some(tensor) = model.tensors.get_mut(place) {
        *tensor = made;
    }
    Ok(())
}

/// The most numbers that are scaled at once.
const LARGEST: u64 = 16 << 20;

/// What is known while the tensors of an adapter are carried.
///
/// A pair is B A: what B has as rows are the rows of the matrix that is changed, so that B alone has heads; the columns
/// of A are inputs, which nothing orders.
struct Job {
    /// Of the adapter's file, for messages.
    name: String,
    /// Of the base, given or told by names.
    family: &'static Family,
    /// Of the base; without it what its width says.
    sizes: Sizes,
    /// In which order rows of queries and keys are; none where nothing says it.
    rows: Option<Standing>,
    /// Whether a base was given.
    based: bool,
    /// The head size, where it had to be assumed.
    head: Option<Assumed>,
    /// What had to be, with the setting that says otherwise.
    assumed: Vec<Assumed>,
    notes: Notes,
}

impl Job {
    fn new(model: &Model, base: Option<&Model>, rows: Option<Standing>) -> Result<Job> {
        let name = model.files.first().map(Input::name).unwrap_or_default();
        let (mut assumed, mut notes) = (Vec::new(), Notes::default());
        let family = match base {
            Some(base) => catalog::family(&base.family).ok_or_else(|| {
                let architecture = base.metadata.architecture();
                let what = format!(
                    "{name}: the architecture {architecture:?} of the base has no description here"
                );
                Error::unsupported(what, "use llama.cpp's convert_lora_to_gguf.py")
            })?,
            None => family_of(model, &name, &mut assumed)?,
        };
        let (sizes, head) = match base {
            Some(base) => (Sizes::of(base), None),
            None => sizes_of(family, model),
        };
        let roles = || model.tensors.iter().filter_map(|t| Role::find(family, half(&t.name)?.0));
        // The script took matrices of attention and of the feed-forward part; finetune trains all that there is.
        let all = roles().any(|(_, role)| role.is_vector() || role.id == "token_embedding");
        // Who trains norms or the embedding is finetune, whose rows are ggml's already.
        let of_finetune = model.header("r").is_some() && all;
        let unsaid = rows.is_none() && roles().any(|(naming, _)| naming == Naming::Gguf);
        let rows = rows.or(of_finetune.then_some(Standing::Ggml));
        if of_finetune {
            notes.push(
                "norms or the embedding are trained too, as by llama.cpp's finetune: llama.cpp takes such pairs of \
                 norms and adds nothing to norms"
                    .to_owned(),
            );
        }
        if unsaid {
            let (by, other, order) = match rows {
                Some(_) => ("llama.cpp's finetune", "convert-lora-to-ggml.py", "hf"),
                None => ("convert-lora-to-ggml.py", "llama.cpp's finetune", "ggml"),
            };
            notes.push(Note::new(
                format!("rows of queries and keys are taken as they are left by {by}"),
                Setting::Rows.of(order).to(format!("take an adapter of {other} right")),
            ));
        }
        Ok(Job { name, family, sizes, rows, based: base.is_some(), head, assumed, notes })
    }

    /// Gives a tensor its name in GGUF and its rows the order that they have there.
    fn carry(&mut self, tensor: &mut Tensor) -> Result<()> {
        let title = &self.family.family.title;
        let unknown = |name: &str| {
            let what = format!("{}: {name}: no matrix of {title} is called so", self.name);
            Error::unsupported(what, Setting::Base.to("name the model that the adapter belongs to"))
        };
        let name = tensor.name.clone();
        let Some((target, half)) = half(&name) else { return Err(unknown(&name)) };
        let role = Role::find(self.family, target);
        let Some((role, name)) = role.and_then(|(_, r)| Some((r, r.name(Naming::Gguf)?))) else {
            return Err(unknown(target));
        };
        if role.id == "token_embedding" {
            // GGUF has both halves of the embedding turned round.
            let turned = if half == 'a' { tensor.transposed() } else { Some(tensor.clone()) };
            *tensor = turned.ok_or_else(|| unknown(target))?;
            let half = if half == 'a' { 'b' } else { 'a' };
            tensor.name = format!("{name}.lora_{half}");
            return Ok(());
        }
        if half == 'b' && self.rows != Some(Standing::Ggml) {
            self.order(&role, target, tensor)?;
        }
        tensor.name = format!("{name}.lora_{half}");
        Ok(())
    }

    /// Puts rows that are as in Hugging Face's models into GGUF's order.
    ///
    /// # Errors
    /// Where heads are not known, or do not divide the rows: a base would tell.
    fn order(&mut self, role: &Role, target: &str, tensor: &mut Tensor) -> Result<()> {
        let refused = |what: String| {
            let what = format!("{}: {target}: {what}", self.name);
            Err(Error::refused(
                what,
                Setting::Base.to("name the model that the adapter belongs to"),
            ))
        };
        let n = tensor.shape.first().copied().unwrap_or(0);
        if role.names.rotary {
            let Some(head) = self.sizes.get("head").filter(|head| *head > 0) else {
                return refused(format!(
                    "its {n} rows are to be ordered, and no size of heads is said"
                ));
            };
            if !n.is_multiple_of(head) || !head.is_multiple_of(2) {
                return refused(format!("its {n} rows are no whole heads of {head}"));
            }
            tensor.orders.push(Order::PairsFromHalves { rows_per_head: head });
            self.assumed.extend(self.head.take());
        }
        if role.names.rows.hf.is_some() {
            if !self.based {
                return refused(format!(
                    "its {n} rows are to be ordered, and no number of heads is said"
                ));
            }
            if rows::to_gguf(role, Naming::Hf, &self.sizes, tensor).is_none() {
                return refused(format!("its {n} rows are not made of the heads of the base"));
            }
        }
        Ok(())
    }
}

/// The family that has every matrix of an adapter; of several the one that most adapters were made for.
fn family_of(model: &Model, name: &str, assumed: &mut Vec<Assumed>) -> Result<&'static Family> {
    let targets = || model.tensors.iter().filter_map(|t| Some(half(&t.name)?.0));
    let has = |family: &'static Family, target: &str| Role::find(family, target).is_some();
    let fits = |family: &&'static Family| targets().all(|target| has(family, target));
    let mut fitting: Vec<&'static Family> = catalog::families().iter().filter(fits).collect();
    let said = model.metadata.str("general.base_model.0.name").unwrap_or_default().to_lowercase();
    // What the base is called orders those that fit.
    let rank = |family: &&Family| (!said.contains(&family.family.name), !family.family.adapted);
    fitting.sort_by_key(rank);
    let Some(&first) = fitting.first() else {
        let known = |target: &str| catalog::families().iter().any(|family| has(family, target));
        let strange = targets().find(|target| !known(target)).unwrap_or_default();
        let what =
            format!("{name}: {strange}: no family that is described has a matrix of this name");
        return Err(Error::unsupported(what, "use llama.cpp's convert_lora_to_gguf.py"));
    };
    if fitting.len() > 1 {
        assumed.push(Assumed {
            key: "general.architecture".to_owned(),
            value: first.family.gguf.clone(),
            because: format!("{} other architectures have such matrices too", fitting.len() - 1),
            setting: Some(Setting::Base),
        });
    }
    Ok(first)
}

/// The sizes of the model that an adapter belongs to, as far as its width tells them.
///
/// A [r, n_embd] of queries says the width; the family's own rule then says how long a head is (LLaMA's are of 128),
/// which is assumed aloud.
fn sizes_of(family: &'static Family, model: &Model) -> (Sizes, Option<Assumed>) {
    let width = model.tensors.iter().find_map(|tensor| {
        let (target, half) = half(&tensor.name)?;
        let (_, role) = Role::find(family, target)?;
        let of_width = |symbol: Option<&String>| symbol.is_some_and(|symbol| symbol == "n_embd");
        match half {
            'a' if of_width(role.names.shape.last()) => tensor.shape.last().copied(),
            'b' if of_width(role.names.shape.first()) => tensor.shape.first().copied(),
            _ => None,
        }
    });
    let mut known = Model { format: "ggla-v1".to_owned(), ..Model::default() };
    if let Some((key, width)) = family.key("n_embd").zip(width) {
        known.metadata.set(key, Value::U64(width));
    }
    let hyper = Hyper::within(family, &known, &Stated::default());
    let key = family.key("head").unwrap_or_default();
    let assumed = hyper.assumed().iter().find(|assumed| assumed.key == key).cloned();
    (hyper.sizes, assumed)
}
