//! Plans conversions: any model or checkpoint into a container and types of choice, every type from
//! one reading of the source.
//!
//! The upgrade of the model ([`super::upgrade`]) is planned first. Then floats and Q8_0 go to every
//! matrix alike, as llama.cpp's `convert_hf_to_gguf.py` writes them, and other types by the mixtures
//! of llama-quantize ([`super::quantize`]). Vectors are f32 in all of them: no reader takes anything
//! else.
//!
//! | asked for | every matrix | why |
//! |---|---|---|
//! | `auto` | the type that is stored, sums that of what they are added to | a lossless file |
//! | `f32`, `f16`, `bf16`, `q8_0` | that type | as converters write them, without a mixture |
//! | `q4_k_m` and so on | by role, layer and importance | as llama-quantize would make it of the F16 file |

use std::path::{Path, PathBuf};

use super::{
    Plan, Step, Target,
    choose::{
        ftype::FileType,
        image,
        mix::{Rules, Shape, TypeName, Weight},
    },
    output::{ggml_model, is_meta_folder, place},
    quantize, upgrade,
};
use crate::{
    bytes::Input,
    checkpoint::card,
    container::imatrix::Importance,
    error::{Error, Result},
    format::{catalog, container::Skeleton},
    model::{Model, Naming, Role},
    quant::{
        QuantType,
        encode::{EncodeRows, encoder, needs_importance},
    },
    remedy::{Remedy, Setting},
    size::counted,
};

/// What the person asked for.
///
/// ```
/// use regguf::change::convert::Options;
/// // Two files from one reading of the source: every matrix in f16, and the mixture Q4_K_M.
/// let options = Options { types: vec!["f16".into(), "q4_k_m".into()], ..Options::default() };
/// assert!(!options.allow_requantize);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names of types, one output for each: `auto` keeps the stored ones, the others are those of
    /// llama-quantize.
    pub types: Vec<String>,
    /// What the upgrade is told.
    pub upgrade: upgrade::Options,
    /// Where to write: a file, or a folder for names by GGUF's convention.
    pub output: Option<PathBuf>,
    /// Where to write by default.
    pub folder: PathBuf,
    /// Tensors that are quantized already may be quantized again.
    pub allow_requantize: bool,
    /// How much each column matters, for mixtures.
    pub importance: Importance,
    /// See [`quantize::Options::fallback_type`].
    pub fallback_type: Option<TypeName>,
}

/// Plans one file for each type. Returns the model as the plans refer to it, and the plans.
///
/// # Errors
/// Where a type or container does not exist or cannot hold the model.
pub fn plan(model: Model, options: &Options) -> Result<(Model, Vec<Plan>)> {
    check_vocab(&model, &options.upgrade)?;
    let source = model.clone();
    // As convert.py named it; so chain the commands that were written down in 2023.
    let as_in_2023 = model.format.starts_with("pth") && is_meta_folder(&options.folder);
    let place = Some(options.folder.join("model"));
    let retyped = !options.types.iter().any(|word| word.eq_ignore_ascii_case("auto"));
    let upgrade = upgrade::Options { output: place, retyped, ..options.upgrade.clone() };
    let (model, mut base) = upgrade::plan(model, &upgrade)?;
    // Outputs of one type start from this planned upgrade; a mixture starts from the source, for `quantize` upgrades
    // it by itself.
    base.tells_nan = false;
    let mut plans = Vec::new();
    for word in &options.types {
        // auto       every tensor as it is
        // uniform    f32, f16, bf16, q8_0: the same for all matrices, as converters do
        // else       a mixture by the rules of llama-quantize
        let mut plan = if word.eq_ignore_ascii_case("auto") {
            as_stored(&model, &base)
        } else {
            let file_type = FileType::parse(word)?;
            match uniform(file_type, &base) {
                Some((to, encode)) => alike(&model, &base, file_type, to, encode, options)?,
                None => mixture(source.clone(), file_type, options)?,
            }
        };
        vectors_to_f32(&model, &mut plan);
        let encoding = match word.eq_ignore_ascii_case("auto") {
            false => word.to_uppercase(),
            true => encoding(&plan).to_owned(),
        };
        plan.output = output(&plan, &encoding, options, as_in_2023);
        plan.check_sources(&model)?;
        plan.lay_out()?;
        plans.push(plan);
    }
    let mut outputs: Vec<&PathBuf> = plans.iter().map(|p| &p.output).collect();
    outputs.sort_unstable();
    outputs.dedup();
    if outputs.len() < plans.len() {
        return Err(Error::usage("each type once, please"));
    }
    Ok((model, plans))
}

/// Refuses raw weights without a vocabulary, where the target has a place for one.
///
/// llama.cpp loads no model without one. A `.pth` file has weights alone, and the tokenizer is often left behind when
/// it is copied; it is better told before hours of reading than by the first program that loads the file.
fn check_vocab(model: &Model, options: &upgrade::Options) -> Result<()> {
    let is_raw = catalog::container(&model.format)
        .is_none_or(|container| container.format.skeleton == Skeleton::Checkpoint);
    let bare = is_raw && model.vocab.is_empty() && options.stated.vocab.is_none();
    if !bare || !Target::of(options.to.as_deref(), model)?.holds_vocab() {
        return Ok(());
    }
    let name = model.files.first().map(Input::name).unwrap_or_default();
    Err(Error::refused(
        format!("{name}: no tokenizer.model or tokenizer.json beside it"),
        Remedy::from("put the model's tokenizer beside its weights")
            .or(Setting::Vocabulary.to("name it")),
    ))
}

/// What a plan's file type is called in file names; empty where it states none.
pub fn encoding(plan: &Plan) -> &'static str {
    let word = || plan.header.iter().find(|(name, _)| name == "ftype").map(|(_, n)| *n);
    let word = || word().and_then(|n| u64::try_from(n).ok());
    let number = plan.metadata.u64("general.file_type").or_else(word);
    let known = FileType::all().find(|f| Some(u64::from(f.number)) == number && !f.copy);
    known.map_or("", |known| known.rule_name())
}

/// Whether blocks that a checkpoint holds stay such where these types are asked for, in the format `to`.
///
/// NVFP4 of a checkpoint, for one, is GGUF's blocks in another order of bytes: where floats are asked for it goes
/// over as it is, where a quantized type is, it is decoded first.
pub fn keeps_blocks(types: &[String], to: Option<&str>) -> bool {
    let floats = |word: &String| {
        ["auto", "f32", "f16", "bf16"].iter().any(|known| word.eq_ignore_ascii_case(known))
    };
    to.is_none_or(|to| to.starts_with("gguf")) && types.iter().all(floats)
}

/// The type that every matrix gets alike, with its encoder; none for mixtures.
fn uniform(file_type: FileType, base: &Plan) -> Option<(QuantType, EncodeRows)> {
    let floats = ["f32", "f16", "bf16"];
    let alike =
        floats.contains(&file_type.base) || file_type.base == "q8_0" && base.target.is_keyed();
    let to = QuantType::today(file_type.base)
        .filter(|to| alike && !file_type.copy && base.target.holds(*to));
    to.zip(encoder(file_type.base))
}

/// Everything in the type in which it is stored, sums in that of what they are added to, as far as it is written.
fn as_stored(model: &Model, base: &Plan) -> Plan {
    let mut plan = base.clone();
    for step in &mut plan.steps {
        let Some(sum) = model.tensors.get(step.source).filter(|t| t.sum.is_some()) else {
            continue;
        };
        let name = sum.stored().name();
        let whole = |to: &QuantType| step.shape.last().is_some_and(|n| to.row_bytes(*n).is_some());
        let writes = |to: &QuantType| plan.target.holds(*to) && whole(to);
        // A sum is float32; it goes back into the type of what it was added to, where that can be made.
        let own = QuantType::today(name).filter(|to| writes(to) && !needs_importance(name));
        let to = own.zip(encoder(name)).or(QuantType::today("f16").zip(encoder("f16")));
        if let Some((to, encode)) = to.filter(|(to, _)| *to != sum.quant) {
            step.become_type(to, encode);
        }
    }
    plan
}

/// Every matrix in one type.
fn alike(
    model: &Model,
    base: &Plan,
    file_type: FileType,
    to: QuantType,
    encode: EncodeRows,
    options: &Options,
) -> Result<Plan> {
    let mut plan = base.clone();
    let f16 = QuantType::today("f16").zip(encoder("f16"));
    let mut odd = 0;
    let mut left: Option<(usize, QuantType)> = None;
    let checkpoint = catalog::container(&model.format)
        .is_some_and(|container| container.format.skeleton == Skeleton::Checkpoint);
    let target = plan.target;
    // The program that reads image models has its own rules for what is quantized; converters quantize all.
    let (shape, rules) = (Shape::of(&plan.metadata), Rules::of(file_type));
    let images = to.layout().elements > 1 && catalog::mixture(&shape.architecture).is_some();
    let kept = |step: &Step| {
        let (name, quant) = (step.name.as_str(), step.quant.name());
        let weight = Weight { name, shape: &step.shape, present: quant };
        images && !image::may_quantize(&shape, &weight, &rules)
    };
    for step in plan.steps.iter_mut().filter(|s| !is_vector(model, target, s) && !kept(s)) {
        let Some(source) = model.tensors.get(step.source) else { continue };
        // Rows that are no whole blocks stay floats.
        let fits = step.shape.last().is_some_and(|n| to.row_bytes(*n).is_some());
        let (to, encode) = match f16 {
            Some(f16) if !fits => {
                odd += 1;
                f16
            }
            _ => (to, encode),
        };
        if source.quant == to && step.quant == to {
            continue;
        }
        // What a checkpoint holds in blocks of GGUF's stays so, as in the converter.
        if checkpoint && source.quant.layout().elements > 1 && to.layout().elements == 1 {
            left.get_or_insert((0, source.quant)).0 += 1;
            continue;
        }
        let again = source.quant.layout().elements > 1 && to.layout().elements > 1;
        if again && !options.allow_requantize {
            let what = format!("{}: is quantized already ({})", source.name, source.quant);
            return Err(Error::refused(what, super::obstacles::again("use the original weights")));
        }
        step.become_type(to, encode);
    }
    if odd > 0 {
        plan.notes.push(format!(
            "{} f16: rows that are no whole blocks of {to}",
            counted(odd, "tensor stays", "tensors stay")
        ));
    }
    match left {
        Some((count, quant)) => {
            let made = "as llama.cpp's converter leaves them; converting the GGUF decodes them";
            plan.notes.push(format!(
                "{count} tensors stay {quant}, as the checkpoint has them and {made}"
            ));
            plan.state_type(quant.name(), FileType::usual(quant.name()));
        }
        None => plan.state_type(file_type.base, file_type.number),
    }
    Ok(plan)
}

/// Types by the rules of llama-quantize.
fn mixture(model: Model, file_type: FileType, options: &Options) -> Result<Plan> {
    let wanted = quantize::Options {
        types: vec![file_type],
        to: options.upgrade.to.clone(),
        stated: options.upgrade.stated.clone(),
        allow_requantize: options.allow_requantize,
        keep_nan: options.upgrade.keep_nan,
        importance: options.importance.clone(),
        fallback_type: options.fallback_type,
        ..quantize::Options::default()
    };
    let (_, plans) = quantize::plan(model, &wanted)?;
    let none = || Error::unsupported(format!("no plan for {}", file_type.name), "");
    plans.into_iter().next().ok_or_else(none)
}

/// Norms and other vectors, whatever their shape says, the routers of experts, which take little room and decide
/// much, and what readers of GGUF take no other way.
/// The router of a mixture of experts is a matrix [experts, n_embd]: a small error there sends tokens elsewhere.
fn is_vector(model: &Model, target: Target, step: &Step) -> bool {
    let family = catalog::family(&model.family).filter(|_| target.is_keyed());
    let role = family.and_then(|family| Role::of(family, Naming::Gguf, &step.name));
    if role.is_some_and(|role| role.names.float32) {
        return true;
    }
    let never = &target.container().tensors.kept.f32;
    if never.iter().any(|end| step.name.ends_with(end.as_str())) {
        return true;
    }
    let small = ["_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "_exps.bias"];
    step.shape.len() < 2 || small.iter().any(|end| step.name.ends_with(end))
}

/// Gives vectors, and what counts as such, float32, from whatever they are stored in.
fn vectors_to_f32(model: &Model, plan: &mut Plan) {
    let Some((f32, encode)) = QuantType::today("f32").zip(encoder("f32")) else { return };
    let target = plan.target;
    for step in plan.steps.iter_mut().filter(|s| is_vector(model, target, s)) {
        if model.tensors.get(step.source).is_some_and(|t| t.quant != f32) {
            step.become_type(f32, encode);
        }
    }
}

/// The output as named, or by GGUF's naming convention in the folder.
///
/// ```text
/// models/7B/ (Meta's)     models/7B/ggml-model-f16.gguf     convert.py's name with today's ending
/// a checkpoint            Llama-2-7B-F16.gguf               name, size and type by GGUF's convention
/// into ggjt and others    ggml-model-f16.bin
/// ```
fn output(plan: &Plan, encoding: &str, options: &Options, as_in_2023: bool) -> PathBuf {
    let name = match plan.target.is_keyed() {
        true if as_in_2023 => format!("{}.gguf", ggml_model(encoding)),
        true => format!("{}.gguf", card::file_name(&plan.metadata, encoding)),
        // Older files state no name; their programs called them so.
        false => format!("{}.bin", ggml_model(encoding)),
    };
    place(options.output.as_deref(), options.types.len(), &options.folder, &name)
}

/// Where the outputs of `input` go by default: into it, if it is a folder, else beside it.
pub fn folder_of(input: &Path) -> PathBuf {
    match input.parent() {
        _ if input.is_dir() => input.to_owned(),
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
