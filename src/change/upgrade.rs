//! Plans the upgrade of any model file to GGUF, same quant types, and the way back to older versions.
//!
//! Tensor by tensor the plan takes the first that applies: the same bytes where the target knows the
//! type; another order of the same codes, or f16 for f32 scales ([`crate::quant::permute`]); the type
//! that holds a removed one best (`successors`). What an old file never stored is derived from shapes
//! where it can be and assumed aloud where not.
//!
//! | stored | asked for | what becomes of it |
//! |---|---|---|
//! | q4_0/halves-f16 (ggjt v3) | GGUF | copied |
//! | q5_0/pairs (ggjt v1) | GGUF | reordered: nibbles in other places, the same weights |
//! | q4_0/pairs-f32 (ggjt v1) | GGUF | rescaled: scales become f16; with `exact` F32 |
//! | q4_2 (ggjt v1) | GGUF | encoded: Q8_0 is nearest; with `exact` F32 |
//! | q6_k (GGUF) | ggjt v1 | refused: that container never held it, and what is nearest is named |
//!
//! The steps of [`plan`] come in this order because each sees what the one before left: tensors are dropped and taken
//! first, then named and ordered, then given types; metadata follow the tensors, the vocabulary follows the metadata.

use std::path::{Path, PathBuf};

use super::{
    Act, Plan, Step, Target, adapter,
    graft::Graft,
    keys,
    output::{place, stem_of_model},
    prepare,
    vocabulary::{self, Rebuilt},
};
use crate::{
    bytes::Input,
    checkpoint::tokenizer::given,
    container,
    error::{Error, Result},
    format::family::Family,
    model::{Model, Naming, Role, Sizes, Stated, Tensor, Vocab, loader::Content, lora},
    quant::{
        QuantType,
        encode::encoder,
        permute::transform,
        recipe::recipes,
        successor::{Fidelity, successors},
    },
    remedy::{Call, Notes, Setting},
};

/// What the person asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where to write; beside the input by default.
    pub output: Option<PathBuf>,
    /// The target format as a person names it (`ggjt-v1`); today's GGUF by default.
    pub to: Option<String>,
    /// Never round: tensors that would be rounded become F32.
    pub exact: bool,
    /// What the person says of the model beside what its file says.
    pub stated: Stated,
    /// Take the nearest f16 for scales outside its range.
    pub clamp_scales: bool,
    /// Write infinite and NaN weights as they are, instead of refusing.
    pub keep_nan: bool,
    /// Copy other programs' types as they are, also where one of today's holds the same weights.
    pub as_stored: bool,
    /// Every matrix gets a type of its own afterwards: one that the target never held may be F32 till then.
    pub retyped: bool,
    /// Tensors to leave out, and to take from other files.
    pub graft: Graft,
    /// Write experts one by one.
    pub split_experts: bool,
    /// Write keys and values of latent attention as one matrix.
    pub join_kv_b: bool,
}

/// Plans an upgrade. Returns the model as the plan refers to it, and the plan.
///
/// # Errors
/// Where the target cannot hold a tensor, the file is not a whole model or not of a family that is
/// carried.
pub fn plan(model: Model, options: &Options) -> Result<(Model, Plan)> {
    let target = Target::of(options.to.as_deref(), &model)?;
    // An adapter is no model: it has no vocabulary and no sizes of its own.
    if lora::is_foreign(&model) {
        let output = output(&model, target, options.output.as_deref());
        let plan = Plan { keep_nan: options.keep_nan, ..Plan::new(output, target) };
        let (model, mut plan) = adapter::plan(model, plan, &options.stated)?;
        plan.check_sources(&model)?;
        plan.lay_out()?;
        return Ok((model, plan));
    }
    if Content::of(&model) == Content::Adapter {
        return Err(adapter::of_today(&model, options.stated.base.as_deref()));
    }
    let family = Family::of(&model)?;
    let from_gguf = keys::are_gguf(&model);
    let mut notes = container::notes_of_new(&model, options.as_stored);
    let mut model = model;
    // First what is asked of the tensors themselves, so that all that follows sees the model as it will be.
    options.graft.apply(&mut model, &mut notes)?;
    if !options.as_stored {
        notes.extend(model.unsure());
    }
    let model = if options.as_stored { model } else { model.readable() };
    let asked = prepare::Asked {
        split_experts: options.split_experts,
        join_kv_b: options.join_kv_b,
        exact: options.exact,
    };
    let model = prepare::prepare(model, target, asked, &mut notes)?;
    let mut steps = Vec::new();
    for (source, tensor) in model.tensors.iter().enumerate() {
        steps.push(step(source, tensor, target, options, &mut notes)?);
    }
    if let Some(family) = family.filter(|_| target.is_keyed()) {
        as_readers_take(family, &mut steps);
    }
    let output = output(&model, target, options.output.as_deref());
    let mut plan = Plan {
        steps,
        notes,
        clamp_scales: options.clamp_scales,
        keep_nan: options.keep_nan,
        tells_nan: true,
        measure: true,
        ..Plan::new(output, target)
    };
    let given = options.stated.vocab.as_deref();
    let given = given.map(|path| given::read(path, &model.limits)).transpose()?;
    // from       to
    // GGUF       GGUF      keys are kept and brought to today's names
    // header     GGUF      keys are made of header words, tokens of records
    // either     header    words are found for what the target's header states
    match (from_gguf, target.is_keyed()) {
        (true, true) => keys::modernise(&model, &mut plan, &options.stated, given.as_ref())?,
        (false, true) => {
            keys::from_header(&model, &mut plan, &options.stated)?;
            let rule = family.and_then(|family| family.tokenizer.as_ref());
            if let Some(rule) = rule {
                let vocab = vocabulary::of_family(rule, &model, given, &mut plan.notes)?;
                vocab.to_metadata(&mut plan.metadata);
                return fitted(model, plan, options);
            }
            let rebuilt = vocabulary::to_gguf(&model.vocab, n_vocab(&model));
            set_vocab(&rebuilt, &mut plan, given);
        }
        (_, false) => {
            if let Some(family) = family {
                as_programs_take(family, &mut plan);
            }
            keys::to_header(&model, &mut plan, &options.stated, given.as_ref())?;
            if !options.retyped {
                plan.check_types()?;
            }
        }
    }
    fitted(model, plan, options)
}

/// The plan with as many tokens as there are rows, laid out.
///
/// # Errors
/// Where they differ and nobody asked to have them fitted, or a tensor that is not copied cannot be decoded.
fn fitted(model: Model, mut plan: Plan, options: &Options) -> Result<(Model, Plan)> {
    fit_vocab(&model, &mut plan, options)?;
    plan.check_sources(&model)?;
    plan.lay_out()?;
    Ok((model, plan))
}

/// How many tokens the header counts; those that are stored where it says nothing.
/// Alpaca's header says 32001, the rows of the embedding, where 32000 pieces are stored.
fn n_vocab(model: &Model) -> usize {
    model.header("n_vocab").and_then(|n| usize::try_from(n).ok()).unwrap_or(model.vocab.len())
}

/// Puts the vocabulary into the plan, and says where it comes from.
///
/// A `tokenizer.model` that is given has the scores, kinds and bytes that old files lost, and wins token by token; what
/// differs is told, for a file of another model would be seen by that.
fn set_vocab(rebuilt: &Rebuilt, plan: &mut Plan, given: Option<Vocab>) {
    plan.notes.extend(rebuilt.notes.iter().cloned());
    match given {
        Some(mut whole) => {
            plan.notes.extend(vocabulary::differences(&whole, rebuilt));
            // Tokens that were added after training are not in tokenizer.model.
            for (id, token) in rebuilt.vocab.tokens.iter().enumerate().skip(whole.len()) {
                whole.tokens.push(token);
                whole.scores.push(rebuilt.vocab.score(id));
                whole.kinds.push(crate::model::TokenKind::UserDefined);
            }
            whole.to_metadata(&mut plan.metadata);
        }
        None => {
            if rebuilt.canonical_scores && !rebuilt.vocab.is_empty() {
                plan.assumed.push(vocabulary::assumed_scores());
            }
            rebuilt.vocab.to_metadata(&mut plan.metadata);
        }
    }
}

/// As many tokens as the embedding has rows, which every reader wants: fitted where a person asks for it.
///
/// # Errors
/// Where they differ and nobody asked.
///
/// Fewer tokens get fillers behind them, which no text becomes; more lose the last. Rows are what the file has weights
/// for, and are never changed.
///
fn fit_vocab(model: &Model, plan: &mut Plan, options: &Options) -> Result<()> {
    let sizes = Sizes::of(model);
    let rows = sizes.get("n_vocab").filter(|_| !sizes.is_stated("n_vocab"));
    let Some(rows) = rows.and_then(|rows| usize::try_from(rows).ok()) else { return Ok(()) };
    let keyed = plan.target.is_keyed();
    if plan.target.container().vocab.as_ref().is_some_and(|shape| shape.file) {
        return Ok(());
    }
    let mut vocab = if keyed { Vocab::from_metadata(&plan.metadata) } else { plan.vocab.clone() };
    // The last record of some old files is not there (GPT4All); its row is.
    // Then the file is as it was, and its program reads it.
    let lacks_one = !keyed && n_vocab(model) == rows && vocab.len() + 1 == rows;
    if vocab.is_empty() || vocab.len() == rows || lacks_one {
        return Ok(());
    }
    if !options.stated.pad_vocab {
        let name = model.files.first().map(Input::name).unwrap_or_default();
        return Err(Error::refused(
            format!("{name}: {}", vocab.misfit(rows, "would be")),
            Setting::Vocabulary
                .to("give the model's own tokenizer")
                .or(Setting::PadVocabulary.to("allow it")),
        ));
    }
    plan.notes.push(vocab.misfit(rows, "are"));
    vocab.fit(rows);
    if keyed {
        vocab.to_metadata(&mut plan.metadata);
        return Ok(());
    }
    if let Some((_, word)) = plan.header.iter_mut().find(|(name, _)| name == "n_vocab") {
        *word = i64::try_from(rows).unwrap_or(i64::MAX);
    }
    plan.vocab = vocab;
    Ok(())
}

/// How one tensor reaches the target.
fn step(
    source: usize,
    tensor: &Tensor,
    target: Target,
    options: &Options,
    notes: &mut Notes,
) -> Result<Step> {
    let made = |quant: QuantType, act: Act| Step {
        source,
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        // Today's llama.cpp gives every tensor a dimension.
        scalar: false,
        quant,
        fold: if matches!(act, Act::Copy) { tensor.fold } else { 1 },
        span: tensor.span,
        act,
    };
    // The least first: the same bytes; the same type in another dialect; another type that holds its numbers; and
    // only where nothing else is asked for, floats.
    let from = tensor.quant;
    // Super-blocks that cross rows: only the builds that wrote them read them.
    let crosses = tensor.fold > 1 && target.is_keyed();
    if (target.holds(from) && !crosses) || (options.as_stored && target.copies(from)) {
        return Ok(made(from, Act::Copy));
    }
    if let Some((to, transform)) = target
        .same_name(from)
        .filter(|_| tensor.fold == 1)
        .and_then(|to| Some((to, transform(from, to)?)))
        // With `exact` scales may not be rounded, so that floats are what is left.
        .filter(|(_, t)| t.exact || !options.exact)
    {
        return Ok(made(to, Act::Transform(transform)));
    }
    let row_len = tensor.shape.last().copied().unwrap_or(1);
    let fits = |to: &QuantType| target.holds(*to) && to.row_bytes(row_len).is_some();
    // Of types that are gone, those that took their place, the exact ones among them first.
    let known = if crosses { wider() } else { successors(from) };
    let next = known
        .into_iter()
        .filter(|(to, _)| fits(to))
        .find(|(_, fit)| *fit == Fidelity::Exact || !options.exact);
    let Some((to, fit)) = next else {
        let wide = QuantType::today("f32").filter(|to| options.retyped && fits(to));
        if let Some((to, encode)) = wide.zip(encoder("f32")) {
            return Ok(made(to, Act::recode(encode, None)));
        }
        let nearest = target.nearest(from).map_or_else(|| "F16".to_owned(), |q| q.to_string());
        return Err(Error::refused(
            format!("{}: {} never held {from}", tensor.name, target.title()),
            Call::Convert
                .on("")
                .with(Setting::Target.of(target.id()))
                .with(Setting::Type.of(&nearest))
                .to(format!("take {nearest}, the nearest it holds,")),
        ));
    };
    if let Some(transform) = transform(from, to) {
        return Ok(made(to, Act::Transform(transform)));
    }
    let Some(encode) = encoder(to.name()) else {
        let what = format!("{}: nothing encodes {to}", tensor.name);
        return Err(Error::unsupported(what, Setting::Target.to("name another target")));
    };
    let loss = if fit == Fidelity::Exact { "exactly" } else { "as nearly as it can" };
    let note = format!("{from} has no place in {}: {to} holds it {loss}", target.title()).into();
    if !options.retyped && !notes.contains(&note) {
        notes.push(note);
    }
    Ok(made(to, Act::recode(encode, None)))
}

/// Matrices that readers take as float32 only.
/// Position embeddings and biases of experts, mostly: `float32` in `formats/family`.
fn as_readers_take(family: &'static Family, steps: &mut [Step]) {
    let Some((f32, encode)) = QuantType::today("f32").zip(encoder("f32")) else { return };
    for step in steps {
        let role = Role::of(family, Naming::Gguf, &step.name);
        if step.quant != f32 && role.is_some_and(|role| role.names.float32 && !role.bias) {
            step.become_type(f32, encode);
        }
    }
}

/// Matrices that readers of GGUF take as float32 only, in the type of all others where the programs of the target take
/// one type for all.
fn as_programs_take(family: &'static Family, plan: &mut Plan) {
    let container = plan.target.container();
    if !container.header.file_type.as_ref().is_some_and(|stated| stated.of_all) {
        return;
    }
    let widened = |step: &Step| {
        let role = Role::of(family, Naming::Old, &step.name);
        role.is_some_and(|role| role.names.float32 && !role.bias)
    };
    let others = plan.steps.iter().filter(|step| step.shape.len() > 1 && !widened(step));
    let Some(main) = others.max_by_key(|step| step.bytes()).map(|step| step.quant) else { return };
    let made = recipes(main).last().map(|recipe| recipe.encode).or_else(|| encoder(main.name()));
    let Some(encode) = made else { return };
    let kept = &container.tensors.kept;
    let target = plan.target.title();
    for step in plan.steps.iter_mut().filter(|step| widened(step) && !kept.has(&step.name)) {
        let fits = main.row_bytes(step.shape.last().copied().unwrap_or(1)).is_some();
        if step.quant != main && fits {
            let note = format!("{}: {} as all of {target}, which GGUF has as F32", step.name, main);
            plan.notes.push(note);
            step.become_type(main, encode);
        }
    }
}

/// What takes blocks that crossed rows: the nearest small type, then the exact one.
///
/// Builds of June 2023 ran super-blocks of 256 over rows of 3200 (open_llama 3B): block and row borders meet every
/// second row only, and readers of GGUF take rows that are whole blocks.
fn wider() -> Vec<(QuantType, Fidelity)> {
    let types = [("q8_0", Fidelity::Nearest), ("f16", Fidelity::Nearest), ("f32", Fidelity::Exact)];
    types.into_iter().filter_map(|(name, fit)| Some((QuantType::today(name)?, fit))).collect()
}

/// The output as named; by default beside the input, with its name and the target's ending.
fn output(model: &Model, target: Target, named: Option<&Path>) -> PathBuf {
    let input = model.files.first().map(|f| f.path().to_owned()).unwrap_or_default();
    let stem = stem_of_model(&input);
    let ending = if target.is_keyed() { "gguf" } else { "bin" };
    let folder = input.parent().unwrap_or(Path::new(""));
    let at = |name: String| place(named, 1, folder, &name);
    // A GGUF that is upgraded would else be its own output.
    let plain = at(format!("{stem}.{ending}"));
    match model.files.iter().any(|file| file.path() == plain) {
        true => at(format!("{stem}-upgraded.{ending}")),
        false => plain,
    }
}
