//! Plans quantizations as llama-quantize makes them, from any model file and into any container.
//!
//! The upgrade of the file ([`super::upgrade`]) is planned first: it renames tensors, rebuilds what old
//! files never stored and says how each tensor is kept. Then the types are chosen ([`super::choose::mix`]), and
//! every tensor that is to change its type is decoded and encoded anew. Everything that can be wrong
//! (imatrix data that is missing, types that rows do not fit, weights that are quantized already) is
//! found here, for all tensors at once, before the first byte is written.
//!
//! ```text
//! model --upgrade--> steps, all copied --choose--> a type for each --retype--> encoders and imatrix data
//!                                                                    scales    the factor beside an NVFP4 output
//!                                                                    stamp     llama-quantize's keys, then shards
//! ```
//!
//! Outputs of several types are planned from the same upgrade, so that the source is read once for all.

mod files;
mod old;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Act, Plan, Step,
    choose::{
        ftype::FileType,
        image,
        mix::{self, Choice, Pattern, Rules, Shape, TypeName, Weight},
        target_size::{self, Goal},
    },
    keys,
    obstacles::Obstacles,
    output::{ggml_model, is_meta_folder, named_for, place, stem_of_model},
    prune, scales, upgrade,
};
use crate::{
    checkpoint::card,
    container::imatrix::Importance,
    error::{Error, Result},
    format::catalog,
    model::{Metadata, Model, Stated, Value, loader::Content},
    quant::{QuantType, encode::encoder},
    remedy::{Remedy, Setting},
    size::counted,
};

/// What the person asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// One output for each of these; with a [`Goal`] none.
    pub types: Vec<FileType>,
    /// A size that the types of tensors are chosen for.
    pub goal: Option<Goal>,
    /// Where to write: a file, or a folder for several types; beside the input by default.
    pub output: Option<PathBuf>,
    /// The container as a person names it (`ggjt-v1`); today's GGUF by default.
    pub to: Option<String>,
    /// What the person says of the model beside what its file says.
    pub stated: Stated,
    /// The way in which an older container's type is made, where there were several.
    pub recipe: Option<String>,
    /// Every tensor in the base type, no mixture.
    pub pure: bool,
    /// `output.weight` stays as it is.
    pub leave_output: bool,
    /// Tensors that are quantized already may be quantized again.
    pub allow_requantize: bool,
    /// The output is cut into the same shards as the input.
    pub keep_split: bool,
    /// What is NaN or infinite is encoded too.
    pub keep_nan: bool,
    /// The error of every tensor is measured.
    pub measure: bool,
    /// The type of `output.weight`.
    pub output_type: Option<TypeName>,
    /// The type of the token embedding.
    pub embedding_type: Option<TypeName>,
    /// Types by pattern of the tensor's name.
    pub tensor_types: Vec<(Pattern, TypeName)>,
    /// How much each column matters.
    pub importance: Importance,
    /// The type of tensors that there is no imatrix data for, where their own type needs it; without one the plan
    /// fails.
    pub fallback_type: Option<TypeName>,
    /// Blocks to leave out.
    pub prune: BTreeSet<u64>,
    /// Metadata to set at last.
    pub overrides: Vec<(String, Value)>,
}

/// Plans the quantizations. Returns the model as the plans refer to it and the plans: one a type,
/// with `keep_split` one a type and shard.
///
/// # Errors
/// Where something asked for cannot be had; the error says for which tensors.
pub fn plan(model: Model, options: &Options) -> Result<(Model, Vec<Plan>)> {
    let input = model.files.first().map(|f| f.path().to_owned()).unwrap_or_default();
    // Projectors and models of images are quantized as models of text are.
    let content = Content::of(&model);
    if let Some((what, next)) = content.other()
        && !matches!(content, Content::Projector | Content::Image)
    {
        let what = format!("{}: holds {what}, no model to quantize", input.display());
        return Err(Error::foreign(what, next));
    }
    let from_gguf = keys::are_gguf(&model);
    let stated = options.stated.clone();
    let to = options.to.clone();
    // `copy` takes types of other programs as they are, too.
    let as_stored = options.types.iter().all(|file_type| file_type.copy);
    let retyped = !options.types.iter().any(|file_type| file_type.copy);
    let upgrade =
        upgrade::Options { to, stated, as_stored, retyped, ..upgrade::Options::default() };
    if !as_stored {
        model.check_unturned()?;
    }
    let original = model.metadata.clone();
    let (model, mut base) = upgrade::plan(model, &upgrade)?;
    (base.keep_nan, base.tells_nan) = (options.keep_nan, false);
    base.measure = options.measure;
    // Containers of the ggml line have vectors as F32 already.
    if !model.format.starts_with("gg") {
        vectors_to_f32(&mut base.steps);
    }
    if from_gguf && base.target.is_keyed() {
        // Where nothing had to be modernised but the two numbers set below, the order stays.
        base.metadata = in_order_of(&original, base.metadata);
    }
    if !base.target.is_keyed() {
        let plan = |file_type: &FileType| options.old_plan(&model, &base, &input, *file_type);
        let plans = options.types.iter().map(plan).collect::<Result<_>>()?;
        return Ok((model, plans));
    }
    // Q4_2 and Q4_3 were dropped with ggjt v2, before there was GGUF.
    if let Some(old) = options.types.iter().find(|f| QuantType::today(f.base).is_none()) {
        let what = format!("{} was a type of ggjt v1 only", old.name);
        return Err(Error::unsupported(
            what,
            Setting::Target.of("ggjt-v1").to("write that").or("choose another type"),
        ));
    }
    let stated = if from_gguf { &original } else { &base.metadata };
    let stated = stated.u64("general.file_type").and_then(|n| u32::try_from(n).ok());
    if options.goal.is_some() {
        model.check_decodable()?;
    }
    let job = Job::new(model, base, stated, options)?;
    let mut plans = Vec::new();
    if let Some(goal) = options.goal {
        plans.extend(job.fitted(&input, goal)?);
    }
    for file_type in &options.types {
        plans.extend(job.mixed(&input, *file_type)?);
    }
    plans.iter_mut().try_for_each(Plan::lay_out)?;
    Ok((job.model, plans))
}

/// Checkpoints have norms and biases in the type of their matrices; no reader of GGUF takes them so.
fn vectors_to_f32(steps: &mut [Step]) {
    let Some((f32, encode)) = QuantType::today("f32").zip(encoder("f32")) else { return };
    for step in steps.iter_mut().filter(|s| s.rows() <= 1 && s.quant.layout().elements == 1) {
        if step.quant != f32 && matches!(step.quant.name(), "f16" | "bf16" | "f64") {
            (step.quant, step.act) = (f32, Act::recode(encode, None));
        }
    }
}

/// The keys of `new` in the order that they have in `old`.
fn in_order_of(old: &Metadata, mut new: Metadata) -> Metadata {
    let mut ordered = Metadata::new();
    for (key, _) in old.iter() {
        if let Some(value) = new.remove(key) {
            ordered.push(key.to_owned(), value);
        }
    }
    new.iter().for_each(|(key, value)| ordered.push(key.to_owned(), value.clone()));
    ordered
}

/// A model brought to GGUF's terms, ready for types to be chosen.
struct Job<'a> {
    model: Model,
    base: Plan,
    options: &'a Options,
    shape: Shape,
    /// The names of the steps before blocks were left out: imatrix data is found by them.
    originals: Vec<String>,
    /// The file type that the model states.
    stated: Option<u32>,
    /// Blocks that are left, where some were left out.
    blocks: Option<u32>,
}

impl<'a> Job<'a> {
    fn new(
        model: Model,
        mut base: Plan,
        stated: Option<u32>,
        options: &'a Options,
    ) -> Result<Job<'a>> {
        let architecture = base.metadata.architecture().to_owned();
        // The order of tensors is an input of the mixtures, which count roles as they come, and that of the output.
        // The program with rules for images goes through a file as it is.
        if catalog::mixture(&architecture).is_none() {
            base.steps.sort_by(|a, b| mix::file_order(&a.name, &b.name));
        }
        for step in base.steps.iter_mut().filter(|s| !image::has_outermost(&architecture, &s.name))
        {
            // As ggml counts dimensions: the last is the outermost that is not 1.
            let ones = step.shape.iter().take_while(|n| **n == 1).count();
            step.shape.drain(..ones.min(step.shape.len().saturating_sub(1)));
        }
        let mut shape = base.metadata.clone();
        for (key, value) in &options.overrides {
            shape.set(key.clone(), value.clone());
        }
        let shape = Shape::of(&shape);
        let (originals, blocks) = prune::prune(&mut base, &options.prune)?;
        let mut job = Job { model, base, options, shape, originals, stated, blocks };
        // Where shards stay, tensors have the order of the files and not today's.
        if options.keep_split {
            let place = |s: &Step| {
                let first = job.model.tensors.get(s.source).and_then(|t| t.pieces.first());
                first.map(|p| (p.file, p.at))
            };
            let mut both: Vec<(Step, String)> =
                job.base.steps.drain(..).zip(job.originals.drain(..)).collect();
            both.sort_by_key(|(step, _)| place(step));
            (job.base.steps, job.originals) = both.into_iter().unzip();
        }
        Ok(job)
    }

    /// What was asked for, as the mixtures want it.
    fn rules(&self, file_type: FileType) -> Rules {
        let options = self.options;
        Rules {
            file_type,
            pure: options.pure,
            leave_output: options.leave_output,
            output: options.output_type,
            embedding: options.embedding_type,
            overrides: options.tensor_types.clone(),
            importance: !options.importance.is_empty(),
        }
    }

    /// The steps as the mixtures see them: name, shape and present type.
    fn weights(&self) -> Vec<Weight<'_>> {
        let steps = self.base.steps.iter();
        steps.map(|s| Weight { name: &s.name, shape: &s.shape, present: s.quant.name() }).collect()
    }

    /// The plans of one file type.
    fn mixed(&self, input: &Path, file_type: FileType) -> Result<Vec<Plan>> {
        // A copy changes no type, so the file keeps the number it had; else it has that of the mixture.
        let choices = image::choose(&self.shape, &self.weights(), &self.rules(file_type))?;
        let number = match file_type.copy {
            true => self.present_file_type(),
            false => file_type.number,
        };
        self.plans(&choices, number, self.output(input, file_type.name))
    }

    /// The plans whose types fit a size.
    fn fitted(&self, input: &Path, goal: Goal) -> Result<Vec<Plan>> {
        let f16 = FileType::parse("F16")?;
        // Of the mixtures only the question remains which tensors are quantized at all.
        let asked = image::choose(&self.shape, &self.weights(), &self.rules(f16))?;
        let rules = self.rules(f16);
        // What each tensor becomes, none where the size decides:
        //
        //     named by a pattern            that type
        //     F16 would make it F16         none
        //     F16 would leave it            what it is: norms, biases, routers
        let free = |step: &Step, choice: &Choice| {
            let named = rules.overrides.iter().find(|(p, _)| mix::matches(p, &step.name));
            let weight = Weight { name: &step.name, shape: &step.shape, present: "f32" };
            let quantized = image::may_quantize(&self.shape, &weight, &rules);
            match named {
                Some((_, named)) if quantized => Some(*named),
                _ if quantized && choice.becomes == "f16" => None,
                _ => Some(choice.becomes),
            }
        };
        let fixed: Vec<Option<TypeName>> =
            self.base.steps.iter().zip(&asked).map(|(s, c)| free(s, c)).collect();
        // What is no weight counts against the size too: header, keys, vocabulary, padding.
        let mut empty = self.base.clone();
        self.stamp(&mut empty.metadata, 0);
        empty.lay_out()?;
        let about = empty.layout.total
            - empty.steps.iter().map(Step::bytes).sum::<u64>().min(empty.layout.total);
        let importance = |i: usize| self.importance(i).ok().flatten();
        let chosen =
            target_size::fit(&self.model, &self.base.steps, &fixed, &importance, goal, about)?;
        let choices: Vec<Choice> = chosen
            .iter()
            .map(|q| Choice { becomes: q, instead_of: None, needs_importance: false })
            .collect();
        let mut sizes: BTreeMap<TypeName, u64> = BTreeMap::new();
        for (step, becomes) in self.base.steps.iter().zip(&chosen) {
            *sizes.entry(becomes).or_default() += step.shape.iter().product::<u64>();
        }
        // The file type of a fitted file is that of most of its weights.
        let main = sizes.into_iter().max_by_key(|(_, n)| *n).map_or("f16", |(q, _)| q);
        let number = FileType::guess(main) & 0xff;
        let mut plans = self.plans(&choices, number, self.output(input, "fitted"))?;
        for plan in &mut plans {
            plan.notes.push(goal.to_string());
        }
        Ok(plans)
    }

    /// The number that llama.cpp knows the model by now.
    /// Where the file states none: that of the type that most tensors have, as llama.cpp's loader guesses it.
    fn present_file_type(&self) -> u32 {
        self.stated.unwrap_or_else(|| {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            let mut most = (0, "f32");
            for step in &self.base.steps {
                let n = counts.entry(step.quant.name()).or_default();
                *n += 1;
                if *n > most.0 {
                    most = (*n, step.quant.name());
                }
            }
            FileType::guess(most.1)
        })
    }

    fn output(&self, input: &Path, kind: &str) -> PathBuf {
        output(input, self.options, &self.base, kind)
    }

    /// The plan of these choices, or a plan for each shard where the files of the input are kept.
    fn plans(&self, choices: &[Choice], file_type: u32, output: PathBuf) -> Result<Vec<Plan>> {
        let mut plan = self.base.clone();
        self.retype(&mut plan, choices)?;
        scales::take_in(&self.model, &mut plan)?;
        self.stamp(&mut plan.metadata, file_type);
        let unused = |p: &Pattern| !plan.steps.iter().any(|s| mix::matches(p, &s.name));
        let unused = self.options.tensor_types.iter().filter(|(pattern, _)| unused(pattern));
        let said = unused
            .map(|(p, q)| format!("the type {q} for {}: no tensor has such a name", p.as_str()));
        plan.notes.extend(said.collect::<Vec<_>>());
        plan.output = output;
        if self.options.keep_split { Ok(self.shards(&plan)) } else { Ok(vec![plan]) }
    }

    /// Gives every step its type, or says for which steps it cannot be done.
    ///
    /// # Errors
    /// Those of [`Obstacles::check`], for all steps at once.
    fn retype(&self, plan: &mut Plan, choices: &[Choice]) -> Result<()> {
        let mut obstacles = Obstacles::default();
        let mut stand_ins: BTreeMap<(TypeName, TypeName), usize> = BTreeMap::new();
        for (i, (step, choice)) in plan.steps.iter_mut().zip(choices).enumerate() {
            if step.quant.name() == choice.becomes {
                continue;
            }
            // Three answers: data for this matrix; none, and the type does without; none, and it needs some.
            let weights = self.importance(i)?;
            let needs = choice.needs_importance || never_blind(choice.becomes);
            let blind = weights.is_none() && needs;
            let becomes = match self.options.fallback_type {
                Some(other) if blind => {
                    *stand_ins.entry((choice.becomes, other)).or_default() += 1;
                    other
                }
                _ => choice.becomes,
            };
            if step.quant.name() == becomes {
                continue;
            }
            let source = self.model.tensors.get(step.source).map_or(step.quant, |t| t.quant);
            let to = QuantType::today(becomes).filter(|q| plan.target.holds(*q));
            let to = to.zip(encoder(becomes));
            obstacles.look_at(step, source, becomes, to);
            let Some((to, encode)) = to else { continue };
            if blind && becomes == choice.becomes {
                obstacles.lacks_imatrix_data(&step.name, to);
            }
            if weights.is_none() && !self.options.importance.is_empty() {
                obstacles.passed_over(&step.name);
            }
            (step.quant, step.act) = (to, Act::recode(encode, weights));
        }
        obstacles.check(self.options.allow_requantize)?;
        plan.measure |= obstacles.requantizes();
        obstacles.note(&mut plan.notes);
        for ((wanted, instead), count) in stand_ins {
            plan.stand_ins += count;
            let tensors = counted(count, "tensor became", "tensors became");
            plan.notes.push(format!(
                "{tensors} {instead}: {wanted} needs imatrix data, and there is none for them"
            ));
        }
        for (wanted, instead) in
            choices.iter().filter_map(|c| Some((c.instead_of?, c.becomes))).collect::<BTreeSet<_>>()
        {
            let count = choices
                .iter()
                .filter(|c| c.instead_of == Some(wanted) && c.becomes == instead)
                .count();
            let block = mix::block_len(wanted);
            plan.notes.push(format!(
                "{} became {instead}: rows that are no multiple of {block}, as {wanted} needs",
                counted(count, "tensor", "tensors")
            ));
        }
        Ok(())
    }

    /// The imatrix data of step `i`; none where the matrix has none for it.
    ///
    /// # Errors
    /// Where they belong to a matrix of another shape. Those of a token embedding are passed over, as
    /// llama-quantize does.
    fn importance(&self, i: usize) -> Result<Option<Arc<[f32]>>> {
        let (Some(step), Some(name)) = (self.base.steps.get(i), self.originals.get(i)) else {
            return Ok(None);
        };
        let Some(values) = self.options.importance.get(name) else { return Ok(None) };
        // A number for each column; of stacked experts, `[experts][rows][columns]`, as many rows of them as experts.
        let row = step.shape.last().copied().unwrap_or(1);
        let matrices = step.shape.iter().rev().nth(2).copied().unwrap_or(1);
        if values.len() as u64 == row * matrices {
            return Ok(Some(values.clone()));
        }
        if name == "token_embd.weight" || name == "per_layer_token_embd.weight" {
            return Ok(None);
        }
        let (found, wanted) = (values.len(), row * matrices);
        Err(Error::unsupported(
            format!(
                "{}: {found} numbers of imatrix data for {name}, wanted {wanted}",
                self.options.importance.file
            ),
            Remedy::from("take a matrix that was measured on this model")
                .or(Setting::ExcludeWeights.to("pass the tensor over")),
        ))
    }
}

/// Whether ggml ends the program rather than make this type without imatrix data, also for the token
/// embedding and the output (ggml.c, `ggml_quantize_requires_imatrix`).
fn never_blind(quant: TypeName) -> bool {
    matches!(quant, "iq2_xxs" | "iq2_xs" | "iq1_s")
}

/// Where an output goes: as asked for, in the folder asked for, or beside the input; named after it.
fn output(input: &Path, options: &Options, plan: &Plan, kind: &str) -> PathBuf {
    let folder = input.parent().unwrap_or(Path::new(""));
    let stem = stem_of_model(input);
    let ending = input.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let name = match ending {
        "pth" if is_meta_folder(folder) => ggml_model(kind),
        // The shards of a checkpoint do not have the name of the model.
        "pth" | "safetensors" | "pt" => card::file_name(&plan.metadata, kind),
        _ if stem.starts_with("pytorch_model") => card::file_name(&plan.metadata, kind),
        _ => named_for(&stem, kind),
    };
    let ending = if plan.target.is_keyed() { "gguf" } else { "bin" };
    let (named, count) = (options.output.as_deref(), options.types.len());
    place(named, count, folder, &format!("{name}.{ending}"))
}
