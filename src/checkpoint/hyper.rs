//! The numbers of a checkpoint: `config.json` under the names that the family gives, checked against the shapes of
//! tensors.
//!
//! ```text
//! [sizes] of formats/family/llama.toml          config.json                    GGUF
//! n_embd = { config = ["hidden_size"], ..  }    "hidden_size": 4096            llama.embedding_length
//! ```
//!
//! A field may have several names over the years, be in an object (`rope_scaling.factor`), or be absent where a shape
//! says it. A field that has a meaning here and another form than it should is an error with its name, not a default.
//!
//! Fields that no description knows are passed over.
//!
//! Compare: llama.cpp, conversion/base.py: set_gguf_parameters, conversion/llama.py.

use std::path::Path;

use serde_json::Value as Json;

use super::{assemble::Draft, json};
use crate::{
    error::{Error, Result},
    format::arithmetic::Windows,
    format::family::{Family, Kind, LongFactors, Names, Size},
    model::{
        Hyper, Naming, Role, Scaling, Sizes, Value,
        scaling::{YARN, YARN_LOG},
        sizes::Facts,
    },
};

/// What a `config.json` and the tensors beside it say.
struct OfConfig<'a> {
    /// Whose `[sizes]` say what fields are called.
    family: &'static Family,
    /// The whole of `config.json`.
    config: &'a Json,
    /// What it says about rotary positions.
    rope: Option<&'a Json>,
    /// The shape of the tensor of a name, where there is one.
    shape: &'a dyn Fn(&str) -> Option<Vec<u64>>,
}

impl OfConfig<'_> {
    /// A field under the first of its names that is there.
    fn field<'n>(&self, size: &'n Size) -> Option<(&'n str, &Json)> {
        size.config.iter().find_map(|name| {
            let field = self.rope.and_then(|rope| inside(rope, name));
            Some((name.as_str(), field.or_else(|| inside(self.config, name))?))
        })
    }

    /// A field as what it is meant to be.
    fn value(size: &Size, field: &Json) -> Option<Value> {
        match size.kind {
            Kind::Whole => {
                let word = field.as_str().and_then(|word| size.words.get(word).copied());
                // A word where a number is meant, or a number; 0 means "none" only where the description allows it.
                let number = word.or(field.as_u64()).and_then(|v| u32::try_from(v).ok());
                number.filter(|v| *v > 0 || size.zero).map(|v| Value::U64(v.into()))
            }
            Kind::Float => json::float(field).map(Value::F32),
            Kind::Flag => field.as_bool().map(Value::Bool),
        }
    }
}

/// A field that is there; dots in its name lead into objects.
///
/// `rope_scaling.factor` is the field `factor` of the object `rope_scaling`.
fn inside<'j>(json: &'j Json, name: &str) -> Option<&'j Json> {
    let found = name.split('.').try_fold(json, |json, part| json.get(part));
    found.filter(|field| !field.is_null())
}

impl Facts for OfConfig<'_> {
    // A field of another form than it should have counts as none here; [`check`] has refused it before.
    fn stated(&self, _: &str, size: &Size) -> Option<Value> {
        // A field that a flag beside it switches off is 0: MPT's strength of ALiBi where `attn_config.alibi` is false.
        let used = size.only_if.as_ref().and_then(|flag| inside(self.config, flag));
        match used {
            Some(Json::Bool(false)) => Some(Value::F32(0.0)),
            _ => OfConfig::value(size, self.field(size)?.1),
        }
    }

    fn shape(&self, names: &'static Names) -> Option<Vec<u64>> {
        (self.shape)(&Role::first(names).name(Naming::Hf)?)
    }

    // These two are of files with records and header words, which a checkpoint has not.
    fn layers(&self) -> Option<u64> {
        None
    }

    fn word(&self, _: &str) -> Option<u64> {
        None
    }
}

/// The numbers of a model of `family` that `config` states; `shape` is that of the tensor of a name.
///
/// # Errors
/// Where a field is missing, is something else than a number or fits no other.
pub fn of_config(
    draft: &mut Draft,
    family: &'static Family,
    config: &Json,
    shape: &dyn Fn(&str) -> Option<Vec<u64>>,
) -> Result<Hyper> {
    let path = draft.folder.join("config.json");
    let stated = |key: &str| config.get(key).filter(|v| !v.is_null());
    let rope = ["rope_parameters", "rope_scaling"].into_iter().find_map(stated);
    //     {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    //
    // Where layers differ, those that see everything are spoken of first.
    let rope = rope.map(|rope| rope.get("full_attention").unwrap_or(rope));
    let facts = OfConfig { family, config, rope, shape };
    check(&path, &facts)?;
    let sizes = Sizes::from(family, &facts);
    carried(&path, family, config, &sizes)?;
    // Where no field states a head's length it is width / heads, which must be whole.
    if let (Some(width), Some(heads)) = (sizes.get("n_embd"), sizes.get("n_head"))
        && !sizes.is_stated("head")
        && !family.arithmetic.as_ref().is_some_and(|a| a.attention.latent)
        && !width.is_multiple_of(heads)
    {
        let found = format!("{heads} for a width of {width}");
        return Err(json::malformed(&path, "num_attention_heads", &found, "a divisor of it"));
    }
    let said = stated("vocab_size").and_then(Json::as_u64);
    if let Some((said, rows)) = said.zip(sizes.get("n_vocab")).filter(|(said, rows)| said != rows) {
        draft.notes.push(format!(
            "config.json says {said} tokens, the embedding has {rows} rows: the rows count"
        ));
    }
    let scaling = rope.map_or(Ok(Scaling::None), |rope| scaling(draft, family, config, rope))?;
    // A factor for each pair of numbers that turn together.
    if let Scaling::Long { long, .. } = &scaling {
        let pairs = sizes.get("n_rot").map(|turning| turning / 2);
        if pairs != Some(long.len() as u64) {
            let (found, wanted) = (long.len().to_string(), format!("{pairs:?}"));
            return Err(json::malformed(&path, "rope_scaling.long_factor", &found, &wanted));
        }
    }
    Ok(Hyper::new(family, sizes, scaling))
}

/// Whether every field is what it is meant to be, and none is missing that no model does without.
///
/// # Errors
/// The field by its first name, what is there and what is wanted.
fn check(path: &Path, facts: &OfConfig) -> Result<()> {
    for size in facts.family.sizes.values() {
        let wanted = match size.kind {
            Kind::Whole => "a whole number above 0",
            Kind::Float => "a number",
            Kind::Flag => "true or false",
        };
        match (facts.field(size), size.config.first()) {
            (Some((name, field)), _) if OfConfig::value(size, field).is_none() => {
                return Err(json::malformed(path, name, &field.to_string(), wanted));
            }
            (None, Some(name)) if size.needed.is_some() => {
                return Err(json::malformed(path, name, "nothing", wanted));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether settings that no key of GGUF holds are what every model of the family has.
///
/// A GGUF says which family a model is of, and its readers have the rest in their code: which activation, which layers
/// see a window, by what scores are divided. A checkpoint that says otherwise would be read, and would talk nonsense.
///
/// # Errors
/// The first setting that differs, with what readers take instead.
fn carried(path: &Path, family: &Family, config: &Json, sizes: &Sizes) -> Result<()> {
    let title = &family.family.title;
    // What is not in config.json is as the family's class has it, so it is what is wanted.
    for (name, wanted) in &family.family.fixed {
        let Some(found) = inside(config, name) else { continue };
        let wanted = serde_json::to_value(wanted).unwrap_or_default();
        // 1 and 1.0 are one number in JSON, and two to its parser.
        let same = found == &wanted
            || found.as_f64().is_some_and(|v| wanted.as_f64() == Some(v))
            // Python takes any number but 0 for true.
            || wanted == true && found.as_f64().is_some_and(|v| v != 0.0);
        if !same {
            return Err(untold(path, title, name, found, &format!("only {wanted} is carried")));
        }
    }
    let Some(choices) = &family.arithmetic else { return Ok(()) };
    let even = choices.attention.even_unless_experts.zip(sizes.get("n_expert"));
    let even = even.map(|(without, experts)| Json::Bool(experts != without));
    if let (Some(wanted), Some(found)) = (even, inside(config, "use_qk_norm"))
        && *found != wanted
    {
        let next = format!("of as many experts only {wanted} is carried");
        return Err(untold(path, title, "use_qk_norm", found, &next));
    }
    if let (Some(divisor), Some(found)) =
        (sizes.score_divisor(&choices.attention), inside(config, "query_pre_attn_scalar"))
        && found.as_f64() != Some(divisor as f64)
    {
        let next = format!("readers of GGUF take {divisor}");
        return Err(untold(path, title, "query_pre_attn_scalar", found, &next));
    }
    let windows = Some(choices.windows).filter(|pattern| {
        let always = matches!(pattern, Windows::Chunks { .. });
        always || *pattern != Windows::None && sizes.get("window").is_some()
    });
    // Layers that see a window or a chunk, as transformers calls them.
    let near = |kind: &Json| {
        kind.as_str().is_some_and(|kind| ["sliding_attention", "chunked_attention"].contains(&kind))
    };
    // 1 and true: positions are turned; the field's name says the contrary.
    let turns = |flag: &Json| flag.as_u64() != Some(0) && flag.as_bool() != Some(false);
    let layers = |name: &str| inside(config, name).and_then(Json::as_array).into_iter().flatten();
    let kinds = windows.into_iter().flat_map(|windows| {
        let odd = move |(n, kind): &(usize, &Json)| windows.covers(*n) != near(kind);
        layers("layer_types")
            .enumerate()
            .find(odd)
            .map(|(n, kind)| (format!("layer_types[{n}]"), kind))
    });
    let turned = (choices.unturned > 0).then(|| {
        let odd =
            |(n, flag): &(usize, &Json)| (n + 1).is_multiple_of(choices.unturned) == turns(flag);
        layers("no_rope_layers").enumerate().find(odd)
    });
    let turned = turned.flatten().map(|(n, flag)| (format!("no_rope_layers[{n}]"), flag));
    match kinds.chain(turned).next() {
        Some((name, found)) => {
            let next = format!("readers of GGUF take {title}'s own order of layers");
            Err(untold(path, title, &name, found, &next))
        }
        None => Ok(()),
    }
}

/// The refusal of a setting that a GGUF has no place for.
fn untold(path: &Path, title: &str, name: &str, found: &Json, next: &str) -> Error {
    let what = format!("{}: {name} is {found}; a GGUF of {title} cannot say so", path.display());
    Error::unsupported(what, next.to_owned())
}

/// The factors of positions within texts of training and beyond.
///
/// ```text
/// scale     = max_position_embeddings / original_max_position_embeddings
/// attention = sqrt(1 + ln(scale) / ln(original)), 1 where the scale is no more than 1
/// ```
///
/// A checkpoint that states another factor of attention is refused: readers compute this one.
fn long_factors(
    path: &Path,
    config: &Json,
    rope: &Json,
    original: Option<f64>,
    said: LongFactors,
) -> Result<Scaling> {
    let list = |name: &str| -> Result<Vec<f32>> {
        let found = rope.get(name).and_then(Json::as_array);
        let numbers = found.map(|all| all.iter().filter_map(json::float).collect::<Vec<f32>>());
        let positive = |all: &Vec<f32>| !all.is_empty() && all.iter().all(|factor| *factor > 0.0);
        let whole =
            numbers.filter(|all| positive(all) && found.is_some_and(|f| f.len() == all.len()));
        let wanted = "a list of numbers above 0";
        whole.ok_or_else(|| {
            json::malformed(path, &format!("rope_scaling.{name}"), "something else", wanted)
        })
    };
    let (long, short) = (list("long_factor")?, list("short_factor")?);
    let reach = inside(config, "max_position_embeddings").and_then(Json::as_f64);
    let (Some(reach), Some(trained)) = (reach, original.filter(|trained| *trained > 1.0)) else {
        let field = "original_max_position_embeddings";
        return Err(json::malformed(path, field, "nothing", "a context length"));
    };
    if long.len() != short.len() {
        let found = format!("{} numbers beside {}", long.len(), short.len());
        return Err(json::malformed(path, "rope_scaling.long_factor", &found, "as many"));
    }
    let scale = reach / trained;
    let attention = if scale > 1.0 { (1.0 + scale.ln() / trained.ln()).sqrt() } else { 1.0 };
    let stated = rope.get("attention_factor").and_then(Json::as_f64);
    let own = ["short_mscale", "long_mscale"].iter().any(|name| inside(rope, name).is_some());
    if own || stated.is_some_and(|stated| (stated - attention).abs() > 1e-6) {
        let what =
            format!("{}: rope_scaling states factors of attention of its own", path.display());
        return Err(Error::unsupported(what, "only the one that its lengths give is carried"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounded, as the converter does")]
    let attention = attention as f32;
    Ok(Scaling::Long { long, short, attention, said })
}

/// How `rope`, which is in `config`, says that rotary frequencies are stretched.
///
/// ```text
/// linear     factor                                     positions / factor
/// llama3     factor, low_freq_factor, high_freq_factor  low frequencies / factor, high ones as they are
/// yarn       factor, original_max_position_embeddings   the same by a ramp, and scores made larger
/// longrope   long_factor[], short_factor[]              a divisor for each pair
/// ```
///
/// # Errors
/// Where a factor is missing without which readers compute something else, or the family has no place for the kind.
fn scaling(draft: &mut Draft, family: &Family, config: &Json, rope: &Json) -> Result<Scaling> {
    let float = |key: &str| rope.get(key).and_then(Json::as_f64);
    let single = |key: &str| rope.get(key).and_then(json::float);
    let kind = ["rope_type", "type"].into_iter().find_map(|k| rope.get(k)?.as_str());
    // In the object, as LLaMA 3.1 has it, or beside it, as Phi-3.
    let original = float("original_max_position_embeddings")
        .or_else(|| config.get("original_max_position_embeddings")?.as_f64());
    Ok(match (kind, single("factor")) {
        (None | Some("default"), _) => Scaling::None,
        (Some("linear"), Some(factor)) => Scaling::Linear(factor),
        (Some("yarn"), Some(factor)) => {
            let Some(original) = original.filter(|n| *n >= 1.0 && *n <= f64::from(u32::MAX)) else {
                let path = draft.folder.join("config.json");
                let field = "rope_scaling.original_max_position_embeddings";
                return Err(json::malformed(&path, field, "nothing", "a context length"));
            };
            let more = YARN.into_iter().filter_map(|(gguf, key)| Some((gguf, single(key)?)));
            let latent = family.arithmetic.as_ref().is_some_and(|a| a.attention.latent);
            let all = float("mscale_all_dim").filter(|_| latent);
            if let (Some(all), one) = (all, float("mscale"))
                && one.unwrap_or(0.0) != all
            {
                let path = draft.folder.join("config.json");
                let what = format!(
                    "{}: rope_scaling: mscale {} beside mscale_all_dim {all}; a GGUF says one for both",
                    path.display(),
                    one.unwrap_or(0.0)
                );
                return Err(Error::unsupported(what, "only equal ones are carried"));
            }
            #[expect(clippy::cast_possible_truncation, reason = "rounded, as the converter does")]
            let all = all.map(|all| (YARN_LOG, (0.1 * all) as f32));
            let more = more.chain(all);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked above; a fraction of a token is none"
            )]
            Scaling::Yarn { factor, original: Some(original as u32), more: more.collect() }
        }
        (Some("llama3"), _) => Scaling::Llama3 {
            factor: float("factor").unwrap_or(8.0),
            low: float("low_freq_factor").unwrap_or(1.0),
            high: float("high_freq_factor").unwrap_or(4.0),
            original: original.unwrap_or(8192.0),
        },
        (Some(long @ ("longrope" | "su")), _) => {
            let path = draft.folder.join("config.json");
            // Its factors are a part of the model, for which some families have no place.
            let Some(said) = family.family.long_factors else {
                let what = format!("{}: rope_scaling of type {long:?}: not yet", path.display());
                let next =
                    "use llama.cpp's convert_hf_to_gguf.py, or the model with the shorter context";
                return Err(Error::unsupported(what, next));
            };
            long_factors(&path, config, rope, original, said)?
        }
        (Some(other), _) => {
            draft.notes.push(format!(
                "rope scaling {other:?} is computed by readers or not at all: nothing is stored for it"
            ));
            Scaling::None
        }
    })
}
